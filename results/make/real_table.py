"""The real table: MovieLens-100K, every arm from the same weights, beside every rival. By hand.

    python results/make/real_table.py each --size tiny --data_path DATA
        train and rank with every row and seed, --jobs at a time; stopped, it goes on
    python results/make/real_table.py score --size tiny --data_path DATA
        fit the rivals (a minute of CPU), print the table, write it to --out
    python results/make/real_table.py list ...
        what there is to train, and what is done

--size tiny: the demo's tiny model from random weights, on two cores. --size cpu: a pretrained model (--model), many
hours of two cores. --size short: its first arm alone, for an hour. --size gpu: the same for an epoch, on a GPU
(--jobs 4 --compile True: 9 GiB of tensors a job).

`train` and `rank` do one half of `each`, in one process; `one` is what each of its processes does. A run lies in
runs/real-SIZE/<row>/<seed>, what it printed in <seed>.txt beside it; how well it ranks is kept in its folder, so that
ranking goes on after an interruption, and `score` needs no weights. Two processes may train or rank side by side, each
with --rows of its own. `each` gives every row a process of its own: one that has trained a row keeps memory that it no
longer uses.

results/real.json and results/real-gpu.json were made by earlier versions (results/LOG.md).
"""
import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import evaluate  # noqa: E402
import measure  # noqa: E402
import train  # noqa: E402
from data import DataConfig  # noqa: E402
from experiments import compare, objectives, rivals  # noqa: E402
from measure import Row, file_name, scored, table  # noqa: E402
from plumbing.flags import check_input, check_minimum, option, parse_flags, run_script, write_json  # noqa: E402
from plumbing.folder import check_data_of_run, data_hashes, read_log, read_run_config  # noqa: E402
from plumbing.model import sha256_of_weights  # noqa: E402
from plumbing.tables import columns_of_text  # noqa: E402


@dataclasses.dataclass(frozen=True)
class RealConfig:
    """Where the inputs are, and how much of them to use."""
    _argument_group_name = "the real table"
    dataset: str = option("ml-100k", "as train.py's; tools that bring MovieLens as RecBole's files: recbole")
    data_path: str | None = option(None, "the folder with the ratings")
    model: str = option("HuggingFaceTB/SmolLM2-135M-Instruct", "Hugging Face id or folder")
    size: str = option("cpu", "tiny, short, cpu or gpu: which model, and how much of it to train")
    limit: int | None = option(None, "test lists to rank; None = all")
    rows: str | None = option(None, "train or rank these alone, separated by ;, as `list` names them (default: all)")
    seed: int | None = option(None, "train or rank this seed alone (default: all)")
    jobs: int = option(1, "each: processes side by side")
    compile: bool = option(False, "as train.py's")
    commit: str | None = option(None, "score: of the code that trained the runs (default: what is checked out)")
    out: str | None = option(None, "score: folder for the table (default: runs/real-SIZE; the pages are made from "
                                   "results)")

    def __post_init__(self):
        check_minimum(self, jobs=1, limit=1)
        check_input(self.seed is None or self.seed >= 0, f"--seed must be at least 0, got {self.seed}")
        check_input(self.size in SIZES, f"--size must be one of {', '.join(SIZES)}, got {self.size!r}")


FIELDS = {"fields": "title,category,average"}


class Size(NamedTuple):
    """How much to train."""
    preset: str         # of train.py; what it says of model and data set gives way to the flags
    train: dict         # training of an arm
    without_psl: dict   # what is other for an arm without PSL, whose lists have one prompt, not two
    data: dict
    seeds: int
    rows: tuple         # names of ROWS
    file: str           # the table's name
    more: bool = True   # untrained, too, and the first seed in other ways


