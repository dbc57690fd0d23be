"""The script behind results/real.json, from end to end on a small model and small ratings."""
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

import data
import evaluate
import train
from experiments import compare, rivals

sys.path.append(str(Path(__file__).parents[1] / "results" / "make"))

import measure  # noqa: E402
import real_table  # noqa: E402


@pytest.fixture
def config(straight, world, tmp_path, monkeypatch, few_draws):
    """Two steps an arm, from the model of a small run."""
    small = {"steps": 2, "batch_size": 4, "grad_accum": 1, "valid_lists": 3, "valid_every": 2}
    rows = (*real_table.ARMS, "ALRO, title alone")
    monkeypatch.setitem(real_table.SIZES, "cpu", real_table.Size(
        "small-gpu", small, {"grad_accum": 2}, {"list_size": 3, "history_size": 4, "stride": 5}, 2, rows, "small"))
    # The small world has no categories.
    for name in ARMS_WITH_FIELDS:
        weights, _fields, losses = real_table.ROWS[name]
        monkeypatch.setitem(real_table.ROWS, name, (weights, {"fields": "title,average"}, losses))
    monkeypatch.setattr(rivals, "embedding_rankers", lambda *_: ({}, {}))
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    return ["--out", "results", "--commit", "c0ffee", "--limit", "4", "--dataset", "csv", "--data_path", str(world),
            "--model", str(straight / "model")]


ARMS_WITH_FIELDS = [name for name in real_table.ROWS if name != "ALRO, title alone"]


def test_the_real_table_is_trained_and_scored_by_two_commands_and_goes_on(config, tmp_path, monkeypatch, capsys):
    real_table.main(["list", *config])
    assert "done" not in capsys.readouterr().out
    real_table.main(["train", *config])
    real_table.main(["list", *config])
    assert capsys.readouterr().out.count("done ") == 10
    # Zero-shot is not asked with the prompts that say less. (Once that wrote over what was kept.)
    real_table.main(["rank", *config, "--rows", "ALRO;ALRO, title alone"])
    assert not (tmp_path / "runs/real-cpu/zero-shot-4.json").exists()
    once = real_table.asked_once
    wrapped = []
    monkeypatch.setattr(real_table, "asked_once", lambda ranker: wrapped.append(ranker) or once(ranker))
    real_table.main(["score", *config])
    assert len(wrapped) == 1 and "point_wise" in wrapped[0].__qualname__
    assert (tmp_path / "runs/real-cpu/zero-shot-4.json").exists()
    result = json.loads((tmp_path / "results" / "small.json").read_text())
    trained = ["SFT", "SFT+PSL", "ALRO", "ALRO, title alone"]
    rows = {"chance", "zero-shot", *trained, *(f"{row}, knows" for row in trained), "ratings only, knows",
            "SFT, 3 orders", "ALRO, first step", "ALRO, point-wise", "item mean", "printed average"}
    assert result["methods"].keys() == rows and result["ranked_lists"] == 4 and result["orders"] == 2
    assert result["methods"]["ALRO"]["seeds"] == 2 and result["methods"]["ALRO, point-wise"]["llm_calls_per_list"] == 3
    assert "all lists" in result["groups"] and result["commit"] == "c0ffee"
    for row in ("ALRO", "SFT", "zero-shot"):
        assert not any(metric.endswith("_shown") for metric in result["methods"][row])
    # Arms are paired seed by seed, as many as both have; a row without seeds of its own stands beside each.
    paired = {pair: len(gap["agreement"]["by_seed"]) for pair, gap in result["differences"].items()}
    expected = {"ALRO - SFT": 2, "ALRO - item mean": 2, "ALRO - SFT+PSL": 2, "ALRO - ALRO, point-wise": 1,
                "SFT, 3 orders - SFT": 1, "ALRO, knows - ALRO": 2, "ALRO, knows - printed average": 2,
                "ALRO, knows - ratings only, knows": 2}
    assert expected.items() <= paired.items()
    # What is ranked is kept: a second call asks no model, and writes the same.
    monkeypatch.setattr(evaluate.ModelRanker, "__call__", None)
    monkeypatch.setattr(rivals, "point_wise", lambda *_: None)
    real_table.main(["score", *config])
    again = json.loads((tmp_path / "results" / "small.json").read_text())
    assert again["methods"] == result["methods"]


