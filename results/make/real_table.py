"""The real table: a pretrained model on MovieLens-100K, every arm, beside every rival. By hand.

    python results/make/real_table.py each --size gpu --jobs 4 --compile True --data_path DATA --model MODEL
        train and rank with every row and seed, --jobs at a time; stopped, it goes on. Nine runs; four of them (--seed 1
        --rows "SFT;ALRO;SFT+SLL;SFT+PSL") took seven minutes on an H100. About 9 GiB of tensors a job.
    python results/make/real_table.py score --size gpu --data_path DATA --model MODEL
        fit the rivals (a minute of CPU), print the table, write it to --out
    python results/make/real_table.py sweep ...
        rank validation lists with the rows of SWEEP, which `each` trains if --rows names them; write what was found
        to --out
    python results/make/real_table.py list ...
        what there is to train, and what is done

--size cpu: less of everything, many hours of two cores, half of them to rank (--limit 300: a third of these).
`train` and `rank` do one half of `each`, in one process; `one` is what each of its processes does. A run lies in
runs/real-SIZE/<row>/<seed>, what it printed in <seed>.txt beside it; how well it ranks is kept in its folder, so that
ranking goes on after an interruption, and `score` needs no weights. Two processes may train or rank side by side, each
with --rows of its own. `each` gives every row a process of its own: one that has trained a row keeps memory that it no
longer uses.
"""
import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

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
    size: str = option("cpu", "cpu or gpu: how much to train")
    limit: int | None = option(None, "test lists to rank; None = all")
    rows: str = option("", "train or rank these alone, separated by ;, as `list` names them (default: all but the "
                           "sweep's)")
    seed: int | None = option(None, "train or rank this seed alone (default: all)")
    jobs: int = option(1, "each: processes side by side")
    compile: bool = option(False, "as train.py's")
    out: str | None = option(None, "score, sweep: folder for the table (default: runs/real-SIZE; the pages are made "
                                   "from results)")

    def __post_init__(self):
        check_minimum(self, jobs=1, limit=1)
        check_input(self.seed is None or self.seed >= 0, f"--seed must be at least 0, got {self.seed}")
        check_input(self.size in SIZES, f"--size must be one of {', '.join(SIZES)}, got {self.size!r}")


FIELDS = {"fields": "title,category,average"}
# Until SmolLM2 ranks better than chance it has seen a thousand lists or more (results/README.md): half an hour of two
# cores. That is paid once: every arm goes on from one model that does rank better, the *start*, trained with SFT+SLL.
# An arm has other seeds than the start, so that it draws other batches.
CPU_START = {"steps": 372, "batch_size": 8, "grad_accum": 1, "lr": 2e-4, "beta": 0.0,
             "valid_lists": 60, "valid_every": 93}
CPU = {"steps": 80, "batch_size": 8, "grad_accum": 2, "lr": 1e-4, "valid_lists": 60, "valid_every": 40}
# Each arm's first seed was validated at steps 40 and 80 and was better at 40, in all four arms. What was trained later
# (a second seed, title alone) has 40 steps alone. (The rate of those in real.json did not fall: they were step for step
# the first 40 of 80. It falls now: when it does is no setting any more.)
CPU_LATER = {"steps": 40}
# The preset small-gpu, validated less often, for an epoch of 14,117 lists, 32 a step.
GPU = {"steps": 442, "valid_every": 148}


class Size(NamedTuple):
    """How much to train."""
    start: dict | None  # training of the model that every arm goes on from; None: of the pretrained one
    train: dict         # training of an arm
    without_psl: dict   # what is other for an arm without PSL, whose lists have one prompt, not two
    later: dict         # what is other for what was trained later: seeds from 2 on, title alone, the sweep
    data: dict
    seeds: int          # of SFT and ALRO; the other rows have one
    file: str           # the table's name


SIZES = {
    "cpu": Size(CPU_START, CPU, {}, CPU_LATER, {"history_size": 10, "stride": 15}, 2, "real"),
    # 16 prompts at a time either way.
    "gpu": Size(None, GPU, {"grad_accum": 2}, {}, {}, 3, "real-gpu")}
START_SEED = 0
SFT = {"alpha": 0.0, "beta": 0.0}
ARMS = {"SFT": SFT, "ALRO": {}, "SFT+SLL": {"beta": 0.0}, "SFT+PSL": {"alpha": 0.0}}
# One setting changed, looked at on validation lists alone (the log has them): {row: (training, data, losses)}.
SWEEP = {"ALRO, beta .3": ({"beta": 0.3}, {}, train.losses),
         "ALRO, target detached": ({}, {}, objectives.detached_target_losses),
         "ALRO, title and category": ({}, {"fields": "title,category"}, train.losses)}


