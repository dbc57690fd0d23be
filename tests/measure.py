"""Every measurement on the demo's world, by one command. By hand: hours on two cores.

    python tests/measure.py train      train what results/ needs; stopped, it goes on where it was;
                                       two of it may work side by side
    python tests/measure.py score [arms|rivals|new_films|noise|knobs]...
                                       rank with the trained runs, fit the rivals, write results/*.json
    python tests/measure.py figures    draw results/learning_curves.png and results/new_films.png (matplotlib)
    python tests/measure.py list       what there is to train, and what is done

World, model and settings were chosen on seeds 100 to 104 and validation lists (results/choice.md);
the seeds here were run once, afterwards. A run lies in runs/measure/<row>/<seed>.
"""
import dataclasses
import functools
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import baselines  # noqa: E402
from experiments import objectives  # noqa: E402
import evaluate  # noqa: E402
import train  # noqa: E402
from data import DataConfig  # noqa: E402
from figures import draw, learning_curves, most_levels, output_by_slot  # noqa: E402
from runs import FolderInUse, is_locked, read_json, read_log, read_run_config, write_json  # noqa: E402

ROOT = Path(__file__).parents[1]
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
    rows["ALRO, shown, history alone"] = Row(TEN, {"candidate_weight": 0.0})
    for times in (2, 4):  # not said, or not yet said?
        rows[f"SFT, shown, {times} times the steps"] = Row(THREE, {**SFT, "steps": times * ALRO.steps})
    rows["SFT+SLL, shuffled, soft ties"] = Row(
        FIVE, {"beta": 0.0, "display_order": "shuffled"}, losses=objectives.soft_ties_losses)
    rows["ALRO, shown, soft ties"] = Row(FIVE, {}, losses=objectives.soft_ties_losses)
    for display in DISPLAYS:  # a harder world, where SLL can be told
        for arm, weights in ARMS.items():
            rows[f"{arm}, {display}, lists of 10"] = Row(
                THREE, {**weights, "display_order": display}, {"list_size": 10})
    for noise in (0.5, 1.0, 2.0):  # how large is the bias? (the default, 0.7, is above)
        for arm in ("SFT", "ALRO"):
            rows[f"{arm}, shown, retriever noise {noise:g}"] = Row(THREE, ARMS[arm], {"retriever_noise": noise})
        rows[f"SFT, both displays, retriever noise {noise:g}"] = Row(
            THREE, {"alpha": 0.0}, {"retriever_noise": noise}, objectives.both_displays_losses)
    rows["gamma 1"] = Row(THREE, {"gamma": 1.0})  # one setting changed
    rows["gamma 100"] = Row(THREE, {"gamma": 100.0})
    rows["PSL's target detached"] = Row(THREE, {"through_target": False})
    rows["no history loss"] = Row(THREE, {"history_weight": 0.0})
    rows["SFT, shown, no rating loss"] = Row(THREE, {**SFT, "history_weight": 0.0, "candidate_weight": 0.0})
    rows["ALRO, shown, no rating loss"] = Row(THREE, {"history_weight": 0.0, "candidate_weight": 0.0})
    return rows


def file_name(row: str) -> str:
    return row.replace(",", "").replace("'", "").replace(" ", "-")


def folder_of(row: str, seed: int) -> Path:
    return RUNS / file_name(row) / str(seed)


def finished(folder: Path, cfg: train.TrainConfig) -> bool:
    if not (folder / "log.jsonl").exists():
        return False
    log = read_log(folder)
    return bool(log) and log[-1]["step"] == cfg.steps and "valid_ndcg" in log[-1]


# What changes nothing that is learned, beyond rounding.
HARMLESS = ("grad_accum", "compile", "test_at_end", "test_limit", "test_orders")