SFT = {"alpha": 0.0, "beta": 0.0}
LONGER = {"steps": 6000, "valid_every": 300}  # of the tiny model: not said, or not yet said?
RATINGS_ONLY = "ratings only"  # never learns to say anything: it is read off, as it was at the last step
# {row: (training, data, losses)}; every display is shuffled.
ROWS = {"SFT": (SFT, FIELDS, train.losses),
        "SFT+PSL": ({"alpha": 0.0}, FIELDS, train.losses),
        "ALRO": ({}, FIELDS, train.losses),
        RATINGS_ONLY: (SFT, FIELDS, objectives.ratings_only_losses),
        "SFT+SLL": ({"beta": 0.0}, FIELDS, train.losses),
        "SFT, 4 times the steps": ({**SFT, **LONGER}, FIELDS, train.losses),
        "SFT+SLL, 4 times the steps": ({"beta": 0.0, **LONGER}, FIELDS, train.losses),
        "ALRO, title alone": ({}, {"fields": "title"}, train.losses),
        "SFT, history alone": ({**SFT, "candidate_weight": 0.0}, FIELDS, train.losses),
        "ALRO, history alone": ({"candidate_weight": 0.0}, FIELDS, train.losses)}
ARMS = ("SFT", "SFT+PSL", "ALRO", RATINGS_ONLY)

CPU = Size("small-gpu", {"steps": 280, "batch_size": 8, "grad_accum": 2, "lr": 2e-4, "valid_lists": 60,
                         "valid_every": 70},
           {"grad_accum": 1}, {"history_size": 10, "stride": 15}, 2, (*ARMS, "ALRO, title alone"), "real")
SIZES = {
    "tiny": Size("demo", {"model": "tiny", "steps": 1500, "batch_size": 16, "valid_lists": 300, "valid_every": 150},
                 {}, {"list_size": 10, "history_size": 10, "stride": 5}, 3, (*ROWS,), "real-tiny"),
    "cpu": CPU,
    # Its first arm, cut short: an hour of two cores that do not multiply bf16, with --limit 200.
    "short": CPU._replace(train={**CPU.train, "steps": 100, "valid_every": 50}, seeds=1, rows=("SFT",),
                          file="real-short", more=False),
    # An epoch of 14,117 lists, 32 a step; 16 prompts at a time either way.
    "gpu": Size("small-gpu", {"steps": 442, "valid_every": 148}, {"grad_accum": 2}, {}, 3,
                (*ARMS, "SFT+SLL", "ALRO, title alone"), "real-gpu")}


def plan(cfg: RealConfig) -> dict[str, Row]:
    """{row: what to train}."""
    size = SIZES[cfg.size]
    files = {"dataset": cfg.dataset, "data_path": cfg.data_path, "noun": "movie", **size.data}
    given = {"model": cfg.model, "compile": cfg.compile, "test_lists": 0, "display_order": "shuffled", **size.train}
    rows = {}
    for name in size.rows:
        weights, data, losses = ROWS[name]
        parts = size.without_psl if weights.get("beta") == 0 else {}
        rows[name] = Row(range(size.seeds), {**given, **weights, **parts}, {**files, **data}, losses)
    return rows


def runs_of(cfg: RealConfig) -> Path:
    return Path("runs", f"real-{cfg.size}")


def folder_of(cfg: RealConfig, row: str, seed: int) -> Path:
    return runs_of(cfg) / file_name(row) / str(seed)


def configurations(preset: str, row: Row, seed: int) -> tuple[DataConfig, train.TrainConfig]:
    preset = {**train.PRESETS[preset], "seed": seed, **row.data, **row.train}
    names = [{field.name for field in dataclasses.fields(config)} for config in (DataConfig, train.TrainConfig)]
    data, training = ({name: value for name, value in preset.items() if name in known} for known in names)
    return DataConfig(**data), train.TrainConfig(**training)


