"""data.py: files of five layouts to ratings, ratings to lists, lists to batches; and the command line around them.

The oracles (splits, k-core, NDCG) are written from DESIGN.md, slowly, on plain Python.
"""
import dataclasses
import hashlib
import io
import itertools
import math
import random
import re
import socketserver
import threading
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import alro
import cli
import data
from model import load_tokenizer, word_tokenizer
from alro import AlroError
from data import DataConfig

few = settings(deadline=None, max_examples=60)

# ------------------------------------------------------------------------------------------------------- files to load

LAYOUTS = {  # layout -> (separator, ratings file, its header, titles file, its header, encoding of the titles)
    "ml-100k": ("\t", "u.data", "", "u.item", "", "latin-1"),
    "ml-1m": ("::", "ratings.dat", "", "movies.dat", "", "latin-1"),
    "ml-latest-small": (",", "ratings.csv", "userId,movieId,rating,timestamp",
                        "movies.csv", "movieId,title,genres", "utf-8"),
    "recbole": ("\t", "x.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float",
                "x.item", "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq", "utf-8"),
    "csv": (",", "ratings.csv", "user,item,rating,timestamp", "items.csv", "item,title", "utf-8")}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
TITLES = {"1": "Heat (1995)", "2": "Usual Suspects, The (1995)", "10": 'Amélie "of" Montmartre'}
LINES = [("7", "1", "4", "100"), ("7", "10", "3.5", "50"), ("11", "2", "5", "7"), ("7", "2", "0.5", "200")]


def write(folder, layout, lines=LINES, titles=TITLES, end="\n", mark=b""):
    """Write (user, item, rating, timestamp) lines and {item: title} as the layout has them."""
    def title_line(item, title):
        if layout == "recbole":
            name, year = re.fullmatch(r"(?s)(.*?)(?: \((\d{4})\))?", title).groups()
            return f"{item}\t{name}\t{year or ''}\tDrama"
        quoted = f'{item},"' + title.replace('"', '""') + '"'
        return {"ml-100k": "|".join([item, title] + ["0"] * 22), "ml-1m": f"{item}::{title}::Drama",
                "ml-latest-small": quoted + ",Drama", "csv": quoted}[layout]

    separator, ratings_file, ratings_header, titles_file, titles_header, encoding = LAYOUTS[layout]
    names = list(itertools.starmap(title_line, dict(titles).items()))
    for file, header, body, codec in ((ratings_file, ratings_header, map(separator.join, lines), "utf-8"),
                                      (titles_file, titles_header, names, encoding)):
        text = "".join(line + end for line in [header] * bool(header) + list(body))
        (folder / file).write_bytes(mark * (codec == "utf-8") + text.encode(codec))
    return folder


def read(folder, layout, **options):
    return data.load(DataConfig(dataset=layout, data_path=str(folder), **options))


def rows_of(ratings):
    """A dataset as text again: {(user id, item id, rating, timestamp)}."""
    return {(ratings.users[u], ratings.items[i], float(r), float(t))
            for u, i, r, t in zip(ratings.user, ratings.item, ratings.rating, ratings.timestamp)}


def many(users=12, items=40, seed=0, least=5, most=40):
    """Lines of users with least..most ratings each, half stars and ties in time included."""
    rng = random.Random(seed)
    return [(str(u), str(i), str(rng.randint(1, 10) / 2), str(rng.randint(0, 30)))
            for u in range(users) for i in rng.sample(range(items), rng.randint(least, most))]


def replace_line(path, number, text):
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[:number - 1] + [text] + lines[number:]))


def refused(message):
    return pytest.raises(AlroError, match=message)


@every_layout
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r\n\r\n"])
def test_layouts_load_to_what_they_say(tmp_path, layout, end):
    """Half stars, quoted titles with commas, latin-1, joined years, byte-order mark, CRLF, blank lines, no year."""
    ratings = read(write(tmp_path, layout, end=end, mark=b"\xef\xbb\xbf" * (end == "\r\n")), layout)
    assert rows_of(ratings) == {(u, i, float(r), float(t)) for u, i, r, t in LINES}
    assert dict(zip(ratings.items, ratings.titles)) == TITLES
    assert ratings.noun == ("movie" if layout.startswith("ml-") else "item") and ratings.scale == (0.5, 5.0)
    order = list(zip(ratings.user, ratings.timestamp, ratings.item))
    assert order == sorted(order)
    if layout == "recbole":  # the year column is optional, and so is the prefix of the title's
        (tmp_path / "x.item").write_text("item_id:token\ttitle:token\n1\tHeat\n2\tBabe\n10\tFargo\n")
        assert read(tmp_path, layout).titles == ["Heat", "Babe", "Fargo"]


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
    assert "9" * 5000 in read(write(tmp_path, "csv", lines), "csv").users


