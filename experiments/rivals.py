"""The paper's rivals, scored on the same lists as ALRO; nothing of its method is here.

    python -m experiments.rivals           popularity, MF, LightGCN, SASRec on the demo's world (data
                                           flags: data.py)
    python -m experiments.rivals RUN...    the same on the runs' lists, and other ways to rank with
                                           the runs' models

Popularity and item mean count; matrix factorisation (MF), LightGCN and SASRec are trained, with
squared error on the *ratings*: all candidates of a list were consumed, so a rival that learns
consumption alone would be a straw man. Each of the three predicts mu + b_u + b_i + h_u · e_i and
says how a user becomes a vector h_u: MF looks it up, LightGCN averages over the user's
neighbourhood in the rating graph, SASRec reads the user's ratings in their order.

Fit set: splits.fit[split], all ratings that lie before the lists that are scored (never one of
theirs, nor a later one of that user). Grid: the same number of settings for each rival (GRID);
setting and number of epochs are those best in NDCG@m on *validation* lists, fitted on what lies
before them; then fitted anew on splits.fit[split]. Prior: b_u and b_i are damped means (3 more
ratings of 0), vectors start near 0 and `l2` penalises their length, so that an item or a user with
no rating stays at its prior. Ties: by candidate index, which is random (evaluate.score_ranker).

In comments: U users, I items, N ratings of the fit set, d numbers in a vector.
"""
import collections
import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from alro import AlroError, clean_text, rank_of, token_logits, unwrapped
from data import (
    DataConfig, Splits, informative_lists, list_prompt, make_encoder, random_slots)
from evaluate import (
    EvaluationData, ModelRanker, chance_method, fit_to_model,
    ndcg, rankers_of_run, ratings_of, reference_rankers, score_ranker, summary)
from experiments.compare import (
    by_group, data_of_runs, differences, load_evaluation, named_rows, print_comparison,
    score_rows)
from plumbing.averages import item_mean
from plumbing.files import Columns
from plumbing.flags import (
    check_choice, check_input, check_minimum, option, parse_flags, progress, run_script)
from plumbing.folder import about_runs, check_writable, read_run_config, settings_of_run, write_results
from plumbing.machine import autocast, set_up_machine
from plumbing.model import build_model, rating_tokens, tokenise
from plumbing.tables import text_table
from train import TrainConfig


@dataclasses.dataclass(frozen=True)
class RivalsConfig:
    out: str | None = option(
        None, "write eval-SPLIT.json and eval-SPLIT.lists.jsonl into this folder")
    split: str = option(
        "test", "lists to score: test, or valid (flattering: the grid is chosen there)")
    orders: int = option(3, "random displayed orders of each list")
    limit: int | None = option(None, "score at most this many lists; None = all")
    seed: int = option(0, "of weights, batches and dropout; never of the data")
    pool: bool = option(
        False, "runs that differ in their seed alone become one row, the mean over seeds")
    embedding: bool = option(True, "fit the rivals without a language model, too")

    def __post_init__(self):
        check_choice(self, split=["valid", "test"])
        check_minimum(self, orders=1, limit=1, seed=0)


# ---- Rivals without a language model -------------------------------------------------------------

class Fit:
    """The ratings a rival is fitted on, and the part of a rating that needs no taste."""

    def __init__(self, columns: Columns, rows, damping=3, rounds=10):
        user = columns.user[rows]  # (N,)
        item = columns.item[rows]  # (N,)
        rating = columns.rating[rows]  # (N,)
        self.n_users = len(columns.users)
        self.n_items = len(columns.items)
        of_user = np.bincount(user, minlength=self.n_users)  # (U,) numbers of ratings
        of_item = np.bincount(item, minlength=self.n_items)  # (I,)
        rating = rating - rating.mean()
        b_u = np.zeros(self.n_users)
        b_i = np.zeros(self.n_items)
        # Each in turn is the damped mean of what the other leaves over.
        for _ in range(rounds):
            item_total = np.bincount(item, rating - b_u[user], self.n_items)
            b_i = item_total / (of_item + damping)
            user_total = np.bincount(user, rating - b_i[item], self.n_users)
            b_u = user_total / (of_user + damping)
        self.bias = b_i
        # Rows are sorted by user, then time.
        self.user = torch.tensor(user)  # (N,)
        self.item = torch.tensor(item)  # (N,)
        self.of_user = torch.tensor(of_user)
        self.of_item = torch.tensor(of_item)
        self.centred = torch.tensor(rating - b_i[item]).float()  # (N,) rating - mu - b_i
        user_bias = torch.tensor(b_u).float()[self.user]  # (N,)
        self.rest = self.centred - user_bias  # (N,) rating - mu - b_u - b_i: the target


