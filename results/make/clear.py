"""Why a tiny model on MovieLens knows and does not say: the same lists with clearer ratings. By hand.

    python results/make/clear.py train --data_path DATA       plain fine-tuning, for each amount of noise; run again,
                                                              it continues
    python results/make/clear.py score --data_path DATA --out results

DATA is a folder of RecBole's MovieLens-100K. *noise X*: each rating gives way to a level that the film alone decides,
but for noise: the fifth into which the film's standardised mean plus X times a standard normal number falls. Films,
users, histories and lists stay. *as rated*: MovieLens itself. *the demo*: its own world, on shuffled displays.
*film*: correlation of ratings with their film's mean.

Beside says and knows, the *reward*: how many nats per identifier the SFT loss would fall below the uniform trap, if the
answer said what the model knows (Plackett-Luce with the expected ratings as scores, at its best temperature).
"""
import csv
import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import evaluate  # noqa: E402
import measure  # noqa: E402
import real_table  # noqa: E402
import train  # noqa: E402
from alro import expected_ratings, gold_order  # noqa: E402
from data import DataConfig, generator, random_slots  # noqa: E402
from experiments import compare  # noqa: E402
from plumbing.averages import item_mean  # noqa: E402
from plumbing.flags import check_input, option, parse_flags, run_script, write_json  # noqa: E402
from plumbing.folder import read_log, read_run_config  # noqa: E402


@dataclasses.dataclass(frozen=True)
class ClearConfig:
    """Where the ratings are, and where the table goes."""
    _argument_group_name = "clearer ratings"
    data_path: str = option("data/recbole", "the folder with RecBole's MovieLens-100K")
    commit: str | None = option(None, "score: of the code that trained the runs (default: what is checked out)")
    out: str = option("runs/clear", "score: folder for the table (the pages are made from results)")


RUNS = Path("runs/clear")
NOISES = (0.0, 0.5, 1.0)
ORDERS = 2


# ---- The data --------------------------------------------------------------------------------------------------------

def levels_of(item: np.ndarray, rating: np.ndarray, noise: float) -> np.ndarray:
    """(N,) levels 1 to 5 in the place of N ratings."""
    mean = item_mean(item, rating, item.max() + 1)[item]  # (N,)
    score = mean / mean.std() + noise * np.random.default_rng(0).standard_normal(len(item))
    return 1 + np.searchsorted(np.quantile(score, [0.2, 0.4, 0.6, 0.8]), score)


def write_clear(source: Path, folder: Path, noise: float) -> None:
    """RecBole's two files with other ratings."""
    interactions, = source.glob("*.inter")
    films, = source.glob("*.item")
    with open(interactions, encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file, delimiter="\t")
    at = {name.split(":")[0]: place for place, name in enumerate(head)}
    _, item = np.unique([row[at["item_id"]] for row in rows], return_inverse=True)
    rating = np.array([float(row[at["rating"]]) for row in rows])
    levels = levels_of(item, rating, noise)
    for row, level in zip(rows, levels):
        row[at["rating"]] = f"{level:.1f}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "clear.inter", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([head, *rows])
    (folder / "clear.item").write_bytes(films.read_bytes())


class Job(NamedTuple):
    """One run of the plan."""
    world: str
    folder: Path
    data: DataConfig
    train: train.TrainConfig


def jobs(cfg: ClearConfig) -> list[Job]:
    size = real_table.SIZES["tiny"]
    files = {"dataset": "recbole", "noun": "movie", **real_table.FIELDS, **size.data}
    sft = {**real_table.SFT, "test_lists": 0, "display_order": "shuffled"}
    data_paths = {f"noise {noise:g}": str(data_of(noise)) for noise in NOISES} | {"as rated": cfg.data_path}
    found = []
    for world, data_path in data_paths.items():
        row = measure.Row(range(1), {**sft, **size.train}, {**files, "data_path": data_path})
        found.append(Job(world, folder_of(world), *real_table.configurations(size.preset, row, 0)))
    return [*found, Job("the demo", folder_of("the demo"), DataConfig(), train.TrainConfig(**sft))]


def data_of(noise: float) -> Path:
    return RUNS / f"data-{noise:g}"


def folder_of(world: str) -> Path:
    return RUNS / measure.file_name(world)


def train_all(cfg: ClearConfig) -> None:
    for noise in NOISES:
        write_clear(Path(cfg.data_path), data_of(noise), noise)
    for job in jobs(cfg):
        if not real_table.is_done(job.folder, job.data, job.train):
            measure.train_or_go_on(job.folder, job.data, job.train)


