"""Other objectives for the same loop: pass one to train.train(..., losses=...).

Each `..._losses` is a function (model, batch, cfg) -> dict of (B,) tensors with "total", as
`train.losses` is; what else the dict holds is logged. `train.model_outputs` gives what the model
says; with PSL a batch has two rows a list, the first B in the first displayed order.
"""
import torch
from torch import Tensor

from alro import (
    alro_loss, lambda_loss, permutation_loss, rank_of, remaining, soft_rank)
from plumbing.flags import check_input
from train import add_rating_terms, model_outputs, references


def paper_objective(outputs, batch, cfg, **changed) -> dict[str, Tensor]:
    """The terms and their total, as `train.losses` has them but for the settings in `changed`.

    Args: outputs: of `train.model_outputs`.
    """
    log_probs, other_log_probs, rating_terms = outputs
    order = batch.order[:len(log_probs)]  # (B, m)
    ratings = batch.ratings[:len(log_probs)]  # (B, m)
    settings = {"alpha": cfg.alpha, "beta": cfg.beta, "gamma": cfg.gamma, "sigma": cfg.sigma,
                **changed}
    terms = alro_loss(log_probs, order, ratings, other_log_probs=other_log_probs, **settings)
    return add_rating_terms(terms, rating_terms)


def with_references(terms: dict[str, Tensor], batch, cfg) -> dict[str, Tensor]:
    """The terms, and what to read SLL beside."""
    n_lists = len(terms["total"])
    return {**terms, **references(batch.order[:n_lists], batch.ratings[:n_lists], cfg)}


# ---- SFT with a soft target over ties ------------------------------------------------------------

def soft_ties_loss(log_probs: Tensor, order: Tensor, ratings: Tensor) -> Tensor:
    """SFT with a soft target: at each position all candidates tied for it are equally right.

    Args: log_probs, order as in `sft_loss`; ratings (B, m).
    Returns: (B,), nats per identifier; the same as `sft_loss` where no two ratings are equal.
    Differs from the paper: OURS. `sft_loss` asks for the one order that was drawn for the ties and
        punishes all others, though the user likes them as much. Over the draws both have one mean
        (given those before k, each candidate tied for k is drawn as often), so the expected gradient
        is the same; but here a position's term depends only on what was drawn before it. Before
        candidates' ratings were targets, SFT and SFT + SLL on shuffled orders ended higher with it
        in the demo, ALRO on shown ones did not (results/LOG.md).
    """
    rating_at = ratings.gather(-1, order).unsqueeze(-1)  # (B, m, 1) that of gold position k
    tied = ratings.unsqueeze(-2) == rating_at  # (B, m, m) i is rated as gold k
    right = tied & remaining(order)  # (B, m, m)
    # Select, do not multiply: what is not right may have a log-probability of -inf.
    of_right = torch.where(right, log_probs, 0.0).sum(-1)  # (B, m)
    return -(of_right / right.sum(-1)).mean(-1)


def soft_ties_losses(model, batch, cfg) -> dict[str, Tensor]:
    """As train.losses, but with `soft_ties_loss` in the place of SFT."""
    outputs = model_outputs(model, batch, cfg)
    terms = paper_objective(outputs, batch, cfg)
    log_probs = outputs[0]  # (B, m, m)
    n_lists = len(log_probs)
    soft = soft_ties_loss(log_probs, batch.order[:n_lists], batch.ratings[:n_lists])  # (B,)
    terms["total"] = terms["total"] + soft - terms["sft"]
    terms["sft"] = soft
    return with_references(terms, batch, cfg)


# ---- The lambda loss of the first step's scores, in the place of SLL -----------------------------

def first_step_loss(log_probs: Tensor, ratings: Tensor, sigma: float) -> Tensor:
    """The classic lambda loss (B,), in bits, of the first output position's logits.

    Args: log_probs (B, m, m), of which [:, 0] are scores, large = good; ratings (B, m).
    """
    score = log_probs[:, 0]  # (B, m)
    ranks = rank_of(score.argsort(-1, descending=True))  # by score, not the gold ones
    return lambda_loss(-score, ratings, ranks, sigma)


