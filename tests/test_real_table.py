"""The script behind results/real.json, from end to end on a small model and small ratings."""
import json
import shutil

import pytest
import real_table
import torch

import baselines
import evaluate
import train


@pytest.fixture
def config(straight, world, tmp_path, monkeypatch, few_draws):
    """Two steps an arm, from the model of a small run."""
    small = {"steps": 2, "batch_size": 4, "grad_accum": 1, "valid_limit": 3, "valid_every": 2, "log_every": 1}
    monkeypatch.setitem(real_table.SIZES, "cpu", {
        "start": {**small, "steps": 3, "valid_every": 3, "beta": 0.0}, "train": small, "without_psl": {"grad_accum": 2},
        "later": {"steps": 1}, "data": {"list_size": 3, "history_size": 4, "stride": 5}, "seeds": 1, "more_seeds": 2,
        "limit": 4, "file": "small"})
    monkeypatch.setattr(real_table, "FIELDS", {"fields": "title,average"})  # the small world has no categories
    monkeypatch.setattr(real_table, "ROOT", tmp_path)
    monkeypatch.setattr(baselines, "embedding_rankers", lambda *_: ({}, {}))
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    return ["--dataset", "csv", "--data_path", str(world), "--model", str(straight / "model")]


@pytest.fixture
def from_nothing(config, monkeypatch):
    """As --size gpu has it: no start, every arm begins with the pretrained model."""
    monkeypatch.setitem(real_table.SIZES["cpu"], "start", None)
    monkeypatch.delitem(real_table.SWEEP, "ALRO, title and category")  # as above
    return config


def test_the_real_table_is_trained_and_scored_by_two_commands_and_goes_on(config, tmp_path, monkeypatch, capsys):
    real_table.main(["list", *config])
    assert "done" not in capsys.readouterr().out
    real_table.main(["train", *config])
    real_table.main(["list", *config])
    assert capsys.readouterr().out.count("done ") == 11
    # An arm's model began as the start, not as the pretrained one: it is none to rank zero-shot with.
    # Nor is it asked with the prompts that say less. (Once that wrote over what was kept.)
    real_table.main(["rank", *config, "--rows", "ALRO;start, title alone"])
    assert not (tmp_path / "runs/real-cpu/zero-shot-4.json").exists()
    once = real_table.asked_once
    wrapped = []
    monkeypatch.setattr(real_table, "asked_once", lambda ranker: wrapped.append(ranker) or once(ranker))
    real_table.main(["score", *config])
    assert len(wrapped) == 1 and "point_wise" in wrapped[0].__qualname__
    assert (tmp_path / "runs/real-cpu/zero-shot-4.json").exists()
    result = json.loads((tmp_path / "results" / "small.json").read_text())
    rows = {"chance", "zero-shot", "start", "start, title alone",
            "SFT", "SFT, 3 orders", "SFT+SLL", "SFT+PSL", "ALRO", "ALRO, first step",
            "ALRO, point-wise", "ALRO, title alone", "item mean"}
    assert result["methods"].keys() == rows and result["ranked_lists"] == 4 and result["orders"] == 2
    assert result["methods"]["ALRO"]["seeds"] == 2 and result["methods"]["ALRO, point-wise"]["llm_calls_per_list"] == 3
    assert "all lists" in result["groups"]
    for row in ("ALRO", "SFT", "zero-shot"):
        assert not any(metric.endswith("_shown") for metric in result["methods"][row])
    # Arms are paired seed by seed, as many as both have; a row without seeds of its own stands beside each.
    paired = {pair: len(gap["agreement"]["by_seed"]) for pair, gap in result["differences"].items()}
    expected = {"ALRO - SFT": 2, "ALRO - item mean": 2, "ALRO - start": 2, "ALRO - SFT+PSL": 1,
                "ALRO - ALRO, point-wise": 1,
                "SFT, 3 orders - SFT": 1, "ALRO, title alone - start, title alone": 1}
    assert expected.items() <= paired.items()
    # What is ranked is kept: a second call asks no model, and writes the same.
    monkeypatch.setattr(evaluate.ModelRanker, "__call__", None)
    monkeypatch.setattr(baselines, "point_wise", lambda *_: None)
    real_table.main(["score", *config])
    again = json.loads((tmp_path / "results" / "small.json").read_text())
    assert again["methods"] == result["methods"]


def test_the_sweep_is_ranked_on_validation_lists_and_paired_with_alro(from_nothing, tmp_path):
    with pytest.raises(Exception, match="ALRO's seed 1 is not trained"):
        real_table.main(["sweep", *from_nothing])
    real_table.main(["train", *from_nothing, "--rows", "ALRO;SFT+SLL;ALRO, beta .3", "--seed", "1"])
    real_table.main(["sweep", *from_nothing])
    found = json.loads((tmp_path / "results" / "real-cpu-sweep.json").read_text())
    assert [*found["rows"]] == ["ALRO", "SFT+SLL", "ALRO, beta .3"] and found["rows"]["ALRO"]["minus ALRO"] == [0, 0, 0]
    gap = found["rows"]["SFT+SLL"]
    assert gap["minus ALRO"][0] == pytest.approx(gap["mean"] - found["rows"]["ALRO"]["mean"])