def is_done(folder: Path, data_cfg: DataConfig, cfg: train.TrainConfig) -> bool:
    """Whether it is trained. Raises: AlroError if what lies in the folder is a run of another configuration: a table
    would tell of it what is not so."""
    if not (folder / "config.json").exists():
        return False
    there = read_run_config(str(folder))["train"]
    same = {name: there[name] for name in HARMLESS if name in there}
    train.check_same_config(folder, data_cfg, dataclasses.replace(cfg, **same))
    return finished(folder, cfg)


def jobs() -> list[tuple]:
    """(row, seed, folder, configurations), row by row."""
    return [(name, seed, folder_of(name, seed), DataConfig(**row.data),
             train.TrainConfig(**{"steps": ALRO.steps, "test_at_end": False, **row.train, "seed": seed}), row.losses)
            for name, row in plan().items() for seed in row.seeds]


def train_all() -> None:
    todo = [job for job in jobs() if not is_done(*job[2:5])]
    for number, (_, _, folder, data_cfg, cfg, losses) in enumerate(todo, 1):
        if is_locked(folder) or is_done(folder, data_cfg, cfg):  # by another process, meanwhile
            continue
        start = time.monotonic()
        resume = str(folder) if (folder / "config.json").exists() else None
        try:
            train.train(data_cfg, cfg, train.RunConfig(out=str(folder), resume=resume), losses=losses)
        except FolderInUse:  # since we looked
            continue
        keep_scores(folder, data_cfg, losses)
        print(f"==== {number} of {len(todo)}: {folder} in {time.monotonic() - start:.0f} s", flush=True)


# ---- Scoring ---------------------------------------------------------------------------------------------------------

ORDERS, LISTS = 3, 500
WAYS = {"": "greedy", ", knows": "ratings"}  # ending of a row -> how the same model is asked


@functools.cache
def world_of(data_cfg: DataConfig):
    return evaluate.load_evaluation(data_cfg, "test", LISTS)


def ranker_of(folder: Path, data, decode: str, losses=train.losses):
    """A run's model, best on validation by what it says; of ratings alone, which never learns to say anything, as it
    was at the last step."""
    ranker = evaluate.ranker_of_run(str(folder), data.ratings.prompt_words(), data.list_size, decode)
    if losses is objectives.ratings_only_losses:
        state = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)
        ranker.model.load_state_dict(state["weights"], strict=False)  # what is tied stands there once
    return ranker


def keep_scores(folder: Path, data_cfg: DataConfig, losses=train.losses) -> None:
    """What the run says and knows of every list, and the map of one list, in files beside it."""
    data = world_of(data_cfg)
    weights = evaluate.sha256_of_model(str(folder))
    for decode in WAYS.values():
        kept = folder / "scores" / f"{decode}-{evaluate.sha256(data.lists)[:8]}.json"
        scored(ranker_of(folder, data, decode, losses), data, ORDERS, kept, weights)
    y, gold_slots = output_by_slot(ranker_of(folder, data, "greedy", losses), most_levels(data.lists))
    write_json(folder / "scores" / "map.json", {"y": y.tolist(), "gold_slots": gold_slots.tolist(), "weights": weights})


def done_seeds(row: str) -> list[int]:
    return [seed for name, seed, folder, data_cfg, cfg, _ in jobs() if name == row and is_done(folder, data_cfg, cfg)]


def scored(ranker, data, orders: int, kept: Path, weights: str | None, shown: bool = True) -> dict | None:
    """evaluate.score_method, from the file `kept` if it was written for the same weights (any text that names them),
    lists and orders: ranking takes hours. The rankings themselves are not kept.

    weights None: they are not on this machine. What is kept of these lists and orders is taken; None if nothing is.
    """
    what = f"{evaluate.sha256(data.lists)}, {orders} orders"
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


