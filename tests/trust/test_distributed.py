"""Two processes under torchrun (gloo, CPU) do what one does at the same batch: losses, weights, files, resuming."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import (
    Crash, assert_close_logs, crash_at, demo_config, demo_run, log_of, refused, state_of)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import data
import train
from plumbing.machine import Team

ROOT = Path(__file__).parents[2]
CONFIG = demo_config(batch_size=9)  # 9 lists: one process gets five, the other four
pytestmark = pytest.mark.usefixtures("small_world")


def share(*run_cfgs) -> list[dict]:
    """In each of the processes: train each run; the weights that this process has at its end."""
    kept, build = [], train.build_model

    def build_and_keep(*arguments):
        kept.append(build(*arguments))
        return kept[-1]
    train.build_model = build_and_keep
    torch.distributed.destroy_process_group = lambda: None  # the meeting place cannot be used twice
    for run_cfg in run_cfgs:
        train.train(data.DataConfig(), CONFIG, run_cfg)
    return [{name: weight.detach().clone() for name, weight in model.state_dict().items()} for model, _ in kept]


def in_two_processes(*run_cfgs) -> dict[int, list[dict]]:
    """What `torchrun --nproc_per_node=2` does, but that its processes are forked: they need not import all anew.
    {rank: the weights of each run}."""
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                          start_method="fork")
    return elastic_launch(config, share)(*run_cfgs)


def test_two_processes_train_as_one(tmp_path, capfd):
    """Losses to 1e-5; the same weights on both; one writer; and two processes go on with what one began."""
    one, two, half = (str(tmp_path / name) for name in ("one", "two", "half"))
    train.train(*demo_run(one, batch_size=9))
    with pytest.raises(Crash):
        train.train(*demo_run(half, batch_size=9), on_step=crash_at(8))
    capfd.readouterr()
    weights = in_two_processes(train.RunConfig(out=two), train.RunConfig(resume=half))
    output = capfd.readouterr().out
    assert output.count("step 4: validation") == 1 and output.count("resumed at step 8") == 1
    expected = state_of(one)["weights"]
    for run, first, second in zip((two, half), weights[0], weights[1]):
        assert_close_logs(run, one)
        for name, value in expected.items():
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-4)


def test_fewer_lists_than_processes_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "join_processes", lambda: Team(0, 2))
    with refused("an epoch's smallest step has 1 lists for 2 processes"):
        train.train(*demo_run(tmp_path / "x", batch_size=1))


@pytest.mark.slow
def test_torchrun_starts_two_processes_that_train_one_run(tmp_path):
    """The command of the page, from nothing: one folder, one writer, a table at the end."""
    flags = ["--steps", "4", "--valid_every", "2", "--valid_lists", "5", "--test_lists", "5", "--out", tmp_path / "run"]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                           ROOT / "train.py", *map(str, flags)], text=True, capture_output=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in log_of(tmp_path / "run") if "valid_ndcg" in row] == [2, 4]
    assert done.stdout.count("gap closed") == 1 and (tmp_path / "run" / "eval-test.json").exists()
