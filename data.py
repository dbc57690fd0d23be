"""From ratings to lists of candidates to batches: every dataset behind one type.

    python data.py [--dataset ml-100k --data_path DIR]     what a dataset looks like, and one prompt in two orders

    load(cfg) -> Ratings -> split(ratings, cfg) -> Splits of RankingList -> Encoder.batch(lists, ...) -> alro.Batch

A dataset is two delimited files, ratings and titles; `LAYOUTS` says all about each: to add a dataset, add a row.
"""
import array
import csv
import dataclasses
import hashlib
import itertools
import json
import os
import re
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from alro import (IDENTIFIERS, AlroError, Batch, build_prompt, clean_text, encode, gold_order, identifier_tokens,
                  rating_tokens)
from cli import check_least, explained, option, parse, require, run
from model import load_tokenizer, special_tokens

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
MIN_HISTORY, MAX_RATING = 5, 10  # a list needs so much history; gains are 2^rating - 1: beyond 10 one item would be all


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to rank. The defaults are the demo's."""
    dataset: str = option("synthetic", "synthetic, ml-100k, ml-1m, ml-latest-small, recbole or csv")
    data_path: str | None = option(None, "folder with the dataset's files, as its publisher unpacks them")
    download: bool = option(False, "fetch an ml-... set into --data_path (or data/<dataset>), its MD5 checked")
    list_size: int = option(6, "m, candidates in a list, 2..26 (GUESS)")
    history_size: int = option(8, "most ratings of history to show (GUESS)")
    history_ratings: bool = option(True, "False: the history says what was rated, not how (what ratings add)")
    stride: int = option(5, "ratings between the ends of a user's training lists (OURS)")
    noun: str | None = option(None, "what the prompt calls an item (default: the dataset's word)")
    k_core: int = option(0, "keep users and items with at least this many ratings, again and again until it holds")
    max_users: int = option(0, "keep this many users, chosen by a hash of their id; 0 = all")
    data_seed: int = option(0, "seed of the synthetic world (the run's own seed never changes the data)")

    def __post_init__(self):
        real = self.dataset != "synthetic"
        require(not real or self.dataset in LAYOUTS,
                f"--dataset must be one of synthetic, {', '.join(LAYOUTS)}; got {self.dataset!r}")
        require(self.noun is None or self.noun == clean_text(self.noun) != "", "--noun must be one line of text")
        require(2 <= self.list_size <= 26, f"--list_size must be 2..26 (A to Z), got {self.list_size}")
        check_least(self, history_size=0, stride=1, k_core=0, max_users=0, data_seed=0)
        require(self.dataset.startswith("ml-") or not self.download, "--download works for the ml-... datasets only")
        require(not real or self.download or self.data_path is not None,
                f"--dataset {self.dataset} needs --data_path, the folder with its files (or, for ml-..., --download)")
        require(real or not (self.data_path or self.k_core or self.max_users),
                "--data_path, --k_core and --max_users are not for the synthetic dataset")


@dataclasses.dataclass(frozen=True)
class ShowConfig:
    model: str | None = option(None, "count the prompts' tokens with the tokenizer of this Hugging Face id or folder")


@dataclasses.dataclass
class Ratings:
    """A dataset. Row n says: user[n] gave item[n] rating[n] at timestamp[n]; sorted by (user, timestamp, item)."""
    user: np.ndarray       # (N,) int64, index into users
    item: np.ndarray       # (N,) int64, index into items and titles
    rating: np.ndarray     # (N,) float64
    timestamp: np.ndarray  # (N,) float64, seconds; only their order counts
    users: list[str]       # ids as the file has them, sorted (as numbers where all are digits)
    items: list[str]
    titles: list[str]
    noun: str
    counts: dict[str, int]  # what was read, dropped and cleaned
    expected: np.ndarray | None = None  # (users, items) float: the synthetic world's ratings without noise

    @property
    def scale(self) -> tuple[float, float]:
        return float(self.rating.min()), float(self.rating.max())


@dataclasses.dataclass(frozen=True)
class RankingList:
    """m candidates of one user, to be put in the order in which the user went on to rate them."""
    list_id: str
    user: int                         # index into Ratings.users
    history: list[tuple[int, float | None]]  # (item, rating), oldest first: the ratings just before the candidates
    items: list[int]                  # m candidates in item order: shuffled, so that an index carries no information
    ratings: list[float]              # m, by item order
    shown: list[int]                  # the one fixed displayed order a retriever would give: slot -> index into items

    @property
    def informative(self) -> bool:
        return len(set(self.ratings)) > 1  # with one rating for all, every order is right


