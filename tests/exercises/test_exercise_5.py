"""Checks of exercise 5: the student's property must tell right from wrong."""
import math

import pytest
import torch
from suspects.lambda_loss import lambda_loss as suspect

import alro


def right(position, ratings, ranks, sigma=1.0):
    return alro.lambda_loss(position, ratings, ranks, sigma)


def right_in_loops(position, ratings, ranks, sigma=1.0):
    """The same values, pair by pair, times 2: the size of a loss is no bug."""
    weights, m = alro.pair_weights(ratings, ranks), position.shape[-1]
    return 2 * sum(weights[:, i, j] * torch.log1p(torch.exp(sigma * (position[:, i] - position[:, j]))) / math.log(2)
                   for i in range(m) for j in range(m))


def worse_first(position, ratings, ranks, sigma=1.0):
    """Another way to the same harm: the pairs are those in which i is rated *below* j."""
    return alro.lambda_loss(position, ratings.max() + ratings.min() - ratings, ranks, sigma)


@pytest.mark.parametrize("loss", [right, right_in_loops])
def test_the_property_holds_for_a_right_loss(work, loss):
    work.check_lambda_loss(loss)


@pytest.mark.parametrize("loss", [suspect, worse_first])
def test_the_property_does_not_hold_for_a_wrong_loss(work, loss):
    with pytest.raises(AssertionError):
        work.check_lambda_loss(loss)
