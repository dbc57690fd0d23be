"""What goes wrong with real users' data: one kind of fault at a time, the smallest input, and what is right.

One line on stderr that says what, where and what would be right; nothing lost, nothing repaired without a word.
"""
import gzip
import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

import data
from data import DataConfig
from experiments import describe
from helpers import refused
from plumbing import files
from worlds import LAYOUTS, every_layout, many, read, rows_of, write

NAMES = {str(i): f"Film {i}" for i in range(40)}


def page(folder, layout="csv", **options):
    """What `python -m experiments.describe` prints of a dataset."""
    cfg = DataConfig(layout, str(folder), list_size=3, **options)
    ratings = data.load(cfg)
    return describe.describe(ratings, data.split(ratings, cfg))


# ---- Two files that do not match -------------------------------------------------------------------------------------

@every_layout
def test_titles_of_other_ids_are_an_error(tmp_path, layout):
    """No rated item has a title: ids like 1.0 beside 1, or of two systems. It was trained on, as "item 25.0"."""
    lines = [(user, f"{item}.0", rating, time) for user, item, rating, time in many()]
    write(tmp_path, layout, lines, NAMES)
    with refused(rf"{LAYOUTS[layout][3].removeprefix('x')}: .*'39'.*\.0'.*the same ids"):
        read(tmp_path, layout)


def test_missing_titles_are_a_warning_above_a_twentieth(tmp_path, capsys):
    """Above 5 %: the share and three examples. Below: a line of the page with the share, no more."""
    read(write(tmp_path, "csv", many(), {str(i): f"Film {i}" for i in range(3, 40)}), "csv")
    warning, = capsys.readouterr().err.splitlines()
    assert "items.csv: 8% of the items have no title" in warning and all(f"'{i}'" in warning for i in (0, 1, 2))
    write(tmp_path, "csv", many(), {str(i): f"Film {i}" for i in range(2, 40)})
    assert "titles missing or empty: 2 (5.0%)" in page(tmp_path)
    assert capsys.readouterr().err == ""


def test_what_was_repaired_is_printed_with_its_share(tmp_path):
    """Titles cleaned or missing: of the items; ratings dropped: of those read; lists that say nothing: of the lists."""
    lines = many(users=12, items=40, least=20)
    titles = {str(i): f"Film\t{i}" if i < 4 else f"Film {i}" for i in range(39)}
    dull = [("99", str(i), "3", str(i)) for i in range(40)]
    printed = page(write(tmp_path, "csv", lines + lines[:7] + dull, titles))
    assert "titles cleaned: 4 (10.0%)" in printed and "titles missing or empty: 1 (2.5%)" in printed
    assert f"duplicates dropped: 7 ({7 / (len(lines) + 47):.1%})" in printed
    assert "test: 13 lists of 3, 12 with two different ratings (92.3%)" in printed


