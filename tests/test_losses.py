"""Read and run this file first: `pytest -x tests/test_losses.py`. Whatever breaks a loss is named here in seconds;
the tests after it train with that loss, and hundreds of them would only say that something is wrong.

The losses of alro.py against slow double loops written from the paper's equations (oracles.py), and the properties
that any right implementation has. Shapes as in alro.py: B lists, m candidates, everything by candidate.
"""
import itertools
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import (
    OneDevice,
    oracle_blind_probs,
    oracle_gold_rank,
    oracle_lambda_loss,
    oracle_soft_rank,
    oracle_weight,
)

import alro

# ---- what is drawn ------------------------------------------------------------------------------

@st.composite
def lists(draw, most=8):
    """(ratings (B, m), logits (B, m, m)) in float64; half stars, ties, lists with a single rating."""
    m, rows = draw(st.integers(2, most)), draw(st.integers(1, 3))
    one_list = st.lists(st.integers(0, 10), min_size=m, max_size=m)
    ratings = draw(st.lists(one_list, min_size=rows, max_size=rows))
    spread = draw(st.sampled_from([0.0, 1.0, 5.0]))
    return torch.tensor(ratings, dtype=torch.float64) / 2, spread * normal(draw(seeds), rows, m, m)


def normal(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


seeds = st.integers(0, 2 ** 32 - 1)
positive = st.floats(0.05, 20)
orders = st.integers(2, 8).flatmap(lambda m: st.permutations(range(m)))


# ---- gold order and rank ------------------------------------------------------------------------

@given(lists())
def test_gold_order_is_a_permutation_with_ratings_descending(case):
    ratings, _ = case
    order = alro.gold_order(ratings)
    assert order.sort(-1).values.eq(torch.arange(ratings.shape[1])).all()
    in_order = ratings.gather(-1, order)
    assert (in_order[:, :-1] >= in_order[:, 1:]).all()
    assert (alro.rank_of(order).gather(-1, order) == torch.arange(1, ratings.shape[1] + 1)).all()


def test_gold_order_draws_ties_evenly_and_repeatably():
    ratings = torch.tensor([[3.0, 5.0, 3.0, 3.0]]).expand(6000, -1)
    first = alro.gold_order(ratings, torch.Generator().manual_seed(1))
    assert torch.equal(first, alro.gold_order(ratings, torch.Generator().manual_seed(1)))
    counts = torch.bincount(first[:, 1], minlength=4)  # who comes second, behind item 1
    assert counts[1] == 0 and (counts[[0, 2, 3]] - 2000).abs().max() < 200  # 5 deviations of 37


@given(orders)
def test_rank_of_says_at_which_place_an_item_stands(order):
    expected = [order.index(item) + 1 for item in range(len(order))]
    assert alro.rank_of(torch.tensor([order])).tolist() == [expected]


@given(st.lists(st.integers(1, 3), min_size=2, max_size=6))
def test_gold_rank_is_the_mean_over_all_gold_orders(ratings):
    expected = torch.tensor([oracle_gold_rank(ratings)])
    assert torch.allclose(alro.gold_rank(torch.tensor([ratings])).float(), expected)


# ---- soft-argmax --------------------------------------------------------------------------------

@given(lists(), positive)
def test_equation_soft_argmax_against_double_loop(case, gamma):
    _, logits = case
    y = logits.softmax(-1)
    expected = [oracle_soft_rank(probs, gamma) for probs in y.tolist()]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert torch.allclose(alro.soft_rank(y, gamma), expected, rtol=0, atol=1e-10)


@given(st.integers(2, 10), seeds, st.floats(10, 1e4))
def test_soft_rank_tends_to_the_argmax_of_each_column(m, seed, gamma):
    """Error at most sum_l |l - k*| exp(-gamma gap_l), gap_l = how far entry l lies below the largest, k*."""
    y = torch.rand(1, m, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    best = y.max(dim=1)
    places = torch.arange(m, dtype=torch.float64)
    distance = (places[:, None] - best.indices[0]).abs()
    bound = (distance * torch.exp(-gamma * (best.values - y[0]))).sum(0)
    error = (alro.soft_rank(y, gamma)[0] - (best.indices[0] + 1)).abs()
    assert (error <= bound + 1e-9).all()


def test_soft_rank_has_two_cliffs():
    """The blind model's soft ranks, as stated in alro.soft_rank: useless at gamma 1, the answer itself at 100."""
    blind = alro.blind_probs(torch.arange(10).unsqueeze(0)).double()
    assert (alro.soft_rank(blind, 1.0) - 5.5).abs().max() < 1
    ten = alro.soft_rank(blind, 10.0)[0]
    expected = torch.tensor([4.8, 4.4, 4.2, 4.2, 4.3, 4.7, 5.3, 6.4, 8.2, 10]).double()
    assert torch.allclose(ten, expected, atol=0.06)
    hundred = alro.soft_rank(blind, 100.0)[0]
    assert (hundred[1:] > hundred[:-1]).all() and (hundred - torch.arange(1, 11)).abs().max() < 0.8


def test_blind_probs_are_uniform_over_what_is_left():
    y = alro.blind_probs(torch.tensor([[2, 0, 1]]))
    expected = [[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 2, 0], [0, 1, 0]]
    assert torch.allclose(y, torch.tensor([expected]))


@given(orders)
def test_the_two_references_know_nothing_and_everything(order):
    """Blind: uniform over what is not out yet, by a loop. Perfect: position k emits the k-th of the gold order."""
    gold = torch.tensor([order])
    expected = torch.tensor([oracle_blind_probs(order)])
    assert torch.allclose(alro.blind_probs(gold), expected, atol=1e-6)
    perfect = alro.perfect_probs(gold)
    assert (perfect.sum(-1) == 1).all() and torch.equal(perfect.argmax(-1), gold)
    assert torch.allclose(alro.soft_rank(perfect, 100.0), alro.rank_of(gold).float(), atol=1e-4)


# ---- pair weights and lambda loss ---------------------------------------------------------------

@given(lists())
def test_equation_pair_weight_against_double_loop(case):
    ratings, _ = case
    ranks = alro.gold_rank(ratings)
    weights = alro.pair_weights(ratings, ranks)
    for b, (r, tau) in enumerate(zip(ratings.tolist(), ranks.tolist())):
        for i, j in itertools.product(range(len(r)), repeat=2):
            expected = oracle_weight(i, j, r, tau) if r[i] > r[j] else 0.0
            assert abs(weights[b, i, j].item() - expected) < 1e-12


@given(lists(), positive)
def test_equation_lambda_loss_against_double_loop(case, sigma):
    """To 1e-10, with gold ranks and with the fractional positions and integer ranks of a classic scorer."""
    ratings, logits = case
    position = logits[:, 0]
    for ranks in (alro.gold_rank(ratings), alro.rank_of(logits[:, 1].argsort(-1))):
        loss = alro.lambda_loss(position, ratings, ranks, sigma)
        for b in range(len(ratings)):
            expected = oracle_lambda_loss(
                position[b].tolist(), ratings[b].tolist(), ranks[b].tolist(), sigma)
            assert abs(loss[b].item() - expected) < 1e-10


def test_equation_soft_lambda_loss_by_hand():
    """Candidates rated 5, 3, 3. Ranks 1, 2.5, 2.5; gains 31, 7, 7; ideal DCG 31 + 7/log2(3) + 7/2 = 38.916508."""
    y = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.2, 0.2, 0.6]]], dtype=torch.float64)
    ratings = torch.tensor([[5.0, 3.0, 3.0]], dtype=torch.float64)
    ideal = 31 + 7 / math.log2(3) + 7 / 2
    delta = 1 / math.log2(2.5) - 1 / math.log2(3.5)  # rank distance 1.5
    s = oracle_soft_rank(y[0].tolist(), 10)
    logistic = sum(math.log2(1 + math.exp(s[0] - other)) for other in s[1:])
    loss = alro.soft_lambda_loss(y, ratings, alro.gold_rank(ratings), gamma=10.0)
    assert abs(loss.item() - delta * 24 / ideal * logistic) < 1e-12


