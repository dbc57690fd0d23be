"""Small runs, what they leave behind, and how a user sees them fail."""
import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from oracles import OneDevice  # noqa: F401 (test_model.py takes it from here)

import data
from plumbing import flags
from plumbing import folder as run_folder
import train
from alro import AlroError

FORK = multiprocessing.get_context("fork")


# ---- Runs of seconds ------------------------------------------------------------------------------------------------

def demo_config(**more) -> train.TrainConfig:
    """12 steps of 8 lists, validated and saved every 4; the test lists are left alone."""
    return train.TrainConfig(**{
        "steps": 12, "batch_size": 8, "valid_every": 4, "valid_lists": 5, "test_lists": 0, **more})


def demo_run(out, **more) -> tuple:
    """What train.train takes for such a run in the synthetic world (fixture small_world)."""
    return data.DataConfig(), demo_config(**more), train.RunConfig(out=str(out))


def csv_run(world, out, m=3, history_size=4, **more) -> tuple:
    """What train.train takes for a run of six steps on ratings in the csv layout (fixture world)."""
    data_cfg = data.DataConfig("csv", str(world), list_size=m, history_size=history_size)
    cfg = train.TrainConfig(**{
        "steps": 6, "batch_size": 4, "valid_every": 3, "valid_lists": 3, "test_lists": 0, **more})
    return data_cfg, cfg, train.RunConfig(out=str(out))


class Crash(Exception):
    """Raised by a test in the middle of a run."""


def crash_at(step: int):
    """A function to call after each step, which raises Crash after this one."""
    def after(done):
        if done == step:
            raise Crash
    return after


# ---- What a run leaves behind ---------------------------------------------------------------------------------------

def log_of(out) -> list[dict]:
    """The rows of a run's log, less how fast it was."""
    return [{name: value for name, value in row.items() if name != "tokens_per_second"}
            for row in run_folder.read_log(Path(out))]


def state_of(out) -> dict:
    return torch.load(Path(out, "checkpoint", "state.pt"), weights_only=True)


def saved_step(out) -> int:
    """The step of the last checkpoint."""
    return state_of(out)["step"]


def assert_same_weights(one, other):
    """Equal steps and weights, bit for bit, of two folders' checkpoints."""
    one, other = state_of(one), state_of(other)
    assert (one["step"], one["best"]) == (other["step"], other["best"])
    assert one["weights"].keys() == other["weights"].keys()
    for name, weight in one["weights"].items():
        assert torch.equal(weight, other["weights"][name]), name


def assert_same_end(one, other):
    """Equal step, weights, log and best model, bit for bit: all that a run is for."""
    assert_same_weights(one, other)
    assert log_of(one) == log_of(other)
    assert len({Path(out, "model", "model.safetensors").read_bytes() for out in (one, other)}) == 1


def assert_close_logs(one, other, rel=1e-5, abs=1e-6):
    """The same rows with the same names, numbers equal but for rounding."""
    one, other = log_of(one), log_of(other)
    assert len(one) == len(other)
    for row, expected in zip(one, other):
        assert row == pytest.approx(expected, rel=rel, abs=abs), row["step"]


def edit(path: Path, **values) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def files_of(folder: Path) -> dict[Path, bytes]:
    """All files below a folder and what they hold."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- How a user sees it fail ----------------------------------------------------------------------------------------

def refused(message: str):
    """For `with`: an AlroError whose message matches."""
    return pytest.raises(AlroError, match=message)


def one_line(call, *arguments, **options) -> str:
    """The message of the AlroError that call raises; one line of it."""
    with pytest.raises(AlroError) as error:
        call(*arguments, **options)
    assert len(str(error.value).splitlines()) == 1, str(error.value)
    return str(error.value)


def said(call, *arguments) -> str:
    """What a script's user sees when its main fails: one line, no traceback."""
    with pytest.raises(SystemExit) as stop:
        flags.run_script(lambda: call(*arguments))
    message = str(stop.value)
    assert message.startswith("error: ") and len(message.splitlines()) == 1, message
    return message


def in_child(function, *arguments):
    """Start function in a process of its own: (process, pipe). What it returns, or how it stopped, comes through the
    pipe."""
    ours, theirs = FORK.Pipe()

    def call():
        try:
            theirs.send(function(*arguments))
        except (Exception, SystemExit) as error:
            theirs.send(f"{type(error).__name__}: {error}")
    process = FORK.Process(target=call)
    process.start()
    return process, ours


def from_child(function, *arguments):
    """What function returns in a process of its own, or "SystemExit: ..." and its like."""
    process, pipe = in_child(function, *arguments)
    assert pipe.poll(60)
    outcome = pipe.recv()
    process.join()
    return outcome
