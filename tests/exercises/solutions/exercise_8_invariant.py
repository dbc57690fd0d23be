"""Solution 8: candidates that do not see each other, at shared position ids, scored in one pass.

The third way in which the display gets in is the letter: the line of slot 0 ends in " A", that of slot 1 in " B". All
lines get the same one here. (Reading the score one token earlier, at "->", would keep the letter out as well; but the
last token of the line is asked for.)
"""
import torch

from alro import AlroError, Batch, rating_loss, token_logits, unwrapped
from plumbing.machine import autocast

GIVEN = {"line_starts", "candidate_lines"}  # written for you: where the lines are is not the exercise


def line_starts(tokenizer) -> torch.Tensor:
    """(V,) bool: the tokens whose text holds a line break; with one of these a line of the prompt begins."""
    return torch.tensor(["\n" in tokenizer.decode([token]) for token in range(len(tokenizer))])


def candidate_lines(batch: Batch, starts_line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(first token, one past the last token) of each candidate's line, (B, m) long each, by slot.

    The prompt's last line is "Ranking:", the m before it are the candidates; no title holds a line break.
    """
    m, t = batch.slots.shape[-1], torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)  # (T,)
    breaks = starts_line.to(t.device)[batch.input_ids] & (t < batch.prompt_tokens.unsqueeze(-1))  # (B, T)
    last = torch.where(breaks, t, -1).topk(m + 1).values.flip(-1)  # (B, m + 1) ascending
    return last[:, :-1], last[:, 1:]


def visible(part: torch.Tensor) -> torch.Tensor:
    t = torch.arange(part.shape[-1], device=part.device)  # (T,)
    key, query = part.unsqueeze(-2), part.unsqueeze(-1)  # (B, 1, T), (B, T, 1)
    itself = t == t.unsqueeze(-1)  # (T, T)
    seen = ((key == 0) & (query >= 0)) | ((key == query) & (key > 0)) | itself  # (B, T, T)
    return (seen & (t <= t.unsqueeze(-1))).unsqueeze(1)


def candidate_scores(model, batch: Batch, starts_line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    model = unwrapped(model)
    t = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)  # (T,)
    start, end = candidate_lines(batch, starts_line)  # (B, m) each, by slot

    # Which part a token belongs to: as many lines of candidates have begun as stand at or before it.
    part = (start.unsqueeze(-1) <= t).sum(1)  # (B, T) 0..m
    start_of_line = start.gather(1, (part - 1).clamp(min=0))  # (B, T)
    place = torch.where(part > 0, start[:, :1] + t - start_of_line, t)  # (B, T) every line begins at the same place
    part = torch.where(t < end[:, -1:], part, -1)

    # One letter for all: the line's own would tell its slot.
    letter = batch.identifiers[:1]  # (1,)
    tokens = batch.input_ids.scatter(1, end - 1, letter.expand_as(end))  # (B, T)
    hidden = model.base_model(input_ids=tokens, attention_mask=visible(part), position_ids=place,
                              use_cache=False).last_hidden_state  # (B, T, d)

    last = (end - 1).gather(1, batch.slots.argsort(-1))  # (B, m) by candidate
    at_last = hidden.gather(1, last.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))  # (B, m, d)
    scores = token_logits(model, at_last.flatten(0, 1), letter).view_as(last)  # (B, m)
    before = (batch.history_at - 1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])  # (B, H, d)
    return scores, model.get_output_embeddings()(hidden.gather(1, before)).float()


def list_loss(scores: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    in_order = scores.gather(-1, order)  # (B, m) best first
    left = in_order.flip(-1).logcumsumexp(-1).flip(-1)  # (B, m) over what is left when k is drawn
    return (left - in_order).mean(-1)


def invariant_losses(starts_line: torch.Tensor):
    def losses(model, batch, cfg) -> dict[str, torch.Tensor]:
        if cfg.beta > 0:
            raise AlroError("--beta must be 0: the model cannot see the displayed order, so there is no second one")
        with autocast(batch.input_ids.device, cfg.bf16):
            scores, history_logits = candidate_scores(model, batch, starts_line)
        terms = {"sft": list_loss(scores, batch.order)}
        terms["total"] = terms["sft"]
        if cfg.history_weight > 0:
            terms["history"] = rating_loss(history_logits, batch.history_rated)
            terms["total"] = terms["sft"] + cfg.history_weight * terms["history"]
        return terms
    return losses


def invariant_ranker(model, encoder, starts_line: torch.Tensor):
    @torch.no_grad()
    def rank(lists, slots):
        device, rankings = next(model.parameters()).device, []
        for first in range(0, len(lists), 64):
            batch = encoder.encode(lists[first:first + 64], slots[first:first + 64])
            scores, _ = candidate_scores(model.eval(), batch.to(device), starts_line)
            rankings.append(scores.cpu().argsort(dim=-1, descending=True, stable=True))
        return torch.cat(rankings)
    return rank