def score_rows(rows: list[str], data, decode: str = "greedy", ways=(("", 1, lambda ranker: ranker),),
               most_seeds: int = 10) -> tuple:
    """({row: [evaluate.score_method of each seed]}, {row: LLM calls per list}) on the same lists."""
    methods, calls = {}, {}
    words = data.ratings.prompt_words()
    for row in rows:
        for way, count, wrap in ways:
            methods[row + way] = []
            calls[row + way] = count
            for seed in done_seeds(row)[:most_seeds]:
                folder = folder_of(row, seed)
                ranker = evaluate.ranker_of_run(str(folder), words, data.list_size, decode)
                kept = folder / "scores" / f"{decode}{file_name(way)}-{evaluate.sha256(data.lists)[:8]}.json"
                weights = evaluate.sha256_of_model(str(folder))
                methods[row + way].append(scored(wrap(ranker), data, ORDERS, kept, weights))
    return {row: seeds for row, seeds in methods.items() if seeds}, calls


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
    pooled = {row: evaluate.over_seeds(seeds) for row, seeds in everything.items()}
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


def write(name: str, result) -> None:
    write_json(ROOT / "results" / f"{name}.json", result)
    print(f"results/{name}.json", flush=True)


def world(**fields):
    return evaluate.load_evaluation(DataConfig(**fields), "test", LISTS)


def score_arms() -> None:
    rows = [row for row in plan() if row.split(", ")[0] in ARMS and "width" not in row and "noise" not in row]
    data = world()
    by_row, calls = score_rows(rows, data)
    pairs = [("ALRO, shown", "SFT, shown"), ("SFT+SLL, shown", "SFT, shown"), ("SFT+PSL, shown", "SFT, shown"),
             ("ALRO, shown", "SFT+PSL, shown"), ("ALRO, shown", "SFT+SLL, shown"),
             ("SFT+SLL, shuffled", "SFT, shuffled"), ("SFT+PSL, shuffled", "SFT, shuffled"),
             ("ALRO, shuffled", "SFT, shuffled"), ("ALRO, shuffled", "SFT+PSL, shuffled"),
             ("ALRO, shown", "SFT, shuffled"), ("ALRO, shown", "SFT+SLL, shuffled"),
             ("ALRO, shown", "SFT, both displays"), ("ALRO, shown", "SFT+SLL, both displays"),
             ("ALRO, shown", "item mean"), ("ALRO, shown", "oracle")]
    write("arms", table(data, by_row, calls, pairs))


def score_rivals() -> None:
    """ALRO beside SFT bootstrapped, its own point-wise ranking, and rivals without a language model."""
    data = world()
    bootstrap = [(f", {n} orders", n, lambda ranker, n=n: baselines.bootstrapped(ranker, n)) for n in (3, 5)]
    once = ("", 1, lambda ranker: ranker)
    levels = np.unique(data.ratings.rating)
    point_wise = (", point-wise", data.list_size, lambda ranker: baselines.point_wise(ranker, levels))
    by_row, calls = score_rows(["SFT, shuffled"], data, ways=[once, *bootstrap], most_seeds=3)
    more, more_calls = score_rows(["ALRO, shown"], data, ways=[once, point_wise], most_seeds=3)
    first, _ = score_rows(["ALRO, shown"], data, decode="first", most_seeds=3)
    by_row |= more
    by_row["ALRO, shown, first step"] = first["ALRO, shown"]
    calls |= {**more_calls, "ALRO, shown, first step": 1}
    embedding, chosen = baselines.embedding_rankers(data.ratings, data.splits, "test")
    for name, ranker in (embedding | baselines.told_the_category(data)).items():
        by_row[name] = [evaluate.score_method(ranker, data.lists, ORDERS)]
    pairs = [("ALRO, shown", other) for other in by_row if other != "ALRO, shown"]
    chosen = {name: str(choice) for name, choice in chosen.items()}
    write("rivals", table(data, by_row, calls, pairs, chosen=chosen))


