"""Solution 4: bootstrapped inference."""
import torch

from alro import rank_of
from data import random_slots


def draw_displays(m: int, list_id: str, first: list[int], displays: int) -> list[list[int]]:
    # The key holds r: without it, all copies are shuffled alike. It holds `first`: without it, every displayed order a
    # list is asked for in would be merged with the same R - 1 others, and look more stable than it is.
    return [first] + [random_slots(m, "bootstrap", list_id, first, r) for r in range(1, displays)]


def merge(rankings: torch.Tensor) -> torch.Tensor:
    mean_rank = rank_of(rankings).double().mean(0)  # (N, m) of each candidate: ranks can be averaged, indices cannot
    return mean_rank.argsort(dim=-1, stable=True)


def bootstrapped(ranker, displays: int):
    def rank(lists, slots):
        drawn = [draw_displays(len(one.items), one.list_id, order, displays) for one, order in zip(lists, slots)]
        by_turn = zip(*drawn)  # R times N displayed orders
        return merge(torch.stack([ranker(lists, list(orders)) for orders in by_turn]))
    return rank
