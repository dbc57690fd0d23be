"""The rivals the paper names, each short, all scored on the very same lists as the language model.

    python baselines.py                       popularity, MF, LightGCN, SASRec on the demo's world (data flags: data.py)
    python baselines.py RUN... --out FOLDER   the same on the runs' lists, and other ways to rank with the runs' models

Popularity and item mean count; matrix factorisation (MF), LightGCN and SASRec are trained, with squared error on the
*ratings*: all candidates of a list were consumed, so a rival that learns consumption alone would be a straw man. Each
of the three predicts mu + b_u + b_i + h_u · e_i and says how a user becomes a vector h_u: MF looks it up, LightGCN
averages over the user's neighbourhood in the rating graph, SASRec reads the user's ratings in their order.

Fit set: splits.fit[split], all ratings that lie before the lists that are scored (never one of theirs, nor a later one
of that user). Grid: the same number of settings for each rival (GRID); setting and number of epochs are those best in
NDCG@m on *validation* lists, fitted on what lies before them; then fitted anew on splits.fit[split]. Prior: b_u and b_i
are damped means (3 more ratings of 0), vectors start near 0 and pay `l2` for their length, so that an item or a
user with no rating stays at its prior. Ties: by item index, which is random (evaluate.score_ranker).
"""
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import nn

from alro import AlroError, Batch, backbone, clean_text, encode, next_item_logits, rank_of
from cli import check_least, from_dict, option, parse, read_config, require, run
from data import DataConfig, Encoder, Ratings, Splits, informative, list_prompt, load, random_slots, split
from evaluate import (chance_method, comparison, load_run, model_ranker, named_rows, ndcg, over_seeds,
                      reference_rankers, score_method, score_ranker, summary, text_table, write_results)
from model import autocast, build_model, context_length, pick_device
from train import TrainConfig


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    out: str | None = option(None, "write eval-SPLIT.json and eval-SPLIT.lists.jsonl into this folder")
    split: str = option("test", "lists to score: test, or valid (flattering: the grid is chosen there)")
    orders: int = option(3, "random displayed orders of each list")
    limit: int = option(0, "score at most this many lists; 0 = all")
    seed: int = option(0, "of weights, batches and dropout; never of the data")
    pool: bool = option(False, "runs that differ in their seed alone become one row, the mean over seeds")
    embedding: bool = option(True, "fit the rivals without a language model, too")

    def __post_init__(self):
        require(self.split in ("valid", "test"), f"--split must be valid or test, got {self.split!r}")
        check_least(self, orders=1, limit=0, seed=0)


class Fit:
    """The rows of Ratings a rival is fitted on, as tensors, and the part of a rating that needs no taste."""

    def __init__(self, ratings: Ratings, rows: np.ndarray, damping: float = 3, rounds: int = 10):
        self.n_users, self.n_items = len(ratings.users), len(ratings.items)
        user, item, rating = ratings.user[rows], ratings.item[rows], ratings.rating[rows]  # (N,) by user, then time
        of_user, of_item = np.bincount(user, minlength=self.n_users), np.bincount(item, minlength=self.n_items)
        mean, by_user, by_item = rating.mean(), np.zeros(self.n_users), np.zeros(self.n_items)
        for _ in range(rounds):  # each in turn the damped mean of what the other leaves over
            by_item = np.bincount(item, rating - mean - by_user[user], self.n_items) / (of_item + damping)
            by_user = np.bincount(user, rating - mean - by_item[item], self.n_users) / (of_user + damping)
        self.user, self.item, self.bias = torch.tensor(user), torch.tensor(item), by_item  # (N,), (N,), (I,)
        self.centred = torch.tensor(rating - mean - by_item[item]).float()  # (N,) a rating, by what it beats the item's
        self.rest = self.centred - torch.tensor(by_user).float()[self.user]  # (N,) rating - mu - b_u - b_i: the target
        self.of_user, self.of_item = torch.tensor(of_user), torch.tensor(of_item)  # (U,), (I,) numbers of ratings


