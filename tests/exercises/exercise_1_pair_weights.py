"""Exercise 1: another pair weight. 30 minutes.

The paper weighs a pair by delta_ij = | 1/D_|tau_i - tau_j| - 1/D_(|tau_i - tau_j| + 1) |, D_k = log2(1 + k): by the
*distance* of two ranks, wherever in the list they stand. A pair of neighbours weighs .369, first against last of ten
.012. LambdaRank asks another question: by how much does NDCG change if the two swap places? Write both that weight
and the mixture of the two, as drop-ins for `alro.pair_weights`.

What to learn: what delta does and does not see; selecting (torch.where) instead of multiplying by a mask, because the
diagonal of delta is infinite and 0 * inf is not 0. You may import alro and use what is there.

Begin: python tests/exercises/start.py 1       Check: pytest tests/exercises --exercise 1
Then try it: print both weights for ratings 5, 4.5 ... 0.5 (the checks' last test). Expect .369 against .012 for the
distances 1 and 9 in delta, before |G_i - G_j|; with your weight the pair best, worst is the heaviest of all. To train
with it, write a `losses` as exercise 3 does. Scale --alpha so that "sll" starts where it did: the two losses differ in
size.
"""
import torch


def lambdarank_weights(ratings: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """What swapping i and j costs in NDCG, when every item stands at its gold rank.

    Args: ratings (B, m) float >= 0; ranks (B, m), 1-based, may be fractional (ties share a mean rank).
    Returns: (B, m, m), |G_i - G_j| * | 1/D_tau_i - 1/D_tau_j | where ratings_i > ratings_j, else 0.
        G_i = (2^r_i - 1) / ideal DCG of the list, D_k = log2(1 + k). A list rated 0 throughout gives 0, not NaN.
    """
    raise NotImplementedError


def ndcg_loss2pp_weights(ratings: torch.Tensor, ranks: torch.Tensor, mu: float = 10.0) -> torch.Tensor:
    """NDCG-Loss2++ of the LambdaLoss paper: (rho_ij + mu delta_ij) |G_i - G_j|; rho, the factor above; delta, ALRO's.

    Args: ratings, ranks as above; mu >= 0: 0 is LambdaRank.
    Returns: (B, m, m), 0 where ratings_i > ratings_j does not hold.
    """
    raise NotImplementedError