def jobs(cfg: RealConfig) -> list[tuple]:
    """(row, seed, folder, configurations) of --rows; the first seed of every row comes first."""
    rows = plan(cfg)
    chosen = cfg.rows.split(";") if cfg.rows else [*rows]
    unknown = set(chosen) - set(rows)
    check_input(not unknown, f"--rows: no row {', '.join(sorted(unknown))}; there are {'; '.join(rows)}")
    preset = SIZES[cfg.size].preset
    found = [(name, seed, folder_of(cfg, name, seed), *configurations(preset, row, seed))
             for name, row in rows.items() if name in chosen for seed in row.seeds if cfg.seed in (None, seed)]
    check_input(len(found) > 0, f"no such row has --seed {cfg.seed}")
    return sorted(found, key=lambda job: job[1])


def is_done(folder: Path, data_cfg: DataConfig, train_cfg: train.TrainConfig) -> bool:
    """As measure.is_done, but for a data set or model that lay elsewhere, on another machine."""
    if not (folder / "config.json").exists():
        return False
    there = read_run_config(str(folder))
    model = there["train"]["model"]
    if Path(model).name != Path(train_cfg.model).name or Path(model).exists():
        model = train_cfg.model
    return measure.is_done(folder, dataclasses.replace(data_cfg, data_path=there["data"]["data_path"]),
                           dataclasses.replace(train_cfg, model=model))


def train_all(cfg: RealConfig) -> None:
    check_input(cfg.size != "gpu" or torch.cuda.is_available(), f"--size {cfg.size}: no CUDA GPU found")
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg):
        if is_done(folder, data_cfg, train_cfg):
            continue
        print(f"==== {name}, seed {seed}: {folder}", flush=True)
        measure.train_or_go_on(folder, data_cfg, train_cfg, plan(cfg)[name].losses)


# ---- Scoring: hours on a CPU, so what is ranked is kept --------------------------------------------------------------

# No retriever showed these lists: their *shown* order is one more random one, and is left out.
ORDERS = 2
# Ways to ask a row's first seed, of rivals.ways_to_rank, besides list by list.
WAYS = {"SFT": [", 3 orders"], "ALRO": [", first step", ", point-wise"]}


def calls_of(way: str, list_size: int) -> int:
    """Prompts that the language model reads for one list."""
    return {", 3 orders": 3, ", point-wise": list_size}.get(way, 1)


def asked_once(ranker):
    """A ranker that does not look at the displayed order, asked in the first one alone: the others get its answer."""
    answers = []

    def rank(lists, slots):
        if not answers:
            answers.append(ranker(lists, slots))
        return answers[0]
    return rank


def kept_at(cfg: RealConfig, folder: Path, row: str) -> Path:
    return folder / f"{file_name(row)}-{cfg.limit or 'all'}.json"


def model_of(cfg: RealConfig) -> str:
    """What is trained: --model, but for a size that has a model of its own."""
    return SIZES[cfg.size].train.get("model", cfg.model)


def untrained_row(cfg: RealConfig) -> str:
    """The name of the row of the model as training found it."""
    return "untrained" if model_of(cfg) == "tiny" else "zero-shot"


def rank_untrained(cfg: RealConfig, folder: Path, data) -> dict:
    """With the untrained model, that of the run in this folder; where it is not here, from a ranking that was kept."""
    kept = kept_at(cfg, runs_of(cfg), untrained_row(cfg))
    weights = model_of(cfg)
    if Path(weights).is_dir():
        weights = sha256_of_weights(Path(weights))
    else:  # a model of the hub, or of another machine
        there = scored(None, data, ORDERS, kept, None, shown=False)
        if there:
            return there

    def untrained(lists, slots):  # built only where nothing is kept
        ranker = rivals.untrained_ranker(str(folder), data)
        return ranker(evaluate.fit_to_model(data, ranker.encoder).lists, slots)
    stamp = f"{weights}, prompts {data_hashes(data.ratings.words, data.splits)['prompt']}"
    return scored(untrained, data, ORDERS, kept, stamp, shown=False)


def ways_of(name: str, seed: int, train_cfg: train.TrainConfig, more: bool = True) -> list[str]:
    """How a run's model is asked, as endings of its row's name; more: the first seed in other ways, too."""
    if name == RATINGS_ONLY:
        return [", knows"]
    knows = [", knows"] if train_cfg.candidate_weight > 0 else []
    return ["", *knows, *(WAYS.get(name, []) if more and seed == 0 else [])]


