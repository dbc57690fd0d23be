"""The real table: a pretrained model on MovieLens-100K, every arm, beside every rival. By hand, hours on a CPU.

    python tests/real_table.py train --data_path DATA --model MODEL     one arm after the other; stopped, it goes on
    python tests/real_table.py score --data_path DATA --model MODEL     rank with those that are trained, fit the
                                                                        rivals, write results/real.json
    python tests/real_table.py list --data_path DATA --model MODEL      what there is to train, and what is done

--size gpu: all lists, history 20, three seeds (never run; --size cpu is what results/real.json holds). A run lies in
runs/real/<row>/<seed>. The ranking of a row is kept there, too, so that scoring goes on after an interruption.
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


FIELDS = {"fields": "title,category,average"}
# Steps of 8 lists are no shortcut: SFT+SLL left the uniform trap after step 186, about as many lists as steps of 32
# need (results/README.md).
CPU = {"steps": 372, "batch_size": 8, "grad_accum": 1, "lr": 2e-4, "valid_limit": 60, "valid_every": 93, "log_every": 4}
SIZES = {
    "cpu": {"train": CPU, "data": {"history_size": 10, "stride": 15}, "seeds": 1, "more_seeds": 2},
    "gpu": {"train": {"steps": 446}, "data": {"history_size": 20}, "seeds": 3, "more_seeds": 3}}  # an epoch of 32 lists
SFT = {"alpha": 0.0, "beta": 0.0}
ARMS = {"SFT+SLL": {"beta": 0.0}, "ALRO": {}, "SFT": SFT, "SFT+PSL": {"alpha": 0.0}}


def plan(cfg: RealConfig) -> dict[str, Row]:
    """{row: what to train}; beta .3: the demo's 1.5 beside alpha 3, in proportion somewhat less. Not swept."""
    check_input(cfg.size in SIZES, f"--size must be one of {', '.join(SIZES)}, got {cfg.size!r}")
    size = SIZES[cfg.size]
    given = {"model": cfg.model, "beta": 0.3, **size["train"]}
    files = {"dataset": cfg.dataset, "data_path": cfg.data_path, **size["data"]}
    rows = {}
    for arm, weights in ARMS.items():
        seeds = range(size["more_seeds"] if arm in ("SFT", "ALRO") else size["seeds"])
        rows[arm] = Row(seeds, {**given, **weights}, {**files, **FIELDS})
    rows["ALRO, title alone"] = Row(range(size["seeds"]), given, files)
    return rows


def configurations(row: Row, seed: int) -> tuple[DataConfig, train.TrainConfig]:
    preset = {**train.PRESETS["small-gpu"], "seed": seed, **row.data, **row.train}
    names = [{field.name for field in dataclasses.fields(config)} for config in (DataConfig, train.TrainConfig)]
    data, training = ({name: value for name, value in preset.items() if name in known} for known in names)
    return DataConfig(**data), train.TrainConfig(**training)


def jobs(cfg: RealConfig) -> list[tuple]:
    """(row, seed, folder, configurations): seed 0 of every row first."""
    found = [(name, seed, RUNS / file_name(name) / str(seed), *configurations(row, seed))
             for name, row in plan(cfg).items() for seed in row.seeds]
    return sorted(found, key=lambda job: job[1])


def train_all(cfg: RealConfig) -> None:
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg):
        if finished(folder, train_cfg):
            continue
        print(f"==== {name}, seed {seed}: {folder}", flush=True)
        resume = str(folder) if (folder / "config.json").exists() else None
        train.train(data_cfg, train_cfg, train.RunConfig(out=str(folder), resume=resume))


# ---- Scoring: hours on a CPU, so what is ranked is kept --------------------------------------------------------------

ORDERS = 2
# Of baselines.ways_to_rank: those that a row's model is asked in, besides list by list.
WAYS = {"SFT": [", 3 orders"], "ALRO": [", first step", ", point-wise"]}


def score_all(cfg: RealConfig) -> None:
    by_row, calls, steps = {}, {}, {}
    worlds = {}  # the prompts of `ALRO, title alone` say less; the lists are the same
    for name, _, folder, data_cfg, train_cfg in jobs(cfg):
        if not (folder / "model").exists() or not finished(folder, train_cfg):
            continue
        if data_cfg not in worlds:
            worlds[data_cfg] = evaluate.load_evaluation(data_cfg, "test", cfg.limit)
        data = worlds[data_cfg]
        if "zero-shot" not in by_row:
            untrained = baselines.untrained_ranker(str(folder), data.ratings, data.list_size)
            kept = RUNS / f"zero-shot-{cfg.limit}.json"
            weights = f"{cfg.model}, prompts {evaluate.data_hashes(data)['prompt']}"
            by_row["zero-shot"] = [scored(untrained, data, ORDERS, kept, weights)]
            calls["zero-shot"] = 1
        weights = evaluate.sha256_of_model(str(folder))
        ways = baselines.ways_to_rank(str(folder), data.ratings, data.list_size)
        for way in ["", *WAYS.get(name, [])]:
            if way not in ways:  # point-wise cannot rank every scale of ratings
                continue
            ranker, calls[name + way] = ways[way]
            kept = folder / f"{file_name(name + way)}-{cfg.limit}.json"
            method = scored(ranker, data, ORDERS, kept, weights)
            by_row.setdefault(name + way, []).append(method)
            print(f"{name}{way}: {method['values'][f'ndcg@{data.list_size}'].mean():.4f}", flush=True)
        steps[name] = train_cfg.steps
    check_input(len(by_row) > 0, f"nothing is trained in {RUNS}: `train` first")
    base = "ALRO" if "ALRO" in by_row else next(row for row in by_row if row != "zero-shot")
    data = next(iter(worlds.values()))
    embedding, chosen = baselines.embedding_rankers(data.ratings, data.splits, "test")
    for name, ranker in (embedding | baselines.told_the_category(data)).items():
        by_row[name] = [evaluate.score_method(ranker, data.lists, ORDERS)]
    pairs = [(base, other) for other in [*by_row, "item mean"] if other != base]
    chosen = {name: str(choice) for name, choice in chosen.items()}
    about = {"dataset": cfg.dataset, "model": Path(cfg.model).name, "orders": ORDERS, "chosen": chosen, "steps": steps}
    result = table(data, by_row, calls, pairs, **about)
    pooled = {row: evaluate.over_seeds(seeds) for row, seeds in by_row.items()}
    result["groups"] = evaluate.by_group(pooled, data)
    write_json(ROOT / "results" / "real.json", result)
    print("results/real.json")


def list_all(cfg: RealConfig) -> None:
    for name, seed, folder, _, train_cfg in jobs(cfg):
        print("done" if finished(folder, train_cfg) else "    ", name, seed)


VERBS = {"train": train_all, "score": score_all, "list": list_all}


def main(arguments: list[str] | None = None) -> None:
    cfg, verbs = parse_flags(arguments, RealConfig, positional="verbs")
    check_input(len(verbs) == 1 and verbs[0] in VERBS, f"one of: {', '.join(VERBS)}")
    VERBS[verbs[0]](cfg)


if __name__ == "__main__":
    run_script(main)
