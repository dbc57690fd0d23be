"""Exercise 2: permutation-sensitive learning without a favourite. 45 minutes.

`alro.permutation_loss` is a cross-entropy: one displayed order gives the target y, the other, y', must follow. It is
not symmetric, and its least value over y' is the entropy of y, not 0: the number in the log falls when the model merely
becomes surer. Write two losses that are 0 exactly where the two outputs agree, and do not care which order came first.

What to learn: cross-entropy = entropy + KL; a KL divergence goes off to infinity where y' is nearly 0, Jensen-Shannon
never exceeds log 2 (whose gradient helps more where the two disagree completely?); working on log-probabilities,
because log(exp(-10000)) is -inf in the computer and 0 * -inf is NaN.

Begin: python tests/exercises/start.py 2       Check: pytest tests/exercises --exercise 2
Then try it: for y = (1, 0) and y' = (0, 1), in logits of +-10, both losses and their gradients with regard to y's
logits. Expect 20 nats against .693 = log 2, and a gradient of Jensen-Shannon that is next to nothing where the two
disagree most. To train with it, write a `losses` as exercise 3 does, with beta times yours in the place of beta times
"psl".
"""
import torch


def symmetric_kl_loss(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    """(KL(y || y') + KL(y' || y)) / 2, KL(p || q) = sum_i p_i (log p_i - log q_i), averaged over output positions.

    Args: log_probs, other_log_probs (B, m, m): log y and log y', each row [b, k] normalised; by candidate. Gradients
        flow into both.
    Returns: (B,), nats per position, >= 0.
    """
    raise NotImplementedError


def jensen_shannon_loss(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    """(KL(y || h) + KL(y' || h)) / 2 with h = (y + y') / 2, half of each; averaged over output positions.

    Args: as above. Returns: (B,), nats per position, in 0..log 2.
    """
    raise NotImplementedError
