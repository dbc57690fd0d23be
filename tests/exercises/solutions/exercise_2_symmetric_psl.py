"""Solution 2: symmetric KL and Jensen-Shannon, on log-probabilities throughout."""
import math

import torch


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) (B,), averaged over positions. Log-softmax never gives -inf, so exp(-20000) * -20000 is a clean 0."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


def symmetric_kl_loss(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    return (_kl(log_probs, other_log_probs) + _kl(other_log_probs, log_probs)) / 2


def jensen_shannon_loss(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    # log((y + y') / 2) without leaving the logs: where both are 0 in the computer, their sum's log would be -inf.
    half = torch.logaddexp(log_probs, other_log_probs) - math.log(2)  # (B, m, m)
    return (_kl(log_probs, half) + _kl(other_log_probs, half)) / 2
