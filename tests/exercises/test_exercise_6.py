"""Checks of exercise 6: the student's property must tell right from wrong."""
import pytest
import torch
from classroom import displays, encoder, gold, uneven_lists
from suspects.batching import make_batch as suspect


def right(encoder, lists, slots, orders):
    return encoder.batch(lists, slots, orders)[0]


def right_with_more_padding(encoder, lists, slots, orders):
    batch = right(encoder, lists, slots, orders)
    return batch._replace(input_ids=torch.nn.functional.pad(batch.input_ids, (0, 9)))


def too_early(encoder, lists, slots, orders):
    batch = right(encoder, lists, slots, orders)
    return batch._replace(prompt_tokens=batch.prompt_tokens - 1)


def too_late_and_consistent(encoder, lists, slots, orders):
    """`order` moves along with the place that is read, so that all places but the last agree."""
    batch = right_with_more_padding(encoder, lists, slots, orders)
    return batch._replace(prompt_tokens=batch.prompt_tokens + 1, order=batch.order.roll(-1, dims=-1))


def counted_from_the_end(encoder, lists, slots, orders):
    """Right for the longest row of the batch, and for it alone."""
    batch = right(encoder, lists, slots, orders)
    return batch._replace(prompt_tokens=torch.full((len(lists),), batch.input_ids.shape[1] - encoder.list_size))


CASE = [encoder(), uneven_lists(), displays("hunt", uneven_lists()), gold(uneven_lists())]


@pytest.mark.parametrize("make_batch", [right, right_with_more_padding])
def test_the_property_holds_for_a_right_batching(work, make_batch):
    work.check_batching(make_batch, *CASE)


@pytest.mark.parametrize("make_batch", [suspect, too_early, too_late_and_consistent, counted_from_the_end])
def test_the_property_does_not_hold_for_a_wrong_batching(work, make_batch):
    with pytest.raises(AssertionError):
        work.check_batching(make_batch, *CASE)
