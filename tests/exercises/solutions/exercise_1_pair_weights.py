"""Solution 1: LambdaRank's pair weight, and NDCG-Loss2++."""
import torch

import alro


def lambdarank_weights(ratings: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    gain = 2.0 ** ratings - 1  # (B, m)
    places = torch.arange(1, ratings.shape[-1] + 1, dtype=gain.dtype, device=gain.device)  # (m,)
    ideal = (gain.sort(-1, descending=True).values / torch.log2(1 + places)).sum(-1, keepdim=True)  # (B, 1)
    gain = gain / ideal  # (B, m) NaN where all ratings are 0: no pair of that list is selected below
    value = 1 / torch.log2(1 + ranks.to(gain.dtype))  # (B, m) what a place is worth: it depends on *where* it is
    rho = (value.unsqueeze(-1) - value.unsqueeze(-2)).abs()  # (B, m, m) finite, unlike delta
    wins = ratings.unsqueeze(-1) > ratings.unsqueeze(-2)  # (B, m, m) i is rated above j
    return torch.where(wins, rho * (gain.unsqueeze(-1) - gain.unsqueeze(-2)).abs(), 0.0)


def ndcg_loss2pp_weights(ratings: torch.Tensor, ranks: torch.Tensor, mu: float = 10.0) -> torch.Tensor:
    # Both terms hold |G_i - G_j| already, and both are 0 off the selected pairs, so the mixture is a sum.
    return lambdarank_weights(ratings, ranks) + mu * alro.pair_weights(ratings, ranks)
