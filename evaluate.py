"""How good is a ranking, and does it depend on the order in which the candidates were shown?

    python evaluate.py RUN...            score finished runs on their test lists, side by side
    python evaluate.py RUN --show 3      the same, and three lists in words
    python evaluate.py RUN --ask FILE    rank your own list:
                                         {"history": [["Heat (1995)", 4], ...], "candidates": [...]}

Every list is ranked in R random displayed orders, the same for every run and method, and in the
one order a retriever would show. Lists whose candidates all have one rating are left out: any
order of them is right. *Agreement* is Kendall's tau between the rankings of one list displayed in
two orders; the letter tau is the gold rank's alone.

Below, `lists` are N RankingLists, `slots` N displayed orders of them, and a *ranker* is a callable
(lists, slots) -> (N, m) long, item indices, best first.
"""
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from alro import DECODINGS, IDENTIFIERS, AlroError, clean_text, rank_candidates, rank_of
from data import (DataConfig, Encoder, PromptWords, RankingList, Ratings, Splits, informative,
                  item_mean, list_prompt, load, make_encoder, random_slots, sha256,
                  sha256_of_words, warn)
from data import split as split_by_time
from figures import curves, draw, most_levels, output_by_slot
from model import (autocast, build_model, choose_bf16, hardware, load_run, pick_device,
                   use_one_thread)
from runs import (check_input, check_minimum, config_from_dict, one_line_error,
                  option, parse_flags, progress, read_json, read_run_config, run_script,
                  write_json)

CUTOFFS = (1, 3, 5, 10)
NEW_ITEM_RATINGS = 5  # an item with so few ratings in the fit set, or fewer, counts as new
OWN_ROWS = {"chance", "untrained", "trained", "knows", "item mean", "retriever", "oracle"}  # no run may be called so


# ---- Metrics: one value per list ----------------------------------------------------------------

def cutoffs(m: int) -> list[int]:
    """Where NDCG is cut for lists of m: at 1, 3, 5 and 10, or at m in place of what is above it."""
    return sorted({min(k, m) for k in CUTOFFS})


def main_metric(m: int) -> str:
    """The metric that sees most of a list of m, named by its cut-off: "ndcg@6"."""
    return f"ndcg@{cutoffs(m)[-1]}"


def dcg(gain: torch.Tensor, k: int) -> torch.Tensor:
    """Discounted cumulative gain (B,) of gains (B, m) in their order, cut at k."""
    rank = torch.arange(1, gain.shape[-1] + 1, dtype=gain.dtype)  # (m,)
    discount = 1 / torch.log2(1 + rank)  # (m,)
    return (gain * discount)[..., :k].sum(-1)


def share_of_ideal(gain_by_rank, gain, k):
    """DCG (B,) of gains (B, m) as ranked, over that of the best order of the same gains."""
    ideal = dcg(gain.sort(-1, descending=True).values, k)  # (B,)
    # Where all ratings are 0 there is nothing to lose. Clamped: 0/0 would be NaN.
    return torch.where(ideal > 0, dcg(gain_by_rank, k) / ideal.clamp(min=1e-300), 1.0)


def ndcg(ratings: torch.Tensor, order: torch.Tensor, k: int) -> torch.Tensor:
    """Normalised discounted cumulative gain at k: 1 for an ideal order.

    Args: ratings (B, m) >= 0; order (B, m) long, item indices, best first; k >= 1, above m means m.
    Returns: (B,) float64; 1 where the ideal DCG is 0.
    Source: PAPER, gain 2^r - 1, discount 1 / log2(1 + rank).
    """
    gain = 2.0 ** ratings.double() - 1  # (B, m)
    return share_of_ideal(gain.gather(-1, order), gain, k)


def chance_ndcg(ratings: torch.Tensor, k: int) -> torch.Tensor:
    """Expected NDCG@k of a random order, exactly: every rank holds the mean gain. (B,) float64."""
    gain = 2.0 ** ratings.double() - 1  # (B, m)
    mean_gain = gain.mean(-1, keepdim=True)  # (B, 1)
    return share_of_ideal(mean_gain.expand_as(gain), gain, k)


def rank_signs(order):
    """(B, m, m) sign of rank_i - rank_j: -1 where an order (B, m) puts item i before item j."""
    rank = rank_of(order)  # (B, m)
    return (rank.unsqueeze(-1) - rank.unsqueeze(-2)).sign()


def kendall_tau(order_a: torch.Tensor, order_b: torch.Tensor) -> torch.Tensor:
    """Kendall's tau (B,) between the *ranks* that two orders (B, m) give to the items.

    1: the same; 0: no more alike than random orders; -1: reversed.
    """
    m = order_a.shape[-1]
    agree = rank_signs(order_a) * rank_signs(order_b)  # (B, m, m) 1 where a pair stands alike
    # Each pair stands there twice, as i, j and as j, i; the diagonal is 0.
    return agree.sum((-2, -1)).double() / (m * (m - 1))


