"""Several runs side by side: one table, paired differences, and groups of lists.

    python -m experiments.compare RUN OTHER_RUN...           on the same test lists, in the same orders
    python -m experiments.compare RUN... --pool True         runs that differ in their seed alone are one row

Of each run what it says and, where candidates' ratings were targets, what it knows.
"""
import collections
import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from data import DataConfig, load, split
from evaluate import (
    EvaluationData, chance_method, choose_lists, data_of_run, fit_to_model,
    main_metric, paired_bootstrap, rankers_of_run, reference_rankers, score_method, summary)
from plumbing.flags import (
    check_choice, check_input, check_minimum, option, parse_flags, run_script, write_json)
from plumbing.folder import about_runs, check_writable, read_run_config
from plumbing.tables import columns_of_text, text_table

NEW_ITEM_RATINGS = 5  # an item with so few ratings in the fit set, or fewer, counts as new
ARMS = {(False, False): "SFT", (True, False): "SFT+SLL", (False, True): "SFT+PSL",
        (True, True): "ALRO"}  # by alpha > 0, beta > 0
# Settings that are named in other words, or change nothing that is learned.
UNNAMED = {"seed", "display_order", "data_path", "download", "test_lists", "grad_accum",
           "gradient_checkpointing", "compile"}


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    split: str = option("test", "valid or test")
    orders: int = option(3, "random displayed orders of each list, 1 or more; agreement needs 2")
    limit: int | None = option(None, "rank at most this many lists; None = all")
    batch_size: int = option(64, "lists at a time")
    pool: bool = option(
        False, "runs that differ in their seed alone become one row, the mean over seeds")
    json: str | None = option(None, "write the table into this file, too")

    def __post_init__(self):
        check_choice(self, split=["valid", "test"])
        check_minimum(self, orders=1, limit=1, batch_size=1)


# ---- Rows ----------------------------------------------------------------------------------------

def objective(config: dict) -> str:
    """What a run was trained with, and on which displayed orders: "SFT+SLL, shown"."""
    cfg = config["train"]
    name = config["losses"].split(":")[-1]
    if config["losses"] == "train:losses":
        name = ARMS[cfg["alpha"] > 0, cfg["beta"] > 0]
    return f"{name}, {cfg['display_order']}"


def other_settings(config: dict) -> dict[str, str]:
    """{name: value} of the settings that may tell two runs of one objective apart."""
    settings = {**config["data"], **config["train"]}
    if config["losses"] == "train:losses":  # "SFT" says that both weights are 0
        settings = {name: value for name, value in settings.items()
                    if name not in ("alpha", "beta") or value > 0}
    return {name: f"{name} {value}" for name, value in settings.items() if name not in UNNAMED}


def names_of(configs: dict[str, dict]) -> dict[str, str]:
    """{run's folder: what a table calls it}: its objective and the other settings in which these
    runs differ; seed and folder only where names would else be the same."""
    settings = {folder: other_settings(config) for folder, config in configs.items()}
    values = collections.defaultdict(set)  # of each setting
    for of_run in settings.values():
        for name, value in of_run.items():
            values[name].add(value)
    names = {}
    for folder, of_run in settings.items():
        differing = [value for name, value in of_run.items() if len(values[name]) > 1]
        names[folder] = ", ".join([objective(configs[folder]), *differing])
    seeds = {folder: f"seed {config['train']['seed']}" for folder, config in configs.items()}
    folders = {folder: f"in {folder}" for folder in configs}
    for words in seeds, folders:
        count = collections.Counter(names.values())
        names = {folder: f"{name}, {words[folder]}" if count[name] > 1 else name
                 for folder, name in names.items()}
    return names


def named_rows(configs: dict[str, dict], pool: bool) -> dict[str, list[str]]:
    """{row of a table: its runs}, from {run's folder: its configuration}.

    With pool, runs that differ in their seed alone are one row.
    """
    places = [os.path.realpath(folder) for folder in configs]
    check_input(len({*places}) == len(places), f"a run is named twice: {', '.join(configs)}")
    groups = {}  # what the runs of one row have in common -> their folders
    for folder, config in configs.items():
        key = folder
        if pool:
            without_seed = {**config["train"], "seed": 0}
            key = json.dumps([config["data"], without_seed, config["losses"]])
        groups.setdefault(key, []).append(folder)
    names = names_of({folders[0]: configs[folders[0]] for folders in groups.values()})
    rows = {}  # in the order in which they were given
    for folders in groups.values():
        seeds = {configs[folder]["train"]["seed"] for folder in folders}
        check_input(len(seeds) == len(folders), "--pool averages over seeds, but these runs share "
                    f"one: {', '.join(folders)}; name one run of each seed")
        name = names[folders[0]]
        if len(folders) > 1:
            name += f", {len(folders)} seeds"
        rows[name] = folders
    return rows


