"""Full disks and denied rights: one line that names the place; what was there stays whole."""
import contextlib
import io
import os
import re
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import (
    Crash, assert_same_end, crash_at, csv_run, files_of, from_child, one_line, refused, said, saved_step)

import train
from plumbing import flags
from plumbing import folder as run_folder
from plumbing.model import load_model, load_run


@pytest.mark.parametrize("limit, what", [(100, "log.jsonl"), (100_000, "model"), (1_000_000, "checkpoint"),
                                         (1_800_000, "checkpoint")])  # model: 0.7 MB, checkpoint: 2.1 MB
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint_whole(world, straight, tmp_path, limit, what):
    """From step 4 on no file may grow past `limit` bytes, so that log, model or checkpoint fail, by the system's own
    error, in whatever library writes them. With room again the run goes on to the same end."""
    out = tmp_path / "run"
    shutil.copytree(straight, out)

    def fill(step):
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def run():
        if what == "model":  # the second validation must be the better one, so that it saves
            values = iter([0.1, 0.9])
            train.validate = lambda *_: {"valid_ndcg": next(values)}
        shutil.rmtree(out)
        flags.run_script(lambda: train.train(*csv_run(world, out), on_step=fill))
    message = from_child(run)
    assert message.startswith("SystemExit: error: ") and len(message.splitlines()) == 1, message
    assert f"{out}/{what}" in message and "written" in message and "File too large" in message, message
    assert saved_step(out) == 3 and load_model(str(out / "model"))
    if what != "model":
        train.main(["--resume", str(out)])
        assert_same_end(straight, out)


@pytest.mark.parametrize("error", [
    OSError(28, "No space left on device"), Exception("No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672]\n. unexpected pos 51328 vs 51280"),
    PermissionError(13, "Permission denied")])
@pytest.mark.parametrize("where", ["tokenizer", "model", "checkpoint", "config.json"])
def test_every_writer_explains_every_error(world, straight, tmp_path, monkeypatch, error, where):
    """torch, safetensors and tokenizers raise types of their own: one line that names the place; no file is lost."""
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    model, tokenizer = load_run(str(out), run_folder.read_run_config(str(out)))
    before = files_of(out)

    def fail(*_, **__):
        raise error
    if where in ("tokenizer", "model"):
        monkeypatch.setattr({"tokenizer": tokenizer, "model": model}[where], "save_pretrained", fail)
        message = one_line(run_folder.save_model, model, tokenizer, out)
    elif where == "checkpoint":
        monkeypatch.setattr(torch, "save", fail)
        run = run_folder.Run(out, None, {}, 3, writes=True)
        message = one_line(run.save, train.State(model, train.TrainConfig(), 4))
    else:
        monkeypatch.setattr(Path, "write_text", fail)
        message = one_line(flags.write_json, out / "config.json", {})
    assert f"{out}/{where.replace('tokenizer', 'model')}: cannot be written" in message
    assert before.items() <= files_of(out).items()


def test_a_full_disk_after_a_kill_between_two_renames_keeps_the_only_model(straight, tmp_path, monkeypatch):
    """model.old alone is left, and the model that should follow it cannot be written."""
    shutil.copytree(straight / "model", tmp_path / "model.old")
    model, tokenizer = load_run(str(straight), run_folder.read_run_config(str(straight)))

    def fail(*_, **__):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(model, "save_pretrained", fail)
        assert "No space left" in one_line(run_folder.save_model, model, tokenizer, tmp_path)
    assert load_model(str(tmp_path / "model.old"))
    run_folder.save_model(model, tokenizer, tmp_path)  # with room again
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and load_model(str(tmp_path / "model"))


def test_a_full_disk_while_the_log_is_cut_back_is_one_line(straight, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(straight, out)

    def run():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with contextlib.redirect_stdout(io.StringIO()):  # pytest's is a file, too
            flags.run_script(lambda: train.main(["--resume", str(out)]))
    message = from_child(run)
    assert message.startswith(f"SystemExit: error: {out}/log.jsonl: "), message
    assert "File too large" in message and len(message.splitlines()) == 1
    assert (out / "log.jsonl").read_bytes() == (straight / "log.jsonl").read_bytes()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become nobody")
@pytest.mark.parametrize("closed", ["", "lock", "checkpoint", "log.jsonl", "config.json"])
def test_denied_rights_are_one_line_that_names_the_path(world, straight, closed):
    """A run of nobody's in which one folder is read-only or one file unreadable ("": the run's own folder), gone on
    with from step 3 by nobody. Not in tmp_path, which nobody may not enter."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        shutil.copytree(world, Path(folder, "world"))
        cfgs = csv_run(Path(folder, "world"), out)

        with pytest.raises(Crash):
            train.train(*cfgs, on_step=crash_at(4))
        assert saved_step(out) == 3
        before = (out / "checkpoint" / "state.pt").read_bytes()
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, 65534, 65534)
        os.chmod(out / closed, 0o555 if (out / closed).is_dir() else 0)

        def run():
            os.setgid(65534)
            os.setuid(65534)
            flags.run_script(lambda: train.main(["--resume", str(out)]))
        message = from_child(run)
        assert re.match(rf"SystemExit: error: .*{out / closed}", message) and "Permission denied" in message, message
        assert len(message.splitlines()) == 1
        assert (out / "checkpoint" / "state.pt").read_bytes() == before


@pytest.mark.parametrize("out", ["/proc/no/such", "/dev/null", "/dev/full/run"])
def test_a_folder_that_cannot_be_made_is_one_line(world, out):
    """A read-only place, a file in the folder's place, a device."""
    assert out.split("/")[1] in said(train.train, *csv_run(world, out))


def test_a_table_that_cannot_be_written_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "folder").mkdir()
    with refused("folder: cannot be written"):
        flags.write_json(tmp_path / "folder", {})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