class Ended:
    """A process that ran in ours and has ended."""
    returncode = 0

    def poll(self):
        return self.returncode


def test_each_row_and_seed_is_trained_and_ranked_and_scored_without_the_weights(from_nothing, tmp_path, monkeypatch,
                                                                                capsys):
    def in_this_process(cfg, name, seed, folder):
        real_table.main(["one", *from_nothing, "--rows", name, "--seed", str(seed)])
        return Ended()
    monkeypatch.setattr(real_table, "start_process", in_this_process)
    real_table.main(["each", *from_nothing, "--jobs", "3"])
    assert capsys.readouterr().out.count(": done") == 9
    real_table.main(["score", *from_nothing])
    scored = (tmp_path / "results" / "small.json").read_text()
    sweep = json.loads(scored)["validation"]
    assert set(real_table.SWEEP) <= sweep.keys() and [*sweep["SFT"]["1"]] == ["2"]
    assert "ALRO, beta .3" not in json.loads(scored)["methods"]
    kept_runs = json.loads((tmp_path / "results" / "small-runs.json").read_text())["runs"]
    assert kept_runs["ALRO"]["2"]["config"]["train"]["seed"] == 2 and str(tmp_path) not in str(kept_runs)
    assert "sft" in kept_runs["ALRO"]["2"]["log"][0]
    # Elsewhere: without the weights, and with the pretrained model in another folder of that name.
    for model in (tmp_path / "runs").rglob("model"):
        shutil.rmtree(model)
    there = from_nothing.index("--model") + 1
    real_table.main(["score", *from_nothing[:there], "/elsewhere/model", *from_nothing[there + 1:]])
    assert (tmp_path / "results" / "small.json").read_text() == scored


def test_a_row_that_fails_is_named_and_the_others_go_on(from_nothing, monkeypatch, capsys):
    failing = type("Failed", (Ended,), {"returncode": 1})
    monkeypatch.setattr(real_table, "start_process", lambda _, name, *__: failing() if name == "SFT" else Ended())
    with pytest.raises(Exception, match=r"failed, see runs/real-cpu/ROW/SEED.txt: \[\('SFT', 1\), \('SFT', 2\)\]"):
        real_table.main(["each", *from_nothing, "--jobs", "2"])
    assert capsys.readouterr().out.count(": done") == 7


def test_arms_go_on_from_the_start_and_draw_other_batches(config, tmp_path):
    real_table.main(["train", *config, "--rows", "start;SFT"])
    start, arm = (json.loads((tmp_path / "runs/real-cpu" / folder / "config.json").read_text())["train"]
                  for folder in ("start/0", "SFT/1"))
    assert arm["model"] == "runs/real-cpu/start/0/model" and start["model"] == config[config.index("--model") + 1]
    assert start["beta"] == 0 and start["steps"] == 3 and arm["alpha"] == 0 and arm["seed"] != start["seed"]
    assert not (tmp_path / "runs/real-cpu/ALRO").exists()


def test_what_is_trained_later_is_the_steps_up_to_the_one_that_was_best_step_for_step():
    """CPU_LATER's rate over its 40 steps is that of the first 40 of CPU's 80."""
    rates = []
    for changes in ({}, real_table.CPU_LATER):
        cfg = train.TrainConfig(**{**real_table.CPU, **changes})
        optimizer, scheduler = train.make_optimizer(torch.nn.Linear(2, 2), cfg, cfg.steps)
        found = []
        for _ in range(40):
            found.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        rates.append(found)
    assert rates[0] == rates[1] and rates[0][39] == real_table.CPU["lr"]
    assert real_table.CPU_LATER.keys() == {"steps", "warmup", "decay"} and real_table.CPU["valid_every"] == 40
    jobs = real_table.jobs(real_table.RealConfig(data_path="there"))
    assert {(name, seed, cfg.steps) for name, seed, _, _, cfg in jobs if name in ("ALRO", "ALRO, title alone")} == {
        ("ALRO", 1, 80), ("ALRO", 2, 40), ("ALRO, title alone", 1, 40)}


def test_point_wise_is_asked_in_one_displayed_order_and_no_other_is():
    asked = []

    def ranker(lists, slots):
        asked.append(slots)
        return len(asked)
    once = real_table.asked_once(ranker)
    assert [once([], n) for n in range(3)] == [1, 1, 1] and asked == [0]


def test_without_a_start_an_arm_begins_with_the_pretrained_model(from_nothing, capsys):
    real_table.main(["list", *from_nothing])
    assert "start" not in capsys.readouterr().out
    cfg = real_table.RealConfig(model="pretrained")
    assert {row.train["model"] for row in real_table.plan(cfg).values()} == {"pretrained"}


def test_another_verb_or_row_is_one_line():
    with pytest.raises(Exception, match="one of: each, train, rank, score, sweep, list"):
        real_table.main(["fit"])
    with pytest.raises(Exception, match="score takes no --rows"):
        real_table.main(["score", "--rows", "SFT"])
    with pytest.raises(Exception, match="--rows: no row SLL; there are start; SFT"):
        real_table.main(["list", "--rows", "SLL"])
