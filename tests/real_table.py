"""The real table: a pretrained model on MovieLens-100K, every arm, beside every rival. By hand, hours on a CPU.

    python tests/real_table.py train --data_path DATA --model MODEL     one arm after the other; stopped, it goes on
    python tests/real_table.py rank --data_path DATA --model MODEL      rank the test lists with those that are trained
    python tests/real_table.py score --data_path DATA --model MODEL     the same, then fit the rivals and write
                                                                        results/real.json
    python tests/real_table.py list --data_path DATA --model MODEL      what there is to train, and what is done

--size gpu: all lists, history 20, three seeds (never run; --size cpu is what results/real.json holds). A run lies in
runs/real/<row>/<seed>. How well a row ranks is kept there, too, so that ranking goes on after an interruption. Two
processes may train or rank side by side, each with --rows of its own. Where memory is short (24 GiB are, for two arms
of SmolLM2 at a time), give each row a process of its own: one that has trained a row keeps memory that it no longer
uses, and the next row's loader is forked from it.
"""
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import baselines  # noqa: E402
import evaluate  # noqa: E402
import train  # noqa: E402
from data import DataConfig  # noqa: E402
from measure import Row, file_name, finished, scored, table  # noqa: E402
from runs import check_input, option, parse_flags, run_script, write_json  # noqa: E402

ROOT = Path(__file__).parents[1]
RUNS = Path("runs/real")


@dataclasses.dataclass(frozen=True)
class RealConfig:
    """Where the inputs are, and how much of them to use."""
    _argument_group_name = "the real table"
    dataset: str = option("ml-100k", "as train.py's; tools that bring MovieLens as RecBole's files: recbole")
    data_path: str | None = option(None, "the folder with the ratings")
    model: str = option("HuggingFaceTB/SmolLM2-135M-Instruct", "Hugging Face id or folder")
    size: str = option("cpu", "cpu or gpu: how much to train and to rank")
    limit: int = option(300, "test lists to rank; 0 = all")
    rows: str = option("", "train or rank these alone, separated by ;, as `list` names them (default: all)")


FIELDS = {"fields": "title,category,average"}
# Leaving the uniform trap took SmolLM2 about 2,300 lists in every run (results/README.md), half an hour or more on
# two cores. On a CPU it is paid once: every arm goes on from one model that has left it, the *start*, trained with
# SFT+SLL. An arm has other seeds than the start, so that it draws other batches.
CPU_START = {"steps": 372, "batch_size": 8, "grad_accum": 1, "lr": 2e-4, "beta": 0.0,
             "valid_limit": 60, "valid_every": 93, "log_every": 4}
CPU = {"steps": 80, "batch_size": 8, "grad_accum": 2, "lr": 1e-4, "valid_limit": 60, "log_every": 4, "valid_every": 40}
# Each arm's first seed was validated at steps 40 and 80, and was better at 40 in every one of the four, where the rate
# is still level. What was trained later (a second seed, title alone) is these 40 steps alone, step for step the same.
CPU_LATER = {"steps": 40, "warmup": 0.2, "decay": 0.0}
SIZES = {
    "cpu": {"start": CPU_START, "train": CPU, "later": CPU_LATER, "data": {"history_size": 10, "stride": 15},
            "seeds": 1, "more_seeds": 2},
    # Never run. No start: an arm begins with the pretrained model, for an epoch of 32 lists a step.
    "gpu": {"start": None, "train": {"steps": 446}, "later": {}, "data": {"history_size": 20},
            "seeds": 3, "more_seeds": 3}}
SFT = {"alpha": 0.0, "beta": 0.0}
ARMS = {"SFT": SFT, "ALRO": {}, "SFT+SLL": {"beta": 0.0}, "SFT+PSL": {"alpha": 0.0}}


