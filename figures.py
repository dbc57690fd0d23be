"""Three curves of finished runs, as numbers in text and, with matplotlib, as pictures. Nothing of the paper.

    python evaluate.py RUN... --figures FOLDER
"""
import json
from pathlib import Path

import numpy as np
import torch

from alro import AlroError, blind_probs, soft_rank
from cli import explained, optional


def curves(table: dict, groups: dict[str, list[str]]) -> dict[str, tuple]:
    """What --figures draws, as numbers: {file: (title, x axis, y axis, {line: (xs, ys)})}."""
    m, learning = table["list_size"], {}
    slots = {name: (range(1, m + 1), table["methods"][name]["mean_rank_by_slot"]) for name in groups}
    for name, folders in groups.items():
        with explained(f"log.jsonl of {', '.join(folders)}: cannot be read"):
            logs = [[json.loads(line) for line in Path(run, "log.jsonl").read_text().splitlines()] for run in folders]
            found = [[(row["step"], row["valid_ndcg"]) for row in log if "valid_ndcg" in row] for log in logs]
            learning[name] = [at for (at, _), *_ in zip(*found)], [np.mean([y for _, y in row]) for row in zip(*found)]
    gammas, blind = [0.3, 1, 3, 10, 30, 100, 300], blind_probs(torch.arange(m).unsqueeze(0))  # (1, m, m)
    soft = torch.cat([soft_rank(blind, gamma) for gamma in gammas]).T.tolist()  # (m, gammas)
    return {"slot_curve": ("Flat = blind to the displayed order", "displayed slot", "mean predicted rank", slots),
            "learning_curves": ("Learning", "step", "NDCG on validation lists", learning),
            "soft_rank": ("Soft ranks of a model that knows only what is already out", "gamma", "soft rank",
                          {f"gold position {k}": (gammas, row) for k, row in enumerate(soft, 1)})}


def draw(folder: Path, drawn: dict[str, tuple]) -> None:
    """Print curves as x:y pairs and, where matplotlib is installed, draw each into folder/NAME.png."""
    for title, x, y, lines in drawn.values():
        print(f"\n{title} ({x}: {y})")
        for name, (xs, ys) in lines.items():
            print(f"  {name:<28}" + " ".join(f"{at:g}:{value:.3f}" for at, value in zip(xs, ys)))
    try:
        optional("matplotlib", "drawing what stands above").use("agg")
    except AlroError as error:  # the numbers are all there
        print(f"\nno pictures: {error}")
        return
    pyplot = optional("matplotlib.pyplot", "drawing --figures")
    folder.mkdir(parents=True, exist_ok=True)
    for file, (title, x, y, lines) in drawn.items():
        _, axes = pyplot.subplots()
        for name, (xs, ys) in lines.items():
            axes.plot(xs, ys, marker="o", label=name)
        axes.set(title=title, xlabel=x, ylabel=y, xscale="log" if x == "gamma" else "linear")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))  # beside the curves, not over them
        axes.figure.savefig(folder / f"{file}.png", dpi=100, bbox_inches="tight")
        pyplot.close(axes.figure)
