"""Solution 5: three properties that every lambda loss on positions has.

suspect_1 took the formula from the LambdaLoss paper, where s is a *score*, large = good. Here s is a *position*, small
= good, so the sign turns: it pays for putting the better candidate first. suspect_2 is right. suspect_3 clamps the gap:
a pair that stands wrongly costs one bit however wrong it is, and has no gradient, so that training never mends it.
suspect_4 divides by the weights of the whole batch: a list's loss depends on its neighbours.
"""
import torch

from alro import gold_rank


def check_lambda_loss(lambda_loss) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        # Distinct ratings, so that every list has pairs that count. Nothing here knows the formula. Eight lists of
        # five: every candidate number is the best of some list, and the worst of another. Each list has a scale of its
        # own, 1/8 .. 5/8 the first and 1 .. 5 the last: what is read off the whole batch is another number for each.
        first = torch.rand(8, 5, generator=generator).argsort(-1)
        b = torch.arange(8).unsqueeze(-1)  # (8, 1)
        ratings = ((first + b) % 5 + 1).double() * (b + 1) / 8  # (8, 5)
        position = 1 + 4 * torch.rand(8, 5, generator=generator, dtype=torch.float64)  # (8, 5)
        worst_first = 6 - gold_rank(ratings)  # every pair stands wrongly
        for positions in (position, worst_first.double()):
            before = lambda_loss(positions, ratings, gold_rank(ratings))  # (8,)

            # 1. A little up with the best candidate (a smaller position), or down with the worst: it must cost less.
            for best, step in ((True, -0.1), (False, 0.1)):
                candidate = ratings.argmax(-1) if best else ratings.argmin(-1)  # (8,)
                moved = positions.scatter_add(1, candidate.unsqueeze(-1), torch.full((8, 1), step).double())
                after = lambda_loss(moved, ratings, gold_rank(ratings))  # (8,)
                assert (after < before).all(), "a better place for the best or the worst costs no less"

            # 2. The numbers of the candidates mean nothing.
            new = torch.randperm(5, generator=generator)
            renamed = lambda_loss(positions[:, new], ratings[:, new], gold_rank(ratings)[:, new])
            assert torch.allclose(renamed, before), "candidates renumbered, and another loss"

            # 3. Nor do the other lists of the batch.
            alone = torch.cat([lambda_loss(positions[b:b + 1], ratings[b:b + 1], gold_rank(ratings)[b:b + 1])
                               for b in range(8)])
            assert torch.allclose(alone, before), "a list alone has another loss than among others"
