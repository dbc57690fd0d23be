"""Checks of exercise 11, with models whose habits are planted: what they say of each slot is known."""
import types

import pytest
import torch
from classroom import LISTS, TOKENIZER, check, check_close, displays, encoder, gold, tiny_model, uneven_lists

import alro
from evaluate import kendall_tau

FREE, FIRST, BIAS, CALIBRATED, RANKER, LEAN = (
    "content_free", "first_log_y", "slot_bias", "calibrated", "calibrated_ranker", "lean")
HABIT = torch.tensor([3.0, 0.5, -0.5, -1.0, -2.0]).double()  # by slot
RANK_THESE, = [token for word, token in TOKENIZER.get_vocab().items() if word.startswith("\nRank these")]
RANKING = TOKENIZER.get_vocab()["\nRanking:"]
ITEMS = [3, 0, 7, 11, 5, 2, 9, 4]  # a neutral item for each of the eight lists


class Planted(torch.nn.Module):
    """A model on words. Just behind the prompt it says of slot j: how it likes the words of line j, plus habit(...)[j].

    Anywhere else it says something that tells nothing. habit(shared, likings) -> (m,): shared is what it thinks of the
    words before the candidates (so of the history), a number; likings (m,) of the lines, by slot.
    """

    def __init__(self, habit):
        super().__init__()
        words, numbers = len(TOKENIZER), torch.Generator().manual_seed(1)
        self.habit, self.asked = habit, []
        self.liking = torch.randn(words, generator=numbers).double()
        self.elsewhere = 9 * torch.randn(words, generator=numbers).double()  # what it says where it is not asked
        self.output = torch.nn.Linear(words, words, bias=False).double()
        torch.nn.init.eye_(self.output.weight)

    def get_output_embeddings(self):
        return self.output

    @property
    def base_model(self):
        return self.read

    def forward(self, input_ids, **options):
        return types.SimpleNamespace(logits=self.output(self.read(input_ids).last_hidden_state))

    def read(self, input_ids, **_options):
        letters = encoder().identifiers
        self.asked += input_ids.tolist()
        hidden = self.elsewhere.repeat(*input_ids.shape, 1)  # (B, T, V)
        for row, tokens in zip(hidden, input_ids.tolist()):
            end = tokens.index(RANKING)
            starts = [tokens.index(RANK_THESE), *(tokens.index(letter) for letter in letters)]
            likings = torch.stack([self.liking[tokens[a + 1:b]].sum() for a, b in zip(starts, starts[1:])])
            row[end, letters] = likings + self.habit(self.liking[tokens[:starts[0]]].sum().item(), likings)
        return types.SimpleNamespace(last_hidden_state=hidden)


def always(shared, likings):
    """One habit for all lists."""
    return HABIT


def by_history(shared, likings):
    """Weaker or stronger, as the history is."""
    return HABIT * (1 + torch.tanh(torch.tensor(shared)).item())


def by_what_is_displayed(shared, likings):
    """Its favourite slots are the first ones or the last ones, as it likes what stands first."""
    return 2 * (HABIT if likings[0] > likings.mean() else HABIT.flip(0))


def by_hand(model, lists, items) -> torch.Tensor:
    """(N, m) log y by slot of the content-free lists, with the planted habit alone: all lines are liked alike."""
    shared = [model.liking[tokens[:tokens.index(RANK_THESE)]].sum().item()
              for tokens in encoder().encode(lists, displays("by hand", lists)).input_ids.tolist()]
    return torch.stack([model.habit(one, torch.zeros(5)) for one in shared]).log_softmax(-1)


def centred(values):
    return values - values.mean()


def agreement(ranker, lists) -> float:
    one, two = (ranker(lists, displays(key, lists)) for key in ("one", "two"))
    return kendall_tau(one, two).mean().item()


def test_a_content_free_list_differs_in_its_candidates_alone(work):
    one = LISTS[0]
    items = list(one.items)
    found = work.content_free(one, 7)
    check(found.items == [7] * 5, FREE, "item 7 in all five lines", "items holds catalogue indices: [item] * m",
          found.items)
    check(one.items == items, FREE, "the list that was given, unchanged", "dataclasses.replace makes a new one",
          one.items)
    check(found.history == one.history and found.list_id == one.list_id and found.shown == one.shown, FREE,
          "all else as it was", "the habit is measured behind real histories", found)