def plan(cfg: RealConfig) -> dict[str, Row]:
    """{row: what to train}, a start before what goes on from it. Beta is 1, and its gradient reaches PSL's target: a
    guess, which SWEEP looks at."""
    size = SIZES[cfg.size]
    files = {"dataset": cfg.dataset, "data_path": cfg.data_path, **size.data}
    title_alone = {**files, "fields": "title"}
    given = {"model": cfg.model, "beta": 1.0, "compile": cfg.compile, "test_lists": 0, **size.train}
    rows = {}

    def start(name: str, data: dict) -> dict:
        """The row of a start, if there is to be one. Returns: what an arm that goes on from it is given."""
        if not size.start:
            return given
        training = {"model": cfg.model, "compile": cfg.compile, "test_lists": 0, **size.start}
        rows[name] = Row([START_SEED], training, data)
        return {**given, "model": str(folder_of(cfg, name, START_SEED) / "model")}

    with_fields = {**files, **FIELDS}
    started = start("start", with_fields)
    for arm, weights in ARMS.items():
        seeds = range(1, 1 + size.seeds) if arm in ("SFT", "ALRO") else [1]
        parts = size.without_psl if weights.get("beta") == 0 else {}
        rows[arm] = Row(seeds, {**started, **weights, **parts}, with_fields)
    for name, (weights, data, losses) in SWEEP.items():
        if not (data and size.start):  # other prompts would need a start of their own
            rows[name] = Row([1], {**started, **weights, **size.later}, {**with_fields, **data}, losses)
    started = start("start, title alone", title_alone)
    rows["ALRO, title alone"] = Row([1], {**started, **size.later}, title_alone)
    return rows


def runs_of(cfg: RealConfig) -> Path:
    return Path("runs", f"real-{cfg.size}")


def folder_of(cfg: RealConfig, row: str, seed: int) -> Path:
    return runs_of(cfg) / file_name(row) / str(seed)


def configurations(row: Row, seed: int, later: dict) -> tuple[DataConfig, train.TrainConfig]:
    preset = {**train.PRESETS["small-gpu"], "seed": seed, **row.data, **row.train, **(later if seed > 1 else {})}
    names = [{field.name for field in dataclasses.fields(config)} for config in (DataConfig, train.TrainConfig)]
    data, training = ({name: value for name, value in preset.items() if name in known} for known in names)
    return DataConfig(**data), train.TrainConfig(**training)


def jobs(cfg: RealConfig, with_sweep: bool = False) -> list[tuple]:
    """(row, seed, folder, configurations) of --rows: the starts, then the first seed of every row; the sweep last, and
    only if it is named or asked for."""
    rows = plan(cfg)
    chosen = cfg.rows.split(";") if cfg.rows else [row for row in rows if with_sweep or row not in SWEEP]
    unknown = set(chosen) - set(rows)
    check_input(not unknown, f"--rows: no row {', '.join(sorted(unknown))}; there are {'; '.join(rows)}")
    later = SIZES[cfg.size].later
    found = [(name, seed, folder_of(cfg, name, seed), *configurations(row, seed, later))
             for name, row in rows.items() if name in chosen for seed in row.seeds if cfg.seed in (None, seed)]
    check_input(len(found) > 0, f"no such row has --seed {cfg.seed}")
    return sorted(found, key=lambda job: (job[0] in SWEEP, job[1]))


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
    check_input(cfg.size == "cpu" or torch.cuda.is_available(), f"--size {cfg.size}: no CUDA GPU found")
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg):
        if is_done(folder, data_cfg, train_cfg):
            continue
        print(f"==== {name}, seed {seed}: {folder}", flush=True)
        resume = str(folder) if (folder / "config.json").exists() else None
        train.train(data_cfg, train_cfg, train.RunConfig(out=str(folder), resume=resume), losses=plan(cfg)[name].losses)


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