def table(rows: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(rows, width)
    nn.init.normal_(embedding.weight, std=0.1 / width ** 0.5)
    return embedding


def squared(users: torch.Tensor, items: torch.Tensor, target: torch.Tensor, l2: float) -> torch.Tensor:
    """Mean squared error of users · items (n, d) against target (n,), and the price of the vectors' lengths."""
    return ((users * items).sum(-1) - target).square().mean() + l2 * (users.square() + items.square()).sum(-1).mean()


class MF(nn.Module):
    """Biased matrix factorisation (Koren, Bell, Volinsky 2009): a free vector for each user and item."""

    def __init__(self, fit: Fit, dim: int, l2: float, batch: int = 2048):
        super().__init__()
        self.fit, self.l2, self.batch = fit, l2, batch
        self.user, self.item = table(fit.n_users, dim), table(fit.n_items, dim)

    def losses(self):
        for rows in torch.randperm(len(self.fit.user)).split(self.batch):
            yield squared(self.user(self.fit.user[rows]), self.item(self.fit.item[rows]), self.fit.rest[rows], self.l2)

    def vectors(self):
        return self.user.weight, self.item.weight  # (U, d), (I, d)


class LightGCN(nn.Module):
    """LightGCN (He et al. 2020): vectors summed over walks of 0..layers steps in the user-item graph, no weights.

    OURS: an edge weighs what the rating has above mu + b_u + b_i, so that dislike pushes away; and a rating is learned
    from a graph without it, a tenth of the edges at a time, or its own edge would give it away.
    """

    def __init__(self, fit: Fit, dim: int, l2: float, layers: int = 2, folds: int = 10):
        super().__init__()
        self.fit, self.l2, self.layers, self.folds = fit, l2, layers, folds
        self.user, self.item = table(fit.n_users, dim), table(fit.n_items, dim)
        degree = (fit.of_user[fit.user] * fit.of_item[fit.item]).float()
        self.weight = fit.rest / degree.sqrt()  # (N,) as in LightGCN, but for the sign and size of the rating

    def vectors(self, edges=slice(None)):
        user, item, weight = self.fit.user[edges], self.fit.item[edges], self.weight[edges].unsqueeze(1)
        users, items = [self.user.weight], [self.item.weight]
        for _ in range(self.layers):
            from_items = torch.zeros_like(users[0]).index_add(0, user, weight * items[-1][item])
            from_users = torch.zeros_like(items[0]).index_add(0, item, weight * users[-1][user])
            users.append(from_items), items.append(from_users)
        return sum(users), sum(items)  # (U, d), (I, d)

    def losses(self):
        fold = torch.randint(self.folds, self.fit.user.shape)  # (N,)
        for one in range(self.folds):
            rows, (users, items) = fold == one, self.vectors(fold != one)
            yield squared(users[self.fit.user[rows]], items[self.fit.item[rows]], self.fit.rest[rows], self.l2)


class SASRec(nn.Module):
    """SASRec (Kang, McAuley 2018): causal self-attention over the user's ratings in their order.

    OURS: a position reads an item and its rating, and predicts the *ratings* of the next `ahead` items, about as many
    as a list holds (SASRec: which item is next). Its offset takes the place of b_u, which would know the future.
    """

    def __init__(self, fit: Fit, dim: int, l2: float, length: int = 50, ahead: int = 10, dropout: float = 0.2,
                 layers: int = 1, batch: int = 64):
        super().__init__()
        self.fit, self.l2, self.length, self.ahead, self.batch = fit, l2, length, ahead, batch
        self.item, self.read, self.liked = (table(fit.n_items, dim) for _ in range(3))
        self.place, self.rating, self.dropout = table(length, dim), table(1, dim), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(nn.ModuleDict({
            "norm": nn.LayerNorm(dim), "qkv": nn.Linear(dim, 3 * dim), "attended": nn.Linear(dim, dim),
            "mlp": nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))})
            for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim + 1))
        self.first = fit.of_user.cumsum(0) - fit.of_user  # (U,) each user's first row
        self.end = fit.of_user.cumsum(0)                  # (U,) the row after the last

    def states(self, rows: torch.Tensor) -> torch.Tensor:
        """(W, L, d + 1): offset and vector of the user, known after each of `rows` (W, L); at the end, -1 = none."""
        item, rating = self.fit.item[rows], self.fit.centred[rows].unsqueeze(-1)  # (W, L), (W, L, 1)
        x = self.read(item) + rating * (self.liked(item) + self.rating.weight) + self.place.weight[:rows.shape[1]]
        x = self.dropout(x * x.shape[-1] ** 0.5)  # (W, L, d)
        for block in self.blocks:
            q, k, v = block["qkv"](block["norm"](x)).chunk(3, -1)
            seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # of places up to one's own
            x = x + self.dropout(block["attended"](seen))
            x = x + self.dropout(block["mlp"](x))
        return self.out(x)

    def losses(self):
        fit, width = self.fit, self.length + self.ahead
        offset = torch.randint(self.length, (fit.n_users,))[fit.user]  # (N,) each epoch cuts elsewhere
        place = torch.arange(len(fit.user)) - self.first[fit.user]
        begin = ((place == 0) | ((place + offset) % self.length == 0)).nonzero()[:, 0]  # (W,)
        step = torch.arange(width) - torch.arange(self.length)[:, None]  # (L, width) from a place to one that is later
        for some in begin[torch.randperm(len(begin))].split(self.batch):
            rows = some[:, None] + torch.arange(width)  # (B, width)
            rows = torch.where(rows < self.end[fit.user[some]][:, None], rows, -1)
            h, e = self.states(rows[:, :self.length]), self.item(fit.item[rows])  # (B, L, d + 1), (B, width, d)
            error = h[..., 1:] @ e.mT + h[..., :1] - fit.centred[rows].unsqueeze(1)  # (B, L, width)
            price = h[..., 1:].square().sum(-1, True) + e.square().sum(-1).unsqueeze(1)  # (B, L, width)
            real = (step > 0) & (step <= self.ahead) & (rows >= 0).unsqueeze(1)  # (B, L, width)
            yield ((error.square() + self.l2 * price) * real).sum() / real.sum().clamp(min=1)

    def vectors(self):
        rows = (self.end - self.length).maximum(self.first)[:, None] + torch.arange(self.length)  # (U, L)
        rows = torch.where(rows < self.end[:, None], rows, -1)
        last = (rows >= 0).sum(1) - 1  # (U,) -1: no rating
        h = self.states(rows)[torch.arange(len(last)), last, 1:]  # (U, d)
        return h * (last >= 0)[:, None], self.item.weight  # (U, d), (I, d)


