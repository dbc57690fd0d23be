"""Hours in small: 2,000 steps of the demo with validations and checkpoints hold on to nothing. pytest -m slow."""
import multiprocessing
import os
import statistics
import sys
from pathlib import Path

import pytest

import data
import train
from runs import read_log

PAGE = os.sysconf("SC_PAGE_SIZE") / 2 ** 20  # MiB


def resident(process: int) -> float:
    """MiB of memory in use; 0 for a process that has just ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def open_files(process: int | str) -> int:
    try:
        return len(os.listdir(f"/proc/{process}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_soak_two_thousand_steps_hold_on_to_nothing(tmp_path):
    """Memory of this process and of the loader's worker: last quarter within 5 % + 20 MiB of the second. Open files:
    the same at every step, but when the loader starts or ends; the worker's: but for the batches made ahead."""
    memory, workers, files, theirs = [], [], [], []

    def look(step):
        memory.append(resident(os.getpid()))
        workers.append(sum(resident(child.pid) for child in multiprocessing.active_children()))
        files.append(open_files("self"))
        theirs.append(sum(open_files(child.pid) for child in multiprocessing.active_children()))

    cfg = train.TrainConfig(steps=2000, valid_every=50, valid_limit=20, test_at_end=False)
    train.train(data.DataConfig(), cfg, train.RunConfig(out=str(tmp_path / "run")), on_step=look)
    assert sum("valid_ndcg" in row for row in read_log(tmp_path / "run")) == 40 and len(files) == 2000
    for what, seen in ("training", memory), ("loader", workers):
        second, last = statistics.median(seen[500:1000]), statistics.median(seen[1500:])
        print(f"{what}: {second:.1f} MiB in the second quarter, {last:.1f} in the last, at most {max(seen):.1f}")
        assert last <= second * 1.05 + 20, what
    print(f"open files: {min(files[20:1900])} to {max(files[20:1900])}; the worker's: {min(theirs[20:1900])} to "
          f"{max(theirs[20:1900])}")
    assert len(set(files[20:1900])) == 1
    # The loader makes two batches ahead, of seven tensors with a file each: never more and more, though.
    assert max(theirs[20:1900]) <= min(theirs[20:1900]) + 14
