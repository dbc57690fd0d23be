"""Checks of exercise 1, against double loops on floats and against NDCG itself."""
import math

import torch
from classroom import check, check_close
from hypothesis import given, settings
from hypothesis import strategies as st

import alro
from evaluate import ndcg

LAMBDARANK, MIXED = "lambdarank_weights", "ndcg_loss2pp_weights"
NAMES = [LAMBDARANK, MIXED]
rated = st.lists(st.integers(0, 10).map(lambda r: r / 2), min_size=2, max_size=8)


def loops(ratings, ranks, factor):
    """factor(tau_i, tau_j) |G_i - G_j| for each pair with i rated above j."""
    m = len(ratings)
    ideal = sum((2 ** r - 1) / math.log2(1 + k) for k, r in enumerate(sorted(ratings, reverse=True), 1))
    return torch.tensor([[factor(ranks[i], ranks[j]) * (2 ** ratings[i] - 2 ** ratings[j]) / ideal
                          if ratings[i] > ratings[j] else 0.0 for j in range(m)] for i in range(m)]).double()


def rho(a, b):
    return abs(1 / math.log2(1 + a) - 1 / math.log2(1 + b))


def delta(a, b):
    return abs(1 / math.log2(1 + abs(a - b)) - 1 / math.log2(2 + abs(a - b)))


def test_ties_and_lists_without_gain_weigh_nothing(work):
    for name in NAMES:
        ratings = torch.tensor([[3.0, 3.0, 5.0], [4.0, 4.0, 4.0], [0.0, 0.0, 0.0]])
        weights = getattr(work, name)(ratings, alro.gold_rank(ratings))
        check(weights.shape == (3, 3, 3), name, "shape (3, 3, 3) for three lists of three",
              "unsqueeze(-1), unsqueeze(-2)",
              tuple(weights.shape))
        check(weights.isfinite(), name, "finite weights, also for a list rated 0 throughout",
              "0/0 and 0 * inf are NaN: select with torch.where, do not multiply by a mask", weights)
        check(weights[1:] == 0, name, "0 for a list whose ratings are all equal", "no pair of it is rated differently",
              weights[1:])
        check(weights[0, :2, :2] == 0, name, "0 for candidates that are tied", "strictly above: >", weights[0])
        check(weights[0, 2, :2] > 0, name, "more than 0 where candidate 2, rated 5, stands above the others",
              "row i, column j",
              weights[0])


@settings(deadline=None, max_examples=60)
@given(rated, st.floats(0, 20))
def test_against_double_loops(work, ratings, mu):
    r = torch.tensor([ratings]).double()
    tau = alro.gold_rank(r)
    expected = loops(ratings, tau[0].tolist(), rho)
    check_close(work.lambdarank_weights(r, tau), expected.unsqueeze(0), LAMBDARANK, f"for ratings {ratings}, by pairs",
                "1/D of the two ranks themselves, not of their distance; i is the row; G over the ideal DCG")
    expected = loops(ratings, tau[0].tolist(), lambda a, b: rho(a, b) + mu * delta(a, b))
    check_close(work.ndcg_loss2pp_weights(r, tau, mu), expected.unsqueeze(0), MIXED,
                f"for ratings {ratings} and mu {mu}, by pairs",
                "rho + mu delta: alro.pair_weights holds |G_i - G_j| too",
                atol=1e-5)


def test_each_list_of_a_batch_at_its_own_places(work):
    """Two lists, and places that are not gold: those of an order that a model may have given."""
    ratings = torch.tensor([[5.0, 3.0, 1.0, 4.0], [2.0, 2.0, 0.5, 4.5]]).double()
    ranks = torch.tensor([[3.0, 1.0, 2.0, 4.0], [1.0, 4.0, 2.0, 3.0]]).double()
    lists = list(zip(ratings.tolist(), ranks.tolist()))
    expected = torch.stack([loops(*one, rho) for one in lists])
    check_close(work.lambdarank_weights(ratings, ranks), expected, LAMBDARANK,
                f"for the lists {ratings.tolist()} at the places {ranks.tolist()}",
                "the discounts are those of `ranks`, which a model's order may give; each list has its own")
    expected = torch.stack([loops(*one, lambda a, b: rho(a, b) + 10 * delta(a, b)) for one in lists])
    check_close(work.ndcg_loss2pp_weights(ratings, ranks), expected, MIXED,
                "the same, mixed, with mu as it is by default, 10", "alro.pair_weights takes `ranks`, too", atol=1e-5)


def test_lambdarank_is_the_change_in_ndcg_of_a_swap(work):
    ratings = torch.tensor([[2.0, 5.0, 3.5, 1.0, 4.0, 0.5]]).double()
    order = alro.gold_order(ratings)
    weights = work.lambdarank_weights(ratings, alro.gold_rank(ratings))
    for a in range(6):
        for b in range(a + 1, 6):
            swapped = order.clone()
            swapped[0, [a, b]] = order[0, [b, a]]
            i, j = order[0, a], order[0, b]  # i is the better one: the order is gold
            check_close(weights[0, i, j], 1 - ndcg(ratings, swapped, 6)[0], LAMBDARANK,
                        f"what NDCG loses when the candidates of gold ranks {a + 1} and {b + 1} swap places",
                        "is G divided by the ideal DCG? is it 1/D at tau_i and at tau_j?", atol=1e-9)
            check(weights[0, j, i] == 0, LAMBDARANK, "0 where i is rated below j", "each pair counts once",
                  weights[0, j, i])


@settings(deadline=None, max_examples=60)
@given(rated, st.randoms(use_true_random=False))
def test_renaming_the_candidates_renames_the_weights(work, ratings, random):
    new = random.sample(range(len(ratings)), len(ratings))
    one, two = torch.tensor([ratings]), torch.tensor([[ratings[i] for i in new]])
    for name in NAMES:
        before, after = (getattr(work, name)(r, alro.gold_rank(r)) for r in (one, two))
        check(before.isfinite(), name, f"finite weights for ratings {ratings}",
              "0/0 and 0 * inf are NaN: select with torch.where, do not multiply by a mask", before)
        check_close(after, before[:, new][:, :, new], name, f"the weights of {ratings}, the candidates now {new}",
                    "a candidate's number must not matter: ratings and ranks say all", atol=1e-5)


def test_best_against_worst_outweighs_best_against_second_and_with_the_papers_delta_it_does_not(work):
    """What the exercise is about. Ratings 5, 4.5 .. 0.5 at ranks 1 .. 10."""
    ratings = torch.arange(10, 0, -1).unsqueeze(0) / 2  # (1, 10) best first
    ranks = alro.gold_rank(ratings)
    weights, papers = work.lambdarank_weights(ratings, ranks)[0], alro.pair_weights(ratings, ranks)[0]
    check(weights[0, 9] == weights.max() and weights[0, 9] > 2 * weights[0, 1], LAMBDARANK,
          "best against worst weighs most, and more than twice as much as best against second",
          "1/D at the two ranks themselves", weights[0])
    check(abs(papers[0, 1] - 0.055) < 5e-4 and abs(papers[0, 9] - 0.006) < 5e-4, "alro.pair_weights",
          ".055 for best against second and .006 for best against worst", "is alro.py changed?", papers[0])
    check_close(work.ndcg_loss2pp_weights(ratings, ranks, mu=0.0)[0], weights, MIXED,
                f"for mu 0 what your {LAMBDARANK} gives", "the mixture is a sum; the checks above say which one is off")
