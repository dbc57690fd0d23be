"""How good is a ranking, and does it depend on the order in which the candidates were shown?

    python evaluate.py RUN...            score finished runs on their test lists, side by side, and write the tables
    python evaluate.py RUN --show 3      the same, and three lists in words
    python evaluate.py RUN --ask FILE    rank your own list: {"history": [["Heat (1995)", 4], ...], "candidates": [...]}

Every list is ranked in R random displayed orders, the same for every run and method, and in the one order a retriever
would show. Lists whose candidates all have one rating are left out: any order of them is right.
"""
import dataclasses
import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from alro import IDENTIFIERS, AlroError, clean_text, rank_candidates, rank_of
from cli import check_least, explained, from_dict, option, parse, read_config, read_json, require, run, write_json
from data import (DataConfig, Encoder, RankingList, Ratings, informative, list_prompt, load, random_slots, sha256,
                  split)
from figures import curves, draw
from model import autocast, context_length, hardware, load_model, load_tokenizer, pick_device

CUTOFFS = (1, 3, 5, 10)


# ---- Metrics: one value per list ------------------------------------------------------------------------------------

def dcg(gain: torch.Tensor, k: int) -> torch.Tensor:
    """Discounted cumulative gain (B,) of gains (B, m) in their order, cut at k."""
    discount = 1 / torch.log2(torch.arange(2, gain.shape[-1] + 2, dtype=gain.dtype))  # (m,)
    return (gain * discount)[..., :k].sum(-1)


def ndcg(ratings: torch.Tensor, order: torch.Tensor, k: int) -> torch.Tensor:
    """Normalised discounted cumulative gain at k: 1 for an ideal order.

    Args: ratings (B, m) >= 0; order (B, m) long, item indices, best first; k >= 1, above m means m.
    Returns: (B,) float64; 1 where the ideal DCG is 0 (all ratings 0: nothing to lose).
    Source: PAPER, gain 2^r - 1, discount 1 / log2(1 + rank).
    """
    gain = 2.0 ** ratings.double() - 1  # (B, m)
    ideal = dcg(gain.sort(-1, descending=True).values, k)
    return torch.where(ideal > 0, dcg(gain.gather(-1, order), k) / ideal.clamp(min=1e-300), 1.0)


def chance_ndcg(ratings: torch.Tensor, k: int) -> torch.Tensor:
    """Expected NDCG@k of a random order, exactly: every place holds the mean gain. (B,) float64."""
    gain = 2.0 ** ratings.double() - 1
    ideal = dcg(gain.sort(-1, descending=True).values, k)
    return torch.where(ideal > 0, dcg(gain.mean(-1, keepdim=True).expand_as(gain), k) / ideal.clamp(min=1e-300), 1.0)


def kendall_tau(order_a: torch.Tensor, order_b: torch.Tensor) -> torch.Tensor:
    """Kendall's tau (B,) between the *ranks* that two orders (B, m) give to the items: 1 the same, -1 reversed."""
    a, b = rank_of(order_a), rank_of(order_b)  # (B, m)
    agree = ((a.unsqueeze(-1) - a.unsqueeze(-2)) * (b.unsqueeze(-1) - b.unsqueeze(-2))).sign()  # (B, m, m)
    m = order_a.shape[-1]
    return agree.sum((-2, -1)).double() / (m * (m - 1))


def bootstrap(values: np.ndarray, seed: int = 0, draws: int = 1000) -> tuple[float, float, float]:
    """Mean of values (N,), one per user, and its 95 % interval: users drawn again with replacement."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    return (float(values.mean()), *map(float, np.percentile(means, [2.5, 97.5])))


def paired_bootstrap(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean of a - b over the same lists, and its 95 % interval."""
    return bootstrap(np.asarray(a) - np.asarray(b), seed)


# ---- Ranking many lists ---------------------------------------------------------------------------------------------

