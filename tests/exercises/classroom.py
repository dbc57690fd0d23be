"""What the exercises share: how their files are found, how a check says what is wrong, a small world of lists."""
import dataclasses
import functools
import importlib.util
import inspect
import sys
import traceback
import typing
from pathlib import Path

import torch

HERE = Path(__file__).parent
MINE = HERE / "mine"  # the student's files; git and pytest look away
sys.path.insert(0, str(HERE.parents[1]))  # so that a script in this folder finds alro.py and its neighbours, too

import alro  # noqa: E402
import data  # noqa: E402
from plumbing.flags import check_input, run_script  # noqa: E402
from plumbing.model import tiny_model, tokenise, word_tokenizer  # noqa: E402, F401  (what the checks build)

NUMBERS = sorted(int(path.stem.split("_")[1]) for path in HERE.glob("exercise_*.py"))


# ---- The files -----------------------------------------------------------------------------------------------------

def path_of(number: int, whose: str) -> Path:
    """The file of an exercise. whose: "stub", "solution", or "mine", which may not be there yet."""
    stub, = HERE.glob(f"exercise_{number}_*.py")
    return {"stub": HERE, "solution": HERE / "solutions", "mine": MINE}[whose] / stub.name


def not_begun(number: int) -> str:
    return (f"there is no {path_of(number, 'mine')} yet. This copies the stub there, for you to write in: python "
            f"tests/exercises/start.py {number}")


