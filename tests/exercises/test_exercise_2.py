"""Checks of exercise 2."""
import math

import pytest
import torch
from classroom import check, check_close
from hypothesis import given, settings
from hypothesis import strategies as st

import alro

KL, JS = NAMES = ["symmetric_kl_loss", "jensen_shannon_loss"]


def pair(seed, m=4, scale=2.0, rows=3):
    """log y, log y' (B, m, m) in float64."""
    logits = scale * torch.randn(2, rows, m, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.log_softmax(-1)


def slow_kl(p, q):
    """Of two lists of rows of probabilities, in plain Python."""
    return sum(a * math.log(a / b) for row, other in zip(p, q) for a, b in zip(row, other)) / len(p)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2 ** 31), st.integers(2, 7))
def test_against_plain_python(work, seed, m):
    y, other = pair(seed, m)
    kl, js = work.symmetric_kl_loss(y, other), work.jensen_shannon_loss(y, other)
    for name, value in ((KL, kl), (JS, js)):
        check(value.shape == (3,), name, "shape (3,) for 3 lists", "sum over items, mean over output positions",
              tuple(value.shape))
    for b in range(3):
        p, q = y[b].exp().tolist(), other[b].exp().tolist()
        half = [[(a + c) / 2 for a, c in zip(*rows)] for rows in zip(p, q)]
        check_close(kl[b], (slow_kl(p, q) + slow_kl(q, p)) / 2, KL, f"by plain Python, m = {m}",
                    "p (log p - log q), summed over items; the mean over positions; half of each way", atol=1e-9)
        check_close(js[b], (slow_kl(p, half) + slow_kl(q, half)) / 2, JS, f"by plain Python, m = {m}",
                    "h is the mean of probabilities, not of their logarithms", atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2 ** 31), st.floats(0.1, 5))
def test_zero_only_where_equal_and_symmetric(work, name, seed, scale):
    loss, (y, other) = getattr(work, name), pair(seed, scale=scale)
    check_close(loss(y, y), torch.zeros(3), name, "0 for two equal outputs",
                "a cross-entropy is not 0 there: the entropy is missing", atol=1e-12)
    check(loss(y, other) > 1e-6, name, "more than 0 for different outputs", "which way round is log p - log q?",
          loss(y, other))
    check_close(loss(other, y), loss(y, other), name, "the same when the two outputs change places", "half of each way",
                atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2 ** 31))
def test_it_is_permutation_loss_both_ways_less_the_entropies(work, seed):
    """KL = cross-entropy less entropy, and the entropy of y is `permutation_loss(y, y)`."""
    y, other = pair(seed)
    both_ways = sum(alro.permutation_loss(a, b) - alro.permutation_loss(a, a) for a, b in ((y, other), (other, y)))
    check_close(work.symmetric_kl_loss(y, other), both_ways / 2, KL, "PSL less the entropy, the mean of both ways",
                "KL = cross-entropy less entropy", atol=1e-10)
    js = work.jensen_shannon_loss(y, other)
    check(js <= math.log(2) + 1e-12, JS, "at most log 2", "half of KL(y || h) and of KL(y' || h)", js)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_and_gradients_into_both(work, name):
    logits = [p.clone().requires_grad_() for p in pair(0, m=3)]
    right = torch.autograd.gradcheck(lambda a, b: getattr(work, name)(a.log_softmax(-1), b.log_softmax(-1)), logits,
                                     raise_exception=False)
    check(right, name, "the gradient that small differences give", "is something detached, or rounded?")
    grads = torch.autograd.grad(getattr(work, name)(*(x.log_softmax(-1) for x in logits)).sum(), logits)
    check(all(g.abs().max() > 1e-3 for g in grads), name, "gradients into both outputs", "is one of them detached?")


@pytest.mark.parametrize("name", NAMES)
def test_finite_where_the_model_is_very_sure(work, name):
    """float32, logits of +-10 000: most probabilities are 0 in the computer, in both orders at once."""
    one = torch.tensor([[[1e4, -1e4, 0.0], [1e4, 1e4, -1e4], [0.0, 0.0, 0.0]]]).requires_grad_()
    other = one.detach()[..., [1, 2, 0]].clone().requires_grad_()
    value = getattr(work, name)(one.log_softmax(-1), other.log_softmax(-1))
    grads = torch.autograd.grad(value.sum(), [one, other])
    hint = "stay with logarithms: log(exp(-10000)) is -inf, and 0 * -inf is NaN (torch.logaddexp)"
    check(value.isfinite(), name, "a finite value for logits of +-10,000", hint, value)
    check(all(g.isfinite().all() for g in grads), name, "finite gradients for logits of +-10,000", hint)
    if name == JS:
        check(0 < value.item() <= math.log(2) + 1e-6, JS, "in 0..log 2", hint, value)