@pytest.mark.parametrize("answers", [False, True])
def test_the_first_letter_is_read_just_behind_the_prompt_and_by_slot(work, answers):
    lists, model = uneven_lists(), Planted(always)
    batch = encoder().encode(lists, displays("one", lists), gold(lists) if answers else None)
    found = work.first_log_y(model, batch)
    ends = (batch.input_ids == RANKING).int().argmax(-1)
    logits = model.read(batch.input_ids).last_hidden_state[torch.arange(len(lists)), ends]  # (B, V)
    check_close(found, logits[:, batch.identifiers].log_softmax(-1), FIRST, "log y of each slot's letter, by slot",
                "it is predicted one place before it stands, so at token batch.prompt_tokens - 1, wherever padding "
                "ends; slot j's letter is batch.identifiers[j]; log_softmax over these m alone", atol=1e-4)


def test_a_small_language_model_is_read_as_alro_reads_it(work):
    torch.manual_seed(0)
    model, lists = tiny_model(len(TOKENIZER)).eval(), uneven_lists()
    batch = encoder().encode(lists, displays("one", lists), gold(lists))
    by_candidate = alro.candidate_log_probs(alro.target_logits(model, batch)[0], batch)[:, 0].log_softmax(-1)  # (B, m)
    check_close(work.first_log_y(model, batch), by_candidate.gather(-1, batch.slots), FIRST,
                "the first row of alro.candidate_log_probs, over the m identifiers alone, by slot",
                "the same place, the same m tokens; slot j displays candidate slots[j]", atol=1e-4)


def test_the_prompts_of_the_estimate_are_content_free(work):
    lists, model = uneven_lists(), Planted(always)
    work.slot_bias(model, encoder(), lists, ITEMS)
    check(len(model.asked) == len(lists), BIAS, f"{len(lists)} prompts, one for each list", "one pass for each batch",
          len(model.asked))
    texts = encoder().words.texts
    found = [TOKENIZER.decode(tokens) for tokens in model.asked]
    expected = [f"this user:\n{texts[item]} -> A\n{texts[item]} -> B\n" for item in ITEMS]
    for line in expected:
        check(any(line in prompt for prompt in found), BIAS, f"a prompt with the lines\n{line}",
              "content_free(list, item), each list with its own item", found[0])
    for one in lists:
        title, rating = one.history[-1]
        check(any(f"{texts[title]}: {rating:g}\nRank" in prompt for prompt in found), BIAS,
              "the histories of the lists that were given", "only the candidates are replaced", found[0])


def test_the_estimate_is_the_planted_habit(work):
    found = work.slot_bias(Planted(always), encoder(), uneven_lists(), ITEMS)
    check(found.shape == (5,), BIAS, "(m,), one number for each slot", "a mean over lists, dim 0", tuple(found.shape))
    check_close(centred(found), centred(HABIT), BIAS, "the habit that was planted (less its mean)",
                "are all lines alike, is it by slot, and is a logarithm averaged?", atol=1e-4)
    check(not found.requires_grad, BIAS, "no gradient kept", "torch.no_grad: nothing is trained here")


def test_the_estimate_is_a_mean_of_logarithms_over_all_lists(work):
    lists, model = uneven_lists(), Planted(by_history)
    found = work.slot_bias(model, encoder(), lists, ITEMS)
    expected = by_hand(model, lists, ITEMS).mean(0)
    check_close(centred(found), centred(expected), BIAS, "the mean of log y over the lists (less its mean)",
                "the logarithm of the mean probability is another number; is every list in, each with the same weight?",
                atol=1e-4)


def test_what_is_taken_off_belongs_to_the_slot(work):
    log_y = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]).log()
    bias = torch.tensor([1.0, 0.0, -2.0])
    slots = torch.tensor([[2, 0, 1], [0, 1, 2]])
    rest = log_y - bias  # (2, 3) by slot
    expected = torch.stack([rest[0, [1, 2, 0]], rest[1]])  # candidate 0 of the first list is displayed in slot 1
    found = work.calibrated(log_y, bias, slots)
    check(found.shape == expected.shape, CALIBRATED, "(B, m)", "a row for each list", tuple(found.shape))
    check_close(found - found.mean(-1, keepdim=True), expected - expected.mean(-1, keepdim=True), CALIBRATED,
                "log y less the bias, slot by slot, and then by candidate (each row less its mean)",
                "take the bias off while both are by slot; slots.argsort(-1) is candidate -> slot; in log space a "
                "habit is a term, so subtract")


