"""Published data sets: what their files are called and look like, how they are read and cleaned.

    read_dataset(cfg) -> Columns     cfg: data.DataConfig

A dataset is two files, ratings and titles; `LAYOUTS` says all about each: to add a dataset, add a
row.
"""
import array
import collections
import csv
import fnmatch
import gzip
import hashlib
import html
import json
import math
import os
import re
import shutil
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alro import AlroError, clean_text
from plumbing.flags import check_input, one_line_error, warn

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
MAX_RATING = 10  # gains are 2^rating - 1: beyond 10 one item would be all that counts


class Columns(NamedTuple):
    """Ratings as columns. Row n says: user[n] gave item[n] rating[n] at timestamp[n]."""
    user: np.ndarray        # (N,) int64, index into users
    item: np.ndarray        # (N,) int64, index into items, titles and categories
    rating: np.ndarray      # (N,) float64
    timestamp: np.ndarray   # (N,) float64, seconds; only their order counts
    users: list[str]        # ids as the file has them, sorted (as numbers where all are digits)
    items: list[str]
    titles: list[str]
    categories: list[str]   # "" where none is known
    noun: str               # what the prompt calls an item
    counts: dict[str, int]  # what was read, dropped and cleaned
    expected: np.ndarray | None = None  # (users, items) the synthetic world's ratings without noise


# ---- The layouts ---------------------------------------------------------------------------------

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


# ---- Reading -------------------------------------------------------------------------------------

def read_dataset(cfg) -> Columns:
    """Read, check and clean the files of a dataset; cfg: data.DataConfig.

    Raises: AlroError with file and line.
    """
    folder = Path(cfg.data_path or f"data/{cfg.dataset}").expanduser()
    if cfg.download:
        download(cfg.dataset, folder)
    rating_table, title_table, noun = LAYOUTS[cfg.dataset]
    numbers, users, items, counts = read_ratings(folder, rating_table, cfg.drop_zeros)
    titles, categories = read_titles(folder, title_table, items, counts)
    columns = canonical(numbers, users, items, titles, categories, noun, counts, cfg.k_core)
    zeros = (columns.rating == 0).mean()
    if zeros > 0.1:
        warn(f"{zeros:.0%} of the ratings are 0, taken for the worst: if 0 means \"not rated\", "
             "say --drop_zeros")
    if tied_times(columns) == 1:
        warn("each user's ratings all have one time: the order of a history is that of item ids")
    return columns


def item_texts(columns: Columns, cfg) -> list[str]:
    """The title of each item or, where --fields says so, title and category."""
    if "category" not in cfg.fields:
        return columns.titles
    check_input(any(columns.categories),
                f"--fields {cfg.fields}: the files of {cfg.dataset} name no category")
    return [f"{title}, {category}" if category else title
            for title, category in zip(columns.titles, columns.categories)]


def tied_times(ratings) -> float:
    """The share of neighbouring ratings of a user that have the same time."""
    neighbours = np.diff(ratings.user) == 0
    tied = neighbours & (np.diff(ratings.timestamp) == 0)
    return tied.sum() / max(1, neighbours.sum())


def read_ratings(folder, table, drop_zeros: bool):
    """(numbers (4, N): user, item, rating, timestamp; user ids, item ids, counts)."""
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
        if drop_zeros and value == 0:
            zeros += 1
        else:
            user_index = users.setdefault(user, len(users))
            item_index = items.setdefault(item, len(items))
            numbers.extend((user_index, item_index, value, seconds))
    check_input(users, f"{folder}/{table.file}: no ratings")
    counts = {"ratings read": lines}
    if drop_zeros:
        counts["zeros dropped"] = zeros
    return np.array(numbers).reshape(-1, 4).T, list(users), list(items), counts


YEAR = re.compile(r"(\d{4})(\.0*)?")  # RecBole writes 1999.0; 0.0 and "unknown" are no years


NO_TITLES = {"nan", "none", "null", "n/a", "na", "<na>", "unknown", "untitled", "no title"}


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
    # What many ids share and what programs write where nothing is known is no title.
    ids_with = collections.Counter(titles.values())
    titles = {item: title for item, title in titles.items()
              if ids_with[title] == 1 or title.lower() not in NO_TITLES}
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
    files = matching(names, pattern) or matching(names, pattern + ".gz")
    if len(files) == 1 and (folder / files[0]).is_file():
        return folder / files[0]
    nested = sorted(path.parent for path in folder.glob(f"*/{pattern}*"))
    advice = f"there are {', '.join(files or names[:10]) or 'no files'} (unpack a .zip)"
    if not folder.is_dir():
        advice = "there is no such folder"
    elif nested and not files:
        advice = f"is it {nested[0]}?"
    raise AlroError(f"{folder}: expected one file {pattern} or {pattern}.gz in it: {advice}")


