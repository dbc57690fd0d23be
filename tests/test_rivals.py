"""Rivals that ask the same language model: bootstrapping, point-wise, pair-wise."""
import itertools

import numpy as np
import pytest
import torch

import alro
import baselines
import data
import train
from model import build_model, context_length

CONFIG = data.DataConfig(list_size=5, history_size=6)
RATINGS = data.synthetic(CONFIG, n_users=20)
LISTS = data.split(RATINGS, CONFIG).test[:12]
SHOWN = [one.shown for one in LISTS]
OTHER = [one.shown[::-1] for one in LISTS]


@pytest.fixture(scope="module")
def model_and_encoder():
    model, tokenizer = build_model(train.TrainConfig(), RATINGS)
    return model.eval(), data.Encoder(tokenizer, RATINGS.titles, RATINGS.noun, RATINGS.scale, 5,
                                      context_length(model, tokenizer))


def test_bootstrapping_ranks_independently_drawn_orders_and_sorts_by_mean_rank():
    """A ranker that copies the display: what comes out is the mean slot over drawn orders, another set for each order
    displayed; a ranker blind to the display is left as it is."""
    asked = []

    def copying(lists, slots):
        asked.append([tuple(order) for order in slots])
        return torch.tensor(slots)
    found = baselines.bootstrapped(copying, 4)(LISTS, SHOWN)
    drawn = asked[:4]
    for row in range(len(LISTS)):
        ranks = torch.stack([alro.rank_of(torch.tensor([order[row]]))[0] for order in drawn]).double().mean(0)
        assert (ranks[found[row]].diff() >= 0).all()
        assert len({order[row] for order in drawn}) > 1  # not one order four times
    baselines.bootstrapped(copying, 4)(LISTS, OTHER)
    assert asked[4:] != drawn
    blind = data_blind_order()
    assert torch.equal(baselines.bootstrapped(lambda lists, slots: blind, 3)(LISTS, SHOWN), blind)


def data_blind_order():
    return torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(n)) for n in range(len(LISTS))])


def test_point_wise_sorts_by_the_expected_rating_of_one_more_history_line(model_and_encoder):
    """Against the model's own logits, one prompt at a time, and whatever the displayed order."""
    model, encoder = model_and_encoder
    levels = np.unique(RATINGS.rating)
    rank = baselines.point_wise(model, encoder, levels, batch_size=7)
    found = rank(LISTS, SHOWN)
    assert torch.equal(found, rank(LISTS, OTHER))
    for one, order in zip(LISTS[:4], found):
        scores = []
        for item in one.items:
            lines = ["A user rated these movies (1 = worst, 5 = best):"]
            lines += [f"{RATINGS.titles[i]}: {rating:g}" for i, rating in one.history]
            prompt = encoder.tokenizer("\n".join([*lines, f"{RATINGS.titles[item]}:"]), return_tensors="pt").input_ids
            tokens = [encoder.tokenizer.convert_tokens_to_ids(f" {level:g}") for level in levels]
            y = model(prompt).logits[0, -1, tokens].double().softmax(-1)
            scores.append((y * torch.tensor(levels)).sum())
        scores = torch.stack(scores)
        assert (scores[order].diff() <= 1e-6).all()


def test_pair_wise_counts_wins_over_both_orders_of_every_pair(model_and_encoder, monkeypatch):
    """A stub that knows a score: m (m - 1) calls, each pair in both orders."""
    model, encoder = model_and_encoder
    score = np.random.default_rng(0).permutation(len(RATINGS.items))  # no ties
    asked = []

    def stub(model, encoder, decode, batch_size):
        def rank(lists, slots):
            asked.extend((one.list_id, one.items[order[0]], one.items[order[1]]) for one, order in zip(lists, slots))
            return torch.tensor([sorted((0, 1), key=lambda i: -score[one.items[i]]) for one in lists])
        return rank
    monkeypatch.setattr(baselines, "model_ranker", stub)
    found = baselines.pair_wise(model, encoder)(LISTS, SHOWN)
    pairs = [(one.list_id, a, b) for one in LISTS for a, b in itertools.permutations(one.items, 2)]
    assert sorted(asked) == sorted(pairs)
    for one, order in zip(LISTS, found.tolist()):
        assert order == sorted(range(5), key=lambda i: -score[one.items[i]])


def test_command_line_ranks_with_a_run_and_writes_its_table(tmp_path, monkeypatch, capsys):
    whole = data.synthetic
    monkeypatch.setattr(data, "synthetic", lambda cfg: whole(cfg, n_users=60))
    run = str(tmp_path / "run")
    train.main(["--steps", "2", "--out", run, "--valid_limit", "5", "--test_limit", "0"])
    result = baselines.main([run, "--limit", "6", "--orders", "2", "--embedding", "False",
                             "--out", str(tmp_path / "out")])
    rows = result["methods"]
    assert list(rows) == ["chance", "untrained", run, *(f"{run}, {way}" for way in (
        "first step", "3 orders", "5 orders", "point-wise", "pair-wise")), "item mean", "oracle"]
    assert [rows[name]["llm_calls_per_list"] for name in rows] == [0, 1, 1, 1, 3, 5, 6, 30, 0, 0]
    assert rows[f"{run}, point-wise"]["kendall_tau"]["mean"] == rows[f"{run}, pair-wise"]["kendall_tau"]["mean"] == 1
    assert (tmp_path / "out" / "eval-test.json").exists() and result["data_sha256"] in capsys.readouterr().out


def test_runs_on_other_data_are_refused(tmp_path, monkeypatch):
    whole = data.synthetic
    monkeypatch.setattr(data, "synthetic", lambda cfg: whole(cfg, n_users=60))
    for name, seed in ("a", "0"), ("b", "1"):
        train.main(["--steps", "1", "--out", str(tmp_path / name), "--valid_limit", "5", "--test_limit", "0",
                    "--data_seed", seed])
    with pytest.raises(alro.AlroError, match="other data"):
        baselines.main([str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(alro.AlroError, match="no data flags"):
        baselines.main([str(tmp_path / "a"), "--list_size", "5"])
