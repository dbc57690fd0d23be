"""Ratings and titles that are not as they should be: read to what they say, or refused by file and line."""
import csv
import io
import random
import re
import shutil

import pytest
from damage import harmless, mutate
from helpers import csv_run, refused
from hypothesis import given
from hypothesis import strategies as st
from worlds import LAYOUTS, LINES, every_layout, many, read, replace_line, rows_of, write

import alro
import train
from alro import AlroError

BAD_LINES = {"too few fields": "7 1 4", "too many fields": "7 1 4 1 1", "word": "7 1 four 1", "no rating": "7 1  1",
             "nan": "7 1 nan 1", "inf": "7 1 inf 1", "overflow": "7 1 1e999 1", "underscore": "7 1 1_0 1",
             "negative": "7 1 -1 1", "too large": "7 1 10.5 1", "date": "7 1 4 1995-12-01", "no time": "7 1 4 ",
             "time nan": "7 1 4 nan", "time inf": "7 1 4 1e999", "no user": " 1 4 1",
             "no item": "7 \f 4 1", "not UTF-8": "7\udcff 1 4 1"}


@every_layout
@pytest.mark.parametrize("wrong", BAD_LINES)
def test_malformed_ratings_name_file_and_line(tmp_path, layout, wrong):
    """Whatever is wrong in a line of ratings, the error says where."""
    separator, file, header, *_ = LAYOUTS[layout]
    number = 3 if header else 2
    line = BAD_LINES[wrong].replace(" ", separator).encode("utf-8", "surrogateescape")
    replace_line(write(tmp_path, layout) / file, number, line)
    with refused(re.escape(f"{file}:{number}:")):
        read(tmp_path, layout)


@pytest.mark.parametrize("layout, number, text", [
    ("ml-100k", 2, b"2|Heat"), ("ml-1m", 2, b"2::Heat::Drama::x"), ("ml-latest-small", 3, b"2,Heat"),
    ("recbole", 3, b"2\tHeat"), ("recbole", 3, b"2\t\xff\t1995\tDrama"), ("csv", 3, b"2,Heat,x"),
    ("csv", 3, b"2,\xe9"), ("csv", 3, b'"2"x,Heat'), ("csv", 3, b'2,"Heat'), ("csv", 3, b'1,"Fargo"'),
    ("csv", 1, b"item,name"), ("recbole", 1, b"item_id:token\tx:token\ty\tz"), ("ml-latest-small", 1, b"id,title,x")])
def test_malformed_titles_name_file_and_line(tmp_path, layout, number, text):
    """Wrong number of fields, undecodable bytes, broken quotes, two titles for one item, a header without a column."""
    file = LAYOUTS[layout][3]
    replace_line(write(tmp_path, layout) / file, number, text)
    before = number - (text in (b'"2"x,Heat', b'2,"Heat'))  # a broken quote is "in this line or the next"
    with refused(rf"{re.escape(file)}:[{before}{number}]:"):
        read(tmp_path, layout)


@every_layout
@pytest.mark.parametrize("what", ["no folder", "no file", "empty", "blank lines", "header only", "a folder"])
def test_missing_and_empty_files(tmp_path, layout, what):
    """Nothing to read is an error that names the file."""
    file, header = LAYOUTS[layout][1:3]
    folder = tmp_path / "nowhere" if what == "no folder" else write(tmp_path, layout)
    (tmp_path / file).unlink(missing_ok=True)
    if what == "a folder":
        (tmp_path / file).mkdir()
    if what in ("empty", "blank lines", "header only"):
        (tmp_path / file).write_text({"empty": "", "blank lines": "\n\n"}.get(what, header))
    with refused(re.escape(file.removeprefix("x"))):
        read(folder, layout)


def test_odd_ids(tmp_path):
    """Ids of more digits than int() takes will do; an id with a line break makes no error of two lines."""
    lines = [*LINES, ("9" * 5000, "1", "4", "1"), ("7", '"a\nb"', "4", "1")]
    with pytest.raises(AlroError, match="items.csv:5") as error:
        read(write(tmp_path, "csv", lines, {'"a\nb"': "one", '" a\nb"': "two"}), "csv")
    assert "\n" not in str(error.value)
    assert "9" * 5000 in read(write(tmp_path, "csv", lines), "csv").columns.users

SNIPPETS = ["", '"', '""', "\n", "\r", "\t", ",", "::", "|", "\0", "\ufeff", "nan", "-", "1e999", "\u2028", "\u0661"]

edits = st.lists(st.tuples(  # (where, how many bytes go; if negative, how many come twice; what is put in)
    st.floats(0, 1), st.sampled_from([0, 0, 1, 5, 20, 10 ** 6, -5, -20]),
    st.sampled_from(SNIPPETS).map(str.encode) | st.binary(max_size=4)), min_size=1, max_size=4)


