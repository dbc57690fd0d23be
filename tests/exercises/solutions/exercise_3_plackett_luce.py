"""Solution 3: Plackett-Luce (ListMLE)."""
import torch

import alro
import train


def list_mle(scores: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    in_order = scores.gather(-1, order)  # (B, m) best first
    # Entry k of the flipped-back cumulative log-sum-exp runs over k, k + 1 .. m: all that is left when k is drawn.
    left = in_order.flip(-1).logcumsumexp(-1).flip(-1)  # (B, m)
    return (left - in_order).sum(-1)


def list_mle_with_ties(scores: torch.Tensor, ratings: torch.Tensor) -> torch.Tensor:
    below = ratings.unsqueeze(-2) < ratings.unsqueeze(-1)  # (B, m, m) [i, j]: j is rated below i
    rivals = below | torch.eye(ratings.shape[-1], dtype=torch.bool, device=ratings.device)  # (B, m, m) and i itself
    left = scores.unsqueeze(-2).masked_fill(~rivals, -torch.inf).logsumexp(-1)  # (B, m) never empty: i is in it
    return (left - scores).sum(-1)


def soft_list_mle(probs: torch.Tensor, ratings: torch.Tensor, ranks: torch.Tensor, gamma: float,
                  sigma: float = 1.0) -> torch.Tensor:
    # A soft rank is a position, small = ranked high; a score is large = ranked high: hence the minus.
    return list_mle_with_ties(-sigma * alro.soft_rank(probs, gamma), ratings)


def losses(model, batch, cfg) -> dict[str, torch.Tensor]:
    log_probs, other_log_probs, rating_terms = train.model_outputs(model, batch, cfg)
    lists = len(log_probs)
    order, ratings = batch.order[:lists], batch.ratings[:lists]  # (B, m) the other half, if any, is the same lists
    terms = alro.alro_loss(
        log_probs, order, ratings, alpha=0, beta=cfg.beta, gamma=cfg.gamma, other_log_probs=other_log_probs)
    terms = train.add_rating_terms(terms, rating_terms)

    def of(probs):  # (B, m, m) -> (B,)
        return soft_list_mle(probs, ratings, alro.gold_rank(ratings), cfg.gamma, cfg.sigma)

    terms["sll"] = of(log_probs.softmax(-1))  # over the m identifiers: y
    terms["total"] = terms["total"] + cfg.alpha * terms["sll"]
    references = train.references(order, ratings, cfg)
    references |= {"blind_sll": of(alro.blind_probs(order)), "perfect_sll": of(alro.perfect_probs(order))}
    return {**terms, **references}
