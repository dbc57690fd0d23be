"""Checks of exercise 6: the student's property must tell right from wrong, on several batches of lists."""
import functools

import pytest
import torch
from classroom import SUSPECTS, displays, encoder, gold, judge, judge_suspects, uneven_lists
from suspects import hunt_b


def as_in_data(encoder, lists, slots, orders):
    return encoder.encode(lists, slots, orders)


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


def leaky(encoder, lists, slots, orders):
    """The answer stands in the row twice, and the first counts as prompt: the model copies, and knows nothing."""
    batch, m = as_in_data(encoder, lists, slots, orders), encoder.list_size
    rows = []
    for row, length in zip(batch.input_ids, batch.prompt_tokens.tolist()):
        answer = row[length:length + m]
        rows.append(torch.cat([row[:length], answer, answer, row[length + m:]]))
    return batch._replace(input_ids=torch.stack(rows), prompt_tokens=batch.prompt_tokens + m)


def other_display(encoder, lists, slots, orders):
    """The prompt shows another order than the letters are looked up in."""
    turned = [order[::-1] for order in slots]
    batch, right = as_in_data(encoder, lists, turned, orders), as_in_data(encoder, lists, slots, orders)
    rows = batch.input_ids.clone()
    for b, length in enumerate(batch.prompt_tokens.tolist()):
        end = length + encoder.list_size
        rows[b, length:end] = right.input_ids[b, length:end]
    return right._replace(input_ids=rows)


def inverse_slots(encoder, lists, slots, orders):
    """Candidate -> slot where slot -> candidate is meant, throughout."""
    return as_in_data(encoder, lists, torch.tensor(slots).argsort(-1).tolist(), orders)


def of_the_neighbour(encoder, lists, slots, orders):
    """Each row is the next list's, answer and all."""
    batch = as_in_data(encoder, lists[1:] + lists[:1], slots, orders)
    return batch._replace(ratings=as_in_data(encoder, lists, slots, orders).ratings)


def worst_first(encoder, lists, slots, orders):
    return as_in_data(encoder, lists, slots, orders.flip(-1))


def display_as_gold(encoder, lists, slots, orders):
    return as_in_data(encoder, lists, slots, torch.tensor(slots))


def ratings_by_slot(encoder, lists, slots, orders):
    batch = as_in_data(encoder, lists, slots, orders)
    return batch._replace(ratings=batch.ratings.gather(-1, batch.slots))


RIGHT = {"suspect_4": hunt_b.suspect_4, "data.Encoder.encode": as_in_data, "one with more padding": with_more_padding}
WRONG = {name: getattr(hunt_b, name) for name in ("suspect_1", "suspect_2", "suspect_3")}
WRONG |= {"a fifth, unseen batching": too_early, "a sixth, unseen batching": too_late_and_consistent,
          "a seventh, unseen batching": leaky, "an eighth, unseen batching": other_display,
          "a ninth, unseen batching": inverse_slots, "a tenth, unseen batching": of_the_neighbour,
          "an eleventh, unseen batching": worst_first,
          "a twelfth, unseen batching": display_as_gold, "a thirteenth, unseen batching": ratings_by_slot}
for n in range(4):
    WRONG[f"one that is wrong in one row ({n})"] = functools.partial(late_in_row, n)
    WRONG[f"one that is wrong at two positions ({n})"] = functools.partial(two_swapped, n)


def case(number: int) -> list:
    """What a batching is called with: other lists, as many as it takes, in other displayed orders for each number."""
    lists = uneven_lists()[number:number + 6]
    return [encoder(), lists, displays(f"hunt {number}", lists), gold(lists)]


CASES = range(3)


UNSEEN_RIGHT = [name for name in RIGHT if name not in SUSPECTS]
UNSEEN_WRONG = [name for name in WRONG if name not in SUSPECTS]


@pytest.mark.parametrize("number", CASES)
def test_the_suspects_are_told_apart(work, number):
    batchings = RIGHT | WRONG
    judge_suspects(lambda suspect: work.check_batching(batchings[suspect], *case(number)), RIGHT, "check_batching")


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize("unseen", UNSEEN_RIGHT)
def test_the_property_holds_for_a_right_batching(work, unseen, number):
    judge(lambda: work.check_batching(RIGHT[unseen], *case(number)), "check_batching", unseen, True,
          "demand no number of tokens and no amount of padding: only what the loss reads")


HINTS = {"a fifth": "is y read where the model has just read the prompt's last token?",
         "a sixth": "the last output position, too: what follows it in the answer?",
         "a seventh": "what has the model read before it must answer? classroom.prompts makes the prompts",
         "an eighth": "is the prompt in the row the one of these displayed orders?",
         "a ninth": "which displayed order was asked for?",
         "a tenth": "whose prompt stands in the row?",
         "an eleventh": "which order was asked for?",
         "a twelfth": "which order was asked for?",
         "a thirteenth": "SLL reads the ratings, by candidate",
         "one that is wrong in one row": "demand it of every row of the batch",
         "one that is wrong at two positions": "demand it of every output position: a puppet that says the token which "
                                               "stands next in the row makes no mistake anywhere"}


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize("unseen", UNSEEN_WRONG)
def test_the_property_does_not_hold_for_a_wrong_batching(work, unseen, number):
    hint = next(hint for beginning, hint in HINTS.items() if unseen.startswith(beginning))
    judge(lambda: work.check_batching(WRONG[unseen], *case(number)), "check_batching", unseen, False, hint)
