"""Checks of exercise 3."""
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import alro

seeds = st.integers(0, 2 ** 31)


def draw(seed, rows=3, m=4):
    return 2 * torch.randn(rows, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(2, 5))
def test_the_probabilities_of_all_orders_sum_to_one(work, seed, m):
    scores = draw(seed, 2, m)
    total = sum(torch.exp(-work.list_mle(scores, torch.tensor([order, order])))
                for order in itertools.permutations(range(m)))
    assert total.shape == (2,) and torch.allclose(total, torch.ones(2).double(), atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(seeds, st.permutations(range(5)))
def test_against_plain_python(work, seed, order):
    scores = draw(seed, 1, 5)
    s = [scores[0, i].item() for i in order]
    expected = -sum(math.log(math.exp(s[k]) / sum(map(math.exp, s[k:]))) for k in range(5))
    assert work.list_mle(scores, torch.tensor([order])).item() == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(seeds, st.permutations(range(5)))
def test_without_ties_both_are_the_same(work, seed, ratings):
    scores, ratings = draw(seed, 1, 5), torch.tensor([ratings]).double()
    assert torch.allclose(work.list_mle_with_ties(scores, ratings),
                          work.list_mle(scores, alro.gold_order(ratings)), atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(seeds, st.lists(st.integers(1, 3), min_size=4, max_size=4), st.permutations(range(4)))
def test_ties_against_plain_python_and_renaming(work, seed, ratings, new):
    scores, r = draw(seed, 1, 4), torch.tensor([ratings]).double()
    s, expected = scores[0].tolist(), 0.0
    for i in range(4):
        rivals = math.exp(s[i]) + sum(math.exp(s[j]) for j in range(4) if ratings[j] < ratings[i])
        expected -= math.log(math.exp(s[i]) / rivals)
    found = work.list_mle_with_ties(scores, r)
    assert found.item() == pytest.approx(expected, abs=1e-9)
    assert torch.allclose(work.list_mle_with_ties(scores[:, new], r[:, new]), found, atol=1e-10)


def test_one_rating_for_all_gives_neither_loss_nor_gradient(work):
    scores = draw(0).requires_grad_()
    loss = work.list_mle_with_ties(scores, torch.full((3, 4), 4.0))
    assert torch.allclose(loss, torch.zeros(3).double(), atol=1e-12)
    assert torch.autograd.grad(loss.sum(), scores)[0].abs().max() < 1e-12


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_the_gradient_lifts_the_best_and_lowers_the_worst(work, seed):
    """Of scores; and through soft ranks the other way about, for they are positions."""
    scores, ratings = draw(seed).requires_grad_(), torch.tensor([[2.0, 5.0, 3.0, 1.0]]).expand(3, -1).double()
    for loss in (work.list_mle(scores, alro.gold_order(ratings)), work.list_mle_with_ties(scores, ratings)):
        slope, = torch.autograd.grad(loss.sum(), scores)
        assert (slope[:, 1] < 0).all() and (slope[:, 3] > 0).all()
    y = torch.eye(4).double().expand(1, -1, -1)  # (1, m, m) item i comes out at position i + 1
    descending, tau = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).double(), torch.arange(1, 5).unsqueeze(0)
    right, wrong = (work.soft_list_mle(y, r, tau, gamma=10.0, sigma=2.0) for r in (descending, descending.flip(-1)))
    assert right.item() < 1 < 5 < wrong.item()
    position = alro.soft_rank(y, 10.0)
    assert torch.allclose(right, work.list_mle_with_ties(-2 * position, descending))


def test_finite_for_scores_of_ten_thousand(work):
    scores = torch.tensor([[1e4, -1e4, 0.0, 1e4], [0.0, -1e4, -1e4, 1.0]]).requires_grad_()  # float32
    ratings = torch.tensor([[1.0, 5.0, 5.0, 2.0]]).expand(2, -1)
    for loss in (work.list_mle(scores, alro.gold_order(ratings)), work.list_mle_with_ties(scores, ratings)):
        assert loss.isfinite().all() and torch.autograd.grad(loss.sum(), scores)[0].isfinite().all()


def test_gradcheck(work):
    ratings = torch.tensor([[2.0, 5.0, 2.0, 1.0]]).expand(3, -1).double()
    order = alro.gold_order(ratings)
    assert torch.autograd.gradcheck(lambda s: work.list_mle(s, order), draw(1).requires_grad_())
    assert torch.autograd.gradcheck(lambda s: work.list_mle_with_ties(s, ratings), draw(1).requires_grad_())
