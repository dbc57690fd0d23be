"""What the prompt says of an item: its title, its category, and the average that users of other folds gave it.

The average must not know the answer. Leaving out one's own rating is not enough: for one title the number then falls as
one's own rating rises, and training learns that. So users fall into ten folds, and see the five after their own.
"""
import dataclasses
import gzip
import json
import random

import numpy as np
import pytest

import data
from data import DataConfig
from helpers import refused
from plumbing.averages import fold_averages
from plumbing.folder import data_hashes, sha256
from worlds import many, read, write


def with_ratings(columns, change):
    """The same columns, rating n changed to change(user id, n)."""
    values = [change(columns.users[user], n) for n, user in enumerate(columns.user)]
    return columns._replace(rating=np.array(values, dtype=float))


@pytest.fixture
def world(tmp_path):
    """60 users of 5 to 40 ratings of 40 items, in half stars."""
    folder = write(tmp_path, "csv", many(users=60), {str(i): f"Title {i}" for i in range(40)})
    return read(folder, "csv").columns


def averages_of(columns, rows=slice(None)):
    """(folds, items): of the ratings in these rows, or of all."""
    folds = np.array([data.fold_of(columns.users[user]) for user in columns.user[rows]])
    return fold_averages(folds, columns.item[rows], columns.rating[rows], len(columns.items))


# ---- Category --------------------------------------------------------------------------------------------------------

