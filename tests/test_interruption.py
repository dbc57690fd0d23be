"""kill -9 at any moment, then the same again: nothing is lost. The random moments are slow: pytest -m slow."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_data import many, write
from test_trust import FORK

import train
from model import load_model, load_tokenizer

ROOT = Path(__file__).parents[1]


def state(out: Path) -> dict:
    return torch.load(out / "checkpoint" / "state.pt", weights_only=True)


def check_whole(out: Path) -> None:
    """What a killed run leaves under its final name is whole, whenever it was killed."""
    if (out / "model").exists():
        load_model(str(out / "model")), load_tokenizer(str(out / "model"))
    if (out / "checkpoint" / "state.pt").exists():
        state(out)


def end_of(out: Path) -> tuple:
    """All that a run is for: its last step and weights, its best model, its log (less how fast it was)."""
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return (state(out)["step"], {name: weight.tolist() for name, weight in state(out)["weights"].items()},
            (out / "model" / "model.safetensors").read_bytes(),
            [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in log])


CHANGES = [(os, "replace"), (os, "rename"), (os, "fsync"), (os, "mkdir"), (shutil, "rmtree"), (torch, "save"),
           (Path, "write_text"), (Path, "touch")]  # every function through which train.py changes its folder


def train_and_die(flags: list[str], n: int) -> None:
    """In a child: kill -9 just before the n-th call of CHANGES. Exit 0: there were fewer."""
    calls, me = [], os.getpid()

    def deadly(real):
        def call(*arguments, **more):
            calls.append(real)
            if len(calls) == n and os.getpid() == me:  # not the loader's worker, which inherits all this
                os.kill(me, signal.SIGKILL)
            return real(*arguments, **more)
        return call
    for owner, name in CHANGES:
        setattr(owner, name, deadly(getattr(owner, name)))
    train.main(flags)
    os._exit(0)


def test_kill_9_before_every_change_of_the_folder_loses_nothing(tmp_path):
    """A tiny run of two validations, killed at its first, second, ... last change; then gone on with: --resume where
    there is a config.json, the same command where there is none. Same weights, model and log as one never touched."""
    torch.set_num_threads(1)
    write(tmp_path, "csv", many(users=8, least=16, most=18), {str(i): f"Film {i}" for i in range(40)})
    flags = ["--dataset", "csv", "--data_path", str(tmp_path), "--list_size", "3", "--history_size", "2", "--steps",
             "4", "--batch_size", "2", "--valid_every", "2", "--valid_limit", "8", "--test_limit", "0", "--log_every",
             "1", "--dropout", "0.1", "--warmup_steps", "1", "--lr", "0.01", "--seed", "3", "--out"]
    train.main([*flags, str(tmp_path / "whole")])
    whole, resumed, models, old = end_of(tmp_path / "whole"), 0, 0, 0
    scores = [row["valid_ndcg"] for row in whole[-1] if "valid_ndcg" in row]
    assert len(scores) == 2 and scores[0] < scores[1]  # so that a model is saved in another's place
    for n in range(1, 100):
        out = tmp_path / f"killed-{n}"
        process = FORK.Process(target=train_and_die, args=([*flags, str(out)], n))
        process.start()
        process.join()  # with a time limit it would wait for the loader's worker, too, which lives on for seconds
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        check_whole(out)
        resumable = (out / "config.json").exists()
        resumed, models = resumed + resumable, models + (out / "model").exists()
        old += (out / "model.old").exists() and not (out / "model").exists()
        train.main(["--resume", str(out)] if resumable else [*flags, str(out)])
        assert end_of(out) == whole, f"killed before call {n}"
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
            "--valid_limit", "4", "--test_limit", "0", "--log_every", "3", "--dropout", "0.1", "--out", out]


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
        steps.append(state(out)["step"] if (out / "checkpoint" / "state.pt").exists() else 0)
    print("killed ten times, with checkpoints of steps", steps)
    finish(start("--resume", str(out)))
    assert end_of(out) == end_of(tmp_path / "whole") and state(out)["step"] == 240
