"""data.py: files of five layouts to ratings, ratings to lists, lists to batches; what `python data.py` and
`python -m experiments.describe` show.

The oracles (splits, k-core, NDCG) are written from DESIGN.md, slowly, on plain Python. Damaged files: tests/trust.
"""
import dataclasses
import itertools
import math
import random
import re

import numpy as np
import pytest
import torch
from helpers import refused
from hypothesis import example, given
from hypothesis import strategies as st
from worlds import (
    LINES, TITLES, byte_level, encoder_of, every_layout, many, read, rows_of, word_level, write)

import alro
import data
import plumbing.model
from data import DataConfig
from experiments import describe
from plumbing.folder import sha256
from plumbing.model import load_tokenizer, tokenise
from plumbing.world import FILMS, GENRES, NEW_FILMS

# ---- Files to ratings -----------------------------------------------------------------------------------------------

@every_layout
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r\n\r\n"])
def test_layouts_load_to_what_they_say(tmp_path, layout, end):
    """Half stars, quoted titles with commas, latin-1, joined years, byte-order mark, CRLF, blank lines, no year."""
    ratings = read(write(tmp_path, layout, end=end, mark=b"\xef\xbb\xbf" * (end == "\r\n")), layout)
    assert rows_of(ratings) == {(u, i, float(r), float(t)) for u, i, r, t in LINES}
    columns, words = ratings
    assert dict(zip(columns.items, columns.titles)) == TITLES and words.texts == columns.titles
    assert words.noun == columns.noun == ("movie" if layout.startswith("ml-") else "item")
    assert words.scale == (0.5, 5.0) and words.levels == [0.5, 3.5, 4.0, 5.0]
    order = list(zip(columns.user, columns.timestamp, columns.item))
    assert order == sorted(order)
    if layout == "recbole":  # the year column is optional, and so is the prefix of the title's
        (tmp_path / "x.item").write_text("item_id:token\ttitle:token\n1\tHeat\n2\tBabe\n10\tFargo\n")
        assert read(tmp_path, layout).columns.titles == ["Heat", "Babe", "Fargo"]


# ---- Cleaning a dataset ---------------------------------------------------------------------------------------------

def test_last_duplicate_by_time_counts(tmp_path):
    """Of several ratings of one item by one user the latest counts, wherever it stands; at one time the highest."""
    lines = [("1", "1", "2", "30"), ("1", "1", "5", "4"), *(("1", "2", rating, "10") for rating in "143")]
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        ratings = read(write(tmp_path, "csv", lines), "csv")
        assert rows_of(ratings) == {("1", "1", 2, 30), ("1", "2", 4, 10)}
        counts = ratings.columns.counts
        assert counts["duplicates dropped"] == 3 and counts["ratings read"] == 5


@every_layout
@pytest.mark.parametrize("options", [{}, {"k_core": 5}])
def test_order_of_lines_changes_nothing(tmp_path, layout, options):
    """Shuffled lines, duplicates among them, give equal arrays and equal lists."""
    lines, titles, results = many() + many(seed=1)[:50], [(str(i), f"Title {i} (1995)") for i in range(40)], []
    for seed in range(2):
        random.Random(seed).shuffle(lines)
        random.Random(seed).shuffle(titles)
        cfg = DataConfig(layout, str(write(tmp_path, layout, lines, titles)), list_size=3, **options)
        ratings = data.load(cfg)
        *lists, fit = data.split(ratings, cfg)
        columns, words = ratings
        results.append({**columns._asdict(), **words._asdict(), **fit, "sha256": list(map(sha256, lists))})
    changed = [dataclasses.replace(lists[2][0], **{name: None}) for name in vars(lists[2][0])]
    assert len({sha256([one]) for one in [lists[2][0], *changed]}) == 7  # the hash sees every field
    for name, value in results[0].items():
        assert np.array_equal(value, results[1][name]), name


