"""kill -9, Ctrl-C, a second process, nobody who reads: nothing is lost. Kills at random moments: pytest -m slow."""
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import (
    FORK, assert_same_end, assert_same_weights, csv_run, files_of, in_child, log_of, one_line, saved_step, state_of)
from worlds import many, write

import train
from plumbing.model import load_model, load_tokenizer

ROOT = Path(__file__).parents[2]


# ---- A second process, Ctrl-C, nobody who reads ----------------------------------------------------------------------

def test_a_run_in_use_is_refused_and_free_once_its_process_is_killed(world, straight, tmp_path):
    """A second --resume beside a running one changes no file; after kill -9 it goes on at once, to the same end."""
    out, (ready, go) = tmp_path / "run", FORK.Pipe()

    def wait(step):
        if step == 4:
            go.send("at step 4")
            signal.pause()
    process, _ = in_child(lambda: train.train(*csv_run(world, out), on_step=wait))
    try:
        assert ready.poll(60) and ready.recv() == "at step 4"
        before = files_of(out)
        assert "in use" in one_line(train.main, ["--resume", str(out)])
        assert "in use" in one_line(train.train, *csv_run(world, out))
        assert before == files_of(out)
    finally:
        process.kill()
        process.join()
    train.main(["--resume", str(out)])
    assert_same_end(straight, out)


def test_control_c_in_the_last_validation_saves_and_says_how_to_resume(world, straight, tmp_path, monkeypatch):
    """Before the test lists are ranked; resumed, they are."""
    calls, real = [], train.validate

    def interrupt(*arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)
    monkeypatch.setattr(train, "validate", interrupt)
    with pytest.raises(SystemExit, match=f"--resume {tmp_path}/run"):
        train.train(*csv_run(world, tmp_path / "run", test_lists=3))
    assert len(calls) == 2 and not list((tmp_path / "run").glob("eval-*"))
    assert_same_end(straight, tmp_path / "run")
    assert "trained" in train.main(["--resume", str(tmp_path / "run")])["result"]["methods"]


@pytest.mark.parametrize("lora", [False, True])
def test_control_c_saves_and_says_how_to_resume(world, straight, tmp_path, lora):
    """With LoRA's dropout: the random state of the model's own draws is resumed too. (SIGTERM: test_machine.py.)"""
    adapter = {}
    if lora:
        pytest.importorskip("peft")
        adapter = {"model": str(straight / "model"), "lora_rank": 2, "bf16": False}
    train.train(*csv_run(world, tmp_path / "whole", **adapter))
    with pytest.raises(SystemExit, match=f"--resume {re.escape(str(tmp_path))}/run$"):
        train.train(*csv_run(world, tmp_path / "run", **adapter),
                    on_step=lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 3 else None)
    assert saved_step(tmp_path / "run") == 4  # the step that was under way is finished
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("closed", ["| head -1", "2>&1 | head -1", ">&-", "> /dev/full"])
def test_a_closed_standard_output_ends_no_run(world, straight, tmp_path, closed):
    """Nobody reads on, or nobody could: the run comes to its end as any other, checkpoint, best model and result."""
    out = tmp_path / "run"
    flags = ["--dataset", "csv", "--data_path", world, "--list_size", 3, "--history_size", 4, "--steps", 6,
             "--batch_size", 4, "--valid_every", 3, "--valid_lists", 3, "--test_lists", 3, "--out", out]
    command = shlex.join(map(str, [sys.executable, ROOT / "train.py", *flags]))
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", f"{command} {closed}; exit ${{PIPESTATUS[0]}}"], capture_output=True,
                          text=True, timeout=120, env=buffered)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == ("head" in closed) and "Error" not in done.stderr
    assert_same_weights(straight, out)
    assert (out / "model" / "model.safetensors").read_bytes() == (straight / "model" / "model.safetensors").read_bytes()
    assert [row["step"] for row in log_of(out) if "valid_ndcg" in row] == [3, 6]
    result = json.loads((out / "eval-test.json").read_text())
    assert result["ranked_lists"] == 3 and "trained" in result["methods"]


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_table_whose_reader_has_read_enough_is_no_failure(lines):
    """`python -m experiments.compare A B | head -1`: once exit status 1."""
    script = f"from plumbing.flags import run_script; run_script(lambda: print('a line\\n' * {lines}))"
    done = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{script}" | head -1; exit ${{PIPESTATUS[0]}}'],
                          capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a line\n", "")


# ---- kill -9 ---------------------------------------------------------------------------------------------------------

def check_whole(out: Path) -> None:
    """What a killed run leaves under its final name is whole, whenever it was killed."""
    if (out / "model").exists():
        load_model(str(out / "model")), load_tokenizer(str(out / "model"))
    if (out / "checkpoint" / "state.pt").exists():
        state_of(out)


CHANGES = [(os, "replace"), (os, "rename"), (os, "fsync"), (os, "mkdir"), (os, "open"), (shutil, "rmtree"),
           (torch, "save"), (Path, "write_text"), (Path, "unlink")]  # through which train.py changes its folder