SNIPPETS = ["", '"', '""', "\n", "\r", "\t", ",", "::", "|", "\0", "\ufeff", "nan", "-", "1e999", "\u2028", "\u0661"]
edits = st.lists(st.tuples(  # (where, how many bytes go; if negative, how many come twice; what is put in)
    st.floats(0, 1), st.sampled_from([0, 0, 1, 5, 20, 10 ** 6, -5, -20]),
    st.sampled_from(SNIPPETS).map(str.encode) | st.binary(max_size=4)), min_size=1, max_size=4)


@every_layout
def test_damaged_files_load_or_explain(tmp_path_factory, layout):
    """Property: a damaged file either loads to a sound dataset or is an AlroError of one line, never anything else."""
    folder = tmp_path_factory.mktemp(layout)

    @few
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
            assert all(title and title == alro.clean_text(title) for title in ratings.titles)
            assert len(set(zip(ratings.user, ratings.item))) == len(ratings.user)

    check()


# ------------------------------------------------------------------------------------------------- cleaning a dataset

def test_last_duplicate_by_time_counts(tmp_path):
    """Of several ratings of one item by one user the latest counts, wherever it stands; at one time the highest."""
    lines = [("1", "1", "2", "30"), ("1", "1", "5", "4"), *(("1", "2", rating, "10") for rating in "143")]
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        ratings = read(write(tmp_path, "csv", lines), "csv")
        assert rows_of(ratings) == {("1", "1", 2, 30), ("1", "2", 4, 10)}
        assert ratings.counts["duplicates dropped"] == 3 and ratings.counts["ratings read"] == 5


@every_layout
@pytest.mark.parametrize("options", [{}, {"k_core": 5}, {"max_users": 7}])
def test_order_of_lines_changes_nothing(tmp_path, layout, options):
    """Shuffled lines, duplicates among them, give equal arrays and equal lists."""
    lines, titles, results = many() + many(seed=1)[:50], [(str(i), f"Title {i} (1995)") for i in range(40)], []
    for seed in range(2):
        random.Random(seed).shuffle(lines)
        random.Random(seed).shuffle(titles)
        cfg = DataConfig(layout, str(write(tmp_path, layout, lines, titles)), list_size=3, **options)
        ratings = data.load(cfg)
        *lists, fit = data.split(ratings, cfg)
        results.append({**vars(ratings), **fit, "sha256": list(map(data.sha256, lists))})
    changed = [dataclasses.replace(lists[2][0], **{name: None}) for name in vars(lists[2][0])]
    assert len({data.sha256([one]) for one in [lists[2][0], *changed]}) == 7  # the hash sees every field
    for name, value in results[0].items():
        assert np.array_equal(value, results[1][name]), name


def test_ids_are_sorted_and_titles_cleaned(tmp_path):
    """Ids sort as numbers where all are digits; an empty title becomes `item <id>`; what was cleaned is counted."""
    for ids in (["09", "9", "10", "100"], ["10", "9", "a"]):
        ratings = read(write(tmp_path, "csv", [(i, j, "3", "0") for i in ids[::-1] for j in ids[::-1]]), "csv")
        assert ratings.users == ratings.items == ids
        assert ratings.item.tolist() == list(range(len(ids))) * len(ids)  # one time for all: in the order of items
    titles = {"1": "", "2": "A\x00\x1b  B\u2028C", "4": "  Plain ", "5": "\x01", "99": "of\tno rating"}
    ratings = read(write(tmp_path, "csv", [("1", item, "3", "0") for item in "12345"], titles), "csv")
    assert ratings.titles == ["item 1", "A B C", "item 3", "Plain", "item 5"]
    assert ratings.counts["titles cleaned"] == 2 and ratings.counts["titles missing or empty"] == 3


