"""Every measurement on the demo's world, by one command. By hand: hours on two cores.

    python results/make/measure.py train      train what results/ needs, and keep how each list was ranked;
                                              run again, it continues; two of it may work side by side
    python results/make/measure.py score [arms|noise|lists_of_10|knobs|sizes|rivals|new_films]...
                                              from what is kept, without any model: write results/*.json
    python results/make/measure.py figures    draw results/*.png of the demo (matplotlib)
    python results/make/measure.py list       what there is to train, and what is done

    --runs FOLDER      where the runs are (default: runs/measure); a run lies in FOLDER/<row>/<seed>
    --commit COMMIT    score, figures: of the code that trained them (default: what is checked out where they lie)

World, model and settings were chosen on seeds 100 to 104 and validation lists (results/LOG.md);
the seeds here were run once, afterwards.
"""
import argparse
import dataclasses
import functools
import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import evaluate  # noqa: E402
import train  # noqa: E402
from data import DataConfig  # noqa: E402
from experiments import compare, objectives, rivals  # noqa: E402
from experiments.ablation import check_same_config  # noqa: E402
from experiments.figures import (  # noqa: E402
    Picture, draw, learning_picture, levels_of, most_levels, output_by_slot, slot_picture)
from plumbing.flags import check_input, import_optional, read_json, run_script, write_json  # noqa: E402
from plumbing.folder import FolderInUse, is_locked, read_log, read_run_config  # noqa: E402
from plumbing.model import sha256_of_weights  # noqa: E402

RUNS = Path("runs/measure")
TEN, FIVE, THREE = range(10), range(5), range(3)


class Row(NamedTuple):
    seeds: range
    train: dict              # fields of TrainConfig
    data: dict = {}          # fields of DataConfig
    losses: object = train.losses


ALRO = train.TrainConfig()
SFT = {"alpha": 0.0, "beta": 0.0}
ARMS = {"SFT": SFT, "SFT+SLL": {"beta": 0.0}, "SFT+PSL": {"alpha": 0.0}, "ALRO": {}}
DISPLAYS = ("shown", "shuffled")
WIDTHS = (32, 128)  # of the tiny model, besides its default, 64


def plan() -> dict[str, Row]:
    """{row: what to train}, the most important first. Each is asked for what it says and for what it knows."""
    rows = {}
    for display in DISPLAYS:  # what each loss does
        for arm, weights in ARMS.items():
            rows[f"{arm}, {display}"] = Row(TEN, {**weights, "display_order": display})
    # PSL's exposure without its pull: the model answers both displays, nothing draws the two answers together.
    rows["SFT, both displays"] = Row(TEN, {"alpha": 0.0}, losses=objectives.both_displays_losses)
    rows["SFT+SLL, both displays"] = Row(TEN, {}, losses=objectives.both_displays_losses)
    for display in DISPLAYS:  # what do the list-wise losses add to what can be read off?
        rows[f"ratings only, {display}"] = Row(
            TEN, {**SFT, "display_order": display}, losses=objectives.ratings_only_losses)
    # The paper's objective with our loss on the history's ratings alone.
    rows["SFT, shown, history alone"] = Row(TEN, {**SFT, "candidate_weight": 0.0})
    rows["SFT+SLL, shown, history alone"] = Row(FIVE, {"beta": 0.0, "candidate_weight": 0.0})
    rows["ALRO, shown, history alone"] = Row(TEN, {"candidate_weight": 0.0})
    for times in (2, 4):  # not said, or not yet said?
        rows[f"SFT, shown, {times} times the steps"] = Row(THREE, {**SFT, "steps": times * ALRO.steps})
    rows["SFT+SLL, shuffled, soft ties"] = Row(
        FIVE, {"beta": 0.0, "display_order": "shuffled"}, losses=objectives.soft_ties_losses)
    rows["ALRO, shown, soft ties"] = Row(FIVE, {}, losses=objectives.soft_ties_losses)
    for width in WIDTHS:  # does a larger model gain more?
        for arm in ("SFT", "ALRO"):
            rows[f"{arm}, shown, width {width}"] = Row(THREE, {**ARMS[arm], "width": width})
    for display in DISPLAYS:  # a harder world, where SLL can be told
        for arm, weights in ARMS.items():
            rows[f"{arm}, {display}, lists of 10"] = Row(
                THREE, {**weights, "display_order": display}, {"list_size": 10})
    for noise in (0.5, 1.0, 2.0):  # how large is the bias? (the default, 0.7, is above)
        for arm in ("SFT", "ALRO"):
            rows[f"{arm}, shown, retriever noise {noise:g}"] = Row(THREE, ARMS[arm], {"retriever_noise": noise})
        rows[f"SFT, both displays, retriever noise {noise:g}"] = Row(
            THREE, {"alpha": 0.0}, {"retriever_noise": noise}, objectives.both_displays_losses)
    for arm in ("SFT", "ALRO"):  # the paper's objective, as far as we know it
        rows[f"{arm}, shown, no rating loss"] = Row(
            THREE, {**ARMS[arm], "history_weight": 0.0, "candidate_weight": 0.0})
    rows["gamma 1"] = Row(THREE, {"gamma": 1.0})  # one setting changed
    rows["gamma 100"] = Row(THREE, {"gamma": 100.0})
    rows["PSL's target detached"] = Row(THREE, {}, losses=objectives.detached_target_losses)
    rows["no history loss"] = Row(THREE, {"history_weight": 0.0})
    return rows