FILES = {  # dataset -> {file: content}; one item of two genres, one of which nothing is known
    "ml-100k": {"u.data": "1\t1\t5\t1\n1\t2\t4\t2\n",
                "u.item": "1|Heat (1995)|1-Jan-95||url|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|1|0|0\n"
                          "2|unknown||||1|" + "|".join("0" * 18) + "\n"},
    "ml-1m": {"ratings.dat": "1::1::5::1\n1::2::4::2\n",
              "movies.dat": "1::Heat (1995)::Action|Thriller\n2::unknown::unknown\n"},
    "ml-25m": {"ratings.csv": "userId,movieId,rating,timestamp\n1,1,5,1\n1,2,4,2\n",
               "movies.csv": "movieId,title,genres\n1,Heat (1995),Action|Thriller\n2,unknown,(no genres listed)\n"},
    "recbole": {"x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t1\t5\t1\n1\t2\t4\t2\n",
                "x.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
                          "1\tHeat\t1995\tAction Thriller\n2\tunknown\t\tunknown\n"},
    "csv": {"ratings.csv": "user,item,rating,timestamp\n1,1,5,1\n1,2,4,2\n",
            "items.csv": "item,category,title\n1,Action|Thriller,Heat (1995)\n2,,unknown\n"},
    "amazon-2018": {
        "Movies_5.json": "".join(
            json.dumps({"reviewerID": "1", "asin": asin, "overall": overall, "unixReviewTime": time}) + "\n"
            for asin, overall, time in (("1", 5.0, 1), ("2", 4.0, 2))),
        "meta_Movies.json": json.dumps({"asin": "1", "title": "Heat (1995)", "category": ["Action", "Thriller"]})
        + "\n\n" + json.dumps({"asin": "2", "title": "unknown", "category": []}) + "\n"},
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dataset", FILES)
def test_category_stands_after_the_title(tmp_path, dataset, compressed):
    """Whatever a publisher calls it, however it is written; nothing where nothing is known. Every file may be .gz."""
    for name, text in FILES[dataset].items():
        if compressed:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (tmp_path / name).write_text(text)
    ratings = read(tmp_path, dataset, fields="title,category")
    assert ratings.words.texts == ["Heat (1995), action thriller", "unknown"]
    assert read(tmp_path, dataset).words.texts == ["Heat (1995)", "unknown"]
    one = data.RankingList("x", 0, [(0, 5.0)], [0, 1], [5.0, 4.0], [0, 1])
    prompt = data.list_prompt(ratings.words, one, [1, 0])
    assert "\nHeat (1995), action thriller: 5\n" in prompt
    assert "\nunknown -> A\nHeat (1995), action thriller -> B\n" in prompt


def test_fields_that_are_not_there(tmp_path):
    """A category that no item has is an error, and so is a field of another name or in another order."""
    with refused("category"):
        read(write(tmp_path, "csv"), "csv", fields="title,category")
    for fields in ("category", "title,rating", "average,title", "title, category", ""):
        with refused("--fields"):
            DataConfig(fields=fields)


# ---- Average ---------------------------------------------------------------------------------------------------------

def test_average_against_a_slow_loop(world):
    """The damped mean of what the users of the next five folds gave it, in the given rows; the same with a loop."""
    rows = np.arange(len(world.user))[::2]
    averages = averages_of(world, rows)
    assert averages.shape == (10, 40) and len({data.fold_of(user) for user in world.users}) > 5
    for fold in range(10):
        next_five = {(fold + step) % 10 for step in (1, 2, 3, 4, 5)}
        seen = [n for n in rows if data.fold_of(world.users[world.user[n]]) in next_five]
        overall = sum(world.rating[n] for n in seen) / len(seen)
        for item in range(40):
            given = [world.rating[n] for n in seen if world.item[n] == item]
            number = averages[fold, item]
            assert np.isnan(number) == (not given) and (not given or number == round(number, 1))
            assert not given or abs(number - (sum(given) + 5 * overall) / (len(given) + 5)) < 0.0500001


def test_users_of_one_fold_see_one_number_whatever_they_rated(world):
    """Change all that the users of a fold rated: not a bit of what they see moves, but what others see does."""
    rng = random.Random(0)
    before = averages_of(world)
    for fold in range(10):
        other = with_ratings(world, lambda user, n, fold=fold: (
            rng.randint(1, 10) / 2 + 1e-9 if data.fold_of(user) == fold else world.rating[n]))
        after = averages_of(other)
        assert np.array_equal(before[fold], after[fold], equal_nan=True)
        assert fold not in map(data.fold_of, world.users) or not np.array_equal(before, after, equal_nan=True)


def test_an_item_that_one_user_alone_has_rated_shows_none_to_them(tmp_path):
    """Its absence tells them nothing they do not know: whatever they rated it, and for the whole fold."""
    lines = many(users=60, items=40) + [("7", "999", "5", "31")]
    ratings = read(write(tmp_path, "csv", lines, {"1": "Heat"}), "csv", list_size=3, fields="title,average")
    words, item, user = ratings.words, ratings.columns.items.index("999"), ratings.columns.users.index("7")
    averages = averages_of(ratings.columns)
    for fold in range(10):
        sees_it = data.fold_of("7") in {(fold + step) % 10 for step in (1, 2, 3, 4, 5)}
        assert np.isnan(averages[fold, item]) == (not sees_it)
    assert np.isnan(averages[data.fold_of("7"), item])
    assert words.candidate(item, user) == "item 999"


def test_only_candidates_have_an_average_and_of_the_ratings_before_all_lists(tmp_path):
    """History lines have the user's rating instead; no rating of a validation or test list is in any number."""
    folder = write(tmp_path, "csv", many(users=60, least=12), {str(i): f"Title {i}" for i in range(40)})
    cfg = DataConfig("csv", str(folder), list_size=3, fields="title,average")
    ratings = data.load(cfg)
    splits = data.split(ratings, cfg)
    columns, words = ratings
    held_out = set(range(len(columns.user))) - set(splits.fit["train"].tolist())
    assert held_out and np.array_equal(words.averages, averages_of(columns, splits.fit["train"]), equal_nan=True)
    for one in splits.test:
        lines = data.list_prompt(words, one, [0, 1, 2]).splitlines()
        assert lines[1:1 + len(one.history)] == [f"{columns.titles[i]}: {rating:g}" for i, rating in one.history]
        shown = [words.averages[data.fold_of(columns.users[one.user]), item] for item in one.items]
        assert lines[-4:-1] == [f"{columns.titles[item]}, {number:.1f} -> {letter}"
                                for item, number, letter in zip(one.items, shown, "ABC")]
    plain = data.load(dataclasses.replace(cfg, fields="title"))  # fields change prompts, not lists
    assert sha256(splits.test) == sha256(data.split(plain, cfg).test)
    of_prompts = [data_hashes(said, splits)["prompt"] for said in (words, words._replace(averages=None))]
    assert of_prompts[0] != of_prompts[1]


def told(number, columns):
    """The share of the variance of ratings within a title that a number tells, by a line fitted over all titles."""
    known = ~np.isnan(number)
    item, number, rating = columns.item[known], number[known], columns.rating[known]
    count = np.bincount(item).clip(1)
    number = number - (np.bincount(item, number) / count)[item]
    rating = rating - (np.bincount(item, rating) / count)[item]
    return np.corrcoef(number, rating)[0, 1] ** 2


def test_how_much_the_average_tells_of_ones_own_rating(tmp_path):
    """Against leaving out one's own rating, which tells most of it; and a control: what the folds' numbers tell of
    ratings shuffled within titles, which they cannot know, is nothing."""
    columns = read(write(tmp_path, "csv", many(users=400, items=300), {"1": "Heat"}), "csv").columns
    folds = np.array([data.fold_of(user) for user in columns.users])
    number = averages_of(columns)[folds[columns.user], columns.item]
    total, count = np.bincount(columns.item, columns.rating), np.bincount(columns.item)
    without_own = (total[columns.item] - columns.rating + 15) / (count[columns.item] - 1 + 5)
    shuffled, rng = columns.rating.copy(), np.random.default_rng(0)
    for item in range(len(columns.items)):
        rows = np.flatnonzero(columns.item == item)
        shuffled[rows] = rng.permutation(shuffled[rows])
    control = told(number, columns._replace(rating=shuffled))
    assert control < 0.002 < told(number, columns) < 0.3 < 0.9 < told(without_own, columns)