# ---- The table -------------------------------------------------------------------------------------------------------

def plackett_luce_loss(scores: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The SFT loss (N,), in nats per identifier, of an answer that draws each candidate among those not yet out with
    probability proportional to exp(score). scores (N, m), order (N, m)."""
    in_order = scores.gather(-1, order)  # (N, m)
    of_the_rest = in_order.flip(-1).logcumsumexp(-1).flip(-1)  # (N, m) over position k and all later ones
    return (of_the_rest - in_order).mean(-1)


def loss_of_what_it_knows(expected: torch.Tensor, ratings: torch.Tensor) -> float:
    """Mean over lists and over 20 draws of the ties, in nats per identifier, at the best of the temperatures."""
    orders = [gold_order(ratings, generator("reward", draw)) for draw in range(20)]
    scales = torch.logspace(-1, 1.5, 26)
    return min(torch.cat([plackett_luce_loss(scale * expected, order) for order in orders]).mean().item()
               for scale in scales)


@torch.no_grad()
def expected_of(ranker: evaluate.ModelRanker, lists) -> torch.Tensor:
    """(N, m) the rating that the model expects of each candidate, in one random display of each list."""
    ranker.model.eval()
    parts = [lists[start:start + 64] for start in range(0, len(lists), 64)]
    m = len(lists[0].items)
    return torch.cat([expected_ratings(ranker.model, ranker.encoder.encode(
        part, [random_slots(m, "eval", one.list_id, 0) for one in part])) for part in parts])


def step_of_saying(log: list[dict]) -> int | None:
    """The first validation whose answer is half the way from chance to what the model knows then."""
    return next((line["step"] for line in log if "valid_ndcg" in line
                 and line["valid_ndcg"] >= (line["valid_chance"] + line["valid_knows"]) / 2), None)


def film_correlation(columns) -> float:
    mean = item_mean(columns.item, columns.rating, len(columns.items))
    return float(np.corrcoef(columns.rating, mean[columns.item])[0, 1])


def score_world(job: Job, commit: str) -> dict:
    data = compare.load_evaluation(job.data, "test", measure.LISTS if job.data.dataset == "synthetic" else None)
    by_row = {}
    for row, decode in {"SFT": "greedy", "SFT, knows": "ratings"}.items():
        ranker, *_ = evaluate.rankers_of_run(str(job.folder), data.ratings.words, data.list_size, decode).values()
        data = evaluate.fit_to_model(data, ranker.encoder)
        by_row[row] = [evaluate.score_method(ranker, data.lists, ORDERS, shown=False)]
    result = measure.table(data, by_row, dict.fromkeys(by_row, 1), [("SFT, knows", "SFT")],
                           dataset=job.data.dataset, orders=ORDERS, seed="0")
    del result["timing"]  # ranked beside other work
    log = read_log(job.folder)
    trap = log[0]["log_m_factorial_over_m"]  # nats per identifier
    knows = loss_of_what_it_knows(expected_of(ranker, data.lists), evaluate.ratings_of(data.lists))
    return result | {
        "trap": trap, "reward": trap - knows, "film_correlation": film_correlation(data.ratings.columns),
        "step_of_saying": step_of_saying(log), "validation": real_table.validations({"SFT": {"0": {"log": log}}}),
        "hardware": read_run_config(str(job.folder))["hardware"], "commit": commit}


def score_all(cfg: ClearConfig) -> None:
    commit = cfg.commit or measure.commit_of(measure.ROOT)
    tables = {}
    for job in jobs(cfg):
        check_input(real_table.is_done(job.folder, job.data, job.train), f"{job.folder}: `train` first")
        found = tables[job.world] = score_world(job, commit)
        print(f"{job.world}: reward {found['reward']:.3f} of {found['trap']:.3f} nats", flush=True)
    write_json(Path(cfg.out) / "clear.json", tables)
    print(Path(cfg.out) / "clear.json")


VERBS = {"train": train_all, "score": score_all}


def main(arguments: list[str] | None = None) -> None:
    cfg, verbs = parse_flags(arguments, ClearConfig, positional="verb")
    check_input(len(verbs) == 1 and verbs[0] in VERBS, f"one of: {', '.join(VERBS)}")
    VERBS[verbs[0]](cfg)


if __name__ == "__main__":
    run_script(main)
