"""From ratings to lists of candidates to batches: every dataset behind one type.

    python data.py [--dataset ml-100k --data_path DIR]     what a dataset and its prompts look like

    load(cfg) -> Ratings -> split(ratings, cfg) -> Splits of RankingList
    Encoder.batch(lists, slots, orders) -> alro.Batch

First the way of one list, from Ratings to its batch; then the synthetic world of the demo; then
files. A dataset is two files, ratings and titles; `LAYOUTS` says all about each: to add a dataset,
add a row.
"""
import array
import bisect
import csv
import dataclasses
import fnmatch
import gzip
import hashlib
import html
import itertools
import json
import math
import os
import re
import shutil
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from alro import IDENTIFIERS, AlroError, Batch, build_prompt, clean_text, gold_order
from model import (
    context_length, encode, identifier_tokens, load_tokenizer, rating_tokens, special_tokens)
from runs import check_input, check_minimum, one_line_error, option, parse_flags, run_script

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
MIN_HISTORY = 5  # a list exists only where so many ratings come before it
MAX_RATING = 10  # gains are 2^rating - 1: beyond 10 one item would be all that counts
FOLDS = 10       # of users; a user sees averages of what five other folds rated (fold_averages)


# ---- Types ---------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to rank. The defaults are the demo's."""
    dataset: str = option(
        "synthetic", "synthetic, ml-100k, -1m, -10m, -20m, -25m, -32m, -latest-small, recbole, "
        "amazon-2018 or csv")
    data_path: str | None = option(
        None, "folder with the dataset's files, as its publisher unpacks them")
    download: bool = option(
        False, "fetch an ml-... set into --data_path (or data/<dataset>), its MD5 checked")
    list_size: int = option(6, "m, candidates in a list, 2..26 (GUESS)")
    history_size: int = option(8, "most ratings of history to show (GUESS)")
    history_ratings: bool = option(
        True, "False: the history says what was rated, not how (what ratings add)")
    stride: int = option(5, "ratings between the ends of a user's training lists (OURS)")
    fields: str = option("title", "what the prompt says of an item: title[,category][,average]")
    noun: str | None = option(
        None, "what the prompt calls an item (default: the dataset's word)")
    k_core: int = option(
        0, "keep users and items with at least this many ratings, again and again until it holds")
    max_users: int = option(0, "keep this many users, chosen by a hash of their id; 0 = all")
    drop_zeros: bool = option(False, "a rating of 0 means \"not rated\": leave it out")
    new_films: int = option(
        2, "synthetic: films of each test list that nobody has rated before")
    retriever_noise: float = option(
        0.7, "synthetic: the shown order is by rating plus noise of this deviation")
    data_seed: int = option(
        0, "seed of the synthetic world (the run's own seed never changes the data)")

    def __post_init__(self):
        known = ["synthetic", *LAYOUTS]
        check_input(self.dataset in known,
                    f"--dataset must be one of {', '.join(known)}; got {self.dataset!r}")
        check_input(re.fullmatch("title(,category)?(,average)?", self.fields),
                    f"--fields must be title[,category][,average], got {self.fields!r}")
        check_input(self.noun is None or self.noun == clean_text(self.noun) != "",
                    "--noun must be one line of text")
        check_input(2 <= self.list_size <= 26,
                    f"--list_size must be 2..26 (A to Z), got {self.list_size}")
        check_minimum(self, history_size=0, stride=1, k_core=0, max_users=0, data_seed=0)
        check_minimum(self, new_films=0, retriever_noise=0)
        most_new = min(self.list_size, NEW_FILMS)
        check_input(self.dataset != "synthetic" or self.new_films <= most_new,
                    f"--new_films must be at most {most_new}, got {self.new_films}")
        check_input(self.dataset.startswith("ml-") or not self.download,
                    "--download works for the ml-... datasets only")
        if self.dataset != "synthetic":
            check_input(self.download or self.data_path is not None,
                        f"--dataset {self.dataset} needs --data_path, the folder with its files "
                        "(or, for ml-..., --download)")
        else:
            given = self.data_path or self.k_core or self.max_users or self.drop_zeros
            check_input(not given, "--data_path, --k_core, --max_users and --drop_zeros are not "
                                   "for the synthetic dataset")


@dataclasses.dataclass(frozen=True)
class ShowConfig:
    """What `python data.py` shows."""
    model: str | None = option(
        None, "count the prompts' tokens with the tokenizer of this Hugging Face id or folder")


class PromptWords(NamedTuple):
    """The words of a dataset's prompts."""
    texts: list[str]            # how the prompt names each item
    noun: str                   # what it calls an item: "movie"
    scale: tuple[float, float]  # the worst and the best rating
    levels: list[float]         # all ratings that occur, ascending
    averages: np.ndarray | None = None  # (folds, items): what users of a fold see; NaN = nothing
    folds: list[int] | None = None      # the fold of each user

    def candidate(self, item: int, user: int) -> str:
        """The text of an item in a candidate's line: with its average, if there is one."""
        average = np.nan
        if self.averages is not None:
            average = self.averages[self.folds[user], item]
        return self.texts[item] + ("" if np.isnan(average) else f", {average:.1f}")