def load_evaluation(data_cfg: DataConfig, name: str, limit: int | None = None) -> EvaluationData:
    """Load a dataset, split it, and choose the lists to rank."""
    ratings = load(data_cfg)
    return choose_lists(ratings, split(ratings, data_cfg), name, limit)


def data_of_runs(configs: dict[str, dict], name: str, limit: int | None) -> EvaluationData:
    """The lists that all runs share. Raises: AlroError if they differ, or have changed since."""
    loaded = {}  # an ablation's runs have their data in common
    for folder, config in configs.items():
        key = json.dumps([config["data"], config["data_sha256"]])
        if key not in loaded:
            loaded[key] = data_of_run(folder, name, limit)
    hashes = {data.sha256 for data in loaded.values()}
    check_input(len(hashes) == 1,
                f"the runs' {name} lists differ, so they cannot be compared: {', '.join(configs)}")
    return next(iter(loaded.values()))


def over_seeds(methods: list[dict]) -> dict:
    """Pool methods that differ in their seed alone: per list the mean over seeds.

    Intervals are then over users with these seeds held fixed: read them beside the standard
    deviation of the seeds ("by_seed": each seed's means).
    """
    if len(methods) == 1:
        return methods[0]
    mean, by_seed = {}, {}
    for metric in methods[0]["values"]:
        # List by list, so that the mean over seeds can still be paired with other methods.
        values = [method["values"][metric] for method in methods]  # seeds times (N,)
        mean[metric] = np.mean(values, 0)
        by_seed[metric] = [float(of_seed.mean()) for of_seed in values]
    pooled = {**methods[0], "values": mean, "by_seed": by_seed}
    for name in ("mean_rank_by_slot", "ms_per_list"):
        pooled[name] = np.mean([method[name] for method in methods], 0).tolist()
    return pooled


def score_rows(rows: dict[str, list], data: EvaluationData, orders: int) -> dict:
    """{row: its method}; a row's rankers differ in their seed alone."""
    return {row: over_seeds([score_method(ranker, data.lists, orders) for ranker in rankers])
            for row, rankers in rows.items()}


# ---- What a table cannot say ---------------------------------------------------------------------

def differences(methods: dict, base: str) -> dict:
    """{"name - base": {metric: (mean, low, high)}} over the same lists, for all but chance."""
    base_values = methods[base]["values"]
    left_out = ("ndcg@1", "top1_flip_rate")  # they say less than the others, with more noise
    metrics = [metric for metric in base_values
               if metric not in left_out and not metric.endswith("_shown")]
    pairs = {}
    for name, method in methods.items():
        if name not in ("chance", base):
            pairs[f"{name} - {base}"] = {
                metric: paired_bootstrap(method["values"][metric], base_values[metric])
                for metric in metrics}
    return pairs


def groups_of(data: EvaluationData) -> dict[str, np.ndarray]:
    """{group: (N,) bool}: lists that should be harder than others.

    By three measures, the half on the hard side of the median list; then the lists that hold a new
    item, and those that hold none. A group that is empty is left out.
    """
    lists, columns = data.lists, data.ratings.columns
    n_ratings = np.bincount(columns.item[data.fit], minlength=len(columns.items))  # (items,)
    popularity = np.log1p(n_ratings)  # from 1 to 10 ratings is as far as from 10 to 100
    hardness = {"short history": [-len(row.history) for row in lists]}
    hardness["many ties"] = [np.equal.outer(row.ratings, row.ratings).sum() for row in lists]
    hardness["unpopular items"] = [-popularity[row.items].mean() for row in lists]
    groups = {"all lists": np.ones(len(lists), bool)}
    groups |= {name: values > np.median(values) for name, values in hardness.items()}
    # In the synthetic world a new item is one that nobody has rated; real ones have a few ratings.
    most, name = 0, "new items"
    if columns.expected is None:
        most, name = NEW_ITEM_RATINGS, f"new items (<= {NEW_ITEM_RATINGS} ratings)"
    has_new = np.array([n_ratings[row.items].min() <= most for row in lists])
    if has_new.any():
        groups |= {name: has_new, "no new items": ~has_new}
    return {name: members for name, members in groups.items() if members.any()}


