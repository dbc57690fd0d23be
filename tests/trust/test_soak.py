"""Hours in small: 2,000 steps of the demo with validations and checkpoints hold on to nothing. pytest -m slow."""
import os
import statistics
import sys
import threading
from pathlib import Path

import pytest

import data
import train
from plumbing.folder import read_log

PAGE = os.sysconf("SC_PAGE_SIZE") / 2 ** 20  # MiB


def resident() -> float:
    """MiB of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_soak_two_thousand_steps_hold_on_to_nothing(tmp_path):
    """Memory: last quarter within 5 % + 20 MiB of the second. Open files, and threads (the one that makes batches
    ahead among them): the same at every step, but for the first and the last ones."""
    memory, files, threads = [], [], []

    def look(step):
        memory.append(resident())
        files.append(len(os.listdir("/proc/self/fd")))
        threads.append(threading.active_count())

    cfg = train.TrainConfig(steps=2000, valid_every=50, valid_lists=20, test_lists=0)
    train.train(data.DataConfig(), cfg, train.RunConfig(out=str(tmp_path / "run")), on_step=look)
    assert sum("valid_ndcg" in row for row in read_log(tmp_path / "run")) == 40 and len(files) == 2000
    second, last = statistics.median(memory[500:1000]), statistics.median(memory[1500:])
    print(f"{second:.1f} MiB in the second quarter, {last:.1f} in the last, at most {max(memory):.1f}")
    assert last <= second * 1.05 + 20
    print(f"open files: {min(files[20:1900])} to {max(files[20:1900])}; threads: {set(threads[20:1900])}")
    assert len(set(files[20:1900])) == len(set(threads[20:1900])) == 1
