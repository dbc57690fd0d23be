"""Checks of exercise 5: the student's property must tell right from wrong."""
import functools
import math

import pytest
import torch
from classroom import SUSPECTS, judge, judge_suspects
from suspects import hunt_a

import alro


def as_in_alro(position, ratings, ranks, sigma=1.0):
    return alro.lambda_loss(position, ratings, ranks, sigma)


def in_loops_and_larger(position, ratings, ranks, sigma=1.0):
    """The same values, pair by pair, times 1000: the size of a loss is no bug."""
    weights, m = alro.pair_weights(ratings, ranks), position.shape[-1]
    return 1000 * sum(weights[:, i, j] * torch.log1p(torch.exp(sigma * (position[:, i] - position[:, j]))) / math.log(2)
                   for i in range(m) for j in range(m))


def steeper(position, ratings, ranks, sigma=1.0):
    return alro.lambda_loss(position, ratings, ranks, 1.7 * sigma)


def worse_first(position, ratings, ranks, sigma=1.0):
    """Another way to the same harm: the pairs are those in which i is rated *below* j."""
    return alro.lambda_loss(position, ratings.max() + ratings.min() - ratings, ranks, sigma)


def deaf_to(number, position, ratings, ranks, sigma=1.0):
    """No gradient ever reaches one candidate: that of this number, whatever its rating."""
    heard = torch.arange(position.shape[-1]) != number % position.shape[-1]  # (m,)
    return alro.lambda_loss(torch.where(heard, position, 3.0), ratings, ranks, sigma)


def turned_for(number, position, ratings, ranks, sigma=1.0):
    """The sign is wrong where candidate `number` is the better one of a pair, and nowhere else."""
    weights = alro.pair_weights(ratings, ranks)
    gap = position.unsqueeze(-1) - position.unsqueeze(-2)  # (B, m, m)
    sign = torch.ones(position.shape[-1], 1).to(gap.dtype)
    sign[number % position.shape[-1]] = -1
    return (weights * torch.nn.functional.softplus(sigma * sign * gap)).sum((-2, -1))


def upside_down_in_row(number, position, ratings, ranks, sigma=1.0):
    """One list of a batch is minimised, the others are as they should be; alone, every list is right."""
    loss = alro.lambda_loss(position, ratings, ranks, sigma)
    turned = torch.arange(len(loss)) == (1 + number % max(1, len(loss) - 1) if len(loss) > 1 else -1)
    return torch.where(turned, -loss, loss)


def divided_by_the_batch(position, ratings, ranks, sigma=1.0):
    """A list weighs the less, the more the other lists of its batch lose. Alone, it is as it should be but for size."""
    loss = alro.lambda_loss(position, ratings, ranks, sigma)
    return loss / (1 + loss.sum())


def divided_by_the_best_rating(position, ratings, ranks, sigma=1.0):
    """By the best rating of the whole batch: a list weighs less where a neighbour's film is liked."""
    return alro.lambda_loss(position, ratings, ranks, sigma) / ratings.max()


def divided_by_all_ratings(position, ratings, ranks, sigma=1.0):
    """By the sum of all ratings of the batch."""
    return alro.lambda_loss(position, ratings, ranks, sigma) / ratings.sum()


def on_the_batchs_scale(position, ratings, ranks, sigma=1.0):
    """Ratings are brought to 0..5 first, by the worst and the best of the batch."""
    spread = (ratings.max() - ratings.min()).clamp(min=1e-9)
    return alro.lambda_loss(position, 5 * (ratings - ratings.min()) / spread, ranks, sigma)


NORMALISED = [divided_by_the_best_rating, divided_by_all_ratings, on_the_batchs_scale]
RIGHT = {"suspect_2": hunt_a.suspect_2, "alro.lambda_loss": as_in_alro,
         "one in plain loops, times 1000": in_loops_and_larger,
         "a steeper one": steeper}
WRONG = {name: getattr(hunt_a, name) for name in ("suspect_1", "suspect_3", "suspect_4")}
WRONG["a fifth, unseen loss"] = worse_first
WRONG["a sixth, unseen loss"] = divided_by_the_batch
for n in range(5):
    WRONG[f"one that is wrong for certain candidates ({n})"] = functools.partial(deaf_to, n)
    WRONG[f"another that is wrong for certain candidates ({n})"] = functools.partial(turned_for, n)
for n in range(3):
    WRONG[f"one that is wrong for some lists of a batch ({n})"] = functools.partial(upside_down_in_row, n)
    WRONG[f"one that reads all ratings of a batch ({n})"] = NORMALISED[n]


UNSEEN_RIGHT = [name for name in RIGHT if name not in SUSPECTS]
UNSEEN_WRONG = [name for name in WRONG if name not in SUSPECTS]


def test_the_suspects_are_told_apart(work):
    losses = RIGHT | WRONG
    judge_suspects(lambda suspect: work.check_lambda_loss(losses[suspect]), RIGHT, "check_lambda_loss")


@pytest.mark.parametrize("unseen", UNSEEN_RIGHT)
def test_the_property_holds_for_a_right_loss(work, unseen):
    judge(lambda: work.check_lambda_loss(RIGHT[unseen]), "check_lambda_loss", unseen, True,
          "the size of the loss and of its weights is free: demand what every lambda loss on positions does, no number")


HINTS = {"a fifth": "what must happen when the best candidate moves up? Strictly less is not <=",
         "one that is wrong for certain candidates": "some candidate's position plays no part in it: "
         "demand of every candidate, whatever its number, that its place matters",
         "another that is wrong": "demand it of every candidate, whatever its number, at every place it may have",
         "a sixth": "the other lists of the batch change: what must happen to this one's loss?",
         "one that reads all ratings": "let the lists of a batch differ in their *ratings*, too, in best, worst "
                                       "and sum: what must happen to a list's loss when its neighbours' change?",
         "one that is wrong for some lists": "demand it of every list of a batch, not of the first alone"}


@pytest.mark.parametrize("unseen", UNSEEN_WRONG)
def test_the_property_does_not_hold_for_a_wrong_loss(work, unseen):
    hint = next(hint for beginning, hint in HINTS.items() if unseen.startswith(beginning))
    judge(lambda: work.check_lambda_loss(WRONG[unseen]), "check_lambda_loss", unseen, False, hint)