def test_ratings_alone_are_read_off_with_the_weights_of_the_last_step(config, tmp_path):
    real_table.main(["train", *config, "--rows", "ratings only", "--seed", "0"])
    folder = tmp_path / "runs/real-cpu/ratings-only/0"
    lists = evaluate.data_of_run(str(folder), "test", 4)
    ranker, _calls = real_table.rankers_of(folder, "ratings only", lists)[", knows"]
    last = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)["weights"]
    there = dict(ranker.model.named_parameters())
    assert ranker.decode == "ratings" and all(torch.equal(there[name], last[name]) for name in there)
    asked = {seed: real_table.ways_of("ratings only", seed, train.TrainConfig()) for seed in (0, 1)}
    assert asked == {0: [", knows"], 1: [", knows"]}
    assert real_table.ways_of("SFT, history alone", 0, train.TrainConfig(candidate_weight=0.0)) == [""]


def test_the_printed_average_is_what_the_prompt_says_rounded_as_there(world):
    cfg = data.DataConfig(dataset="csv", data_path=str(world), fields="title,average", list_size=3, history_size=4)
    lists = compare.load_evaluation(cfg, "test", 6)
    predicted = real_table.printed_average(lists)(lists.lists, None)
    for ranking_list, order in zip(lists.lists, predicted.tolist()):
        prompt = data.list_prompt(lists.ratings.words, ranking_list, [0, 1, 2])
        lines = prompt.splitlines()[-4:-1]
        printed = [float(line.split(" ->")[0].rsplit(", ", 1)[1]) for line in lines]
        assert [printed[i] for i in order] == sorted(printed, reverse=True)


class Process:
    """In the place of subprocess.Popen: what `each` starts runs in our process, at once, and ends when it was polled
    three times; or, `endless`, when it is told to."""
    alive, most, started, endless = 0, 0, [], False

    def __init__(self, command, **_options):
        verb = command.index("one")
        Process.started.append(command[command.index("--rows") + 1])
        Process.alive += 1
        Process.most = max(Process.most, Process.alive)
        self.polls, self.returncode, self.ended = 0, 0, False
        if not self.endless:
            try:
                real_table.main(command[verb:])
            except ValueError:
                self.returncode = 1

    def poll(self):
        self.polls += 1
        if self.endless:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.polls == 3:
            Process.alive -= 1
        return self.returncode if self.polls >= 3 and not self.endless else None

    def terminate(self):
        self.ended = True

    def wait(self):
        assert self.ended, "it would run on"
        Process.alive -= 1


@pytest.fixture
def processes(monkeypatch):
    for name, value in (("alive", 0), ("most", 0), ("started", []), ("endless", False)):
        monkeypatch.setattr(Process, name, value)
    monkeypatch.setattr(real_table.subprocess, "Popen", Process)
    monkeypatch.setattr(real_table.time, "sleep", lambda seconds: None)
    return Process


def test_the_table_is_of_all_lists_unless_told_otherwise():
    cfg = real_table.RealConfig()
    assert real_table.kept_at(cfg, Path("run"), "SFT, 3 orders").as_posix() == "run/SFT-3-orders-all.json"


def test_a_size_with_a_model_of_its_own_says_so_in_its_table():
    """Once the tiny model's table was said to be of the pretrained one that --model names."""
    tiny, cpu = (real_table.RealConfig(size=size, model="elsewhere/some-model") for size in ("tiny", "cpu"))
    assert (real_table.model_of(tiny), real_table.untrained_row(tiny)) == ("tiny", "untrained")
    assert (real_table.model_of(cpu), real_table.untrained_row(cpu)) == ("elsewhere/some-model", "zero-shot")
    assert real_table.plan(tiny)["SFT"].train["model"] == "tiny"