# Rows with one setting of `ALRO, shown` changed.
KNOBS = ("gamma 1", "gamma 100", "PSL's target detached", "no history loss")


def file_name(row: str) -> str:
    return row.replace(",", "").replace("'", "").replace(" ", "-")


class Job(NamedTuple):
    """One run of the plan."""
    row: str
    seed: int
    folder: Path
    data: DataConfig
    train: train.TrainConfig
    losses: object


def jobs(runs: Path) -> list[Job]:
    """All runs, row by row."""
    return [Job(name, seed, runs / file_name(name) / str(seed), DataConfig(**row.data),
                train.TrainConfig(**{"test_lists": 0, **row.train, "seed": seed}), row.losses)
            for name, row in plan().items() for seed in row.seeds]


# ---- Training, and what is kept of each run --------------------------------------------------------------------------

# What changes nothing that is learned, beyond rounding.
HARMLESS = ("grad_accum", "compile", "test_lists")


def finished(folder: Path, cfg: train.TrainConfig) -> bool:
    if not (folder / "log.jsonl").exists():
        return False
    log = read_log(folder)
    return bool(log) and log[-1]["step"] == cfg.steps and "valid_ndcg" in log[-1]


def is_done(folder: Path, data_cfg: DataConfig, cfg: train.TrainConfig) -> bool:
    """Whether it is trained. Raises: AlroError if the run in the folder has another configuration: a table would
    describe it wrongly."""
    if not (folder / "config.json").exists():
        return False
    there = read_run_config(str(folder))["train"]
    same = {name: there[name] for name in HARMLESS if name in there}
    check_same_config(folder, data_cfg, dataclasses.replace(cfg, **same))
    return finished(folder, cfg)


def is_kept(job: Job) -> bool:
    """Whether it is trained and its scores are kept beside it: the map is written last."""
    return is_done(job.folder, job.data, job.train) and map_path(job).exists()


def train_or_go_on(folder: Path, data_cfg: DataConfig, cfg: train.TrainConfig, losses=train.losses) -> None:
    """Train the run of this folder, from where it was interrupted."""
    resume = str(folder) if (folder / "config.json").exists() else None
    train.train(data_cfg, cfg, train.RunConfig(out=str(folder), resume=resume), losses=losses)