def table(rows: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(rows, width)
    nn.init.normal_(embedding.weight, std=0.1 / width ** 0.5)
    return embedding


def squared_loss(users, items, target, l2):
    """Mean squared error of users · items (n, d) against target (n,), and the penalty on length."""
    error = (users * items).sum(-1) - target  # (n,)
    length = (users.square() + items.square()).sum(-1)  # (n,)
    return error.square().mean() + l2 * length.mean()


class FreeVectors(nn.Module):
    """A rival with a free vector for each user and each item."""

    def __init__(self, fit: Fit, dim: int, l2: float):
        super().__init__()
        self.fit = fit
        self.l2 = l2
        self.user = table(fit.n_users, dim)
        self.item = table(fit.n_items, dim)


class MF(FreeVectors):
    """Biased matrix factorisation (Koren, Bell, Volinsky 2009)."""

    batch_size = 2048

    def losses(self):
        fit = self.fit
        for rows in torch.randperm(len(fit.user)).split(self.batch_size):
            users = self.user(fit.user[rows])  # (n, d)
            items = self.item(fit.item[rows])  # (n, d)
            yield squared_loss(users, items, fit.rest[rows], self.l2)

    def vectors(self):
        return self.user.weight, self.item.weight  # (U, d), (I, d)


class LightGCN(FreeVectors):
    """LightGCN (He et al. 2020): vectors summed over walks of 0..layers steps in the rating graph.

    OURS: an edge's weight is the rating less mu + b_u + b_i, so that dislike pushes away; and
    a rating is learned from a graph without it, a tenth of the edges at a time, or its own edge
    would give it away.
    """

    layers = 2
    folds = 10

    def __init__(self, fit: Fit, dim: int, l2: float):
        super().__init__(fit, dim, l2)
        # Where many edges meet, each counts less: LightGCN's symmetric normalisation.
        degree = fit.of_user[fit.user] * fit.of_item[fit.item]  # (N,)
        self.weight = fit.rest / degree.float().sqrt()  # (N,) but for sign and size, as there

    def vectors(self, edges=slice(None)):
        user = self.fit.user[edges]
        item = self.fit.item[edges]
        weight = self.weight[edges].unsqueeze(1)  # (edges, 1)
        users = [self.user.weight]
        items = [self.item.weight]  # after 0, 1, ... steps
        for _ in range(self.layers):
            to_users = weight * items[-1][item]  # (edges, d)
            to_items = weight * users[-1][user]  # (edges, d)
            no_users = torch.zeros_like(users[0])
            no_items = torch.zeros_like(items[0])
            users.append(no_users.index_add(0, user, to_users))
            items.append(no_items.index_add(0, item, to_items))
        return sum(users), sum(items)  # (U, d), (I, d)

    def losses(self):
        fit = self.fit
        fold_of = torch.randint(self.folds, fit.user.shape)  # (N,)
        for fold in range(self.folds):
            users, items = self.vectors(fold_of != fold)
            rows = fold_of == fold
            user = users[fit.user[rows]]  # (n, d)
            item = items[fit.item[rows]]  # (n, d)
            yield squared_loss(user, item, fit.rest[rows], self.l2)


class Attention(nn.Module):
    """One block of SASRec: self-attention to places up to one's own, then an MLP."""

    def __init__(self, dim, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attended = nn.Linear(dim, dim)
        wide = nn.Linear(dim, 2 * dim)
        narrow = nn.Linear(2 * dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), wide, nn.GELU(), narrow)

    def forward(self, x):  # (W, L, d)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.attended(seen))
        return x + self.dropout(self.mlp(x))


class SASRec(nn.Module):
    """SASRec (Kang, McAuley 2018): causal self-attention over the user's ratings in their order.

    OURS: a place reads an item and its rating, and predicts the *ratings* of the next `ahead`
    items, about as many as a list holds (SASRec: which item is next). Its offset takes the place of
    b_u, which would know the future.

    Rows of the fit set are cut into W windows of L places; -1 = no rating there.
    """

    layers = 1
    dropout = 0.2
    batch_size = 64

    def __init__(self, fit: Fit, dim: int, l2: float, length: int = 50, ahead: int = 10):
        super().__init__()
        self.fit = fit
        self.l2 = l2
        self.length = length
        self.ahead = ahead
        self.item = table(fit.n_items, dim)   # as what is predicted,
        self.read = table(fit.n_items, dim)   # as what was rated,
        self.liked = table(fit.n_items, dim)  # and that times the rating
        self.place = table(length, dim)
        self.rating = table(1, dim)
        self.drop = nn.Dropout(self.dropout)
        blocks = [Attention(dim, self.dropout) for _ in range(self.layers)]
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim + 1))
        self.end = fit.of_user.cumsum(0)     # (U,) the row after each user's last
        self.first = self.end - fit.of_user  # (U,) each user's first row

    def states(self, rows: torch.Tensor) -> torch.Tensor:
        """(W, L, d + 1): offset and vector of the user, known after each of `rows` (W, L)."""
        item = self.fit.item[rows]  # (W, L)
        rating = self.fit.centred[rows].unsqueeze(-1)  # (W, L, 1)
        # A rating of 0 is as good as the item's mean: then only what was rated is read.
        liked = self.liked(item) + self.rating.weight
        x = self.read(item) + rating * liked  # (W, L, d)
        x = x + self.place.weight[:rows.shape[1]]
        x = self.drop(x * x.shape[-1] ** 0.5)
        return self.out(self.blocks(x))

    def window(self, start, end, width):
        """(W, width) the rows from start (W,) on; -1 from end (W,) on."""
        rows = start[:, None] + torch.arange(width)
        return torch.where(rows < end[:, None], rows, -1)

    def losses(self):
        fit = self.fit
        width = self.length + self.ahead
        # Windows begin at a user's first rating and then every `length`; each epoch cuts elsewhere.
        offset_of_user = torch.randint(self.length, (fit.n_users,))  # (U,)
        place = torch.arange(len(fit.user)) - self.first[fit.user]  # (N,) in the user's history
        cut = (place + offset_of_user[fit.user]) % self.length == 0
        begin = ((place == 0) | cut).nonzero()[:, 0]  # (W,)
        # A place predicts ratings 1 to `ahead` steps later.
        from_place = torch.arange(self.length)[:, None]
        step = torch.arange(width) - from_place  # (L, width)
        soon = (step > 0) & (step <= self.ahead)
        shuffled = begin[torch.randperm(len(begin))]
        for start in shuffled.split(self.batch_size):
            end = self.end[fit.user[start]]
            rows = self.window(start, end, width)  # (B, width)
            offset_and_user = self.states(rows[:, :self.length])  # (B, L, d + 1)
            offset = offset_and_user[..., :1]
            user = offset_and_user[..., 1:]
            item = self.item(fit.item[rows])  # (B, width, d)
            predicted = user @ item.mT + offset  # (B, L, width)
            error = predicted - fit.centred[rows].unsqueeze(1)
            user_length = user.square().sum(-1, True)
            item_length = item.square().sum(-1)
            price = self.l2 * (user_length + item_length.unsqueeze(1))  # (B, L, width)
            real = soon & (rows >= 0).unsqueeze(1)  # (B, L, width)
            loss = (error.square() + price) * real
            yield loss.sum() / real.sum().clamp(min=1)

    def vectors(self):
        start = (self.end - self.length).maximum(self.first)  # (U,)
        rows = self.window(start, self.end, self.length)  # (U, L)
        last = (rows >= 0).sum(1) - 1  # (U,) -1: no rating
        every_user = torch.arange(len(last))
        users = self.states(rows)[every_user, last, 1:]  # (U, d)
        return users, self.item.weight  # (U, d), (I, d)


