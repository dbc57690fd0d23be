"""The suspects of exercise 6: four colleagues' ways from lists to a batch for training. None raises an error.

Arguments and values as data.Encoder.encode has them: encoder; B RankingLists; B displayed orders (slot -> candidate);
orders (B, m) long, gold. Returns alro.Batch. At least one of the four is right.
"""
import torch
from classroom import prompts

from alro import Batch


def fields(encoder, lists, rows, prompt_tokens, slots, orders) -> Batch:
    """Rows of tokens, padded on the right, with the rest of a Batch; no rating is a target."""
    padded = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), True, 0)  # (B, T)
    ratings = torch.tensor([one.ratings for one in lists], dtype=torch.float32)  # (B, m)
    nothing = torch.empty(len(lists), 0, dtype=torch.long)  # (B, 0)
    anywhere, no_target = torch.ones_like(orders), torch.full_like(orders, -100)  # (B, m)
    return Batch(padded, torch.as_tensor(prompt_tokens), nothing, nothing, anywhere, no_target, encoder.identifiers,
                 encoder.level_tokens, encoder.levels, torch.tensor(slots), orders, ratings)


def suspect_1(encoder, lists, slots, orders):
    """prompt_tokens: up to where the answer begins."""
    rows, prompt_tokens = [], []
    slot_of = torch.tensor(slots).argsort(-1)  # (B, m) candidate -> slot
    answers = encoder.identifiers[slot_of.gather(-1, orders)].tolist()
    for prompt, answer in zip(prompts(encoder, lists, slots), answers):
        rows.append(prompt + answer)
        prompt_tokens.append(len(rows[-1]) - encoder.list_size + 1)
    return fields(encoder, lists, rows, prompt_tokens, slots, orders)


def suspect_2(encoder, lists, slots, orders):
    """The answer is found as the last m tokens, counted from the row's end."""
    answers = encoder.identifiers[torch.tensor(slots).argsort(-1).gather(-1, orders)].tolist()
    rows = [prompt + answer for prompt, answer in zip(prompts(encoder, lists, slots), answers)]
    end = max(map(len, rows))
    return fields(encoder, lists, rows, [end - encoder.list_size] * len(lists), slots, orders)


def suspect_3(encoder, lists, slots, orders):
    """The answer's letters straight from the gold order."""
    answers = encoder.identifiers[orders].tolist()
    asked = prompts(encoder, lists, slots)
    rows = [prompt + answer for prompt, answer in zip(asked, answers)]
    return fields(encoder, lists, rows, list(map(len, asked)), slots, orders)


def suspect_4(encoder, lists, slots, orders):
    """Candidate by candidate: the letter of the slot that shows it."""
    asked = prompts(encoder, lists, slots)
    rows = []
    for prompt, shown, gold in zip(asked, slots, orders.tolist()):
        rows.append(prompt + [int(encoder.identifiers[shown.index(candidate)]) for candidate in gold])
    return fields(encoder, lists, rows, list(map(len, asked)), slots, orders)
