"""Solution 3: Plackett-Luce (ListMLE)."""
import torch

import alro


def list_mle(scores: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    in_order = scores.gather(-1, order)  # (B, m) best first
    # Entry k of the flipped-back cumulative log-sum-exp runs over k, k + 1 .. m: all that is left when k is drawn.
    left = in_order.flip(-1).logcumsumexp(-1).flip(-1)  # (B, m)
    return (left - in_order).sum(-1)


def list_mle_with_ties(scores: torch.Tensor, ratings: torch.Tensor) -> torch.Tensor:
    below = ratings.unsqueeze(-2) < ratings.unsqueeze(-1)  # (B, m, m) [i, j]: j is rated below i
    rivals = below | torch.eye(ratings.shape[-1], dtype=torch.bool, device=ratings.device)  # (B, m, m) and i itself
    left = scores.unsqueeze(-2).masked_fill(~rivals, -torch.inf).logsumexp(-1)  # (B, m) never empty: i is in it
    return (left - scores).sum(-1)


def soft_list_mle(probs: torch.Tensor, ratings: torch.Tensor, ranks: torch.Tensor, gamma: float,
                  sigma: float = 1.0) -> torch.Tensor:
    # A soft rank is a position, small = ranked high; a score is large = ranked high: hence the minus.
    return list_mle_with_ties(-sigma * alro.soft_rank(probs, gamma), ratings)