def matching(names: list[str], pattern: str) -> list[str]:
    """The names that a pattern fits, in upper and lower case as on any other system."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


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


# ---- Cleaning ------------------------------------------------------------------------------------

def canonical(numbers, users, items, titles, categories, noun, counts, k_core=None) -> Columns:
    """Join items of one title, drop duplicates, apply the k-core, and number users, items and rows
    so that no order of lines shows. Rows are sorted by (user, timestamp, item).

    Args: numbers (4, N): user and item (indices into users and items), rating, timestamp; users,
        items: their ids; titles, categories: by id; counts: {what: how many}, is added to.
    Of several ratings of one item by one user the last counts: the last by time and, at one time,
    the highest.
    """
    user, item = np.array(numbers[:2], dtype=int)
    rating, timestamp = map(np.array, numbers[2:])
    # The prompt cannot tell two ids of one title apart: as two items, one could stand among the
    # candidates while the other stands in the history with the answer.
    first_id = {}
    for name in sort_ids(items):
        first_id.setdefault(titles[name], name)
    several_ids = len(items) - len(first_id)
    names = [titles[name] for name in items]
    pairs_of_ids = len(np.unique(user * len(items) + item))
    items, item = renumber([first_id[name] for name in names], item)
    pair = user * len(items) + item  # (N,) one number for each user and item
    order = np.lexsort((rating, timestamp, pair))
    last_of_pair = np.append(np.diff(pair[order]) != 0, True)
    unique = order[last_of_pair]
    joined = (pairs_of_ids - len(unique)) / len(order)
    if joined > 0.05:
        commonest, times = collections.Counter(names).most_common(1)[0]
        warn(f"{joined:.0%} of the ratings go as duplicates, since several ids have one title; the "
             f"commonest is {commonest!r}, of {times} ids: is it a title?")
    kept = core_rows(user, item, unique, k_core or 0)
    check_input(len(kept) > 0, f"no rating is left after --k_core {k_core}: try a smaller one")
    counts["duplicates dropped"] = len(order) - len(unique)
    if k_core:
        counts["dropped by --k_core"] = len(unique) - len(kept)
    counts["titles under several ids"] = several_ids
    users, user = renumber(users, user[kept])
    items, item = renumber(items, item[kept])
    rating, timestamp = rating[kept], timestamp[kept]
    rows = np.lexsort((item, timestamp, user))
    names = [titles[item_id] for item_id in items]
    kinds = [categories.get(item_id, "") for item_id in items]
    columns = [column[rows] for column in (user, item, rating, timestamp)]
    return Columns(*columns, users, items, names, kinds, noun, counts)


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


# ---- Downloading ---------------------------------------------------------------------------------

def download(name: str, folder: Path) -> None:
    """Fetch a MovieLens archive, check it against the site's own .md5, keep the two files needed:
    both or none."""
    wanted = [table.file for table in LAYOUTS[name][:2]]
    if all((folder / file).exists() for file in wanted):
        return
    url = f"{GROUPLENS}/{name}.zip"
    with one_line_error(f"could not download {url} into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            archive = Path(scratch, "archive.zip")
            fetch(url, archive)
            shutil.unpack_archive(archive, scratch)
            inside = Path(scratch, "ml-10M100K" if name == "ml-10m" else name)
            missing = [file for file in wanted if not (inside / file).is_file()]
            check_input(not missing, f"{url}: the archive's {inside.name}/ holds no {missing[:1]}")
            for file in wanted:
                os.replace(inside / file, folder / file)


def fetch(url: str, path: Path) -> None:
    """Write what url serves to path; AlroError unless its MD5 is the one in url.md5."""
    with urllib.request.urlopen(f"{url}.md5", timeout=60) as reply:
        text = reply.read(4096).decode("ascii", "replace")
    stated = re.findall(r"\b[0-9a-f]{32}\b", text)
    # (torch.hub's own download would wait for ever where a connection dies.)
    with urllib.request.urlopen(url, timeout=60) as reply, open(path, "wb") as file:
        shutil.copyfileobj(reply, file)
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    check_input([md5] == stated,
                f"{url}: its MD5 is {md5}, but {url}.md5 says {stated}: cut short? Try again")