def train_all(runs: Path) -> None:
    todo = [job for job in jobs(runs) if not is_kept(job)]
    for number, job in enumerate(todo, 1):
        if is_locked(job.folder) or is_kept(job):  # by another process, meanwhile
            continue
        start = time.monotonic()
        if not is_done(job.folder, job.data, job.train):
            try:
                train_or_go_on(job.folder, job.data, job.train, job.losses)
            except FolderInUse:  # since we looked
                continue
        keep_scores(job)
        print(f"==== {number} of {len(todo)}: {job.folder} in {time.monotonic() - start:.0f} s", flush=True)


ORDERS, LISTS = 3, 500
# Ending of a row's name: how the same models are asked -> the name of what is kept of it.
WAYS = {"": "greedy", ", knows": "ratings", ", first step": "first", ", 3 orders": "greedy-3-orders",
        ", 5 orders": "greedy-5-orders", ", point-wise": "greedy-point-wise"}
EVERY_ROW = ["", ", knows"]
MORE_WAYS = {"SFT, shuffled": [", 3 orders", ", 5 orders"], "ALRO, shown": [", point-wise", ", first step"]}
NEW_FILMS = {"ALRO, shown": (0, 2, 4, 6)}  # of a list's six: the worlds in which the row is ranked, too


@functools.cache
def world_of(data_cfg: DataConfig):
    return compare.load_evaluation(data_cfg, "test", LISTS)


def kept_path(job: Job, way: str, data) -> Path:
    return job.folder / "scores" / f"{WAYS[way]}-{data.sha256[:8]}.json"


def map_path(job: Job) -> Path:
    return job.folder / "scores" / "map.json"


def ranker_of(job: Job, data, decode: str):
    """A run's model, best on validation by what it says; of ratings alone, which never learns to say anything, as it
    was at the last step."""
    ranker, *_ = evaluate.rankers_of_run(str(job.folder), data.ratings.words, data.list_size, decode).values()
    if job.losses is objectives.ratings_only_losses:
        load_last_step(job.folder, ranker.model)
    return ranker


def load_last_step(folder: Path, model) -> None:
    """The weights of the run's last step, in the place of those that were best on validation."""
    state = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)
    model.load_state_dict(state["weights"], strict=False)  # what is tied stands there once


def keep_scores(job: Job) -> None:
    """What the run says and knows of every list, and the map of one list, in files beside it. Of the first three seeds
    of some rows: how they rank when asked in other ways, or with more and fewer new films."""
    data = world_of(job.data)
    weights = sha256_of_weights(job.folder / "model")

    def keep(ranker, way: str, data) -> None:
        scored(ranker, data, ORDERS, kept_path(job, way, data), weights)

    for way in EVERY_ROW:
        keep(ranker_of(job, data, WAYS[way]), way, data)
    if job.seed in THREE:
        if job.row in MORE_WAYS:
            rankers = rivals.ways_to_rank(str(job.folder), data)
            for way in MORE_WAYS[job.row]:
                keep(rankers[way][0], way, data)
        for count in NEW_FILMS.get(job.row, ()):
            other = world_of(dataclasses.replace(job.data, new_films=count))
            keep(ranker_of(job, other, "greedy"), "", other)
    y, gold_slots = output_by_slot(ranker_of(job, data, "greedy"), most_levels(data.lists))
    write_json(map_path(job), {"y": y.tolist(), "gold_slots": gold_slots.tolist(), "weights": weights})