class Splits(NamedTuple):
    train: list[RankingList]
    valid: list[RankingList]
    test: list[RankingList]
    fit: dict[str, np.ndarray]  # split -> rows of Ratings a rival may be fitted on: all that lie before its lists


def generator(*key) -> torch.Generator:
    """Random numbers that depend on the key alone, not on what was drawn before: any list can be redone by itself."""
    return torch.Generator().manual_seed(int(hashlib.blake2b(repr(key).encode(), digest_size=7).hexdigest(), 16))


def random_slots(m: int, *key) -> list[int]:
    """A random displayed order of m candidates: slot -> item."""
    return torch.randperm(m, generator=generator("slots", *key)).tolist()


# ---- Reading files --------------------------------------------------------------------------------------------------

class Table(NamedTuple):
    """A delimited file. A column is the pattern of its name in the header or, where there is none, its number."""
    file: str         # name, or pattern of the one file in the folder
    separator: str
    columns: tuple    # of ratings: user, item, rating, timestamp; of titles: item, title and perhaps year
    width: int = 0    # fields in a line; 0 = the first line is a header and says
    encoding: str = "utf-8-sig"  # UTF-8 with or without a byte-order mark


LAYOUTS = {  # dataset -> (ratings, titles, what the prompt calls an item)
    "ml-100k": (Table("u.data", "\t", (0, 1, 2, 3), 4), Table("u.item", "|", (0, 1), 24, "latin-1"), "movie"),
    "ml-1m": (Table("ratings.dat", "::", (0, 1, 2, 3), 4), Table("movies.dat", "::", (0, 1), 3, "latin-1"), "movie"),
    "ml-latest-small": (Table("ratings.csv", ",", ("userId", "movieId", "rating", "timestamp")),
                        Table("movies.csv", ",", ("movieId", "title")), "movie"),
    # RecBole's atomic files name each column's type in the header ("rating:float"); the year may be a column.
    "recbole": (Table("*.inter", "\t", ("user_id:token", "item_id:token", "rating:float", "timestamp:float")),
                Table("*.item", "\t", ("item_id:token", r"\w*title:token(_seq)?", r"(\w+_)?year:\w+")), "item"),
    "csv": (Table("ratings.csv", ",", ("user", "item", "rating", "timestamp")),
            Table("items.csv", ",", ("item", "title")), "item"),
}


def read_table(folder: Path, table: Table):
    """Yield ("file:line", fields in the order of table.columns) for each line that is not blank; no year is "".

    White space around a field is no part of it. AlroError names file and line of what is no text, or no such table.
    """
    found = sorted(folder.glob(table.file))
    require(len(found) == 1 and found[0].is_file(), f"{folder}: expected one file {table.file}, found {len(found)}")
    quoted = table.separator == ","
    place, columns, width = f"{found[0]}:1", table.columns, table.width
    # A byte that cannot be decoded becomes a surrogate, so that the error below can name its line.
    with open(found[0], encoding=table.encoding, errors="surrogateescape", newline="" if quoted else "\n") as file:
        split_line = csv.reader(file, strict=True) if quoted else (
            line.rstrip("\r\n").split(table.separator) for line in file)
        try:
            for line, row in enumerate(split_line, 1):
                place = f"{found[0]}:{split_line.line_num if quoted else line}"
                if row in ([], [""]):
                    continue
                if not width:
                    width = len(row)
                    columns = [next((i for i, name in enumerate(row) if re.fullmatch(pattern, name.strip())), None)
                               for pattern in table.columns]
                    for name, at in zip(table.columns, columns):
                        require(at is not None or "year" in name, f"{place}: the header has no column {name!r}: {row}")
                    continue
                require(len(row) == width,
                        f"{place}: expected {width} fields separated by {table.separator!r}, found {len(row)}")
                fields = ["" if column is None else row[column].strip() for column in columns]
                require(not re.search("[\ud800-\udfff]", "".join(fields)), f"{place}: not UTF-8 text: {fields!a}")
                yield place, fields
        except csv.Error as error:
            raise AlroError(f"{place}: in this line or the next: {error}") from None
    require(width > 0, f"{place}: the file is empty")


