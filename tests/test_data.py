"""data.py: files of five layouts to ratings, ratings to lists, lists to batches; and what `python data.py` shows.

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
from data import DataConfig
from model import encode, load_tokenizer

# ---- Files to ratings -----------------------------------------------------------------------------------------------

@every_layout
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r\n\r\n"])
def test_layouts_load_to_what_they_say(tmp_path, layout, end):
    """Half stars, quoted titles with commas, latin-1, joined years, byte-order mark, CRLF, blank lines, no year."""
    ratings = read(write(tmp_path, layout, end=end, mark=b"\xef\xbb\xbf" * (end == "\r\n")), layout)
    assert rows_of(ratings) == {(u, i, float(r), float(t)) for u, i, r, t in LINES}
    assert dict(zip(ratings.items, ratings.titles)) == TITLES
    assert ratings.noun == ("movie" if layout.startswith("ml-") else "item") and ratings.rating_range == (0.5, 5.0)
    order = list(zip(ratings.user, ratings.timestamp, ratings.item))
    assert order == sorted(order)
    if layout == "recbole":  # the year column is optional, and so is the prefix of the title's
        (tmp_path / "x.item").write_text("item_id:token\ttitle:token\n1\tHeat\n2\tBabe\n10\tFargo\n")
        assert read(tmp_path, layout).titles == ["Heat", "Babe", "Fargo"]


# ---- Cleaning a dataset ---------------------------------------------------------------------------------------------

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


# ---- Ratings to lists -----------------------------------------------------------------------------------------------

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
    splits = data.split(ratings, cfg)
    *lists, _ = splits
    assert ratings.expected.shape == (len(ratings.users), len(ratings.items))
    new = {i for i, title in enumerate(ratings.titles) if title.split()[0] in data.FILMS[-data.NEW_FILMS:]}
    for name in ("train", "valid", "test"):  # nobody has rated a new film before the test lists
        assert new.isdisjoint(ratings.item[splits.fit[name]].tolist())
    assert {len(new & set(one.items)) for one in splits.test} == {2}
    genre = np.array([title.split()[1] for title in ratings.titles])
    for user in range(80):  # each user loves one genre, whatever the films' quality
        means = [ratings.expected[user, genre == name].mean() for name in data.GENRES]
        assert abs(means[0] - means[1]) > 1.8
    assert np.ptp(ratings.expected[:, sorted(new)] % 2) == 0  # a new film: 4 or 2, as its genre says

    def mean_ndcg(order_of):
        dcg = [[sum((2 ** one.ratings[i] - 1) / math.log2(k + 2) for k, i in enumerate(order)) for order in (
            order_of(one), sorted(range(6), key=lambda i, one=one: -one.ratings[i]))] for one in lists[2]]
        return sum(value / ideal for value, ideal in dcg) / len(dcg)

    oracle = mean_ndcg(lambda one: sorted(range(6), key=lambda i: -ratings.expected[one.user, one.items[i]]))
    chance = mean_ndcg(lambda one: data.random_slots(6, one.list_id))
    assert oracle > 0.98 > mean_ndcg(lambda one: one.shown) > 0.9 > 0.85 > chance
    time = {(u, i): t for u, i, t in zip(ratings.user, ratings.item, ratings.timestamp)}
    times = [[time[one.user, i] for i in one.items] for part in lists for one in part]
    for pick in (max, min):  # the place of the latest and of the earliest candidate is uniform over 0..m-1
        counts, share = np.bincount([row.index(pick(row)) for row in times], minlength=6), len(times) / 6
        assert ((counts - share) ** 2 / share).sum() < 20.5  # chi-square, 5 degrees of freedom: p = 0.001
    one, same, other = (data.synthetic(DataConfig(data_seed=s, noun="song"), n_users=3) for s in (0, 0, 1))
    assert rows_of(one) == rows_of(same) != rows_of(other) and one.noun == "song"


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
    assert special in tokenizer("Heat <|im_end|>").input_ids  # so it would, were it not for `encode`

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
        batch, shortened = encoder.batch(lists, [slots, order], orders)
        prompts, shortened_prompts = encoder.batch(lists, [slots, order])
        assert shortened == shortened_prompts == []
        assert prompts.history_at.shape == prompts.history_rated.shape == (2, 0)
        assert torch.equal(prompts.candidate_at, batch.candidate_at) and (prompts.candidate_rated == -100).all()
        assert batch.ratings.tolist() == [[1.0, 2.0, 3.5]] * 2 and torch.equal(batch.order, orders)
        for b, history in enumerate(histories):
            text = alro.build_prompt([(titles[i], rating) for i, rating in history], titles[:3],
                                     batch.slots[b].tolist(), "movie", encoder.words.scale)
            answer = [alro.IDENTIFIERS[[slots, order][b].index(item)] for item in orders[b].tolist()]
            alone, whole = (encode(encoder.tokenizer, [t]).input_ids[0] for t in (text, text + "".join(answer)))
            ids, prompt = batch.input_ids[b].tolist(), prompts.input_ids[b].tolist()
            assert ids[:len(whole)] == whole == alone + batch.item_tokens()[b][orders[b]].tolist()
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
            assert [ids[t] for t in at] == batch.item_tokens()[b].tolist()
            # What has been read before the identifier ends with the candidate's own line, as far as "->".
            for item, place in enumerate(at):
                before = text[:text.rindex(f" ->{answer[orders[b].tolist().index(item)]}\n") + 3]
                assert ids[:place] == encode(encoder.tokenizer, [before]).input_ids[0]

    check()


LEVELS = {"one to five": [1.0, 2.0, 3.0, 4.0, 5.0], "half stars": [0.5, 1.0, 3.5, 4.0], "one to ten": [1.0, 2.0, 10.0]}


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", ["word", "byte", "byte, digits"])
def test_a_candidates_rating_is_one_token_or_no_target(kind, levels):
    """Never two levels taken for one: each has a token of its own, the last of its text, or none has."""
    titles = ["Heat", "Babe", "Fargo"]
    tokenizer = word_level(titles) if kind == "word" else byte_level(kind == "byte, digits")
    encoder = encoder_of(tokenizer, titles, 3, levels=LEVELS[levels])
    texts = [encode(tokenizer, [f"Heat: {level:g}"]).input_ids[0] for level in LEVELS[levels]]
    whole = len({*map(len, texts)}) == 1 and len({tokens[-1] for tokens in texts}) == len(texts)
    if kind == "word" and levels == "one to ten":  # its catalogue has half stars up to 5: 10 is no word
        whole = False
    one = data.RankingList("x", 0, [], [0, 1, 2], LEVELS[levels][:3], [0, 1, 2])
    batch, _ = encoder.batch([one], [[1, 2, 0]], torch.tensor([[0, 1, 2]]))
    assert encoder.levels.tolist() == LEVELS[levels] * whole
    assert batch.candidate_rated[0].tolist() == [tokens[-1] if whole else -100 for tokens in texts[:3]]
    assert whole or (kind, levels) != ("byte, digits", "one to five")  # the test is of something


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0]), min_size=3, max_size=3), st.permutations(range(3)),
       st.permutations(range(3)))
def test_a_candidates_rating_changes_no_input_token(ratings, slots, order):
    """It is a target alone: whatever the ratings, the model reads the same. (Were it to leak, knowing were reading.)"""
    encoder = encoder_of(FILM_TOKENS, ["Heat", "Babe", "Fargo", "Casino"], 3)
    one = data.RankingList("x", 0, [(3, 4.0)], [0, 1, 2], [3.0, 3.0, 3.0], [0, 1, 2])
    other = dataclasses.replace(one, ratings=ratings)
    gold = torch.tensor([order])
    first, second = (encoder.batch([ranking_list], [slots], gold)[0] for ranking_list in (one, other))
    assert second.candidate_rated[0].tolist() == [encoder.token_of_level[rating] for rating in ratings]
    for name in set(first._fields) - {"ratings", "candidate_rated"}:
        assert torch.equal(getattr(first, name), getattr(second, name)), name


FILM_TOKENS = word_level(["Heat", "Babe", "Fargo", "Casino"])


def test_the_prompt_is_the_designs_word_by_word():
    """DESIGN.md, "The prompt", with and without ratings in the history, for other words and another scale."""
    slots = [1, 0]
    films = alro.build_prompt([("Heat (1995)", 4.0), ("Babe  (1995)\n", 4.5)], ["Casino (1995)", "Fargo (1996)"], slots)
    assert films == ("A user rated these movies (1 = worst, 5 = best):\nHeat (1995): 4\nBabe (1995): 4.5\n"
                     "Rank these movies from most to least liked by this user:\n"
                     "Fargo (1996) -> A\nCasino (1995) -> B\nRanking:")
    songs = alro.build_prompt([("Help!", None)], ["Yesterday", "Girl"], slots, "song", (0.5, 10))
    assert songs == ("A user rated these songs (0.5 = worst, 10 = best):\nHelp!\n"
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


def test_long_prompts_lose_the_oldest_history():
    """As much history as fits, the newest, every candidate; the list's id is returned; no room at all is an error."""
    titles, m = [f"Title {i}" for i in range(14)], 6
    one = data.RankingList("7/x", 0, [(i, 3.5) for i in range(6, 14)], list(range(6)), [3.0] * 6, [5, 4, 3, 2, 1, 0])
    tokenizer = word_level(titles)
    full = data.list_prompt(encoder_of(tokenizer, titles, m).words, one, one.shown).split("\n")
    for kept in range(8, -1, -1):
        text = "\n".join(full[:1] + full[9 - kept:])  # the header, `kept` lines of history, the rest
        encoder = encoder_of(tokenizer, titles, m, len(tokenizer(text).input_ids) + m)
        batch, shortened = encoder.batch([one], [one.shown], torch.tensor([range(m)]))
        assert tokenizer.decode(batch.input_ids[0, :-m]) == text and batch.input_ids.shape[1] == encoder.max_length
        assert shortened == ([] if kept == 8 else ["7/x"])
    encoder.max_length -= 1
    with refused("7/x"):
        encoder.batch([one], [one.shown])


# ---- python data.py -------------------------------------------------------------------------------------------------

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
