"""The losses of alro.py against slow double loops written from the paper's equations, and their properties.

Each oracle is plain Python on floats, so that it cannot share a mistake of indexing or broadcasting with the code.
"""
import itertools
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import alro

settings.register_profile("alro", deadline=None, max_examples=60)
settings.load_profile("alro")


# ---- oracles, from the paper ----------------------------------------------------------------------------------------

def oracle_soft_rank(y, gamma):
    """s_i = sum_k k exp(gamma y_ki) / sum_l exp(gamma y_li)"""
    m = len(y)
    e = [[math.exp(gamma * y[k][i]) for i in range(m)] for k in range(m)]
    return [sum((k + 1) * e[k][i] for k in range(m)) / sum(e[k][i] for k in range(m)) for i in range(m)]


def oracle_gold_rank(ratings):
    """The mean, over all orders with ratings descending, of each item's place."""
    m = len(ratings)
    good = [p for p in itertools.permutations(range(m))
            if all(ratings[a] >= ratings[b] for a, b in itertools.pairwise(p))]
    return [sum(p.index(i) + 1 for p in good) / len(good) for i in range(m)]


def oracle_weight(i, j, ratings, ranks):
    """delta_ij |G_i - G_j| for a pair in which i is rated above j."""
    ideal = sum((2 ** r - 1) / math.log2(1 + k) for k, r in enumerate(sorted(ratings, reverse=True), 1))
    gap = abs(ranks[i] - ranks[j])
    delta = abs(1 / math.log2(1 + gap) - 1 / math.log2(1 + gap + 1))
    return delta * abs((2 ** ratings[i] - 1) / ideal - (2 ** ratings[j] - 1) / ideal)


def oracle_lambda_loss(position, ratings, ranks, sigma):
    """sum over pairs with r_i > r_j of delta_ij |G_i - G_j| log2(1 + exp(sigma (s_i - s_j)))"""
    total = 0.0
    for i in range(len(ratings)):
        for j in range(len(ratings)):
            if ratings[i] > ratings[j]:
                x = sigma * (position[i] - position[j])
                log = max(x, 0) + math.log1p(math.exp(-abs(x)))  # log(1 + e^x) without overflow
                total += oracle_weight(i, j, ratings, ranks) * log / math.log(2)
    return total


# ---- strategies -----------------------------------------------------------------------------------------------------