# ---- Fitting them --------------------------------------------------------------------------------

# The class, epochs at most, and the learning rate.
RIVALS = {"MF": (MF, 30, 0.01), "LightGCN": (LightGCN, 20, 0.01), "SASRec": (SASRec, 20, 0.002)}
# As many settings for each of them, or the one that was tuned most would win.
GRID = [{"dim": dim, "l2": l2} for dim in (8, 32) for l2 in (0.003, 0.02, 0.1)]
PATIENCE = 5  # epochs without a better one


class Choice(NamedTuple):
    valid_ndcg: float
    setting: dict
    epochs: int


def taste_score(bias, users, items):
    """A function ranking_list -> (m,): b_i + h_u · e_i of its candidates."""
    def score(ranking_list):
        candidates = ranking_list.items
        return bias[candidates] + items[candidates] @ users[ranking_list.user]
    return score


def score_after_each_epoch(name, fit, setting, epochs, seed):
    """Train a rival; after each epoch, its score of a list."""
    torch.manual_seed(seed)  # each setting begins alike, and can be fitted again by itself
    kind, _, lr = RIVALS[name]
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
            users, items = model.vectors()  # (U, d), (I, d)
            # Who or what has no rating has no vector: what it was drawn as means nothing.
            users = users * (fit.of_user > 0).unsqueeze(1)
            items = items * (fit.of_item > 0).unsqueeze(1)
        yield taste_score(fit.bias, users.double().numpy(), items.double().numpy())