@dataclasses.dataclass
class Ratings:
    """A dataset. Row n says: user[n] gave item[n] rating[n] at timestamp[n].

    Rows are sorted by (user, timestamp, item).
    """
    user: np.ndarray        # (N,) int64, index into users
    item: np.ndarray        # (N,) int64, index into items and titles
    rating: np.ndarray      # (N,) float64
    timestamp: np.ndarray   # (N,) float64, seconds; only their order counts
    users: list[str]        # ids as the file has them, sorted (as numbers where all are digits)
    items: list[str]
    titles: list[str]
    noun: str
    counts: dict[str, int]  # what was read, dropped and cleaned
    expected: np.ndarray | None = None  # (users, items) float: the world's ratings without noise
    categories: list[str] | None = None  # by item, "" where none is known
    fields: str = "title"                # what the prompt says of an item
    averages: np.ndarray | None = None   # (folds, items), see fold_averages

    @property
    def rating_range(self) -> tuple[float, float]:
        """The lowest and the highest rating seen: what the prompt prints as worst and best."""
        return float(self.rating.min()), float(self.rating.max())

    def prompt_words(self) -> PromptWords:
        texts = self.titles
        if "category" in self.fields:
            pairs = zip(self.titles, self.categories)
            texts = [f"{title}, {category}" if category else title for title, category in pairs]
        folds = list(map(fold_of, self.users))
        levels = np.unique(self.rating).tolist()
        return PromptWords(texts, self.noun, self.rating_range, levels, self.averages, folds)


@dataclasses.dataclass(frozen=True)
class RankingList:
    """m candidates of one user, to be put in order from most to least liked by this user."""
    list_id: str
    user: int                                # index into Ratings.users
    history: list[tuple[int, float | None]]  # (item, rating) just before the list, oldest first
    items: list[int]      # m candidates in item order: shuffled, so an index carries no information
    ratings: list[float]  # m, by item order
    shown: list[int]      # the one displayed order a retriever would give: slot -> index into items

    @property
    def informative(self) -> bool:
        return len(set(self.ratings)) > 1  # with one rating for all, every order is right


class Splits(NamedTuple):
    train: list[RankingList]
    valid: list[RankingList]
    test: list[RankingList]
    fit: dict[str, np.ndarray]  # split -> rows of Ratings, before its lists, to fit a rival on


def seed_from(*key) -> int:
    """A seed for random numbers, 0..2^56, that depends on the key alone."""
    return int(hashlib.blake2b(repr(key).encode(), digest_size=7).hexdigest(), 16)


def generator(*key) -> torch.Generator:
    """Random numbers that depend on the key alone, not on what was drawn before.

    So any list can be redone by itself: resuming, sharding and comparing are exact.
    """
    return torch.Generator().manual_seed(seed_from(*key))


def random_slots(m: int, *key) -> list[int]:
    """A random displayed order of m candidates: slot -> item."""
    return torch.randperm(m, generator=generator("slots", *key)).tolist()


# ---- Split: ratings -> lists ---------------------------------------------------------------------

def fit_rows(ratings: Ratings, m: int) -> dict[str, np.ndarray]:
    """For each split, the rows that a rival may be fitted on: all but its lists and later ones."""
    n_ratings = np.bincount(ratings.user)  # (users,)
    from_end = np.cumsum(n_ratings)[ratings.user] - np.arange(len(ratings.user))  # (N,) last = 1
    held_out = np.zeros(len(ratings.user), bool)
    fit = {}
    for name, last in {"test": m, "valid": 2 * m}.items():
        has_list = n_ratings[ratings.user] >= last + MIN_HISTORY  # (N,)
        held_out |= has_list & (from_end <= last)
        fit[name] = np.flatnonzero(~held_out)
    return {"train": fit["valid"], **fit}


def split(ratings: Ratings, cfg: DataConfig) -> Splits:
    """Per user by time: the last m ratings are the test list, the m before the validation list,
    windows of m before that the training lists.

    A list exists only where MIN_HISTORY ratings come before it. The split is by user, not by
    global time: another user's rating in `fit` may be later than a test list.
    """
    m = cfg.list_size
    fit = fit_rows(ratings, m)
    popularity = np.bincount(ratings.item[fit["train"]], minlength=len(ratings.items))
    lists = {"train": [], "valid": [], "test": []}
    ends = np.cumsum(np.bincount(ratings.user)).tolist()
    for user, (first, end) in enumerate(itertools.pairwise([0, *ends])):  # the user's rows
        starts = {"test": end - m, "valid": end - 2 * m}
        for i, start in enumerate(range(end - 3 * m, first, -cfg.stride)):
            starts[f"train-{i}"] = start
        for label, start in starts.items():
            if start - first >= MIN_HISTORY:
                past = slice(max(first, start - cfg.history_size), start)
                list_id = f"{ratings.users[user]}/{label}"
                ranking_list = make_list(ratings, cfg, popularity, list_id, user, past)
                lists[label.split("-")[0]].append(ranking_list)
    return Splits(*lists.values(), fit)


def make_list(ratings, cfg, popularity, list_id, user, past) -> RankingList:
    """The list whose candidates are the m rows after `past`, which is its history.

    Args: popularity (items,): how often each item stands in the fit rows.
    """
    m = cfg.list_size
    rows = past.stop + torch.randperm(m, generator=generator("items", list_id)).numpy()
    items, values = ratings.item[rows], ratings.rating[rows]
    # A retriever shows the popular first; in the synthetic world a fair one: the rating plus noise.
    score = popularity[items]
    if ratings.expected is not None:
        noise = torch.randn(m, generator=generator("shown", list_id)).numpy()
        score = values + cfg.retriever_noise * noise
    shown = np.argsort(-score, kind="stable").tolist()
    known = ratings.rating[past].tolist() if cfg.history_ratings else itertools.repeat(None)
    history = list(zip(ratings.item[past].tolist(), known))
    return RankingList(list_id, user, history, items.tolist(), values.tolist(), shown)


def informative(lists: list[RankingList], what: str) -> list[RankingList]:
    """The lists that can tell a good order from a bad one; an error if there is none."""
    kept = [ranking_list for ranking_list in lists if ranking_list.informative]
    check_input(kept, f"no {what} list with two different ratings: users need 3 × --list_size + "
                      f"{MIN_HISTORY} ratings, not all the same")
    return kept


