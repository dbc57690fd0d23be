"""Real ratings and a real tokenizer, from the folder ALRO_REAL_INPUTS (ml-100k/ in RecBole's layout, smollm2-135m/)."""
import os
from pathlib import Path

import pytest
import torch

import alro
import data
from plumbing.model import load_tokenizer

INPUTS = os.environ.get("ALRO_REAL_INPUTS")
pytestmark = pytest.mark.skipif(not INPUTS, reason="ALRO_REAL_INPUTS is not set")


def test_movielens_and_smollm2_make_the_batches_they_should():
    """The counts of the splits, and for 64 lists: answers and history targets in the prompt's own words."""
    cfg = data.DataConfig(dataset="recbole", data_path=f"{INPUTS}/ml-100k", list_size=10, history_size=20, noun="movie")
    ratings = data.load(cfg)
    splits = data.split(ratings, cfg)
    # 18 of 1,682 films stand under two ids and are one item here; 307 times a user rated both.
    columns = ratings.columns
    assert (len(columns.users), len(columns.items), len(columns.rating)) == (943, 1664, 99_693)
    assert (columns.counts["ratings read"], columns.counts["titles under several ids"]) == (100_000, 18)
    assert [len(lists) for lists in splits[:3]] == [14242, 820, 943]
    assert sum(one.informative for one in splits.test) == 908

    tokenizer = load_tokenizer(str(Path(INPUTS, "smollm2-135m")))
    encoder = data.Encoder(tokenizer, ratings.words, 10, 2048)
    lists = splits.train[::220][:64]
    assert data.fit_histories(lists, encoder) == lists
    slots = [data.random_slots(10, one.list_id) for one in lists]
    gold = torch.cat([alro.gold_order(torch.tensor([one.ratings])) for one in lists])
    batch = encoder.encode(lists, slots, gold)
    for row, one in enumerate(lists):
        answer = "".join(alro.IDENTIFIERS[slots[row].index(item)] for item in gold[row].tolist())
        end = batch.prompt_tokens[row] + 10
        prompt = data.list_prompt(ratings.words, one, slots[row])
        assert tokenizer.decode(batch.input_ids[row, :end]) == prompt + answer
        assert tokenizer.decode(batch.input_ids[row, batch.prompt_tokens[row]:end]) == answer
        real = batch.history_rated[row] != -100
        stars = batch.history_rated[row][real]
        assert [float(tokenizer.decode([star])) for star in stars] == [rating for _, rating in one.history]
        assert torch.equal(batch.input_ids[row, batch.history_at[row][real]], stars)
        assert [float(tokenizer.decode([star])) for star in batch.candidate_rated[row]] == one.ratings
        letters = [tokenizer.decode([token]) for token in batch.input_ids[row, batch.candidate_at[row]]]
        assert letters == [alro.IDENTIFIERS[slots[row].index(item)] for item in range(10)]
