"""Exercise 1: another pair weight. 30 minutes.

The paper weighs a pair by delta_ij = | 1/D_|tau_i - tau_j| - 1/D_(|tau_i - tau_j| + 1) |, D_k = log2(1 + k): by the
*distance* of two ranks, wherever in the list they stand. A pair of neighbours weighs .369, first against last of ten
.012. LambdaRank asks another question: by how much does NDCG change if the two swap places? Write both that weight
and the mixture of the two, as drop-ins for `alro.pair_weights`.

What to learn: what delta does and does not see; selecting (torch.where) instead of multiplying by a mask, because the
diagonal of delta is infinite and 0 * inf is not 0. You may import alro and use what is there.

Begin: python tests/exercises/start.py 1       Check: pytest tests/exercises --exercise 1
Then try it: print both weights for ratings 5, 4.5 ... 0.5 (the checks' last test). Expect .055 for best against second
and .006 for best against worst from alro.pair_weights; with your weight best against worst is the heaviest of all. To
train with it, write a `losses` as exercise 3 does. Scale --alpha so that "sll" starts where it did: the two losses
differ in size.
"""
import torch


def lambdarank_weights(ratings: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """What NDCG loses when i and j swap places and every other candidate stays where it is.

    Args: ratings (B, m) float >= 0; ranks (B, m), the places: 1-based, of any order, may be fractional (ties share a
        mean rank, and the discount is then that of the mean rank).
    Returns: (B, m, m), the size of the change where ratings_i > ratings_j, else 0. A list rated 0 throughout gives 0,
        not NaN.
    """
    raise NotImplementedError


def ndcg_loss2pp_weights(ratings: torch.Tensor, ranks: torch.Tensor, mu: float = 10.0) -> torch.Tensor:
    """NDCG-Loss2++ of the LambdaLoss paper: the weight above, and mu times ALRO's.

    Args: ratings, ranks as above; mu >= 0: 0 is LambdaRank.
    Returns: (B, m, m), 0 where ratings_i > ratings_j does not hold.
    """
    raise NotImplementedError