def test_ids_are_sorted_and_titles_cleaned(tmp_path):
    """Ids sort as numbers where all are digits; an empty title becomes `item <id>`; what was cleaned is counted."""
    for ids in (["09", "9", "10", "100"], ["10", "9", "a"]):
        columns = read(write(tmp_path, "csv", [(i, j, "3", "0") for i in ids[::-1] for j in ids[::-1]]), "csv").columns
        assert columns.users == columns.items == ids
        assert columns.item.tolist() == list(range(len(ids))) * len(ids)  # one time for all: in the order of items
    titles = {"1": "", "2": "A\x00\x1b  B\u2028C", "4": "  Plain ", "5": "\x01", "99": "of\tno rating"}
    columns = read(write(tmp_path, "csv", [("1", item, "3", "0") for item in "12345"], titles), "csv").columns
    assert columns.titles == ["item 1", "A B C", "item 3", "Plain", "item 5"]
    assert columns.counts["titles cleaned"] == 2 and columns.counts["titles missing or empty"] == 3


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
        assert ratings.columns.counts["dropped by --k_core"] == len(lines) - len(kept)
    with refused("k_core"):
        read(tmp_path, "csv", k_core=7)


# ---- Ratings to lists -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("m, history_size, stride", [(2, 20, 1), (5, 3, 4), (6, 8, 5), (13, 0, 2)])
def test_split_against_the_design(tmp_path, m, history_size, stride):
    """DESIGN.md, "Splits", word by word: ends of windows, history, rows a rival may be fitted on; and `shown`."""
    cfg = DataConfig("csv", str(write(tmp_path, "csv", many())), False, m, history_size, stride=stride)
    ratings = data.load(cfg)
    columns, splits = ratings.columns, data.split(ratings, cfg)
    expected, taken = {"train": [], "valid": [], "test": []}, {"train": set(), "valid": set(), "test": set()}
    for user in range(len(columns.users)):
        mine = [n for n in range(len(columns.user)) if columns.user[n] == user]
        mine.sort(key=lambda n: (columns.timestamp[n], int(columns.items[columns.item[n]])))
        rated = [(int(columns.item[n]), float(columns.rating[n])) for n in mine]
        ends = [("train", len(mine) - 2 * m - i * stride) for i in range(100)]
        for name, end in [("test", len(mine)), ("valid", len(mine) - m), *ends]:
            if end - m >= 5:
                history = rated[max(0, end - m - history_size):end - m]
                expected[name].append((user, history, sorted(rated[end - m:end])))
                taken[name] |= set(mine[end - m:end])
    popular = [sum(columns.item[n] == item for n in splits.fit["train"]) for item in range(len(columns.items))]
    for name, lists in zip(expected, splits):
        found = [(one.user, one.history, sorted(zip(one.items, one.ratings))) for one in lists]
        assert sorted(found) == sorted(expected[name]) and (found or name == "train")
        for one in lists:
            assert sorted(one.shown) == list(range(m))
            assert not {item for item, _ in one.history} & set(one.items)  # no candidate in its own history
            counts = [popular[one.items[i]] for i in one.shown]
            assert counts == sorted(counts, reverse=True)  # real data: popularity among the training ratings
    every = set(range(len(columns.user)))
    assert set(splits.fit["test"].tolist()) == every - taken["test"]
    assert set(splits.fit["valid"].tolist()) == every - taken["test"] - taken["valid"] >= set(splits.fit["train"])
    ids = [one.list_id for lists in splits[:3] for one in lists]
    assert len(set(ids)) == len(ids)


