"""Metrics against slow definitions, the bootstrap, the rows every table has; evaluate.py and experiments/compare.py,
which sets several runs side by side, as a user runs them."""
import itertools
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from oracles import oracle_ndcg

import data
import evaluate
import train
from experiments import compare, figures
from plumbing import averages, tables

rated = st.lists(st.integers(0, 10).map(lambda r: r / 2), min_size=2, max_size=6)


@given(rated, st.randoms(use_true_random=False), st.integers(1, 12))
def test_ndcg_against_its_definition(ratings, random, k):
    order = random.sample(range(len(ratings)), len(ratings))
    found = evaluate.ndcg(torch.tensor([ratings]), torch.tensor([order]), k).item()
    assert abs(found - oracle_ndcg(ratings, order, k)) < 1e-12
    assert 0 <= found <= 1 + 1e-12
    best = sorted(range(len(ratings)), key=lambda i: -ratings[i])
    assert evaluate.ndcg(torch.tensor([ratings]), torch.tensor([best]), k).item() == pytest.approx(1, abs=1e-12)


@given(rated, st.randoms(use_true_random=False), st.integers(1, 12))
def test_swapping_a_worse_item_that_stands_before_a_better_one_never_lowers_ndcg(ratings, random, k):
    order = random.sample(range(len(ratings)), len(ratings))
    before = evaluate.ndcg(torch.tensor([ratings]), torch.tensor([order]), k)
    for a, b in itertools.combinations(range(len(order)), 2):
        if ratings[order[a]] < ratings[order[b]]:
            better = order.copy()
            better[a], better[b] = order[b], order[a]
            assert evaluate.ndcg(torch.tensor([ratings]), torch.tensor([better]), k) >= before - 1e-12


@given(st.lists(st.integers(0, 5), min_size=2, max_size=5), st.integers(1, 6))
def test_chance_is_the_mean_over_all_orders(ratings, k):
    orders = list(itertools.permutations(range(len(ratings))))
    expected = sum(oracle_ndcg(ratings, order, k) for order in orders) / len(orders)
    assert abs(evaluate.chance_ndcg(torch.tensor([ratings]), k).item() - expected) < 1e-9


@given(st.integers(2, 7), st.randoms(use_true_random=False))
def test_kendall_tau_counts_pairs_of_ranks(m, random):
    a, b = random.sample(range(m), m), random.sample(range(m), m)
    agree = sum(1 if (a.index(i) < a.index(j)) == (b.index(i) < b.index(j)) else -1
                for i, j in itertools.combinations(range(m), 2))
    found = evaluate.kendall_tau(torch.tensor([a]), torch.tensor([b])).item()
    assert abs(found - agree / (m * (m - 1) / 2)) < 1e-12
    assert evaluate.kendall_tau(torch.tensor([a]), torch.tensor([a])).item() == 1
    assert evaluate.kendall_tau(torch.tensor([a]), torch.tensor([a[::-1]])).item() == -1


def test_bootstrap_covers_the_mean_and_is_repeatable():
    """About 95 of 100 intervals of samples of 200 hold the true mean; pairing removes what two methods share."""
    rng = np.random.default_rng(0)
    hits = sum(low <= 0 <= high for _, low, high in (evaluate.bootstrap(rng.normal(size=200)) for _ in range(100)))
    assert 88 <= hits <= 100
    shared = rng.normal(size=300)
    a, b = shared + 0.05 + 0.01 * rng.normal(size=300), shared
    mean, low, high = evaluate.paired_bootstrap(a, b)
    assert 0.045 < low < mean < high < 0.055 and evaluate.paired_bootstrap(a, b) == (mean, low, high)


def test_item_mean_is_damped_towards_the_overall_mean():
    item, rating = np.array([0, 0, 1]), np.array([5.0, 4.0, 1.0])
    mean = (5 + 4 + 1) / 3
    expected = [(9 + 2 * mean) / 4, (1 + 2 * mean) / 3, mean]  # nobody has rated the third
    assert np.allclose(averages.item_mean(item, rating, 3, damping=2), expected)


