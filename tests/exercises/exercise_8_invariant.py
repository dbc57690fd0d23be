"""Exercise 8 (advanced): invariance by construction. 90 minutes.

Permutation-sensitive learning *teaches* a model not to care in which order the candidates are displayed; how well it
has learned is then measured. The idea of InvariRank (Bito, Ren, He, SIGIR 2026) is to build a model that *cannot*
care. (This is written from the idea alone, not from their code.) In one pass over the prompt,

    token         A user rated ... Rank these movies ... | Arrow Western -> A | Ember Musical -> B | Oath Western -> C
    position id   0 1 2 ...                        p - 1 | p p+1 p+2 p+3      | p p+1 p+2 p+3      | p p+1 p+2 p+3
    may look at   itself, causally                       | shared, and itself | shared, and itself | shared, and itself

each candidate reads the history and itself, never another candidate, and stands at the same place as all others. A
score is read at the last token of its line; sorting by it is the ranking. No letter is written, and nothing follows
the list.

What to learn: the three ways in which a display gets into a Transformer (who is seen, position ids, and one that you
find when a check of the scores stays red); that an architecture can give for certain what a loss gives on average; and
what it costs: candidates that cannot see each other cannot be compared, and the model's habit of writing is of no use.

Begin: python tests/exercises/start.py 8       Check: pytest tests/exercises --exercise 8
Then try it: python tests/exercises/train_invariant.py --steps 300 [--mine]. Expect an agreement of exactly 1 whatever
the NDCG is, trained or not. Is it as good as ALRO after as many steps? And after as many seconds?
"""
import torch

from alro import Batch

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
    """The mask: which token may look at which.

    Args: part (B, T) long: 0 = shared (the instruction and the history), 1..m = a candidate's line, -1 = not to be
        read.
    Returns: (B, 1, T, T) bool, [b, 0, q, k] True where token q may look at token k: k does not come after q, and is
        shared or of q's own part. A token of part -1 sees itself, so that no row of the softmax is empty, and nobody
        else sees it.
    """
    raise NotImplementedError


def candidate_scores(model, batch: Batch, starts_line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One score per candidate, from one pass that cannot know the displayed order.

    Args: model: a causal language model; `model.base_model(input_ids=, attention_mask=, position_ids=,
        use_cache=False).last_hidden_state` is (B, T, d), and takes a boolean (B, 1, T, T) mask, True = may look;
        batch: B lists; what follows the candidates' lines (an answer, pads) must not be read; starts_line:
        `line_starts`.
    Returns: scores (B, m) float32, by CANDIDATE, large = ranked high: the logit of batch.identifiers[0] at the last
        token of the candidate's line, where it has read the whole title; logits (B, H, V) float32 of the history's
        ratings, as the second value of alro.target_logits (a token is predicted one place before it stands).
    Hints: alro.token_logits gives single logits of hidden states (B, d). Slots become candidates at the very end:
        batch.slots.argsort(-1) is candidate -> slot.
    """
    raise NotImplementedError


def list_loss(scores: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """-log P(order) of Plackett and Luce, divided by m: nats per identifier, like SFT.

    P draws the order's candidates one by one, each in proportion to exp(score) among those that are left:
        L = -1/m sum_k log( exp(score of the candidate at position k) / sum over l >= k of exp(their scores) ).
    Args: scores (B, m), large = ranked high; order (B, m) long, best first. Returns: (B,). Of equal scores: log(m!)/m.
    """
    raise NotImplementedError


def invariant_losses(starts_line: torch.Tensor):
    """A function that train.train takes as `losses`.

    Returns: function (model, batch, cfg) -> {"sft": `list_loss` of the batch's own `order`, "history" (where
        cfg.history_weight > 0): alro.rating_loss, "total": "sft" + cfg.history_weight times "history"},
        all (B,). "sft" is a name that the progress bar wants; it is the same thing, the answer's
        negative log-likelihood. There is no second displayed order to look at: with cfg.beta > 0 raise alro.AlroError.
    """
    raise NotImplementedError


def invariant_ranker(model, encoder, starts_line: torch.Tensor):
    """A ranker as evaluate.py calls it: function (lists, slots) -> (N, m) long, candidates best first.

    No gradient is kept. Ties go to the lower candidate index. Hint: encoder.encode(lists, slots) has prompts only; 64
    lists at a time will do.
    """
    raise NotImplementedError