def rankers_of(folder: Path, row: str, data) -> dict:
    """rivals.ways_to_rank, {ending: (ranker, prompts)}; of ratings alone with the weights of the last step."""
    rankers = rivals.ways_to_rank(str(folder), data)
    if row == RATINGS_ONLY:
        measure.load_last_step(folder, rankers[", knows"][0].model)
    return rankers


def rank_ways(cfg: RealConfig, folder: Path, row: str, ways: list[str], data) -> dict:
    """{way: evaluate.score_method}, of this run; from what is kept where its weights are not here."""
    if not (folder / "model").exists():
        kept = {way: scored(None, data, ORDERS, kept_at(cfg, folder, row + way), None, shown=False) for way in ways}
        check_input(any(kept.values()), f"{folder}: trained, but neither its weights are here nor a ranking of these "
                                        f"lists in {kept_at(cfg, folder, row + ways[0])}")
        return {way: method for way, method in kept.items() if method}
    weights = sha256_of_weights(folder / "model")
    rankers = rankers_of(folder, row, data)
    data = evaluate.fit_to_model(data, rankers[""][0].encoder)
    found = {}
    for way in ways:
        if way not in rankers:  # point-wise cannot rank every scale of ratings
            continue
        ranker, _ = rankers[way]
        if way == ", point-wise":
            ranker = asked_once(ranker)
        found[way] = scored(ranker, data, ORDERS, kept_at(cfg, folder, row + way), weights, shown=False)
        print(f"{row}{way}: {found[way]['values'][f'ndcg@{data.list_size}'].mean():.4f}", flush=True)
    return found


def rank_all(cfg: RealConfig) -> tuple:
    """({row: evaluate.score_method of each seed}, {row: LLM calls per list}, {row: {seed: steps}}, what was ranked, the
    hardware, rows that were to be ranked and are not)."""
    by_row, calls, steps, hardware, missing = {}, {}, {}, set(), []
    worlds = {}  # the prompts of `ALRO, title alone` say less; the lists are the same
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg):
        if not is_done(folder, data_cfg, train_cfg):
            continue
        if data_cfg not in worlds:
            worlds[data_cfg] = compare.load_evaluation(data_cfg, "test", cfg.limit)
        data = worlds[data_cfg]
        check_data_of_run(str(folder), data_hashes(data.ratings.words, data.splits))
        # Once, on the prompts that say all.
        if name == "SFT" and seed == 0 and SIZES[cfg.size].more:
            row = untrained_row(cfg)
            by_row[row], calls[row] = [rank_untrained(cfg, folder, data)], 1
        ways = ways_of(name, seed, train_cfg, SIZES[cfg.size].more)
        for way, method in rank_ways(cfg, folder, name, ways, data).items():
            by_row.setdefault(name + way, []).append(method)
            calls[name + way] = calls_of(way, data.list_size)
        missing += [f"{name}{way}" for way in ways if name + way not in by_row]
        steps.setdefault(name, {})[str(seed)] = train_cfg.steps
        hardware.add(read_run_config(str(folder))["hardware"])
    check_input(len(by_row) > 0, f"nothing is trained in {runs_of(cfg)}: `train` first")
    return by_row, calls, steps, next(iter(worlds.values())), ", ".join(sorted(hardware)), missing


def runs_done(cfg: RealConfig) -> dict:
    """{row: {seed: its configuration and log}}, of what is trained; the log without what is the same in each line."""
    found = {}
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg):
        if is_done(folder, data_cfg, train_cfg):
            config = read_run_config(str(folder))
            model = Path(config["train"]["model"])  # it may lie on this machine
            config["data"]["data_path"] = None
            config["train"]["model"] = model.name if model.is_absolute() else model.as_posix()
            log = [{field: float(f"{value:.6g}") if isinstance(value, float) else value
                    for field, value in line.items() if not field.startswith("log_m")} for line in read_log(folder)]
            found.setdefault(name, {})[str(seed)] = {"config": config, "log": log}
    return found


