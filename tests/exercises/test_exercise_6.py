"""Checks of exercise 6: the student's property must tell right from wrong, on several batches of lists."""
import functools

import pytest
import torch
from classroom import displays, encoder, gold, judge, uneven_lists
from suspects import hunt_b


def as_in_data(encoder, lists, slots, orders):
    return encoder.batch(lists, slots, orders)[0]


def with_more_padding(encoder, lists, slots, orders):
    batch = as_in_data(encoder, lists, slots, orders)
    return batch._replace(input_ids=torch.nn.functional.pad(batch.input_ids, (0, 9)))


def too_early(encoder, lists, slots, orders):
    batch = as_in_data(encoder, lists, slots, orders)
    return batch._replace(prompt_tokens=batch.prompt_tokens - 1)


def too_late_and_consistent(encoder, lists, slots, orders):
    """`order` moves along with the place that is read, so that all places but the last agree."""
    batch = with_more_padding(encoder, lists, slots, orders)
    return batch._replace(prompt_tokens=batch.prompt_tokens + 1, order=batch.order.roll(-1, dims=-1))


def late_in_row(number, encoder, lists, slots, orders):
    """One row is read one place late, the others where they should be."""
    batch = with_more_padding(encoder, lists, slots, orders)
    late = torch.arange(len(lists)) == number % len(lists)
    return batch._replace(prompt_tokens=batch.prompt_tokens + late)


def two_swapped(k, encoder, lists, slots, orders):
    """In the rows' answers, and only there, the tokens of two neighbouring positions have changed places."""
    batch = as_in_data(encoder, lists, slots, orders)
    rows, k = batch.input_ids.clone(), k % (encoder.list_size - 1)
    for b, start in enumerate(batch.prompt_tokens.tolist()):
        rows[b, [start + k, start + k + 1]] = rows[b, [start + k + 1, start + k]]
    return batch._replace(input_ids=rows)


RIGHT = {"suspect_4": hunt_b.suspect_4, "data.Encoder.batch": as_in_data, "one with more padding": with_more_padding}
WRONG = {name: getattr(hunt_b, name) for name in ("suspect_1", "suspect_2", "suspect_3")}
WRONG |= {"a fifth, unseen batching": too_early, "a sixth, unseen batching": too_late_and_consistent}
for n in range(4):
    WRONG[f"one that is wrong in one row ({n})"] = functools.partial(late_in_row, n)
    WRONG[f"one that is wrong at two positions ({n})"] = functools.partial(two_swapped, n)


def case(number: int) -> list:
    """What a batching is called with: other lists, as many as it takes, in other displayed orders for each number."""
    lists = uneven_lists()[number:number + 6]
    return [encoder(), lists, displays(f"hunt {number}", lists), gold(lists)]


CASES = range(3)


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize("suspect", RIGHT)
def test_the_property_holds_for_a_right_batching(work, suspect, number):
    judge(lambda: work.check_batching(RIGHT[suspect], *case(number)), "check_batching", suspect, True,
          "demand no number of tokens and no amount of padding: only what the loss reads")


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize("suspect", WRONG)
def test_the_property_does_not_hold_for_a_wrong_batching(work, suspect, number):
    judge(lambda: work.check_batching(WRONG[suspect], *case(number)), "check_batching", suspect, False,
          "every row and every output position: who knows the next token at every place makes no mistake anywhere")