def hash_json(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(lists: list[RankingList]) -> str:
    """Hash of the lists' canonical JSON: results with the same one can be compared list by list."""
    return hash_json(sorted(map(vars, lists), key=lambda row: row["list_id"]))


def sha256_of_words(words: PromptWords) -> str:
    """Hash of all that prompts say of items: titles, categories, averages, noun and scale."""
    return hash_json(words._replace(averages=np.array(words.averages).tolist()))


# ---- The average that a user is shown ------------------------------------------------------------

def fold_of(user: str) -> int:
    """The fold of a user, by a hash of the id."""
    return generator("fold", user).initial_seed() % FOLDS


def item_mean(ratings: Ratings, rows, damping: float = 5) -> np.ndarray:
    """(items,) mean rating in the given rows, with `damping` more ratings of the overall mean."""
    item, rating = ratings.item[rows], ratings.rating[rows]
    count = np.bincount(item, minlength=len(ratings.items))
    total = np.bincount(item, rating, len(ratings.items))
    return (total + damping * rating.mean()) / (count + damping)


def fold_averages(ratings: Ratings, rows) -> np.ndarray:
    """(folds, items): what users of a fold see of an item, its damped mean rating by the users of
    the next five of the ten folds, to one decimal; NaN where none of them rated it in these rows.

    Leaving out a user's own rating would not do: the number would fall as that rating rises, and
    so tell it. Here users of one fold see one number, whatever any of them rated. Five folds, not
    all nine others: where a fold rated an item highly, all others together rated it lower than all
    ten did. Measured on ml-100k, the number tells 36 % of the variance of ratings within a title
    with one's own rating left out, 8.5 % with nine other folds, 1.5 % with five; sorting by it is
    as good (NDCG@10 .881 with nine, .880 with five).
    """
    rater_folds = np.array([fold_of(user) for user in ratings.users])[ratings.user[rows]]
    averages = np.full((FOLDS, len(ratings.items)), np.nan)
    for fold in range(FOLDS):
        others = rows[(rater_folds - fold - 1) % FOLDS < FOLDS // 2]
        rated = np.unique(ratings.item[others])
        averages[fold, rated] = item_mean(ratings, others)[rated].round(1)
    return averages


# ---- Prompts and batches: lists -> alro.Batch ----------------------------------------------------

def list_prompt(words: PromptWords, ranking_list: RankingList, slots, dropped: int = 0) -> str:
    """The list's prompt in one displayed order, less the oldest `dropped` ratings."""
    history = [(words.texts[item], rating) for item, rating in ranking_list.history[dropped:]]
    candidates = [words.candidate(item, ranking_list.user) for item in ranking_list.items]
    return build_prompt(history, candidates, slots, words.noun, words.scale)


def line_end_tokens(prompt: str, offsets) -> list[list[int]]:
    """For each line of a prompt the indices of the tokens that touch its last word.

    In a history's line that is the rating, in a candidate's the identifier.
    Args: offsets: (start, end) of each token in the text.
    """
    starts, ends = map(list, zip(*offsets))
    tokens = []
    line_start = 0
    for line in prompt.split("\n"):
        line_end = line_start + len(line)
        word_start = line_start + line.rfind(" ") + 1  # after the last space
        first = bisect.bisect_right(ends, word_start)
        last = bisect.bisect_left(starts, line_end) - 1
        tokens.append(list(range(first, last + 1)))
        line_start = line_end + 1
    return tokens


class TokenisedList(NamedTuple):
    text: str
    tokens: list[int]                # of the prompt
    offsets: list[tuple[int, int]]   # (start, end) of each token in the prompt
    lines: int                       # lines of history: fewer than the list has if shortened


def pad(rows, value, multiple=1) -> torch.Tensor:
    """(B, T) long, from B lists of numbers, padded on the right; T is a multiple of `multiple`."""
    width = math.ceil(max(map(len, rows)) / multiple) * multiple
    padded = [row + [value] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long)


@dataclasses.dataclass
class Encoder:
    """Turns lists into batches, for one tokenizer; `make_encoder` makes one."""
    tokenizer: object
    words: PromptWords
    list_size: int
    max_length: int   # tokens the model can read, prompt and answer
    multiple: int = 1  # pad to a multiple of so many tokens: few lengths, for torch.compile

    def __post_init__(self):
        self.identifiers = identifier_tokens(self.tokenizer, self.list_size)  # (m,)
        self.level_tokens = rating_tokens(self.tokenizer, self.words.levels)  # (L,), or (0,)
        self.levels = torch.tensor(self.words.levels)[:len(self.level_tokens)]
        self.token_of_level = dict(zip(self.words.levels, self.level_tokens.tolist()))

    def tokenise(self, lists, slots) -> list[TokenisedList]:
        """The prompt of each list, in displayed order slots[b], with as much history as fits.

        Raises: AlroError if it does not fit without history, or a title holds a special token.
        """
        own, special = special_tokens(self.tokenizer)
        prompts = self._tokenise(lists, slots, dropped=0)
        for b, prompt in enumerate(prompts):
            where = f"list {lists[b].list_id!r}"
            while len(prompt.tokens) + self.list_size > self.max_length:
                check_input(prompt.lines > 0,
                            f"{where}: {len(prompt.tokens)} tokens without history, but the model "
                            f"reads {self.max_length}: too long; try a smaller --list_size")
                dropped = len(lists[b].history) - prompt.lines + 1  # the oldest go first
                prompt = self._tokenise([lists[b]], [slots[b]], dropped)[0]
            check_input(special.isdisjoint(prompt.tokens[own:]),
                        f"{where}: a title holds a special token")
            prompts[b] = prompt
        return prompts

    def _tokenise(self, lists, slots, dropped):
        texts = [list_prompt(self.words, *pair, dropped) for pair in zip(lists, slots)]
        encoding = encode(self.tokenizer, texts, return_offsets_mapping=True)
        lines = [len(ranking_list.history) - dropped for ranking_list in lists]
        return list(map(TokenisedList, texts, encoding.input_ids, encoding.offset_mapping, lines))

    def batch(self, lists, slots, orders=None) -> tuple[Batch, list[str]]:
        """Tokenise B lists, list b in displayed order slots[b].

        Args: orders (B, m), gold: their identifiers are appended and become targets, and so do the
            ratings of history and candidates; None: prompts only, to rank.
        Returns: the Batch, on the CPU; ids of the lists that lost their oldest history to fit.
        Raises: AlroError if a prompt does not fit without history.
        """
        prompts = self.tokenise(lists, slots)
        rows = [prompt.tokens for prompt in prompts]
        line_ends = [line_end_tokens(prompt.text, prompt.offsets) for prompt in prompts]
        history_at = [[] for _ in lists]
        candidate_rated = [[-100] * self.list_size for _ in lists]
        displayed = torch.tensor(slots)  # (B, m)
        if orders is None:
            orders = torch.arange(self.list_size).expand(len(lists), -1)  # (B, m), any will do
        else:
            gold_slots = displayed.argsort(-1).gather(-1, orders)  # (B, m) output position -> slot
            answers = self.identifiers[gold_slots].tolist()
            rows = [tokens + answer for tokens, answer in zip(rows, answers)]
            # After the first line, the history's; a rating may have several tokens.
            history_at = [list(itertools.chain(*ends[1:prompt.lines + 1]))
                          for prompt, ends in zip(prompts, line_ends)]
            candidate_rated = [[self.token_of_level.get(rating, -100)
                                for rating in ranking_list.ratings] for ranking_list in lists]
        history_rated = [[tokens[t] for t in places] for tokens, places in zip(rows, history_at)]
        # The last lines but one are the candidates', by slot; an identifier is one token.
        slot_at = torch.tensor([[tokens[-1] for tokens in ends[-1 - self.list_size:-1]]
                                for ends in line_ends])  # (B, m)
        candidate_at = slot_at.gather(-1, displayed.argsort(-1))  # (B, m) by item
        shortened = [ranking_list.list_id for ranking_list, prompt in zip(lists, prompts)
                     if prompt.lines < len(ranking_list.history)]
        input_ids = pad(rows, 0, self.multiple)  # (B, T); pads are seen by no token that counts
        prompt_tokens = torch.tensor([len(prompt.tokens) for prompt in prompts])  # (B,)
        ratings = torch.tensor([ranking_list.ratings for ranking_list in lists],
                               dtype=torch.float32)  # (B, m)
        # Token t is predicted at t - 1: a pad of 1 is read at place 0, and not used.
        batch = Batch(
            input_ids, prompt_tokens, pad(history_at, 1), pad(history_rated, -100), candidate_at,
            torch.tensor(candidate_rated), self.identifiers, self.level_tokens, self.levels,
            displayed, orders, ratings)
        return batch, shortened


def make_encoder(model, tokenizer, words, list_size, multiple=1) -> Encoder:
    """The encoder for a model and its tokenizer: prompts as long as both can read."""
    max_length = context_length(model, tokenizer)
    return Encoder(tokenizer, words, list_size, max_length, multiple)


# ---- The synthetic world -------------------------------------------------------------------------

GENRES = ["Western", "Musical"]  # the last word of a title
FILMS = """Acre Affair Anchor Arrow Autumn Banner Beacon Bell Border Bridge Candle Canyon Castle
    Circle Cloud Coast Crown Dawn Diary Door Dream Echo Ember Empire Exile Feather Field Fire Flight
    Forest Garden Gate Ghost Harbor Honor Horizon Island Journey Key Ladder Letter Lesson Mask
    Mirror Mountain Night Oath Ocean""".split()
NEW_FILMS = 12  # the last so many of them: nobody has rated these before the test lists


def permuted_rows(rng: np.random.Generator, first: int, end: int, rows: int) -> np.ndarray:
    """(rows, end - first): in each row the numbers first, ..., end - 1 in an order of its own."""
    numbers = np.tile(np.arange(first, end), (rows, 1))
    return rng.permuted(numbers, axis=1)


def synthetic(cfg: DataConfig, n_users: int = 4000) -> Ratings:
    """A world that needs no file: rating = 3 + taste[user, film] + quality[film] + noise, rounded
    into 1..5.

    The last word of a title tells the genre; each user loves one of the two (taste +1) and not the
    other (-1). The quality of old films is spread evenly over -1/2..1/2. The last `cfg.new_films`
    ratings of a user are of *new* films: so many are in each test list, and none anywhere else. A
    new film has quality 0, so `expected`, the oracle's rating without noise, holds nothing about it
    that its title does not tell. What each kind of rival can know:
        item mean       the quality of the old films;
        embeddings      that, and the user's taste for the old films; of a new film nothing;
        title readers   that, and the user's taste for a new film: all that `expected` holds.
    """
    n_films = len(FILMS)
    n_old = n_films - NEW_FILMS
    per_user = min(3 * cfg.list_size + 14, n_old)
    rng = np.random.default_rng(cfg.data_seed)

    # Who likes what.
    genre = np.arange(n_films) % len(GENRES)  # (films,)
    titles = [f"{film} {GENRES[kind]}" for film, kind in zip(FILMS, genre)]
    quality = np.zeros(n_films)
    quality[:n_old] = rng.permutation(np.linspace(-0.5, 0.5, n_old))
    loved = rng.integers(0, len(GENRES), (n_users, 1))  # the genre that each user loves
    taste = np.where(genre == loved, 1, -1)  # (users, films)
    expected = 3 + taste + quality

    # Who rates what, in the order of time: old films, then the new ones.
    old = permuted_rows(rng, 0, n_old, n_users)
    new = permuted_rows(rng, n_old, n_films, n_users)
    n_first = per_user - cfg.new_films
    item = np.concatenate([old[:, :n_first], new[:, :cfg.new_films]], axis=1)  # (users, per_user)
    noise = rng.normal(0, 0.3, item.shape)
    exact = np.take_along_axis(expected, item, axis=1) + noise
    rating = np.clip(np.rint(exact), 1, 5)

    user, time = np.indices(item.shape)
    columns = [table.ravel() for table in (user, item, rating, time)]
    user_ids = [str(number) for number in range(n_users)]
    item_ids = [str(number) for number in range(n_films)]
    names = dict(zip(item_ids, titles))
    counts = {"ratings read": item.size}
    ratings = canonical(columns, user_ids, item_ids, names, cfg.noun or "movie", counts)
    kept = [int(name) for name in ratings.items]  # fewer where no list holds a new film
    return dataclasses.replace(ratings, expected=expected[:, kept])


# ---- Loading: files -> columns -> Ratings --------------------------------------------------------

def load(cfg: DataConfig) -> Ratings:
    """Read, check and clean the dataset that cfg names. Raises AlroError with file and line."""
    ratings = synthetic(cfg) if cfg.dataset == "synthetic" else read_dataset(cfg)
    if "category" in cfg.fields:
        check_input(any(ratings.categories or []),
                    f"--fields {cfg.fields}: the files of {cfg.dataset} name no category")
    if "average" in cfg.fields:
        # From the rows before all validation lists, for all splits: what a title's line says in
        # training, it says in the test, and it knows no more than the trained model.
        rows = fit_rows(ratings, cfg.list_size)["train"]
        ratings.averages = fold_averages(ratings, rows)
    ratings.fields = cfg.fields
    return ratings


def read_dataset(cfg: DataConfig) -> Ratings:
    folder = Path(cfg.data_path or f"data/{cfg.dataset}").expanduser()
    if cfg.download:
        download(cfg.dataset, folder)
    rating_table, title_table, noun = LAYOUTS[cfg.dataset]
    columns, users, items, counts = read_ratings(folder, rating_table, cfg)
    titles, categories = read_titles(folder, title_table, items, counts)
    ratings = canonical(columns, users, items, titles, cfg.noun or noun, counts, cfg.k_core)
    ratings.categories = [categories.get(item, "") for item in ratings.items]
    zeros = (ratings.rating == 0).mean()
    if zeros > 0.1:
        warn(f"{zeros:.0%} of the ratings are 0, taken for the worst: if 0 means \"not rated\", "
             "say --drop_zeros")
    if tied_times(ratings) == 1:
        warn("each user's ratings all have one time: the order of a history is that of item ids")
    return ratings


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def tied_times(ratings: Ratings) -> float:
    """The share of neighbouring ratings of a user that have the same time."""
    neighbours = np.diff(ratings.user) == 0
    tied = neighbours & (np.diff(ratings.timestamp) == 0)
    return tied.sum() / max(1, neighbours.sum())


def canonical(columns, users, items, titles, noun, counts, k_core: int = 0) -> Ratings:
    """Join items of one title, drop duplicates, apply the k-core, and number users, items and rows
    so that no order of lines shows.

    Args: columns: user and item (indices into users and items), rating, timestamp, each (N,);
        users, items: their ids; titles: id -> title; counts: {what: how many}, is added to.
    Of several ratings of one item by one user the last counts: the last by time and, at one time,
    the highest.
    """
    user, item = np.array(columns[:2], dtype=int)
    rating, timestamp = map(np.array, columns[2:])
    # The prompt cannot tell two ids of one title apart: as two items, one could stand among the
    # candidates while the other stands in the history with the answer.
    first_id = {}
    for name in sort_ids(items):
        first_id.setdefault(titles[name], name)
    several_ids = len(items) - len(first_id)
    items, item = renumber([first_id[titles[name]] for name in items], item)
    pair = user * len(items) + item  # (N,) one number for each user and item
    order = np.lexsort((rating, timestamp, pair))
    last_of_pair = np.append(np.diff(pair[order]) != 0, True)
    unique = order[last_of_pair]
    kept = core_rows(user, item, unique, k_core)
    check_input(len(kept) > 0, f"no rating is left after --k_core {k_core}: try a smaller one")
    counts["duplicates dropped"] = len(order) - len(unique)
    counts["dropped by --k_core"] = counts.get("dropped by --k_core", 0) + len(unique) - len(kept)
    counts["titles under several ids"] = several_ids
    users, user = renumber(users, user[kept])
    items, item = renumber(items, item[kept])
    rating, timestamp = rating[kept], timestamp[kept]
    rows = np.lexsort((item, timestamp, user))
    names = [titles[name] for name in items]
    return Ratings(user[rows], item[rows], rating[rows], timestamp[rows], users, items, names, noun,
                   counts)


def core_rows(user, item, rows, k):
    """Of these rows, those whose user and item have at least k, again and again until it holds."""
    while k:
        ratings_of_user = np.bincount(user[rows])[user[rows]]
        ratings_of_item = np.bincount(item[rows])[item[rows]]
        often = np.minimum(ratings_of_user, ratings_of_item) >= k
        if often.all():
            break
        rows = rows[often]
    return rows


def renumber(ids, index):
    """(the ids that occur in index, sorted and each once; the index into them)."""
    occurring = sort_ids({ids[i] for i in np.unique(index)})
    position = {name: i for i, name in enumerate(occurring)}
    return occurring, np.array([position.get(name, -1) for name in ids])[index]


def sort_ids(ids):
    """In the order of numbers where all are digits."""
    longest = max(map(len, ids))
    numeric = all(map(str.isdecimal, ids))
    return sorted(ids, key=lambda name: (name.zfill(longest) if numeric else "", name))


# ---- Files ---------------------------------------------------------------------------------------

class Table(NamedTuple):
    """A file of records, one a line; it may be compressed (.gz). A column is the pattern of its
    name in the header or, where there is none, its number."""
    file: str             # name, or pattern of the one file in the folder
    separator: str        # between fields, or JSON
    columns: tuple        # of ratings: user, item, rating, timestamp; of titles: item, title
    optional: tuple = ()  # of titles: category and year, where the file has them
    width: int = 0        # fields in a line; 0 = the first line is a header and says
    latin1: bool = False  # published as Latin-1: read so where it is not UTF-8


JSON = "JSON, one object a line"
ML_100K_GENRES = """unknown Action Adventure Animation Children's Comedy Crime Documentary Drama
    Fantasy Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western""".split()
GENRE_FLAGS = slice(5, 24)  # columns of u.item that say 0 or 1, one for each genre
RATINGS_DAT = Table("ratings.dat", "::", (0, 1, 2, 3), width=4)
MOVIES_DAT = Table("movies.dat", "::", (0, 1), (2,), width=3, latin1=True)
RATINGS_CSV = Table("ratings.csv", ",", ("userId", "movieId", "rating", "timestamp"))
MOVIES_CSV = Table("movies.csv", ",", ("movieId", "title"), ("genres",))
LAYOUTS = {  # dataset -> (ratings, titles, what the prompt calls an item)
    "ml-100k": (Table("u.data", "\t", (0, 1, 2, 3), width=4),
                Table("u.item", "|", (0, 1), (GENRE_FLAGS,), 24, latin1=True), "movie"),
    "ml-1m": (RATINGS_DAT, MOVIES_DAT, "movie"),
    "ml-10m": (RATINGS_DAT, MOVIES_DAT, "movie"),
    "ml-20m": (RATINGS_CSV, MOVIES_CSV, "movie"),
    "ml-25m": (RATINGS_CSV, MOVIES_CSV, "movie"),
    "ml-32m": (RATINGS_CSV, MOVIES_CSV, "movie"),
    "ml-latest-small": (RATINGS_CSV, MOVIES_CSV, "movie"),
    # RecBole's atomic files name each column's type; names as in its own conversion tools.
    "recbole": (Table("*.inter", "\t", ("user_id:token", "item_id:token", "rating:float",
                                        "timestamp:float")),
                Table("*.item", "\t", ("item_id:token",
                                       "((movie|book|item)_)?(title|name):token(_seq)?"),
                      ("(class|genres?|category|categories):token(_seq)?",
                       "((release|publication)_)?year:(token|float)")), "item"),
    "amazon-2018": (Table("[A-Z]*.json", JSON, ("reviewerID", "asin", "overall",
                                                "unixReviewTime")),
                    Table("meta_*.json", JSON, ("asin", "title"), ("category",)), "product"),
    "csv": (Table("ratings.csv", ",", ("user", "item", "rating", "timestamp")),
            Table("items.csv", ",", ("item", "title"), ("category",)), "item"),
}


def read_ratings(folder, table, cfg):
    """(columns, user ids, item ids, counts). Memory grows with what is kept, not with the file."""
    is_wanted = user_filter(folder, table, cfg)
    users, items = {}, {}  # id -> index
    numbers = array.array("d")  # user, item, rating, timestamp; and again
    lines = zeros = 0
    for place, (user, item, rating, timestamp) in read_table(folder, table):
        lines += 1
        check_input(user and item, f"{place}: user and item must not be empty")
        value = number(rating, "rating", place)
        seconds = number(timestamp, "timestamp (seconds)", place)
        check_input(0 <= value <= MAX_RATING,
                    f"{place}: rating {rating} is outside 0..{MAX_RATING}: bring it into range")
        if cfg.drop_zeros and value == 0:
            zeros += 1
        elif is_wanted(user):
            user_index = users.setdefault(user, len(users))
            item_index = items.setdefault(item, len(items))
            numbers.extend((user_index, item_index, value, seconds))
    check_input(users, f"{folder}/{table.file}: no ratings")
    columns = np.array(numbers).reshape(-1, 4).T  # (4, N)
    counts = {"ratings read": lines}
    if cfg.drop_zeros:
        counts["zeros dropped"] = zeros
    filtered_by = "--max_users" if cfg.max_users else "--k_core"
    counts[f"dropped by {filtered_by}"] = lines - zeros - columns.shape[1]
    return columns, list(users), list(items), counts


def user_filter(folder, table, cfg):
    """user id -> whether to keep the user's ratings; from a first pass that keeps none of them."""
    users = (user for _, (user, *_) in read_table(folder, table))
    if cfg.max_users:
        in_order = sorted(set(users), key=lambda user: hashlib.blake2b(user.encode()).digest())
        return set(in_order[:cfg.max_users]).__contains__
    # Who has under k ratings is in no k-core. They are counted by a hash of the id, in a memory
    # that does not grow: where ids share a slot, too many. `core_rows` counts exactly.
    counts = bytearray(2 ** 24)

    def slot(user):
        return zlib.crc32(user.encode()) % len(counts)

    if cfg.k_core:
        for i in map(slot, users):
            counts[i] = min(counts[i] + 1, 255)
    return lambda user: counts[slot(user)] >= min(cfg.k_core, 255)


YEAR = re.compile(r"(\d{4})(\.0*)?")  # RecBole writes 1999.0; 0.0 and "unknown" are no years


def read_titles(folder, table, items, counts):
    """(item id -> title, item id -> category), for these items; counts are added to."""
    wanted = set(items)
    titles, categories, other = {}, {}, ""
    cleaned = differing = 0
    for place, (item, text, *more) in read_table(folder, table):
        if item not in wanted:
            other = item
            continue
        title = clean_text(text)
        cleaned += title != text
        category, year = (*more, "", "")[:2]
        year = YEAR.fullmatch(year)
        if title and year:
            title = f"{title} ({year[1]})"
        first = titles.setdefault(item, title)
        check_input(first == title or table.separator == JSON,
                    f"{place}: item {item!r} stood before with another title")
        differing += first != title  # as some of Amazon's do
        categories.setdefault(item, category_text(category))
    missing = [item for item in items if item not in titles]
    check_input(len(missing) < len(items),
                f"{folder}/{table.file}: no ratings are of its items: it has ids like {other!r}, "
                f"the ratings {items[:3]}; both files must use the same ids")
    if len(missing) > 0.05 * len(items):
        warn(f"{folder}/{table.file}: {len(missing) / len(items):.0%} of the items have no title, "
             f"{missing[:3]} for example: the prompt calls them \"item <id>\"")
    empty = [item for item in items if not titles.get(item)]
    titles.update((item, clean_text(f"item {item}")) for item in empty)
    counts["titles cleaned"] = cleaned
    counts["titles missing or empty"] = len(empty)
    if table.separator == JSON:
        counts["titles given again, otherwise: the first counts"] = differing
    if table.latin1:
        counts[f"{table.file} read as"] = encoding_of(find_file(folder, table.file), table)
    return titles, categories


def category_text(text: str) -> str:
    """ "Action|Crime" -> "action crime"; nothing where the publisher says that nothing is known."""
    category = clean_text(text.replace("|", " ")).lower()
    return "" if category in ("unknown", "(no genres listed)") else category


def read_table(folder: Path, table: Table):
    """Yield ("file:line", fields in the order of table.columns and table.optional) for each line
    that is not blank.

    White space around a field is no part of it; a field that the table lacks is "". AlroError names
    file and line of what is no text, or no such table.
    """
    path = find_file(folder, table.file)
    columns, width = table.columns + table.optional, table.width
    newline = "" if table.separator == "," else "\n"
    with one_line_error(f"{path}: cannot be read"):
        # A byte that cannot be decoded becomes a surrogate, so that the error can name its line.
        file = open_file(path, "rt", encoding_of(path, table), "surrogateescape", newline)
    with one_line_error(f"{path}: cannot be read"), file:
        for line, row in split_lines(path, file, table):
            place = f"{path}:{line}"
            if row in ([], [""]):
                continue
            if not width:  # this is the header
                width, columns = len(row), find_columns(row, table, place)
                continue
            check_input(len(row) == width,
                        f"{place}: expected {width} fields separated by {table.separator!r}, found "
                        f"{len(row)}; does a field hold {table.separator!r} itself, unquoted?")
            fields = [field(row, column) for column in columns]
            check_input(not SURROGATE.search("".join(fields)),
                        f"{place}: not UTF-8 text, save the file as UTF-8: {fields!a}")
            yield place, fields
    check_input(width > 0, f"{path}:1: the file is empty")


SURROGATE = re.compile("[\ud800-\udfff]")


def find_file(folder: Path, pattern: str) -> Path:
    """The one file of that name, or name.gz, in the folder; else an error that says what to do."""
    # Files that begin with a dot are what macOS and editors leave beside the real ones.
    names = sorted(path.name for path in folder.glob("[!.]*"))
    files = fnmatch.filter(names, pattern) or fnmatch.filter(names, pattern + ".gz")
    if len(files) == 1 and (folder / files[0]).is_file():
        return folder / files[0]
    nested = sorted(path.parent for path in folder.glob(f"*/{pattern}*"))
    advice = f"there are {', '.join(files or names[:10]) or 'no files'} (unpack a .zip)"
    if not folder.is_dir():
        advice = "there is no such folder"
    elif nested and not files:
        advice = f"is it {nested[0]}?"
    raise AlroError(f"{folder}: expected one file {pattern} or {pattern}.gz in it: {advice}")


def open_file(path, mode, encoding=None, errors=None, newline=None):
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, mode, encoding=encoding, errors=errors, newline=newline)


def encoding_of(path, table) -> str:
    """UTF-8, with or without a byte-order mark; Latin-1 where the table may be and is not UTF-8."""
    with open_file(path, "rb") as file:
        content = file.read() if table.latin1 else file.read(2)
    check_input(not content.startswith((b"\xff\xfe", b"\xfe\xff")),
                f"{path}:1: UTF-16 text: save the file as UTF-8")
    try:
        content.decode()
    except UnicodeDecodeError:
        return "latin-1" if table.latin1 else "utf-8-sig"
    return "utf-8-sig"


def field(row, column) -> str:
    if column is None:
        return ""
    if column == GENRE_FLAGS:
        flags = zip(ML_100K_GENRES, row[column])
        return "|".join(genre for genre, flag in flags if flag == "1")
    return row[column].strip()


def split_lines(path, file, table):
    """Yield (line number, fields) of each line of an open file; quotes count in .csv only."""
    if table.separator == JSON:
        yield from json_lines(path, file, table.columns + table.optional)
    elif table.separator != ",":
        for line, text in enumerate(file, 1):
            yield line, text.rstrip("\r\n").split(table.separator)
    else:
        rows = csv.reader(file, strict=True, skipinitialspace=True)
        line = 1
        try:
            for fields in rows:
                line = rows.line_num
                yield line, fields
        except csv.Error as error:
            raise AlroError(f"{path}:{line}: in this line or the next: {error}") from None


def json_lines(path, file, keys):
    """Yield (line number, the values of these keys as text); the keys first, as a header."""
    yield 1, keys
    for line, text in enumerate(file, 1):
        with one_line_error(f"{path}:{line}: expected a JSON object"):
            values = map(json.loads(text).get, keys) if text.strip() else []
        yield line, [json_text(value) for value in values]


def json_text(value) -> str:
    """A value as a field: of a list (categories, the broadest first) three entries."""
    entries = value[:3] if isinstance(value, list) else [value]
    return html.unescape("|".join(str(entry) for entry in entries if entry is not None))


def find_columns(header, table, place):
    """The number of the column that each pattern names; None for an optional one that is not."""
    columns = []
    for pattern in table.columns + table.optional:
        matching = [i for i, name in enumerate(header) if re.fullmatch(pattern, name.strip())]
        check_input(matching or pattern in table.optional,
                    f"{place}: the first line must name the columns, separated by "
                    f"{table.separator!r}; {pattern!r} is not among {header}")
        columns.append(matching[0] if matching else None)
    return columns


PLAIN_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def number(text, what, place) -> float:
    plain = PLAIN_NUMBER.fullmatch(text)  # float() would take "1_0", too
    check_input(plain is not None and math.isfinite(float(text)),
                f"{place}: {what} must be a finite number, got {text!r}")
    return float(text) + 0.0  # -0 would print as "-0"


def download(name: str, folder: Path) -> None:
    """Fetch a MovieLens archive, check it against the site's own .md5, keep the two files needed:
    both or none."""
    wanted = [table.file for table in LAYOUTS[name][:2]]
    url = f"{GROUPLENS}/{name}.zip"
    if all((folder / file).exists() for file in wanted):
        return
    with one_line_error(f"could not download {url} into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            archive = Path(scratch, "archive.zip")
            fetch(url, archive)
            # By name, nothing else: no member of the archive can climb out of the folder.
            inside = "ml-10M100K" if name == "ml-10m" else name
            with zipfile.ZipFile(archive) as members:
                for file in wanted:
                    Path(scratch, file).write_bytes(members.read(f"{inside}/{file}"))
            for file in wanted:
                os.replace(Path(scratch, file), folder / file)


def fetch(url: str, path: Path) -> None:
    """Write what url serves to path; AlroError unless its MD5 is the one in url.md5."""
    with urllib.request.urlopen(f"{url}.md5", timeout=60) as reply:
        text = reply.read(4096).decode("ascii", "replace")
    stated = re.findall(r"\b[0-9a-f]{32}\b", text)
    with urllib.request.urlopen(url, timeout=60) as reply, open(path, "wb") as file:
        shutil.copyfileobj(reply, file)
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    check_input([md5] == stated,
                f"{url}: its MD5 is {md5}, but {url}.md5 says {stated}: cut short? Try again")


# ---- python data.py ------------------------------------------------------------------------------

def describe(ratings: Ratings, splits: Splits, tokenizer=None) -> str:
    """A page about a dataset, and the prompt of one list in two displayed orders."""
    lists = splits.train + splits.valid + splits.test
    check_input(len(lists) > 0,
                f"no user has --list_size ratings after {MIN_HISTORY} others: no lists")
    m = len(lists[0].items)
    words = ratings.prompt_words()
    lines = [f"{len(ratings.users)} users, {len(ratings.items)} items, "
             f"{len(ratings.rating)} ratings"]
    for name, count in ratings.counts.items():
        total = len(ratings.items) if "titles" in name else ratings.counts["ratings read"]
        is_share = re.search("dropped|cleaned|missing", name)
        lines.append(f"{name}: {count}" + (f" ({count / total:.1%})" if is_share else ""))
    lines += histogram(ratings.rating)
    lines.append(f"same time: {tied_times(ratings):.1%} of a user's neighbouring ratings")
    for name, part in zip(Splits._fields, splits[:3]):
        useful = sum(ranking_list.informative for ranking_list in part)
        lines.append(f"{name}: {len(part)} lists of {m}, {useful} with two different ratings "
                     f"({useful / max(1, len(part)):.1%})")
    lines.append(f"tied: {tied_pairs(lists):.1%} of the pairs in a list")
    lines.append(prompt_lengths(words, lists, tokenizer))
    lines += example(words, lists[-1])
    return "\n".join(lines)


def histogram(rating):
    """A line for each rating; of more than 20 different ones, for each half."""
    name = "rating"
    if len(np.unique(rating)) > 20:
        rating = np.round(2 * rating) / 2
        name = "rating, rounded to halves,"
    values, counts = np.unique(rating, return_counts=True)
    lines = []
    for value, count in zip(values, counts):
        bar = "#" * round(40 * count / counts.max())
        lines.append(f"{name} {value:g}: {count:9d} {count / len(rating):6.1%} {bar}")
    return lines


def tied_pairs(lists):
    """The share of pairs of a list's candidates that have one rating."""
    table = np.array([ranking_list.ratings for ranking_list in lists])  # (lists, m)
    m = table.shape[1]
    equal = (table[:, :, None] == table[:, None, :]).mean()
    return (equal * m - 1) / (m - 1)  # less the diagonal


def prompt_lengths(words, lists, tokenizer):
    """How long prompts are, from a sample of at most 2,000 lists."""
    sample = lists[::math.ceil(len(lists) / 2000)]
    prompts = [list_prompt(words, ranking_list, ranking_list.shown) for ranking_list in sample]
    unit, pieces = "words", map(str.split, prompts)
    if tokenizer:
        unit, pieces = "tokens", encode(tokenizer, prompts).input_ids
    lengths = list(map(len, pieces))
    return (f"prompt: {min(lengths)} to {max(lengths)} {unit}, median {np.median(lengths):.0f} "
            f"(of {len(sample)} lists)")


def example(words, ranking_list):
    """The prompt and answer of one list in two displayed orders."""
    list_id, m = ranking_list.list_id, len(ranking_list.items)
    gold = gold_order(torch.tensor([ranking_list.ratings]), generator(list_id))[0].tolist()
    random_order = random_slots(m, "eval", list_id, 0)
    lines = []
    for name, slots in ("as shown", ranking_list.shown), ("in a random order", random_order):
        answer = "".join(IDENTIFIERS[slots.index(item)] for item in gold)
        prompt = list_prompt(words, ranking_list, slots)
        lines.append(f"\n--- list {list_id}, {name}; [the answer] ---\n{prompt}[{answer}]")
    return lines


def main(arguments: list[str] | None = None) -> str:
    cfg, show = parse_flags(arguments, DataConfig, ShowConfig)
    ratings = load(cfg)
    tokenizer = load_tokenizer(show.model) if show.model else None
    text = describe(ratings, split(ratings, cfg), tokenizer)
    print(text)
    return text


if __name__ == "__main__":
    run_script(main)