@st.composite
def lists(draw, most=8):
    """(ratings (B, m), logits (B, m, m)) in float64; half stars, ties and lists with a single rating included."""
    m, rows, seed = draw(st.integers(2, most)), draw(st.integers(1, 3)), draw(st.integers(0, 2 ** 32 - 1))
    ratings = draw(st.lists(st.lists(st.integers(0, 10), min_size=m, max_size=m), min_size=rows, max_size=rows))
    spread = draw(st.sampled_from([0.0, 1.0, 5.0]))
    logits = spread * torch.randn(rows, m, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor(ratings, dtype=torch.float64) / 2, logits


positive = st.floats(0.05, 20)


# ---- gold order and rank --------------------------------------------------------------------------------------------

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


@given(st.lists(st.integers(1, 3), min_size=2, max_size=6))
def test_gold_rank_is_the_mean_over_all_gold_orders(ratings):
    expected = torch.tensor([oracle_gold_rank(ratings)])
    assert torch.allclose(alro.gold_rank(torch.tensor([ratings])).float(), expected)


# ---- soft-argmax ----------------------------------------------------------------------------------------------------

@given(lists(), positive)
def test_equation_soft_argmax_against_double_loop(case, gamma):
    _, logits = case
    y = logits.softmax(-1)
    expected = torch.tensor([oracle_soft_rank(one, gamma) for one in y.tolist()], dtype=torch.float64)
    assert torch.allclose(alro.soft_rank(y, gamma), expected, rtol=0, atol=1e-10)


@given(st.integers(2, 10), st.integers(0, 2 ** 32 - 1), st.floats(10, 1e4))
def test_soft_rank_tends_to_the_argmax_of_each_column(m, seed, gamma):
    """Error at most sum_l |l - k*| exp(-gamma gap_l), gap_l = how far column entry l lies below the largest, k*."""
    y = torch.rand(1, m, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    best = y.max(dim=1)
    places = torch.arange(m, dtype=torch.float64)
    bound = ((places[:, None] - best.indices[0]).abs() * torch.exp(-gamma * (best.values - y[0]))).sum(0)
    error = (alro.soft_rank(y, gamma)[0] - (best.indices[0] + 1)).abs()
    assert (error <= bound + 1e-9).all()


def test_soft_rank_has_two_cliffs():
    """The blind model's soft ranks, as stated in alro.soft_rank: useless at gamma 1, the answer itself at gamma 100."""
    blind = alro.blind_probs(torch.arange(10).unsqueeze(0)).double()
    assert (alro.soft_rank(blind, 1.0) - 5.5).abs().max() < 1
    ten = alro.soft_rank(blind, 10.0)[0]
    assert torch.allclose(ten, torch.tensor([4.8, 4.4, 4.2, 4.2, 4.3, 4.7, 5.3, 6.4, 8.2, 10]).double(), atol=0.06)
    hundred = alro.soft_rank(blind, 100.0)[0]
    assert (hundred[1:] > hundred[:-1]).all() and (hundred - torch.arange(1, 11)).abs().max() < 0.8


def test_blind_probs_are_uniform_over_what_is_left():
    y = alro.blind_probs(torch.tensor([[2, 0, 1]]))
    assert torch.allclose(y, torch.tensor([[[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 2, 0], [0, 1, 0]]]))


# ---- pair weights and lambda loss -----------------------------------------------------------------------------------

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
        found = alro.lambda_loss(position, ratings, ranks, sigma)
        for b in range(len(ratings)):
            expected = oracle_lambda_loss(position[b].tolist(), ratings[b].tolist(), ranks[b].tolist(), sigma)
            assert abs(found[b].item() - expected) < 1e-10


def test_equation_soft_lambda_loss_by_hand():
    """Three candidates rated 5, 3, 3. Ranks 1, 2.5, 2.5; gains 31, 7, 7; ideal DCG 31 + 7/log2(3) + 7/2 = 38.916508."""
    y = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.2, 0.2, 0.6]]], dtype=torch.float64)
    ratings = torch.tensor([[5.0, 3.0, 3.0]], dtype=torch.float64)
    ideal = 31 + 7 / math.log2(3) + 7 / 2
    delta = 1 / math.log2(2.5) - 1 / math.log2(3.5)  # rank distance 1.5
    s = oracle_soft_rank(y[0].tolist(), 10)
    expected = sum(delta * 24 / ideal * math.log2(1 + math.exp(s[0] - other)) for other in s[1:])
    found = alro.soft_lambda_loss(y, ratings, alro.gold_rank(ratings), gamma=10.0)
    assert abs(found.item() - expected) < 1e-12


