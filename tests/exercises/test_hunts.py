"""The hunts cannot be won by one example: who knows a pair of numbers, or one candidate, lets something wrong through,
or complains about something right."""
import classroom
import pytest
import test_exercise_5
import test_exercise_6
import torch
from classroom import load, path_of

import alro


def passes(detector, *arguments) -> bool:
    try:
        detector(*arguments)
        return True
    except AssertionError:
        return False


POSITION, RATINGS = torch.tensor([[1.5, 3.0, 2.0]]), torch.tensor([[1.0, 5.0, 3.0]])
RANKS = alro.gold_rank(RATINGS)


def one_number(loss):
    """The right loss's value on one list, learned by heart."""
    assert abs(loss(POSITION, RATINGS, RANKS).item() - alro.lambda_loss(POSITION, RATINGS, RANKS).item()) < 1e-4


def one_pair(loss):
    """One list, one candidate lifted: caught are those alone that are wrong there."""
    lifted = POSITION - torch.tensor([[0.0, 0.5, 0.0]])
    assert loss(lifted, RATINGS, RANKS).item() < loss(POSITION, RATINGS, RANKS).item()


def no_zero(loss):
    assert loss(POSITION, RATINGS, RANKS).item() >= 0


@pytest.mark.parametrize("detector", [one_number, one_pair, no_zero])
def test_one_example_does_not_win_hunt_a(detector):
    right = all(passes(detector, loss) for loss in test_exercise_5.RIGHT.values())
    caught = not any(passes(detector, loss) for loss in test_exercise_5.WRONG.values())
    assert not (right and caught)


@pytest.mark.parametrize("number, property", [(5, "check_lambda_loss"), (6, "check_batching")])
def test_a_property_may_return_nothing_and_say_nothing_of_it(number, property, tmp_path, monkeypatch):
    """A right solution without `-> None`, with a helper that returns nothing either."""
    text = path_of(number, "solution").read_text(encoding="utf-8").replace(") -> None:", "):")
    text = text.replace("    generator =", "    no_value()\n    generator =", 1)
    path = tmp_path / path_of(number, "stub").name
    path.write_text(f"{text}\n\ndef no_value():\n    pass\n", encoding="utf-8")
    monkeypatch.setattr(classroom, "MINE", tmp_path)
    module = classroom.say_what_returns_nothing(load(number, "mine"), load(number, "stub"))
    assert module.no_value() is None and "-> None" not in text
    if number == 5:
        module.check_lambda_loss(alro.lambda_loss)
    else:
        module.check_batching(test_exercise_6.as_in_data, *test_exercise_6.case(0))


def test_a_function_that_should_return_something_says_so_by_its_name(tmp_path, monkeypatch):
    path = tmp_path / path_of(4, "stub").name
    path.write_text("def merge(rankings):\n    rankings.sum()\n", encoding="utf-8")
    monkeypatch.setattr(classroom, "MINE", tmp_path)
    with pytest.raises(AssertionError, match="^merge\n  expected: a value\n  hint: .*is a `return` missing"):
        classroom.say_what_returns_nothing(load(4, "mine"), load(4, "stub")).merge(torch.zeros(1, 1, 2).long())


def one_length(make_batch, encoder, lists, slots, orders):
    """The first case's first prompt, counted by hand."""
    batch = make_batch(encoder, lists, slots, orders)
    expected = test_exercise_6.as_in_data(*test_exercise_6.case(0)).prompt_tokens[0]
    assert batch.prompt_tokens[0] == expected


def one_row(make_batch, encoder, lists, slots, orders):
    """The solution's first puppet, in the first row alone."""
    batch = make_batch(encoder, lists, slots, orders)
    puppet = load(6, "solution").Puppet(lambda ids: ids.roll(-1, dims=1), len(encoder.tokenizer))
    log_probs = alro.candidate_log_probs(alro.target_logits(puppet, batch)[0], batch)
    assert alro.sft_loss(log_probs, batch.order)[0] < 1e-3


@pytest.mark.parametrize("detector", [one_length, one_row])
def test_one_example_does_not_win_hunt_b(detector):
    cases = [test_exercise_6.case(number) for number in test_exercise_6.CASES]
    right = all(passes(detector, make, *case) for make in test_exercise_6.RIGHT.values() for case in cases)
    caught = not any(passes(detector, make, *case) for make in test_exercise_6.WRONG.values() for case in cases)
    assert not (right and caught)


def test_each_hunt_has_three_wrong_suspects_and_a_right_one_and_names_that_tell_nothing():
    for checks, letter in ((test_exercise_5, "a"), (test_exercise_6, "b")):
        assert sum(name.startswith("suspect_") for name in checks.WRONG) >= 3
        assert sum(name.startswith("suspect_") for name in checks.RIGHT) >= 1
        text = load(5 if letter == "a" else 6, "stub").__doc__
        assert f"suspects/hunt_{letter}.py" in text