def first_step_losses(model, batch, cfg) -> dict[str, Tensor]:
    """As train.losses, but with `first_step_loss` in the place of SLL."""
    outputs = model_outputs(model, batch, cfg)
    terms = paper_objective(outputs, batch, cfg, alpha=0)
    log_probs = outputs[0]  # (B, m, m)
    terms["sll"] = first_step_loss(log_probs, batch.ratings[:len(log_probs)], cfg.sigma)
    if cfg.alpha > 0:
        terms["total"] = terms["total"] + cfg.alpha * terms["sll"]
    return with_references(terms, batch, cfg)


def current_rank_losses(model, batch, cfg) -> dict[str, Tensor]:
    """As train.losses, but delta is over the model's current ranks, as in the classic NDCG-Loss2,
    not over the target ranks that the summary names (the doubt in alro.pair_weights)."""
    outputs = model_outputs(model, batch, cfg)
    terms = paper_objective(outputs, batch, cfg, alpha=0)
    log_probs = outputs[0]  # (B, m, m)
    position = soft_rank(log_probs.softmax(-1), cfg.gamma)  # (B, m)
    current = rank_of(position.detach().argsort(-1))  # (B, m)
    terms["sll"] = lambda_loss(position, batch.ratings[:len(log_probs)], current, cfg.sigma)
    if cfg.alpha > 0:
        terms["total"] = terms["total"] + cfg.alpha * terms["sll"]
    return with_references(terms, batch, cfg)


# ---- The second display: also for SFT and SLL, or only for them ----------------------------------

def both_orders_losses(model, batch, cfg) -> dict[str, Tensor]:
    """As train.losses, but SFT and SLL are the mean over both displayed orders.

    GUESS in train.losses: on the first alone; the paper's sum shows one prompt.
    """
    check_input(cfg.beta > 0, "a second displayed order is drawn only where --beta is above 0")
    first, other, rating_terms = model_outputs(model, batch, cfg)
    terms = paper_objective((first, other, rating_terms), batch, cfg)
    # Half of the way from the first order's SFT and SLL to the other's.
    of_first = paper_objective((first, None, {}), batch, cfg)
    of_other = paper_objective((other, None, {}), batch, cfg)
    for name in ("sft", "sll", "total"):
        to_other = of_other[name] - of_first[name]  # (B,)
        terms[name] = terms[name] + to_other / 2
    return with_references(terms, batch, cfg)


def both_displays_losses(model, batch, cfg) -> dict[str, Tensor]:
    """A control for PSL: `both_orders_losses` without PSL's term, though it is logged.

    The model sees and answers both displays, as PSL's second prompt lets it; nothing pulls the two
    answers together. (--beta above 0 draws the second display, and its size plays no part.)
    """
    terms = both_orders_losses(model, batch, cfg)
    terms["total"] = terms["total"] - cfg.beta * terms["psl"]
    return terms


def detached_target_losses(model, batch, cfg) -> dict[str, Tensor]:
    """As train.losses, but PSL's target is fixed: no gradient flows into y, only into y'."""
    outputs = model_outputs(model, batch, cfg)
    terms = paper_objective(outputs, batch, cfg, beta=0)
    log_probs, other_log_probs, _rating_terms = outputs
    if other_log_probs is not None:
        target = log_probs.log_softmax(-1).detach()  # (B, m, m)
        terms["psl"] = permutation_loss(target, other_log_probs.log_softmax(-1))
        terms["total"] = terms["total"] + cfg.beta * terms["psl"]
    return with_references(terms, batch, cfg)


# ---- No ranking loss at all ----------------------------------------------------------------------

def ratings_only_losses(model, batch, cfg) -> dict[str, Tensor]:
    """A control for the list-wise losses: the ratings of history and candidates are the only
    targets. Rank with such a model by --decode ratings; it never learns to answer.
    """
    outputs = model_outputs(model, batch, cfg)
    rating_terms = outputs[2]
    check_input(rating_terms, "ratings alone need --history_weight or --candidate_weight above 0")
    terms = paper_objective(outputs, batch, cfg)
    total = torch.zeros_like(terms["total"])
    if cfg.history_weight > 0:
        total = total + cfg.history_weight * terms["history"]
    if cfg.candidate_weight > 0:
        total = total + cfg.candidate_weight * terms["candidates"]
    terms["total"] = total
    return with_references(terms, batch, cfg)