def number(text: str, what: str, place: str) -> float:
    plain = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text)  # float() would take "1_0", too
    require(plain is not None and np.isfinite(float(text)), f"{place}: {what} must be a finite number, got {text!r}")
    return float(text) + 0.0  # -0 would print as "-0"


def read_ratings(folder: Path, layout: tuple[Table, Table, str], cfg: DataConfig) -> Ratings:
    """Read a dataset's two files. Memory grows with the ratings that are kept, not with the file."""
    (rating_file, title_file, noun), chosen = layout, None
    if cfg.max_users:  # a first pass over the file, which keeps nothing but user ids
        ids = {user for _, (user, *_) in read_table(folder, rating_file)}
        chosen = set(sorted(ids, key=lambda i: hashlib.blake2b(i.encode()).digest())[:cfg.max_users])
    users, items, columns, n_read = {}, {}, [array.array(code) for code in "qqdd"], 0
    for place, (user, item, rating, timestamp) in read_table(folder, rating_file):
        n_read += 1
        require(user != "" and item != "", f"{place}: user and item must not be empty")
        value, seconds = number(rating, "rating", place), number(timestamp, "timestamp", place)
        require(0 <= value <= MAX_RATING, f"{place}: rating {rating} is outside 0..{MAX_RATING}: bring it into range")
        if chosen is None or user in chosen:
            index = users.setdefault(user, len(users)), items.setdefault(item, len(items))
            for column, entry in zip(columns, (*index, value, seconds)):
                column.append(entry)
    require(len(users) > 0, f"{folder}/{rating_file.file}: no ratings")
    titles, cleaned = {}, 0
    for place, (item, *raw) in read_table(folder, title_file):
        if item in items:
            text, *year = map(clean_text, raw)
            cleaned += [text, *year] != raw
            text += f" ({year[0]})" if text and any(year) else ""
            require(titles.setdefault(item, text) == text, f"{place}: item {item!r} stood before with another title")
    empty = {item: clean_text(f"item {item}") for item in items if not titles.get(item)}
    counts = {"ratings read": n_read, "dropped by --max_users": n_read - len(columns[0]),
              "titles cleaned": cleaned, "titles missing or empty": len(empty)}
    return canonical(columns, [*users], [*items], titles | empty, cfg.noun or noun, counts, cfg.k_core)


def canonical(columns, users: list, items: list, titles: dict, noun: str, counts: dict, k_core: int = 0) -> Ratings:
    """Drop duplicates, apply the k-core, and number users, items and rows so that no order of lines shows.

    Of several ratings of one item by one user the last counts: the last by time and, at one time, the highest.
    """
    def renumber(ids: list[str], index: np.ndarray):  # -> sorted ids that occur, and the index into them
        kept = [ids[i] for i in np.unique(index)]
        kept.sort(key=(lambda i: (len(i.lstrip("0")), i.lstrip("0"), i)) if all(map(str.isdecimal, kept)) else None)
        position = {name: i for i, name in enumerate(kept)}
        return kept, np.array([position.get(name, -1) for name in ids])[index]

    user, item, rating, timestamp = (np.array(column) for column in columns)
    order = np.lexsort((rating, timestamp, item, user))
    pairs = np.stack([user, item])[:, order]
    unique = keep = order[np.append((pairs[:, 1:] != pairs[:, :-1]).any(0), True)]
    often = np.zeros(1, bool)
    while k_core and not often.all():
        often = (np.bincount(user[keep])[user[keep]] >= k_core) & (np.bincount(item[keep])[item[keep]] >= k_core)
        keep = keep[often]
    require(len(keep) > 0, f"no rating is left after --k_core {k_core}")
    counts |= {"duplicates dropped": len(order) - len(unique), "dropped by --k_core": len(unique) - len(keep)}
    users, user = renumber(users, user[keep])
    items, item = renumber(items, item[keep])
    rows = np.lexsort((item, timestamp[keep], user))
    return Ratings(user[rows], item[rows], rating[keep][rows], timestamp[keep][rows], users, items,
                   [titles[i] for i in items], noun, counts)