def rank_zero_shot(cfg: RealConfig, folder: Path, data) -> dict:
    """With the untrained model, that of the run in this folder; where it is not here, from a ranking that was kept."""
    kept = kept_at(cfg, runs_of(cfg), "zero-shot")
    weights = cfg.model
    if Path(cfg.model).is_dir():
        weights = sha256_of_weights(Path(cfg.model))
    else:  # a model of the hub, or of another machine
        there = scored(None, data, ORDERS, kept, None, shown=False)
        if there:
            return there

    def untrained(lists, slots):  # built only where nothing is kept
        ranker = rivals.untrained_ranker(str(folder), data)
        return ranker(evaluate.fit_to_model(data, ranker.encoder).lists, slots)
    stamp = f"{weights}, prompts {data_hashes(data.ratings.words, data.splits)['prompt']}"
    return scored(untrained, data, ORDERS, kept, stamp, shown=False)


def rank_ways(cfg: RealConfig, folder: Path, row: str, ways: list[str], data) -> dict:
    """{way: evaluate.score_method}, of this run; from what is kept where its weights are not here."""
    if not (folder / "model").exists():
        kept = {way: scored(None, data, ORDERS, kept_at(cfg, folder, row + way), None, shown=False) for way in ways}
        check_input(kept[""] is not None, f"{folder}: trained, but neither its weights are here nor a ranking of these "
                                          f"lists in {kept_at(cfg, folder, row)}")
        return {way: method for way, method in kept.items() if method}
    weights = sha256_of_weights(folder / "model")
    rankers = rivals.ways_to_rank(str(folder), data)
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
        if name in SWEEP or not is_done(folder, data_cfg, train_cfg):
            continue
        if data_cfg not in worlds:
            worlds[data_cfg] = compare.load_evaluation(data_cfg, "test", cfg.limit)
        data = worlds[data_cfg]
        check_data_of_run(str(folder), data_hashes(data.ratings.words, data.splits))
        # Once, with a row that began with the pretrained model, on the prompts that say all.
        if name == ("start" if SIZES[cfg.size].start else "SFT") and seed <= 1:
            by_row["zero-shot"], calls["zero-shot"] = [rank_zero_shot(cfg, folder, data)], 1
        more = WAYS.get(name, []) if seed == 1 else []
        for way, method in rank_ways(cfg, folder, name, ["", *more], data).items():
            by_row.setdefault(name + way, []).append(method)
            calls[name + way] = calls_of(way, data.list_size)
        missing += [f"{name}{way}" for way in more if name + way not in by_row]
        steps.setdefault(name, {})[str(seed)] = train_cfg.steps
        hardware.add(read_run_config(str(folder))["hardware"])
    check_input(len(by_row) > 0, f"nothing is trained in {runs_of(cfg)}: `train` first")
    return by_row, calls, steps, next(iter(worlds.values())), ", ".join(sorted(hardware)), missing


def runs_done(cfg: RealConfig) -> dict:
    """{row: {seed: its configuration and log}}, of what is trained; the log without what is the same in each line."""
    found = {}
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg, with_sweep=True):
        if is_done(folder, data_cfg, train_cfg):
            config = read_run_config(str(folder))
            model = Path(config["train"]["model"])  # of this machine, or the start of an arm
            config["data"]["data_path"] = None
            config["train"]["model"] = model.name if model.is_absolute() else model.as_posix()
            log = [{field: float(f"{value:.6g}") if isinstance(value, float) else value
                    for field, value in line.items() if not field.startswith("log_m")} for line in read_log(folder)]
            found.setdefault(name, {})[str(seed)] = {"config": config, "log": log}
    return found


def validations(runs: dict) -> dict:
    """{row: {seed: {step: NDCG on --valid_lists validation lists}}} of `runs_done`."""
    return {row: {seed: {str(line["step"]): line["valid_ndcg"] for line in run["log"] if "valid_ndcg" in line}
                  for seed, run in seeds.items()} for row, seeds in runs.items()}


