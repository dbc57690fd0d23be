"""Checks of exercise 8: what cannot depend on the display does not, and a few steps of training run."""
import dataclasses
import math

import pytest
import torch
from classroom import (
    LISTS, TOKENIZER, check, check_close, check_refused, displays, encoder, gold, indented, tiny_model, uneven_lists,
    word_tokenizer)
from helpers import demo_config, log_of

import alro
import data
import train

SCORES, LOSSES, RANKER = "candidate_scores", "invariant_losses", "invariant_ranker"


@pytest.fixture(scope="module")
def starts_line(work):
    return work.line_starts(TOKENIZER)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_model(len(TOKENIZER)).eval()


def batch_of(key="one", answers: bool = True, lists=None) -> alro.Batch:
    lists = lists or uneven_lists()
    return encoder().encode(lists, displays(key, lists), gold(lists) if answers else None)


def retold(batch, line, starts_line, work) -> alro.Batch:
    """The batch with another film in one slot's line: the one that stands first in the history."""
    start, _ = work.candidate_lines(batch, starts_line)
    first_break = starts_line[batch.input_ids].int().argmax(-1, keepdim=True)  # (B, 1)
    film = batch.input_ids.gather(1, first_break)  # (B, 1)
    return batch._replace(input_ids=batch.input_ids.scatter(1, start[:, line:line + 1], film))


def test_the_mask(work):
    part = torch.tensor([[0, 0, 1, 1, 2, -1, -1]])
    expected = torch.tensor([[1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0],
                             [1, 1, 0, 0, 1, 0, 0]]).bool()
    found = work.visible(part)
    check(found.shape == (1, 1, 7, 7) and found.dtype == torch.bool, "visible", "(B, 1, T, T) bool", "unsqueeze(1)",
          f"{tuple(found.shape)} {found.dtype}")
    check(torch.equal(found[0, 0, :5], expected), "visible",
          f"for part {part.tolist()[0]}, rows 0 to 4:\n{expected.int()}",
          "not after q, and: shared, or of q's own part", found[0, 0, :5].int())
    check(found[0, 0].diagonal(), "visible", "every token sees itself", "also those of part -1: an empty row gives NaN")
    check(not found[0, 0, :5, 5:].any(), "visible", "nobody sees a token of part -1",
          "key == query is not enough: -1 == -1")
    check(not found[0, 0, 6, 5], "visible", "tokens of part -1 see themselves only", "-1 == -1")


@pytest.mark.parametrize("answers", [True, False])
def test_the_displayed_order_changes_no_score(work, model, starts_line, answers):
    one, two = (work.candidate_scores(model, batch_of(key, answers), starts_line)[0] for key in ("one", "two"))
    check(one.shape == (len(LISTS), 5), SCORES, "(B, m) scores", "one for each candidate", tuple(one.shape))
    check_close(two, one, SCORES, "in another displayed order the same scores, by candidate",
                "who sees whom? position ids? by candidate? And what stands at the end of each line, where you read?",
                atol=1e-5)
    spread = (one.max(-1).values - one.min(-1).values).min().item()
    check(spread > 1e-3, SCORES, "scores that differ between candidates", "a score that sees nothing is invariant, too",
          spread)


def ordinary_scores(model, batch, starts_line, work) -> dict[str, torch.Tensor]:
    """{where read: scores (B, m) by candidate} of a plain causal pass over the shared tokens and one candidate's line
    alone, its letter replaced by one that is the same for all."""
    start, end = work.candidate_lines(batch, starts_line)
    # A line may end in any letter, if it is the same for all. And, one token too early, at "->", before the letter.
    letters = {slot: batch.identifiers[slot:slot + 1] for slot in range(len(batch.identifiers))}
    letters["->"] = batch.identifiers[:0]
    scores = {where: torch.zeros(batch.slots.shape) for where in letters}
    for b, order in enumerate(batch.slots.tolist()):
        shared = batch.input_ids[b, :start[b, 0]]
        for slot, candidate in enumerate(order):
            line = batch.input_ids[b, start[b, slot]:end[b, slot] - 1]
            for where, letter in letters.items():
                with torch.no_grad():
                    logits = model(input_ids=torch.cat([shared, line, letter]).unsqueeze(0)).logits
                scores[where][b, candidate] = logits[0, -1, batch.identifiers[0]]
    return scores


