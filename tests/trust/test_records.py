"""What a result rests on, and whose it is: weights under an adapter, a row's name, a file's name, a link."""
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers import demo_config, demo_run, in_child, one_line, refused

import data
import evaluate
import train
from experiments import compare, rivals
from plumbing import folder as run_folder
from plumbing.files import find_file
from plumbing.model import build_model


@pytest.fixture
def lora_run(small_world, tmp_path):
    """(run, its base model's folder)"""
    pytest.importorskip("peft")
    base = tmp_path / "base"
    base.mkdir()
    model, tokenizer = build_model(demo_config(), data.load(data.DataConfig()).words)
    run_folder.save_model(model, tokenizer, base)
    run = tmp_path / "run"
    train.train(*demo_run(run, model=str(base / "model"), lora_rank=2, steps=4))
    return run, base


def test_an_adapter_on_other_weights_than_it_was_trained_on_is_refused(lora_run):
    """Once evaluate.py printed other numbers with the same model hash, and --resume went on upon the other base."""
    run, base = lora_run
    evaluate.main([str(run), "--limit", "3", "--orders", "1"])
    other, tokenizer = build_model(demo_config(seed=1), data.load(data.DataConfig()).words)
    run_folder.save_model(other, tokenizer, base)
    for call in (lambda: evaluate.main([str(run), "--limit", "3"]), lambda: rivals.main([str(run), "--limit", "3"])):
        assert "have changed since" in one_line(call)
    with refused(f"made with other weights of {base}/model, on which the adapter was put"):
        train.main(["--resume", str(run)])


def test_a_run_may_lie_in_a_folder_called_like_a_row(small_world, few_draws, demo_straight, tmp_path):
    """Once its row was overwritten by the row of that name: rows are called by what was trained."""
    runs = [str(tmp_path / name) for name in ("knows", "chance")]
    for run in runs:
        shutil.copytree(demo_straight, run)
    table = compare.main([*runs, "--limit", "3", "--orders", "1"])
    assert [*table["methods"]][:5] == ["chance", *(f"ALRO, shown, seed 0, in {run}{way}" for run in runs
                                                   for way in ("", ", knows"))]


def test_an_adapter_whose_base_is_gone_names_the_folder(lora_run):
    """Once "check your connection": the folder's name was asked of the Hugging Face Hub."""
    run, base = lora_run
    shutil.rmtree(base)
    message = one_line(evaluate.main, [str(run), "--limit", "3"])
    assert message == f"{run}/model is an adapter on the model in {base}/model: there is no such folder"
    assert one_line(train.main, ["--resume", str(run)]) == f"--model {base}/model: there is no such folder"


RESULT = {"decode": "greedy", "split": "test", "ranked_lists": 1, "orders": 1}


def method_of(value: float) -> dict:
    return {"only": {"slots": [], "predicted": [], "values": {"ndcg@6": [value]}}}


def write_result(folder, value):
    lists = [data.RankingList("a/test", 0, [], [0], [1.0], [0])]
    run_folder.write_results(folder, {**RESULT, "methods": {"only": value}}, method_of(value), lists)


def value_of(folder):
    """(of the table, of the lines)"""
    table, lines = folder / "eval-test.json", folder / "eval-test.lists.jsonl"
    return table.exists() and json.loads(table.read_text())["methods"]["only"], json.loads(lines.read_text())["ndcg@6"]


def test_a_kill_between_the_two_files_leaves_no_table_beside_other_lines(tmp_path, monkeypatch):
    """And until both are on the disk, the old ones stay."""
    write_result(tmp_path, 1.0)
    real = os.replace
    for number, left in ((1, (1.0, 1.0)), (2, (False, 1.0)), (3, (False, 2.0))):
        shutil.copytree(tmp_path, tmp_path / "killed", ignore=shutil.ignore_patterns("killed"))
        calls = []

        def replace(*paths, calls=calls, number=number):
            calls.append(paths)
            if len(calls) == number:
                raise KeyboardInterrupt
            real(*paths)
        monkeypatch.setattr(run_folder.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            write_result(tmp_path / "killed", 2.0)
        monkeypatch.setattr(run_folder.os, "replace", real)
        assert value_of(tmp_path / "killed") == left
        shutil.rmtree(tmp_path / "killed")
    write_result(tmp_path, 2.0)
    assert value_of(tmp_path) == (2.0, 2.0) and not [*tmp_path.glob("*.new"), *tmp_path.glob("*.partial")]


def test_what_a_killed_evaluation_left_behind_is_cleared_away(tmp_path):
    for name in "eval-test.1.new", "eval-test.1.partial", "eval-test.1.new.1.partial", "eval-test-first.1.new":
        (tmp_path / name).write_text("half a resu")
    write_result(tmp_path, 1.0)
    assert value_of(tmp_path) == (1.0, 1.0)
    assert [path.name for path in tmp_path.glob("*.1.*")] == ["eval-test-first.1.new"]  # of another result


def test_of_two_evaluations_that_end_together_one_waits(tmp_path):
    """Else the lines of one may stand beside the table of the other."""
    lock = run_folder.lock_folder(tmp_path, "eval-lock")
    process, pipe = in_child(write_result, tmp_path, 1.0)
    assert not pipe.poll(1) and not (tmp_path / "eval-test.json").exists()
    lock.release()
    assert pipe.poll(60) and pipe.recv() is None
    process.join()
    assert value_of(tmp_path) == (1.0, 1.0)


def test_two_evaluations_at_once_write_files_of_their_own(tmp_path, monkeypatch):
    """The partial files of two processes have two names: no table with the other one's lines."""
    written = []
    real = os.replace
    # Nor where there are no locks, on some network drives.
    monkeypatch.setattr(run_folder, "lock_folder", lambda *_, **__: run_folder.filelock.SoftFileLock(tmp_path / "x"))
    monkeypatch.setattr(run_folder.os, "replace", lambda one, other: (written.append(Path(one).name), real(one, other)))
    result = {"decode": "greedy", "split": "test", "ranked_lists": 1, "orders": 1, "methods": {}}
    for pid in (11, 12):
        monkeypatch.setattr(run_folder.os, "getpid", lambda pid=pid: pid)
        run_folder.write_results(tmp_path, {**result, "ranked_lists": pid}, {}, [None] * pid)
    assert len(set(written)) == len(written) == 6


def test_a_model_folder_that_was_moved_and_linked_is_saved_into_again(tmp_path):
    """To a larger disk, say. Once the second save failed, and every resume after it."""
    run, disk = tmp_path / "run", tmp_path / "disk"
    run.mkdir()
    disk.mkdir()
    words = data.load(data.DataConfig(), n_users=20).words
    run_folder.save_model(*build_model(demo_config(), words), run)
    shutil.move(run / "model", disk / "model")
    os.symlink(disk / "model", run / "model")
    for seed in (1, 2):
        model, tokenizer = build_model(demo_config(seed=seed), words)
        run_folder.save_model(model, tokenizer, run)
        loaded = evaluate.load_run(str(run), {"base_sha256": None, "train": {"model": "tiny", "bf16": None}})[0]
        assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert (run / "model").is_symlink() and not list(disk.glob("model.*"))


def test_files_are_told_apart_by_case_on_any_system(tmp_path, monkeypatch):
    """Windows compares names in lower case: then amazon-2018's [A-Z]*.json, its ratings, fits meta_*.json, too."""
    monkeypatch.setattr(os.path, "normcase", str.lower)
    for name in ("Movies.json", "meta_Movies.json"):
        (tmp_path / name).write_text("{}\n")
    assert find_file(tmp_path, "[A-Z]*.json").name == "Movies.json"
