"""--resume: to the same end as a run never stopped, or not at all. Folders are never shared nor overwritten."""
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import (
    Crash, assert_same_end, assert_same_weights, crash_at, csv_run, demo_run, files_of, log_of, one_line, refused,
    state_of)

import evaluate
import train
from plumbing import folder as run_folder

# ---- The same end ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("step", [2, 6, 8, 11])
def test_resuming_after_a_crash_equals_never_having_crashed(small_world, tmp_path, demo_straight, step):
    """2 N steps = N + resume N, bit for bit, log included; with LoRA's dropout: test_interruption.py."""
    with pytest.raises(Crash):
        train.train(*demo_run(tmp_path / "run"), on_step=crash_at(step))
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write('{"step": 9, "sf')  # a line cut short by the crash
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_weights(demo_straight, tmp_path / "run")
    assert log_of(demo_straight) == log_of(tmp_path / "run")


def test_a_model_left_aside_by_a_kill_is_put_back_although_none_better_follows(straight, tmp_path, monkeypatch):
    """Killed between the two renames of save_model, before the last steps; these rank worse than what is kept."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    (run / "model").rename(run / "model.old")
    monkeypatch.setattr(run_folder.Run, "validated", None)  # nothing is left to validate
    train.main(["--resume", str(run)])
    assert_same_weights(straight, run)
    assert not (run / "model.old").exists()


def test_a_run_whose_model_is_gone_is_not_gone_on_with(straight, tmp_path):
    """Only a better model would be kept, so at the end there might be none."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    shutil.rmtree(run / "model")
    assert "has no model/ yet" in one_line(evaluate.main, [str(run)])  # the way that it names is the next line
    assert f"{run}/model, the best on validation until step" in one_line(train.main, ["--resume", str(run)])


def test_the_same_command_works_after_a_kill_before_config_json(world, straight, tmp_path):
    """And --out that names a file is one line, which says so."""
    (tmp_path / "run").mkdir()
    for name in "lock", "config.json.123.partial":
        (tmp_path / "run" / name).write_text("{")
    train.train(*csv_run(world, tmp_path / "run"))
    assert_same_end(straight, tmp_path / "run")
    assert one_line(train.main, ["--out", ""]) == "--out is empty: give a value, or leave it out"
    assert one_line(evaluate.main, [""]) == "run is empty: give a value, or leave it out"
    assert one_line(train.train, *csv_run(world, world / "items.csv")) == f"--out {world}/items.csv is a file, " \
        "not a folder"


def test_the_same_folder_works_after_a_loss_that_was_no_loss(world, straight, tmp_path):
    """It was refused at the first step: its config.json alone is no run, and the next try need not be elsewhere."""
    def mine(model, batch, cfg):
        return {"sft": train.losses(model, batch, cfg)["sft"]}
    told = one_line(train.train, *csv_run(world, tmp_path / "run"), losses=mine)
    assert told == 'a loss function must return "total", the loss of each list; this one returns sft'
    train.train(*csv_run(world, tmp_path / "run"))
    assert_same_end(straight, tmp_path / "run")


# ---- Not on other data, nor under another configuration --------------------------------------------------------------

def test_a_run_is_not_gone_on_with_on_other_data(world, straight, tmp_path):
    """Ratings changed since: refused. The same ratings in another order of lines: not."""
    shutil.copytree(straight, tmp_path / "run")
    shutil.copytree(world, tmp_path / "world")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["data_path"] = str(tmp_path / "world")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    header, *lines = (world / "ratings.csv").read_text().splitlines()
    (tmp_path / "world" / "ratings.csv").write_text("\n".join([header, *lines[::-1]]))
    train.main(["--resume", str(tmp_path / "run")])
    user, item, _, time = zip(*(line.split(",") for line in lines))
    lines = [",".join(row) for row in zip(user, item, ["3"] * 20 + ["4"] * len(lines), time)]
    (tmp_path / "world" / "ratings.csv").write_text("\n".join([header, *lines]))
    assert "made with other data" in one_line(train.main, ["--resume", str(tmp_path / "run")])


