"""Exercise 7 (advanced): read the shared prompt once. 90 minutes.

Permutation-sensitive learning runs every list twice, in two displayed orders. But the two rows begin alike: the
instruction and the user's whole history; only the candidates and the answer differ. Put both into one row,

    packed row      shared . . . . | rest of row 1 . . . . | rest of row 2 . . . .
    position id     0 1 2 3        | 4 5 6 7               | 4 5 6 7            <- starts again after the shared part
    may look at     itself         | shared and itself     | shared and itself  <- causally; never at each other

and the model reads the shared part once. To each token nothing has changed, so the results must be the same.

What to learn: 4D attention masks and position ids, the two things that make a token's context in a Transformer; that
a speed-up is a claim about numbers that stay the same, and is then measured; why a prefix can be shared in a causal
model (what comes later is not seen) and not in a bidirectional one.

Begin: python tests/exercises/start.py 7       Check: pytest tests/exercises --exercise 7
Then try it: python tests/exercises/time_packed.py --mine. Expect .77 of the tokens in the demo, and about as much of
the time. (In the project it would be called in the place of `target_logits` in train.py's `model_outputs`.)
"""
import torch

from alro import Batch


def packed_target_logits(model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same as `alro.target_logits(model, batch)`, with the model reading B rows and not 2 B.

    Args:
        model: a causal language model of transformers which takes `position_ids` and a boolean 4D `attention_mask`
            (B, 1, T', T'), True where row's token q may look at token k. Llama does.
        batch: 2 B rows: B lists in one displayed order, then the same lists, in the same order, in another
            (train.py's TrainingSteps.two_displays makes such). Row r has `prompt_tokens[r] + m` tokens, pads follow.
    Returns: (2 B, m, V), (2 B, H, V) and (2 B, m, V) float32: next-token logits of the answer, of the history's ratings
        and of the candidates', in the batch's own order of rows. As there, a token is predicted one place before it
        stands.

    Hints: what two rows share is what their token ids say, up to the first difference: no need to look at the text.
    Work out for each packed place which row, and which place of that row, it comes from: tokens, position ids and mask
    follow. At the end move the places to read in the second B rows to where they went; those in the shared part stay.
    """
    raise NotImplementedError