def plan(cfg: RealConfig) -> dict[str, Row]:
    """{row: what to train}, a start before what goes on from it. Beta is 1 and reaches PSL's target, since a beta of .1
    did nothing in the demo; not swept."""
    check_input(cfg.size in SIZES, f"--size must be one of {', '.join(SIZES)}, got {cfg.size!r}")
    size = SIZES[cfg.size]
    files = {"dataset": cfg.dataset, "data_path": cfg.data_path, **size["data"]}
    given = {"model": cfg.model, "beta": 1.0, "through_target": True, **size["train"]}
    rows = {}

    def start(name: str, data: dict) -> dict:
        """The row of a start, if there is to be one. Returns: what an arm that goes on from it is given."""
        if not size["start"]:
            return given
        rows[name] = Row([0], {"model": cfg.model, **size["start"]}, data)
        return {**given, "model": str(folder_of(name, 0) / "model")}

    with_fields = {**files, **FIELDS}
    started = start("start", with_fields)
    for arm, weights in ARMS.items():
        seeds = range(1, 1 + size["more_seeds" if arm in ("SFT", "ALRO") else "seeds"])
        rows[arm] = Row(seeds, {**started, **weights}, with_fields)
    started = start("start, title alone", files)
    rows["ALRO, title alone"] = Row(range(1, 1 + size["seeds"]), {**started, **size["later"]}, files)
    return rows


def folder_of(row: str, seed: int) -> Path:
    return RUNS / file_name(row) / str(seed)


def configurations(row: Row, seed: int, later: dict) -> tuple[DataConfig, train.TrainConfig]:
    preset = {**train.PRESETS["small-gpu"], "seed": seed, **row.data, **row.train, **(later if seed > 1 else {})}
    names = [{field.name for field in dataclasses.fields(config)} for config in (DataConfig, train.TrainConfig)]
    data, training = ({name: value for name, value in preset.items() if name in known} for known in names)
    return DataConfig(**data), train.TrainConfig(**training)


def jobs(cfg: RealConfig) -> list[tuple]:
    """(row, seed, folder, configurations) of --rows: the starts, then the first seed of every row."""
    rows = plan(cfg)
    chosen = cfg.rows.split(";") if cfg.rows else list(rows)
    unknown = set(chosen) - set(rows)
    check_input(not unknown, f"--rows: no row {', '.join(sorted(unknown))}; there are {'; '.join(rows)}")
    later = SIZES[cfg.size]["later"]
    found = [(name, seed, folder_of(name, seed), *configurations(row, seed, later))
             for name, row in rows.items() if name in chosen for seed in row.seeds]
    return sorted(found, key=lambda job: job[1])


def train_all(cfg: RealConfig) -> None:
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg):
        if finished(folder, train_cfg):
            continue
        print(f"==== {name}, seed {seed}: {folder}", flush=True)
        resume = str(folder) if (folder / "config.json").exists() else None
        train.train(data_cfg, train_cfg, train.RunConfig(out=str(folder), resume=resume))


# ---- Scoring: hours on a CPU, so what is ranked is kept --------------------------------------------------------------

# No retriever showed these lists: their *shown* order is one more random one, and is left out.
ORDERS = 2
# Of baselines.ways_to_rank: those that a row's first seed is asked in, besides list by list.
WAYS = {"SFT": [", 3 orders"], "ALRO": [", first step", ", point-wise"]}


def asked_once(ranker):
    """A ranker that does not look at the displayed order, asked in the first one alone: the others get its answer."""
    answers = []

    def rank(lists, slots):
        if not answers:
            answers.append(ranker(lists, slots))
        return answers[0]
    return rank