def best_epoch(name, fit, setting, lists, seed) -> Choice:
    """When to stop with this setting: at the epoch best on the (validation) lists."""
    best = Choice(-math.inf, setting, 0)
    ratings = ratings_of(lists)  # (N, m)
    _, most, _ = RIVALS[name]
    scores = score_after_each_epoch(name, fit, setting, most, seed)
    for epoch, score in enumerate(scores, 1):
        order = score_ranker(score)(lists, None)  # (N, m)
        values = ndcg(ratings, order, ratings.shape[1])  # (N,)
        value = values.mean().item()
        if value >= best.valid_ndcg:
            best = Choice(value, setting, epoch)
        if epoch - best.epochs >= PATIENCE:
            break
    return best


def embedding_rankers(columns: Columns, splits: Splits, split: str, seed: int = 0):
    """Popularity and the three rivals, ready to rank the lists of a split.

    Returns: ({name: ranker}, {name: what was chosen on validation lists}).
    """
    fitted_items = columns.item[splits.fit[split]]
    count = np.bincount(fitted_items, minlength=len(columns.items))  # (I,)
    rankers = {"popularity": score_ranker(lambda ranking_list: count[ranking_list.items])}
    chosen = {}
    valid_lists = informative_lists(splits.valid, "validation")
    before_valid = Fit(columns, splits.fit["valid"])
    before_split = Fit(columns, splits.fit[split])
    for name in RIVALS:
        choices = [best_epoch(name, before_valid, setting, valid_lists, seed)
                   for setting in progress(GRID, f"fitting {name}")]
        valid_ndcg, setting, epochs = max(choices, key=lambda choice: choice.valid_ndcg)
        # Chosen on validation lists, then fitted anew on all that lies before the lists to rank.
        *_, score = score_after_each_epoch(name, before_split, setting, epochs, seed)
        rankers[name] = score_ranker(score)
        chosen[name] = {**setting, "epochs": epochs, "valid_ndcg": valid_ndcg}
    return rankers, chosen


def told_the_category(data: EvaluationData, damping: float = 5) -> dict:
    """{name: ranker} that is told each item's category, as the language model is by titles.

    Score: the item's damped mean, and by how much the user's ratings in its category were, on
    average and damped, above their items' means. It can rank new items, by their category alone.
    Empty where no categories are known.
    """
    columns = data.ratings.columns
    name = "told the category"
    texts = columns.categories
    if columns.expected is not None:
        # The synthetic world's titles are a genre and a name; names are rare, genres are not.
        name = "told the genre"
        words = collections.Counter(" ".join(columns.titles).split())
        genres = {word for word, n in words.items() if n >= 0.1 * len(columns.titles)}
        texts = [" ".join(genres & {*title.split()}) for title in columns.titles]
    if not any(texts):
        return {}
    names = sorted({name for text in texts for name in text.split()})
    member = np.array([[name in text.split() for name in names] for text in texts], float)
    member /= member.sum(1, keepdims=True).clip(1)  # (I, C) each item's shares in its categories
    user = columns.user[data.fit]
    item = columns.item[data.fit]
    rating = columns.rating[data.fit]
    mean = item_mean(item, rating, len(columns.items), damping)  # (I,)
    above_mean = rating - mean[item]  # (N,)
    weight = member[item]  # (N, C)
    total, count = np.zeros((2, len(columns.users), len(names)))  # (U, C) each
    np.add.at(total, user, above_mean[:, None] * weight)
    np.add.at(count, user, weight)
    taste = total / (count + damping)  # (U, C)

    def score(ranking_list):
        items = ranking_list.items
        return mean[items] + member[items] @ taste[ranking_list.user]
    return {name: score_ranker(score)}