def scored(ranker, data, orders: int, kept: Path, weights: str | None, shown: bool = True) -> dict | None:
    """evaluate.score_method, from the file `kept` if it was written for the same weights (any text that names them),
    lists and orders: ranking takes hours. The rankings themselves are not kept.

    weights None: they are not on this machine. What is kept of these lists and orders is taken; None if nothing is.
    """
    what = f"{data.sha256}, {orders} orders"
    if kept.exists():
        method = read_json(kept)
        has_shown = any(metric.endswith("_shown") for metric in method.get("values", {}))
        stamp = method.pop("stamp", "")
        same = stamp == f"{weights} {what}" if weights else stamp.endswith(f" {what}")
        if same and has_shown >= shown:
            method["values"] = {metric: np.array(values) for metric, values in method["values"].items()
                                if shown or not metric.endswith("_shown")}
            return method
    if not weights:
        return None
    method = evaluate.score_method(ranker, data.lists, orders, shown)
    kept.parent.mkdir(exist_ok=True)
    values = {metric: found.tolist() for metric, found in method["values"].items()}
    rest = {name: method[name] for name in ("mean_rank_by_slot", "ms_per_list")}
    write_json(kept, {**rest, "values": values, "stamp": f"{weights} {what}"})
    return {**method, "slots": [], "predicted": []}


# ---- Tables, from what is kept alone ---------------------------------------------------------------------------------

def interval(values: np.ndarray, draws: int = 1000) -> list[float]:
    """95 % interval of the mean of values (seeds, lists): seeds and lists drawn again with replacement."""
    rng = np.random.default_rng(0)
    seeds, lists = values.shape
    means = [values[rng.integers(0, seeds, seeds)][:, rng.integers(0, lists, lists)].mean() for _ in range(draws)]
    return np.percentile(means, [2.5, 97.5]).tolist()


def values_of(seeds: list[dict], metric: str) -> np.ndarray:
    return np.stack([method["values"][metric] for method in seeds])  # (seeds, lists)


def table(data, by_row: dict, calls: dict, differences=(), **about) -> dict:
    """What a file of results/ holds: of each row means, intervals over seeds and lists, and each seed's mean; paired
    differences of rows, seed by seed.

    differences: (one, other), or (one, other, how many seeds of both to pair). A row of a single seed is else taken to
    have none, as a rival without training: it is the same beside each seed of the other.
    """
    metrics = [f"ndcg@{data.list_size}", "agreement"]
    reference = {name: [evaluate.score_method(ranker, data.lists, ORDERS)]
                 for name, ranker in evaluate.reference_rankers(data).items()}
    everything = {"chance": [evaluate.chance_method(data.lists)], **by_row, **reference}
    pooled = {row: compare.over_seeds(seeds) for row, seeds in everything.items()}
    about = {"dataset": "synthetic", "model": "tiny", "decode": "greedy", "seed": "by row", "orders": ORDERS, **about}
    result = evaluate.summary(pooled, data, calls, **about)
    for row, seeds in by_row.items():
        result["methods"][row]["seeds"] = len(seeds)
        for metric in metrics:
            result["methods"][row][metric]["ci95_seeds_and_lists"] = interval(values_of(seeds, metric))
    result["differences"] = {}
    for one, other, *most in differences:
        if one in everything and other in everything:
            entry = result["differences"][f"{one} - {other}"] = {}
            for metric in metrics:
                a, b = values_of(everything[one], metric), values_of(everything[other], metric)
                count = min(len(a), len(b)) if min(len(a), len(b)) > 1 else max(len(a), len(b))
                count = min([count, *most])
                gap = a[:count] - b[:count]  # a row without seeds is the same beside each
                entry[metric] = {"mean": float(gap.mean()), "ci95_seeds_and_lists": interval(gap),
                                 "by_seed": gap.mean(1).tolist()}
    return result


def config_of(job: Job) -> dict:
    """A run's record, of whatever code."""
    return read_json(job.folder / "config.json")


def check_config(job: Job) -> None:
    """Raise AlroError if the run in the folder is not the plan's. It may be one of earlier code: then its record has
    fields that are gone, or 0 where None now says *off*."""
    there = config_of(job)
    for part, given in (("data", job.data), ("train", job.train)):
        for name, value in dataclasses.asdict(given).items():
            was = there[part].get(name, value)
            check_input(name in HARMLESS or (was or None) == (value or None),
                        f"{job.folder} was trained with {name} {was}, not {value}")