def test_k_core(tmp_path):
    """Users and items below k go, again and again until it holds: against a slow loop."""
    lines = many(users=20, items=25, most=12)
    write(tmp_path, "csv", lines)
    for k in (4, 5, 6):
        kept, core = None, {line[:2] for line in lines}
        while kept != core:
            kept = core
            core = {(u, i) for u, i in kept if sum(u == v for v, _ in kept) >= k and sum(i == j for _, j in kept) >= k}
        ratings = read(tmp_path, "csv", k_core=k)
        assert 0 < len(kept) < len(lines) and {row[:2] for row in rows_of(ratings)} == kept
        assert ratings.counts["dropped by --k_core"] == len(lines) - len(kept)
    with refused("k_core"):
        read(tmp_path, "csv", k_core=7)


def test_max_users(tmp_path):
    """So many users are kept, whole; fewer are a subset of more; more than there are is all of them."""
    lines = many()
    write(tmp_path, "csv", lines)
    four, seven, all_of_them = (read(tmp_path, "csv", max_users=n) for n in (4, 7, 99))
    assert (len(four.users), len(seven.users), len(all_of_them.users)) == (4, 7, 12)
    assert rows_of(four) < rows_of(seven) < rows_of(all_of_them)
    assert {row[:2] for row in rows_of(four)} == {line[:2] for line in lines if line[0] in four.users}
    assert four.users == ["1", "3", "5", "9"]  # by a hash of the id that never changes, not the first
    for ratings in four, all_of_them:
        assert ratings.counts["ratings read"] == len(lines)
        assert ratings.counts["dropped by --max_users"] == len(lines) - len(ratings.rating)


# --------------------------------------------------------------------------------------------------------------- lists

@pytest.mark.parametrize("m, history_size, stride", [(2, 20, 1), (5, 3, 4), (6, 8, 5), (13, 0, 2)])
def test_split_against_the_design(tmp_path, m, history_size, stride):
    """DESIGN.md, "Splits", word by word: ends of windows, history, rows a rival may be fitted on; and `shown`."""
    cfg = DataConfig("csv", str(write(tmp_path, "csv", many())), False, m, history_size, stride=stride)
    ratings = data.load(cfg)
    splits = data.split(ratings, cfg)
    expected, taken = {"train": [], "valid": [], "test": []}, {"train": set(), "valid": set(), "test": set()}
    for user in range(len(ratings.users)):
        mine = [n for n in range(len(ratings.user)) if ratings.user[n] == user]
        mine.sort(key=lambda n: (ratings.timestamp[n], int(ratings.items[ratings.item[n]])))
        rated = [(int(ratings.item[n]), float(ratings.rating[n])) for n in mine]
        ends = [("train", len(mine) - 2 * m - i * stride) for i in range(100)]
        for name, end in [("test", len(mine)), ("valid", len(mine) - m), *ends]:
            if end - m >= 5:
                history = rated[max(0, end - m - history_size):end - m]
                expected[name].append((user, history, sorted(rated[end - m:end])))
                taken[name] |= set(mine[end - m:end])
    popular = [sum(ratings.item[n] == item for n in splits.fit["train"]) for item in range(len(ratings.items))]
    for name, lists in zip(expected, splits):
        found = [(one.user, one.history, sorted(zip(one.items, one.ratings))) for one in lists]
        assert sorted(found) == sorted(expected[name]) and (found or name == "train")
        for one in lists:
            assert sorted(one.shown) == list(range(m))
            assert not {item for item, _ in one.history} & set(one.items)  # no candidate in its own history
            counts = [popular[one.items[i]] for i in one.shown]
            assert counts == sorted(counts, reverse=True)  # real data: popularity among the training ratings
    every = set(range(len(ratings.user)))
    assert set(splits.fit["test"].tolist()) == every - taken["test"]
    assert set(splits.fit["valid"].tolist()) == every - taken["test"] - taken["valid"] >= set(splits.fit["train"])
    ids = [one.list_id for lists in splits[:3] for one in lists]
    assert len(set(ids)) == len(ids)


