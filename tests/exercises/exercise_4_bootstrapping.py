"""Exercise 4: bootstrapped inference, the rival of permutation-sensitive learning. 45 minutes.

A model with position bias can also be helped after training: show each list in R displayed orders, rank it R times, and
order the candidates by their mean rank. PSL promises the same without the R-fold cost. Write the rival.

What to learn: averaging over displays removes a bias that averages out, and only that; its price is R calls of the
model per list; and a famous slip, shipped with a published ranker: all R copies shuffled *alike*, so that R calls show
one order R times and nothing is averaged. It costs all it should, and no error is ever raised.

A ranker is what evaluate.py calls so: a function (lists, slots) -> (N, m) long, candidates best first, N lists
of m, list n displayed in order slots[n] (slot -> candidate).

Begin: python tests/exercises/start.py 4       Check: pytest tests/exercises --exercise 4
Then try it: `python train.py --alpha 0 --beta 0 --display_order shuffled`, and with the folder that it names,
`python -m experiments.rivals RUN --embedding False`: the run's model asked once, in 3 and in 5 displayed orders (by
`bootstrapped` in experiments/rivals.py, which is this exercise solved). Expect three and five times the milliseconds.
(The reader of the checks, who tires down the display, flips .37 instead of .63 of the time with R = 9.) How many orders
would it take to flip as rarely as the model of a plain `python train.py`? And as rarely as the row *knows*, of one
call?
"""
import torch


def draw_displays(m: int, list_id: str, first: list[int], displays: int) -> list[list[int]]:
    """`displays` displayed orders of one list: `first`, then others, independent of each other and repeatable.

    Args: m candidates; list_id: the list's name; first: the displayed order that was asked for; displays: R >= 1.
    Returns: R permutations of 0..m-1. The same arguments give the same ones; another list, or another `first`, others.
    Hint: data.random_slots(m, *key) draws an order that depends on its key alone. What belongs into the key?
    """
    raise NotImplementedError


def merge(rankings: torch.Tensor) -> torch.Tensor:
    """One ranking from several, by mean rank.

    Args: rankings (R, N, m) long, candidates best first.
    Returns: (N, m) long, candidates by ascending mean rank over R; ties go to the lower candidate index.
    """
    raise NotImplementedError


def bootstrapped(ranker, displays: int):
    """A ranker that asks `ranker` `displays` times, each time with every list in another displayed order, and merges.

    Returns: a function (lists, slots) -> (N, m) long. The first call of `ranker` gets `slots` as they are.
    """
    raise NotImplementedError
