"""Checks of exercise 1, against double loops on floats and against NDCG itself."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import alro
from evaluate import ndcg

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


@settings(deadline=None, max_examples=60)
@given(rated, st.floats(0, 20))
def test_against_double_loops(work, ratings, mu):
    r = torch.tensor([ratings]).double()
    tau = alro.gold_rank(r)
    expected = loops(ratings, tau[0].tolist(), rho)
    assert torch.allclose(work.lambdarank_weights(r, tau)[0], expected, atol=1e-6)
    expected = loops(ratings, tau[0].tolist(), lambda a, b: rho(a, b) + mu * delta(a, b))
    assert torch.allclose(work.ndcg_loss2pp_weights(r, tau, mu)[0], expected, atol=1e-5)


def test_lambdarank_is_the_change_in_ndcg_of_a_swap(work):
    ratings = torch.tensor([[2.0, 5.0, 3.5, 1.0, 4.0, 0.5]]).double()
    order = alro.gold_order(ratings)
    weights = work.lambdarank_weights(ratings, alro.gold_rank(ratings))
    for a in range(6):
        for b in range(a + 1, 6):
            swapped = order.clone()
            swapped[0, [a, b]] = order[0, [b, a]]
            i, j = order[0, a], order[0, b]  # i is the better one: the order is gold
            assert weights[0, i, j].item() == pytest.approx(1 - ndcg(ratings, swapped, 6).item(), abs=1e-12)
            assert weights[0, j, i] == 0


def test_ties_and_lists_without_gain_weigh_nothing(work):
    for weigh in (work.lambdarank_weights, work.ndcg_loss2pp_weights):
        ratings = torch.tensor([[3.0, 3.0, 5.0], [4.0, 4.0, 4.0], [0.0, 0.0, 0.0]])
        weights = weigh(ratings, alro.gold_rank(ratings))
        assert weights.shape == (3, 3, 3) and weights.isfinite().all()
        assert (weights[1:] == 0).all() and weights.diagonal(dim1=1, dim2=2).eq(0).all()
        assert weights[0, 0, 1] == weights[0, 1, 0] == 0 and (weights[0, 2, :2] > 0).all()


@settings(deadline=None, max_examples=60)
@given(rated, st.randoms(use_true_random=False))
def test_renaming_the_items_renames_the_weights(work, ratings, random):
    new = random.sample(range(len(ratings)), len(ratings))
    one, two = torch.tensor([ratings]), torch.tensor([[ratings[i] for i in new]])
    for weigh in (work.lambdarank_weights, work.ndcg_loss2pp_weights):
        before, after = weigh(one, alro.gold_rank(one)), weigh(two, alro.gold_rank(two))
        assert torch.allclose(after, before[:, new][:, :, new], atol=1e-5)


def test_best_against_worst_outweighs_best_against_second_and_with_the_papers_delta_it_does_not(work):
    """What the exercise is about. Ratings 5, 4.5 .. 0.5 at ranks 1 .. 10."""
    ratings = torch.arange(10, 0, -1).unsqueeze(0) / 2  # (1, 10) best first
    ranks = alro.gold_rank(ratings)
    weights, papers = work.lambdarank_weights(ratings, ranks)[0], alro.pair_weights(ratings, ranks)[0]
    assert weights[0, 9] == weights.max() > 2 * weights[0, 1]
    assert papers[0, 9] < papers[0, 1] / 4
    mixed = work.ndcg_loss2pp_weights(ratings, ranks, mu=0.0)[0]
    assert torch.allclose(mixed, weights)
