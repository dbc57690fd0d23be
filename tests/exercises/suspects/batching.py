"""The suspect of exercise 6: a colleague's Encoder.batch, for training. Its loss falls faster than ours."""
import torch

from alro import Batch


def make_batch(encoder, lists, slots, orders: torch.Tensor) -> Batch:
    """Tokenise lists, list b in displayed order slots[b], with the gold answer behind each prompt.

    Args: encoder: data.Encoder; lists: B RankingLists; slots: B permutations, slot -> item; orders (B, m) long, gold.
    Returns: alro.Batch, on the CPU.
    """
    m, rows, prompt_tokens = encoder.list_size, [], []
    displayed = torch.tensor(slots)  # (B, m)
    answers = encoder.identifiers[displayed.argsort(-1).gather(-1, orders)].tolist()  # item -> slot -> token
    for prompt, answer in zip(encoder.tokenise(lists, slots), answers):
        row = prompt.tokens + answer
        rows.append(torch.tensor(row))
        prompt_tokens.append(len(row) - m + 1)  # up to where the answer begins
    padded = torch.nn.utils.rnn.pad_sequence(rows, True, 0)  # (B, T) pads on the right
    ratings = torch.tensor([one.ratings for one in lists], dtype=torch.float32)  # (B, m)
    no_history = torch.empty(len(lists), 0, dtype=torch.long)  # (B, 0) no rating of the history is a target
    return Batch(padded, torch.tensor(prompt_tokens), no_history, no_history, encoder.identifiers, displayed, orders,
                 ratings)