def test_synthetic_world():
    """`expected` ranks best, `shown` is a fair retriever, an index says nothing about time; seed and noun work."""
    cfg = DataConfig()
    ratings = data.synthetic(cfg, n_users=80)
    *lists, _ = data.split(ratings, cfg)
    assert ratings.expected.shape == (len(ratings.users), len(ratings.items))

    def mean_ndcg(order_of):
        dcg = [[sum((2 ** one.ratings[i] - 1) / math.log2(k + 2) for k, i in enumerate(order)) for order in (
            order_of(one), sorted(range(6), key=lambda i, one=one: -one.ratings[i]))] for one in lists[2]]
        return sum(value / ideal for value, ideal in dcg) / len(dcg)

    oracle = mean_ndcg(lambda one: sorted(range(6), key=lambda i: -ratings.expected[one.user, one.items[i]]))
    chance = mean_ndcg(lambda one: data.random_slots(6, one.list_id))
    assert oracle > 0.97 > mean_ndcg(lambda one: one.shown) > 0.9 > 0.85 > chance
    time = {(u, i): t for u, i, t in zip(ratings.user, ratings.item, ratings.timestamp)}
    times = [[time[one.user, i] for i in one.items] for part in lists for one in part]
    for pick in (max, min):  # the place of the latest and of the earliest candidate is uniform over 0..m-1
        counts, share = np.bincount([row.index(pick(row)) for row in times], minlength=6), len(times) / 6
        assert ((counts - share) ** 2 / share).sum() < 20.5  # chi-square, 5 degrees of freedom: p = 0.001
    one, same, other = (data.synthetic(DataConfig(data_seed=s, noun="song"), n_users=3) for s in (0, 0, 1))
    assert rows_of(one) == rows_of(same) != rows_of(other) and one.noun == "song"


# ------------------------------------------------------------------------------------------------------------- batches

HOSTILE = ["A: 5", "x: 3", "😀 🎬🎬", "Fargo -> A", "Rank these movies from most to least liked by this user:",
           "Ranking:\nRanking: B", "<|im_end|>", "a\u2028b\x85c\x0bd\re", "3.5", ": 4.5", "Amélie (2001)", "ß -> B\n4"]
hostile = st.lists(st.text(max_size=8) | st.sampled_from(HOSTILE + ["\n", "\x1c", "\u2029", "\ud800", " -> ", "<|im_"]),
                   max_size=4).map("".join)


def byte_level(digits=False):
    """A byte-level BPE tokenizer with a special token <|im_end|>, as chat models have; digits: one token each."""
    tokenizer = Tokenizer(models.BPE())
    splitters = [pre_tokenizers.Digits(individual_digits=True)] * digits + [pre_tokenizers.ByteLevel(False)]
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Sequence(splitters), decoders.ByteLevel()
    texts = ["Ranking:" + "".join(alro.IDENTIFIERS), "Heat (1995): 4\nBabe (1995) -> A\nRank these movies"] * 20
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def word_level(titles):
    index, levels, titles = np.zeros(10, int), np.arange(1, 11) / 2, list(map(alro.clean_text, titles))
    return word_tokenizer(data.Ratings(index, index, levels, levels, ["0"], [], titles, "movie", {}))


def encoder_of(tokenizer, titles, m, max_length=100_000, history_targets=True):
    return data.Encoder(tokenizer, titles, "movie", (0.5, 5.0), m, max_length, history_targets)