def score_new_films() -> None:
    """The share of new films in a test list, from none to all. Training lists hold none, so they are the same in each
    of these worlds, and one model is ranked in all of them."""
    tables = {}
    for count in (0, 2, 4, 6):
        data = world(new_films=count)
        by_row, calls = score_rows(["ALRO, shown"], data, most_seeds=3)
        embedding, _ = baselines.embedding_rankers(data.ratings, data.splits, "test")
        for name, ranker in (embedding | baselines.told_the_category(data)).items():
            by_row[name] = [evaluate.score_method(ranker, data.lists, ORDERS)]
        tables[f"{count} new films of 6"] = table(data, by_row, calls)
    write("new_films", tables)


def score_noise() -> None:
    tables = {}
    for noise in (0.5, 0.7, 1.0, 2.0):
        ending = "" if noise == DataConfig().retriever_noise else f", retriever noise {noise:g}"
        rows = [f"{arm}{ending}" for arm in ("SFT, shown", "SFT, shuffled", "ALRO, shown")]
        data = world(retriever_noise=noise)
        tables[f"retriever noise {noise:g}"] = table(data, *score_rows(rows, data, most_seeds=3))
    write("noise", tables)


def score_knobs() -> None:
    """One setting changed at a time, seeds 0 to 2; ALRO with the defaults beside them, of the same seeds."""
    arms = {row for row in plan() if row.split(", ")[0] in ARMS}
    rows = [row for row in plan() if row not in arms]
    tables = {}
    for fields in ({}, {"list_size": 10}, {"history_ratings": False}):
        data = world(**fields)
        mine = [row for row in rows if plan()[row].data == fields]
        if not fields:
            mine = ["ALRO, shown", *mine, *(row for row in plan() if "width" in row)]
        by_row, calls = score_rows(mine, data, most_seeds=3)
        if by_row:
            result = table(data, by_row, calls, [(row, "ALRO, shown") for row in by_row if row != "ALRO, shown"])
            for row in by_row:
                last = [read_log(folder_of(row, seed)) for seed in done_seeds(row)[:3]]
                steps = [[line for line in log if "sll" in line][-1] for log in last]
                for name in ("sll", "blind_sll", "perfect_sll"):
                    result["methods"][row][name] = float(np.mean([line[name] for line in steps]))
            tables[" ".join(f"{name} {value}" for name, value in fields.items()) or "one setting changed"] = result
    write("knobs", tables)


SCORES = {"arms": score_arms, "rivals": score_rivals, "new_films": score_new_films, "noise": score_noise,
          "knobs": score_knobs}


def draw_figures() -> None:
    """Validation NDCG of each seed while it learns; NDCG against the share of new films in a list."""
    rows = ["SFT, shown", "ALRO, shown", "SFT, shuffled"]
    learning = {row: learning_curves([str(folder_of(row, seed)) for seed in done_seeds(row)]) for row in rows}
    tables = read_json(ROOT / "results" / "new_films.json")
    shares = [int(title.split()[0]) / table["list_size"] for title, table in tables.items()]
    by_share = {}
    for row in next(iter(tables.values()))["methods"]:
        ys = [table["methods"][row][f"ndcg@{table['list_size']}"]["mean"] for table in tables.values()]
        by_share[row] = (shares, ys)
    draw(ROOT / "results", {
        "learning_curves": ("Demo: each seed (thin) and their mean", "step",
                            "NDCG@6 on validation lists, random order", learning),
        "new_films": ("When does it pay?", "share of new films in a test list", "NDCG@6", by_share)})


if __name__ == "__main__":
    if sys.argv[1:] == ["train"]:
        train_all()
    elif sys.argv[1:2] == ["score"]:
        for chosen in sys.argv[2:] or SCORES:
            SCORES[chosen]()
    elif sys.argv[1:] == ["figures"]:
        draw_figures()
    elif sys.argv[1:] == ["list"]:
        for name, seed, folder, data_cfg, cfg, _ in jobs():
            print("done" if is_done(folder, data_cfg, cfg) else "    ", name, seed)
    else:
        sys.exit(__doc__)
