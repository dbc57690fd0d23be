"""The suspect of exercise 6: a colleague's Encoder.batch, for training. Its loss falls faster than ours."""
import torch

from alro import Batch


def make_batch(encoder, lists, slots, orders: torch.Tensor) -> Batch:
    """Tokenise lists, list b in displayed order slots[b], with the gold answer behind each prompt.

    Args: encoder: data.Encoder; lists: B RankingLists; slots: B permutations, slot -> item; orders (B, m) long, gold.
    Returns: alro.Batch, on the CPU.
    """
    m, rows, positions, targets = encoder.list_size, [], [], []
    displayed = torch.tensor(slots)  # (B, m)
    answers = encoder.identifiers[displayed.argsort(-1).gather(-1, orders)].tolist()  # item -> slot -> token
    for (_, tokens, _, _), answer in zip(encoder.tokenise(lists, slots), answers):
        rows.append(tokens + answer)
        start = len(tokens)  # where the answer begins
        positions.append([*range(start, start + m)])  # the m places of the answer
        targets.append(answer)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, 0)  # (B, T) pads on the right
    ratings = torch.tensor([one.ratings for one in lists], dtype=torch.float32)  # (B, m)
    return Batch(padded, torch.tensor(positions), torch.tensor(targets), encoder.identifiers, displayed, orders,
                 ratings)