def test_each_row_and_seed_is_trained_and_ranked_and_scored_without_the_weights(
        config, tmp_path, processes, capsys):
    there = config.index("--model") + 1
    shutil.copytree(config[there], tmp_path / "hub" / "model")
    given = [*config[:there], str(tmp_path / "hub" / "model"), *config[there + 1:]]
    real_table.main(["each", *given, "--jobs", "3"])
    assert capsys.readouterr().out.count(": done") == 10
    assert processes.most == 3 and processes.alive == 0
    real_table.main(["score", *given])
    out = capsys.readouterr().out
    assert "not in the table: nothing" in out and "ndcg@3   agreement" in out
    scored = (tmp_path / "results" / "small.json").read_text()
    validations = json.loads(scored)["validation"]["SFT"]["0"]
    says, knows = validations["2"]
    assert [*validations] == ["2"] and 0 < says <= 1 and 0 < knows <= 1
    methods = json.loads(scored)["methods"]
    assert methods["SFT, 3 orders"]["llm_calls_per_list"] == 3
    kept_runs = json.loads((tmp_path / "results" / "small-runs.json").read_text())["runs"]
    assert kept_runs["ALRO"]["1"]["config"]["train"]["seed"] == 1 and str(tmp_path) not in str(kept_runs)
    assert kept_runs["SFT"]["0"]["config"]["train"]["grad_accum"] == 2 and "sft" in kept_runs["ALRO"]["1"]["log"][0]
    # Elsewhere: without the weights, and with the pretrained model in another folder of that name.
    for model in [*(tmp_path / "runs").rglob("model"), tmp_path / "hub"]:
        shutil.rmtree(model)
    given[there] = "/elsewhere/model"
    real_table.main(["score", *given])
    assert (tmp_path / "results" / "small.json").read_text() == scored
    # What is not kept is named, and what the pairs need is refused.
    (tmp_path / "runs/real-cpu/ALRO/0/ALRO-point-wise-4.json").unlink()
    real_table.main(["score", *given])
    assert "not in the table: ALRO, point-wise\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "results" / "small.json").read_text())["missing"] == ["ALRO, point-wise"]
    for kept in (tmp_path / "runs/real-cpu/ALRO/0").glob("ALRO*-4.json"):
        kept.unlink()
    with pytest.raises(Exception, match="neither its weights are here nor a ranking"):
        real_table.main(["score", *given])
    shutil.rmtree(tmp_path / "runs/real-cpu/ALRO/0")
    with pytest.raises(Exception, match="ALRO: seeds 1 are trained, of 0, 1"):
        real_table.main(["score", *given])


def test_the_gpus_runs_are_not_trained_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Exception, match="--size gpu: no CUDA GPU found"):
        real_table.main(["train", "--size", "gpu", "--data_path", "there"])


def test_a_row_that_fails_is_named_and_the_others_go_on(config, processes, monkeypatch, capsys):
    monkeypatch.setattr(real_table, "one", lambda cfg: real_table.check_input(cfg.rows != "SFT", "broken"))
    monkeypatch.setitem(real_table.VERBS, "one", real_table.one)
    with pytest.raises(Exception, match=r"failed, see runs/real-cpu/ROW/SEED.txt: \[\('SFT', 0\), \('SFT', 1\)\]"):
        real_table.main(["each", *config, "--jobs", "2"])
    assert capsys.readouterr().out.count(": done") == 8


def test_a_signal_ends_every_process_and_starts_no_other(config, processes):
    processes.endless = True
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Exception, match="stopped; go on with the same command"):
        real_table.main(["each", *config, "--jobs", "2"])
    assert len(processes.started) == 2 and processes.alive == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("change, complaint", [
    (["--model", "{other}"], "started with --model"), (["--dataset", "ml-100k"], "started with --dataset")])
