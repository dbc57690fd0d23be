"""Rivals that ask the same language model: bootstrapping, point-wise."""
import numpy as np
import pytest
import torch
from helpers import refused

import alro
import data
import train
from evaluate import ModelRanker
from experiments import rivals
from plumbing.model import build_model

CONFIG = data.DataConfig(list_size=5, history_size=6)
RATINGS = data.load(CONFIG, n_users=20)
LISTS = data.split(RATINGS, CONFIG).test[:12]
SHOWN = [one.shown for one in LISTS]
OTHER = [one.shown[::-1] for one in LISTS]


@pytest.fixture(scope="module")
def ranker():
    """The untrained model, asked list-wise."""
    model, tokenizer = build_model(train.TrainConfig(), RATINGS.words)
    return ModelRanker(model.eval(), data.make_encoder(model, tokenizer, RATINGS.words, 5))


# ---- Ways to rank ---------------------------------------------------------------------------------------------------

def test_bootstrapping_ranks_independently_drawn_orders_and_sorts_by_mean_rank():
    """A ranker that copies the display: what comes out is the mean slot over drawn orders, another set for each order
    displayed; a ranker indifferent to the display is left as it is."""
    asked = []

    def copying(lists, slots):
        asked.append([tuple(order) for order in slots])
        return torch.tensor(slots)
    found = rivals.bootstrapped(copying, 4)(LISTS, SHOWN)
    drawn = asked[:4]
    for row in range(len(LISTS)):
        ranks = torch.stack([alro.rank_of(torch.tensor([order[row]]))[0] for order in drawn]).double().mean(0)
        assert (ranks[found[row]].diff() >= 0).all()
        assert len({order[row] for order in drawn}) > 1  # not one order four times
    rivals.bootstrapped(copying, 4)(LISTS, OTHER)
    assert asked[4:] != drawn
    blind = data_blind_order()
    assert torch.equal(rivals.bootstrapped(lambda lists, slots: blind, 3)(LISTS, SHOWN), blind)


def data_blind_order():
    return torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(n)) for n in range(len(LISTS))])


def test_point_wise_sorts_by_the_expected_rating_of_one_more_history_line(ranker):
    """Against the model's own logits, one prompt at a time, and whatever the displayed order."""
    model, encoder, titles = ranker.model, ranker.encoder, RATINGS.columns.titles
    levels = np.unique(RATINGS.columns.rating).tolist()
    assert levels == [1, 2, 3, 4, 5]
    rank = rivals.point_wise(ranker, levels, batch_size=7)
    found = rank(LISTS, SHOWN)
    assert torch.equal(found, rank(LISTS, OTHER))
    for one, order in zip(LISTS[:4], found):
        scores = []
        for item in one.items:
            lines = ["A user rated these movies (1 = worst, 5 = best):"]
            lines += [f"{titles[i]}: {rating:g}" for i, rating in one.history]
            prompt = encoder.tokenizer("\n".join([*lines, titles[item]]), return_tensors="pt").input_ids
            tokens = [encoder.tokenizer.convert_tokens_to_ids(f": {level:g}") for level in levels]  # one token
            assert encoder.tokenizer.unk_token_id not in tokens
            y = model(prompt).logits[0, -1, tokens].double().softmax(-1)
            scores.append((y * torch.tensor(levels)).sum())
        scores = torch.stack(scores)
        assert (scores[order].diff() <= 1e-6).all()


# ---- As a user runs it ----------------------------------------------------------------------------------------------

def test_command_line_ranks_with_a_run_and_writes_its_table(tmp_path, small_world, few_draws, capsys):
    run = str(tmp_path / "run")
    train.main(["--steps", "2", "--out", run, "--valid_lists", "5", "--test_lists", "0"])
    result = rivals.main([run, "--limit", "6", "--orders", "2", "--embedding", "False",
                          "--out", str(tmp_path / "out")])
    rows = result["methods"]
    assert list(rows) == ["chance", "untrained", "ALRO, shown", *(f"ALRO, shown, {way}" for way in (
        "knows", "first step", "3 orders", "5 orders", "point-wise")), "item mean", "retriever", "oracle"]
    assert [rows[name]["llm_calls_per_list"] for name in rows] == [0, 1, 1, 1, 1, 3, 5, 6, 0, 0, 0]
    assert rows["ALRO, shown, point-wise"]["agreement"]["mean"] == 1
    assert (tmp_path / "out" / "eval-test.json").exists() and result["data_sha256"] in capsys.readouterr().out


def test_runs_on_other_data_are_refused(tmp_path, small_world):
    for name, history_size in ("a", "8"), ("b", "7"):
        train.main(["--steps", "1", "--out", str(tmp_path / name), "--valid_lists", "5", "--test_lists", "0",
                    "--history_size", history_size])
    with refused("the runs' test lists differ, so they cannot be compared: .*/a, .*/b"):
        rivals.main([str(tmp_path / "a"), str(tmp_path / "b")])
    with refused("no data flags"):
        rivals.main([str(tmp_path / "a"), "--list_size", "5"])
