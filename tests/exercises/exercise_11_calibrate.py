"""Exercise 11: take the favourite slots off. 45 minutes.

A model fine-tuned on a retriever's order likes some slots whatever stands in them: letter A first, the last letter
last. PSL trains that away. CapCal (Lv et al., arXiv 2604.10150) asks what can be had without training: show the model
lists in which *nothing* tells the candidates apart, one neutral text in every line, and see which letters it likes all
the same. Take that off its answer to a real list. (This is written from the idea alone, not from their code. Theirs
takes off more where the model is less sure; this takes off one and the same bias everywhere.)

(Invented numbers:)

    a real list              an answer's first letter        a content-free list       its first letter
    Ember Musical -> A       A .62   B .30   C .08           Oath Western -> A         A .70   B .20   C .10
    Acre Western -> B        what the list says              Oath Western -> B         what the model says
    Cloud Western -> C       and the model's habit           Oath Western -> C         when no list says anything

What to learn: that a habit can be measured where there is nothing to see; which part of a position bias is one habit
for all lists, and goes, and which part depends on what is displayed, and stays; that two numbers can tell two stories:
how the slots do on average, and how much the rankings of one list in two displayed orders agree.

Only the first letter of an answer is read here: its m probabilities, sorted, are a ranking (`--decode first`). All
probabilities are over the m identifiers alone, log y in alro.py. (N, m) *by slot* means: entry j is of what stands in
slot j. A ranker is what evaluate.py calls so: a function (lists, slots) -> (N, m) long, candidates best first.

Begin: python tests/exercises/start.py 11       Check: pytest tests/exercises --exercise 11
Then try it: python tests/exercises/try_calibrate.py RUN [PSL_RUN] [--mine]. It trains nothing. RUN is the folder of a
`python train.py --alpha 0 --beta 0`, PSL_RUN one of a `python train.py --alpha 0`. Expect slots that are about equal on
average after calibration, whatever they were. Before you look: does NDCG in the retriever's own order rise or fall,
and how much of the way to PSL's agreement does calibration go? What was measured stands at the top of the solution.
"""
import torch

from alro import Batch
from data import RankingList


def content_free(ranking_list: RankingList, item: int) -> RankingList:
    """The same list with the same history, but one item of the catalogue in all m lines of its candidates.

    Args: item: index into the catalogue (`RankingList` tells items from candidates).
    Returns: a new list; the one that was given stays as it is. Hint: dataclasses.replace.
    """
    raise NotImplementedError


def first_log_y(model, batch: Batch) -> torch.Tensor:
    """log y of the answer's first letter, (B, m) *by slot*, over the m identifiers.

    Args: batch: B lists; with or without an answer behind the prompt, which is not to be read.
    Hints: alro.unwrapped, alro.hidden_before, alro.token_logits; `rank_candidates` and `target_logits` read the same
        place.
    """
    raise NotImplementedError


def slot_bias(model, encoder, lists: list[RankingList], items: list[int]) -> torch.Tensor:
    """What the model likes where nothing tells the candidates apart: (m,) by slot; a constant for all slots is free.

    Args: lists: N lists; items: N items of the catalogue, the neutral one of each list. (In which displayed order? All
        lines are alike.)
    Returns: the mean of `first_log_y` over the N content-free lists: a mean of *logarithms*, no gradient kept.
    """
    raise NotImplementedError


def calibrated(log_y: torch.Tensor, bias: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """What is left of an answer without the habit, *by candidate*.

    Args: log_y (B, m) by slot; bias (m,) by slot; slots (B, m) long, slot -> candidate.
    Returns: (B, m), entry i of candidate i, large = ranked high.
    """
    raise NotImplementedError


def calibrated_ranker(model, encoder, bias: torch.Tensor):
    """A ranker that sorts by `calibrated`: function (lists, slots) -> (N, m) long, candidates best first.

    Ties go to the lower candidate index. No gradient is kept. Hints: 64 lists at a time will do; `rank_candidates`
    sorts in the same way.
    """
    raise NotImplementedError


def lean(orders: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """How much higher or lower than the middle each slot is ranked on average: (m,) float64, 0 = no habit.

    Args: orders (N, m) long, candidates best first; slots (N, m) long, slot -> candidate, as they were displayed.
    Returns: by slot, the mean 1-based rank of what is displayed there, less (m + 1) / 2; negative = ranked high.
    """
    raise NotImplementedError