def test_synthetic_world():
    """`expected` ranks best, `shown` is a fair retriever, an index says nothing about time; the world is always the
    same, its rows are in order, its items all rated; noun works."""
    cfg = DataConfig()
    ratings = data.load(cfg, n_users=80)
    columns, splits = ratings.columns, data.split(ratings, cfg)
    *lists, _ = splits
    assert columns.expected.shape == (len(columns.users), len(columns.items))
    new = {i for i, title in enumerate(columns.titles) if title.split()[0] in FILMS[-NEW_FILMS:]}
    for name in ("train", "valid", "test"):  # nobody has rated a new film before the test lists
        assert new.isdisjoint(columns.item[splits.fit[name]].tolist())
    assert {len(new & set(one.items)) for one in splits.test} == {2}
    genre = np.array([title.split()[1] for title in columns.titles])
    for user in range(80):  # each user loves one genre, whatever the films' quality
        means = [columns.expected[user, genre == name].mean() for name in GENRES]
        assert abs(means[0] - means[1]) > 1.8
    assert np.ptp(columns.expected[:, sorted(new)] % 2) == 0  # a new film: 4 or 2, as its genre says

    def mean_ndcg(order_of):
        dcg = [[sum((2 ** one.ratings[i] - 1) / math.log2(k + 2) for k, i in enumerate(order)) for order in (
            order_of(one), sorted(range(6), key=lambda i, one=one: -one.ratings[i]))] for one in lists[2]]
        return sum(value / ideal for value, ideal in dcg) / len(dcg)

    oracle = mean_ndcg(lambda one: sorted(range(6), key=lambda i: -columns.expected[one.user, one.items[i]]))
    chance = mean_ndcg(lambda one: data.random_slots(6, one.list_id))
    assert oracle > 0.98 > mean_ndcg(lambda one: one.shown) > 0.9 > 0.85 > chance
    time = {(u, i): t for u, i, t in zip(columns.user, columns.item, columns.timestamp)}
    times = [[time[one.user, i] for i in one.items] for part in lists for one in part]
    for pick in (max, min):  # the place of the latest and of the earliest candidate is uniform over 0..m-1
        counts, share = np.bincount([row.index(pick(row)) for row in times], minlength=6), len(times) / 6
        assert ((counts - share) ** 2 / share).sum() < 20.5  # chi-square, 5 degrees of freedom: p = 0.001
    for new_films in (2, 0):
        columns = data.load(DataConfig(new_films=new_films), n_users=80).columns
        order = list(zip(columns.user, columns.timestamp, columns.item))
        assert order == sorted(order) and {*columns.item.tolist()} == {*range(len(columns.titles))}
        assert columns.expected.shape == (80, len(columns.items)) and len(columns.titles) == 36 + 6 * new_films
    one, same, other = (data.load(DataConfig(new_films=n, noun="song"), n_users=3) for n in (2, 2, 1))
    assert rows_of(one) == rows_of(same) != rows_of(other) and one.words.noun == "song"


# ---- Lists to batches -----------------------------------------------------------------------------------------------

HOSTILE = ["A: 5", "x: 3", "😀 🎬🎬", "Fargo -> A", "Rank these movies from most to least liked by this user:",
           "Ranking:\nRanking: B", "<|im_end|>", "a\u2028b\x85c\x0bd\re", "3.5", ": 4.5", "Amélie (2001)", "ß -> B\n4"]
hostile = st.lists(st.text(max_size=8) | st.sampled_from(HOSTILE + ["\n", "\x1c", "\u2029", "\ud800", " -> ", "<|im_"]),
                   max_size=4).map("".join)