def by_group(methods: dict, data: EvaluationData) -> dict:
    """{group: {"lists": n, method: mean NDCG}}, see `groups_of`."""
    metric = main_metric(data.list_size)
    means = {}
    for group, members in groups_of(data).items():
        means[group] = {"lists": int(members.sum())}
        for name, method in methods.items():
            means[group][name] = float(method["values"][metric][members].mean())
    return means


def trainings(method: dict) -> int:
    """How many trained models a row of a table is the mean of; 0: it asks none."""
    by_seed = method.get("by_seed", {"": [None]})
    return len(next(iter(by_seed.values()))) if method["llm_calls_per_list"] else 0


def print_comparison(table: dict, base: str) -> None:
    """What a table cannot say: paired differences, and groups of lists."""
    print("\nPaired differences over the same lists. The 95 % intervals are over users, with these "
          "trainings held fixed:\nwith other seeds a difference may lie outside; what a loss does, "
          "several seeds tell (--pool)")
    methods = table["methods"]
    for pair, by_metric in table["differences"].items():
        counts = [trainings(methods[name]) for name in (pair.removesuffix(f" - {base}"), base)]
        counts = [count for count in counts if count > 0]  # the item mean, say, has none
        counted = f"trainings: {' and '.join(map(str, counts))}"
        if {*counts} == {1}:
            counted = "one training each" if len(counts) == 2 else "one training"
        texts = [f"{metric} {mean:+.4f} [{low:+.4f}, {high:+.4f}]"
                 for metric, (mean, low, high) in by_metric.items()]
        print(f"{pair} ({counted}): {'; '.join(texts)}")
    groups = table["groups"]
    rows = {name: {f"{group} ({row['lists']})": f"{row[name]:.3f}" for group, row in groups.items()}
            for name in table["methods"]}
    width = max(24, *(len(title) + 2 for title in rows[base]))
    print(f"\n{main_metric(table['list_size']).upper()} by group of lists")
    print(columns_of_text(rows, width))


# ---- python -m experiments.compare ---------------------------------------------------------------

def compare(configs: dict[str, dict], rows: dict[str, list[str]], cfg: CompareConfig) -> dict:
    """The table of all runs, printed and returned, with "differences" and "groups".

    Args: configs: {run's folder: its configuration}; rows: of `named_rows`.
    """
    data = data_of_runs(configs, cfg.split, cfg.limit)
    words, m = data.ratings.words, data.list_size

    scored = {}  # (run's folder, what it says or knows) -> its method
    for folder in configs:
        rankers = rankers_of_run(folder, words, m, batch_size=cfg.batch_size)
        lists = fit_to_model(data, rankers["trained"].encoder).lists
        for way, ranker in rankers.items():
            scored[folder, way] = score_method(ranker, lists, cfg.orders)
    methods = {"chance": chance_method(data.lists)}
    for row, folders in rows.items():
        methods[row] = over_seeds([scored[folder, "trained"] for folder in folders])
        if (folders[0], "knows") in scored:
            methods[f"{row}, knows"] = over_seeds([scored[folder, "knows"] for folder in folders])
    calls = dict.fromkeys(list(methods)[1:], 1)
    references = {name: [ranker] for name, ranker in reference_rankers(data).items()}
    methods |= score_rows(references, data, cfg.orders)

    about = about_runs([*configs.values()])
    table = summary(methods, data, calls, orders=cfg.orders, decode="greedy", **about)
    base = next(iter(rows))
    table |= {"differences": differences(methods, base), "groups": by_group(methods, data)}
    if cfg.json:
        write_json(Path(cfg.json), table)
    for row, folders in rows.items():
        print(f"{row}: {' '.join(folders)}")
    print(f"\n{text_table(table)}")
    print_comparison(table, base)
    return table


def main(arguments: list[str] | None = None) -> dict:
    cfg, runs = parse_flags(arguments, CompareConfig, positional="runs")
    check_input(len(runs) > 0, "name at least one run's folder")
    # All that can be refused is refused before anything is computed.
    configs = {folder: read_run_config(folder) for folder in runs}
    rows = named_rows(configs, cfg.pool)
    if cfg.json:
        check_writable(Path(cfg.json).parent)
    return compare(configs, rows, cfg)


if __name__ == "__main__":
    run_script(main)