def kept_seeds(runs: Path, row: str, way: str, data, most: int) -> list[tuple]:
    """[(job, evaluate.score_method)] of a row's seeds, from what is kept of these lists; up to the first that is
    missing, so that rows are paired seed by seed."""
    found = []
    for job in [job for job in jobs(runs) if job.row == row][:most]:
        method = None
        if (job.folder / "config.json").exists():
            check_config(job)
            if finished(job.folder, job.train):
                method = scored(None, data, ORDERS, kept_path(job, way, data), None)
        if method is None:
            print(f"not kept, nor later seeds of it: {row}{way}, seed {job.seed}", flush=True)
            break
        found.append((job, method))
    return found


LATE = 0.85  # of the gap: a seed that ends below it is late


@functools.cache
def valid_levels(data_cfg: DataConfig) -> dict[str, float]:
    """NDCG of chance and oracle on the lists that a run is validated on."""
    return levels_of(compare.load_evaluation(data_cfg, "valid", ALRO.valid_lists))


def late_level(data_cfg: DataConfig) -> float:
    """NDCG at LATE of the gap on those lists."""
    levels = valid_levels(data_cfg)
    return levels["chance"] + LATE * (levels["oracle"] - levels["chance"])


def of_training(row_jobs: list[Job], way: str) -> dict:
    """What the logs of a row's seeds say: the step of the first validation at LATE of the gap, None where none is; SLL
    at the last step, its mean, beside the blind and the perfect model's."""
    logs = [read_log(job.folder) for job in row_jobs]
    field = "valid_knows" if way == ", knows" else "valid_ndcg"
    found = {}
    if all(field in log[-1] for log in logs):  # else it was not asked so
        level = late_level(row_jobs[0].data)
        found["steps_until_85"] = [next((line["step"] for line in log if line.get(field, 0) >= level), None)
                                   for log in logs]
    last = [[line for line in log if "sll" in line][-1] for log in logs]
    return found | {name: float(np.mean([line[name] for line in last])) for name in ("sll", "blind_sll", "perfect_sll")}


def table_of(runs: Path, ways: dict[str, list[str]], data_cfg: DataConfig, differences=(), most: int = 10,
             others: dict | None = None, **about) -> dict:
    """`table` of these rows, each asked in these ways.

    ways: {row: endings}; others: {row: [evaluate.score_method]} of rankers that are no runs.
    """
    data = world_of(data_cfg)
    kept = {row + way: kept_seeds(runs, row, way, data, most) for row, endings in ways.items() for way in endings}
    kept = {row: seeds for row, seeds in kept.items() if seeds}
    check_input(kept, f"{runs}: nothing is kept of {', '.join(ways)}")
    by_row = {row: [method for _, method in seeds] for row, seeds in kept.items()}
    prompts = {", 3 orders": 3, ", 5 orders": 5, ", point-wise": data.list_size}
    calls = {row + way: prompts.get(way, 1) for row, endings in ways.items() for way in endings}
    result = table(data, by_row | (others or {}), calls, differences, **about)
    hardware = set()
    for row, endings in ways.items():
        for way in endings:
            if row + way in kept:
                row_jobs = [job for job, _ in kept[row + way]]
                means = values_of(by_row[row + way], f"ndcg@{data.list_size}").mean(1)
                result["methods"][row + way] |= {"lowest_seed": float(means.min()), "highest_seed": float(means.max())}
                result["methods"][row + way] |= of_training(row_jobs, way)
                hardware |= {config_of(job)["hardware"] for job in row_jobs}
    result["hardware"] = ", ".join(sorted(hardware))
    return result


def rows_with(data_fields: dict) -> list[str]:
    """Rows of the plan in a world of these settings, but for those with one setting changed."""
    return [name for name, row in plan().items()
            if row.data == data_fields and name not in KNOBS and "width" not in row.train]