@given(lists(most=5), positive, positive)
def test_equation_soft_lambda_loss_against_double_loop(case, gamma, sigma):
    """From probabilities and ratings to the loss, by the oracles alone."""
    ratings, logits = case
    y = logits.softmax(-1)
    loss = alro.soft_lambda_loss(y, ratings, alro.gold_rank(ratings), gamma, sigma)
    for b, r in enumerate(ratings.tolist()):
        position, tau = oracle_soft_rank(y[b].tolist(), gamma), oracle_gold_rank(r)
        assert loss[b].item() == pytest.approx(oracle_lambda_loss(position, r, tau, sigma), abs=1e-10)


def test_sign_of_the_lambda_loss():
    """s is a position: putting the better item first must cost less. The sign alone (GUESS in alro.py)."""
    ratings, ranks = torch.tensor([[5.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    right = alro.lambda_loss(torch.tensor([[1.0, 2.0]]), ratings, ranks)
    wrong = alro.lambda_loss(torch.tensor([[2.0, 1.0]]), ratings, ranks)
    assert right < wrong
    position = torch.tensor([[1.5, 1.5]], requires_grad=True)
    alro.lambda_loss(position, ratings, ranks).backward()
    # Descent moves the better item to a smaller position.
    assert position.grad[0, 0] > 0 > position.grad[0, 1]


@given(lists(), positive, positive)
def test_a_step_down_the_gradient_of_sll_lowers_it(case, gamma, sigma):
    ratings, logits = case
    ranks = alro.gold_rank(ratings)

    def sll(logits):
        return alro.soft_lambda_loss(logits.softmax(-1), ratings, ranks, gamma, sigma).sum()

    logits = logits.clone().requires_grad_()
    loss = sll(logits)
    gradient, = torch.autograd.grad(loss, logits)
    if gradient.abs().max() > 1e-6:
        with torch.no_grad():
            assert sll(logits - 1e-4 * gradient / gradient.norm()) < loss


@pytest.mark.parametrize("gap", [19.0, 21.0, 30.0, 39.0, 41.0, 800.0])
def test_lambda_loss_is_exact_far_out(gap):
    """softplus at its default threshold of 20 would be off by 2e-9 at a gap of 21."""
    ratings = torch.tensor([[4.0, 1.0]], dtype=torch.float64)
    ranks = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    loss = alro.lambda_loss(torch.tensor([[gap, 0.0]], dtype=torch.float64), ratings, ranks)
    expected = oracle_lambda_loss([gap, 0.0], ratings[0].tolist(), ranks[0].tolist(), 1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-13)


# ---- SFT, PSL, history, objective ---------------------------------------------------------------

@given(lists())
def test_equation_sft_against_loop(case):
    ratings, logits = case
    log_probs, order = logits.log_softmax(-1), alro.gold_order(ratings)
    m = ratings.shape[1]
    for b, loss in enumerate(alro.sft_loss(log_probs, order).tolist()):
        expected = -sum(log_probs[b, k, order[b, k]].item() for k in range(m)) / m
        assert abs(loss - expected) < 1e-12


@given(lists(), seeds)
def test_equation_psl_against_loop(case, seed):
    _, logits = case
    y = logits.log_softmax(-1)
    other = normal(seed, *logits.shape).log_softmax(-1)
    m = logits.shape[-1]
    for b, loss in enumerate(alro.permutation_loss(y, other).tolist()):
        expected = -sum(math.exp(y[b, k, i]) * other[b, k, i].item()
                        for k in range(m) for i in range(m)) / m
        assert abs(loss - expected) < 1e-10
    entropy = alro.permutation_loss(y, y)  # its minimum over y'
    assert (alro.permutation_loss(y, other) >= entropy - 1e-12).all()


def test_psl_gradient_flows_into_both_outputs():
    """A target that is fixed is another objective (test_objectives.py)."""
    y, other = (torch.randn(2, 3, 3, requires_grad=True) for _ in range(2))
    alro.permutation_loss(y.log_softmax(-1), other.log_softmax(-1)).sum().backward()
    assert y.grad.abs().sum() > 0 and other.grad.abs().sum() > 0


@given(seeds, st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_rating_loss_is_the_mean_over_the_tokens_that_are_there(seed, lengths):
    """Value and gradient by a loop: lists with different numbers of targets in one batch, one of them perhaps without
    any; padding weighs nothing, wherever it stands."""
    most, words = max(lengths), 7
    logits = normal(seed, len(lengths), most, words)
    generator = torch.Generator().manual_seed(seed)
    rated = torch.randint(words, (len(lengths), most), generator=generator)
    for row, length in zip(rated, lengths):
        row[length:] = -100
    shuffled = torch.randperm(most, generator=generator)  # a candidate without a target may stand between others
    rated, logits = rated[:, shuffled], logits[:, shuffled].requires_grad_()
    loss = alro.rating_loss(logits, rated)
    loss.sum().backward()
    for b, length in enumerate(lengths):
        y, expected = logits[b].softmax(-1), 0.0
        for t, token in enumerate(rated[b].tolist()):
            slope = torch.zeros(words, dtype=logits.dtype)
            if token != -100:
                expected -= y[t, token].log().item() / length
                slope = (y[t].detach() - torch.eye(words)[token]) / length
            assert torch.allclose(logits.grad[b, t], slope, atol=1e-10)
        assert loss[b].item() == pytest.approx(expected, abs=1e-10)


@given(lists())
def test_objective_is_the_weighted_sum_of_its_parts(case):
    """L = L_sft + alpha L_sll + beta L_psl; SLL and PSL over the identifiers alone."""
    ratings, logits = case
    whole = logits.log_softmax(-1) - 1.5  # as if the vocabulary held more than the identifiers
    other = logits.flip(1).log_softmax(-1) - 0.5
    order = alro.gold_order(ratings)
    parts = alro.alro_loss(
        whole, order, ratings, alpha=0.7, beta=0.3, gamma=5.0, sigma=2.0, other_log_probs=other)
    ranks, y = alro.gold_rank(ratings), logits.softmax(-1)
    sft, sll = alro.sft_loss(whole, order), alro.soft_lambda_loss(y, ratings, ranks, 5.0, 2.0)
    psl = alro.permutation_loss(logits.log_softmax(-1), logits.flip(1).log_softmax(-1))
    assert torch.allclose(parts["sft"], sft) and torch.allclose(parts["sll"], sll)
    assert torch.allclose(parts["psl"], psl)
    assert torch.allclose(parts["total"], sft + 0.7 * sll + 0.3 * psl)
    assert (parts["kl"] >= -1e-9).all()
    through = alro.alro_loss(
        whole.clone().requires_grad_(), order, ratings, alpha=0, beta=1, gamma=5.0, other_log_probs=other)
    assert through["psl"].requires_grad  # gradients flow into the target alone: `other` is fixed here
    plain = alro.alro_loss(whole, order, ratings, alpha=0, beta=0.3, gamma=5.0)
    assert torch.equal(plain["total"], plain["sft"]) and "psl" not in plain


@given(lists(), seeds)
def test_kl_is_how_far_the_two_outputs_are_apart_and_is_only_for_the_log(case, seed):
    """sum_i y log(y / y'), averaged over positions, by a loop; no gradient flows through it."""
    ratings, logits = case
    logits, other = logits.clone().requires_grad_(), normal(seed, *logits.shape).requires_grad_()
    parts = alro.alro_loss(
        logits.log_softmax(-1), alro.gold_order(ratings), ratings, alpha=0, beta=1, gamma=1,
        other_log_probs=other.log_softmax(-1))
    assert not parts["kl"].requires_grad
    m = ratings.shape[1]
    for b in range(len(ratings)):
        p, q = logits[b].softmax(-1).tolist(), other[b].softmax(-1).tolist()
        expected = sum(p[k][i] * math.log(p[k][i] / q[k][i])
                       for k in range(m) for i in range(m) if p[k][i] > 0) / m
        assert parts["kl"][b].item() == pytest.approx(expected, abs=1e-9)


# ---- properties ---------------------------------------------------------------------------------

@given(lists(), seeds, positive, positive)
def test_relabelling_items_changes_no_loss(case, seed, gamma, sigma):
    ratings, logits = case
    p = torch.randperm(ratings.shape[1], generator=torch.Generator().manual_seed(seed))
    y, order = logits.log_softmax(-1), alro.gold_order(ratings)
    names = p.argsort()  # item i of the old list is item names[i] of the new one
    options = {"alpha": 1.0, "beta": 1.0, "gamma": gamma, "sigma": sigma}
    before = alro.alro_loss(y, order, ratings, other_log_probs=y.flip(1), **options)
    after = alro.alro_loss(
        y[..., p], names[order], ratings[:, p], other_log_probs=y.flip(1)[..., p], **options)
    for name in before:
        assert torch.allclose(before[name], after[name], atol=1e-10), name


@given(lists(), seeds)
def test_the_losses_of_a_list_are_the_same_alone_and_in_a_batch(case, seed):
    """One value per list, and no list's value depends on another list."""
    ratings, logits = case
    y, other = logits.log_softmax(-1), normal(seed, *logits.shape).log_softmax(-1)
    order = alro.gold_order(ratings)
    options = {"alpha": 1.0, "beta": 1.0, "gamma": 10.0}
    together = alro.alro_loss(y, order, ratings, other_log_probs=other, **options)
    for b in range(len(ratings)):
        row = slice(b, b + 1)
        alone = alro.alro_loss(y[row], order[row], ratings[row], other_log_probs=other[row], **options)
        for name, value in together.items():
            assert value.shape == (len(ratings),), name
            assert torch.allclose(value[row], alone[name], atol=1e-12), name


@given(lists(), positive)
def test_how_ties_are_ordered_changes_no_sll(case, gamma):
    ratings, logits = case
    y = logits.softmax(-1)
    loss = alro.soft_lambda_loss(y, ratings, alro.gold_rank(ratings), gamma)
    swapped = y.clone()
    for b, r in enumerate(ratings.tolist()):
        tied = [(i, j) for i, j in itertools.combinations(range(len(r)), 2) if r[i] == r[j]]
        for i, j in tied[:1]:
            swapped[b, :, [i, j]] = y[b, :, [j, i]]
    after = alro.soft_lambda_loss(swapped, ratings, alro.gold_rank(ratings), gamma)
    assert torch.allclose(loss, after, atol=1e-12)


@given(st.integers(2, 8), st.sampled_from([0.0, 0.5, 5.0, 10.0]))
@example(2, 0.0)
def test_no_informative_pair_gives_zero_and_a_zero_gradient(m, rating):
    logits = torch.randn(1, m, m, requires_grad=True)
    ratings = torch.full((1, m), rating)
    loss = alro.soft_lambda_loss(logits.softmax(-1), ratings, alro.gold_rank(ratings), 10.0)
    loss.sum().backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


@given(lists(), seeds, st.sampled_from([torch.float32, torch.float64]))
def test_finite_losses_and_gradients_at_logits_of_ten_thousand(case, seed, dtype):
    ratings, logits = case
    sign = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)).round() * 2 - 1
    extreme = (1e4 * sign).to(dtype).requires_grad_()
    parts = alro.alro_loss(
        extreme.log_softmax(-1), alro.gold_order(ratings), ratings.to(dtype), alpha=1, beta=1, gamma=10,
        other_log_probs=extreme.flip(1).log_softmax(-1))
    parts["total"].sum().backward()
    assert all(value.isfinite().all() for value in parts.values()) and extreme.grad.isfinite().all()


@pytest.mark.parametrize("ratings", [[5.0, 3.0, 3.0], [1.0, 2.0, 4.5], [2.0, 2.0, 2.0]])
def test_gradcheck_of_every_loss(ratings):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    ratings = torch.tensor([ratings] * 2, dtype=torch.float64)
    order, ranks = alro.gold_order(ratings), alro.gold_rank(ratings)
    for loss in (lambda x: alro.soft_rank(x.softmax(-1), 7.0),
                 lambda x: alro.lambda_loss(x[:, 0], ratings, ranks, 1.3),
                 lambda x: alro.soft_lambda_loss(x.softmax(-1), ratings, ranks, 7.0),
                 lambda x: alro.sft_loss(x.log_softmax(-1), order),
                 lambda x: alro.rating_loss(x, order)):
        assert torch.autograd.gradcheck(loss, logits)
    assert torch.autograd.gradcheck(
        lambda x, z: alro.permutation_loss(x.log_softmax(-1), z.log_softmax(-1)), (logits, other))


def test_a_term_of_weight_zero_is_left_out_even_where_it_is_infinite():
    y = torch.zeros(1, 2, 2).log_softmax(-1)
    never = torch.tensor([[[0.0, -torch.inf], [-torch.inf, 0.0]]])
    order, ratings = torch.tensor([[0, 1]]), torch.tensor([[5.0, 1.0]])
    parts = alro.alro_loss(y, order, ratings, alpha=1, beta=0, gamma=10, other_log_probs=never)
    assert parts["psl"].isinf().all() and parts["total"].isfinite().all()


def test_every_loss_makes_its_tensors_where_its_arguments_are():
    """On the meta device, which needs no GPU: an operation on tensors of two devices is an error, forward and back."""
    ratings = torch.tensor([[5.0, 3.0, 3.0], [1.0, 2.0, 4.5]]).to("meta")
    logits = torch.randn(2, 3, 3).to("meta").requires_grad_()
    rated = torch.tensor([[1, -100], [0, 2]]).to("meta")
    with OneDevice():
        order = alro.gold_order(ratings, torch.Generator().manual_seed(0))
        parts = alro.alro_loss(
            logits.log_softmax(-1), order, ratings, alpha=1, beta=1, gamma=10, sigma=2.0,
            other_log_probs=logits.flip(1).log_softmax(-1))
        (parts["total"] + alro.rating_loss(logits[:, :2], rated)).sum().backward()
        references = alro.blind_probs(order), alro.perfect_probs(order), alro.rank_of(order)
    assert all(tensor.is_meta for tensor in (order, *parts.values(), *references, logits.grad))
