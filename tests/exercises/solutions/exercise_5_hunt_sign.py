"""Solution 5: ranking the better item higher must never cost more.

The suspect took the formula from the LambdaLoss paper, where s is a *score*, large = good. Here s is a *position*,
small = good, so the sign turns: the suspect pays for putting the better item first.
"""
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alro import gold_rank


def check_lambda_loss(lambda_loss) -> None:
    # Distinct ratings, so that every list has pairs that count. Nothing here knows the formula.
    @settings(deadline=None, max_examples=30)
    @given(st.permutations(range(1, 6)), st.integers(0, 2 ** 31), st.floats(0.1, 3))
    def lifting_the_best_item_lowers_the_loss(ratings, seed, lift):
        ratings = torch.tensor([ratings]).double()  # (1, m)
        draw = torch.Generator().manual_seed(seed)
        position = 1 + 4 * torch.rand(1, 5, generator=draw, dtype=torch.float64)  # (1, m)
        lifted = position.clone()
        lifted[0, ratings.argmax()] -= lift  # up the list: a smaller position, for the one item no other should beat
        before, after = (lambda_loss(p, ratings, gold_rank(ratings)) for p in (position, lifted))
        assert after.item() < before.item()

    lifting_the_best_item_lowers_the_loss()
