"""How good is a ranking, and does it depend on the order in which the candidates were shown?

    python evaluate.py RUN               score a finished run on its test lists
    python evaluate.py RUN --show 3      the same, and three lists in words
    python evaluate.py RUN --ask FILE    rank your own list:
                                         {"history": [["Heat (1995)", 4], ...], "candidates": [...]}

Every list is ranked in some random displayed orders, the same for every run and method, and in
the one order a retriever would show. Lists whose candidates all have one rating are left out: any
order of them is right. *Agreement* is Kendall's rank correlation between the rankings of one list
displayed in two orders. Several runs side by side: experiments/compare.

Below, `lists` are N RankingLists, `slots` N displayed orders of them, and a *ranker* is a callable
(lists, slots) -> (N, m) long: the numbers 0..m-1 of a list's candidates, best first.
"""
import dataclasses
import itertools
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from alro import DECODINGS, rank_candidates, rank_of
from data import (
    DataConfig, Encoder, PromptWords, RankingList, Ratings, Splits, fit_histories,
    informative_lists, load, make_encoder, random_slots, split)
from plumbing.averages import item_mean
from plumbing.flags import (
    check_choice, check_minimum, error_at, option, parse_flags, progress, run_script, write_json)
from plumbing.folder import (
    about_runs, check_data_of_run, check_destinations, data_hashes, read_run_config, result_of, say,
    settings_of_run, sha256, write_results)
from plumbing.machine import autocast, set_up_machine
from plumbing.model import load_run, sha256_of_weights
from plumbing.tables import in_plain_words, in_words, text_table

CUTOFFS = (1, 3, 5, 10)