def download(name: str, folder: Path) -> None:
    """Fetch a MovieLens archive, check it against the site's own .md5, keep the two files needed: both or none."""
    wanted, url = [table.file for table in LAYOUTS[name][:2]], f"{GROUPLENS}/{name}.zip"
    if all((folder / file).exists() for file in wanted):
        return
    with explained(f"could not download {url} into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            archive = Path(scratch, "archive.zip")
            with urllib.request.urlopen(f"{url}.md5", timeout=60) as reply:
                stated = re.findall(r"\b[0-9a-f]{32}\b", reply.read(4096).decode("ascii", "replace"))
            with urllib.request.urlopen(url, timeout=60) as reply:  # 6 MB at most
                archive.write_bytes(reply.read())
            found = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
            require([found] == stated, f"{url}: its MD5 is {found}, but {url}.md5 says {stated}: cut short? Try again")
            with zipfile.ZipFile(archive) as members:  # these two by name, nothing else: no member can climb out
                for file in wanted:
                    Path(scratch, file).write_bytes(members.read(f"{name}/{file}"))
            for file in wanted:
                os.replace(Path(scratch, file), folder / file)


def synthetic(cfg: DataConfig, n_users: int = 2000, per_user: int = 32) -> Ratings:
    """A world that needs no file: rating = 3 + taste[user, genre] + quality[item] + noise, rounded into 1..5.

    A movie's first word tells its genre. `expected` has no noise: who ranks by it does as well as can be done.
    """
    words = """Acre Affair Anchor Arrow Autumn Banner Beacon Bell Border Bridge Candle Canyon Castle Circle Cloud Coast
        Crown Dawn Diary Door Dream Echo Ember Empire Exile Feather Field Fire Flight Forest Garden Gate Ghost Harbor
        Honor Horizon Island Journey Key Ladder Letter Lesson Mask Mirror Mountain Night Oath Ocean Promise Return River
        Road Secret Shadow Silence Storm Summer Tower Voyage Winter""".split()  # one to each movie
    titles = [f"{genre} {word}" for genre, word in zip(itertools.cycle(["Space", "Love", "Horror", "Western"]), words)]
    rng = np.random.default_rng(cfg.data_seed)
    quality = rng.normal(0, 1, len(titles))
    taste = rng.permuted(np.tile([-1, -1 / 3, 1 / 3, 1], (n_users, 1)), axis=1)  # each user's order of the genres
    expected = 3 + taste[:, np.arange(len(titles)) % 4] + quality  # (users, items)
    user, time = np.repeat(np.arange(n_users), per_user), np.tile(np.arange(per_user), n_users)
    item = rng.permuted(np.tile(np.arange(len(titles)), (n_users, 1)), axis=1)[:, :per_user].ravel()
    rating = np.clip(np.rint(expected[user, item] + rng.normal(0, 0.4, len(user))), 1, 5)
    ids = [str(i) for i in range(n_users + len(titles))]
    ratings = canonical((user, item, rating, time), ids[:n_users], ids[:len(titles)], dict(zip(ids, titles)),
                        cfg.noun or "movie", {})
    return dataclasses.replace(ratings, expected=expected[:, [int(i) for i in ratings.items]])


def load(cfg: DataConfig) -> Ratings:
    """Read, check and clean the dataset that cfg names. Raises AlroError with file and line."""
    folder = Path(cfg.data_path or f"data/{cfg.dataset}")
    if cfg.download:
        download(cfg.dataset, folder)
    return synthetic(cfg) if cfg.dataset == "synthetic" else read_ratings(folder, LAYOUTS[cfg.dataset], cfg)


# ---- Lists ----------------------------------------------------------------------------------------------------------

def split(ratings: Ratings, cfg: DataConfig) -> Splits:
    """Per user by time: the last m ratings are the test list, the m before the validation list, windows of m before
    that the training lists; a list exists only where MIN_HISTORY ratings come before it. By user, not by global time:
    another user's rating in `fit` may be later than a test list.
    """
    m = cfg.list_size
    bounds = np.searchsorted(ratings.user, np.arange(len(ratings.users) + 1)).tolist()  # user u: rows u to u + 1
    windows = {"train": [], "valid": [], "test": []}  # (user, label, first row of the user, row just after the list)
    held_out = {name: np.zeros(len(ratings.user), bool) for name in ("valid", "test")}
    for user, (first, end) in enumerate(itertools.pairwise(bounds)):
        past = [("train", f"train-{i}", e) for i, e in enumerate(range(end - 2 * m, first, -cfg.stride))]
        for name, label, e in [("test", "test", end), ("valid", "valid", end - m), *past]:
            if e - m - first >= MIN_HISTORY:
                windows[name].append((user, label, first, e))
                if name != "train":
                    held_out["valid"][e - m:e] = True  # nor may a rival of the validation lists see the test lists
                    held_out["test"][e - m:e] = name == "test"
    fit = {name: np.flatnonzero(~rows) for name, rows in held_out.items()}
    fit["train"] = fit["valid"]
    popularity = np.bincount(ratings.item[fit["train"]], minlength=len(ratings.items))

    def make(user: int, label: str, first: int, end: int) -> RankingList:
        list_id = f"{ratings.users[user]}/{label}"
        past = slice(max(first, end - m - cfg.history_size), end - m)
        rows = end - m + torch.randperm(m, generator=generator("items", list_id)).numpy()
        items, values = ratings.item[rows], ratings.rating[rows]
        score = popularity[items]
        if ratings.expected is not None:  # a fair retriever: the rating plus noise
            score = values + torch.randn(m, generator=generator("shown", list_id)).numpy()
        rated = ratings.rating[past].tolist() if cfg.history_ratings else itertools.repeat(None)
        return RankingList(list_id, user, list(zip(ratings.item[past].tolist(), rated)), items.tolist(),
                           values.tolist(), np.argsort(-score, kind="stable").tolist())

    return Splits(*([make(*window) for window in windows[name]] for name in windows), fit)


def informative(lists: list[RankingList], what: str) -> list[RankingList]:
    """The lists that can tell a good order from a bad one; an error if there is none."""
    kept = [one for one in lists if one.informative]
    require(len(kept) > 0, f"no {what} list with two different ratings (3 × --list_size + {MIN_HISTORY} ratings each)")
    return kept


def sha256(lists: list[RankingList]) -> str:
    """Hash of the lists' canonical JSON: results can be compared list by list only where it is the same."""
    rows = [vars(one) for one in sorted(lists, key=lambda one: one.list_id)]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


# ---- Batches --------------------------------------------------------------------------------------------------------

def list_prompt(words, one: RankingList, slots: list[int], dropped: int = 0) -> str:
    """The list's prompt, less the oldest `dropped` ratings; `words` (Ratings, Encoder) has titles, noun and scale."""
    history = [(words.titles[item], rating) for item, rating in one.history[dropped:]]
    return build_prompt(history, [words.titles[item] for item in one.items], slots, words.noun, words.scale)


@dataclasses.dataclass
class Encoder:
    """Turns lists into batches, for one tokenizer."""
    tokenizer: object
    titles: list[str]
    noun: str
    scale: tuple[float, float]
    list_size: int
    max_length: int                # tokens the model can read, prompt and answer
    history_targets: bool = False  # whether the history's rating tokens are targets too (alro.history_loss)
    multiple: int = 1              # pad batches to a multiple of so many tokens: few lengths, for torch.compile

    def __post_init__(self):
        self.identifiers = identifier_tokens(self.tokenizer, self.list_size)  # (m,)
        self.shortened = set()  # ids of lists whose oldest history did not fit

    def tokenise(self, lists: list[RankingList], slots: list[list[int]]) -> list[tuple]:
        """(prompt, tokens, their places in the text, lines of history) of each list, with the history that fits."""
        def rows(lists, slots, dropped):
            prompts = [list_prompt(self, one, order, dropped) for one, order in zip(lists, slots)]
            found = encode(self.tokenizer, prompts, return_offsets_mapping=self.history_targets)
            offsets = found.get("offset_mapping", [None] * len(lists))
            return [(*row, len(one.history) - dropped) for *row, one in zip(prompts, found.input_ids, offsets, lists)]

        found, (own, special) = rows(lists, slots, 0), special_tokens(self.tokenizer)
        for row, (one, order) in enumerate(zip(lists, slots)):
            while len(found[row][1]) + self.list_size > self.max_length:
                require(found[row][3] > 0,
                        f"list {one.list_id!r}: {len(found[row][1])} tokens without history: too long")
                self.shortened.add(one.list_id)
                found[row], = rows([one], [order], len(one.history) - found[row][3] + 1)
            require(special.isdisjoint(found[row][1][own:]), f"list {one.list_id!r}: a title holds a special token")
        return found

    def batch(self, lists: list[RankingList], slots: list[list[int]], orders: torch.Tensor | None = None) -> Batch:
        """Tokenise lists, list b in displayed order slots[b]; the Batch is on the CPU.

        Args: orders (B, m), gold: their identifiers are appended and become targets; None: prompts only, to rank.
        Raises: AlroError if a prompt does not fit; before, it loses its oldest history (see `shortened`).
        """
        m, rows, positions, targets = self.list_size, [], [], []
        displayed = torch.tensor(slots)  # (B, m)
        gold = torch.arange(m).expand(len(lists), m) if orders is None else orders
        answers = self.identifiers[displayed.argsort(-1).gather(-1, gold)].tolist()  # item -> slot -> token
        for (prompt, tokens, offsets, lines), answer in zip(self.tokenise(lists, slots), answers):
            last = len(tokens) - 1  # the last prompt token predicts the first identifier
            if orders is None:
                rows.append(tokens), positions.append([last]), targets.append([-100])
                continue
            found = rating_tokens(prompt, offsets, lines) if self.history_targets else []
            rows.append(tokens + answer)
            positions.append([*range(last, last + m), *(t - 1 for t in found)])  # token t is predicted at t - 1
            targets.append([*answer, *(tokens[t] for t in found)])
        def pad(rows, value):  # on the right; what stands there is never attended to, so any token will do
            return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, value)
        ratings = torch.tensor([one.ratings for one in lists], dtype=torch.float32)  # (B, m)
        ids = torch.nn.functional.pad(pad(rows, 0), (0, -max(map(len, rows)) % self.multiple))  # (B, T)
        return Batch(ids, pad(positions, 0), pad(targets, -100), self.identifiers, displayed, gold, ratings)