def validations(runs: dict) -> dict:
    """{row: {seed: {step: [NDCG on --valid_lists validation lists, of what it says, and of what it knows]}}} of
    `runs_done`."""
    return {row: {seed: {str(line["step"]): [line["valid_ndcg"], line.get("valid_knows")]
                         for line in run["log"] if "valid_ndcg" in line}
                  for seed, run in seeds.items()} for row, seeds in runs.items()}


def printed_average(data):
    """A ranker that sorts by the average that stands in each candidate's line; without one: in the middle."""
    words = data.ratings.words
    middle = np.nanmean(words.averages)

    def score(ranking_list):
        seen = words.averages[words.folds[ranking_list.user], ranking_list.items]  # (m,)
        return np.where(np.isnan(seen), middle, seen.round(1))  # as it is printed
    return evaluate.score_ranker(score)


def score_all(cfg: RealConfig) -> None:
    check_input(not cfg.rows and cfg.seed is None, "the table is of all rows: score takes no --rows and no --seed")
    by_row, calls, steps, data, hardware, missing = rank_all(cfg)
    for row, seeds in steps.items():
        wanted = [str(seed) for seed in plan(cfg)[row].seeds]
        check_input([*seeds] == wanted[:len(seeds)],
                    f"{row}: seeds {', '.join(seeds)} are trained, of {', '.join(wanted)}: rows are paired seed by "
                    "seed, from the first on")
        missing += [f"{row}, seed {seed}" for seed in wanted[len(seeds):]]
    missing += [row for row in plan(cfg) if row not in steps]
    print(f"not in the table: {'; '.join(missing) or 'nothing'}")
    base = "ALRO" if "ALRO" in by_row else next(row for row in by_row if row != untrained_row(cfg))
    embedding, chosen = rivals.embedding_rankers(data.ratings.columns, data.splits, "test")
    without_model = embedding | rivals.told_the_category(data) | {"printed average": printed_average(data)}
    for name, ranker in without_model.items():
        by_row[name] = [evaluate.score_method(ranker, data.lists, ORDERS, shown=False)]
    # A row's seeds are paired one by one with another's; a row without seeds is the same beside each.
    arms = [row + way for row in SIZES[cfg.size].rows for way in ("", ", knows", *WAYS.get(row, []))]

    def pair(one: str, other: str) -> tuple:
        both = [len(by_row[row]) for row in (one, other) if row in arms and row in by_row]
        return (one, other, min(both)) if len(both) == 2 else (one, other)
    known = [row for row in by_row if row.endswith(", knows")]
    pairs = [pair(base, other) for other in [*by_row, "item mean"] if other != base]
    # Those that are not there are left out, by `table`.
    pairs += [pair(f"{row}, 4 times the steps", row) for row in ("SFT", "SFT+SLL")]
    pairs += [pair("SFT+SLL, 4 times the steps", "SFT, 4 times the steps")]
    pairs += [pair("SFT+SLL", "SFT"), pair("SFT+PSL", "SFT"), pair("SFT", "item mean"), pair("SFT, 3 orders", "SFT"),
              pair("ALRO, history alone", "SFT, history alone"), pair("SFT", "SFT, history alone")]
    pairs += [pair(row, other) for row in known for other in
              (row.removesuffix(", knows"), f"{RATINGS_ONLY}, knows", "printed average", "item mean") if row != other]
    chosen = {name: str(choice) for name, choice in chosen.items()}
    model = Path(model_of(cfg)).name
    about = {"dataset": cfg.dataset, "model": model, "orders": ORDERS, "chosen": chosen, "steps": steps}
    result = table(data, by_row, calls, pairs, **about)
    result["commit"] = cfg.commit or measure.commit_of(measure.ROOT)
    # Of the language model; the rivals are fitted where the table is written.
    result["hardware"], result["rivals_hardware"] = hardware, result["hardware"]
    pooled = {row: compare.over_seeds(seeds) for row, seeds in by_row.items()}
    result["groups"] = compare.by_group(pooled, data)
    runs = runs_done(cfg)
    result["validation"] = validations(runs)
    result["missing"] = missing
    del result["timing"]  # ranked beside other work, and point-wise in one order of two
    logs = {name: result[name] for name in ("dataset", "model", "hardware")} | {"runs": runs}
    write(cfg, "-runs", logs)
    write(cfg, "", result)
    top = evaluate.main_metric(data.list_size)
    rows = {row: {top: f"{method[top]['mean']:.3f}", "agreement": f"{method['agreement']['mean']:.3f}"}
            for row, method in result["methods"].items()}
    print(columns_of_text(rows, 12))


