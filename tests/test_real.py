"""Real ratings and a real tokenizer, from the folder ALRO_REAL_INPUTS (ml-100k/ in RecBole's layout, smollm2-135m/)."""
import os
from pathlib import Path

import pytest
import torch

import alro

import data
from model import load_tokenizer

INPUTS = os.environ.get("ALRO_REAL_INPUTS")
pytestmark = pytest.mark.skipif(not INPUTS, reason="ALRO_REAL_INPUTS is not set")


def test_movielens_and_smollm2_make_the_batches_they_should():
    """The counts of the splits, and for 64 lists: answers and history targets in the prompt's own words."""
    cfg = data.DataConfig(dataset="recbole", data_path=f"{INPUTS}/ml-100k", list_size=10, history_size=20, noun="movie")
    ratings = data.load(cfg)
    splits = data.split(ratings, cfg)
    assert (len(ratings.users), len(ratings.items), len(ratings.rating)) == (943, 1682, 100_000)
    assert [len(lists) for lists in splits[:3]] == [14295, 822, 943]
    assert sum(one.informative for one in splits.test) == 908

    tokenizer = load_tokenizer(str(Path(INPUTS, "smollm2-135m")))
    encoder = data.Encoder(tokenizer, ratings.titles, ratings.noun, ratings.scale, 10, 2048, history_targets=True)
    lists = splits.train[::220][:64]
    slots = [data.random_slots(10, one.list_id) for one in lists]
    gold = torch.cat([alro.gold_order(torch.tensor([one.ratings])) for one in lists])
    batch = encoder.batch(lists, slots, gold)
    for row, one in enumerate(lists):
        answer = "".join(alro.IDENTIFIERS[slots[row].index(item)] for item in gold[row].tolist())
        assert tokenizer.decode(batch.targets[row, :10]) == answer
        end = batch.positions[row, 9] + 2
        assert tokenizer.decode(batch.input_ids[row, :end]) == data.list_prompt(ratings, one, slots[row]) + answer
        stars = batch.targets[row, 10:][batch.targets[row, 10:] != -100]
        assert [float(tokenizer.decode([star])) for star in stars] == [rating for _, rating in one.history]
        assert torch.equal(batch.input_ids[row, batch.positions[row, 10:] + 1][:len(stars)], stars)