def test_score_method_on_rankers_whose_answers_are_known():
    """A ranker that copies the display, and one that knows the ratings: NDCG, agreement, flips, slot curve of each."""
    cfg = data.DataConfig()
    ratings = data.load(cfg, n_users=300)
    lists = data.informative_lists(data.split(ratings, cfg).test, "test")
    copy = evaluate.score_method(lambda lists, slots: torch.tensor(slots), lists, orders=3)
    ideal = evaluate.score_method(evaluate.score_ranker(lambda one: np.array(one.ratings)), lists, orders=3)
    chance = evaluate.chance_method(lists)
    assert copy["mean_rank_by_slot"] == [1, 2, 3, 4, 5, 6]
    assert np.allclose(ideal["mean_rank_by_slot"], 3.5, atol=0.35)
    assert abs(copy["values"]["agreement"].mean()) < 0.06 and (ideal["values"]["agreement"] == 1).all()
    assert abs(copy["values"]["top1_flip_rate"].mean() - 5 / 6) < 0.06
    assert (ideal["values"]["top1_flip_rate"] == 0).all()
    cutoffs = [name for name in copy["values"] if name.startswith("ndcg@") and not name.endswith("shown")]
    assert cutoffs == ["ndcg@1", "ndcg@3", "ndcg@5", "ndcg@6"]
    for name in cutoffs:
        assert np.allclose(ideal["values"][name], 1)
        assert abs(copy["values"][name].mean() - chance["values"][name].mean()) < 0.03
    shown = evaluate.ndcg(torch.tensor([one.ratings for one in lists]), torch.tensor([one.shown for one in lists]), 10)
    assert np.allclose(copy["values"]["ndcg@6_shown"], shown)


@pytest.mark.parametrize("m, expected", [
    (2, [1, 2]), (3, [1, 3]), (4, [1, 3, 4]), (6, [1, 3, 5, 6]), (10, [1, 3, 5, 10]), (12, [1, 3, 5, 10])])
def test_a_metric_is_named_by_the_cutoff_that_was_used(m, expected):
    """Lists of 6 have "ndcg@6" and no "ndcg@10"; a number has one name. In every row the same names."""
    lists = [data.RankingList(f"{n}/test", 0, [], list(range(m)), [float(n == i) for i in range(m)], list(range(m)))
             for n in range(3)]
    copy = evaluate.score_method(lambda lists, slots: torch.tensor(slots), lists, orders=2)
    names = [f"ndcg@{k}" for k in expected] + [f"ndcg@{expected[-1]}_shown", "agreement", "top1_flip_rate"]
    assert list(copy["values"]) == list(evaluate.chance_method(lists)["values"]) == names
    for k in expected:  # and it is that cut-off's value
        slots = copy["slots"][:-1]
        by_hand = [[oracle_ndcg(one.ratings, displayed[n], k) for displayed in slots] for n, one in enumerate(lists)]
        assert np.allclose(copy["values"][f"ndcg@{k}"], np.mean(by_hand, -1))


def test_displayed_orders_are_the_same_for_every_seed_and_differ_between_lists():
    assert data.random_slots(6, "eval", "7/test", 0) == data.random_slots(6, "eval", "7/test", 0)
    drawn = {tuple(data.random_slots(6, "eval", f"{u}/test", r)) for u in range(100) for r in range(3)}
    assert len(drawn) > 200


# ---- as a user runs it ----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two runs of two steps, the second on other lists."""
    root = tmp_path_factory.mktemp("runs")
    for name, new_films in (("one", "2"), ("other", "1")):
        train.main(["--steps", "2", "--out", str(root / name), "--valid_lists", "5", "--test_lists", "0",
                    "--new_films", new_films])
    return root


def test_evaluate_writes_the_files_of_the_design(two_runs, capsys):
    scored = evaluate.main([str(two_runs / "one"), "--limit", "7", "--orders", "2", "--show", "1"])
    result = json.loads((two_runs / "one" / "eval-test.json").read_text())
    assert result == scored["result"]
    assert (result["ranked_lists"], result["informative_lists"], result["lists"]) == (7, 3982, 4000)
    assert result["list_size"] == 6 and len(result["data_sha256"]) == 64
    assert list(result["methods"]) == ["chance", "trained", "knows", "item mean", "retriever", "oracle"]
    assert list(scored["methods"]) == list(result["methods"])
    lines = [json.loads(line) for line in (two_runs / "one" / "eval-test.lists.jsonl").read_text().splitlines()]
    for row in "trained", "knows":
        mean = result["methods"][row]
        assert mean["ndcg@6"]["ci95"][0] <= mean["ndcg@6"]["mean"] <= mean["ndcg@6"]["ci95"][1]
        assert len(mean["mean_rank_by_slot"]) == 6 and mean["llm_calls_per_list"] == 1
        mine = [line for line in lines if line["method"] == row]
        assert len(mine) == 7 and np.mean([line["ndcg@6"] for line in mine]) == pytest.approx(mean["ndcg@6"]["mean"])
        assert all(sorted(order) == list(range(6)) for line in mine for order in line["displayed"] + line["predicted"])
    printed = capsys.readouterr().out
    assert "gap closed" in printed and "predicted order" in printed


