"""Checks of exercise 4, with rankers that need no model."""
import collections
import itertools

import pytest
import torch
from classroom import LISTS, RATINGS, check, check_close, displays

import data
from evaluate import score_method, score_ranker

DRAW = "draw_displays"
MANY = data.split(RATINGS, data.DataConfig(list_size=5, history_size=6))
MANY = [one for one in MANY.train + MANY.valid + MANY.test if one.informative]


def biased(lists, slots):
    """Ranks by rating less 0.8 for each place down the display: a reader who tires."""
    ratings, slots = torch.tensor([one.ratings for one in lists]), torch.tensor(slots)  # (N, m) each
    return (ratings - 0.8 * slots.argsort(-1)).argsort(dim=-1, descending=True, stable=True)


blind = score_ranker(lambda one: torch.tensor(one.ratings).numpy())


class Spy:
    """A ranker that keeps the displayed orders it was asked for."""

    def __init__(self, ranker):
        self.ranker, self.calls = ranker, []

    def __call__(self, lists, slots):
        self.calls.append([list(order) for order in slots])
        return self.ranker(lists, slots)


def test_merge_by_mean_rank(work):
    rankings = torch.tensor([[[0, 1, 2], [2, 0, 1]], [[1, 0, 2], [2, 0, 1]], [[0, 2, 1], [0, 1, 2]]])  # (3, 2, 3)
    # First list: mean ranks 4/3, 6/3, 8/3. Second: candidate 0 2, 2, 1; 1 3, 3, 2; 2 1, 1, 3: 0 and 2 tie.
    check_close(work.merge(rankings), torch.tensor([[0, 1, 2], [0, 2, 1]]), "merge", "by mean rank, ties to the lower",
                "a ranking holds candidates; their ranks are its inverse (alro.rank_of); argsort(dim=-1, stable=True)")
    check_close(work.merge(torch.tensor([[[2, 0, 3, 1]]])), torch.tensor([[2, 0, 3, 1]]), "merge",
                "one ranking as it is", "from ranks back to candidates: argsort")


def test_the_displays_are_permutations_repeatable_and_really_different(work):
    first, seen, mirrored = [3, 1, 5, 0, 2, 4], collections.Counter(), 0
    for name in range(200):
        drawn = work.draw_displays(6, f"list {name}", first, 5)
        check(len(drawn) == 5 and list(drawn[0]) == first, DRAW, f"5 orders, the first of them {first}",
              "the display that was asked for, then displays - 1 others", drawn)
        check(all(sorted(order) == list(range(6)) for order in drawn), DRAW, "permutations of 0..5",
              "data.random_slots",
              drawn)
        check(drawn == work.draw_displays(6, f"list {name}", first, 5), DRAW, "the same for the same arguments",
              "no state outside of the key: data.random_slots(m, *key)")
        seen.update(tuple(order) for order in drawn[1:])
        mirrored += any(list(one) == list(two)[::-1] for one, two in itertools.combinations(drawn[1:], 2))
    # 800 draws from 720 orders: about 483 different ones. All copies alike: 200 at most. One key for all lists: 4.
    check(len(seen) > 430, DRAW, "about 483 different orders in 800 draws from 720",
          "is the number of the draw in the key, and the list's name?", len(seen))
    check(mirrored < 15, DRAW, "draws independent of each other (one and its reverse: in about 2 of 200 lists)",
          "each draw from a key of its own", mirrored)
    other = work.draw_displays(6, "list 0", first[::-1], 5)
    check(other[1:] != work.draw_displays(6, "list 0", first, 5)[1:], DRAW, "other draws for another first display",
          "else every display is merged with the same others, and looks more stable than it is")


def test_every_candidate_comes_to_every_slot_about_equally_often(work):
    drawn = [work.draw_displays(4, str(name), [0, 1, 2, 3], 4)[1:] for name in range(400)]
    place = torch.tensor(drawn).flatten(0, 1)  # (1200, 4) slot -> candidate
    counts = torch.stack([(place == i).sum(0) for i in range(4)])  # (candidate, slot), 300 expected, deviation 15
    check((counts - 300).abs() < 75, DRAW, "each candidate about 300 times in each slot",
          "a random permutation, no rotation; another one for each list: is the list's name in the key?",
          counts)


def test_it_costs_as_many_calls_as_displays_and_each_shows_another_order(work):
    spy, slots = Spy(biased), displays("asked", LISTS)
    work.bootstrapped(spy, 4)(LISTS, slots)
    check(len(spy.calls) == 4, "bootstrapped", "4 calls of the ranker for 4 displays", "one call ranks all lists",
          len(spy.calls))
    check(spy.calls[0] == slots, "bootstrapped", "the displays asked for in the first call", "from lists to turns: zip")
    different = [len({tuple(call[n]) for call in spy.calls}) for n in range(len(LISTS))]
    check(sum(different) >= 4 * len(LISTS) - 3, "bootstrapped", "four different displays of each list",
          "all copies alike? (by chance two of a list's four may agree, rarely)", different)


@pytest.mark.parametrize("ranker", [biased, blind])
def test_one_display_is_the_ranker_itself(work, ranker):
    slots = displays("asked", LISTS)
    check_close(work.bootstrapped(ranker, 1)(LISTS, slots), ranker(LISTS, slots), "bootstrapped",
                "with one display, the ranker itself", "merge of one ranking is that ranking")


def test_a_ranker_indifferent_to_the_display_is_not_changed(work):
    slots = displays("asked", LISTS)
    check_close(work.bootstrapped(blind, 5)(LISTS, slots), blind(LISTS, slots), "bootstrapped",
                "what a ranker says that does not see the display", "rankings are by candidate: nothing to turn back")


def test_a_list_is_ranked_the_same_whatever_stands_beside_it(work):
    slots, ranker = displays("asked", LISTS), work.bootstrapped(biased, 5)
    check_close(ranker(LISTS[3:4], slots[3:4]), ranker(LISTS, slots)[3:4], "bootstrapped",
                "the ranking of a list alone as among others", "its draws go by its name, not by its place in the call")


def test_a_biased_ranker_flips_less_and_ranks_better(work):
    # Here: flips .63 -> .37, agreement .26 -> .64, NDCG .93 -> .99; of several other keys all are within .05 of these.
    once, often = (score_method(ranker, MANY, orders=3)["values"] for ranker in (biased, work.bootstrapped(biased, 9)))
    hint = "are the displays of one list really different ones, and are ranks averaged, not candidates?"
    for metric, better in (("top1_flip_rate", lambda a, b: a < 0.75 * b), ("agreement", lambda a, b: a > b + 0.2),
                           ("ndcg@5", lambda a, b: a > b + 0.02)):
        found, before = often[metric].mean(), once[metric].mean()
        check(better(found, before), "bootstrapped", f"a clearly better {metric} than {before:.3f}, asked once", hint,
              f"{found:.3f}")