# ---- Fitting them ---------------------------------------------------------------------------------------------------

RIVALS = {"MF": (MF, 30, 0.01), "LightGCN": (LightGCN, 20, 0.01), "SASRec": (SASRec, 20, 0.002)}  # epochs at most, lr
GRID = [{"dim": dim, "l2": l2} for dim in (8, 32) for l2 in (0.003, 0.02, 0.1)]  # the same six settings for each


def fitted(name: str, ratings: Ratings, rows: np.ndarray, setting: dict, epochs: int, seed: int):
    """After each epoch of a rival's training on the given rows: its score of one list, one -> (m,)."""
    torch.manual_seed(seed)
    kind, _, lr = RIVALS[name]
    fit = Fit(ratings, rows)
    model = kind(fit, **setting)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for _ in range(epochs):
        model.train()
        for loss in model.losses():
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            users, items = (vectors.double().numpy() for vectors in model.vectors())  # (U, d), (I, d)
        yield lambda one, users=users, items=items: fit.bias[one.items] + items[one.items] @ users[one.user]


def embedding_rankers(ratings: Ratings, splits: Splits, on: str, seed: int = 0) -> tuple[dict, dict]:
    """(name -> ranker, name -> what was chosen): popularity and the three rivals, ready to rank the lists of `on`."""
    count = np.bincount(ratings.item[splits.fit[on]], minlength=len(ratings.items))
    rankers, chosen = {"popularity": score_ranker(lambda one: count[one.items])}, {}
    valid = informative(splits.valid, "validation")
    rated = torch.tensor([one.ratings for one in valid])  # (N, m)
    for name, (_, most, _) in RIVALS.items():
        found = []  # (validation NDCG@m, setting, epochs)
        for number, setting in enumerate(GRID):
            for epoch, score in enumerate(fitted(name, ratings, splits.fit["valid"], setting, most, seed), 1):
                order = score_ranker(score)(valid, None)
                found.append((ndcg(rated, order, rated.shape[1]).mean().item(), -number, epoch))
                if epoch - max(found[-epoch:])[2] >= 5:
                    break  # five epochs without a better one
        best, number, epochs = max(found)
        chosen[name] = {**GRID[-number], "epochs": epochs, "valid_ndcg": best}
        *_, score = fitted(name, ratings, splits.fit[on], GRID[-number], epochs, seed)
        rankers[name] = score_ranker(score)
    return rankers, chosen