def write(cfg: RealConfig, ending: str, content: dict) -> None:
    file = Path(cfg.out or runs_of(cfg), f"{SIZES[cfg.size].file}{ending}.json")
    write_json(file, content)
    print(file)


def list_all(cfg: RealConfig) -> None:
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg):
        print("done" if is_done(folder, data_cfg, train_cfg) else "    ", name, seed)


# ---- Everything, some processes side by side -------------------------------------------------------------------------

def start_process(cfg: RealConfig, name: str, seed: int, folder: Path) -> subprocess.Popen:
    """One that trains this row and seed, then ranks with it; it prints to FOLDER.txt."""
    given = dataclasses.asdict(cfg) | {"rows": name, "seed": seed}
    flags = [text for flag, value in given.items() if value is not None for text in (f"--{flag}", str(value))]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".txt"), "a") as out:
        # In a session of its own: of Ctrl-C hears `each` alone, which ends it once; a second signal would lose steps.
        return subprocess.Popen([sys.executable, "-u", __file__, "one", *flags], stdout=out, stderr=out,
                                start_new_session=True)


def each(cfg: RealConfig) -> None:
    """--jobs at a time: on a GPU one process alone mostly waits for Python."""
    stopped = []
    before = {number: signal.signal(number, lambda number, _: stopped.append(number))
              for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        failed = side_by_side(cfg, [job[:3] for job in jobs(cfg)], stopped)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    check_input(not stopped, "stopped; go on with the same command")
    check_input(not failed, f"failed, see {runs_of(cfg)}/ROW/SEED.txt: {failed}")


def side_by_side(cfg: RealConfig, waiting: list[tuple], stopped: list) -> list[tuple]:
    """Run the jobs (row, seed, folder), --jobs at a time, until a signal lies in `stopped`. Returns: what failed."""
    running, failed = {}, []
    while running or (waiting and not stopped):
        while waiting and not stopped and len(running) < cfg.jobs:
            name, seed, folder = waiting.pop(0)
            running[name, seed] = start_process(cfg, name, seed, folder)
            print(f"{time.strftime('%H:%M:%S')} {name}, seed {seed}: begun, see {folder}.txt", flush=True)
        time.sleep(0.2)
        for (name, seed), process in [*running.items()]:
            if process.poll() is not None:
                del running[name, seed]
                ended = "failed" if process.returncode else "done"
                print(f"{time.strftime('%H:%M:%S')} {name}, seed {seed}: {ended}", flush=True)
                failed += [(name, seed)] if process.returncode else []
        if stopped:
            # Each finishes its step and keeps a checkpoint.
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
            running = {}
    return failed


def one(cfg: RealConfig) -> None:
    """What a process of `each` does: one row, one seed."""
    train_all(cfg)
    rank_all(cfg)


VERBS = {"each": each, "train": train_all, "rank": rank_all, "score": score_all, "list": list_all, "one": one}


def main(arguments: list[str] | None = None) -> None:
    cfg, verbs = parse_flags(arguments, RealConfig, positional="verb")
    check_input(len(verbs) == 1 and verbs[0] in VERBS, f"one of: {', '.join(VERBS)}")
    VERBS[verbs[0]](cfg)


if __name__ == "__main__":
    run_script(main)