def test_the_demo_has_as_many_training_lists_as_is_said():
    data_cfg = data.DataConfig()
    splits = data.split(data.load(data_cfg), data_cfg)
    assert len(data.informative_lists(splits.train, "training")) == tables.DEMO_LISTS


def test_runs_on_different_lists_are_not_compared(two_runs):
    with refused("differ"):
        compare.main([str(two_runs / "one"), str(two_runs / "other"), "--limit", "3"])


def test_the_same_run_twice_differs_by_nothing(two_runs, few_draws, tmp_path, capsys):
    """Two folders with one model: two rows, what each knows, and a difference of 0; the table as JSON, the curves as
    text."""
    folders = [str(tmp_path / "one"), str(tmp_path / "copy")]
    for folder in folders:
        shutil.copytree(two_runs / "one", folder, ignore=shutil.ignore_patterns("eval-*"))
    table = compare.main([*folders, "--limit", "5", "--orders", "2", "--json", str(tmp_path / "table.json")])
    printed = capsys.readouterr().out
    one, copy = (f"ALRO, shown, seed 0, in {folder}" for folder in folders)
    assert f"{one}: {folders[0]}" in printed
    assert list(table["methods"])[:5] == ["chance", one, f"{one}, knows", copy, f"{copy}, knows"]
    for pair, own in (f"{copy} - {one}", one), (f"{copy}, knows - {one}", f"{one}, knows - {one}"):
        line = next(line for line in printed.splitlines() if line.startswith(f"{pair} (one training each): "))
        if own == one:
            assert "ndcg@6 +0.0000 [+0.0000, +0.0000]" in line
        else:  # it knows what it knows in the other folder
            assert table["differences"][pair] == table["differences"][own]
    assert json.loads((tmp_path / "table.json").read_text()) == json.loads(json.dumps(table))
    drawn = figures.main([*folders, "--limit", "5", "--orders", "2", "--out", str(tmp_path / "figures")])
    printed = capsys.readouterr().out
    assert {**drawn, "timing": 0} == {**table, "timing": 0}
    assert "Is a slot favoured?" in printed and "  gold position 6  " in printed


@pytest.mark.parametrize("installed", [True, False])
def test_curves_are_printed_and_drawn_where_matplotlib_is_installed(tmp_path, capsys, monkeypatch, installed):
    if installed:
        pytest.importorskip("matplotlib")
    else:
        monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it then raises ImportError
    drawn = {"one": figures.Picture("Title", "gamma", "soft rank", {"": {"line": ([0.3, 1], [2.5, 1.25])}}),
             "two": figures.Picture("Title", "step", "NDCG", {"": {"line": ([1, 2], [0.5, 0.75])}})}
    figures.draw(tmp_path / "figures", drawn)
    printed = capsys.readouterr().out
    assert "0.3:2.500 1:1.250" in printed and "1:0.500 2:0.750" in printed
    assert ("pip install matplotlib" in printed) != installed
    files = sorted(file.name for file in tmp_path.glob("figures/*"))
    assert files == (["one.png", "two.png"] if installed else [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_ask_ranks_ones_own_list(two_runs, tmp_path, capsys, encoding):
    """Also where an editor on Windows has put a byte-order mark before the question."""
    question = {"history": [["Space Acre", 5], ["Love Dawn", 1]], "candidates": ["Space Bell", "Love Key", "Unheard"]}
    (tmp_path / "q.json").write_text(json.dumps(question), encoding=encoding)
    evaluate.main([str(two_runs / "one"), "--ask", str(tmp_path / "q.json")])
    printed = capsys.readouterr().out.splitlines()
    assert sorted(line.split(". ")[1] for line in printed[:3]) == sorted(question["candidates"])
    assert printed[3:] == ["note: this model was trained on lists of 6, not of 3",
                           "note: this model's tokenizer does not know every word of these titles"]


def test_a_question_of_known_titles_gets_no_note(two_runs, tmp_path, capsys):
    """Of as many candidates as in training, each word known where it stands in the prompt: nothing to say."""
    titles = data.load(data.DataConfig(), n_users=60).words.texts
    (tmp_path / "q.json").write_text(json.dumps({"history": [[titles[6], 5]], "candidates": titles[:6]}))
    evaluate.main([str(two_runs / "one"), "--ask", str(tmp_path / "q.json")])
    printed = capsys.readouterr().out.splitlines()
    assert sorted(line.split(". ")[1] for line in printed) == sorted(titles[:6])
