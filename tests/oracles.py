"""Slow double loops on plain floats, written from the paper's equations; and, at the end, a device that needs no GPU.

They share nothing with the code, so they cannot share a mistake of indexing or broadcasting with it.
A list is a Python list here; the index of an item is its place in it.
"""
import itertools
import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def oracle_soft_rank(y, gamma):
    """s_i = sum_k k exp(gamma y_ki) / sum_l exp(gamma y_li)"""
    m = len(y)
    e = [[math.exp(gamma * y[k][i]) for i in range(m)] for k in range(m)]
    return [sum((k + 1) * e[k][i] for k in range(m)) / sum(e[k][i] for k in range(m))
            for i in range(m)]


def oracle_gold_rank(ratings):
    """The mean, over all orders with ratings descending, of each item's place."""
    m = len(ratings)
    good = [p for p in itertools.permutations(range(m))
            if all(ratings[a] >= ratings[b] for a, b in itertools.pairwise(p))]
    return [sum(p.index(i) + 1 for p in good) / len(good) for i in range(m)]


def oracle_weight(i, j, ratings, ranks):
    """delta_ij |G_i - G_j| for a pair in which i is rated above j."""
    ideal = sum((2 ** r - 1) / math.log2(1 + k)
                for k, r in enumerate(sorted(ratings, reverse=True), 1))
    gap = abs(ranks[i] - ranks[j])
    delta = abs(1 / math.log2(1 + gap) - 1 / math.log2(1 + gap + 1))
    return delta * abs((2 ** ratings[i] - 1) / ideal - (2 ** ratings[j] - 1) / ideal)


def oracle_lambda_loss(position, ratings, ranks, sigma):
    """sum over pairs with r_i > r_j of delta_ij |G_i - G_j| log2(1 + exp(sigma (s_i - s_j)))"""
    total = 0.0
    for i in range(len(ratings)):
        for j in range(len(ratings)):
            if ratings[i] > ratings[j]:
                x = sigma * (position[i] - position[j])
                log = max(x, 0) + math.log1p(math.exp(-abs(x)))  # log(1 + e^x) without overflow
                total += oracle_weight(i, j, ratings, ranks) * log / math.log(2)
    return total


def oracle_blind_probs(order):
    """Row k: the same probability for each item that did not come out before position k."""
    m = len(order)
    return [[0.0 if i in order[:k] else 1 / (m - k) for i in range(m)] for k in range(m)]


def oracle_ndcg(ratings, order, k):
    """Gain 2^r - 1, discount 1 / log2(1 + place), over what the best order gives; 1 where that is 0."""
    def dcg(values):
        return sum((2 ** r - 1) / math.log2(1 + place) for place, r in enumerate(values[:k], 1))
    ideal = dcg(sorted(ratings, reverse=True))
    return dcg([ratings[i] for i in order]) / ideal if ideal else 1.0


# ---- No GPU needed ---------------------------------------------------------------------------------------------------

class OneDevice(TorchDispatchMode):
    """Inside `with`: an operation on tensors of two devices is an error, as on a GPU; single numbers may lie anywhere.

    With tensors of the `meta` device, which have a shape and no content, it finds without a GPU a tensor that was
    made on the wrong device. (Meta alone would let gather, indexing and matrix products pass.) Whatever is asked
    about the content is answered with yes.
    """

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        leaves = torch.utils._pytree.tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.dim() > 0]
        devices = {tensor.device.type for tensor in tensors}
        assert len(devices) < 2, f"{operation} on tensors of {devices}"
        if operation is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True
        return operation(*args, **(kwargs or {}))