def bootstrap(values: np.ndarray, seed: int = 0, draws: int = 1000):
    """(mean, low, high) of values (N,), one per user: the 95 % interval, drawing users anew."""
    rng = np.random.default_rng(seed)
    n = len(values)
    # A user has one list in a split: to draw lists with replacement is to draw users.
    means = [values[rng.integers(0, n, n)].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def paired_bootstrap(a: np.ndarray, b: np.ndarray, seed: int = 0):
    """(mean, low, high) of a - b over the same lists."""
    return bootstrap(np.asarray(a) - np.asarray(b), seed)


# ---- Which lists --------------------------------------------------------------------------------

class EvaluationData(NamedTuple):
    """The lists that are ranked, and the data they come from."""
    ratings: Ratings
    splits: Splits
    split: str                # valid or test
    informative: int          # how many lists of that split have two different ratings
    lists: list[RankingList]  # the first of them: what is ranked

    @property
    def fit(self) -> np.ndarray:
        """Rows of Ratings that lie before these lists: what item mean and the rivals may see."""
        return self.splits.fit[self.split]

    @property
    def list_size(self) -> int:
        return len(self.lists[0].items)


def choose_lists(ratings: Ratings, splits: Splits, split: str, limit: int) -> EvaluationData:
    """The first `limit` informative lists of a split; 0 = all."""
    lists = informative(getattr(splits, split), split)
    return EvaluationData(ratings, splits, split, len(lists), lists[:limit or None])


def load_evaluation(data_cfg: DataConfig, split: str, limit: int) -> EvaluationData:
    """Load a dataset, split it, and choose the lists to rank."""
    ratings = load(data_cfg)
    return choose_lists(ratings, split_by_time(ratings, data_cfg), split, limit)


def ratings_of(lists) -> torch.Tensor:
    """(N, m) ratings by item."""
    return torch.tensor([ranking_list.ratings for ranking_list in lists])


# ---- Rankers ------------------------------------------------------------------------------------

class ModelRanker:
    """A ranker that asks the language model; `shortened`: ids of all lists that lost history."""

    def __init__(self, model, encoder, decode="greedy", batch_size=64, bf16=False):
        self.model = model
        self.encoder = encoder
        self.decode = decode
        self.batch_size = batch_size
        self.bf16 = bf16
        self.shortened = set()

    def __call__(self, lists, slots) -> torch.Tensor:
        # Training validates between two steps: dropout is off here, and afterwards as it was.
        was_training = self.model.training
        self.model.eval()
        # Lists about equally long go through the model together: little padding.
        lengths = [len(list_prompt(self.encoder.words, *displayed))
                   for displayed in zip(lists, slots)]
        by_length = np.argsort(lengths, kind="stable")
        n_batches = math.ceil(len(lists) / self.batch_size)
        predicted = torch.empty(len(lists), len(slots[0]), dtype=torch.long)  # (N, m)
        for rows in progress(np.array_split(by_length, n_batches), "ranking"):
            lists_of_batch = [lists[n] for n in rows]
            slots_of_batch = [slots[n] for n in rows]
            predicted[rows] = self.rank_batch(lists_of_batch, slots_of_batch)
        self.model.train(was_training)
        return predicted

    def rank_batch(self, lists, slots) -> torch.Tensor:
        # A prompt too long for the model loses its oldest history; which lists did is remembered.
        batch, shortened = self.encoder.batch(lists, slots)
        self.shortened.update(shortened)
        device = next(self.model.parameters()).device
        # The cache has a new shape at each step: to compile for each would take longer than to run.
        with autocast(device, self.bf16), torch.compiler.set_stance("force_eager"):
            try:
                return rank_candidates(self.model, batch.to(device), self.decode).cpu()  # (B, m)
            except AlroError as error:  # it knows rows, not lists
                ids = [ranking_list.list_id for ranking_list in lists]
                raise AlroError(f"{error}; these are the lists {ids}") from None


def score_ranker(score):
    """A ranker that sorts by score(ranking_list) -> (m,), indifferent to the displayed order."""
    def rank(lists, slots):
        scores = np.array([score(ranking_list) for ranking_list in lists])  # (N, m)
        # Stable: ties go by item index, which is random.
        return torch.tensor(np.argsort(-scores, kind="stable"))
    return rank


def reference_rankers(data: EvaluationData) -> dict:
    """The rows every table has: item mean; in the synthetic world retriever and oracle, too."""
    mean = item_mean(data.ratings, data.fit)  # (items,)
    expected = data.ratings.expected  # (users, items)
    rankers = {"item mean": score_ranker(lambda ranking_list: mean[ranking_list.items])}
    if expected is not None:
        # The shown order itself. It is made from the ratings that are scored, plus noise, so it
        # knows what no prompt can tell.
        rankers["retriever"] = lambda lists, _slots: torch.tensor([row.shown for row in lists])
        # It knows the user's taste, which is the ratings without their noise: from a prompt nobody
        # can rank better.
        rankers["oracle"] = score_ranker(
            lambda ranking_list: expected[ranking_list.user][ranking_list.items])
    return rankers


# ---- Scoring: the one recipe of a table ---------------------------------------------------------

def mean_of(values):
    """The mean of several tensors of one shape."""
    values = list(values)
    return sum(values) / len(values)


def score_method(ranker, lists, orders: int, shown: bool = True) -> dict:
    """Rank every list in `orders` random displayed orders and, if `shown`, in the shown one.

    Returns: "values": {metric: (N,)}, one per list; "mean_rank_by_slot" (m,); "slots" and
        "predicted", as many as there are orders, the shown one last; "ms_per_list".
    """
    m = len(lists[0].items)
    ratings = ratings_of(lists)  # (N, m)

    # Stage 1: the displayed orders. They depend on the list alone, not on a run or its seed:
    # every method sees the same ones, so that differences can be paired.
    slots = [[random_slots(m, "eval", ranking_list.list_id, r) for ranking_list in lists]
             for r in range(orders)]
    if shown:
        slots.append([ranking_list.shown for ranking_list in lists])

    # Stage 2: rank
    start = time.perf_counter()
    predicted = [ranker(lists, displayed) for displayed in slots]  # (N, m) for each order
    seconds = time.perf_counter() - start
    random_orders = predicted[:orders]

    # Stage 3: how good, on average over the random orders, and in the shown one
    values = {f"ndcg@{k}": mean_of(ndcg(ratings, order, k) for order in random_orders)
              for k in cutoffs(m)}
    if shown:
        values[f"{main_metric(m)}_shown"] = ndcg(ratings, predicted[-1], max(CUTOFFS))

    # Stage 4: how much alike the rankings of one list are in two orders
    if orders > 1:
        pairs = list(itertools.combinations(random_orders, 2))
        flips = [a[:, 0] != b[:, 0] for a, b in pairs]  # another item on top
        values["agreement"] = mean_of(kendall_tau(*pair) for pair in pairs)
        values["top1_flip_rate"] = mean_of(flip.double() for flip in flips)

    # Stage 5: the rank of what is displayed in each slot
    ranks = rank_of(torch.cat(random_orders)).double()  # (orders * N, m) by item
    displayed = torch.tensor(slots[:orders]).flatten(0, 1)  # (orders * N, m) slot -> item
    by_slot = ranks.gather(1, displayed)

    method = {"slots": slots, "predicted": predicted}
    method["values"] = {metric: value.numpy() for metric, value in values.items()}
    method["mean_rank_by_slot"] = by_slot.mean(0).tolist()
    method["ms_per_list"] = 1000 * seconds / len(lists) / len(slots)
    return method


def chance_method(lists) -> dict:
    """The chance row: exact expectations over all orders."""
    ratings = ratings_of(lists)  # (N, m)
    n, m = ratings.shape
    values = {f"ndcg@{k}": chance_ndcg(ratings, k).numpy() for k in cutoffs(m)}
    values[f"{main_metric(m)}_shown"] = values[main_metric(m)]
    values["agreement"] = np.zeros(n)
    values["top1_flip_rate"] = np.full(n, 1 - 1 / m)
    mean_rank_by_slot = [(m + 1) / 2] * m
    return {"slots": [], "predicted": [], "values": values, "ms_per_list": 0.0,
            "mean_rank_by_slot": mean_rank_by_slot}


def over_seeds(methods: list[dict]) -> dict:
    """One method out of several that differ in their seed alone: per list the mean over seeds.

    Intervals are then over users with these seeds held fixed: read them beside the standard
    deviation of the seeds ("by_seed": each seed's means).
    """
    if len(methods) == 1:
        return methods[0]
    mean = {}
    by_seed = {}
    for metric in methods[0]["values"]:
        # List by list, so that the mean over seeds can still be paired with other methods.
        values = [method["values"][metric] for method in methods]  # seeds times (N,)
        mean[metric] = np.mean(values, 0)
        by_seed[metric] = [float(of_seed.mean()) for of_seed in values]
    pooled = {**methods[0], "values": mean, "by_seed": by_seed}
    for name in ("mean_rank_by_slot", "ms_per_list"):
        pooled[name] = np.mean([method[name] for method in methods], 0).tolist()
    return pooled


def summary(methods: dict, data: EvaluationData, calls: dict, **about) -> dict:
    """What eval-SPLIT.json holds: per method and metric the mean and its 95 % interval over users.

    calls: {method: prompts that the language model reads for one list}. about: dataset, model,
    seed, decode, orders.
    """
    rows = {}
    for name, method in methods.items():
        row = rows[name] = {}
        for metric, values in method["values"].items():
            mean, low, high = bootstrap(values)
            row[metric] = {"mean": mean, "ci95": [low, high]}
        row["mean_rank_by_slot"] = method["mean_rank_by_slot"]
        row["llm_calls_per_list"] = calls.get(name, 0)
        if "by_seed" in method:
            row["by_seed"] = method["by_seed"]
    result = {**about, "split": data.split, "hardware": hardware(), "list_size": data.list_size}
    result["lists"] = len(getattr(data.splits, data.split))
    result["informative_lists"] = data.informative
    result["ranked_lists"] = len(data.lists)
    result["data_sha256"] = sha256(data.lists)
    result["methods"] = rows
    result["timing"] = {name: {"ms_per_list": method["ms_per_list"]}
                        for name, method in methods.items()}
    return result


def score_table(rankers: dict, data: EvaluationData, orders: int, calls: dict, **about):
    """Score every ranker on the same lists in the same displayed orders, the chance row first.

    rankers: {row: ranker, or a list of rankers that differ in their seed alone}.
    Returns: (result, methods), see `summary` and `score_method`.
    """
    methods = {"chance": chance_method(data.lists)}
    # The values of single lists come first, what a table shows of them is made of these.
    for name, ranker in rankers.items():
        seeds = ranker if isinstance(ranker, list) else [ranker]
        methods[name] = over_seeds([score_method(seed, data.lists, orders) for seed in seeds])
    return summary(methods, data, calls, orders=orders, **about), methods


# ---- Tables in text -----------------------------------------------------------------------------

def columns_of_text(rows: dict, width: int) -> str:
    """{row: {title: cell}} as text: the titles, then a line per row, every column `width` wide."""
    margin = max(14, *map(len, rows))
    titles = list(next(iter(rows.values())))
    lines = [" " * margin + "".join(f"{title:>{width}}" for title in titles)]
    for name, cells in rows.items():
        lines.append(f"{name:<{margin}}" + "".join(f"{cells[title]:>{width}}" for title in titles))
    return "\n".join(lines)


def gap_closed(result: dict, name: str) -> float:
    """How much of the way from chance (0) to the oracle (1) a method goes, in NDCG."""
    metric = main_metric(result["list_size"])
    mean = {row: method[metric]["mean"] for row, method in result["methods"].items()}
    return (mean[name] - mean["chance"]) / (mean["oracle"] - mean["chance"])


def text_table(result: dict) -> str:
    """The result as text: a row per method, chance first.

    Where an oracle is known, the gap closed; where a row holds several seeds, their spread
    (standard deviation).
    """
    m = result["list_size"]
    methods = result["methods"]
    top = main_metric(m)
    k = cutoffs(m)[-1]
    columns = {f"NDCG@{cutoff}": f"ndcg@{cutoff}" for cutoff in cutoffs(m)}
    columns[f"@{k} shown"] = f"{top}_shown"
    columns |= {"agreement": "agreement", "top-1 flips": "top1_flip_rate"}
    several_seeds = any("by_seed" in method for method in methods.values())
    rows = {}  # {method: {title of a column: cell}}
    for name, method in methods.items():
        row = rows[name] = {}
        for title, metric in columns.items():
            row[title] = f"{method[metric]['mean']:.3f}" if metric in method else "-"
        # Half of the interval is what one reads as "plus or minus".
        low, high = method[top]["ci95"]
        row[f"+-95% @{k}"] = f"{(high - low) / 2:.3f}"
        if several_seeds:
            row["sd of seeds"] = "-"
        if "by_seed" in method:
            row["sd of seeds"] = f"{np.std(method['by_seed'][top], ddof=1):.3f}"
        row["calls"] = str(method["llm_calls_per_list"])
        row["ms/list"] = f"{result['timing'][name]['ms_per_list']:.1f}"
        if "oracle" in methods:
            row["gap closed"] = f"{gap_closed(result, name):.2f}"
    return (f"{result['ranked_lists']} {result['split']} lists of {m} in {result['orders']} random "
            f"orders; {result['dataset']}, {result['model']}, seed {result['seed']}, "
            f"{result['hardware']}\n{columns_of_text(rows, 12)}")


def in_plain_words(result: dict, row: str = "trained") -> str:
    """What a table shows of one method, for a person; the words are chosen by the numbers.

    Has it learned to rank? Does the displayed order sway it? Does it beat the item mean?
    """
    methods = result["methods"]
    metric = main_metric(result["list_size"])
    mean = {name: method[metric]["mean"] for name, method in methods.items()}
    low, high = methods[row][metric]["ci95"]
    scores = f"{metric.upper()} {mean[row]:.3f}, chance {mean['chance']:.3f}"

    # Has it learned to rank? Chance inside the interval reads as "no better".
    if low > mean["chance"]:
        learned = f"In random orders it ranks better than chance ({scores})"
        if "oracle" in methods:
            learned += f" and closes {gap_closed(result, row):.0%} of the gap to the best possible"
    elif high < mean["chance"]:
        learned = f"In random orders it ranks worse than chance ({scores}): something is wrong"
    else:
        learned = (f"In random orders it ranks no better than chance ({scores}): it has not "
                   "learned whom to please")
    sentences = [learned]

    # Does the displayed order sway it? One that copies the display does best in the shown order.
    if "agreement" in methods[row]:
        agreement = methods[row]["agreement"]["mean"]
        shown = methods[row][f"{metric}_shown"]["mean"]
        if agreement >= 0.75:
            swayed = "Displayed in another order, a list is ranked much the same"
        elif agreement >= 0.3:
            swayed = "Displayed in another order, a list is in part ranked otherwise"
        else:
            swayed = "The ranking goes by the order in which the candidates are displayed"
        if agreement < 0.75 and shown > high:
            swayed += f", and in the order that a retriever shows this earns {shown:.3f}"
        sentences.append(f"{swayed} (agreement {agreement:.2f})")

    # Does it say what it knows?
    if "knows" in methods and row == "trained":
        known_low, known_high = methods["knows"][metric]["ci95"]
        if known_low > mean[row]:
            said = "It knows more than it says"
        elif known_high < mean[row]:
            said = "It says more than can be read off"
        else:
            said = "It says what it knows"
        said += ("; sorted by the rating that it expects at the end of each candidate's line, the "
                 f"same displays are ranked at {mean['knows']:.3f}")
        if "oracle" in methods:
            said += f", {gap_closed(result, 'knows'):.0%} of the gap"
        if "agreement" in methods["knows"]:
            said += f" (agreement {methods['knows']['agreement']['mean']:.2f})"
        sentences.append(said)

    # Does it know anything of the user?
    compared = "about as good as"
    if low > mean["item mean"]:
        compared = "better than"
    elif high < mean["item mean"]:
        compared = "worse than"
    sentences.append(f"It is {compared} the item mean ({mean['item mean']:.3f}), which knows every "
                     "item but no user")
    return ". ".join(sentences) + "."


def differences(methods: dict, base: str) -> dict:
    """{"name - base": {metric: (mean, low, high)}} over the same lists, for all but chance."""
    base_values = methods[base]["values"]
    left_out = ("ndcg@1", "top1_flip_rate")  # they say less than the others, with more noise
    metrics = [metric for metric in base_values
               if metric not in left_out and not metric.endswith("_shown")]
    pairs = {}
    for name, method in methods.items():
        if name not in ("chance", base):
            by_metric = pairs[f"{name} - {base}"] = {}
            for metric in metrics:
                by_metric[metric] = paired_bootstrap(method["values"][metric], base_values[metric])
    return pairs


def by_group(methods: dict, data: EvaluationData) -> dict:
    """{group: {"lists": n, method: mean NDCG}}: lists that should be harder than others.

    By three measures, the half on the hard side of the median list; then the lists that hold a new
    item, and those that hold none. A group that is empty is left out.
    """
    lists = data.lists
    fitted_items = data.ratings.item[data.fit]
    n_ratings = np.bincount(fitted_items, minlength=len(data.ratings.items))  # (items,)
    popularity = np.log1p(n_ratings)  # from 1 to 10 ratings is as far as from 10 to 100
    groups = {"all lists": np.ones(len(lists), bool)}

    def add_harder_half(group, hardness):
        groups[group] = hardness > np.median(hardness)
    add_harder_half("short history", [-len(row.history) for row in lists])
    add_harder_half("many ties", [np.equal.outer(row.ratings, row.ratings).sum() for row in lists])
    add_harder_half("unpopular items", [-popularity[row.items].mean() for row in lists])
    # In the synthetic world a new item is one that nobody has rated; real ones have a few ratings.
    most = 0
    new_items = "new items"
    if data.ratings.expected is None:
        most = NEW_ITEM_RATINGS
        new_items += f" (<= {most} ratings)"
    has_new = np.array([n_ratings[row.items].min() <= most for row in lists])
    if has_new.any():
        groups[new_items] = has_new
        groups["no new items"] = ~has_new

    metric = main_metric(data.list_size)
    means = {}
    for group, members in groups.items():
        if members.any():
            means[group] = {"lists": int(members.sum())}
            for name, method in methods.items():
                means[group][name] = float(method["values"][metric][members].mean())
    return means


def comparison(methods: dict, base: str, data: EvaluationData) -> dict:
    """What a table cannot say, printed and returned: paired differences, and groups of lists."""
    pairs = differences(methods, base)
    groups = by_group(methods, data)
    print("\nPaired differences over the same lists, 95 % intervals")
    for pair, by_metric in pairs.items():
        texts = [f"{metric} {mean:+.4f} [{low:+.4f}, {high:+.4f}]"
                 for metric, (mean, low, high) in by_metric.items()]
        print(f"{pair}: {'; '.join(texts)}")
    rows = {}
    for name in methods:
        rows[name] = {f"{group} ({row['lists']})": f"{row[name]:.3f}"
                      for group, row in groups.items()}
    width = max(24, *(len(title) + 2 for title in rows[base]))
    print(f"\n{main_metric(data.list_size).upper()} by group of lists")
    print(columns_of_text(rows, width))
    return {"differences": pairs, "groups": groups}


def in_words(data: EvaluationData, method: dict, row: int) -> str:
    """List `row` for a person: the history, and the predicted order beside the true ratings.

    method: of `score_method`; the list is taken in its first random displayed order.
    """
    ranking_list = data.lists[row]
    titles = data.ratings.titles
    order = method["predicted"][0][row].tolist()
    slots = method["slots"][0][row]
    # First what the model said; in brackets, what each rank could have held at best.
    history = [titles[item] if rating is None else f"{titles[item]} {rating:g}"
               for item, rating in ranking_list.history]
    lines = [f"list {ranking_list.list_id}; history: {'; '.join(history)}",
             "predicted order      rating (best possible)  shown as"]
    best = sorted(ranking_list.ratings, reverse=True)
    for rank, item in enumerate(order, 1):
        title = titles[ranking_list.items[item]]
        rating = ranking_list.ratings[item]
        letter = IDENTIFIERS[slots.index(item)]
        lines.append(f"{rank:2d}. {title:<28.28} {rating:g} ({best[rank - 1]:g})  {letter}")
    return "\n".join(lines)


def result_path(folder: Path, result: dict) -> Path:
    """eval-SPLIT.json; another decoding than the usual one has a file of its own."""
    decode = result["decode"]
    suffix = "" if decode == "greedy" else f"-{decode}"
    return folder / f"eval-{result['split']}{suffix}.json"


def is_fuller(there: dict, result: dict) -> bool:
    """Whether the result that is there is of more lists, or of as many in more orders or methods.

    One of other weights is not, however full: it is out of date.
    """
    if there.get("model_sha256") != result.get("model_sha256"):
        return False
    old_size = (there["ranked_lists"], there["orders"])
    size = (result["ranked_lists"], result["orders"])
    more_methods = there["methods"].keys() > result["methods"].keys()
    return old_size > size or (old_size == size and more_methods)


def write_results(folder: Path, result: dict, methods: dict, lists) -> None:
    """Write eval-SPLIT.json and eval-SPLIT.lists.jsonl; a fuller result that is there stays."""
    path = result_path(folder, result)
    try:
        with one_line_error(f"{path}: no result"):
            there = read_json(path)
            stays = is_fuller(there, result)
    except AlroError:  # none is there, or a damaged one
        stays = False
    if stays:
        warn(f"{path} stays, of {there['ranked_lists']} lists in {there['orders']} orders: this "
             f"result, of {len(lists)} in {result['orders']}, is not kept")
        return
    lists_path = path.with_suffix(".lists.jsonl")
    partial = path.with_suffix(".partial")
    # The lines come first: where there is a table, there are the lines that it sums up.
    with one_line_error(f"{lists_path}: cannot be written"):
        write_lines(partial, methods, lists)
        os.replace(partial, lists_path)
    write_json(path, result)


def write_lines(path: Path, methods: dict, lists) -> None:
    """A line of JSON for each method and list: what pairs are compared by."""
    with open(path, "w") as stream:
        for name, method in methods.items():
            for row, ranking_list in enumerate(lists):
                line = {"method": name, "id": ranking_list.list_id}
                line["displayed"] = [slots[row] for slots in method["slots"]]
                line["predicted"] = [order[row].tolist() for order in method["predicted"]]
                for metric, values in method["values"].items():
                    line[metric] = float(values[row])
                stream.write(json.dumps(line) + "\n")


def check_writable(folder: Path) -> None:
    """Make a folder; raise AlroError, before any work is done, if no file can be written there."""
    with one_line_error(f"{folder}: cannot be written to"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


# ---- One's own list -----------------------------------------------------------------------------

def is_rated_title(row) -> bool:
    """Whether row is ["title", rating]."""
    types = [*map(type, row)] if isinstance(row, list) else []
    return types in ([str, int], [str, float])


def read_question(path: Path, low: float, high: float):
    """(history, candidates) of a question, checked against what the model can read."""
    question = read_json(path)
    history = question.get("history")
    candidates = question.get("candidates")
    good = isinstance(history, list) and all(map(is_rated_title, history))
    good &= isinstance(candidates, list) and all(isinstance(title, str) for title in candidates)
    check_input(good and len(question) == 2,
                f'{path}: expected {{"history": [["title", rating], ...], '
                '"candidates": ["title", ...]} and no more')
    for title, rating in history:
        check_input(low <= rating <= high,
                    f"{path}: {title!r} has rating {rating}; the model knows {low:g}..{high:g}")
    check_input(2 <= len(candidates) <= len(IDENTIFIERS),
                f"{path}: {len(candidates)} candidates; 2..{len(IDENTIFIERS)} are possible")
    return history, candidates


def make_ranker(model, tokenizer, config, words, m, decode="greedy", batch_size=64) -> ModelRanker:
    """A ranker for lists of m that computes as in training; config: what config.json says of it."""
    device = next(model.parameters()).device
    use_one_thread(device, config["model"])
    bf16, _reason = choose_bf16(config.get("bf16"), device, config["model"])
    return ModelRanker(model, make_encoder(model, tokenizer, words, m), decode, batch_size, bf16)


def ranker_of_run(folder: str, words: PromptWords, m: int, *options) -> ModelRanker:
    """A run's model as a ranker; options: see `make_ranker`."""
    model, tokenizer = load_run(folder)
    return make_ranker(model, tokenizer, read_run_config(folder)["train"], words, m, *options)


def ask(folder: str, cfg: "EvalConfig") -> str:
    """Rank one's own list with a run's model, by the run's own rules; the ranking in words."""
    config = read_run_config(folder)
    prompt = config["prompt"]
    with one_line_error(f"{folder}/config.json: prompt: scale must be two numbers, levels some"):
        low, high = map(float, prompt["scale"])
        levels = list(map(float, prompt["levels"]))
    trained = config_from_dict(DataConfig, config["data"], f"{folder}/config.json")
    history, candidates = read_question(Path(cfg.ask), low, high)
    n = len(history)
    m = len(candidates)

    # What the model was trained on goes for a question, too; where it differs, a note says so.
    notes = []
    if not trained.history_ratings:
        notes.append("this model was trained without the history's ratings: yours were not shown")
        history = [(title, None) for title, _ in history]
    if m != trained.list_size:
        notes.append(f"this model was trained on lists of {trained.list_size}, not of {m}")
    if trained.fields != "title":
        notes.append(f"this model was trained on {trained.fields}: yours are titles alone")

    # The history's titles are items 0..n-1, the candidates n..n+m-1.
    titles = [clean_text(title) for title, _ in history]
    titles += map(clean_text, candidates)
    rated = [(item, rating) for item, (_, rating) in enumerate(history)]
    items = list(range(n, n + m))
    shown = list(range(m))
    question = RankingList("ask", 0, rated, items, [0.0] * m, shown)
    words = PromptWords(titles, prompt["noun"], (low, high), levels)
    ranker = ranker_of_run(folder, words, m, cfg.decode)
    order = ranker([question], [shown])[0].tolist()
    tokens = ranker.encoder.tokenise([question], [shown])[0].tokens
    if ranker.encoder.tokenizer.unk_token_id in tokens:
        notes.append("this model's tokenizer does not know every word of these titles")
    if ranker.shortened:
        notes.append("the oldest ratings of the history did not fit the model's context")
    lines = [f"{rank:2d}. {titles[n + item]}" for rank, item in enumerate(order, 1)]
    lines += [f"note: {note}" for note in notes]
    return "\n".join(lines)


# ---- Runs ---------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class EvalConfig:
    split: str = option("test", "valid or test")
    orders: int = option(3, "random displayed orders of each list, 1 or more; agreement needs 2")
    decode: str = option("greedy", "greedy (m steps), first (one step), or ratings: by the rating "
                                   "the model expects of each candidate (alro.expected_ratings)")
    limit: int = option(0, "evaluate at most this many lists; 0 = all")
    batch_size: int = option(64, "lists at a time")
    show: int = option(0, "print this many lists in words")
    ask: str | None = option(
        None, "rank the list in this JSON file with the first run's model, and stop")
    pool: bool = option(
        False, "runs that differ in their seed alone become one row, the mean over seeds")
    json: str | None = option(None, "write the table into this file, too")
    figures: str | None = option(
        None, "print three curves; draw them in this folder where matplotlib is installed")

    def __post_init__(self):
        check_split(self.split)
        check_input(self.decode in DECODINGS,
                    f"--decode must be one of {', '.join(DECODINGS)}, got {self.decode!r}")
        check_minimum(self, orders=1, limit=0, batch_size=1, show=0)


def check_split(split: str) -> None:
    check_input(split in ("valid", "test"), f"--split must be valid or test, got {split!r}")


def score_run(folder: str, rankers: dict, data: EvaluationData, orders: int, decode="greedy"):
    """Score rankers that ask a run's model, and the rows every table has: (result, methods)."""
    calls = dict.fromkeys(rankers, 1)
    rankers = rankers | reference_rankers(data)
    about = about_runs([read_run_config(folder)])
    about["model_sha256"] = sha256_of_model(folder)
    return score_table(rankers, data, orders, calls, decode=decode, **about)


def sha256_of_model(folder: str) -> str:
    """Hash of a run's weights: a result of other weights is out of date."""
    return sha256_of_weights(Path(folder, "model"))


def sha256_of_weights(model_folder: Path) -> str:
    """Hash of the weights in a Hugging Face folder."""
    digest = hashlib.sha256()
    for path in sorted(model_folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def about_runs(configs) -> dict:
    """What a table says of its runs: their dataset, their models and their seeds, each once."""
    about = {"dataset": configs[0]["data"]["dataset"]}
    for name in ("model", "seed"):
        values = {config["train"][name]: 0 for config in configs}  # in their order
        about[name] = ", ".join(map(str, values)) if len(values) > 1 else [*values][0]
    return about


def rank_test_lists(folder: Path, cfg, data: EvaluationData, encoder: Encoder, batch_size: int):
    """Rank lists with a run's model as it began and as it is; print and write the table.

    Args: cfg: the run's train.TrainConfig. Returns: (result, methods, ids of shortened lists).
    """
    untrained, _ = build_model(cfg, data.ratings)
    trained, _ = load_run(folder)
    rankers = {}
    for name, model in ("untrained", untrained.to(pick_device())), ("trained", trained):
        rankers[name] = ModelRanker(model, encoder, batch_size=batch_size, bf16=cfg.bf16)
    if cfg.candidate_weight > 0 and len(encoder.levels) > 0:
        # What the trained model says is the row above; what it knows, read off the prompt alone.
        rankers["knows"] = ModelRanker(trained, encoder, "ratings", batch_size, cfg.bf16)
    result, methods = score_run(folder, rankers, data, cfg.test_orders)
    print(f"\n{text_table(result)}\n\n{in_words(data, methods['trained'], 0)}")
    write_results(Path(folder), result, methods, data.lists)
    shortened = set.union(*(ranker.shortened for ranker in rankers.values()))
    return result, methods, shortened


def named_rows(configs: dict[str, dict], pool: bool) -> dict[str, list[str]]:
    """{row of a table: its runs}, from {run's folder: its configuration}.

    With pool, runs that differ in their seed alone are one row. The folder in which all the runs
    lie is left out of the names.
    """
    groups = {}  # what the runs of one row have in common -> their folders
    for folder, config in configs.items():
        key = folder
        if pool:
            without_seed = {**config["train"], "seed": 0, "out": ""}  # "out": in runs of old
            key = json.dumps([config["data"], without_seed, config.get("losses")])
        groups.setdefault(key, []).append(folder)
    rows = {}  # in the order in which they were given
    above = os.path.commonpath(map(os.path.abspath, configs))
    for folders in groups.values():
        seeds = {configs[folder]["train"]["seed"] for folder in folders}
        check_input(len(seeds) == len(folders), "--pool averages over seeds, but these runs share "
                    f"one: {', '.join(folders)}; name one run of each seed")
        name = folders[0]
        if len(configs) > 1:
            name = os.path.relpath(name, above)
        if len(folders) > 1:
            name += f" +{len(folders) - 1} seeds"
        rows[name] = folders
    taken = OWN_ROWS & {*rows, *configs}
    check_input(not taken, f"a run's folder has the name of another row: {taken}; "
                "call it something else")
    return rows


def data_hashes(data: EvaluationData) -> dict[str, str]:
    """What config.json keeps of a run's data: hashes of all lists, and of the prompts' words."""
    splits = data.splits
    return {"lists": sha256(splits.train + splits.valid + splits.test),
            "prompt": sha256_of_words(data.ratings.prompt_words())}


def check_data_of_run(folder: str, config: dict, now: dict[str, str]) -> None:
    """Raise AlroError if a run was trained on other data than are there `now` (`data_hashes`)."""
    trained_on = config.get("data_sha256")
    check_input(isinstance(trained_on, dict) and trained_on.keys() == now.keys(),
                f"{folder}/config.json: data_sha256 must be an object with {', '.join(now)}; an "
                "earlier version, which wrote none, also made other lists: train anew")
    for part, what in ("lists", "ratings"), ("prompt", "titles"):
        check_input(trained_on[part] == now[part],
                    f"{folder} was trained on other {what} than its dataset's files hold now: "
                    "bring back those of then, or train anew")


def comparable_data(configs: dict[str, dict], cfg: EvalConfig) -> dict[str, EvaluationData]:
    """{run's folder: its data}; AlroError if they are not the run's, or the runs' lists differ."""
    @functools.cache  # an ablation's runs have their data in common
    def load_once(data_cfg):
        data = load_evaluation(data_cfg, cfg.split, cfg.limit)
        return data, data_hashes(data), sha256(data.lists)

    datasets = {}
    ranked = {}
    for folder, config in configs.items():
        data_cfg = config_from_dict(DataConfig, config["data"], f"{folder}/config.json")
        datasets[folder], hashes, ranked[folder] = load_once(data_cfg)
        check_data_of_run(folder, config, hashes)
    check_input(len({*ranked.values()}) == 1,
                f"the runs' {cfg.split} lists differ, so they cannot be compared: {ranked}")
    return datasets


def check_destinations(folders, cfg: EvalConfig) -> None:
    """Try before the work whether what comes out can be written.

    Raises AlroError for a file that the user named; a run may be read-only, and is then warned of.
    """
    if cfg.json:
        check_writable(Path(cfg.json).parent)
    if cfg.figures:
        check_writable(Path(cfg.figures))
    for folder in folders:
        try:
            check_writable(Path(folder))
        except AlroError as error:  # the table may be all that is wanted
            warn(f"{error}; the table will be printed, but not kept there")


def report_shortened(list_ids: set[str]) -> None:
    if list_ids:
        warn(f"{len(list_ids)} lists lost their oldest history: the prompt did not fit the model's "
             "context")


def evaluate_run(folder: str, data: EvaluationData, cfg: EvalConfig):
    """Rank a run's lists: (result, methods, ranker)."""
    words = data.ratings.prompt_words()
    ranker = ranker_of_run(folder, words, data.list_size, cfg.decode, cfg.batch_size)
    result, methods = score_run(folder, {folder: ranker}, data, cfg.orders, cfg.decode)
    report_shortened(ranker.shortened)
    for row in range(min(cfg.show, len(data.lists))):
        print(in_words(data, methods[folder], row), "\n")
    return result, methods, ranker


def main(arguments: list[str] | None = None) -> dict[str, dict]:
    """Score runs; {run's folder: its result, "table": all of them side by side}."""
    cfg, runs = parse_flags(arguments, EvalConfig, positional="runs")
    check_input(len(runs) > 0, "name at least one run's folder")
    if cfg.ask is not None:
        print(ask(runs[0], cfg))
        return {}
    # All that can be refused is refused before anything is computed.
    configs = {folder: read_run_config(folder) for folder in runs}
    rows = named_rows(configs, cfg.pool)
    check_destinations(configs, cfg)
    datasets = comparable_data(configs, cfg)

    # ---- Each run by itself
    results = {}
    scored = {}
    maps = {}
    unwritten = []
    for folder, data in datasets.items():
        results[folder], methods, ranker = evaluate_run(folder, data, cfg)
        try:
            write_results(Path(folder), results[folder], methods, data.lists)
        except AlroError as error:  # the table comes first
            unwritten.append(str(error))
        scored[folder] = methods.pop(folder)
        if cfg.figures:
            maps[folder] = output_by_slot(ranker, most_levels(data.lists))

    # ---- Side by side; chance, item mean and oracle are the same for every run
    pooled = {"chance": methods.pop("chance")}
    for row, folders in rows.items():
        pooled[row] = over_seeds([scored[folder] for folder in folders])
    pooled |= methods
    calls = dict.fromkeys(rows, 1)
    about = about_runs([*configs.values()])
    table = summary(pooled, data, calls, orders=cfg.orders, decode=cfg.decode, **about)
    print(text_table(table))
    table |= comparison(pooled, next(iter(rows)), data)
    if cfg.json:
        write_json(Path(cfg.json), table)
    if cfg.figures:
        # Of a row with several seeds, the first one's maps: their mean would show no model's.
        first_maps = {name: maps[folders[0]] for name, folders in rows.items()}
        draw(Path(cfg.figures), curves(table, rows), first_maps)
    check_input(not unwritten, "; ".join(unwritten))
    return {**results, "table": table}


if __name__ == "__main__":
    run_script(main)
