"""What a result rests on, and whose it is: weights under an adapter, a row's name, a file's name, a link."""
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers import demo_config, demo_run, one_line, refused

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
    with refused("made with other data or another configuration"):
        train.main(["--resume", str(run)])


@pytest.mark.parametrize("name", ["MF", "LightGCN", "popularity", "told the genre", "knows", "item mean"])
def test_a_run_called_like_a_rivals_row_is_refused(small_world, demo_straight, tmp_path, name):
    """Once its row was overwritten by the rival's, and every difference was then against the rival."""
    shutil.copytree(demo_straight, tmp_path / name)
    shutil.copytree(demo_straight, tmp_path / "other")
    runs = [str(tmp_path / "other"), str(tmp_path / name)]
    with refused("has the name of another row"):
        rivals.main([*runs, "--limit", "3"])
    if name in compare.OWN_ROWS:
        with refused("has the name of another row"):
            compare.main([*runs, "--limit", "3"])


def test_two_evaluations_at_once_write_files_of_their_own(tmp_path, monkeypatch):
    """The partial files of two processes have two names: no table with the other one's lines."""
    written = []
    real = os.replace
    monkeypatch.setattr(run_folder.os, "replace", lambda one, other: (written.append(Path(one).name), real(one, other)))
    result = {"decode": "greedy", "split": "test", "ranked_lists": 1, "orders": 1, "methods": {}}
    for pid in (11, 12):
        monkeypatch.setattr(run_folder.os, "getpid", lambda pid=pid: pid)
        run_folder.write_results(tmp_path, {**result, "ranked_lists": pid}, {}, [None] * pid)
    assert len(set(written)) == len(written) == 4


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