# ---- Rivals that ask the same language model ------------------------------------------------------------------------

def bootstrapped(ranker, rounds: int):
    """Rank `rounds` independently drawn displayed orders of each list and sort by mean rank: `rounds` calls.

    The draws depend on the displayed order given: two displayed orders of one list are ranked by independent draws.
    """
    def rank(lists, slots):
        total = torch.zeros(len(lists), len(slots[0]))
        for r in range(rounds):
            drawn = [random_slots(len(some), "bootstrap", r, one.list_id, some) for one, some in zip(lists, slots)]
            total += rank_of(ranker(lists, drawn))
        return total.argsort(dim=-1, stable=True)
    return rank


def point_wise(model, encoder: Encoder, levels: np.ndarray, batch_size: int = 64):
    """Each candidate as one more line of the history; score = expected rating: m calls, blind to the displayed order.

    What the history loss trains (alro.history_loss). levels (L,): the scale's ratings, which must differ in their last
    token only; L is 5 in MovieLens-100K. Raises: AlroError where they do not, as half stars ("4", "4.5").
    """
    rated = encode(encoder.tokenizer, [f"Heat (1995): {level:g}" for level in levels]).input_ids
    require(len({tuple(row[:-1]) for row in rated}) == 1, "point-wise ranking needs ratings that differ in one token")
    tokens, device = torch.tensor([row[-1] for row in rated]), next(model.parameters()).device  # (L,)

    def score(lists):
        texts = []
        for one in lists:
            head = list_prompt(encoder, one, one.shown).split("\n")[:len(one.history) + 1]
            texts += ["\n".join([*head, f"{clean_text(encoder.titles[item])}: {levels[0]:g}"]) for item in one.items]
        rows, expected = encode(encoder.tokenizer, texts).input_ids, []
        for some in torch.arange(len(rows)).split(batch_size):
            prompts = [torch.tensor(rows[i][:-1]) for i in some]  # without the rating
            last = torch.tensor([[len(prompt) - 1] for prompt in prompts])  # (B, 1)
            ids = torch.nn.utils.rnn.pad_sequence(prompts, True)  # (B, T)
            slots = torch.arange(len(levels)).expand(len(some), -1)  # (B, L) ratings in the place of candidates
            batch = Batch(ids, last, last, tokens, slots, slots, slots).to(device)
            with torch.no_grad(), autocast(device):
                hidden = backbone(model).base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
                hidden = hidden[torch.arange(len(some)), batch.positions[:, 0]]  # (B, d)
                logits = next_item_logits(backbone(model), hidden, batch).cpu()  # (B, L) float32 (see there)
            expected.append(logits.softmax(-1).double() @ torch.tensor(levels))  # (B,)
        return torch.cat(expected).view(len(lists), -1)  # (N, m)
    return lambda lists, slots: score(lists).argsort(dim=-1, descending=True, stable=True)


def pair_wise(model, encoder: Encoder, batch_size: int = 256):
    """The list-wise model on every pair of candidates, in both orders; sort by wins: m (m - 1) calls."""
    two = dataclasses.replace(encoder, list_size=2)

    def rank(lists, slots):
        pairs = [(one, i, j) for one in lists for i, j in itertools.combinations(range(len(one.items)), 2)]
        cut = [dataclasses.replace(one, items=[one.items[i], one.items[j]], ratings=[0.0, 0.0], shown=[0, 1])
               for one, i, j in pairs]
        wins = torch.zeros(len(lists), len(slots[0]))
        row = {one.list_id: n for n, one in enumerate(lists)}
        for shown in ([0, 1], [1, 0]):
            ranked = model_ranker(model, two, "first", batch_size)(cut, [shown] * len(cut))  # (pairs, 2)
            for (one, i, j), first in zip(pairs, ranked[:, 0].tolist()):
                wins[row[one.list_id], (i, j)[first]] += 1
        return wins.argsort(dim=-1, descending=True, stable=True)
    return rank