def test_a_score_is_what_an_ordinary_pass_over_this_candidate_alone_would_say(work, model, starts_line):
    """Of what is read (the whole line), where it stands (just behind the shared tokens), what is seen (both)."""
    batch = batch_of(answers=False, lists=uneven_lists()[:2])
    found = work.candidate_scores(model, batch, starts_line)[0].detach()
    expected = ordinary_scores(model, batch, starts_line, work)
    distance = {where: (found - scores).abs().max().item() for where, scores in expected.items()}
    early = distance.pop("->")
    check(early > 1e-4, SCORES, "a score that is read at the last token of its line",
          "this one is read one token earlier, at the '->': a line's last token is end - 1, and what stands there, if "
          "it would tell the slot, can be replaced")
    check(min(distance.values()) < 1e-4, SCORES,
          "for a candidate, what a plain causal pass over the shared tokens and its own line gives: "
          f"the logit of identifiers[0] at the line's end\n{indented(expected[0])}",
          "read behind the whole title; position ids of a line go p, p + 1, ... as if it stood there alone", found)


@pytest.mark.parametrize("line", range(5))
def test_another_candidates_text_changes_no_score(work, model, starts_line, line):
    batch = batch_of()
    before = work.candidate_scores(model, batch, starts_line)[0]  # (B, m) by candidate
    after = work.candidate_scores(model, retold(batch, line, starts_line, work), starts_line)[0]
    changed = batch.slots[:, line:line + 1]  # (B, 1) the candidate whose line was changed
    others = torch.ones_like(before).scatter(1, changed, 0)
    check_close(after * others, before * others, SCORES, f"unchanged scores where slot {line} shows another title",
                "candidates must not see each other", atol=1e-5)
    difference = (after - before).gather(1, changed).abs()
    check(difference > 1e-4, SCORES, f"another score for the candidate of slot {line}, whose title changed",
          "a candidate sees its own line, and the score is its own", difference.flatten())


def test_the_history_counts_and_what_follows_the_candidates_does_not(work, model, starts_line):
    batch = batch_of()
    before, history = work.candidate_scores(model, batch, starts_line)
    ids = batch.input_ids.clone()
    for b, end in enumerate(batch.prompt_tokens.tolist()):
        ids[b, end:] = ids[b, end:].flip(0)
    after, _ = work.candidate_scores(model, batch._replace(input_ids=ids), starts_line)
    check_close(after, before, SCORES, "the same scores with another answer behind the prompt", "part -1", atol=1e-5)
    longer = torch.nn.functional.pad(batch.input_ids, (0, 7))
    after, _ = work.candidate_scores(model, batch._replace(input_ids=longer), starts_line)
    check_close(after, before, SCORES, "the same scores with more padding", "part -1", atol=1e-5)
    rating = batch.history_at[:, :1]  # (B, 1) the first rating of the history
    rated = batch.history_rated
    other = torch.where(batch.input_ids.gather(1, rating) == rated.amax(), rated[rated >= 0].min(), rated.amax())
    after, _ = work.candidate_scores(model, batch._replace(input_ids=batch.input_ids.scatter(1, rating, other)),
                                     starts_line)
    check((after - before).abs().amax(-1) > 1e-6, SCORES, "other scores for another rating in the history",
          "it is shared",
          after - before)
    real = (batch.history_rated != -100).unsqueeze(-1)
    check_close(history * real, alro.target_logits(model, batch)[1] * real, SCORES,
                "logits of the history as alro.target_logits has them", "one place before history_at", atol=1e-5)


def test_one_pass_scores_all(work, model, starts_line):
    read = []
    hook = model.model.layers[0].register_forward_hook(lambda layer, inputs, output: read.append(inputs[0].shape[0]))
    work.candidate_scores(model, batch_of(), starts_line)
    hook.remove()
    check(read == [len(LISTS)], SCORES, f"one pass of {len(LISTS)} rows", "a row for each list", read)


def test_the_list_loss(work):
    order = torch.tensor([[2, 0, 1]])
    check_close(work.list_loss(torch.zeros(1, 3), order), [math.log(6) / 3], "list_loss", "log(3!)/3 for equal scores",
                "a mean over the m positions")
    scores = torch.tensor([[0.5, -1.0, 2.0]]).double()
    s = [2.0, 0.5, -1.0]
    slow = -sum(math.log(math.exp(s[k]) / sum(map(math.exp, s[k:]))) for k in range(3)) / 3
    check_close(work.list_loss(scores, order), [slow], "list_loss", "by plain Python", "best first: gather the order")
    check(work.list_loss(torch.tensor([[1e4, -1e4, 0.0]]), order).isfinite(), "list_loss",
          "finite for scores of +-10,000",
          "logcumsumexp")


