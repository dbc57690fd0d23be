"""Exercise 9: an average that knows the answer. 45 minutes.

`--fields title,average` shows the model what others think of a candidate: its average rating. Others: the user's own
rating is what is to be predicted, so it must not be in there. The obvious way is to leave it out: of each item, the
mean of all *other* users' ratings. Every rating is then predicted from a number that was computed without it. What
could go wrong?

Write that average, and a measure of how much a number tells of one's own rating within a title: since the item itself
is the same, whatever the number says there it can only have from that rating. Then compare with
plumbing.averages.fold_averages (its docstring answers the question above: read it afterwards).

What to learn: a number computed without the answer may still give it away; a leak is measured, not argued about; a
measure must be shown a case where it says 0 and one where it says 1 before it is believed.

Begin: python tests/exercises/start.py 9       Check: pytest tests/exercises --exercise 9
Then try it: told(...) in `made_up_world()` of leave_one_out, of the same rounded to one decimal, and of the folds'
average. Expect .63, .23 and .01 (on MovieLens-100K, rounded, 36 % against 1.5 % of the folds). Draw rating against
number for one title to see why. A model that has learned "less than this title usually shows = liked" looks nearly
perfect, on test lists too; and for a rating that nobody has given yet there is nothing to leave out.
"""
import numpy as np

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
    """For each row n, the mean rating of item[n] by everybody but user[n]; NaN where nobody else rated it.

    Args: ratings: N rows (user, item, rating); a user rates an item once. Returns: (N,) float. No loop over rows.
    """
    raise NotImplementedError


def fold_average(ratings: Columns) -> np.ndarray:
    """For each row n, what user[n] is shown of item[n]: plumbing.averages.fold_averages of all rows, by the user's fold
    (data.fold_of of its id).

    Returns: (N,) float, NaN where it shows nothing.
    """
    raise NotImplementedError


def told(number: np.ndarray, ratings: Columns) -> float:
    """The share of the variance of ratings within a title that `number` tells, by one straight line for all titles.

    Args: number (N,), one per row; rows where it is NaN are left out, of everything.
    Returns: 0..1: both less their mean over the title's rows, the square of their correlation. 0 where either does not
        vary within any title.
    """
    raise NotImplementedError