def llm_rankers(runs: list[str], ratings: Ratings, m: int) -> dict[str, tuple[dict, int]]:
    """Ways to rank with the models of finished runs: {way: ({run: ranker}, prompts read per list)}."""
    levels = np.unique(ratings.rating)
    calls = {"": 1, ", first step": 1, ", 3 orders": 3, ", 5 orders": 5, ", point-wise": m, ", pair-wise": m * (m - 1)}
    ways = {way: ({}, count) for way, count in calls.items()}
    for folder in runs:
        model, tokenizer = load_run(folder)
        encoder = Encoder(tokenizer, ratings.titles, ratings.noun, ratings.scale, m, context_length(model, tokenizer))
        list_wise = model_ranker(model, encoder)
        found = {"": list_wise, ", first step": model_ranker(model, encoder, "first"),
                 ", 3 orders": bootstrapped(list_wise, 3), ", 5 orders": bootstrapped(list_wise, 5),
                 ", pair-wise": pair_wise(model, encoder)}
        try:
            found[", point-wise"] = point_wise(model, encoder, levels)
        except AlroError as error:  # half stars, say
            print(f"{folder}: no point-wise row: {error}")
        for way, ranker in found.items():
            ways[way][0][folder] = ranker
    return ways


def untrained_ranker(folder: str, ratings: Ratings, m: int):
    """The model that a run began with: a pretrained one then ranks zero-shot."""
    cfg = from_dict(TrainConfig, read_config(folder)["train"], f"{folder}/config.json")
    model, tokenizer = build_model(cfg, ratings)
    encoder = Encoder(tokenizer, ratings.titles, ratings.noun, ratings.scale, m, context_length(model, tokenizer))
    return model_ranker(model.to(pick_device()), encoder)


# ---- python baselines.py --------------------------------------------------------------------------------------------

def main(arguments: list[str] | None = None) -> dict:
    data_cfg, cfg, runs = parse(arguments, DataConfig, BaselineConfig, positional="runs")
    configs = {folder: read_config(folder) for folder in runs}
    if runs:
        require(data_cfg == DataConfig(), "with runs, their own data are used: give no data flags")
        for folder, config in configs.items():
            require(config["data"] == configs[runs[0]]["data"], f"{folder} was trained on other data than {runs[0]}")
        data_cfg = from_dict(DataConfig, configs[runs[0]]["data"], f"{runs[0]}/config.json")
    ratings = load(data_cfg)
    splits = split(ratings, data_cfg)
    every, fit, m = informative(getattr(splits, cfg.split), cfg.split), splits.fit[cfg.split], data_cfg.list_size
    lists = every[:cfg.limit or None]
    methods, calls, chosen = {"chance": chance_method(lists)}, {}, {}
    if runs:
        methods["untrained"] = score_method(untrained_ranker(runs[0], ratings, m), lists, cfg.orders)
        calls["untrained"] = 1
        ways = llm_rankers(runs, ratings, m)
        for row, some in named_rows(configs, cfg.pool).items():
            for way, (rankers, count) in ways.items():
                if found := [score_method(rankers[one], lists, cfg.orders) for one in some if one in rankers]:
                    methods[row + way], calls[row + way] = over_seeds(found), count
    rankers = reference_rankers(ratings, fit)
    if cfg.embedding:
        embedding, chosen = embedding_rankers(ratings, splits, cfg.split, cfg.seed)
        rankers = embedding | rankers
    methods |= {name: score_method(ranker, lists, cfg.orders) for name, ranker in rankers.items()}
    models = ", ".join({config["train"]["model"]: 0 for config in configs.values()}) or "no language model"
    seeds = ", ".join({str(config["train"]["seed"]): 0 for config in configs.values()})
    result = summary(methods, lists, calls, dataset=data_cfg.dataset, split=cfg.split, model=models, decode="greedy",
                     seed=f"{seeds} (runs), {cfg.seed} (rivals)" if runs else cfg.seed, orders=cfg.orders,
                     lists=len(getattr(splits, cfg.split)), informative_lists=len(every), chosen=chosen)
    print(f"lists {result['data_sha256']}\n{text_table(result)}")
    for name, setting in chosen.items():
        print(f"{name}: {setting}")
    result |= comparison(methods, list(calls)[1] if runs else "item mean", lists, ratings, fit)
    if cfg.out:
        Path(cfg.out).mkdir(parents=True, exist_ok=True)
        write_results(Path(cfg.out), result, methods, lists)
    return result


if __name__ == "__main__":
    run(main)