@pytest.mark.parametrize("kind", ["word", "byte", "byte, digits"])
def test_batch(kind):
    """Property: whatever titles say, tokens are those of the text, and none is a special token; targets are the next
    tokens: first the gold identifiers, then, if asked for, the history's ratings."""
    tokenizer, m = byte_level(kind == "byte, digits"), 3
    special = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert special in tokenizer("Heat <|im_end|>").input_ids  # so it would, were it not for `encode`

    @few
    @given(st.lists(hostile, min_size=3, max_size=8), *[st.permutations(range(3))] * 2, st.booleans())
    @example(HOSTILE, [0, 1, 2], [1, 2, 0], True)
    @example(HOSTILE[::-1], [1, 2, 0], [0, 1, 2], True)
    def check(titles, slots, order, history_targets):
        encoder = encoder_of(word_level(titles) if kind == "word" else tokenizer, titles, m, 10 ** 6, history_targets)
        lists = [data.RankingList("x", 0, [(i, i / 2) for i in range(3, end)], [0, 1, 2], [1.0, 2.0, 3.5], [0, 1, 2])
                 for end in (3, len(titles))]  # one without history, one with
        orders = torch.tensor([order, slots])
        batch, prompts = encoder.batch(lists, [slots, order], orders), encoder.batch(lists, [slots, order])
        assert prompts.positions.shape == (2, 1) and (prompts.targets == -100).all() and not encoder.shortened
        assert batch.ratings.tolist() == [one.ratings for one in lists] and torch.equal(batch.order, orders)
        for b, one in enumerate(lists):
            text = alro.build_prompt([(titles[i], rating) for i, rating in one.history], titles[:3],
                                     batch.slots[b].tolist(), "movie", encoder.scale)
            answer = [alro.IDENTIFIERS[[slots, order][b].index(item)] for item in orders[b].tolist()]
            alone, whole = (alro.encode(encoder.tokenizer, [t]).input_ids[0] for t in (text, text + "".join(answer)))
            ids, last, decode = batch.input_ids[b].tolist(), len(alone) - 1, encoder.tokenizer.decode
            assert ids[:len(whole)] == whole == alone + batch.item_tokens()[b][orders[b]].tolist()
            assert prompts.input_ids[b].tolist()[:len(alone)] == alone and prompts.positions[b].item() == last
            assert set(ids[len(whole):]) | set(prompts.input_ids[b].tolist()[len(alone):]) <= {0}  # pads
            assert kind == "word" or special not in whole
            real = [(p, t) for p, t in zip(batch.positions[b].tolist(), batch.targets[b].tolist()) if t != -100]
            assert [ids[p + 1] for p, _ in real] == [t for _, t in real]
            assert [(p, decode([t])) for p, t in real[:m]] == list(zip(range(last, last + m), answer))
            lines = itertools.groupby(enumerate(real[m:]), lambda entry: entry[1][0] - entry[0])  # neighbours
            found = [[decode([token]).strip() for _, (_, token) in line] for _, line in lines]
            assert list(map("".join, found)) == [f"{rating:g}" for _, rating in one.history] * history_targets
            assert all(map(all, found))  # neither the space before a rating nor the end of its line

    check()


