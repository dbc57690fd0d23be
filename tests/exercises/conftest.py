"""Which file the checks run against: the solutions, or with --exercise N the student's exercise N.

    pytest                                   everything, against the solutions: they cannot rot
    pytest tests/exercises --exercise 3      exercise 3 alone, against mine/exercise_3_...: red until it is done
"""
import re
import traceback

import hypothesis
import pytest
from classroom import NUMBERS, load, not_begun, path_of, say_what_returns_nothing

collect_ignore = ["mine"]  # whatever lies there: nothing of it is read, unless --exercise asks for it


def pytest_addoption(parser):
    parser.addoption("--exercise", type=int, choices=NUMBERS, help="check your own file of this exercise")


def chosen(config) -> int | None:
    # A plain `pytest` finds this file after it has read its command line: then there is no such option, and no value.
    return config.getoption("--exercise", default=None)


def pytest_configure(config):
    number = chosen(config)
    if number and config.option.tbstyle == "auto":
        config.option.tbstyle = "short"  # the check's line and its message, without the values of all arguments
    if number:
        # Without Hypothesis's guess at the lines to blame: it would bury the check's hint.
        phases = [phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain]
        hypothesis.settings.register_profile("one exercise", hypothesis.settings.default, phases=phases,
                                             report_multiple_bugs=False)
        hypothesis.settings.load_profile("one exercise")
    if number and not path_of(number, "mine").exists():
        raise pytest.UsageError(not_begun(number))


def pytest_ignore_collect(collection_path, config):
    """With --exercise N, the checks of N and nothing else."""
    if chosen(config) and collection_path.name.startswith("test_"):
        return collection_path.name != f"test_exercise_{chosen(config)}.py"
    return None  # no opinion


@pytest.fixture(scope="module")  # not per function: Hypothesis calls one function many times
def work(request):
    """The module under check, as `work` in every check."""
    number = int(re.search(r"\d+", request.path.name).group())
    stub = load(number, "stub")
    if chosen(request.config) is None:
        return say_what_returns_nothing(load(number, "solution"), stub)
    try:
        return say_what_returns_nothing(load(number, "mine"), stub)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1].lineno
        line = getattr(error, "lineno", None) or where
        message = f"{path_of(number, 'mine')} cannot be loaded, line {line}: {type(error).__name__}: {error}"
    pytest.fail(message, pytrace=False)  # out here: no "during handling of the above exception"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A function that is still a stub is named, in one line."""
    try:
        return (yield)
    except NotImplementedError as error:
        name = traceback.extract_tb(error.__traceback__)[-1].name
    pytest.fail(f"{name} is not written yet: it raises NotImplementedError", pytrace=False)