def score_all(cfg: RealConfig) -> None:
    check_input(not cfg.rows and cfg.seed is None, "the table is of all rows: score takes no --rows and no --seed")
    by_row, calls, steps, data, hardware, missing = rank_all(cfg)
    for row, seeds in steps.items():
        wanted = [str(seed) for seed in plan(cfg)[row].seeds]
        check_input([*seeds] == wanted[:len(seeds)],
                    f"{row}: seeds {', '.join(seeds)} are trained, of {', '.join(wanted)}: rows are paired seed by "
                    "seed, from the first on")
        missing += [f"{row}, seed {seed}" for seed in wanted[len(seeds):]]
    missing += [row for row in plan(cfg) if row not in steps and row not in SWEEP]
    print(f"not in the table: {'; '.join(missing) or 'nothing'}")
    base = "ALRO" if "ALRO" in by_row else next(row for row in by_row if row != "zero-shot")
    embedding, chosen = rivals.embedding_rankers(data.ratings.columns, data.splits, "test")
    for name, ranker in (embedding | rivals.told_the_category(data)).items():
        by_row[name] = [evaluate.score_method(ranker, data.lists, ORDERS, shown=False)]
    # An arm's seeds 1, 2 .. are paired one by one with another arm's; any other row is the same beside each.
    arms = [row for row in by_row if row.split(", ")[0] in ARMS]

    def pair(one: str, other: str) -> tuple:
        both = [len(by_row[row]) for row in (one, other) if row in arms]
        return (one, other, min(both)) if len(both) == 2 else (one, other)
    pairs = [pair(base, other) for other in [*by_row, "item mean"] if other != base]
    # Those that are not there are left out, by `table`.
    pairs += [pair("SFT+SLL", "SFT"), pair("SFT+PSL", "SFT"), pair("SFT", "start"), pair("SFT", "item mean"),
              pair("SFT, 3 orders", "SFT"), pair("ALRO, title alone", "start, title alone")]
    chosen = {name: str(choice) for name, choice in chosen.items()}
    about = {"dataset": cfg.dataset, "model": Path(cfg.model).name, "orders": ORDERS, "chosen": chosen, "steps": steps}
    result = table(data, by_row, calls, pairs, **about)
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


SWEEP_LISTS, SWEEP_ORDERS = 300, 1


def sweep(cfg: RealConfig) -> None:
    """ALRO's first seed with one setting changed, on validation lists; beta 0 is SFT+SLL."""
    rows = {}
    about = {"dataset": cfg.dataset, "model": Path(cfg.model).name, "lists": f"validation, first {SWEEP_LISTS}"}
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg, with_sweep=True):
        if seed == 1 and name in ("ALRO", "SFT+SLL", *SWEEP) and is_done(folder, data_cfg, train_cfg):
            data = compare.load_evaluation(data_cfg, "valid", SWEEP_LISTS)
            ranker = evaluate.rankers_of_run(str(folder), data.ratings.words, data.list_size)["trained"]
            fitting = evaluate.fit_to_model(data, ranker.encoder)
            rows[name] = scored(ranker, fitting, SWEEP_ORDERS, folder / f"valid-{SWEEP_LISTS}.json",
                                sha256_of_weights(folder / "model"), shown=False)["values"]
            about["hardware"] = read_run_config(str(folder))["hardware"]
    check_input("ALRO" in rows, f"ALRO's seed 1 is not trained in {runs_of(cfg)}: `each --rows ALRO --seed 1` first")
    metric = evaluate.main_metric(data.list_size)
    result = {**about, "metric": metric, "data_sha256": data.sha256, "orders": SWEEP_ORDERS,
              "chance": float(evaluate.chance_method(data.lists)["values"][metric].mean()), "rows": {}}
    for name, values in rows.items():
        mean, low, high = evaluate.paired_bootstrap(values[metric], rows["ALRO"][metric])
        result["rows"][name] = {"mean": float(values[metric].mean()), "minus ALRO": [mean, low, high]}
    write(cfg, "-sweep", result)


def list_all(cfg: RealConfig) -> None:
    for name, seed, folder, data_cfg, train_cfg in jobs(cfg, with_sweep=True):
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
    """The starts, then all else, --jobs at a time: on a GPU one process alone mostly waits for Python."""
    stopped, failed = [], []
    before = {number: signal.signal(number, lambda number, _: stopped.append(number))
              for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for is_start in (True, False):
            waiting = [job[:3] for job in jobs(cfg) if (job[1] == START_SEED) == is_start]
            failed += side_by_side(cfg, waiting, stopped)
            if stopped or failed:
                break
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
    if cfg.rows not in SWEEP:  # which has its validations
        rank_all(cfg)


VERBS = {"each": each, "train": train_all, "rank": rank_all, "score": score_all, "sweep": sweep, "list": list_all,
         "one": one}


def main(arguments: list[str] | None = None) -> None:
    cfg, verbs = parse_flags(arguments, RealConfig, positional="verb")
    check_input(len(verbs) == 1 and verbs[0] in VERBS, f"one of: {', '.join(VERBS)}")
    VERBS[verbs[0]](cfg)


if __name__ == "__main__":
    run_script(main)