def test_without_a_bias_it_is_the_models_own_first_letter(work):
    torch.manual_seed(0)
    model, lists = tiny_model(len(TOKENIZER)).eval(), uneven_lists()
    slots = displays("one", lists)
    found = work.calibrated_ranker(model, encoder(), torch.zeros(5))(lists, slots)
    expected = alro.rank_candidates(model, encoder().encode(lists, slots), "first")
    check_close(found, expected, RANKER, 'with a bias of 0 what alro.rank_candidates(..., "first") says',
                "candidates, not slots, by descending `calibrated`: argsort(dim=-1, descending=True, stable=True)")


def test_ties_go_to_the_lower_candidate(work):
    class Dead(Planted):
        def read(self, input_ids, **options):
            return types.SimpleNamespace(last_hidden_state=self.elsewhere.repeat(*input_ids.shape, 1) * 0)
    lists = uneven_lists()
    found = work.calibrated_ranker(Dead(always), encoder(), torch.zeros(5))(lists, displays("one", lists))
    check_close(found, torch.arange(5).expand(len(lists), -1), RANKER, "candidates 0 to 4 where all scores are equal",
                "sort by candidate, not by slot: a dead model would copy the display; stable=True")


def test_one_habit_for_all_lists_is_cured(work):
    lists, model = uneven_lists(), Planted(always)
    ranker = work.calibrated_ranker(model, encoder(), work.slot_bias(model, encoder(), lists[:4], ITEMS[:4]))
    found = agreement(ranker, lists)
    check(found > 1 - 1e-9, RANKER, "an agreement of 1 of the rankings in two displayed orders",
          "this model has one habit for all lists: estimated on four of them, it goes from all", found)
    batch = encoder().encode(lists, [list(range(5))] * len(lists))
    liked = torch.tensor([[model.liking[tokens[a + 1:b]].sum() for a, b in zip(ends, ends[1:])] for tokens, ends in zip(
        batch.input_ids.tolist(), [[row.index(RANK_THESE), *map(row.index, encoder().identifiers.tolist())]
                                   for row in batch.input_ids.tolist()])])
    check_close(ranker(lists, displays("one", lists)), liked.argsort(dim=-1, descending=True), RANKER,
                "the order in which the model likes the titles", "large = ranked high")


def test_what_depends_on_the_display_is_not_cured(work):
    lists, model = uneven_lists(), Planted(by_what_is_displayed)
    bias = work.slot_bias(model, encoder(), lists, ITEMS)
    found = agreement(work.calibrated_ranker(model, encoder(), bias), lists)
    check(found < 0.9, RANKER, "an agreement well below 1: this model's favourite slots depend on what is displayed",
          "one bias for all lists cannot take that off, and no more than one is to be taken off: one prompt a list, "
          "its first letter, less `bias`", found)


def test_the_lean_of_each_slot(work):
    orders, slots = torch.tensor([[2, 0, 1], [1, 0, 2]]), torch.tensor([[2, 0, 1], [0, 1, 2]])
    # First list: slot 0 shows candidate 2, ranked first; slot 1 candidate 0, second; slot 2 candidate 1, third.
    # Second list: slot 0 candidate 0, second; slot 1 candidate 1, first; slot 2 candidate 2, third.
    found = work.lean(orders, slots)
    check_close(found, torch.tensor([-0.5, -0.5, 1.0]), LEAN, "ranks 1 2 3 and 2 1 3 by slot, so 1.5 1.5 3, less 2",
                "an order holds candidates; alro.rank_of ranks by candidate, gather(-1, slots) makes them by slot")
    check(found.dtype == torch.float64, LEAN, "float64", ".double() before the mean", found.dtype)
    copied = torch.tensor(displays("one", LISTS))
    check_close(work.lean(copied, copied), torch.arange(5) - 2.0, LEAN, "-2 -1 0 1 2 for a copy of the display",
                "slot j is then ranked j + 1")
