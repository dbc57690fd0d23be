"""Exercise 3: a list-wise likelihood in the place of the pairs. 60 minutes.

The soft lambda loss adds up pairs. Plackett and Luce give a whole order its probability instead: draw the first
candidate with probability softmax(scores), strike it out, draw the second among the rest, and so on. Its negative
logarithm is known as ListMLE. A language model that writes one identifier after another does the very same,
except that it may change its scores after each.

What to learn: a likelihood over permutations; log-sum-exp over what is left, from the end of the list backwards; a
*score* is large where a *position* is small, and a sign forgotten there trains the list upside down; what to do with
ties.

Begin: python tests/exercises/start.py 3       Check: pytest tests/exercises --exercise 3

Every place to touch, to train with a loss of your own: this file. `python train.py --losses module:function` takes any
function with the arguments of train.losses; what it returns is logged by its name, and "total" is minimised. No line of
alro.py or train.py changes; experiments/objectives.py holds more such functions. (To keep a loss in the project there
is more: a slow oracle and a property in tests/test_losses.py.)

Then try it: python train.py --losses tests.exercises.mine.exercise_3_plackett_luce:losses --steps 100
Expect log.jsonl, in the run's folder, to show your "sll". Does it count a mistake at the end of the list like one at
its top? (Yes: every position gives one term of the same kind. pair_weights made pairs of large gain weigh more,
wherever they stand.)
"""
import torch


def list_mle(scores: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """-log P(order) of Plackett and Luce: - sum_k log( exp(s_order[k]) / sum_{l >= k} exp(s_order[l]) ).

    Args: scores (B, m), large = ranked high; order (B, m) long, candidates, best first.
    Returns: (B,), nats per list, >= 0. Finite, with its gradient, for scores up to +-10 000.
    """
    raise NotImplementedError


def list_mle_with_ties(scores: torch.Tensor, ratings: torch.Tensor) -> torch.Tensor:
    """The same from ratings, where tied candidates do not compete: each one only against itself and those *below* it.

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


def losses(model, batch, cfg) -> dict[str, torch.Tensor]:
    """train.losses with soft_list_mle in the place of SLL.

    Args: model; batch: alro.Batch of B lists or, with cfg.beta > 0, of 2 B rows; cfg: train.TrainConfig.
    Returns: {name: (B,)}, the names of train.losses: "sll" is your loss, "total" holds cfg.alpha times it, "blind_sll"
        and "perfect_sll" are your loss of alro.blind_probs and alro.perfect_probs of the gold order.
    Hints: train.model_outputs, alro.alro_loss (with alpha 0), train.add_rating_terms and train.references do all but
        your part of it.
    """
    raise NotImplementedError