@pytest.mark.parametrize("kind", ["word", "byte", "byte, digits"])
def test_batch(kind):
    """Property: whatever titles say, tokens are those of the text, and none is a special token; behind the prompt stand
    the gold identifiers; `history_rated` are the tokens of the history's ratings, where they stand, and
    `candidate_at` is where each candidate's identifier stands, whose token before belongs to its own line."""
    tokenizer, m = byte_level(kind == "byte, digits"), 3
    special = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert special in tokenizer("Heat <|im_end|>").input_ids  # so it would, were it not for `tokenise`

    @given(st.lists(hostile, min_size=3, max_size=8), *[st.permutations(range(3))] * 2)
    @example(HOSTILE, [0, 1, 2], [1, 2, 0])
    @example(HOSTILE[::-1], [1, 2, 0], [0, 1, 2])
    def check(titles, slots, order):
        words = word_level(titles) if kind == "word" else tokenizer
        encoder = encoder_of(words, titles, m, 10 ** 6)
        decode = encoder.tokenizer.decode
        histories = [], [(i, min(i, 10) / 2) for i in range(3, len(titles))]
        lists = [data.RankingList("x", 0, history, [0, 1, 2], [1.0, 2.0, 3.5], [0, 1, 2]) for history in histories]
        orders = torch.tensor([order, slots])
        batch = encoder.encode(lists, [slots, order], orders)
        prompts = encoder.encode(lists, [slots, order])
        assert prompts.history_at.shape == prompts.history_rated.shape == (2, 0)
        assert torch.equal(prompts.candidate_at, batch.candidate_at) and (prompts.candidate_rated == -100).all()
        assert batch.ratings.tolist() == [[1.0, 2.0, 3.5]] * 2 and torch.equal(batch.order, orders)
        for b, history in enumerate(histories):
            text = alro.build_prompt([(titles[i], rating) for i, rating in history], titles[:3],
                                     batch.slots[b].tolist(), "movie", encoder.words.scale)
            answer = [alro.IDENTIFIERS[[slots, order][b].index(item)] for item in orders[b].tolist()]
            alone, whole = (tokenise(encoder.tokenizer, [t]).input_ids[0] for t in (text, text + "".join(answer)))
            ids, prompt = batch.input_ids[b].tolist(), prompts.input_ids[b].tolist()
            assert ids[:len(whole)] == whole == alone + batch.candidate_tokens()[b][orders[b]].tolist()
            assert list(map(decode, whole[len(alone):])) == answer
            assert batch.prompt_tokens[b] == prompts.prompt_tokens[b] == len(alone) and prompt[:len(alone)] == alone
            assert set(ids[len(whole):]) | set(prompt[len(alone):]) <= {0}  # pads
            assert kind == "word" or special not in whole
            places = batch.history_at[b][batch.history_rated[b] != -100].tolist()
            assert batch.history_rated[b].tolist()[:len(places)] == [ids[t] for t in places]  # pads follow
            assert (batch.history_at[b][len(places):] == 1).all() and all(t < len(alone) for t in places)
            lines = itertools.groupby(enumerate(places), lambda entry: entry[1] - entry[0])  # neighbours
            rated = [[decode([ids[t]]).strip() for _, t in line] for _, line in lines]
            whole_ratings = ["".join(line).removeprefix(": ") for line in rated]  # to a word tokenizer ": 4" is one
            assert whole_ratings == [f"{rating:g}" for _, rating in history]
            assert all(map(all, rated))  # neither the space before a rating nor the end of its line
            at = batch.candidate_at[b].tolist()
            assert [ids[t] for t in at] == batch.candidate_tokens()[b].tolist()
            # What has been read before the identifier ends with the candidate's own line, as far as "->".
            for item, place in enumerate(at):
                before = text[:text.rindex(f" ->{answer[orders[b].tolist().index(item)]}\n") + 3]
                assert ids[:place] == tokenise(encoder.tokenizer, [before]).input_ids[0]

    check()


LEVELS = {"one to five": [1.0, 2.0, 3.0, 4.0, 5.0], "half stars": [0.5, 1.0, 3.5, 4.0], "one to ten": [1.0, 2.0, 10.0]}


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", ["word", "byte", "byte, digits"])
def test_a_candidates_rating_is_one_token_or_no_target(kind, levels):
    """Never two levels taken for one: each has a token of its own, the last of its text, or none has."""
    titles = ["Heat", "Babe", "Fargo"]
    tokenizer = word_level(titles) if kind == "word" else byte_level(kind == "byte, digits")
    encoder = encoder_of(tokenizer, titles, 3, levels=LEVELS[levels])
    texts = [tokenise(tokenizer, [f"Heat: {level:g}"]).input_ids[0] for level in LEVELS[levels]]
    whole = len({*map(len, texts)}) == 1 and len({tokens[-1] for tokens in texts}) == len(texts)
    if kind == "word" and levels == "one to ten":  # its catalogue has half stars up to 5: 10 is no word
        whole = False
    one = data.RankingList("x", 0, [], [0, 1, 2], LEVELS[levels][:3], [0, 1, 2])
    batch = encoder.encode([one], [[1, 2, 0]], torch.tensor([[0, 1, 2]]))
    assert encoder.levels.tolist() == LEVELS[levels] * whole
    assert batch.candidate_rated[0].tolist() == [tokens[-1] if whole else -100 for tokens in texts[:3]]
    assert whole or (kind, levels) != ("byte, digits", "one to five")  # the test is of something


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0]), min_size=3, max_size=3), st.permutations(range(3)),
       st.permutations(range(3)))
