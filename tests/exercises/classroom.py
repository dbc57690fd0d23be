"""What the exercises share: how their files are found, a small world of lists, and batches of it."""
import dataclasses
import importlib.util
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # so that a script in this folder finds alro.py and its neighbours, too

import alro  # noqa: E402
import data  # noqa: E402
from model import tiny_model, word_tokenizer  # noqa: E402, F401  (what the checks build)

NUMBERS = sorted(int(path.stem.split("_")[1]) for path in HERE.glob("exercise_*.py"))


def load(number: int, solution: bool):
    """The module of an exercise: the student's file, or its namesake under solutions/."""
    path, = (HERE / "solutions" if solution else HERE).glob(f"exercise_{number}_*.py")
    spec = importlib.util.spec_from_file_location(f"{'solution' if solution else 'mine'}_{number}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RATINGS = data.synthetic(data.DataConfig(list_size=5, history_size=6), n_users=12)
LISTS = data.split(RATINGS, data.DataConfig(list_size=5, history_size=6)).train[:8]
TOKENIZER = word_tokenizer(RATINGS)


def encoder(history_targets: bool = False) -> data.Encoder:
    return data.Encoder(TOKENIZER, RATINGS.prompt_words(), 5, 500, history_targets)


def uneven_lists() -> list[data.RankingList]:
    """LISTS with histories cut to different lengths, so that the rows of a batch need padding."""
    return [dataclasses.replace(one, history=one.history[i % 4:]) for i, one in enumerate(LISTS)]


def displays(key, lists) -> list[list[int]]:
    """A random displayed order for each list, another one for each key."""
    return [data.random_slots(len(one.items), key, one.list_id) for one in lists]


def gold(lists) -> torch.Tensor:
    """(B, m) gold order of each list, ties drawn from the list's name."""
    return torch.cat([alro.gold_order(torch.tensor([one.ratings]), data.generator(one.list_id)) for one in lists])