def model_ranker(model, encoder: Encoder, decode: str = "greedy", batch_size: int = 64):
    """A ranker, function (lists, slots) -> (N, m) predicted orders, that asks the language model."""
    def rank(lists, slots):
        was_training, device = model.training, next(model.parameters()).device
        model.eval()
        by_length = np.argsort([len(list_prompt(encoder, one, one.shown)) for one in lists], kind="stable")
        ranked = torch.empty(len(lists), len(lists[0].items), dtype=torch.long)
        for rows in np.array_split(by_length, -(-len(lists) // batch_size)):  # about equally long: little padding
            batch = encoder.batch([lists[i] for i in rows], [slots[i] for i in rows])
            try:
                with autocast(device), torch.compiler.set_stance("force_eager"):  # a cache has a new shape at each step
                    ranked[rows] = rank_candidates(model, batch.to(device), decode).cpu()
            except AlroError as error:  # it knows rows, not lists
                raise AlroError(f"{error}; these are the lists {[lists[i].list_id for i in rows]}") from None
        model.train(was_training)
        return ranked
    return rank


def score_ranker(score):
    """A ranker that sorts candidates by score(one) -> (m,), blind to the displayed order; ties by item index."""
    return lambda lists, slots: torch.tensor(np.array([np.argsort(-score(one), kind="stable") for one in lists]))


def item_mean(ratings: Ratings, rows: np.ndarray, damping: float = 5) -> np.ndarray:
    """(items,) mean rating of each item in the given rows, with `damping` more ratings of the overall mean."""
    item, rating = ratings.item[rows], ratings.rating[rows]
    total = np.bincount(item, rating, len(ratings.items)) + damping * rating.mean()
    return total / (np.bincount(item, minlength=len(ratings.items)) + damping)


def reference_rankers(ratings: Ratings, fit: np.ndarray) -> dict:
    """The rows every table has: item mean and, where the world is synthetic, the oracle."""
    mean = item_mean(ratings, fit)
    rankers = {"item mean": score_ranker(lambda one: mean[one.items])}
    if ratings.expected is not None:
        rankers["oracle"] = score_ranker(lambda one: ratings.expected[one.user][one.items])
    return rankers


def score_method(ranker, lists: list[RankingList], orders: int) -> dict:
    """Rank every list in `orders` random displayed orders and in the shown one; values per list (N,), but for
    mean_rank_by_slot (m,), slots and predicted (orders + 1 of each, the shown one last)."""
    m, ratings = len(lists[0].items), torch.tensor([one.ratings for one in lists])  # (N, m)
    slots = [[random_slots(m, "eval", one.list_id, r) for one in lists] for r in range(orders)]
    slots.append([one.shown for one in lists])
    start = time.perf_counter()
    predicted = [ranker(lists, some) for some in slots]  # orders + 1 times (N, m)
    seconds = time.perf_counter() - start
    random_orders, pairs = predicted[:orders], list(itertools.combinations(predicted[:orders], 2))
    values = {f"ndcg@{k}": sum(ndcg(ratings, order, k) for order in random_orders) / orders for k in CUTOFFS}
    values["ndcg@10_shown"] = ndcg(ratings, predicted[-1], 10)
    if pairs:  # one order alone says nothing about their agreement
        values["kendall_tau"] = sum(kendall_tau(a, b) for a, b in pairs) / len(pairs)
        values["top1_flip_rate"] = sum((a[:, 0] != b[:, 0]).double() for a, b in pairs) / len(pairs)
    by_slot = [rank_of(order).gather(1, torch.tensor(some)).double() for some, order in zip(slots, random_orders)]
    return {"values": {name: value.numpy() for name, value in values.items()},
            "mean_rank_by_slot": torch.cat(by_slot).mean(0).tolist(), "slots": slots, "predicted": predicted,
            "ms_per_list": 1000 * seconds / len(lists) / len(slots)}


def chance_method(lists: list[RankingList]) -> dict:
    """The chance row: exact expectations over all orders."""
    ratings = torch.tensor([one.ratings for one in lists])
    m = ratings.shape[1]
    values = {f"ndcg@{k}": chance_ndcg(ratings, k) for k in CUTOFFS}
    values |= {"ndcg@10_shown": values["ndcg@10"], "kendall_tau": torch.zeros(len(lists)),
               "top1_flip_rate": torch.full((len(lists),), 1 - 1 / m)}
    return {"values": {name: value.numpy() for name, value in values.items()}, "mean_rank_by_slot": [(m + 1) / 2] * m,
            "slots": [], "predicted": [], "ms_per_list": 0.0}


# ---- Tables and files -----------------------------------------------------------------------------------------------

def summary(methods: dict, ranked: list[RankingList], calls: dict[str, int], **about) -> dict:
    """What eval-SPLIT.json holds: per method and metric the mean and its 95 % interval over users."""
    def figures(name, method):
        means = {metric: bootstrap(value) for metric, value in method["values"].items()}
        return {metric: {"mean": mean, "ci95": [low, high]} for metric, (mean, low, high) in means.items()} | {
            "mean_rank_by_slot": method["mean_rank_by_slot"], "llm_calls_per_list": calls.get(name, 0),
            **({"by_seed": method["by_seed"]} if "by_seed" in method else {})}
    return {**about, "hardware": hardware(), "ranked_lists": len(ranked), "list_size": len(ranked[0].items),
            "data_sha256": sha256(ranked), "methods": {name: figures(name, method) for name, method in methods.items()},
            "timing": {name: {"ms_per_list": method["ms_per_list"]} for name, method in methods.items()}}


def text_table(result: dict) -> str:
    """The result as text: a row per method, chance first; the gap closed where an oracle is known, the spread over
    seeds (standard deviation) where rows hold several."""
    m, methods, top = result["list_size"], result["methods"], min(result["list_size"], 10)
    cutoffs = {min(k, m): k for k in reversed(CUTOFFS)}
    columns = [(f"NDCG@{k}", f"ndcg@{cutoffs[k]}") for k in sorted(cutoffs)]
    columns += [(f"@{top} shown", "ndcg@10_shown"), ("tau", "kendall_tau"), ("top-1 flips", "top1_flip_rate")]
    width, seeds = max(14, *map(len, methods)), any("by_seed" in method for method in methods.values())
    titles = [*(title for title, _ in columns), f"+-95% @{top}", *["sd of seeds"] * seeds, "calls", "ms/list",
              *["gap closed"] * ("oracle" in methods)]
    lines = [f"{result['ranked_lists']} {result['split']} lists of {m} in {result['orders']} random orders; "
             f"{result['dataset']}, {result['model']}, seed {result['seed']}, {result['hardware']}",
             " " * width + "".join(f"{title:>12}" for title in titles)]
    low = methods["chance"]["ndcg@10"]["mean"]
    for name, method in methods.items():
        at_m = method["ndcg@10"]
        cells = [f"{method[key]['mean']:.3f}" if key in method else "-" for _, key in columns]
        cells.append(f"{(at_m['ci95'][1] - at_m['ci95'][0]) / 2:.3f}")
        if seeds:
            cells.append(f"{np.std(method['by_seed']['ndcg@10'], ddof=1):.3f}" if "by_seed" in method else "-")
        cells += [f"{method['llm_calls_per_list']}", f"{result['timing'][name]['ms_per_list']:.1f}"]
        if "oracle" in methods:
            cells.append(f"{(at_m['mean'] - low) / (methods['oracle']['ndcg@10']['mean'] - low):.2f}")
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def differences(methods: dict, base: str) -> dict:
    """{"name - base": {metric: (mean, low, high)}} over the same lists, for every method but chance."""
    return {f"{name} - {base}": {
        metric: paired_bootstrap(method["values"][metric], methods[base]["values"][metric])
        for metric in ("ndcg@10", "ndcg@5", "ndcg@3", "kendall_tau") if metric in methods[base]["values"]}
        for name, method in methods.items() if name not in ("chance", base)}


def by_group(methods: dict, lists: list[RankingList], ratings: Ratings, fit: np.ndarray) -> dict:
    """{group: {"lists": n, method: mean NDCG@10}}: the half of the lists that should be harder, in three ways.

    A list is in a group if it is on the hard side of the median list; a group that is empty (all lists alike) is
    left out. fit: rows of Ratings that count for an item's popularity.
    """
    count = np.bincount(ratings.item[fit], minlength=len(ratings.items))
    hardness = {"short history": [-len(one.history) for one in lists],
                "many ties": [np.equal.outer(one.ratings, one.ratings).sum() for one in lists],
                "unpopular items": [-np.log1p(count[one.items]).mean() for one in lists]}
    groups = {"all lists": np.ones(len(lists), bool)}
    groups |= {name: value > np.median(value) for name, value in hardness.items()}
    return {group: {"lists": int(mask.sum()),
                    **{name: float(method["values"]["ndcg@10"][mask].mean()) for name, method in methods.items()}}
            for group, mask in groups.items() if mask.any()}


def comparison(methods: dict, base: str, lists: list[RankingList], ratings: Ratings, fit: np.ndarray) -> dict:
    """What a table cannot say, printed and returned: paired differences to one method, and groups of lists."""
    found = {"differences": differences(methods, base), "groups": by_group(methods, lists, ratings, fit)}
    print("\nPaired differences over the same lists, 95 % intervals")
    for pair, by_metric in found["differences"].items():
        print(f"{pair}: " + "; ".join(f"{metric} {mean:+.4f} [{low:+.4f}, {high:+.4f}]"
                                      for metric, (mean, low, high) in by_metric.items()))
    width = max(map(len, methods)) + 2
    print("\nNDCG@10 by group of lists\n" + " " * width + "".join(
        f"{group + ' (' + str(row['lists']) + ')':>24}" for group, row in found["groups"].items()))
    for name in methods:
        print(f"{name:<{width}}" + "".join(f"{row[name]:>24.3f}" for row in found["groups"].values()))
    return found


def over_seeds(methods: list[dict]) -> dict:
    """One method out of several that differ in their seed alone: for each list the mean over seeds. Intervals are then
    over users with these seeds held fixed: read them beside the standard deviation of the seeds ("by_seed")."""
    mean = {name: np.mean([method["values"][name] for method in methods], 0) for name in methods[0]["values"]}
    return {**methods[0], "values": mean, "ms_per_list": float(np.mean([method["ms_per_list"] for method in methods])),
            "mean_rank_by_slot": np.mean([method["mean_rank_by_slot"] for method in methods], 0).tolist(),
            **({"by_seed": {name: [float(method["values"][name].mean()) for method in methods] for name in mean}}
               if methods[1:] else {})}


def write_results(folder: Path, result: dict, methods: dict, lists: list[RankingList]) -> None:
    """Write eval-SPLIT.json and eval-SPLIT.lists.jsonl (a line per method and list: what pairs are compared by)."""
    name = f"eval-{result['split']}"
    with explained(f"{folder}/{name}.lists.jsonl: cannot be written"), open(folder / f"{name}.partial", "w") as file:
        for method, found in methods.items():
            for row, one in enumerate(lists):
                line = {"method": method, "id": one.list_id, "displayed": [slots[row] for slots in found["slots"]],
                        "predicted": [order[row].tolist() for order in found["predicted"]]}
                line |= {metric: float(value[row]) for metric, value in found["values"].items()}
                file.write(json.dumps(line) + "\n")
    os.replace(folder / f"{name}.partial", folder / f"{name}.lists.jsonl")
    write_json(folder / f"{name}.json", result)


def in_words(one: RankingList, order: list[int], titles: list[str], slots: list[int]) -> str:
    """One list for a person: the history, and the predicted order beside the true ratings."""
    lines = [f"list {one.list_id}; history: " + "; ".join(
        titles[item] + ("" if rating is None else f" {rating:g}") for item, rating in one.history),
             "predicted order      rating (best possible)  shown as"]
    best = sorted(one.ratings, reverse=True)
    lines += [f"{place:2d}. {titles[one.items[item]]:<28.28} {one.ratings[item]:g} ({best[place - 1]:g})"
              f"  {IDENTIFIERS[slots.index(item)]}" for place, item in enumerate(order, 1)]
    return "\n".join(lines)


# ---- Runs -----------------------------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class EvalConfig:
    split: str = option("test", "valid or test")
    orders: int = option(3, "random displayed orders of each list, 1 or more; agreement needs 2")
    decode: str = option("greedy", "greedy (m steps) or first (one step)")
    limit: int = option(0, "evaluate at most this many lists; 0 = all")
    batch_size: int = option(64, "lists at a time")
    show: int = option(0, "print this many lists in words")
    ask: str | None = option(None, "rank the list in this JSON file with the first run's model, and stop")
    pool: bool = option(False, "runs that differ in their seed alone become one row, the mean over seeds")
    json: str | None = option(None, "write the table into this file, too")
    figures: str | None = option(None, "print three curves; draw them in this folder where matplotlib is installed")

    def __post_init__(self):
        require(self.split in ("valid", "test"), f"--split must be valid or test, got {self.split!r}")
        require(self.decode in ("greedy", "first"), f"--decode must be greedy or first, got {self.decode!r}")
        check_least(self, orders=1, limit=0, batch_size=1, show=0)


def named_rows(configs: dict[str, dict], pool: bool) -> dict[str, list[str]]:
    """{row of a table: its runs}, from {run's folder: its configuration}: with pool, one row for runs that differ in
    their seed alone. The folder in which all the runs lie is left out of the names."""
    groups, above = {}, os.path.commonpath(map(os.path.abspath, configs)) if len(configs) > 1 else ""
    for folder, config in configs.items():
        key = json.dumps([config["data"], {**config["train"], "seed": 0, "out": ""}] if pool else folder)
        groups.setdefault(key, []).append(folder)
    rows = {(os.path.relpath(some[0], above) if above else some[0]) + f" +{len(some) - 1} seeds" * (len(some) > 1): some
            for some in groups.values()}
    taken = {"chance", "untrained", "item mean", "oracle"} & {*rows, *configs}
    require(not taken, f"a run's folder has the name of another row: {taken}; call it something else")
    return rows


def load_run(folder: str):
    """(model, tokenizer) of a run."""
    require(Path(folder, "model").is_dir(), f"{folder} has no model/ yet: python train.py --resume {folder}")
    model = load_model(str(Path(folder, "model")))
    return model.to(pick_device()), load_tokenizer(str(Path(folder, "model")))


def ask(folder: str, cfg: EvalConfig) -> str:
    """Rank one's own list with the first run's model; the ranking in words."""
    prompt, question = read_config(folder)["prompt"], read_json(Path(cfg.ask))
    history, candidates = question.get("history"), question.get("candidates")
    require(question.keys() == {"history", "candidates"} and isinstance(history, list) and isinstance(candidates, list)
            and all(isinstance(row, list) and [*map(type, row)] in ([str, int], [str, float]) for row in history)
            and all(isinstance(title, str) for title in candidates),
            f'{cfg.ask}: expected {{"history": [["title", rating], ...], "candidates": ["title", ...]}} and no more')
    with explained(f"{folder}/config.json: prompt: scale must be two numbers"):
        low, high = map(float, prompt["scale"])
    for title, rating in history:
        require(low <= rating <= high, f"{cfg.ask}: {title!r} has rating {rating}; the model knows {low:g}..{high:g}")
    require(2 <= len(candidates) <= len(IDENTIFIERS),
            f"{cfg.ask}: {len(candidates)} candidates; 2..{len(IDENTIFIERS)} are possible")
    titles = [clean_text(title) for title in [t for t, _ in history] + candidates]
    m, n = len(candidates), len(history)
    one = RankingList("ask", 0, [(i, r) for i, (_, r) in enumerate(history)], list(range(n, n + m)), [0.0] * m,
                      list(range(m)))
    model, tokenizer = load_run(folder)
    encoder = Encoder(tokenizer, titles, prompt["noun"], (low, high), m, context_length(model, tokenizer))
    order = model_ranker(model, encoder, cfg.decode)([one], [one.shown])[0].tolist()
    text = "\n".join(f"{place:2d}. {titles[n + item]}" for place, item in enumerate(order, 1))
    if tokenizer.unk_token_id in encoder.tokenise([one], [one.shown])[0][1]:
        text += "\nnote: this model's tokenizer does not know every word of these titles"
    if encoder.shortened:
        text += "\nnote: the oldest ratings of the history did not fit into the model's context"
    return text


def main(arguments: list[str] | None = None) -> dict[str, dict]:
    cfg, runs = parse(arguments, EvalConfig, positional="runs")
    require(len(runs) > 0, "name at least one run's folder")
    if cfg.ask is not None:
        print(ask(runs[0], cfg))
        return {}
    prepared = {}
    for folder in runs:  # all data first: lists that differ are refused before anything is computed
        config = read_config(folder)
        data_cfg = from_dict(DataConfig, config["data"], f"{folder}/config.json")
        ratings = load(data_cfg)
        splits = split(ratings, data_cfg)
        lists = informative(getattr(splits, cfg.split), cfg.split)
        prepared[folder] = config, ratings, splits, len(lists), lists[:cfg.limit or None]
    hashes = {folder: sha256(lists) for folder, (*_, lists) in prepared.items()}
    require(len(set(hashes.values())) == 1, f"the runs' {cfg.split} lists differ, so they cannot be compared: {hashes}")
    runs_of = named_rows({folder: config for folder, (config, *_) in prepared.items()}, cfg.pool)
    results, scored = {}, {}
    for folder, (config, ratings, splits, informative_lists, lists) in prepared.items():
        model, tokenizer = load_run(folder)
        encoder = Encoder(tokenizer, ratings.titles, ratings.noun, ratings.scale, len(lists[0].items),
                          context_length(model, tokenizer))
        ranker = model_ranker(model, encoder, cfg.decode, cfg.batch_size)
        rankers = {folder: ranker, **reference_rankers(ratings, splits.fit[cfg.split])}
        methods = {"chance": chance_method(lists)}
        methods |= {name: score_method(one, lists, cfg.orders) for name, one in rankers.items()}
        about = dict(dataset=config["data"]["dataset"], split=cfg.split, decode=cfg.decode, orders=cfg.orders,
                     lists=len(getattr(splits, cfg.split)), informative_lists=informative_lists)
        results[folder] = summary(methods, lists, {folder: 1}, **about, model=config["train"]["model"],
                                  seed=config["train"]["seed"])
        write_results(Path(folder), results[folder], methods, lists)
        scored[folder] = methods
        if encoder.shortened:
            print(f"{len(encoder.shortened)} lists lost their oldest history: the prompt did not fit the context")
        for row, one in enumerate(lists[:cfg.show]):
            found = methods[folder]
            print(in_words(one, found["predicted"][0][row].tolist(), ratings.titles, found["slots"][0][row]), "\n")
    pooled = {name: over_seeds([scored[run][run] for run in some]) for name, some in runs_of.items()}
    shared = {name: method for name, method in methods.items() if name not in results}  # chance, item mean, oracle
    every = {"chance": shared.pop("chance"), **pooled, **shared}
    table = summary(every, lists, dict.fromkeys(runs_of, 1), **about,
                    model=", ".join({result["model"]: 0 for result in results.values()}),
                    seed=", ".join({str(result["seed"]): 0 for result in results.values()}))
    print(text_table(table))
    table |= comparison(every, next(iter(runs_of)), lists, ratings, splits.fit[cfg.split])
    if cfg.json:
        write_json(Path(cfg.json), table)
    if cfg.figures:
        draw(Path(cfg.figures), curves(table, runs_of))
    return {**results, "table": table}


if __name__ == "__main__":
    run(main)