@pytest.mark.parametrize("part, name, value, other", [
    ("train", "lr", 1e-3, "another configuration"), ("train", "seed", 7, "another configuration"),
    ("train", "steps", 9, "another configuration"), ("train", "batch_size", 3, "another configuration"),
    ("data", "stride", 3, "other data"),
    ("losses", None, "experiments.objectives:soft_ties_losses", "another loss function")])
def test_a_run_is_not_gone_on_with_under_another_configuration(straight, tmp_path, part, name, value, other):
    """config.json edited: half a run each way is no run."""
    shutil.copytree(straight, tmp_path / "run")
    config = json.loads((straight / "config.json").read_text())
    config[part] = {**config[part], name: value} if name else value
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert one_line(train.main, ["--resume", str(tmp_path / "run")]).endswith(f"made with {other}")
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("part, name", [("train", "sigma"), ("train", "lr"), ("data", "stride"), ("data", "k_core")])
def test_a_field_is_never_filled_in_by_its_default(straight, tmp_path, part, name):
    """A field that is gone from config.json is missed by name, though the default would be the run's own value; one
    that the checkpoint lacks makes it one of another configuration."""
    shutil.copytree(straight, tmp_path / "run")
    config = json.loads((straight / "config.json").read_text())
    del config[part][name]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    before = files_of(tmp_path / "run")
    assert f"config.json: missing field {name!r}" in one_line(train.main, ["--resume", str(tmp_path / "run")])
    assert files_of(tmp_path / "run") == before
    if part == "train":
        shutil.copy(straight / "config.json", tmp_path / "run")
        state = state_of(tmp_path / "run")
        del state["origin"]["config"][name]
        torch.save(state, tmp_path / "run" / "checkpoint" / "state.pt")
        assert "another configuration" in one_line(train.main, ["--resume", str(tmp_path / "run")])


@pytest.mark.parametrize("field, value, complaint", [
    ("learning_rate", 1, "unknown field 'learning_rate'"), ("steps", "many", "steps must be int"),
    ("steps", True, "steps must be int"), ("lr", -1, r"config\.json: --lr must be positive")])
def test_a_config_json_with_a_bad_field_is_refused_by_name(tmp_path, straight, field, value, complaint):
    broken = json.loads((straight / "config.json").read_text())
    broken["train"][field] = value
    (tmp_path / "config.json").write_text(json.dumps(broken))
    with refused(complaint):
        train.main(["--resume", str(tmp_path)])


# ---- One folder, one run ---------------------------------------------------------------------------------------------

def test_a_second_run_does_not_overwrite_the_first(small_world, demo_straight):
    before = (demo_straight / "log.jsonl").read_bytes()
    with refused("--resume"):
        train.train(*demo_run(demo_straight))
    for flags in (["--preset", "small-gpu"], ["--lr", "1"], ["--out", "elsewhere"], ["--losses", "x:y"],
                  ["--seed", "2"], ["--stride", "2"]):
        with refused("no other flag"):
            train.main(["--resume", str(demo_straight), *flags])
    assert (demo_straight / "log.jsonl").read_bytes() == before


def test_two_runs_started_together_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(run_folder.make_run_folder(None, "world")) for _ in range(2)] == ["runs/world-1", "runs/world-2"]
    assert [str(run_folder.make_run_folder("mine", "world")) for _ in range(2)] == ["mine"] * 2  # claimed later
    Path("file").touch()
    with refused("--out file is a file"):
        run_folder.make_run_folder("file", "world")


@pytest.mark.parametrize("theirs", ["model/mine.txt", "checkpoint/state.pt", "log.jsonl", "config.json", "thesis.tex"])
def test_a_folder_with_anything_in_it_is_not_trained_in(world, straight, tmp_path, theirs):
    """--out must be new or empty: refused by name before a byte is touched, a run's own files or somebody's."""
    out = tmp_path / "run"
    (out / theirs).parent.mkdir(parents=True)
    (out / theirs).write_text("mine")
    message = one_line(train.train, *csv_run(world, out))
    assert f"{out} holds ['{theirs.split('/')[0]}']" in message and f"--resume {out}" in message
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {theirs, "lock"}
    assert (out / theirs).read_text() == "mine"
