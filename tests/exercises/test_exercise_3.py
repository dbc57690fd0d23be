"""Checks of exercise 3."""
import itertools
import math

import pytest
import torch
from classroom import LISTS, TOKENIZER, check, check_close, displays, encoder, gold, tiny_model
from helpers import demo_run, log_of
from hypothesis import given, settings
from hypothesis import strategies as st

import alro
import train

seeds = st.integers(0, 2 ** 31)


def draw(seed, rows=3, m=4):
    return 2 * torch.randn(rows, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(2, 5))
def test_the_probabilities_of_all_orders_sum_to_one(work, seed, m):
    scores = draw(seed, 2, m)
    total = sum(torch.exp(-work.list_mle(scores, torch.tensor([order, order])))
                for order in itertools.permutations(range(m)))
    check_close(total, torch.ones(2), "list_mle", f"probabilities exp(-loss) of all orders of {m} that sum to 1",
                "the sum below the fraction runs over the candidates that are left, k and after", atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(seeds, st.permutations(range(5)))
def test_against_plain_python(work, seed, order):
    scores = draw(seed, 1, 5)
    s = [scores[0, i].item() for i in order]
    expected = -sum(math.log(math.exp(s[k]) / sum(map(math.exp, s[k:]))) for k in range(5))
    check_close(work.list_mle(scores, torch.tensor([order])), [expected], "list_mle",
                f"for scores {scores.tolist()} and order {order}", "gather the scores in the order first", atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(seeds, st.permutations(range(5)))
def test_without_ties_both_are_the_same(work, seed, ratings):
    scores, ratings = draw(seed, 1, 5), torch.tensor([ratings]).double()
    check_close(work.list_mle_with_ties(scores, ratings), work.list_mle(scores, alro.gold_order(ratings)),
                "list_mle_with_ties", "without ties, list_mle of the gold order",
                "a candidate's rivals are itself and those rated below it", atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(seeds, st.lists(st.integers(1, 3), min_size=4, max_size=4), st.permutations(range(4)))
def test_ties_against_plain_python_and_renaming(work, seed, ratings, new):
    scores, r = draw(seed, 1, 4), torch.tensor([ratings]).double()
    s, expected = scores[0].tolist(), 0.0
    for i in range(4):
        rivals = math.exp(s[i]) + sum(math.exp(s[j]) for j in range(4) if ratings[j] < ratings[i])
        expected -= math.log(math.exp(s[i]) / rivals)
    found = work.list_mle_with_ties(scores, r)
    check_close(found, [expected], "list_mle_with_ties", f"for scores {s} and ratings {ratings}",
                "tied candidates are no rivals: strictly below, and the candidate itself", atol=1e-9)
    check_close(work.list_mle_with_ties(scores[:, new], r[:, new]), found, "list_mle_with_ties",
                f"the same with the candidates renamed to {new}", "a candidate's number must not matter", atol=1e-10)


def test_one_rating_for_all_gives_neither_loss_nor_gradient(work):
    scores = draw(0).requires_grad_()
    loss = work.list_mle_with_ties(scores, torch.full((3, 4), 4.0))
    hint = "each candidate competes with itself alone: log(e^s / e^s)"
    check_close(loss, torch.zeros(3), "list_mle_with_ties", "0 where all ratings are equal", hint, atol=1e-12)
    gradient, = torch.autograd.grad(loss.sum(), scores)
    check(gradient.abs() < 1e-12, "list_mle_with_ties", "no gradient where all ratings are equal", hint, gradient)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_the_gradient_lifts_the_best_and_lowers_the_worst(work, seed):
    """Of scores; and through soft ranks the other way about, for they are positions."""
    scores, ratings = draw(seed).requires_grad_(), torch.tensor([[2.0, 5.0, 3.0, 1.0]]).expand(3, -1).double()
    for name, target in (("list_mle", alro.gold_order(ratings)), ("list_mle_with_ties", ratings)):
        slope, = torch.autograd.grad(getattr(work, name)(scores, target).sum(), scores)
        check(slope[:, 1] < 0, name, "a higher score of the best candidate lowers the loss", "the minus before the sum",
              slope[:, 1])
        check(slope[:, 3] > 0, name, "a higher score of the worst candidate raises it", "who is in the sum below?",
              slope[:, 3])
    y = torch.eye(4).double().expand(1, -1, -1)  # (1, m, m) candidate i comes out at position i + 1
    descending, tau = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).double(), torch.arange(1, 5).unsqueeze(0)
    right, wrong = (work.soft_list_mle(y, r, tau, gamma=10.0, sigma=2.0) for r in (descending, descending.flip(-1)))
    check(right.item() < 1 < 5 < wrong.item(), "soft_list_mle",
          "less than 1 where candidates come out best first, more than 5 where worst first",
          "a soft rank is a position, small = ranked high; a score is large = ranked high",
          f"{right.item():.3f} and {wrong.item():.3f}")
    position = alro.soft_rank(y, 10.0)
    check_close(right, work.list_mle_with_ties(-2 * position, descending), "soft_list_mle",
                "list_mle_with_ties of scores of sigma a rank", "sigma times the position, with its sign")


def test_finite_for_scores_of_ten_thousand(work):
    scores = torch.tensor([[1e4, -1e4, 0.0, 1e4], [0.0, -1e4, -1e4, 1.0]]).requires_grad_()  # float32
    ratings = torch.tensor([[1.0, 5.0, 5.0, 2.0]]).expand(2, -1)
    for name, target in (("list_mle", alro.gold_order(ratings)), ("list_mle_with_ties", ratings)):
        loss = getattr(work, name)(scores, target)
        gradient, = torch.autograd.grad(loss.sum(), scores)
        check(loss.isfinite().all() and gradient.isfinite().all(), name, "finite, with its gradient, for +-10,000",
              "logsumexp (logcumsumexp from the end), not log(sum(exp))", f"{loss.tolist()}, {gradient.tolist()}")


def test_gradcheck(work):
    ratings = torch.tensor([[2.0, 5.0, 2.0, 1.0]]).expand(3, -1).double()
    order = alro.gold_order(ratings)
    for name, target in (("list_mle", order), ("list_mle_with_ties", ratings)):
        right = torch.autograd.gradcheck(lambda s, name=name, target=target: getattr(work, name)(s, target),
                                         draw(1).requires_grad_(), raise_exception=False)
        check(right, name, "the gradient that small differences give", "is something detached, or rounded?")


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_losses_are_the_projects_but_for_sll(work, weight):
    """What train.train takes: the same terms, one of them another, and the total adds it up with its weight."""
    model = tiny_model(len(TOKENIZER))
    slots = displays("one", LISTS) + displays("two", LISTS)
    batch = encoder().encode(LISTS + LISTS, slots, torch.cat([gold(LISTS), gold(LISTS)]))
    cfg = train.TrainConfig(bf16=False, alpha=2.0, candidate_weight=weight)
    found, theirs = work.losses(model, batch, cfg), train.losses(model, batch, cfg)
    check(found.keys() == theirs.keys(), "losses", f"the names {sorted(theirs)}", "train.losses gives these",
          sorted(found))
    for name in set(theirs) - {"sll", "blind_sll", "perfect_sll", "total"}:
        check_close(found[name], theirs[name], "losses", f"{name} as in train.losses",
                    "only SLL changes: all else of cfg goes to alro_loss, then train.add_rating_terms")
    log_y = train.model_outputs(model, batch, cfg)[0].log_softmax(-1)
    ratings = batch.ratings[:len(LISTS)]
    sll = work.soft_list_mle(log_y.exp(), ratings, alro.gold_rank(ratings), cfg.gamma, cfg.sigma)
    check_close(found["sll"], sll, "losses", "soft_list_mle of y in the place of SLL", "y: over the m identifiers")
    check_close(found["total"], theirs["total"] + 2 * (sll - theirs["sll"]), "losses",
                "the total with alpha times yours in the place of alpha times SLL", "alpha 0 in alro_loss, then add",
                atol=1e-4)
    check(found["total"].requires_grad, "losses", "a total that gradients flow from", "no detach, no no_grad")


def test_a_few_steps_of_training_with_it(work, small_world, tmp_path):
    train.train(*demo_run(tmp_path / "run", steps=2, valid_every=2), losses=work.losses)
    rows = [row for row in log_of(tmp_path / "run") if "sll" in row]
    check(len(rows) == 2 and all(math.isfinite(row["sll"]) for row in rows), "losses", "two steps with a finite sll",
          "see the log in the run's folder", rows)