@few
@given(st.lists(st.tuples(hostile, st.sampled_from([1.0, 3.5, 5.0])), max_size=4),
       st.lists(hostile, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_prompt_has_one_line_for_each_candidate(history, titles, rng):
    """Property: by str.splitlines, exactly m lines after "Rank these", line j ending in " -> " and letter j."""
    slots = rng.sample(range(len(titles)), len(titles))
    lines = alro.build_prompt(history, titles, slots).splitlines()
    start = 1 + lines.index("Rank these movies from most to least liked by this user:")
    assert start == len(history) + 2 and lines[-1] == "Ranking:"
    assert lines[start:-1] == [f"{alro.clean_text(titles[i])} -> {letter}" for i, letter in zip(slots, "ABCDE")]


def test_long_prompts_lose_the_oldest_history():
    """As much history as fits, the newest, every candidate; the list's id is recorded; no room at all is an error."""
    titles, m = [f"Title {i}" for i in range(14)], 6
    one = data.RankingList("7/x", 0, [(i, 3.5) for i in range(6, 14)], list(range(6)), [3.0] * 6, [5, 4, 3, 2, 1, 0])
    tokenizer = word_level(titles)
    full = data.list_prompt(encoder_of(tokenizer, titles, m), one, one.shown).split("\n")
    for kept in range(8, -1, -1):
        text = "\n".join(full[:1] + full[9 - kept:])  # the header, `kept` lines of history, the rest
        encoder = encoder_of(tokenizer, titles, m, len(tokenizer(text).input_ids) + m)
        batch = encoder.batch([one], [one.shown], torch.tensor([range(m)]))
        assert tokenizer.decode(batch.input_ids[0, :-m]) == text and batch.input_ids.shape[1] == encoder.max_length
        assert encoder.shortened == (set() if kept == 8 else {"7/x"})
    encoder.max_length -= 1
    with refused("7/x"):
        encoder.batch([one], [one.shown])


def test_identifiers_must_be_one_token_each():
    """Refused by name: " A" in two tokens or merged with the line's end; all letters <unk>, or one, or two alike."""
    def tokens(letters, splitter=r"\n| ?\w+| ?[^\s\w]+| ", normalizer=None):
        words = ["<unk>", *letters, "->", " ->", "Ranking", ":", "\n", "Fargo"]
        tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(splitter), behavior="isolated")
        if normalizer:
            tokenizer.normalizer = normalizer
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
        return encoder_of(fast, [], 26).identifiers.tolist()

    assert tokens(alro.IDENTIFIERS) == list(range(1, 27))
    with refused("identifier ' A'"):
        tokens([" ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], splitter=r"[\s\S]")
    with refused("identifier ' A'"):
        tokens([*alro.IDENTIFIERS, *(name + "\n" for name in alro.IDENTIFIERS)], splitter=r" \w\n?|\w+| ?[^\s\w]+|\s")
    for letters, normalizer in ([], None), (alro.IDENTIFIERS, normalizers.Lowercase()):
        with refused("identifier ' [AB]'"):
            tokens(letters, normalizer=normalizer)
    with refused("identifier ' Q'"):
        tokens([letter for letter in alro.IDENTIFIERS if letter != " Q"])
    with refused("identifier ' Q'"):
        tokens(alro.IDENTIFIERS, normalizer=normalizers.Replace("Q", "B"))


# ------------------------------------------------------------------------------------------------------------ download

@pytest.fixture
def site(monkeypatch):
    """A loopback server in GroupLens's place: {path: the whole reply, header and body}."""
    files = {}

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            path = self.rfile.readline().split()[1].decode()
            while self.rfile.readline().strip():
                pass
            self.wfile.write(files.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(data, "GROUPLENS", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("no_proxy", "*")
        yield files
        server.shutdown()


def reply(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def serve(site, folder, members):
    """Put a zip of ml-100k, and its MD5, on the site."""
    write(folder, "ml-100k")
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        for name in members:
            archive.write(folder / name.split("/")[-1], name)
    md5 = hashlib.md5(file.getvalue()).hexdigest()
    site |= {"/ml-100k.zip": reply(file.getvalue()), "/ml-100k.zip.md5": reply(f"MD5 (ml-100k.zip) = {md5}\n".encode())}


def test_download(site, tmp_path, tmp_path_factory):
    """A good archive loads, its other members stay in it; a second call needs no server, unless a file is gone."""
    serve(site, tmp_path_factory.mktemp("away"), ["../u.item", "../../u.data", "ml-100k/u.data", "ml-100k/u.item"])
    folder = tmp_path / "deep" / "ml-100k"
    first = read(folder, "ml-100k", download=True)
    site.clear()
    assert rows_of(read(folder, "ml-100k", download=True)) == rows_of(first) and len(first.titles) == 3
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {folder / "u.data", folder / "u.item"}
    (folder / "u.item").unlink()
    with refused("ml-100k.zip"):
        read(folder, "ml-100k", download=True)


@pytest.mark.parametrize("fault", ["wrong MD5", "bad .md5", "cut short", "cut chunk", "not HTTP", "no .md5", "no zip",
                                   "not a zip", "no member", "evil member", "no server"])
def test_download_faults(site, tmp_path, tmp_path_factory, fault, monkeypatch):
    """Each is an AlroError that names the address, and leaves no file behind."""
    more = {"no member": [], "evil member": ["../u.item", "u.item"]}.get(fault, ["ml-100k/u.item"])
    serve(site, tmp_path_factory.mktemp("away"), ["ml-100k/u.data", *more])
    url = "/ml-100k.zip"
    site |= {"wrong MD5": {f"{url}.md5": reply(b"0" * 32)}, "bad .md5": {f"{url}.md5": reply(b"\xff")},
             "cut short": {url: site[url][:-200]}, "not HTTP": {url: b"220 smtp ready\r\n"},
             "not a zip": {url: reply(b"x"), f"{url}.md5": reply(hashlib.md5(b"x").hexdigest().encode())},
             "cut chunk": {url: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nabc"}}.get(fault, {})
    site.pop({"no .md5": f"{url}.md5", "no zip": url}.get(fault), None)
    if fault == "no server":
        monkeypatch.setattr(data, "GROUPLENS", "http://127.0.0.1:9")
    with refused("ml-100k.zip"):
        read(tmp_path / "data", "ml-100k", download=True)
    assert set(tmp_path.rglob("*")) <= {tmp_path / "data"}  # at most the empty folder


# -------------------------------------------------------------------------------------------------------- command line

def test_from_dict():
    """What is unknown or of another type is named; whole numbers will do for fractions, truth values for neither."""
    types = [("rate", float, 0.5), ("steps", int, 3), ("fast", bool, False), ("name", str | None, None)]
    config = dataclasses.make_dataclass("Config", types)
    good = {"rate": 1, "steps": 2, "fast": True, "name": "x"}
    assert cli.from_dict(config, good, "x.json") == config(1, 2, True, "x")
    assert cli.from_dict(config, {"name": None}, "x.json") == config()
    for field, value in [("rate", "1"), ("rate", True), ("rate", None), ("steps", 1.5), ("steps", True), ("fast", 1),
                         ("name", 3), ("name", True), ("nothing", 0)]:
        with refused(f"x.json.*{field}"):
            cli.from_dict(config, good | {field: value}, "x.json")


@pytest.mark.parametrize("arguments", ["--no_such 1", "--list_siz 4", "--list_size four", "stray"])
def test_unknown_flags_exit_with_2(arguments, capsys):
    """An unknown flag, an abbreviated one, a value of another type, a stray word; a good one goes where it belongs."""
    with pytest.raises(SystemExit) as stop:
        cli.parse(arguments.split(), DataConfig)
    assert stop.value.code == 2 and arguments.split()[0] in capsys.readouterr().err
    good = cli.parse(["--list_size", "4", "--model", "x"], DataConfig, data.ShowConfig)
    assert good == [DataConfig(list_size=4), data.ShowConfig("x")]


@pytest.mark.parametrize("arguments, flag", [*((text, text.split()[-2]) for text in (
    "--data_path x --dataset ml-20m", "--list_size 1", "--list_size 27", "--history_size -1", "--stride 0",
    "--data_seed -1", "--dataset csv --data_path x --k_core -1", "--dataset csv --data_path x --max_users -1",
    "--dataset csv --data_path x --download yes", "--download yes", "--k_core 5", "--max_users 5", "--data_path x")),
    ("--dataset csv", "--data_path"), ("--dataset ml-1m", "--download")])
def test_bad_values_name_the_flag(arguments, flag):
    """Each bad value of DataConfig, or pair of values that do not go together."""
    with refused(flag):
        cli.parse(arguments.split(), DataConfig)


def test_main_shows_a_dataset(monkeypatch, capsys, tmp_path):
    """Users, lists, share of ties; one list in two displayed orders, whose answers are the same titles, best first."""
    small = data.synthetic(DataConfig(), n_users=30)
    monkeypatch.setattr(data, "synthetic", lambda cfg: small)
    byte_level().save_pretrained(tmp_path)
    text = data.main(["--dataset", "synthetic", "--model", str(tmp_path)])
    assert capsys.readouterr().out == text + "\n"
    *lists, _ = data.split(small, DataConfig())
    pairs = [a == b for part in lists for one in part for a, b in itertools.combinations(one.ratings, 2)]
    assert f"30 users, {len(small.items)} items, {len(small.rating)} ratings" in text
    assert f"test: 30 lists of 6, {sum(one.informative for one in lists[2])} with two" in text
    assert f"tied: {np.mean(pairs):.1%}" in text and " tokens, median" in text
    answers = []
    for prompt in text.split("\n--- list ")[1:]:
        titles = {letter: title for title, letter in re.findall(r"(.*) -> ([A-Z])\n", prompt)}
        answers.append([titles[letter] for letter in re.search(r"Ranking:\[(.*)\]", prompt)[1].split()])
    assert len(answers) == 2 and answers[0] == answers[1] and len(set(answers[0])) == 6
    rated = {small.titles[i]: rating for i, rating in zip(lists[2][-1].items, lists[2][-1].ratings)}
    assert [rated[title] for title in answers[0]] == sorted(rated.values(), reverse=True)


def test_nothing_to_rank_is_an_error(tmp_path):
    """A dataset too thin for lists, lists with a single rating each, a folder without a tokenizer."""
    with refused("list_size"):
        data.main(["--dataset", "csv", "--data_path", str(write(tmp_path, "csv"))])
    good, dull = (data.RankingList("x", 0, [], [0, 1], [3.0, r], [0, 1]) for r in (4.0, 3.0))
    assert data.informative([dull, good], "test") == [good]
    with refused("no test list"):
        data.informative([dull], "test")
    with refused(re.escape(str(tmp_path))):
        load_tokenizer(str(tmp_path))