# ---- Metrics: one value per list -----------------------------------------------------------------

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

    Args: ratings (B, m) >= 0; order (B, m) long, candidates, best first; k >= 1, above m means m.
    Returns: (B,) float64; 1 where the ideal DCG is 0.
    Source: PAPER (summary S), NDCG@k. GUESS, as is usual: gain 2^r - 1, discount
        1 / log2(1 + rank).
    """
    # Exponential: a 5 is worth twice a 4, so the top of the list is where most can be lost.
    gain = 2.0 ** ratings.double() - 1  # (B, m)
    return share_of_ideal(gain.gather(-1, order), gain, k)


def chance_ndcg(ratings: torch.Tensor, k: int) -> torch.Tensor:
    """Expected NDCG@k of a random order, exactly: every rank holds the mean gain. (B,) float64."""
    gain = 2.0 ** ratings.double() - 1  # (B, m)
    # DCG is a sum over ranks, so its expectation needs the expected gain of each rank alone.
    mean_gain = gain.mean(-1, keepdim=True)  # (B, 1)
    return share_of_ideal(mean_gain.expand_as(gain), gain, k)


def rank_signs(order):
    """(B, m, m) sign of rank_i - rank_j: -1 where an order (B, m) puts candidate i before j."""
    rank = rank_of(order)  # (B, m)
    return (rank.unsqueeze(-1) - rank.unsqueeze(-2)).sign()


def kendall_tau(order_a: torch.Tensor, order_b: torch.Tensor) -> torch.Tensor:
    """Kendall's tau (B,) between the *ranks* that two orders (B, m) give to the candidates.

    1: the same; 0: no more alike than random orders; -1: reversed.
    """
    m = order_a.shape[-1]
    agree = rank_signs(order_a) * rank_signs(order_b)  # (B, m, m) 1 where a pair stands alike
    # Each pair stands there twice, as i, j and as j, i; the diagonal is 0.
    return agree.sum((-2, -1)).double() / (m * (m - 1))


def bootstrap(values: np.ndarray, seed: int = 0, draws: int = 1000):
    """(mean, low, high) of values (N,), one per user: the 95 % interval, by resampling users."""
    rng = np.random.default_rng(seed)
    n = len(values)
    # A user has one list in a split: to resample lists is to resample users.
    means = [values[rng.integers(0, n, n)].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def paired_bootstrap(a: np.ndarray, b: np.ndarray, seed: int = 0):
    """(mean, low, high) of a - b over the same lists."""
    # Each list is compared with itself: that some lists are harder than others cancels out.
    return bootstrap(np.asarray(a) - np.asarray(b), seed)


# ---- Which lists ---------------------------------------------------------------------------------

class EvaluationData(NamedTuple):
    """The lists that are ranked, and the data they come from."""
    ratings: Ratings
    splits: Splits
    split: str                # valid or test
    n_informative: int        # how many lists of that split have two different ratings
    lists: list[RankingList]  # the first of them: what is ranked
    sha256: str               # hash of these, as they were split: histories may be cut to fit

    @property
    def fit(self) -> np.ndarray:
        """Rows of Ratings that lie before these lists: what item mean and the rivals may see."""
        return self.splits.fit[self.split]

    @property
    def list_size(self) -> int:
        return len(self.lists[0].items)


def choose_lists(ratings: Ratings, splits: Splits, name: str, limit: int | None) -> EvaluationData:
    """The first `limit` informative lists of the split of that name; None: all."""
    lists = informative_lists(getattr(splits, name), name)
    chosen = lists[:limit]
    return EvaluationData(ratings, splits, name, len(lists), chosen, sha256(chosen))


def fit_to_model(data: EvaluationData, encoder) -> EvaluationData:
    """The same lists, the oldest ratings left out of histories that the model cannot read whole."""
    return data._replace(lists=fit_histories(data.lists, encoder, data.split))


def ratings_of(lists) -> torch.Tensor:
    """(N, m) ratings by candidate."""
    return torch.tensor([ranking_list.ratings for ranking_list in lists])


# ---- Rankers -------------------------------------------------------------------------------------

def knows_ratings(encoder, candidate_weight: float) -> bool:
    """Whether what a model knows can be read off: it was asked in training, and a token tells."""
    return candidate_weight > 0 and len(encoder.levels) > 0


@dataclasses.dataclass
class ModelRanker:
    """A ranker that asks the language model."""
    model: torch.nn.Module
    encoder: Encoder
    decode: str = "greedy"
    batch_size: int = 64  # lists at a time
    bf16: bool = False

    def __call__(self, lists, slots) -> torch.Tensor:
        # Training validates between two steps: dropout is off here, and afterwards as it was.
        was_training = self.model.training
        self.model.eval()
        # Lists about equally long go through the model together: little padding.
        by_length = self.encoder.about_how_long(lists).argsort(stable=True)  # (N,)
        n_batches = math.ceil(len(lists) / self.batch_size)
        predicted = torch.empty(len(lists), len(slots[0]), dtype=torch.long)  # (N, m)
        for rows in progress(by_length.tensor_split(n_batches), "ranking"):
            lists_of_batch = [lists[n] for n in rows]
            slots_of_batch = [slots[n] for n in rows]
            predicted[rows] = self.rank_batch(lists_of_batch, slots_of_batch)
        self.model.train(was_training)
        return predicted

    def rank_batch(self, lists, slots) -> torch.Tensor:
        batch = self.encoder.encode(lists, slots)
        device = next(self.model.parameters()).device
        ids = [ranking_list.list_id for ranking_list in lists]
        # The cache has a new shape at each step: to compile for each would take longer than to run.
        with autocast(device, self.bf16), torch.compiler.set_stance("force_eager"):
            with error_at(f"lists {ids}"):  # the error knows rows alone
                return rank_candidates(self.model, batch.to(device), self.decode).cpu()  # (B, m)


def score_ranker(score):
    """A ranker that sorts by score(ranking_list) -> (m,), indifferent to the displayed order."""
    def rank(lists, slots):
        scores = np.array([score(ranking_list) for ranking_list in lists])  # (N, m)
        # Stable: ties go by candidate index, which is random.
        return torch.tensor(np.argsort(-scores, kind="stable"))
    return rank


def reference_rankers(data: EvaluationData) -> dict:
    """The rows every table has: item mean; in the synthetic world retriever and oracle, too."""
    columns = data.ratings.columns
    item, rating = columns.item[data.fit], columns.rating[data.fit]
    mean = item_mean(item, rating, len(columns.items))  # (items,)
    expected = columns.expected  # (users, items)
    # What can be known without knowing the user.
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


# ---- Scoring: the one recipe of a table ----------------------------------------------------------

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
    in_random_orders = predicted[:orders]

    # Stage 3: how good, on average over the random orders, and in the shown one
    values = {f"ndcg@{k}": mean_of(ndcg(ratings, order, k) for order in in_random_orders)
              for k in cutoffs(m)}
    if shown:
        values[f"{main_metric(m)}_shown"] = ndcg(ratings, predicted[-1], cutoffs(m)[-1])

    # Stage 4: how much alike the rankings of one list are in two orders
    if orders > 1:
        pairs = list(itertools.combinations(in_random_orders, 2))
        flips = [a[:, 0] != b[:, 0] for a, b in pairs]  # another candidate on top
        values["agreement"] = mean_of(kendall_tau(*pair) for pair in pairs)
        values["top1_flip_rate"] = mean_of(flip.double() for flip in flips)

    # Stage 5: the rank of what is displayed in each slot
    ranks = rank_of(torch.cat(in_random_orders)).double()  # (orders * N, m) by candidate
    displayed = torch.tensor(slots[:orders]).flatten(0, 1)  # (orders * N, m) slot -> candidate
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


def summary(methods: dict, data: EvaluationData, calls: dict, **about) -> dict:
    """What eval-SPLIT.json holds: per method and metric the mean and its 95 % interval over users.

    calls: {method: prompts that the language model reads for one list}. about: dataset, model,
    seed, decode, orders.
    """
    intervals = {}
    for name, method in methods.items():
        intervals[name] = {metric: bootstrap(value) for metric, value in method["values"].items()}
    return result_of(methods, intervals, data, calls, about)


def score_table(rankers: dict, data: EvaluationData, orders: int, calls: dict, **about):
    """Score these rankers, and those that every table has, on the same lists in the same orders.

    Returns: (result, methods), see `summary` and `score_method`.
    """
    methods = {"chance": chance_method(data.lists)}
    # The values of single lists come first, what a table shows of them is made of these.
    for name, ranker in {**rankers, **reference_rankers(data)}.items():
        methods[name] = score_method(ranker, data.lists, orders)
    return summary(methods, data, calls, orders=orders, **about), methods


# ---- python evaluate.py --------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class EvalConfig:
    split: str = option("test", "valid or test")
    orders: int = option(3, "random displayed orders of each list, 1 or more; agreement needs 2")
    decode: str = option("greedy", "greedy (m steps), first (one step), or ratings: by the rating "
                                   "the model expects of each candidate (alro.expected_ratings)")
    limit: int | None = option(None, "evaluate at most this many lists; None = all")
    batch_size: int = option(64, "lists at a time")
    show: int = option(0, "print this many lists in words")
    ask: str | None = option(None, "rank the list in this JSON file, and stop")
    json: str | None = option(None, "write the table into this file, too")

    def __post_init__(self):
        check_choice(self, split=["valid", "test"], decode=DECODINGS)
        check_minimum(self, orders=1, limit=1, batch_size=1, show=0)


def rankers_of_run(folder: str, words: PromptWords, m: int, decode="greedy", batch_size=64) -> dict:
    """{row: a ranker that asks a run's model}: "trained" for what it says and, beside it or alone
    for decode "ratings", "knows"."""
    config = read_run_config(folder)
    model, tokenizer = load_run(folder, config)
    _device, bf16, _text = set_up_machine(config["train"]["model"], config["train"]["bf16"])
    encoder = make_encoder(model, tokenizer, words, m)
    row = "knows" if decode == "ratings" else "trained"
    rankers = {row: ModelRanker(model, encoder, decode, batch_size, bf16)}
    if decode == "greedy" and knows_ratings(encoder, config["train"]["candidate_weight"]):
        rankers["knows"] = ModelRanker(model, encoder, "ratings", batch_size, bf16)
    return rankers


def score_run(folder: str, rankers: dict, data: EvaluationData, orders: int, decode="greedy",
              show=0, json_file=None) -> dict:
    """Score rankers that ask a run's model; keep the table in its folder and print it.

    Args: show: how many lists to print in words; json_file: where to write the table, too.
    Returns: {"result", "methods"}, see `score_table`.
    """
    about = about_runs([read_run_config(folder)])
    about["model_sha256"] = sha256_of_weights(Path(folder, "model"))
    calls = dict.fromkeys(rankers, 1)  # one prompt a list, whichever way it is read off
    result, methods = score_table(rankers, data, orders, calls, decode=decode, **about)
    row = "trained" if "trained" in rankers else "knows"
    # What can be lost is saved first; a result that cannot be kept is still told.
    try:
        write_results(Path(folder), result, methods, data.lists)
        if json_file:
            write_json(Path(json_file), result)
    finally:
        say(f"\n{text_table(result)}\n")
        for n in range(min(show, len(data.lists))):
            say(in_words(data, methods[row], n) + "\n")
        say(in_plain_words(result, row))
    return {"result": result, "methods": methods}


def data_of_run(folder: str, name: str, limit: int | None) -> EvaluationData:
    """The lists of a run's split of that name; AlroError if its data are not those of then."""
    data_cfg = settings_of_run(folder, "data", DataConfig)
    ratings = load(data_cfg)
    splits = split(ratings, data_cfg)
    check_data_of_run(folder, data_hashes(ratings.words, splits))
    return choose_lists(ratings, splits, name, limit)


def main(arguments: list[str] | None = None) -> dict:
    """Score a run: {"result", "methods"}, see `score_run`."""
    cfg, folder = parse_flags(arguments, EvalConfig, positional="run", nargs=None)
    if cfg.ask is not None:
        from experiments.ask import ask  # here, since it imports this file
        print(ask(folder, cfg.ask, cfg.decode))
        return {}
    # All that can be refused is refused before anything is computed.
    read_run_config(folder)
    check_destinations(folder, cfg.json)
    data = data_of_run(folder, cfg.split, cfg.limit)
    rankers = rankers_of_run(folder, data.ratings.words, data.list_size, cfg.decode, cfg.batch_size)
    data = fit_to_model(data, next(iter(rankers.values())).encoder)
    return score_run(folder, rankers, data, cfg.orders, cfg.decode, cfg.show, cfg.json)


if __name__ == "__main__":
    run_script(main)