def test_no_prompt_tells_a_candidates_rating(ratings, slots, order):
    """It is a target alone: whatever the ratings, the model reads the same, in training and to rank. (Were one to leak,
    knowing were reading.) In bytes, too: a word that leaks would be, to a tokenizer of words, one that it never saw."""
    one = data.RankingList("x", 0, [(3, 4.0)], [0, 1, 2], [3.0, 3.0, 3.0], [0, 1, 2])
    other = dataclasses.replace(one, ratings=ratings)
    for tokenizer in FILM_TOKENS, BYTES:
        encoder = encoder_of(tokenizer, ["Heat", "Babe", "Fargo", "Casino"], 3)
        assert len(encoder.token_of_level) == (5 if tokenizer is FILM_TOKENS else 0)
        first, second = (data.list_prompt(encoder.words, ranking_list, slots) for ranking_list in (one, other))
        assert first == second
        for gold in torch.tensor([order]), None:
            first, second = (encoder.encode([ranking_list], [slots], gold) for ranking_list in (one, other))
            told = [encoder.token_of_level.get(rating, -100) for rating in ratings]
            assert second.candidate_rated[0].tolist() == (told if gold is not None else [-100] * 3)
            for name in set(first._fields) - {"ratings", "candidate_rated"}:
                assert torch.equal(getattr(first, name), getattr(second, name)), name


FILM_TOKENS = word_level(["Heat", "Babe", "Fargo", "Casino"])


def test_the_prompt_is_the_designs_word_by_word():
    """DESIGN.md, "The prompt", for other words and another scale, too."""
    slots = [1, 0]
    films = alro.build_prompt([("Heat (1995)", 4.0), ("Babe  (1995)\n", 4.5)], ["Casino (1995)", "Fargo (1996)"], slots)
    assert films == ("A user rated these movies (1 = worst, 5 = best):\nHeat (1995): 4\nBabe (1995): 4.5\n"
                     "Rank these movies from most to least liked by this user:\n"
                     "Fargo (1996) -> A\nCasino (1995) -> B\nRanking:")
    songs = alro.build_prompt([("Help!", 0.5)], ["Yesterday", "Girl"], slots, "song", (0.5, 10))
    assert songs == ("A user rated these songs (0.5 = worst, 10 = best):\nHelp!: 0.5\n"
                     "Rank these songs from most to least liked by this user:\nGirl -> A\nYesterday -> B\nRanking:")


