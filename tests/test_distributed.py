"""Two processes under torchrun (gloo, CPU) do what one does at the same batch: losses, weights, files, resuming."""
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import alro
import data
import train

ROOT = Path(__file__).parent.parent
CONFIG = train.TrainConfig(steps=12, batch_size=9, valid_every=4, valid_limit=5, test_limit=0, log_every=1,
                           warmup_steps=2)  # 9 lists: one process gets five, the other four
SCRIPT = """
import json, os, sys, torch
sys.path.insert(0, sys.argv[1])
import data, train
whole, build, kept = data.synthetic, train.build_model, []
data.synthetic = lambda cfg: whole(cfg, n_users=60)
def build_and_keep(*arguments):
    kept[:] = build(*arguments)
    return kept
train.build_model = build_and_keep
train.processes.destroy_process_group = lambda: None  # torchrun's meeting place cannot be used twice
for cfg, resume in json.loads(sys.argv[3]):
    train.train(data.DataConfig(), train.TrainConfig(**cfg), resume)
    torch.save(kept[0].state_dict(), f"{cfg['out']}-rank{os.environ['RANK']}.pt")
"""


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    whole = data.synthetic
    monkeypatch.setattr(data, "synthetic", lambda cfg: whole(cfg, n_users=60))


def in_two_processes(folder: Path, *jobs) -> str:
    """Train each (configuration, resume) under torchrun; both processes save their weights. What was printed."""
    (folder / "script.py").write_text(SCRIPT)
    jobs = json.dumps([(dataclasses.asdict(cfg), resume) for cfg, resume in jobs])
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                           folder / "script.py", ROOT, folder, jobs], text=True, capture_output=True, timeout=120,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_same_log(folder: Path, other: Path):
    found, expected = ([json.loads(line) for line in Path(out, "log.jsonl").read_text().splitlines()]
                       for out in (folder, other))
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.keys() == b.keys()
        for name in a.keys() - {"tokens_per_second"}:
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-6), (a["step"], name)


def test_two_processes_train_as_one(tmp_path):
    """Losses to 1e-5; the same weights on both; one writer; and two processes go on with what one began."""
    one, two, half = (dataclasses.replace(CONFIG, out=str(tmp_path / name)) for name in ("one", "two", "half"))
    train.train(data.DataConfig(), one)

    def stop(step):
        if step == 8:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train.train(data.DataConfig(), half, on_step=stop)
    output = in_two_processes(tmp_path, (two, False), (half, True))
    assert output.count("step 4: validation") == 1 and output.count("resumed at step 8") == 1
    expected = torch.load(tmp_path / "one" / "checkpoint" / "state.pt")["weights"]
    for name in ("two", "half"):
        assert_same_log(tmp_path / name, tmp_path / "one")
        first, second = (torch.load(tmp_path / f"{name}-rank{rank}.pt") for rank in (0, 1))
        for weight, value in expected.items():
            assert torch.equal(first[weight], second[weight]), weight
            torch.testing.assert_close(first[weight], value, rtol=1e-4, atol=1e-4)


def test_fewer_lists_than_processes_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "join", lambda: (0, 2))
    with pytest.raises(alro.AlroError, match="an epoch's last step has 1 lists for 2 processes"):
        train.train(data.DataConfig(), dataclasses.replace(CONFIG, out=str(tmp_path / "x"), batch_size=1))
