"""kill -9 at any moment, then --resume: nothing is lost. Slow (some minutes): pytest -m slow."""
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


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


def state(out: Path) -> dict:
    return torch.load(out / "checkpoint" / "state.pt", weights_only=True)


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_no_bit(tmp_path):
    """The killed run ends with the same weights, the same best model and the same log as one never touched."""
    began = time.monotonic()
    finish(start(*flags_for(tmp_path / "data", str(tmp_path / "whole"))))
    whole_run = time.monotonic() - began
    draw, out, kills = random.Random(1), tmp_path / "killed", 0
    process = start(*flags_for(tmp_path / "data", str(out)))
    while kills < 10:
        try:
            process.wait(draw.uniform(0.1, 0.5) * whole_run)
            break  # it came to its end
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            if (out / "checkpoint" / "state.pt").exists():
                state(out)  # readable, whenever it was killed
            resumable = (out / "config.json").exists()
            process = start(*(["--resume", str(out)] if resumable else flags_for(tmp_path / "data", str(out))))
    finish(process)
    print(f"killed {kills} times")
    one, other = state(tmp_path / "whole"), state(out)
    assert kills >= 5 and one["step"] == other["step"] == 240
    assert all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])
    files = [Path(folder, "model", "model.safetensors").read_bytes() for folder in (tmp_path / "whole", out)]
    assert files[0] == files[1]