@every_layout
def test_damaged_files_load_or_explain(tmp_path_factory, layout):
    """Property: a damaged file either loads to a sound dataset or is an AlroError of one line, never anything else."""
    folder = tmp_path_factory.mktemp(layout)

    @given(st.sampled_from((1, 3)), edits)
    def check(which, changes):
        lines = many(users=3, items=8, most=8)
        write(folder, layout, lines + lines[:3], {str(i): f"Title, {i} (1995)" for i in range(8)})
        path = folder / LAYOUTS[layout][which]
        content = path.read_bytes()
        for where, length, snippet in changes:
            at = int(where * len(content))
            content = content[:at] + snippet + content[max(0, at + length):]
        path.write_bytes(content)
        try:
            ratings = read(folder, layout)
        except AlroError as error:
            assert len(str(error).splitlines()) == 1
        else:
            columns = ratings.columns
            assert all(title and title == alro.clean_text(title) for title in columns.titles)
            assert len(set(zip(columns.user, columns.item))) == len(columns.user)

    check()


def by_hand(folder, layout):
    """What a dataset's files say, read plainly: {(user, item): (time, rating)} of the last, {item: raw title}."""
    separator, ratings_file, header, titles_file, titles_header, encoding = LAYOUTS[layout]

    def table(file, codec, header):
        content = (folder / file).read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:  # what is no UTF-8 is Latin-1, where the layout has it
            text = content.decode("utf-8-sig" if codec == "utf-8" else codec, "replace")
        rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True) if separator == "," else (
            line.rstrip("\r\n").split(sep) for line in text.split("\n"))
        rows = [[field.strip() for field in row] for row in rows if row not in ([], [""])]
        if not header:
            return rows
        names = [name.split(":")[0] for name in re.split("[,\t]", header) if name not in ("genres", "class:token_seq")]
        names = [{"movie_title": r"\w*title", "release_year": r"(\w+_)?year"}.get(name, name) for name in names]
        there = [name.split(":")[0] for name in rows[0]]
        place = [next((i for i, found in enumerate(there) if re.fullmatch(name, found)), None) for name in names]
        return [["" if i is None else row[i] for i in place] for row in rows[1:]]

    sep, found = separator, {}
    for user, item, rating, time in table(ratings_file, "utf-8", header):
        found[user, item] = max(found.get((user, item), (-float("inf"), 0)), (float(time), float(rating)))
    sep = "|" if layout == "ml-100k" else separator
    return found, {row[0]: row[1:] for row in table(titles_file, encoding, titles_header)}


@every_layout
def test_a_thousand_damaged_files_load_to_what_they_say_or_name_file_and_line(tmp_path, layout):
    """250 damaged files of each layout. What loads holds exactly what a plain second reader finds, and every row that
    was dropped or cleaned is counted; what does not is one line with the file and, but for an empty one, the line.
    Every fifth is damaged harmlessly and must load, to what the files said before."""
    draw, outcomes = random.Random(layout), {"loaded": 0, "refused": 0}
    lines = many(users=3, items=8, most=8)
    for n in range(250):
        (tmp_path / f"{n}").mkdir()  # new files: to overwrite one waits for the disk
        folder = write(tmp_path / f"{n}", layout, lines + lines[:3], {str(i): f"Title, {i} (1995)" for i in range(8)})
        path = folder / LAYOUTS[layout][draw.choice([1, 1, 3])]
        whole = by_hand(folder, layout)
        header = LAYOUTS[layout][2] != ""
        injured = mutate(path.read_bytes(), draw) if n % 5 else harmless(path.read_bytes(), draw, header)
        path.unlink()
        path.write_bytes(injured)
        try:
            ratings = read(folder, layout)
        except AlroError as error:
            assert n % 5, f"a harmless file was refused: {error}"
            outcomes["refused"] += 1
            assert len(str(error).splitlines()) == 1
            assert re.search(rf"{path.name.replace('x.', '[*x].')}(:\d+: |: no ratings)", str(error)), str(error)
            continue
        outcomes["loaded"] += 1
        found, titles = by_hand(folder, layout)
        assert n % 5 or (found, titles) == whole
        assert rows_of(ratings) == {(user, item, rating, time) for (user, item), (time, rating) in found.items()}
        counts = ratings.columns.counts
        assert counts["ratings read"] == len(found) + counts["duplicates dropped"]
        cleaned = empty = 0
        for item, title in zip(ratings.columns.items, ratings.columns.titles):
            raw = titles.get(item, [""])
            name = alro.clean_text(raw[0])
            cleaned += any(alro.clean_text(text) != text for text in raw[:2 if layout == "recbole" else 1])
            empty += not name
            year = f" ({alro.clean_text(raw[1])})" if layout == "recbole" and len(raw) > 1 and raw[1] else ""
            assert title == (name + year if name else alro.clean_text(f"item {item}"))
        assert (counts["titles cleaned"], counts["titles missing or empty"]) == (cleaned, empty)
    print(layout, outcomes)
    assert min(outcomes.values()) > 20  # both kinds occur


def test_train_says_what_reading_dropped(world, tmp_path, capsys):
    """A file with three lines twice: the run itself says so, not data.py alone."""
    folder = shutil.copytree(world, tmp_path / "world")
    lines = (world / "ratings.csv").read_text().splitlines()
    (folder / "ratings.csv").write_text("\n".join(lines + lines[-3:]))
    train.train(*csv_run(folder, tmp_path / "run"))
    printed = capsys.readouterr().out
    assert f"ratings read: {len(lines) + 2}; " in printed and "duplicates dropped: 3; " in printed
