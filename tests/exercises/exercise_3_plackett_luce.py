"""Exercise 3: a list-wise likelihood in the place of the pairs. 45 minutes.

The soft lambda loss adds up pairs. Plackett and Luce give a whole order its probability instead: draw the first item
with probability softmax(scores), strike it out, draw the second among the rest, and so on. Its negative logarithm is
known as ListMLE. A language model that writes one identifier after another does the very same, except that it may
change its scores after each.

What to learn: a likelihood over permutations; log-sum-exp over what is left, from the end of the list backwards; a
*score* is large where a *position* is small, and a sign forgotten there trains the list upside down; what to do with
ties.

Check: pytest tests/exercises --exercise 3
Then try it: put soft_list_mle in the place of soft_lambda_loss in alro.alro_loss, and train. Does it count a mistake at
the end of the list like one at its top? What did pair_weights do about that?
"""
import torch


def list_mle(scores: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """-log P(order) of Plackett and Luce: - sum_k log( exp(s_order[k]) / sum_{l >= k} exp(s_order[l]) ).

    Args: scores (B, m), large = ranked high; order (B, m) long, item indices, best first.
    Returns: (B,), nats per list, >= 0. Finite, with its gradient, for scores up to +-10 000.
    """
    raise NotImplementedError


def list_mle_with_ties(scores: torch.Tensor, ratings: torch.Tensor) -> torch.Tensor:
    """The same from ratings, where tied items do not compete: each item only against itself and those rated *below* it.

    Args: scores, ratings (B, m).
    Returns: (B,): - sum_i log( exp(s_i) / (exp(s_i) + sum_{j: r_j < r_i} exp(s_j)) ). Without ties it is
        list_mle(scores, gold_order(ratings)); if all ratings are equal, it is 0 and so is its gradient.
    """
    raise NotImplementedError


def soft_list_mle(probs: torch.Tensor, ratings: torch.Tensor, ranks: torch.Tensor, gamma: float,
                  sigma: float = 1.0) -> torch.Tensor:
    """list_mle_with_ties of the soft ranks, with the arguments of alro.soft_lambda_loss, so that it can take its place.

    Args: probs (B, m, m), y; ratings (B, m); ranks: not needed here; gamma as in alro.soft_rank; sigma > 0: how much
        score one rank is worth. Returns: (B,).
    """
    raise NotImplementedError