@given(st.lists(st.tuples(hostile, st.sampled_from([1.0, 3.5, 5.0])), max_size=4),
       st.lists(hostile, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_prompt_has_one_line_for_each_candidate(history, titles, rng):
    """Property: by str.splitlines, exactly m lines after "Rank these", line j ending in " -> " and letter j."""
    slots = rng.sample(range(len(titles)), len(titles))
    lines = alro.build_prompt(history, titles, slots).splitlines()
    start = 1 + lines.index("Rank these movies from most to least liked by this user:")
    assert start == len(history) + 2 and lines[-1] == "Ranking:"
    assert lines[start:-1] == [f"{alro.clean_text(titles[i])} -> {letter}" for i, letter in zip(slots, "ABCDE")]


TITLES_OF_800 = [f"Title {i}" + " again" * (i % 5) for i in range(806)]  # of 2 to 6 words
BYTES, WORDS = byte_level(), word_level(TITLES_OF_800)


def list_of(ratings_of_history, m=6):
    """A list of the first m titles, with as many ratings of others before it."""
    history = [(m + i, i % 10 / 2 + 0.5) for i in range(ratings_of_history)]
    return data.RankingList("7/x", 0, history, list(range(m)), [3.0] * m, list(range(m))[::-1])


def length_of(encoder, ranking_list):
    prompt = data.list_prompt(encoder.words, ranking_list, ranking_list.shown)
    return len(tokenise(encoder.tokenizer, [prompt]).input_ids[0])


@pytest.mark.parametrize("tokenizer", [WORDS, BYTES], ids=["word", "byte"])
def test_long_histories_lose_their_oldest_ratings(tokenizer, capsys):
    """The newest ratings stay, as many as fit, and every candidate; a list that fits is left as it is; how many were
    cut is told. What comes out can be encoded, in any displayed order, with its answer."""
    m, one = 6, list_of(8)
    encoder = encoder_of(tokenizer, TITLES_OF_800, m)
    lines = data.list_prompt(encoder.words, one, one.shown).split("\n")
    for kept in range(8, -1, -1):
        text = "\n".join(lines[:1] + lines[9 - kept:])  # the header, `kept` lines of history, the rest
        length = len(tokenise(tokenizer, [text]).input_ids[0])
        for spare in (0, 1):  # one token short, and the next rating goes, too
            encoder.max_length = length + 2 * m - spare  # an answer, and as much for other displays
            fitting = data.fit_histories([one, list_of(0)], encoder, "training")
            cut = fitting[0]
            left = max(0, kept - spare)
            assert cut == dataclasses.replace(one, history=one.history[8 - left:]) and fitting[1] == list_of(0)
            assert ("1 of 2 training lists lost their oldest" in capsys.readouterr().err) == (left < 8)
            assert (cut is one) == (left == 8)
            for slots in one.shown, one.shown[::-1], [2, 0, 5, 1, 3, 4]:
                batch = encoder.encode([cut], [slots], torch.tensor([range(m)]))
                assert batch.input_ids.shape[1] <= encoder.max_length
                assert batch.history_rated.shape[1] >= left and batch.candidate_at.shape == (1, m)
            if not spare:
                assert tokenizer.decode(encoder.encode([cut], [one.shown]).input_ids[0]) == text


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 300), st.sampled_from([WORDS, BYTES]))
def test_no_history_is_cut_more_than_it_must_be(histories, more, tokenizer):
    """Property: each list by itself keeps the most of its newest ratings that leave room, against a slow loop."""
    encoder, m = encoder_of(tokenizer, TITLES_OF_800, 6), 6
    lists = [dataclasses.replace(list_of(n), list_id=f"{i}/x") for i, n in enumerate(histories)]
    room = length_of(encoder, list_of(0)) + more
    encoder.max_length = room + 2 * m
    expected = []
    for full in lists:
        one = full
        while length_of(encoder, one) > room:
            one = dataclasses.replace(one, history=one.history[1:])
        expected.append(one)
    assert data.fit_histories(lists, encoder) == expected


def test_what_does_not_fit_without_history_is_an_error():
    """It loses all its history, and then encoding says which list it is and what to do."""
    m, one = 6, list_of(8)
    encoder = encoder_of(WORDS, TITLES_OF_800, m)
    encoder.max_length = length_of(encoder, list_of(0)) + m - 1
    lists = data.fit_histories([one], encoder)
    assert lists == [list_of(0)]
    assert data.fit_histories([list_of(0)], encoder) == [list_of(0)]  # nothing left to cut
    for unfit in one, list_of(0):
        with refused("7/x.*--list_size"):
            encoder.encode([unfit], [unfit.shown])
    encoder.max_length += 1  # and this is all that it lacked
    encoder.encode(lists, [one.shown])


@pytest.mark.parametrize("tokenizer", [WORDS, BYTES], ids=["word", "byte"])
@pytest.mark.parametrize("kept", [0, 1, 399, 400, 799, 800])
def test_long_histories_are_cut_in_a_few_tokenisations(monkeypatch, tokenizer, kept):
    """One of 800 ratings: by halving, not a rating at a time; what is surely short enough is not tokenised at all."""
    seen, one = [], list_of(800)
    encoder = encoder_of(tokenizer, TITLES_OF_800, 6)
    newest = dataclasses.replace(one, history=one.history[800 - kept:])
    encoder.max_length = length_of(encoder, newest) + 2 * 6

    def counted(tokenizer, texts, **options):
        seen.extend(texts)
        return tokenise(tokenizer, texts, **options)
    monkeypatch.setattr(plumbing.model, "tokenise", counted)
    assert data.fit_histories([one], encoder) == [newest]
    assert len(seen) <= 12  # 2^10 > 800; the whole, and the ends
    seen.clear()
    encoder.max_length = 10 ** 6
    assert data.fit_histories([one] * 5, encoder) == [one] * 5 and not seen


