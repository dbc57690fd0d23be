"""Every measurement on the demo's world, by one command. By hand: two hours on two cores.

    python tests/measure.py train      train what results/ needs; stopped, it goes on where it was;
                                       two of it may work side by side
    python tests/measure.py score      rank with the trained runs, fit the rivals, write results/*.json
    python tests/measure.py list       what there is to train, and what is done

World, model and settings were chosen on seeds 100 to 104 and validation lists (results/choice.md);
the seeds here were run once, afterwards. A run lies in runs/measure/<row>/<seed>.
"""
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))


import baselines  # noqa: E402
import evaluate  # noqa: E402
import train  # noqa: E402
from alro import lambda_loss, rank_of, soft_rank  # noqa: E402
from data import DataConfig  # noqa: E402
from runs import is_locked, read_log  # noqa: E402

ROOT = Path(__file__).parents[1]
RUNS = Path("runs/measure")
TEN, FIVE, THREE = range(10), range(5), range(3)


def current_rank_losses(model, batch, cfg) -> dict:
    """PAPER.md's doubt: delta over the model's current ranks, as in the classic NDCG-Loss2, in the place of the
    target ranks that the summary names."""
    parts = train.losses(model, batch, cfg)
    log_probs, _, _ = train.both_displayed_orders(model, batch, cfg)
    ratings = batch.ratings[:len(log_probs)]
    position = soft_rank(log_probs.log_softmax(-1).exp(), cfg.gamma)  # (B, m)
    current = rank_of(position.detach().argsort(-1))  # (B, m)
    sll = lambda_loss(position, ratings, current, cfg.sigma)
    return {**parts, "sll": sll, "total": parts["total"] + cfg.alpha * (sll - parts["sll"])}


class Row(NamedTuple):
    seeds: range
    train: dict              # fields of TrainConfig
    data: dict = {}          # fields of DataConfig
    losses: object = train.losses


ALRO = train.TrainConfig()
SFT = {"alpha": 0.0, "beta": 0.0}
ARMS = {"SFT": SFT, "SFT+SLL": {"beta": 0.0}, "SFT+PSL": {"alpha": 0.0}, "ALRO": {}}


def plan() -> dict[str, Row]:
    """{row: what to train}, the most important first."""
    rows = {}
    for order in ("shown", "shuffled"):  # what each loss does
        for arm, weights in ARMS.items():
            rows[f"{arm}, {order}"] = Row(TEN, {**weights, "display_order": order})
    for order in ("shown", "shuffled"):  # as long as ALRO takes: it reads two prompts a list
        rows[f"SFT, {order}, twice the steps"] = Row(
            FIVE, {**SFT, "display_order": order, "steps": 2 * ALRO.steps})
    for noise in (1.0, 2.0, 0.5):  # how large is the bias? (the default, 0.7, is above)
        for arm, order in (("SFT", "shown"), ("SFT", "shuffled"), ("ALRO", "shown")):
            rows[f"{arm}, {order}, retriever noise {noise:g}"] = Row(
                THREE, {**ARMS[arm], "display_order": order}, {"retriever_noise": noise})
    rows["delta over current ranks"] = Row(THREE, {}, losses=current_rank_losses)
    rows["SFT and SLL on both orders"] = Row(THREE, {}, losses=baselines.both_orders_losses)
    knobs = [("alpha", (1.0, 10.0)), ("beta", (0.5, 5.0)), ("gamma", (1.0, 3.0, 30.0, 100.0)),
             ("lr", (ALRO.lr / 2, ALRO.lr * 2))]
    for name, values in knobs:
        for value in values:
            rows[f"{name} {value:g}"] = Row(THREE, {name: value})
    rows["lambda loss of the first step"] = Row(THREE, {}, losses=baselines.first_step_losses)
    rows["PSL's target detached"] = Row(THREE, {"through_target": False})
    rows["no history loss"] = Row(THREE, {"history_weight": 0.0})
    rows["no ratings in the history"] = Row(THREE, {"history_weight": 0.0}, {"history_ratings": False})
    rows["lists of 10"] = Row(THREE, {}, {"list_size": 10})
    for width in (32, 128):  # claim 6
        for arm, order in (("SFT", "shuffled"), ("ALRO", "shown"), ("ALRO", "shuffled")):
            rows[f"{arm}, {order}, width {width}"] = Row(
                THREE, {**ARMS[arm], "display_order": order, "width": width})
    return rows


def folder_of(row: str, seed: int) -> Path:
    return RUNS / row.replace(",", "").replace("'", "").replace(" ", "-") / str(seed)


def finished(folder: Path, cfg: train.TrainConfig) -> bool:
    if not (folder / "log.jsonl").exists():
        return False
    log = read_log(folder)
    return bool(log) and log[-1]["step"] == cfg.steps and "valid_ndcg" in log[-1]


def jobs() -> list[tuple]:
    """(row, seed, folder, configurations): seed 0 of every row, then the other seeds, so that a table is soon there."""
    return [(name, seed, folder_of(name, seed), DataConfig(**row.data),
             train.TrainConfig(**{"steps": ALRO.steps, "test_at_end": False, **row.train, "seed": seed}), row.losses)
            for name, row in plan().items() for seed in row.seeds]


def train_all() -> None:
    todo = [job for job in jobs() if not finished(job[2], job[4])]
    for number, (_, _, folder, data_cfg, cfg, losses) in enumerate(todo, 1):
        if is_locked(folder) or finished(folder, cfg):  # by another process, meanwhile
            continue
        start = time.monotonic()
        resume = str(folder) if (folder / "config.json").exists() else None
        train.train(data_cfg, cfg, train.RunConfig(out=str(folder), resume=resume), losses=losses)
        print(f"==== {number} of {len(todo)}: {folder} in {time.monotonic() - start:.0f} s", flush=True)


def runs_of(*rows: str) -> list[str]:
    return [str(folder_of(row, seed)) for row in rows for seed in plan()[row].seeds]


def table_of(file: str, rows: list[str], **more) -> None:
    """results/FILE.json: rows over their seeds, on the same 500 test lists in 3 random orders."""
    flags = ["--limit", "500", "--orders", "3", "--pool", "True", "--json", str(ROOT / "results" / f"{file}.json")]
    evaluate.main([*runs_of(*rows), *flags])


if __name__ == "__main__":
    if sys.argv[1:] == ["train"]:
        train_all()
    elif sys.argv[1:] == ["list"]:
        for name, seed, folder, _, cfg, _ in jobs():
            print("done" if finished(folder, cfg) else "    ", name, seed)
    else:
        sys.exit(__doc__)