def test_the_losses(work, model, starts_line):
    cfg, batch = train.TrainConfig(beta=0.0, history_weight=0.5, bf16=False), batch_of()
    losses = work.invariant_losses(starts_line)
    found = losses(model, batch, cfg)
    check(found.keys() == {"sft", "history", "total"}, LOSSES, "sft, history, total",
          "see its docstring",
          sorted(found))
    check(all(value.shape == (len(LISTS),) for value in found.values()), LOSSES, "one value for each list", "(B,)")
    scores, _ = work.candidate_scores(model, batch, starts_line)
    check_close(found["sft"], work.list_loss(scores, batch.order), LOSSES, "sft: list_loss of the scores",
                "batch.order")
    check_close(found["total"], found["sft"] + 0.5 * found["history"], LOSSES, "the total", "cfg.history_weight")
    without = losses(model, batch, dataclasses.replace(cfg, history_weight=0.0))
    check(without.keys() == {"sft", "total"}, LOSSES, "no history where its weight is 0",
          "a test on the weight",
          sorted(without))
    gradients = torch.autograd.grad(found["total"].sum(), list(model.parameters()))
    check(all(g.abs().max() > 0 for g in gradients), LOSSES, "gradients into every weight", "is something detached?")
    check_refused(lambda: losses(model, batch, dataclasses.replace(cfg, beta=1.0)), LOSSES, "alro.AlroError for beta 1",
                  "there is no second displayed order: raise it before anything is computed")


def test_the_ranker_agrees_with_itself_in_every_order(work, model, starts_line):
    lists = uneven_lists()
    ranker = work.invariant_ranker(model, encoder(), starts_line)
    one, two = (ranker(lists, displays(key, lists)) for key in ("one", "two"))
    check(torch.equal(one, two), RANKER, "one ranking in both displayed orders", "candidate_scores, by candidate",
          f"{one.tolist()} and {two.tolist()}")
    scores = work.candidate_scores(model, batch_of(answers=False), starts_line)[0]
    check(torch.equal(one, scores.argsort(dim=-1, descending=True, stable=True)), RANKER, "by descending score",
          "large = ranked high", one.tolist())


def test_ties_go_to_the_lower_candidate(work, starts_line):
    dead = tiny_model(len(TOKENIZER)).eval()
    torch.nn.init.zeros_(dead.get_input_embeddings().weight)  # all it ever says is 0
    lists = uneven_lists()
    found = work.invariant_ranker(dead, encoder(), starts_line)(lists, displays("one", lists))
    check_close(found, torch.arange(5).expand(len(lists), -1), RANKER, "candidates 0 to 4 where all scores are equal",
                "argsort(dim=-1, descending=True, stable=True); a flipped ascending sort turns ties around")


def test_the_ranker_keeps_no_gradient(work, model, starts_line):
    kept = []
    hook = model.model.register_forward_pre_hook(lambda *_: kept.append(torch.is_grad_enabled()))
    try:
        work.invariant_ranker(model, encoder(), starts_line)(LISTS, displays("one", LISTS))
    finally:
        hook.remove()
    check(kept and not any(kept), RANKER, "a model that is asked without gradients",
          "@torch.no_grad() on the function that ranks, not on the one that makes it: else every pass keeps what "
          "backward() would need")


def test_a_few_steps_of_training(work, small_world, tmp_path):
    """Through train.train, nothing of which is changed."""
    cfg = demo_config(steps=6, valid_every=6, beta=0.0, lr=1e-3)
    starts_line = work.line_starts(word_tokenizer(data.load(data.DataConfig()).words))
    train.train(data.DataConfig(), cfg, train.RunConfig(out=str(tmp_path / "run")),
                losses=work.invariant_losses(starts_line))
    rows = [row for row in log_of(tmp_path / "run") if "sft" in row]
    check(len(rows) == 6 and all(math.isfinite(row["total"]) for row in rows), LOSSES, "six steps, finite losses",
          "what train.train logs", rows)
    check(rows[-1]["total"] < rows[0]["total"], LOSSES, "a total that falls over six steps", "is it minimised?",
          [round(row["total"], 3) for row in rows])