def test_a_run_of_another_configuration_is_not_taken_for_the_rows(config, tmp_path, change, complaint):
    real_table.main(["train", *config, "--rows", "SFT", "--seed", "0"])
    there = config.index(change[0]) + 1
    other = tmp_path / "other" / "model"
    shutil.copytree(config[config.index("--model") + 1], other)
    given = [*config[:there], change[1].format(other=other), *config[there + 1:]]
    for verb in ("train", "rank", "list", "score"):
        with pytest.raises(Exception, match=complaint):
            real_table.main([verb, *given])


def test_a_run_on_other_titles_is_not_ranked(config, tmp_path, world):
    mine = tmp_path / "world"
    shutil.copytree(world, mine)
    there = config.index("--data_path") + 1
    given = [*config[:there], str(mine), *config[there + 1:], "--rows", "SFT", "--seed", "0"]
    real_table.main(["train", *given])
    items = (mine / "items.csv").read_text()
    (mine / "items.csv").write_text(items.replace("Film 1", "Movie 1"))
    with pytest.raises(Exception, match="other titles"):
        real_table.main(["rank", *given])


def test_what_is_kept_is_of_the_same_weights_lists_and_orders(tmp_path):
    lists = compare.load_evaluation(data.DataConfig(), "test", 6)
    asked = []

    def ranker(some, slots):
        asked.append(len(some))
        return torch.tensor(slots)

    def scored(weights, some=lists, orders=2):
        return measure.scored(ranker, some, orders, tmp_path / "kept" / "kept.json", weights, shown=False)
    assert scored(None) is None and asked == []
    first = scored("one")
    again = scored("one")
    assert asked == [6, 6] and (again["values"]["ndcg@6"] == first["values"]["ndcg@6"]).all()
    assert scored(None)["values"].keys() == first["values"].keys() and len(asked) == 2
    fewer = compare.load_evaluation(data.DataConfig(), "test", 5)
    assert scored(None, fewer) is None and scored(None, orders=3) is None and len(asked) == 2
    scored("other")
    assert len(asked) == 4
    scored("other", fewer)
    assert len(asked) == 6


def test_point_wise_is_asked_in_one_displayed_order_and_no_other_is():
    asked = []

    def ranker(lists, slots):
        asked.append(slots)
        return len(asked)
    once = real_table.asked_once(ranker)
    assert [once([], n) for n in range(3)] == [1, 1, 1] and asked == [0]


def test_every_arm_begins_with_the_same_weights_and_differs_in_its_losses_alone():
    for size in real_table.SIZES:
        cfg = real_table.RealConfig(model="pretrained", size=size, data_path="there")
        rows = real_table.plan(cfg)
        assert {row.train["model"] for row in rows.values()} == {"tiny" if size == "tiny" else "pretrained"}
        steps = {train_cfg.steps for name, *_, train_cfg in real_table.jobs(cfg) if "the steps" not in name}
        displays = {train_cfg.display_order for *_, train_cfg in real_table.jobs(cfg)}
        sizes = {data_cfg.list_size for *_, data_cfg, _ in real_table.jobs(cfg)}
        assert len(steps) == 1 and displays == {"shuffled"} and sizes == {10}
        assert set(real_table.ARMS) <= set(rows) or size == "short"


def test_another_verb_or_row_is_one_line():
    with pytest.raises(Exception, match="one of: each, train, rank, score, list"):
        real_table.main(["fit"])
    with pytest.raises(Exception, match="score takes no --rows"):
        real_table.main(["score", "--rows", "SFT"])
    for flag, value in (("--seed", "7"), ("--limit", "-1"), ("--jobs", "0"), ("--size", "tpu")):
        with pytest.raises(Exception, match=flag):
            real_table.main(["list", flag, value])
    with pytest.raises(Exception, match="--rows: no row SLL; there are SFT; "):
        real_table.main(["list", "--rows", "SLL"])