def asked(rows: list[str]) -> dict[str, list[str]]:
    """{row: the ways it is asked}: what it knows only where candidates' ratings were targets."""
    return {row: EVERY_ROW if plan()[row].train.get("candidate_weight", 1) else [""] for row in rows}


def pairs_of(pairs: list[tuple], rows: list[str]) -> list[tuple]:
    """These pairs, by what models say and by what they know; and of each row, knows - says."""
    known = [(f"{one}, knows", f"{other}, knows") for one, other in pairs if other in rows]
    return [*pairs, *known, *((f"{row}, knows", row) for row in rows)]


def score_arms(runs: Path) -> dict:
    rows = rows_with({})
    pairs = [("ALRO, shown", "SFT, shown"), ("SFT+SLL, shown", "SFT, shown"), ("SFT+PSL, shown", "SFT, shown"),
             ("ALRO, shown", "SFT+PSL, shown"), ("ALRO, shown", "SFT+SLL, shown"),
             ("SFT+SLL, shuffled", "SFT, shuffled"), ("SFT+PSL, shuffled", "SFT, shuffled"),
             ("ALRO, shuffled", "SFT, shuffled"), ("ALRO, shuffled", "SFT+PSL, shuffled"),
             ("ALRO, shown", "SFT, shuffled"), ("ALRO, shown", "SFT+SLL, shuffled"),
             ("SFT, both displays", "SFT, shown"), ("SFT+SLL, both displays", "SFT+SLL, shown"),
             ("SFT+PSL, shown", "SFT, both displays"), ("ALRO, shown", "SFT, both displays"),
             ("ALRO, shown", "SFT+SLL, both displays"),
             ("SFT, shown", "SFT, shown, history alone"), ("ALRO, shown", "ALRO, shown, history alone"),
             ("ALRO, shown, history alone", "SFT, shown, history alone"),
             ("SFT+SLL, shown, history alone", "SFT, shown, history alone"),
             ("ALRO, shown, no rating loss", "SFT, shown, no rating loss"),
             ("SFT, shown, 2 times the steps", "SFT, shown"), ("SFT, shown, 4 times the steps", "SFT, shown"),
             ("SFT+SLL, shuffled, soft ties", "SFT+SLL, shuffled"), ("ALRO, shown, soft ties", "ALRO, shown"),
             ("ALRO, shown", "item mean"), ("ALRO, shown", "oracle")]
    alone = [(f"{arm}, {display}, knows", f"ratings only, {display}, knows") for display in DISPLAYS for arm in ARMS]
    return table_of(runs, asked(rows), DataConfig(), pairs_of(pairs, rows) + alone)


def score_noise(runs: Path) -> dict:
    tables = {}
    for noise in (0.5, 0.7, 1.0, 2.0):
        is_default = noise == DataConfig().retriever_noise
        fields = {} if is_default else {"retriever_noise": noise}
        rows = ["SFT, shown", "ALRO, shown", "SFT, both displays"] if is_default else rows_with(fields)
        tables[f"retriever noise {noise:g}"] = table_of(
            runs, asked(rows), DataConfig(**fields), most=3)
    return tables


def score_lists_of_10(runs: Path) -> dict:
    """A harder world."""
    rows = rows_with({"list_size": 10})
    pairs = [(f"{one}, {display}, lists of 10", f"{other}, {display}, lists of 10") for display in DISPLAYS
             for one, other in (("SFT+SLL", "SFT"), ("SFT+PSL", "SFT"), ("ALRO", "SFT+PSL"), ("ALRO", "SFT"))]
    return table_of(runs, asked(rows), DataConfig(list_size=10), pairs_of(pairs, rows))