# ---- Encodings -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layout", ["ml-100k", "ml-1m"])
@pytest.mark.parametrize("codec, said", [("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("latin-1", "latin-1")])
def test_titles_in_utf8_or_latin1(tmp_path, layout, codec, said):
    """MovieLens publishes Latin-1, editors save UTF-8: the first that fits, which is said. It read "MisÃ©rables"."""
    lines = [(user, str(int(item) + 1), rating, time) for user, item, rating, time in many()]
    write(tmp_path, layout, lines, {str(i + 1): f"Les Misérables {i}" for i in range(40)})
    path = tmp_path / LAYOUTS[layout][3]
    path.write_bytes(path.read_bytes().decode("latin-1").encode(codec))
    assert read(tmp_path, layout).columns.titles[0] == "Les Misérables 0"
    assert f"{path.name} read as: {said}" in page(tmp_path, layout)


@every_layout
@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
def test_utf16_is_named(tmp_path, layout, codec):
    """What a spreadsheet calls "Unicode text". It was "not UTF-8", or a line of another number of fields."""
    for which in (1, 3):
        path = write(tmp_path, layout, many(), NAMES) / LAYOUTS[layout][which]
        mark = "\ufeff" if codec == "utf-16-be" else ""
        path.write_bytes((mark + path.read_bytes().decode("latin-1")).encode(codec))
        with refused(f"{path.name}:1: UTF-16 .* UTF-8"):
            read(tmp_path, layout)


# ---- Times and ratings that say nothing ------------------------------------------------------------------------------

def test_times_that_say_nothing(tmp_path, capsys):
    """The share of neighbouring ratings with one time is printed; if it is all of them, a warning: the order in a
    history is then that of ids."""
    lines = many(users=12, least=20)
    write(tmp_path, "csv", [(*line[:3], "0") for line in lines], NAMES)
    assert "same time: 100.0% of a user's neighbouring ratings" in page(tmp_path)
    assert "one time" in capsys.readouterr().err
    write(tmp_path, "csv", [(*line[:3], str(n // 2)) for n, line in enumerate(lines)], NAMES)
    ratings = read(tmp_path, "csv")
    user, time = ratings.columns.user, ratings.columns.timestamp
    pairs = [(a, b) for a, b in zip(range(len(user)), range(1, len(user))) if user[a] == user[b]]
    share = np.mean([time[a] == time[b] for a, b in pairs])
    assert f"same time: {share:.1%} of a user's" in page(tmp_path) and 0.3 < share < 0.7
    assert capsys.readouterr().err == ""


def test_zeros_that_mean_not_rated(tmp_path, capsys):
    """On a scale of 0 to 10 with many 0, as books' ratings have: a note that names the flag, which leaves them out."""
    rng = random.Random(0)
    lines = [(u, i, rng.choice(["0", "0", "5", "8", "10"]), t) for u, i, _, t in many(least=20)]
    write(tmp_path, "csv", lines, NAMES)
    assert "--drop_zeros" not in page(tmp_path) and "--drop_zeros" in capsys.readouterr().err
    kept = read(tmp_path, "csv", drop_zeros=True)
    zeros = sum(line[2] == "0" for line in lines)
    assert rows_of(kept) == {row for row in rows_of(read(tmp_path, "csv")) if row[2]} and kept.words.scale == (5, 10)
    assert f"zeros dropped: {zeros} ({zeros / len(lines):.1%})" in page(tmp_path, drop_zeros=True)
    write(tmp_path, "csv", many(), NAMES)  # half stars, no 0
    capsys.readouterr()
    read(tmp_path, "csv")
    assert capsys.readouterr().err == ""


def test_decimal_ratings_are_counted_in_halves(tmp_path):
    """Ratings like 3.217 made a line each, hundreds of them."""
    rng = random.Random(0)
    lines = [(u, i, f"{rng.uniform(0, 10):.4f}", t) for u, i, _, t in many(least=20)]
    printed = page(write(tmp_path, "csv", lines, NAMES)).splitlines()
    bars = [line for line in printed if line.startswith("rating")]
    assert "halves" in bars[1] and 20 < len(bars) <= 22
    assert sum(int(line.split(":")[1].split()[0]) for line in bars[1:]) == len(lines)


# ---- One title, two ids ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layout", ["csv", "recbole"])
def test_ids_of_one_title_are_one_item(tmp_path, layout):
    """ml-100k has 18 films under two ids. As two items one stood among the candidates, the other with its rating in the
    history. The prompt cannot tell them apart, so they are one item: the last rating by time counts."""
    lines = [("1", str(i), "3", str(i)) for i in range(12)] + [("1", "40", "5", "12"), ("2", "40", "4", "1")]
    titles = {**NAMES, "9": "Kull  (1997)", "40": "Kull (1997)"}
    for seed in range(3):
        random.Random(seed).shuffle(lines)
        ratings = read(write(tmp_path, layout, lines, titles), layout)
        columns = ratings.columns
        assert "40" not in columns.items and columns.titles.count("Kull (1997)") == 1
        assert {("1", "9", 5, 12), ("2", "9", 4, 1)} <= rows_of(ratings)
        assert columns.counts["titles under several ids"] == 1 and columns.counts["duplicates dropped"] == 1
    assert "titles under several ids: 1" in page(tmp_path, layout).splitlines()


def test_no_candidate_stands_in_its_own_history(tmp_path):
    """40 ids, 20 titles: in no list does a title stand twice, in the history or among the candidates."""
    write(tmp_path, "csv", many(users=30, least=30), {str(i): f"Film {i % 20}" for i in range(40)})
    cfg = DataConfig("csv", str(tmp_path), list_size=3)
    ratings = data.load(cfg)
    *lists, _ = data.split(ratings, cfg)
    assert ratings.columns.counts["titles under several ids"] == 20 and sum(map(len, lists)) > 30
    for ranking_list in [ranking_list for part in lists for ranking_list in part]:
        shown = [ratings.columns.titles[item] for item, _ in ranking_list.history]
        shown += [ratings.columns.titles[item] for item in ranking_list.items]
        assert len(set(shown)) == len(shown)


# ---- Columns ---------------------------------------------------------------------------------------------------------

RECBOLE = [  # headers of RecBole's own data sets, a line, and the text that the prompt should show
    ("item_id:token movie_title:token_seq release_year:token class:token_seq", "7 Heat 1995 Action",
     "Heat (1995), action"),
    ("item_id:token movie_title:token release_year:token genre:token_seq", "7 Heat 1995 Action", "Heat (1995), action"),
    ("item_id:token book_title:token_seq book_author:token publication_year:float publisher:token_seq",
     "7 Heat Mann 1999.0 X", "Heat (1999)"),
    ("item_id:token book_title:token_seq publication_year:float", "7 Heat 0.0", "Heat"),
    ("item_id:token movie_title:token_seq release_year:token", "7 Heat unkonwn", "Heat"),
    ("item_id:token name:token_seq genre:token_seq type:token episodes:float avg_rating:float members:float",
     "7 Heat Action TV 12 4.5 100", "Heat, action"),
    ("item_id:token sales_type:token sales_rank:float categories:token_seq title:token price:float brand:token",
     "7 Books 99 Action Heat 9.95 X", "Heat, action"),
    ("item_id:token subtitle:token original_title:token birth_year:token title:token", "7 no no 1900 Heat", "Heat"),
]


@pytest.mark.parametrize("header, line, text", RECBOLE)
def test_columns_of_recboles_own_data_sets(tmp_path, header, line, text):
    """A pattern takes what it means and no more: "publication_year:float" printed "(1999.0)"."""
    write(tmp_path, "recbole", [("1", "7", "5", "1")])
    (tmp_path / "x.item").write_text("\n".join([header, line]).replace(" ", "\t"))
    fields = "title,category" if "," in text else "title"
    assert read(tmp_path, "recbole", fields=fields).words.texts == [text]


def test_a_space_before_a_quote(tmp_path):
    """`1, "Film"` kept its quotes; a comma inside them was another field."""
    write(tmp_path, "csv")
    (tmp_path / "items.csv").write_text('item, title\n1, "Film"\n2, "Good, Bad"\n10,  plain\n')
    assert read(tmp_path, "csv").columns.titles == ["Film", "Good, Bad", "plain"]


# ---- Messages that say what the user did -----------------------------------------------------------------------------

def test_the_folder(tmp_path, monkeypatch):
    """A folder that is not there, a file in its place, one folder too high, an archive still packed, another layout."""
    good = write(tmp_path / "ml-x" if (tmp_path / "ml-x").mkdir() is None else None, "csv")
    with refused("nowhere: .*ratings.csv.*no such folder"):
        read(tmp_path / "nowhere", "csv")
    with refused("ratings.csv: .*no such folder"):
        read(good / "ratings.csv", "csv")
    with refused(r"is it .*/ml-x\?"):
        read(tmp_path, "csv")
    with refused("u.data.*items.csv, ratings.csv"):
        read(good, "ml-100k")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "ml-1m.zip").write_bytes(b"")
    with refused(r"ml-1m.zip \(unpack"):
        read(tmp_path / "packed", "ml-1m")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(read(Path("~/ml-x"), "csv").columns.titles) == 3  # a shell leaves ~ as it is in --data_path=~/ml-x


@every_layout
def test_hidden_twins_and_compressed_files(tmp_path, layout):
    """._x.inter, which macOS leaves beside x.inter, is no second file; x.inter.gz is read, x.inter wins where both
    are; two that would do are named."""
    write(tmp_path, layout)
    before = rows_of(read(tmp_path, layout))
    for which in (1, 3):
        path = tmp_path / LAYOUTS[layout][which]
        (tmp_path / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        (tmp_path / f"{path.name}.gz").write_bytes(b"no archive")
        assert rows_of(read(tmp_path, layout)) == before
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        assert rows_of(read(tmp_path, layout)) == before
    if layout == "recbole":
        (tmp_path / "y.inter.gz").write_bytes(b"")
        with refused("one file .*x.inter.gz, y.inter.gz"):
            read(tmp_path, layout)


@pytest.mark.parametrize("content", [b"no archive", b"", gzip.compress(b"user,item,rating,timestamp\n" * 99)[:-9]],
                         ids=["no archive", "empty", "cut short"])
def test_broken_archives_are_one_line(tmp_path, content):
    """Not an archive, empty, cut short: never the message of a killed process, as EOFError has."""
    write(tmp_path, "csv")
    (tmp_path / "ratings.csv").unlink()
    (tmp_path / "ratings.csv.gz").write_bytes(content)
    with refused("ratings.csv.gz"):
        read(tmp_path, "csv")


@pytest.mark.parametrize("name, text, message", [
    ("ratings.csv", "user;item;rating;timestamp\n1;1;5;1\n", "ratings.csv:1: .*separated by ','"),
    ("ratings.csv", "1,1,5,1\n1,2,4,1\n", "ratings.csv:1: the first line must name the columns"),
    ("items.csv", "item,title\n1,Good, Bad\n", "items.csv:2: .*hold ',' itself, unquoted"),
    ("ratings.csv", "user,item,rating,timestamp\n1,1,5,1995-12-01\n", "ratings.csv:2: .*seconds.*1995-12-01"),
    ("ratings.csv", "user,item,rating,timestamp\n1,1,85,1\n", "ratings.csv:2: .*bring it into range")])
def test_lines_that_a_spreadsheet_makes(tmp_path, name, text, message):
    """Semicolons, no header, a comma without quotes, dates, another scale: what would be right is said."""
    (write(tmp_path, "csv") / name).write_text(text)
    with refused(message):
        read(tmp_path, "csv")


# ---- Large files -----------------------------------------------------------------------------------------------------

def review(user, item, rating, time, **more):
    return json.dumps({"overall": rating, "verified": True, "reviewTime": "01 1, 2018", "reviewerID": user,
                       "asin": item, "reviewText": "Good\nor bad?", "unixReviewTime": time, **more}) + "\n"


def test_amazon_2018(tmp_path):
    """A JSON object a line, compressed, as its publisher has it; titles in HTML's writing; a title given twice."""
    lines = [("A", "1", 5.0, 3), ("B", "1", 1.0, 2), ("A", "2", 4.0, 1)]
    (tmp_path / "Music_5.json.gz").write_bytes(gzip.compress("".join(review(*line) for line in lines).encode()))
    meta = [{"asin": "1", "title": "Tom &amp; Jerry", "category": ["CDs &amp; Vinyl", "Pop", "Rock", "Deep"]},
            {"asin": "2", "title": "Second", "category": []}, {"asin": "2", "title": "2nd"}, {"asin": "9"}]
    (tmp_path / "meta_Music.json").write_text("\n".join(map(json.dumps, meta)))
    ratings = read(tmp_path, "amazon-2018", fields="title,category")
    assert rows_of(ratings) == {(user, item, rating, time) for user, item, rating, time in lines}
    assert ratings.words.texts == ["Tom & Jerry, cds & vinyl pop rock", "Second"]
    assert ratings.words.noun == "product"
    assert ratings.columns.counts["titles given again, otherwise: the first counts"] == 1
    for bad, place in (("[1]", 2), ("{'asin': 1}", 2), ("1", 2), ('{"asin": "1"}', 2)):
        (tmp_path / "Music_5.json.gz").write_bytes(gzip.compress((review(*lines[0]) + bad).encode()))
        with refused(f"Music_5.json.gz:{place}: "):
            read(tmp_path, "amazon-2018")


def test_prompt_lengths_come_from_a_sample(tmp_path, monkeypatch):
    """Of very many lists 2,000 are measured, which is said."""
    folder = write(tmp_path, "csv", many(users=80, items=40, least=40), NAMES)
    made = []
    monkeypatch.setattr(describe, "list_prompt", lambda *words: made.append(words) or "word")
    printed = page(folder, stride=1)
    lists = sum(int(line.split()[1]) for line in printed.splitlines() if " lists of 3, " in line)
    assert lists > 2000 >= len(made) and f"(of {len(made)} lists)" in printed
    assert {"train-0", "valid", "test"} <= {words[1].list_id.split("/")[1] for words in made}  # from all over


def test_download_of_larger_sets(tmp_path, monkeypatch):
    """ml-10m's archive calls its folder otherwise; each set has the two files of its layout."""
    for name, inside, wanted in (("ml-10m", "ml-10M100K", ("ratings.dat", "movies.dat")),
                                 ("ml-32m", "ml-32m", ("ratings.csv", "movies.csv"))):
        with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
            for member in wanted:
                archive.writestr(f"{inside}/{member}", member)
        monkeypatch.setattr(files, "fetch", lambda url, path, file=file: path.write_bytes(file.getvalue()))
        files.download(name, tmp_path / name)
        assert [(tmp_path / name / member).read_text() for member in wanted] == list(wanted)