# ---- Rivals that ask the same language model -----------------------------------------------------

def bootstrapped(ranker, rounds: int):
    """Rank `rounds` independently drawn displayed orders of each list and sort by mean rank.

    `rounds` calls. The draws depend on the displayed order given: two displayed orders of one list
    are ranked by independent draws.
    """
    def rank(lists, slots):
        total = torch.zeros(len(lists), len(slots[0]))  # (N, m)
        for r in range(rounds):
            drawn = []
            for ranking_list, given in zip(lists, slots):
                key = (r, ranking_list.list_id, given)
                drawn.append(random_slots(len(given), "bootstrap", *key))
            total += rank_of(ranker(lists, drawn))
        return total.argsort(dim=-1, stable=True)
    return rank


def rating_prompts(encoder, ranking_list) -> list[str]:
    """For each candidate, the history and one more line of it, up to where its rating would stand."""
    prompt = list_prompt(encoder.words, ranking_list, ranking_list.shown)
    history = prompt.split("\n")[:1 + len(ranking_list.history)]
    titles = [clean_text(encoder.words.texts[item]) for item in ranking_list.items]
    return ["\n".join([*history, f"{title}: "]) for title in titles]


def point_wise(ranker: ModelRanker, levels: list[float], batch_size: int = 64):
    """Each candidate as one more line of the history; score = expected rating.

    m calls, indifferent to the displayed order. What the history loss trains (alro.rating_loss).
    Args: ranker: holds model and encoder; levels (L,): the scale's ratings, which must differ in
        their last token only; L is 5 in MovieLens-100K.
    Raises: AlroError where they do not, as half stars ("4", "4.5").
    """
    model = ranker.model
    encoder = ranker.encoder
    # Then one softmax tells the expected rating, at the place where the prompt ends.
    level_tokens = rating_tokens(encoder.tokenizer, levels)  # (L,)
    check_input(len(level_tokens) > 0, "point-wise ranking needs ratings that differ in one token")
    device = next(model.parameters()).device

    @torch.no_grad()
    def expected_ratings(texts):
        # The rating's token is cut off: what the model would put in its place is the question.
        tokens = tokenise(encoder.tokenizer, [f"{text}{levels[0]:g}" for text in texts]).input_ids
        prompts = [torch.tensor(row[:-1]) for row in tokens]
        # On the right, where no token that counts looks: no mask is needed.
        input_ids = nn.utils.rnn.pad_sequence(prompts, True).to(device)  # (B, T)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts])  # (B,)
        with autocast(device, ranker.bf16):
            output = unwrapped(model).base_model(input_ids=input_ids, use_cache=False)
            hidden = output.last_hidden_state[torch.arange(len(texts)), last]  # (B, d)
            logits = token_logits(unwrapped(model), hidden, level_tokens.to(device))  # (B, L)
        probs = logits.cpu().softmax(-1)  # (B, L) over the scale alone
        return probs.double() @ torch.tensor(levels).double()  # (B,)

    def rank(lists, slots):
        texts = []
        for ranking_list in lists:
            texts += rating_prompts(encoder, ranking_list)
        scores = []
        for start in progress(range(0, len(texts), batch_size), "ranking"):
            scores.append(expected_ratings(texts[start:start + batch_size]))
        by_candidate = torch.cat(scores).view(len(lists), -1)  # (N, m)
        return by_candidate.argsort(dim=-1, descending=True, stable=True)
    return rank


def ways_to_rank(folder: str, data: EvaluationData) -> dict:
    """Ways to rank with a run's model: {end of the row's name: (ranker, prompts per list)}."""
    rankers = rankers_of_run(folder, data.ratings.words, data.list_size)
    says = rankers["trained"]
    ways = {"": (says, 1)}
    if "knows" in rankers:
        ways[", knows"] = rankers["knows"], 1
    ways[", first step"] = ModelRanker(says.model, says.encoder, "first", bf16=says.bf16), 1
    for rounds in (3, 5):
        ways[f", {rounds} orders"] = bootstrapped(says, rounds), rounds
    try:
        ways[", point-wise"] = point_wise(says, says.encoder.words.levels), data.list_size
    except AlroError as error:  # half stars, say
        print(f"{folder}: no point-wise row: {error}")
    return ways