def score_knobs(runs: Path) -> dict:
    """One setting changed at a time, seeds 0 to 2; ALRO with the defaults beside them, of the same seeds."""
    rows = ["ALRO, shown", *KNOBS]
    pairs = [(row, "ALRO, shown") for row in KNOBS]
    result = table_of(runs, asked(rows), DataConfig(), pairs_of(pairs, rows), most=3)
    return {"one setting changed": result}


def score_sizes(runs: Path) -> dict:
    """The tiny model in three widths, seeds 0 to 2."""
    pairs = [("ALRO, shown", "SFT, shown")]
    pairs += [(f"ALRO, shown, width {width}", f"SFT, shown, width {width}") for width in WIDTHS]
    rows = [row for pair in pairs for row in pair]
    return table_of(runs, asked(rows), DataConfig(), pairs_of(pairs, rows), most=3)


def without_language_model(data) -> tuple[dict, dict]:
    """({row: [evaluate.score_method]} of the rivals, what was chosen for them on validation lists)."""
    embedding, chosen = rivals.embedding_rankers(data.ratings.columns, data.splits, data.split)
    rankers = embedding | rivals.told_the_category(data)
    return {name: [evaluate.score_method(ranker, data.lists, ORDERS)] for name, ranker in rankers.items()}, chosen


def score_rivals(runs: Path) -> dict:
    """ALRO beside SFT bootstrapped, its own point-wise ranking, and rivals without a language model."""
    ways = {row: [*EVERY_ROW, *more] for row, more in MORE_WAYS.items()}
    others, chosen = without_language_model(world_of(DataConfig()))
    asked = [row + way for row, endings in ways.items() for way in endings]
    pairs = [("ALRO, shown", other) for other in [*asked, *others] if other != "ALRO, shown"]
    return table_of(runs, ways, DataConfig(), pairs, 3, others, chosen=chosen)


def score_new_films(runs: Path) -> dict:
    """The share of new films in a test list, from none to all. Training lists hold none, so they are the same in each
    of these worlds, and one model is ranked in all of them."""
    tables = {}
    for count in NEW_FILMS["ALRO, shown"]:
        data_cfg = DataConfig(new_films=count)
        others, _ = without_language_model(world_of(data_cfg))
        tables[f"{count} new films of 6"] = table_of(runs, {"ALRO, shown": [""]}, data_cfg, most=3, others=others)
    return tables


SCORES = {"arms": score_arms, "noise": score_noise, "lists_of_10": score_lists_of_10, "knobs": score_knobs,
          "sizes": score_sizes, "rivals": score_rivals, "new_films": score_new_films}


def commit_of(folder: Path) -> str:
    """The commit that is checked out where the folder lies; "-dirty" if files are changed."""
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    told = subprocess.run(["git", "--no-optional-locks", "-C", folder, *describe], capture_output=True, text=True)
    check_input(told.returncode == 0, f"{folder}: git knows no commit ({told.stderr.strip()}): give --commit")
    return told.stdout.strip()


def score_all(runs: Path, names: list[str], commit: str | None) -> None:
    unknown = set(names) - set(SCORES)
    check_input(not unknown, f"no table {', '.join(sorted(unknown))}; there are {', '.join(SCORES)}")
    check_input(runs.is_dir(), f"{runs}: no such folder; `train` first, or name another with --runs")
    commit = commit or commit_of(runs)
    for name in names or SCORES:
        result = SCORES[name](runs)
        for one in [result] if "methods" in result else result.values():
            one["commit"] = commit
        write_json(ROOT / "results" / f"{name}.json", result)
        print(f"results/{name}.json", flush=True)


# ---- Figures ---------------------------------------------------------------------------------------------------------

