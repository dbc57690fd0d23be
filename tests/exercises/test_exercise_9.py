"""Checks of exercise 9, against plain loops, and of what it is about."""
import numpy as np
import pytest
from classroom import check, check_close

from data import fold_of
from plumbing.averages import fold_averages
from plumbing.files import Columns, canonical


def small(seed: int) -> Columns:
    """Few ratings, of users 0..9 and items 0..7; the last item has a single one."""
    rng = np.random.default_rng(seed)
    pairs = [(user, item) for user in range(10) for item in range(7) if rng.random() < 0.6] + [(0, 7)]
    user, item = np.array(pairs).T
    names = {str(number): f"Film {number}" for number in range(8)}
    columns = [user, item, rng.integers(1, 6, len(user)).astype(float), np.arange(len(user))]
    return canonical(columns, [str(number) for number in range(10)], list(names), names, {}, "movie", {})


@pytest.fixture(scope="module")
def world(work):
    return work.made_up_world()


@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out_by_loops(work, seed):
    ratings, expected = small(seed), []
    rows = list(zip(ratings.user, ratings.item, ratings.rating))
    for user, item, _ in rows:
        others = [rating for who, what, rating in rows if what == item and who != user]
        expected.append(sum(others) / len(others) if others else np.nan)
    found = work.leave_one_out(ratings)
    check(np.shape(found) == (len(rows),), "leave_one_out", f"one number for each of {len(rows)} rows",
          "by row, not by candidate: [ratings.item]", np.shape(found))
    for row, (mean, mine) in enumerate(zip(expected, found)):
        if not np.isnan(mean):
            check(abs(mine - mean) < 1e-6, "leave_one_out",
                  f"in row {row} (user, item, rating: {rows[row]}) {mean:.4f}",
                  "(total - own) / (count - 1): np.bincount(item, rating) gives totals", f"{mine:.4f}")
    check(np.isnan(found[np.isnan(expected)]).all(), "leave_one_out", "NaN where nobody else rated the item",
          "count - 1 is 0 there", found[np.isnan(expected)])


@pytest.mark.parametrize("seed", range(3))
def test_fold_average_shows_what_a_users_fold_is_shown(work, seed):
    ratings = small(seed)
    folds = np.array([fold_of(user) for user in ratings.users])
    averages = fold_averages(folds[ratings.user], ratings.item, ratings.rating, len(ratings.items))
    expected = [averages[folds[user], item] for user, item in zip(ratings.user, ratings.item)]
    check_close(np.nan_to_num(work.fold_average(ratings), nan=-1), np.nan_to_num(expected, nan=-1), "fold_average",
                "averages[fold of the row's user, the row's item]",
                "ratings.users holds the ids that data.fold_of wants")


def test_the_measure_says_one_where_all_is_told_and_zero_where_nothing_is(work, world):
    rng = np.random.default_rng(1)
    check_close(work.told(-world.rating, world), 1.0, "told", "1 for the rating itself, upside down",
                "a correlation squared: its sign is no matter")
    of_title = rng.normal(size=len(world.items))[world.item]
    check_close(work.told(world.rating + 100 * of_title, world), 1.0, "told",
                "1 whatever is added to all numbers of a title", "within a title: less the title's own mean")
    check_close(work.told(of_title, world), 0.0, "told", "0 for a number that is the same for all who rated a title",
                "nothing is left after its mean is taken away: 0/0, or worse, a correlation of rounding errors")
    check_close(work.told(np.ones(len(world.item)), world), 0.0, "told", "0 for one number for all", "0/0 is NaN")
    noise = work.told(rng.normal(size=len(world.rating)), world)
    check(noise < 0.002, "told", "next to 0 for mere noise", "a share of variance", noise)
    half = work.told(world.rating + world.rating.std() * rng.normal(size=len(world.rating)), world)
    check(0.3 < half < 0.6, "told", "about half where as much noise is added", "squared?", half)


def test_the_measure_leaves_out_rows_that_are_shown_nothing(work, world):
    known = np.arange(len(world.rating)) % 3 > 0
    number = np.where(known, work.leave_one_out(world), np.nan)
    part = world._replace(user=world.user[known], item=world.item[known], rating=world.rating[known])
    check_close(work.told(number, world), work.told(number[known], part), "told", "the value of the rows with a number",
                "leave the others out before you take means, of ratings too")


def test_within_one_title_leaving_out_tells_all(work, world):
    rows = world.item == 5
    one = world._replace(user=world.user[rows], item=world.item[rows], rating=world.rating[rows])
    check_close(work.told(work.leave_one_out(one), one), 1.0, "told, of leave_one_out", "1 for a single title",
                "(n a - r)/(n - 1) is a straight line in r")


def test_what_the_exercise_is_about(work, world):
    leaving_out = work.leave_one_out(world)
    shares = [work.told(number, world) for number in (leaving_out, leaving_out.round(1), work.fold_average(world))]
    for found, expected, name in zip(shares, (0.63, 0.23, 0.01),
                                     ("leave_one_out", "the same, rounded", "fold_average")):
        check(abs(found - expected) < 0.006, f"told, of {name}", f"about {expected}", "see the checks above",
              f"{found:.4f}")
