"""Solution 9: within a title, leaving out one's own rating turns the number into that rating, upside down.

With n ratings of mean a, the others' mean is (n a - r) / (n - 1): a straight line that falls as r rises. Within a
title it is exact, 100 %; over all titles a little is lost, since its slope, -1/(n - 1), is not the same in all. Users
of one fold are shown one number, whatever any of them rated.
"""
import numpy as np

from data import fold_of
from plumbing.averages import fold_averages
from plumbing.files import Columns, canonical

GIVEN = {"made_up_world"}  # written for you


def made_up_world(users: int = 600, items: int = 200, each: int = 30, seed: int = 0) -> Columns:
    """Ratings without any taste: an item's quality plus noise, 1 to 5; some items are rated often, some seldom."""
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, items + 1) ** 0.8
    chosen = [rng.choice(items, each, replace=False, p=popularity / popularity.sum()) for _ in range(users)]
    user, item = np.repeat(np.arange(users), each), np.concatenate(chosen)  # (N,) each
    rating = np.clip(np.rint(rng.normal(3.5, 0.5, items)[item] + rng.normal(0, 1, len(item))), 1, 5)  # (N,)
    names = {str(number): f"Film {number}" for number in range(items)}
    columns = [user, item, rating, np.arange(len(item))]
    return canonical(columns, [str(number) for number in range(users)], list(names), names, {}, "movie", {})


def leave_one_out(ratings: Columns) -> np.ndarray:
    total, count = np.bincount(ratings.item, ratings.rating), np.bincount(ratings.item)  # (items,)
    others = count[ratings.item] - 1  # (N,)
    left = total[ratings.item] - ratings.rating  # (N,)
    return np.where(others > 0, left / np.maximum(others, 1), np.nan)


def fold_average(ratings: Columns) -> np.ndarray:
    folds = np.array([fold_of(user) for user in ratings.users])  # (users,)
    rater_fold = folds[ratings.user]  # (N,)
    averages = fold_averages(rater_fold, ratings.item, ratings.rating, len(ratings.items))  # (folds, items)
    return averages[rater_fold, ratings.item]


def told(number: np.ndarray, ratings: Columns) -> float:
    known = ~np.isnan(number)
    item = ratings.item[known]

    def within(values):  # (known,) less the mean of its title
        count = np.maximum(np.bincount(item), 1)
        return values - (np.bincount(item, values) / count)[item]

    x, y = within(number[known]), within(ratings.rating[known])
    # What is left of a number that does not vary is rounding, no variance: its correlation would be noise.
    if x.std() < 1e-9 or y.std() < 1e-9:
        return 0.0
    return float((x @ y) ** 2 / ((x @ x) * (y @ y)))