def median_seed(one: list[tuple], other: list[tuple], metric: str) -> int:
    """The seed whose difference of two rows, of `kept_seeds`, is the median; of ten the fifth from below."""
    gaps = {job.seed: method["values"][metric].mean() - beside["values"][metric].mean()
            for (job, method), (_, beside) in zip(one, other)}
    return sorted(gaps, key=gaps.get)[(len(gaps) - 1) // 2]


def new_films_picture() -> Picture:
    tables = read_json(ROOT / "results" / "new_films.json")
    first = next(iter(tables.values()))
    m = first["list_size"]
    shares = [int(title.split()[0]) / m for title in tables]
    lines = {row: (shares, [table["methods"][row][f"ndcg@{m}"]["mean"] for table in tables.values()])
             for row in first["methods"]}
    return Picture("When does a language model pay? Where films are new", "share of new films in a test list",
                   f"NDCG@{m}", {"": lines})


PICTURED = ("ALRO, shown", "SFT, shown")  # the pair whose maps are drawn


def draw_figures(runs: Path, commit: str | None) -> None:
    """What each seed says and knows while it learns; NDCG against the share of new films in a list; where rows rank
    what each slot displays; the maps of the median seed. results/pictures.json says what each picture is of."""
    import_optional("matplotlib", "figures")
    rows = ["SFT, shown", "ALRO, shown", "SFT, shuffled"]
    data = world_of(DataConfig())
    kept = {row: kept_seeds(runs, row, "", data, 10) for row in rows}
    kept = {row: seeds for row, seeds in kept.items() if seeds}
    check_input({*PICTURED} <= {*kept}, f"{runs}: for the figures {', '.join(PICTURED)} must be trained")
    seed = median_seed(*(kept[row] for row in PICTURED), f"ndcg@{data.list_size}")
    folders = {row: [str(job.folder) for job, _ in seeds] for row, seeds in kept.items()}
    by_slot = {row: [method["mean_rank_by_slot"] for _, method in kept[row]] for row in reversed(PICTURED)}
    maps = {}
    for row in reversed(PICTURED):
        job, = (job for job, _ in kept[row] if job.seed == seed)
        one = read_json(map_path(job))
        maps[f"{row}, seed {seed} (the median)"] = (np.array(one["y"]), np.array(one["gold_slots"]))
    pictures = {"learning_curves": learning_picture(folders, valid_levels(DataConfig())),
                "slot_curve": slot_picture(by_slot), "new_films": new_films_picture()}
    results = ROOT / "results"
    draw(results, pictures, maps)

    seeds = {row: [job.seed for job, _ in seeds] for row, seeds in kept.items()}
    of_pair = {row: seeds[row] for row in PICTURED}
    commit = commit or commit_of(runs)
    films = next(iter(read_json(results / "new_films.json").values()))
    said = {"learning_curves": {"from": "log.jsonl of the runs", "seeds": seeds, "commit": commit},
            "slot_curve": {"from": "the runs that arms.json is of", "seeds": of_pair, "commit": commit},
            "output_by_slot": {"from": "the runs that arms.json is of", "seeds": dict.fromkeys(PICTURED, [seed]),
                               "median_of": " - ".join(PICTURED), "commit": commit},
            "new_films": {"from": "new_films.json", "rows": [*films["methods"]], "commit": films.get("commit")}}
    for name, about in said.items():
        about["sha256"] = hashlib.sha256((results / f"{name}.png").read_bytes()).hexdigest()
    write_json(results / "pictures.json", said)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("train", "score", "figures", "list"))
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"score: some of {', '.join(SCORES)}")
    parser.add_argument("--runs", type=Path, default=RUNS, help="the folder of the runs")
    parser.add_argument("--commit", help="score, figures: of the code that trained them")
    given = parser.parse_args(arguments)
    check_input(given.verb == "score" or not given.tables, f"{given.verb} takes no tables")
    if given.verb == "train":
        train_all(given.runs)
    elif given.verb == "score":
        score_all(given.runs, given.tables, given.commit)
    elif given.verb == "figures":
        draw_figures(given.runs, given.commit)
    else:
        for job in jobs(given.runs):
            print("done" if is_kept(job) else "    ", job.row, job.seed)


if __name__ == "__main__":
    run_script(main)
