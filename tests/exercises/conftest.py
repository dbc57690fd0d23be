"""Which file the checks run against: the solutions, or with --exercise N the student's exercise N.

    pytest                                   everything, against the solutions: they cannot rot
    pytest tests/exercises --exercise 3      exercise 3 alone, against your file: red until it is done
"""
import re

import pytest
from classroom import NUMBERS, load


def pytest_addoption(parser):
    parser.addoption("--exercise", type=int, choices=NUMBERS, help="check your own file of this exercise")


def chosen(config) -> int | None:
    # A plain `pytest` finds this file after it has read its command line: then there is no such option, and no value.
    return config.getoption("--exercise", default=None)


def pytest_ignore_collect(collection_path, config):
    """With --exercise N, the checks of N and nothing else."""
    if chosen(config) and collection_path.name.startswith("test_"):
        return collection_path.name != f"test_exercise_{chosen(config)}.py"
    return None  # no opinion


@pytest.fixture(scope="module")  # not per function: Hypothesis calls one function many times
def work(request):
    """The module under check, as `work` in every check."""
    number = int(re.search(r"\d+", request.path.name).group())
    return load(number, solution=chosen(request.config) is None)