def untrained_ranker(folder: str, data: EvaluationData) -> ModelRanker:
    """The model that a run began with: a pretrained one then ranks zero-shot."""
    cfg = settings_of_run(folder, "train", TrainConfig)
    device, bf16, _text = set_up_machine(cfg.model, cfg.bf16)
    model, tokenizer = build_model(cfg, data.ratings.words)
    encoder = make_encoder(model, tokenizer, data.ratings.words, data.list_size)
    return ModelRanker(model.to(device), encoder, bf16=bf16)


# ---- python -m experiments.rivals ----------------------------------------------------------------

def llm_rankers(configs: dict[str, dict], data: EvaluationData, pool: bool):
    """The rows that ask the runs' models: ({name: rankers, one for each seed}, {name: calls})."""
    first = next(iter(configs))
    rankers = {"untrained": [untrained_ranker(first, data)]}
    calls = {"untrained": 1}
    for row, folders in named_rows(configs, pool).items():
        ways_of_seeds = [ways_to_rank(folder, data) for folder in folders]
        for way, (_ranker, count) in ways_of_seeds[0].items():
            rankers[row + way] = [ways[way][0] for ways in ways_of_seeds]
            calls[row + way] = count
    return rankers, calls


def load_lists(configs: dict[str, dict], data_cfg: DataConfig, cfg: RivalsConfig) -> EvaluationData:
    """The runs' own lists, which must be the same for all; without runs, those of the flags."""
    if not configs:
        return load_evaluation(data_cfg, cfg.split, cfg.limit)
    check_input(data_cfg == DataConfig(), "with runs, their own data are used: give no data flags")
    return data_of_runs(configs, cfg.split, cfg.limit)


def main(arguments: list[str] | None = None) -> dict:
    data_cfg, cfg, runs = parse_flags(arguments, DataConfig, RivalsConfig, positional="runs")
    configs = {folder: read_run_config(folder) for folder in runs}
    if configs:
        named_rows(configs, cfg.pool)  # what it refuses is refused before the work
    if cfg.out:
        check_writable(Path(cfg.out))
        check_input(not Path(cfg.out, "config.json").exists(),
                    f"--out {cfg.out} is a run, and holds that run's own results: name another")
    data = load_lists(configs, data_cfg, cfg)

    # ---- The rows
    rankers, calls, chosen = {}, {}, {}
    about = {"dataset": data_cfg.dataset, "model": "no language model", "seed": cfg.seed}
    base = "item mean"
    if runs:
        rankers, calls = llm_rankers(configs, data, cfg.pool)
        # One history for all rows: as long as every run's model can read.
        asking = [ranker for row in rankers.values() for ranker in row]
        for encoder in {id(ranker.encoder): ranker.encoder for ranker in asking
                        if isinstance(ranker, ModelRanker)}.values():
            data = fit_to_model(data, encoder)
        about = about_runs([*configs.values()])
        about["seed"] = f"{about['seed']} (runs), {cfg.seed} (rivals)"
        base = list(rankers)[1]  # the first run's
    others = reference_rankers(data)
    # The rivals are fitted on what lies before the very lists that the runs are asked to rank.
    if cfg.embedding:
        embedding, chosen = embedding_rankers(
            data.ratings.columns, data.splits, cfg.split, cfg.seed)
        others = embedding | told_the_category(data) | others
    rankers |= {name: [ranker] for name, ranker in others.items()}

    # ---- The table
    methods = {"chance": chance_method(data.lists), **score_rows(rankers, data, cfg.orders)}
    about |= {"decode": "greedy", "chosen": chosen}
    result = summary(methods, data, calls, orders=cfg.orders, **about)
    result |= {"differences": differences(methods, base), "groups": by_group(methods, data)}
    if cfg.out:  # saved first: what cannot be printed loses nothing
        write_results(Path(cfg.out), result, methods, data.lists)
    print(f"lists {result['data_sha256']}\n{text_table(result)}")
    for name, choice in chosen.items():
        print(f"{name}: {choice}")
    print_comparison(result, base)
    return result


if __name__ == "__main__":
    run_script(main)