def load(number: int, whose: str):
    """The module of an exercise, see `path_of`. Raises: AlroError if it is not there."""
    path = path_of(number, whose)
    check_input(path.exists(), not_begun(number))
    spec = importlib.util.spec_from_file_location(f"{whose}_{number}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_exercise(main) -> None:
    """flags.run_script of a script that calls the student's functions; one that is still a stub is named."""
    def named():
        try:
            main()
        except NotImplementedError as error:
            name = traceback.extract_tb(error.__traceback__)[-1].name
            raise alro.AlroError(f"{name} is not written yet: it raises NotImplementedError") from None
    run_script(named)


# ---- A check that says what is wrong -------------------------------------------------------------------------------

def check(good, function: str, expected: str, hint: str, found=None) -> None:
    """Raise AssertionError, with all that helps, where `good` (a bool, or a tensor of them) does not hold.

    Args: function: the name of the student's function; expected: what it should do or give; hint: where to look;
        found: what it gave instead.
    """
    __tracebackhide__ = True  # pytest then shows the line of the check, not this one
    good = good.all().item() if isinstance(good, torch.Tensor) else bool(good)
    if not good:
        text = "" if found is None else f"\n  found:    {indented(found)}"
        raise AssertionError(f"{function}\n  expected: {indented(expected)}{text}\n  hint:     {hint}")


def check_close(found, expected, function: str, what: str, hint: str, atol: float = 1e-6) -> None:
    """`check` that a tensor (or number) has the shape of the expected one and, within atol, its values."""
    __tracebackhide__ = True
    check(found is not None, function, what, "it returned None: is a `return` missing?")
    found, expected = torch.as_tensor(found).detach(), torch.as_tensor(expected).detach()
    check(found.shape == expected.shape, function, f"{what}; shape {tuple(expected.shape)}", hint, tuple(found.shape))
    expected = expected.to(found.dtype)
    good = torch.allclose(found, expected, rtol=1e-5, atol=atol)
    check(good, function, f"{what}:\n{plain(expected)}", hint, found)


def check_refused(call, function: str, expected: str, hint: str) -> None:
    """`check` that call() raises alro.AlroError."""
    __tracebackhide__ = True
    try:
        call()
    except alro.AlroError:
        return
    except Exception as error:
        check(False, function, expected, hint, f"{type(error).__name__}: {error}")
    check(False, function, expected, hint, "no error")


def say_what_returns_nothing(module, stub):
    """The module, but a function of the exercise that returns None says so by its name, wherever it is called. Not so
    where None is an answer: the *stub's* annotation says so, as that of the hunts' properties. The student's own
    annotations, and helpers, are the student's."""
    for name, asked in vars(stub).items():
        given = vars(module).get(name)
        of_the_exercise = inspect.isfunction(asked) and asked.__module__ == stub.__name__
        if of_the_exercise and inspect.isfunction(given) and not may_be_none(asked):
            setattr(module, name, with_a_value(given, name))
    return module


def may_be_none(function) -> bool:
    returned = inspect.signature(function).return_annotation
    return returned is None or type(None) in typing.get_args(returned)


def with_a_value(function, name: str):
    @functools.wraps(function)
    def asked(*arguments, **options):
        __tracebackhide__ = True
        value = function(*arguments, **options)
        check(value is not None, name, "a value", "it returned None: is a `return` missing?")
        return with_a_value(value, name) if inspect.isfunction(value) else value
    return asked


def plain(value) -> str:
    return f"{value.tolist() if isinstance(value, torch.Tensor) and value.dim() < 2 else value}"


def indented(value) -> str:
    return plain(value).replace("\n", "\n            ")


def complaint(holds, *arguments) -> str | None:
    """For the hunts: what the student's property, `holds(*arguments)`, says against a suspect; None = nothing."""
    try:
        holds(*arguments)
    except AssertionError as caught:
        return str(caught).splitlines()[0] if str(caught) else "(an assert without a message)"
    return None


def judge(holds, name: str, unseen: str, should_pass: bool, hint: str) -> None:
    """The verdict on something that the student does not see: no complaint, or AssertionError."""
    __tracebackhide__ = True
    said = complaint(holds)
    if should_pass:
        check(said is None, name, f"no complaint about {unseen}, which is right", hint, f"AssertionError: {said}")
    else:
        check(said is not None, name, f"AssertionError for {unseen}, which is wrong", hint, "it was let through")


SUSPECTS = ["suspect_1", "suspect_2", "suspect_3", "suspect_4"]  # of each hunt


def judge_suspects(holds, right, name: str) -> None:
    """The verdicts on the suspects, all at once and without their names: which are right is what the hunt asks.

    Args: holds(suspect) runs the student's property on one; right: a container of the names of the right ones.
    """
    __tracebackhide__ = True
    verdicts = [(complaint(holds, suspect) is None) == (suspect in right) for suspect in SUSPECTS]
    check(all(verdicts), name, f"the right verdict on each of the {len(verdicts)} suspects",
          "which of them are judged wrongly would be the answer; the checks of unseen ones, below, each say what a "
          "property lacks",
          f"{sum(verdicts)} right")


# ---- A small world -------------------------------------------------------------------------------------------------

RATINGS = data.load(data.DataConfig(list_size=5, history_size=6), n_users=12)
LISTS = data.split(RATINGS, data.DataConfig(list_size=5, history_size=6)).train[:8]
TOKENIZER = word_tokenizer(RATINGS.words)


def encoder() -> data.Encoder:
    return data.Encoder(TOKENIZER, RATINGS.words, 5, 500)


def prompts(encoder, lists, slots) -> list[list[int]]:
    """The tokens of each list's prompt, in its displayed order, without an answer."""
    texts = [data.list_prompt(encoder.words, *pair) for pair in zip(lists, slots)]
    return tokenise(encoder.tokenizer, texts).input_ids


def uneven_lists() -> list[data.RankingList]:
    """LISTS with histories cut to different lengths, so that the rows of a batch need padding."""
    return [dataclasses.replace(one, history=one.history[i % 4:]) for i, one in enumerate(LISTS)]


def displays(key, lists) -> list[list[int]]:
    """A random displayed order for each list, another one for each key."""
    return [data.random_slots(len(one.items), key, one.list_id) for one in lists]


def gold(lists) -> torch.Tensor:
    """(B, m) gold order of each list, ties drawn from the list's name."""
    return torch.cat([alro.gold_order(torch.tensor([one.ratings]), data.generator(one.list_id)) for one in lists])
