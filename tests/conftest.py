"""Fixtures that several files share, and the order of the tests: first what a reader should see red first.

What is imported by name lies in oracles.py (the equations), worlds.py (datasets and tokenizers) and
helpers.py (small runs, and what they leave behind).

The tests run on the CPU, also where there is a GPU: they compare numbers bit for bit, and fork processes, which CUDA
does not survive. With ALRO_TEST_ON_GPU=1 they use it, and some fail (results/LOG.md).
"""
import functools
import os

if os.environ.get("ALRO_TEST_ON_GPU", "0") == "0":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks

import hypothesis
import pytest
import torch
from helpers import csv_run, demo_run
from worlds import many, write

import data
import evaluate
import plumbing.folder
import train

plumbing.folder.LOG_EVERY = 1  # runs of a few steps: a line for each

# As train.py does for a tiny model: two threads mostly wait for one another, on a busy machine for long.
torch.set_num_threads(1)
hypothesis.settings.register_profile("alro", deadline=None, max_examples=60)
hypothesis.settings.load_profile("alro")

# The scripts behind results/, and those of the exercises in processes of their own.
OTHERS_OF_THE_MACHINE = ["test_clear.py", "test_mine.py", "test_real_table.py", "test_measure.py"]
READ_FIRST = ["test_losses.py", "test_model.py", "test_data.py", "test_train.py", "test_evaluate.py"]


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items):
    """A broken loss turns hundreds of tests red: test_losses.py names it, so it comes first. The trust shelf, about
    the machine and not the method, runs with `pytest -m machine`."""
    for item in items:
        of_the_machine = item.path.parent.name == "trust" or item.path.name in OTHERS_OF_THE_MACHINE
        if of_the_machine and not item.get_closest_marker("slow"):
            item.add_marker("machine")
    def place(item):
        if item.path.name in READ_FIRST:
            return READ_FIRST.index(item.path.name)
        return len(READ_FIRST) + (item.path.parent.name == "trust")
    items.sort(key=place)


def demo_world(list_size, new_films, n_users):
    """The synthetic world with 60 users in place of 4,000: the same code, seconds saved."""
    return WHOLE_WORLD(list_size, new_films, min(n_users, 60))


WHOLE_WORLD = data.synthetic


@pytest.fixture
def small_world(monkeypatch):
    monkeypatch.setattr(data, "synthetic", demo_world)


@pytest.fixture
def few_draws(monkeypatch):
    """Intervals from 20 draws in place of 1,000: the same code, seconds saved, where no test looks at their width."""
    monkeypatch.setattr(evaluate, "bootstrap", functools.partial(evaluate.bootstrap, draws=20))


@pytest.fixture(scope="session")
def demo_straight(tmp_path_factory):
    """An uninterrupted run in the small synthetic world (helpers.demo_run), made once. Copy it, do not change it."""
    out = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "synthetic", demo_world)
        train.train(*demo_run(out))
    return out


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder in the csv layout: 30 users with 16 to 22 ratings each of 40 films."""
    folder = tmp_path_factory.mktemp("world")
    return write(folder, "csv", many(users=30, least=16, most=22),
                 {str(i): f"Film {i}" for i in range(40)})


@pytest.fixture(scope="session")
def straight(world, tmp_path_factory):
    """An uninterrupted run of the csv world (helpers.csv_run), made once. Copy it, do not change it."""
    out = tmp_path_factory.mktemp("straight") / "run"
    train.train(*csv_run(world, out))
    return out


@pytest.fixture
def two_threads():
    """Two threads at the start; train.py goes down to one for a tiny model."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