def rank_all(cfg: RealConfig) -> tuple:
    """({row: evaluate.score_method of each seed}, {row: LLM calls per list}, {row: steps of each seed}, what was
    ranked)."""
    by_row, calls, steps = {}, {}, {}
    worlds = {}  # the prompts of `ALRO, title alone` say less; the lists are the same
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg):
        if not (folder / "model").exists() or not finished(folder, train_cfg):
            continue
        if data_cfg not in worlds:
            worlds[data_cfg] = evaluate.load_evaluation(data_cfg, "test", cfg.limit)
        data = worlds[data_cfg]
        # Not with an arm that goes on from a start, and not on the prompts that say less.
        pretrained = train_cfg.model == cfg.model and data_cfg.fields == FIELDS["fields"]
        if "zero-shot" not in by_row and pretrained:
            untrained = baselines.untrained_ranker(str(folder), data.ratings, data.list_size)
            kept = RUNS / f"zero-shot-{cfg.limit}.json"
            weights = f"{cfg.model}, prompts {evaluate.data_hashes(data)['prompt']}"
            by_row["zero-shot"] = [scored(untrained, data, ORDERS, kept, weights, shown=False)]
            calls["zero-shot"] = 1
        weights = evaluate.sha256_of_model(str(folder))
        ways = baselines.ways_to_rank(str(folder), data.ratings, data.list_size)
        more = WAYS.get(name, []) if seed == 1 else []
        for way in ["", *more]:
            if way not in ways:  # point-wise cannot rank every scale of ratings
                continue
            ranker, calls[name + way] = ways[way]
            if way == ", point-wise":
                ranker = asked_once(ranker)
            kept = folder / f"{file_name(name + way)}-{cfg.limit}.json"
            method = scored(ranker, data, ORDERS, kept, weights, shown=False)
            by_row.setdefault(name + way, []).append(method)
            print(f"{name}{way}: {method['values'][f'ndcg@{data.list_size}'].mean():.4f}", flush=True)
        steps.setdefault(name, []).append(train_cfg.steps)
    check_input(len(by_row) > 0, f"nothing is trained in {RUNS}: `train` first")
    return by_row, calls, steps, next(iter(worlds.values()))


def score_all(cfg: RealConfig) -> None:
    check_input(not cfg.rows, "the table is of all rows: score takes no --rows")
    by_row, calls, steps, data = rank_all(cfg)
    base = "ALRO" if "ALRO" in by_row else next(row for row in by_row if row != "zero-shot")
    embedding, chosen = baselines.embedding_rankers(data.ratings, data.splits, "test")
    for name, ranker in (embedding | baselines.told_the_category(data)).items():
        by_row[name] = [evaluate.score_method(ranker, data.lists, ORDERS, shown=False)]
    # An arm's seeds 1, 2 .. are paired one by one with another arm's; any other row is the same beside each.
    arms = [row for row in by_row if row.split(", ")[0] in ARMS]

    def pair(one: str, other: str) -> tuple:
        both = [len(by_row[row]) for row in (one, other) if row in arms]
        return (one, other, min(both)) if len(both) == 2 else (one, other)
    pairs = [pair(base, other) for other in [*by_row, "item mean"] if other != base]
    # Those that are not there are left out.
    pairs += [pair(*rows) for rows in (("SFT+SLL", "SFT"), ("SFT+PSL", "SFT"), ("SFT", "start"))]
    pairs += [pair("SFT, 3 orders", "SFT"), pair("ALRO, title alone", "start, title alone")]
    chosen = {name: str(choice) for name, choice in chosen.items()}
    about = {"dataset": cfg.dataset, "model": Path(cfg.model).name, "orders": ORDERS, "chosen": chosen, "steps": steps}
    result = table(data, by_row, calls, pairs, **about)
    pooled = {row: evaluate.over_seeds(seeds) for row, seeds in by_row.items()}
    result["groups"] = evaluate.by_group(pooled, data)
    del result["timing"]  # ranked beside other work, and point-wise in one order of two
    write_json(ROOT / "results" / "real.json", result)
    print("results/real.json")


def list_all(cfg: RealConfig) -> None:
    for name, seed, folder, _, train_cfg in jobs(cfg):
        print("done" if finished(folder, train_cfg) else "    ", name, seed)


VERBS = {"train": train_all, "rank": rank_all, "score": score_all, "list": list_all}


def main(arguments: list[str] | None = None) -> None:
    cfg, verbs = parse_flags(arguments, RealConfig, positional="verbs")
    check_input(len(verbs) == 1 and verbs[0] in VERBS, f"one of: {', '.join(VERBS)}")
    VERBS[verbs[0]](cfg)


if __name__ == "__main__":
    run_script(main)