def test_sign_of_the_lambda_loss():
    """s is a position: putting the better item first must cost less. A test of the sign alone (GUESS in alro.py)."""
    ratings, ranks = torch.tensor([[5.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    right = alro.lambda_loss(torch.tensor([[1.0, 2.0]]), ratings, ranks)
    wrong = alro.lambda_loss(torch.tensor([[2.0, 1.0]]), ratings, ranks)
    assert right < wrong
    position = torch.tensor([[1.5, 1.5]], requires_grad=True)
    alro.lambda_loss(position, ratings, ranks).backward()
    assert position.grad[0, 0] > 0 > position.grad[0, 1]  # descent moves the better item to a smaller position


@given(lists(), positive, positive)
def test_a_step_down_the_gradient_of_sll_lowers_it(case, gamma, sigma):
    ratings, logits = case
    logits = logits.clone().requires_grad_()
    loss = alro.soft_lambda_loss(logits.softmax(-1), ratings, alro.gold_rank(ratings), gamma, sigma).sum()
    gradient, = torch.autograd.grad(loss, logits)
    if gradient.abs().max() > 1e-6:
        with torch.no_grad():
            lower = logits - 1e-4 * gradient / gradient.norm()
            assert alro.soft_lambda_loss(lower.softmax(-1), ratings, alro.gold_rank(ratings), gamma, sigma).sum() < loss


# ---- SFT, PSL, objective --------------------------------------------------------------------------------------------

@given(lists())
def test_equation_sft_against_loop(case):
    ratings, logits = case
    log_probs, order = logits.log_softmax(-1), alro.gold_order(ratings)
    m = ratings.shape[1]
    for b, found in enumerate(alro.sft_loss(log_probs, order).tolist()):
        expected = -sum(log_probs[b, k, order[b, k]].item() for k in range(m)) / m
        assert abs(found - expected) < 1e-12


@given(lists(), st.integers(0, 2 ** 32 - 1))
def test_equation_psl_against_loop(case, seed):
    _, logits = case
    y = logits.log_softmax(-1)
    random = torch.Generator().manual_seed(seed)
    other = torch.randn(logits.shape, generator=random, dtype=torch.float64).log_softmax(-1)
    m = logits.shape[-1]
    for b, found in enumerate(alro.permutation_loss(y, other).tolist()):
        expected = -sum(math.exp(y[b, k, i]) * other[b, k, i].item() for k in range(m) for i in range(m)) / m
        assert abs(found - expected) < 1e-10
    entropy = alro.permutation_loss(y, y)
    assert (alro.permutation_loss(y, other) >= entropy - 1e-12).all()  # its minimum over y' is the entropy of y


def test_psl_gradient_flows_into_the_target_only_if_asked():
    y, other = (torch.randn(2, 3, 3, requires_grad=True) for _ in range(2))
    alro.permutation_loss(y.log_softmax(-1), other.log_softmax(-1)).sum().backward()
    assert y.grad is None and other.grad.abs().sum() > 0
    alro.permutation_loss(y.log_softmax(-1), other.log_softmax(-1), through_target=True).sum().backward()
    assert y.grad.abs().sum() > 0


@given(lists(), st.booleans())
def test_objective_is_the_weighted_sum_of_its_parts(case, both):
    """L = L_sft + alpha L_sll + beta L_psl + history_weight L_history, SLL and PSL over the identifiers alone."""
    ratings, logits = case
    whole = logits.log_softmax(-1) - 1.5  # as if the vocabulary held more than the identifiers
    other = logits.flip(1).log_softmax(-1) - 0.5
    order, history = alro.gold_order(ratings), torch.arange(len(ratings)).double()
    parts = alro.alro_loss(whole, order, ratings, alpha=0.7, beta=0.3, gamma=5.0, sigma=2.0, other_log_probs=other,
                           loss_on_both=both, history=history, history_weight=0.2)
    ranks, y = alro.gold_rank(ratings), logits.softmax(-1)
    sft, sll = alro.sft_loss(whole, order), alro.soft_lambda_loss(y, ratings, ranks, 5.0, 2.0)
    if both:
        sft = (sft + alro.sft_loss(other, order)) / 2
        sll = (sll + alro.soft_lambda_loss(other.softmax(-1), ratings, ranks, 5.0, 2.0)) / 2
    psl = alro.permutation_loss(logits.log_softmax(-1), logits.flip(1).log_softmax(-1))
    assert torch.allclose(parts["sft"], sft) and torch.allclose(parts["sll"], sll) and torch.allclose(parts["psl"], psl)
    assert torch.allclose(parts["total"], sft + 0.7 * sll + 0.3 * psl + 0.2 * history)
    assert (parts["kl"] >= -1e-9).all()
    plain = alro.alro_loss(whole, order, ratings, alpha=0, beta=0.3, gamma=5.0)
    assert torch.equal(plain["total"], plain["sft"]) and "psl" not in plain


@given(lists(), positive)
def test_first_step_rival_is_the_lambda_loss_of_the_first_positions_scores(case, sigma):
    ratings, logits = case
    random = torch.Generator().manual_seed(0)
    logits = logits + torch.randn(logits.shape, dtype=torch.float64, generator=random)  # no ties
    found = alro.alro_loss(logits.log_softmax(-1), alro.gold_order(ratings), ratings, alpha=1.0, beta=0.0, gamma=1.0,
                           sigma=sigma, first_step=True)["sll"]
    for row, (scores, r) in enumerate(zip(logits[:, 0].tolist(), ratings.tolist())):
        ranks = [1 + sum(other > score for other in scores) for score in scores]
        assert abs(found[row].item() - oracle_lambda_loss([-x for x in scores], r, ranks, sigma)) < 1e-9


# ---- properties -----------------------------------------------------------------------------------------------------

@given(lists(), st.integers(0, 2 ** 32 - 1), positive, positive)
def test_relabelling_items_changes_no_loss(case, seed, gamma, sigma):
    ratings, logits = case
    p = torch.randperm(ratings.shape[1], generator=torch.Generator().manual_seed(seed))
    y, order = logits.log_softmax(-1), alro.gold_order(ratings)
    names = p.argsort()  # item i of the old list is item names[i] of the new one
    options = {"alpha": 1.0, "beta": 1.0, "gamma": gamma, "sigma": sigma}
    before = alro.alro_loss(y, order, ratings, other_log_probs=y.flip(1), **options)
    after = alro.alro_loss(y[..., p], names[order], ratings[:, p], other_log_probs=y.flip(1)[..., p], **options)
    for name in before:
        assert torch.allclose(before[name], after[name], atol=1e-10), name


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
    assert torch.allclose(loss, alro.soft_lambda_loss(swapped, ratings, alro.gold_rank(ratings), gamma), atol=1e-12)


@given(st.integers(2, 8), st.sampled_from([0.0, 0.5, 5.0, 10.0]))
@example(2, 0.0)
def test_no_informative_pair_gives_zero_and_a_zero_gradient(m, rating):
    logits = torch.randn(1, m, m, requires_grad=True)
    ratings = torch.full((1, m), rating)
    loss = alro.soft_lambda_loss(logits.softmax(-1), ratings, alro.gold_rank(ratings), 10.0)
    loss.sum().backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


@given(lists(), st.integers(0, 2 ** 32 - 1), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
def test_finite_losses_and_gradients_at_logits_of_ten_thousand(case, seed, through, dtype):
    ratings, logits = case
    sign = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)).round() * 2 - 1
    extreme = (1e4 * sign).to(dtype).requires_grad_()
    parts = alro.alro_loss(
        extreme.log_softmax(-1), alro.gold_order(ratings), ratings.to(dtype), alpha=1, beta=1, gamma=10,
        other_log_probs=extreme.flip(1).log_softmax(-1), through_target=through)
    parts["total"].sum().backward()
    assert all(value.isfinite().all() for value in parts.values()) and extreme.grad.isfinite().all()


@pytest.mark.parametrize("ratings", [[5.0, 3.0, 3.0], [1.0, 2.0, 4.5], [2.0, 2.0, 2.0]])
def test_gradcheck_of_every_loss(ratings):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    ratings = torch.tensor([ratings] * 2, dtype=torch.float64)
    order, ranks = alro.gold_order(ratings), alro.gold_rank(ratings)
    assert torch.autograd.gradcheck(lambda x: alro.soft_rank(x.softmax(-1), 7.0), logits)
    assert torch.autograd.gradcheck(lambda x: alro.lambda_loss(x[:, 0], ratings, ranks, 1.3), logits)
    assert torch.autograd.gradcheck(lambda x: alro.soft_lambda_loss(x.softmax(-1), ratings, ranks, 7.0), logits)
    assert torch.autograd.gradcheck(lambda x: alro.sft_loss(x.log_softmax(-1), order), logits)
    assert torch.autograd.gradcheck(
        lambda x, z: alro.permutation_loss(x.log_softmax(-1), z.log_softmax(-1), True), (logits, other))


def test_a_term_of_weight_zero_is_left_out_even_where_it_is_infinite():
    y = torch.zeros(1, 2, 2).log_softmax(-1)
    never = torch.tensor([[[0.0, -torch.inf], [-torch.inf, 0.0]]])
    order, ratings = torch.tensor([[0, 1]]), torch.tensor([[5.0, 1.0]])
    parts = alro.alro_loss(y, order, ratings, alpha=1, beta=0, gamma=10, other_log_probs=never)
    assert parts["psl"].isinf().all() and parts["total"].isfinite().all()


@pytest.mark.parametrize("gap", [19.0, 21.0, 30.0, 39.0, 41.0, 800.0])
def test_lambda_loss_is_exact_far_out(gap):
    """softplus at its default threshold of 20 would be off by 2e-9 at a gap of 21."""
    ratings, ranks = torch.tensor([[4.0, 1.0]], dtype=torch.float64), torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    found = alro.lambda_loss(torch.tensor([[gap, 0.0]], dtype=torch.float64), ratings, ranks)
    expected = oracle_lambda_loss([gap, 0.0], ratings[0].tolist(), ranks[0].tolist(), 1.0)
    assert found.item() == pytest.approx(expected, rel=1e-13)