def train_and_die(flags: list[str], n: int) -> None:
    """In a child: kill -9 just before the n-th call of CHANGES. Exit 0: there were fewer."""
    calls = []

    def deadly(real):
        def call(*arguments, **more):
            calls.append(real)
            if len(calls) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)
        return call
    for owner, name in CHANGES:
        setattr(owner, name, deadly(getattr(owner, name)))
    train.main(flags)
    os._exit(0)


def ever_better(out: Path):
    """In the place of train.validate: each validation of a run beats the one before it, so that a model is saved in
    another's place. (Of two models of a few steps either may be the better one.)"""
    real = train.validate

    def validate(*arguments):
        real(*arguments)
        earlier = sum("valid_ndcg" in row for row in log_of(out))
        return {"valid_ndcg": (1 + earlier) / 10}
    return validate


def test_kill_9_before_every_change_of_the_folder_loses_nothing(tmp_path, monkeypatch):
    """A tiny run of two validations, killed at its first, second, ... last change; then gone on with: --resume where
    there is a config.json, the same command where there is none. Same weights, model and log as one never touched."""
    write(tmp_path, "csv", many(users=8, least=16, most=18), {str(i): f"Film {i}" for i in range(40)})
    flags = ["--dataset", "csv", "--data_path", str(tmp_path), "--list_size", "3", "--history_size", "2", "--steps",
             "4", "--batch_size", "2", "--valid_every", "2", "--valid_lists", "8", "--test_lists", "0", "--out"]
    whole, real = tmp_path / "whole", train.validate
    monkeypatch.setattr(train, "validate", ever_better(whole))
    train.main([*flags, str(whole)])
    assert [row["valid_ndcg"] for row in log_of(whole) if "valid_ndcg" in row] == [0.1, 0.2]
    resumed = models = old = 0
    for n in range(1, 100):
        out = tmp_path / f"killed-{n}"
        monkeypatch.setattr(train, "validate", real)
        monkeypatch.setattr(train, "validate", ever_better(out))
        process = FORK.Process(target=train_and_die, args=([*flags, str(out)], n))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        check_whole(out)
        resumable = (out / "config.json").exists()
        resumed, models = resumed + resumable, models + (out / "model").exists()
        old += (out / "model.old").exists() and not (out / "model").exists()
        train.main(["--resume", str(out)] if resumable else [*flags, str(out)])
        assert_same_end(out, whole)
        assert not [path for path in out.rglob("*") if path.name.endswith((".partial", ".old"))]
    print(f"killed {n - 1} times, resumed {resumed} times, {models} with a model, {old} between the renames of two")
    assert 20 < n < 99 and n - 1 > resumed > models > 5 and old == 1


def start(*flags) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *flags], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    errors = process.communicate()[1]
    assert process.returncode == 0, errors


def flags_for(folder: Path, out: str) -> list[str]:
    """80 users, 240 steps, a validation with model and checkpoint every second one: mostly spent writing."""
    draw = random.Random(0)
    folder.mkdir(exist_ok=True)
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{i},Film {i}\n" for i in range(30)))
    lines = [f"{user},{item},{draw.randint(1, 5)},{time}\n" for user in range(80)
             for time, item in enumerate(draw.sample(range(30), 25))]
    (folder / "ratings.csv").write_text("user,item,rating,timestamp\n" + "".join(lines))
    return ["--dataset", "csv", "--data_path", str(folder), "--steps", "240", "--batch_size", "8", "--valid_every", "2",
            "--valid_lists", "4", "--test_lists", "0", "--out", out]


def wait_until_it_writes(process: subprocess.Popen, log: Path) -> None:
    """Until the log has grown since this process began (a resumed run first cuts it back to its checkpoint)."""
    def look():
        return (log.stat().st_ino, log.stat().st_size) if log.exists() else None
    first, end = look(), time.monotonic() + 120
    began = None  # the log as this process found or made it: a file of its own, moved into place
    while process.poll() is None and time.monotonic() < end:
        found = look()
        if found != first:
            began = began if began and began[0] == found[0] else found
            if found[1] > began[1]:
                return
        time.sleep(0.005)
    raise AssertionError(f"it ended before it wrote: {process.communicate()[1]}")


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_no_bit(tmp_path):
    """Killed ten times, each time while it trains, saves or validates: the same weights, best model and log as one
    never touched."""
    finish(start(*flags_for(tmp_path / "data", str(tmp_path / "whole"))))
    draw, out, steps = random.Random(1), tmp_path / "killed", []
    for _ in range(10):
        resumable = (out / "config.json").exists()
        process = start(*(["--resume", str(out)] if resumable else flags_for(tmp_path / "data", str(out))))
        wait_until_it_writes(process, out / "log.jsonl")
        time.sleep(draw.uniform(0, 0.6))
        assert process.poll() is None, "it came to its end before it was killed: more --steps"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        check_whole(out)
        steps.append(saved_step(out) if (out / "checkpoint" / "state.pt").exists() else 0)
    print("killed ten times, with checkpoints of steps", steps)
    finish(start("--resume", str(out)))
    assert_same_end(out, tmp_path / "whole")
    assert saved_step(out) == 240
