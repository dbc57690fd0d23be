"""The suspect of exercise 5: a colleague's lambda loss. It runs, it is finite, its gradient is smooth."""
import math

import torch
import torch.nn.functional as F

from alro import pair_weights


def lambda_loss(position: torch.Tensor, ratings: torch.Tensor, ranks: torch.Tensor, sigma: float = 1.0) -> torch.Tensor:
    """Weighted pairwise logistic loss on soft ranks.

    Args: position (B, m), s, from `soft_rank`; ratings, ranks as in `pair_weights`; sigma > 0.
    Returns: (B,), in bits (log2); 0 if all ratings of a list are equal.
    Source: LambdaLoss (Wang et al., CIKM 2018), NDCG-Loss2:
        sum over pairs with r_i > r_j of delta_ij |G_i - G_j| log2(1 + exp(-sigma (s_i - s_j))).
    """
    gap = position.unsqueeze(-1) - position.unsqueeze(-2)  # (B, m, m) s_i - s_j
    # softplus(x) = ln(1 + e^x) keeps the gradient of the worst pairs and never overflows.
    loss = F.softplus(-sigma * gap, threshold=40) / math.log(2)  # (B, m, m) in bits
    return (pair_weights(ratings, ranks).to(gap.dtype) * loss).sum(dim=(-2, -1))
