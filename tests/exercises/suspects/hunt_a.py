"""The suspects of exercise 5: four colleagues' lambda losses. All run, are finite, and have a smooth gradient.

Arguments and values as alro.lambda_loss has them: position (B, m), small = ranked high; ratings, ranks as in
alro.pair_weights; sigma > 0. Returns (B,), in bits. At least one of the four is right.
"""
import math

import torch
import torch.nn.functional as F

from alro import normalised_gain, pair_weights


def suspect_1(position, ratings, ranks, sigma=1.0):
    """After the LambdaLoss paper's NDCG-Loss2: log2(1 + exp(-sigma (s_i - s_j))) over pairs with r_i > r_j."""
    gap = position.unsqueeze(-1) - position.unsqueeze(-2)  # (B, m, m) s_i - s_j
    # softplus(x) = ln(1 + e^x) keeps the gradient of the worst pairs and never overflows.
    loss = F.softplus(-sigma * gap, threshold=40) / math.log(2)  # (B, m, m) in bits
    return (pair_weights(ratings, ranks).to(gap.dtype) * loss).sum(dim=(-2, -1))


def suspect_2(position, ratings, ranks, sigma=1.0):
    """With LambdaRank's weight: what NDCG loses when the two swap places."""
    gap = position.unsqueeze(-1) - position.unsqueeze(-2)  # (B, m, m)
    value = 1 / torch.log2(1 + ranks.to(gap.dtype))  # (B, m)
    gain = normalised_gain(ratings)  # (B, m)
    weights = ((value.unsqueeze(-1) - value.unsqueeze(-2)) * (gain.unsqueeze(-1) - gain.unsqueeze(-2))).abs()
    wins = ratings.unsqueeze(-1) > ratings.unsqueeze(-2)  # (B, m, m)
    loss = F.softplus(sigma * gap, threshold=40) / math.log(2)  # (B, m, m)
    return torch.where(wins, weights * loss, 0.0).sum(dim=(-2, -1))


def suspect_3(position, ratings, ranks, sigma=1.0):
    """Bounded, so that one very wrong pair cannot throw the training off: no pair costs more than ten bits."""
    gap = position.unsqueeze(-1) - position.unsqueeze(-2)  # (B, m, m)
    bounded = (sigma * gap).clamp(max=0)
    loss = torch.log1p(torch.exp(bounded)) / math.log(2)  # (B, m, m)
    return (pair_weights(ratings, ranks).to(gap.dtype) * loss).sum(dim=(-2, -1))


def suspect_4(position, ratings, ranks, sigma=1.0):
    """Weights that add up to 1, so that long lists and short ones count alike."""
    gap = position.unsqueeze(-1) - position.unsqueeze(-2)  # (B, m, m)
    weights = pair_weights(ratings, ranks).to(gap.dtype)  # (B, m, m)
    weights = weights / weights.sum().clamp(min=1e-9)
    loss = F.softplus(sigma * gap, threshold=40) / math.log(2)  # (B, m, m)
    return (weights * loss).sum(dim=(-2, -1))
