"""Checks of exercise 6: the student's property must tell right from wrong."""
import pytest
import torch
from classroom import displays, encoder, gold, uneven_lists
from suspects.batching import make_batch as suspect


def right(encoder, lists, slots, orders):
    return encoder.batch(lists, slots, orders)


def right_with_more_padding(encoder, lists, slots, orders):
    batch = encoder.batch(lists, slots, orders)
    return batch._replace(input_ids=torch.nn.functional.pad(batch.input_ids, (0, 9)))


def too_early(encoder, lists, slots, orders):
    batch = right(encoder, lists, slots, orders)
    return batch._replace(positions=batch.positions - 1)


def too_late_and_consistent(encoder, lists, slots, orders):
    """`targets` agree with the wrong positions, so a property of these two alone sees nothing."""
    batch = right_with_more_padding(encoder, lists, slots, orders)
    positions = batch.positions + 1
    return batch._replace(positions=positions, targets=batch.input_ids.gather(1, positions + 1))


def counted_from_the_end(encoder, lists, slots, orders):
    """Right for the longest row of the batch, and for it alone."""
    batch = right(encoder, lists, slots, orders)
    m, length = encoder.list_size, batch.input_ids.shape[1]
    return batch._replace(positions=torch.arange(length - m - 1, length - 1).expand(len(lists), m))


CASE = [encoder(), uneven_lists(), displays("hunt", uneven_lists()), gold(uneven_lists())]


@pytest.mark.parametrize("make_batch", [right, right_with_more_padding])
def test_the_property_holds_for_a_right_batching(work, make_batch):
    work.check_batching(make_batch, *CASE)


@pytest.mark.parametrize("make_batch", [suspect, too_early, too_late_and_consistent, counted_from_the_end])
def test_the_property_does_not_hold_for_a_wrong_batching(work, make_batch):
    with pytest.raises(AssertionError):
        work.check_batching(make_batch, *CASE)