# ---- python data.py -------------------------------------------------------------------------------------------------

def describe(ratings: Ratings, splits: Splits, tokenizer=None) -> str:
    """A page about a dataset, and the prompt of one list in two displayed orders."""
    every = splits.train + splits.valid + splits.test
    require(len(every) > 0, f"no user has --list_size ratings after {MIN_HISTORY} others, so there are no lists")
    prompts = [list_prompt(ratings, one, one.shown) for one in every]
    lengths = list(map(len, encode(tokenizer, prompts).input_ids if tokenizer else map(str.split, prompts)))
    table, m = np.array([one.ratings for one in every]), len(every[0].items)  # (lists, m)
    tied = ((table[:, :, None] == table[:, None, :]).mean() * m - 1) / (m - 1)  # less the diagonal
    values, counts = np.unique(ratings.rating, return_counts=True)
    lines = [f"{len(ratings.users)} users, {len(ratings.items)} items, {len(ratings.rating)} ratings",
             *(f"{name}: {count}" for name, count in ratings.counts.items())]
    lines += [f"rating {value:g}: {n:9d} {n / counts.sum():6.1%} {'#' * round(40 * n / counts.max())}"
              for value, n in zip(values, counts)]
    lines += [f"{name}: {len(lists)} lists of {m}, {sum(one.informative for one in lists)} with two different ratings"
              for name, lists in zip(Splits._fields, splits[:3])]
    lines += [f"tied: {tied:.1%} of the pairs in a list", f"prompt: {min(lengths)} to {max(lengths)} "
              f"{'tokens' if tokenizer else 'words'}, median {np.median(lengths):.0f}"]
    one = every[-1]
    gold = gold_order(torch.tensor([one.ratings]), generator(one.list_id))[0].tolist()
    for name, slots in ("as shown", one.shown), ("in a random order", random_slots(m, "eval", one.list_id, 0)):
        answer = "".join(IDENTIFIERS[slots.index(item)] for item in gold)
        lines += [f"\n--- list {one.list_id}, {name}; [the answer] ---\n{list_prompt(ratings, one, slots)}[{answer}]"]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> str:
    cfg, show = parse(arguments, DataConfig, ShowConfig)
    ratings = load(cfg)
    print(text := describe(ratings, split(ratings, cfg), load_tokenizer(show.model) if show.model else None))
    return text


if __name__ == "__main__":
    run(main)