# ---- python data.py, python -m experiments.describe -----------------------------------------------------------------

@pytest.fixture
def small(monkeypatch):
    """The synthetic world with 30 users, whatever asks for it."""
    ratings = data.load(DataConfig(), n_users=30)
    monkeypatch.setattr(data, "synthetic", lambda *_: ratings.columns)
    return ratings


def test_main_shows_a_dataset(small, capsys):
    """Users, lists; one list in two displayed orders, whose answers are the same titles, best first."""
    text = data.main(["--dataset", "synthetic"])
    assert capsys.readouterr().out == text + "\n"
    columns, (*lists, _) = small.columns, data.split(small, DataConfig())
    assert f"30 users, {len(columns.items)} items, {len(columns.rating)} ratings" in text
    assert f"ratings read: {len(columns.rating)}\n" in text and "test: 30 lists of 6\n" in text
    assert f"train: {len(lists[0])} lists of 6\nvalid: 30 lists of 6\n" in text
    answers = []
    for prompt in text.split("\n--- list ")[1:]:
        titles = {letter: title for title, letter in re.findall(r"(.*) -> ([A-Z])\n", prompt)}
        answers.append([titles[letter] for letter in re.search(r"Ranking:\[(.*)\]", prompt)[1].split()])
    assert len(answers) == 2 and answers[0] == answers[1] and len(set(answers[0])) == 6
    rated = {columns.titles[i]: rating for i, rating in zip(lists[2][-1].items, lists[2][-1].ratings)}
    assert [rated[title] for title in answers[0]] == sorted(rated.values(), reverse=True)


def test_describe_tells_about_a_dataset(small, capsys, tmp_path):
    """Users, lists, ratings, share of ties, lengths in words or, with a tokenizer, in tokens."""
    byte_level().save_pretrained(tmp_path)
    text = describe.main(["--dataset", "synthetic", "--model", str(tmp_path)])
    assert capsys.readouterr().out == text + "\n"
    columns, (*lists, _) = small.columns, data.split(small, DataConfig())
    pairs = [a == b for part in lists for one in part for a, b in itertools.combinations(one.ratings, 2)]
    assert f"30 users, {len(columns.items)} items, {len(columns.rating)} ratings" in text
    assert f"test: 30 lists of 6, {sum(one.informative for one in lists[2])} with two" in text
    assert f"tied: {np.mean(pairs):.1%}" in text and " tokens, median" in text
    bars = {float(rating): int(count) for rating, count in re.findall(r"^rating (\S+): +(\d+) ", text, re.M)}
    assert bars == {level: (columns.rating == level).sum() for level in small.words.levels}
    prompts = [data.list_prompt(small.words, one, one.shown) for part in lists for one in part]
    lengths = [len(prompt.split()) for prompt in prompts]
    assert f"prompt: {min(lengths)} to {max(lengths)} words, median" in describe.main(["--dataset", "synthetic"])


def test_nothing_to_rank_is_an_error(tmp_path):
    """A dataset too thin for lists, lists with a single rating each, a folder without a tokenizer."""
    for main in data.main, describe.main:
        with refused("list_size"):
            main(["--dataset", "csv", "--data_path", str(write(tmp_path, "csv"))])
    good, dull = (data.RankingList("x", 0, [], [0, 1], [3.0, r], [0, 1]) for r in (4.0, 3.0))
    assert data.informative_lists([dull, good], "test") == [good]
    with refused("no test list"):
        data.informative_lists([dull], "test")
    with refused(re.escape(str(tmp_path))):
        load_tokenizer(str(tmp_path))
