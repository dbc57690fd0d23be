"""ALRO: aligned list-wise ranking objectives. Prompt, target, probabilities, losses, ranking.

    Chao, Zheng, Zhu, Liu: Make Large Language Model a Better Ranker.
    Findings of EMNLP 2024, pp. 918-929, arXiv 2403.19181.

A language model reads a user's rated history and m candidates, and writes the candidates'
identifiers from most to least liked. Nothing here trains: these are the formulas, on plain tensors.
train.py holds the loop. `python alro.py` works one list of three candidates by hand.

We had the abstract and public summaries of the paper, not its full text. Marks tell where a line
comes from:
    PAPER:              stated in the abstract.
    PAPER (summary E):  stated in a public summary, second-hand and possibly wrong. The letters:
                        E emergentmind.com, M themoonlight.io, L linnk.ai, S sciencestack.ai,
                        R liner.com (README, "Sources").
    GUESS:              the paper must say something here, but our sources do not; our value.
    OURS:               a departure or an addition of ours, and why.

The abstract's claims, by the numbers used here: (1) one candidate or one pair at a time is costly,
and next-token prediction of a whole list is not ranking; (2) so the order of the candidates, and
how far apart their ratings are, comes out poorly; (3) a list-wise prompt with explicit feedback
(ratings), a soft lambda loss and permutation-sensitive learning mend it; (4) the last removes
position bias, at no cost when ranking; (5) the result beats embedding-based and LLM-based
recommenders. And (6), of summaries L and S: it beats plain fine-tuning at every model size tried,
larger ones by more.

symbol    code             shape      range   meaning
m         list_size        -          2..26   candidates in one list
r_i       ratings          (B, m)     >= 0    the user's rating of candidate i
tau_i     gold_rank        (B, m)     1..m    target rank of candidate i; ties share their mean rank
y_{k,i}   probs            (B, m, m)  0..1    probability that output position k emits candidate i,
                                              teacher forced: the gold candidates before k are given
log y     log_y            (B, m, m)  <= 0    its logarithm. Not `log_probs`: these are over the
                                              whole vocabulary, not over the m identifiers alone
gamma     gamma            -          > 0     sharpness of the soft-argmax
s_i       soft_rank        (B, m)     1..m    soft output position of candidate i, SMALL = on top
G_i       normalised_gain  (B, m)     0..1    (2^r_i - 1) / ideal DCG of the list
D_k       torch.log2(1+k)  -          > 0     discount of rank k; here, of a distance of two ranks
delta_ij  in pair_weights  (B, m, m)  >= 0    | 1/D_|tau_i - tau_j| - 1/D_(|tau_i - tau_j| + 1) |
sigma     sigma            -          > 0     slope of the pairwise logistic
alpha     alpha            -          >= 0    weight of the soft lambda loss (SLL)
beta      beta             -          >= 0    weight of permutation-sensitive learning (PSL)

The *lambda* of "lambda loss" is the name of a family of losses (LambdaRank, LambdaLoss), no weight.

Prose and formulas count from 1 (candidate 1, position 1), indices in the code from 0.

Shapes stand at the end of the line that makes a tensor: B lists in a batch, T tokens, V words of
vocabulary, H rating tokens of the history, d width of the model. A list's m candidates can be
numbered in two ways:
    candidate i   0..m-1, the list's own fixed order, which tells nothing; all losses use it;
    slot j        0..m-1, where it is displayed in the prompt: slot j shows candidate slots[j] as
                  the letter "ABC..."[j].
Only the prompt, the batch and the two functions that read a model's logits (`candidate_log_probs`,
`next_candidate_logits`) know slots. What they return is by candidate, so no loss can mix them up.
"""
import math
import re
import string
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# The leading space is part of the token.
IDENTIFIERS = [" " + letter for letter in string.ascii_uppercase]


class AlroError(ValueError):
    """Something the user can mend; its one line says what, where, and what would be right."""


# ---- 1. The list-wise prompt, with explicit feedback (PAPER: claim 3; the words are a GUESS) -----

# What would break a line of the prompt, or make a terminal show it in another order.
WHITE_SPACE_AND_CONTROLS = r"\s\x00-\x1f\x7f-\x9f\u200b\u2060-\u2064\ufeff"
TEXT_DIRECTION = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
LONE_SURROGATES = r"\ud800-\udfff"
NOT_PLAIN = re.compile(f"[{WHITE_SPACE_AND_CONTROLS}{TEXT_DIRECTION}{LONE_SURROGATES}]+")


def clean_text(text: str) -> str:
    """One line of plain text: each stretch of characters that are not plain becomes one space."""
    return NOT_PLAIN.sub(" ", text).strip()


def build_prompt(history, titles, slots, noun: str = "movie", scale=(1, 5)) -> str:
    """The prompt for one list, in one displayed order. Its answer is identifiers only: " B A".

    Args:
        history: list of (title, rating), oldest first; may be empty.
        titles: m titles in candidate order (or more than a title: name, category, average).
        slots: permutation of 0..m-1; slot j shows titles[slots[j]].
        noun, scale: what the items are called; the lowest and the highest rating.
    Returns: text with exactly one line per candidate, each ending in its own identifier whatever
        the titles say (they pass through `clean_text`, so none can open a line of its own).
    Raises: AlroError if slots is no permutation of the titles, or titles outnumber the letters.
    Source: PAPER, list-wise, with explicit feedback. PAPER (summary M), an item's text may hold
        name, category, description and rating. GUESS: the words.
    Differs from the paper: OURS, the identifier stands *after* the title. A causal model then has
        read the title when it reaches the identifier, and can store there what it must later copy
        into the answer.
    """
    m = len(titles)
    if m > len(IDENTIFIERS):
        raise AlroError(f"{m} candidates, but identifiers are the {len(IDENTIFIERS)} letters A-Z")
    if sorted(slots) != list(range(m)):
        raise AlroError(f"slots must be a permutation of 0..{m - 1}, got {list(slots)}")
    worst, best = scale
    lines = [f"A user rated these {noun}s ({worst:g} = worst, {best:g} = best):"]
    for title, rating in history:
        lines.append(f"{clean_text(title)}: {rating:g}")
    lines.append(f"Rank these {noun}s from most to least liked by this user:")
    for identifier, candidate in zip(IDENTIFIERS, slots):
        lines.append(f"{clean_text(titles[candidate])} ->{identifier}")
    lines.append("Ranking:")
    return "\n".join(lines)


# ---- 2. The target: gold order and gold rank -----------------------------------------------------

def gold_order(ratings: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Candidates from best to worst, ties in random order.

    Args: ratings (B, m); generator makes the draw repeatable.
    Returns: (B, m) long, candidate indices.
    Differs from the paper: OURS, ties are drawn anew at each call. SFT needs *some* order inside a
        tie; the displayed order would teach position bias, a fixed one would be learned by heart.
    """
    draw = torch.rand(ratings.shape, generator=generator).argsort(-1)  # (B, m) a random order
    draw = draw.to(ratings.device)
    drawn_ratings = ratings.gather(-1, draw)  # (B, m)
    # Stable: among equal ratings the order of the draw stays.
    by_rating = drawn_ratings.argsort(dim=-1, descending=True, stable=True)  # (B, m)
    return draw.gather(-1, by_rating)


def rank_of(order: Tensor) -> Tensor:
    """1-based rank (B, m) long of each candidate in an order (B, m) of candidate indices.

    The inverse permutation, plus one.
    """
    return order.argsort(-1) + 1


def remaining(order: Tensor) -> Tensor:
    """(B, m, m) bool: whether candidate i (last axis) is still to come at output position k, in an
    order (B, m)."""
    rank = rank_of(order).unsqueeze(-2)  # (B, 1, m) the output position at which each comes out
    k = torch.arange(1, order.shape[-1] + 1, device=order.device).unsqueeze(-1)  # (m, 1)
    return rank >= k


def gold_rank(ratings: Tensor) -> Tensor:
    """tau: target ranks (B, m) float in 1..m, ratings descending; ties share their mean rank.

    Differs from the paper: OURS, in the summaries tau is a permutation. With mean ranks the pair
        weights do not depend on how ties fell; the answer that SFT is given still does.
    """
    mine, theirs = ratings.unsqueeze(-1), ratings.unsqueeze(-2)  # (B, m, 1), (B, 1, m)
    better = (theirs > mine).sum(-1)  # (B, m) how many are rated above candidate i
    equal = (theirs == mine).sum(-1)  # (B, m) how many as candidate i, itself included
    return better + (equal + 1) / 2  # the mean of better + 1 .. better + equal


# ---- 3. The model's probabilities, teacher forced, by candidate ----------------------------------

class Batch(NamedTuple):
    """B tokenised lists, padded on the right (data.py makes it). Long, but for ratings and levels.

    `..._at` are places, indices into T; `..._rated` the tokens to be predicted there. What stands
    at place t is predicted at t - 1. A *level* is one of the ratings that occur, such as 4.
    """
    input_ids: Tensor        # (B, T) prompt, then the gold answer (not when ranking), then pads
    prompt_tokens: Tensor    # (B,) how many tokens the prompt has, without the answer
    history_at: Tensor       # (B, H) where a token of a rating in the history stands; padding: 1
    history_rated: Tensor    # (B, H) the token that stands there; -100 = none (padding)
    candidate_at: Tensor     # (B, m) where each candidate's identifier stands; its rating is asked
                             #     for at the same place, as if it stood there (see `rating_loss`)
    candidate_rated: Tensor  # (B, m) the token that would say its rating; -100 = none does
    identifiers: Tensor      # (m,) identifier token of each slot
    level_tokens: Tensor     # (L,) the token of each level; L = 0 where no single token tells it
    levels: Tensor           # (L,) float, the levels themselves
    slots: Tensor            # (B, m) displayed order: slot -> candidate
    order: Tensor            # (B, m) gold order: output position -> candidate
    ratings: Tensor          # (B, m) float, by candidate

    def to(self, device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def candidate_tokens(self) -> Tensor:
        """(B, m) identifier token of each candidate: candidate -> slot -> token."""
        slot_of = self.slots.argsort(-1)  # (B, m) the inverse of slot -> candidate
        return self.identifiers[slot_of]


def unwrapped(model):
    """The causal language model, output layer included, out of PEFT's wrapper if it has one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_before(hidden: Tensor, places: Tensor) -> Tensor:
    """Of hidden states (B, T, d), those (B, n, d) that predict what stands at places (B, n)."""
    index = (places - 1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])  # (B, n, d)
    return hidden.gather(1, index)


def target_logits(model, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Next-token logits, only where some token should be predicted.

    Returns: (B, m, V) for the m output positions of the answer, (B, H, V) for the ratings in the
        history, (B, m, V) for the rating of each candidate, by candidate; all float32.
    The output layer is applied after gathering: the (B, T, V) tensor of all logits, by far the
    largest of a step, is never made. No attention mask: in a causal model no token that counts
    sees the padding on its right.
    """
    model = unwrapped(model)
    m = batch.slots.shape[-1]
    # What transformers calls base_model: all layers but the output layer.
    output = model.base_model(input_ids=batch.input_ids, use_cache=False)
    hidden = output.last_hidden_state  # (B, T, d)
    # The answer follows the prompt.
    k = torch.arange(m, device=hidden.device)  # (m,)
    answer_at = batch.prompt_tokens.unsqueeze(-1) + k  # (B, m)
    places = torch.cat([answer_at, batch.history_at, batch.candidate_at], dim=-1)  # (B, m + H + m)
    output_layer = model.get_output_embeddings()
    logits = output_layer(hidden_before(hidden, places)).float()  # (B, m + H + m, V)
    return logits[:, :m], logits[:, m:-m], logits[:, -m:]


def candidate_log_probs(answer_logits: Tensor, batch: Batch) -> Tensor:
    """log P(position k emits candidate i | prompt, gold identifiers before k), (B, m, m).

    Args: answer_logits (B, m, V), of `target_logits`.
    Normalised over the whole vocabulary, as SFT wants it. SLL and PSL want log y, normalised over
    the list's m identifiers alone: apply `.log_softmax(-1)` (the vocabulary's normaliser is the
    same for all m, so it cancels).
    """
    m = batch.slots.shape[-1]
    # The same m tokens are looked up at each output position.
    tokens = batch.candidate_tokens().unsqueeze(1).expand(-1, m, -1)  # (B, m, m)
    of_candidates = answer_logits.gather(-1, tokens)  # (B, m, m)
    return of_candidates - answer_logits.logsumexp(-1, keepdim=True)


# ---- 4. The losses -------------------------------------------------------------------------------
# Pure functions on tensors by candidate, of any float dtype; one value per list, never reduced;
# they know nothing of padding, models or tokens.

def sft_loss(log_probs: Tensor, order: Tensor) -> Tensor:
    """Supervised fine-tuning: next-token loss on the answer.

    Args: log_probs (B, m, m), normalised over the vocabulary; order (B, m) long, the gold order.
    Returns: (B,), nats per identifier.
    Source: PAPER (summary M), next-token loss on the answer:
        L_sft = -1/m sum_k log P(identifier of the gold candidate at position k | prompt, those
        before k).
        GUESS: P is over the whole vocabulary, as next-token loss has it.
    Differs from the paper: nothing known.
    """
    # At position k, the entry of the candidate that stands at gold position k.
    gold = log_probs.gather(-1, order.unsqueeze(-1)).squeeze(-1)  # (B, m)
    return -gold.mean(-1)


def rating_loss(logits: Tensor, rated: Tensor) -> Tensor:
    """Next-token loss on ratings: those in the history, or those of the candidates.

    Args: logits (B, n, V), of `target_logits`; rated (B, n) long, the tokens; -100 = no target.
    Returns: (B,), nats per token; 0 for a list without a target.
    Differs from the paper: OURS, both. In the history ("Heat (1995): 4") the rating stands in the
        prompt. A candidate's never does: it is asked for where its line says "Fargo (1996) ->", as
        if the line went on with it, and only in training is it known. To predict a rating, the
        model must have read the user's taste from the lines before. Ranking needs just that, and
        these targets ask for it at many more places than the answer does. So the model soon *knows*
        each candidate's rating (`expected_ratings`), and the answer has only to *say* it. With
        --history_weight 0 --candidate_weight 0 train.py's objective is the paper's, as far as we
        know it.
    """
    by_token = logits.transpose(1, 2)  # (B, V, n), as cross_entropy wants it
    loss = F.cross_entropy(by_token, rated, ignore_index=-100, reduction="none")  # (B, n)
    count = (rated != -100).sum(-1).clamp(min=1)  # (B,)
    return loss.sum(-1) / count


def soft_rank(probs: Tensor, gamma: float) -> Tensor:
    """s: soft-argmax of each candidate's column of y over output positions; small = ranked high.

    Args: probs (B, m, m), y; gamma > 0, larger = closer to the position where the column peaks.
    Returns: (B, m) float, in 1..m.
    Source: PAPER (summary E), s_i = [sum_k k exp(gamma y_ki)] / [sum_l exp(gamma y_li)].
    Differs from the paper: nothing known.
    In two stages: a softmax over the positions k makes weights of a column, then the mean position
    under these weights. Not the mean under y itself: a column of y need not sum to 1. Gamma must be
    neither too small (at 1 every s_i stays near (m + 1)/2) nor too large: at 100 even a model that
    knows only what is already out (`blind_probs`) seems to have sorted the list.
    """
    weights = (gamma * probs).softmax(dim=-2)  # (B, m, m) each column sums to 1 over positions k
    k = torch.arange(1, probs.shape[-2] + 1, dtype=probs.dtype, device=probs.device)  # (m,)
    return (weights * k.unsqueeze(-1)).sum(dim=-2)


def normalised_gain(ratings: Tensor) -> Tensor:
    """G_i = (2^r_i - 1) / ideal DCG of the list, (B, m); NaN where no candidate has any gain.

    Source: PAPER (summary E), 2^r - 1 as an example. GUESS: divided by the ideal DCG, as in
        LambdaLoss (Wang et al., CIKM 2018).
    """
    gain = 2.0 ** ratings - 1  # (B, m)
    k = torch.arange(1, ratings.shape[-1] + 1, dtype=gain.dtype, device=gain.device)  # (m,)
    best_first = gain.sort(-1, descending=True).values  # (B, m)
    ideal_dcg = (best_first / torch.log2(1 + k)).sum(-1, keepdim=True)  # (B, 1)
    return gain / ideal_dcg


def pair_weights(ratings: Tensor, ranks: Tensor) -> Tensor:
    """Weight of each pair, (B, m, m): how far apart their gains, times delta; else 0.

    Args: ratings (B, m) >= 0; ranks (B, m), 1-based, may be fractional.
    Returns: delta_ij |G_i - G_j| where ratings_i > ratings_j, else 0: ties and the diagonal weigh
        nothing.
    What the model predicts plays no part here: it comes in through the positions of `lambda_loss`.
    Source: PAPER (summary E), delta_ij = | 1/D_|tau_i - tau_j| - 1/D_(|tau_i - tau_j| + 1) |,
        D_k = log2(1 + k).
    Differs from the paper: nothing known. But a doubt: the classic NDCG-Loss2 takes the model's
        *current* ranks where the summary says target ranks; other `ranks` can be passed.
    delta depends on the *distance* of two ranks, not on where they are, and falls with it: of ten
    candidates rated 5, 4.5 .. 0.5, best against second weighs .055 and best against worst .006
    (tests/exercises, 1, has a weight that sees the place).
    """
    gain = normalised_gain(ratings)  # (B, m)
    gain_gap = (gain.unsqueeze(-1) - gain.unsqueeze(-2)).abs()  # (B, m, m)
    distance = (ranks.unsqueeze(-1) - ranks.unsqueeze(-2)).abs().to(gain.dtype)  # (B, m, m)
    # 1/D of the distance: infinite at distance 0, on the diagonal and between ties.
    delta = (1 / torch.log2(1 + distance) - 1 / torch.log2(2 + distance)).abs()  # (B, m, m)
    wins = ratings.unsqueeze(-1) > ratings.unsqueeze(-2)  # (B, m, m) i is rated above j
    # Select, do not multiply: 0 * inf (distance 0) and 0/0 (an ideal DCG of 0) are NaN.
    return torch.where(wins, delta * gain_gap, 0.0)


def lambda_loss(position: Tensor, ratings: Tensor, ranks: Tensor,
                sigma: float = 1.0) -> Tensor:
    """Weighted pairwise logistic loss on positions: a pair costs more the further its better
    candidate is placed behind the other.

    Args: position (B, m), small = ranked high; ratings, ranks as in `pair_weights`; sigma > 0.
    Returns: (B,), in bits (log2); 0 if all ratings of a list are equal.
    Source: PAPER (summary E), sum over pairs with tau_i < tau_j of
        delta_ij |G_i - G_j| log2(1 + exp(sigma (s_i - s_j))).
    Differs from the paper: GUESS, the sign (the summary lost it). The classic lambda loss has
        exp(-sigma (s_i - s_j)) because its s is a *score*, large = good. Here s is a *position*:
        i should come first, so s_i > s_j is what costs.
    With position = -score and ranks = ranks by score this is NDCG-Loss2, the loss that the
    LambdaLoss paper derives from a bound on NDCG.
    """
    gap = position.unsqueeze(-1) - position.unsqueeze(-2)  # (B, m, m) s_i - s_j
    # softplus(x) = ln(1 + e^x) keeps the gradient of the worst pairs and never overflows. Above its
    # threshold it returns x itself, which at the default of 20 is off by 2e-9.
    loss = F.softplus(sigma * gap, threshold=40) / math.log(2)  # (B, m, m) in bits
    weights = pair_weights(ratings, ranks).to(gap.dtype)  # (B, m, m)
    return (weights * loss).sum(dim=(-2, -1))


def soft_lambda_loss(probs: Tensor, ratings: Tensor, ranks: Tensor, gamma: float,
                     sigma: float = 1.0) -> Tensor:
    """SLL: the lambda loss of soft ranks, so that the model's probabilities can be trained by it.

    Args: probs (B, m, m), y over the m identifiers; ranks (B, m), tau (`gold_rank`).
    Returns: (B,), bits. Never 0 where ratings differ: even in the gold order each pair costs
        something, one rank apart log2(1 + e^-sigma), .45 bits at sigma 1, times its weight. So read
        it beside `perfect_probs` and `blind_probs`.
    Source: PAPER (summary E).
    Differs from the paper: see `soft_rank`, `pair_weights`, `lambda_loss`.
    """
    return lambda_loss(soft_rank(probs, gamma), ratings, ranks, sigma)


def perfect_probs(order: Tensor) -> Tensor:
    """y of a model that is sure of the gold order: position k emits order[k]. (B, m, m) of 0 and 1.

    OURS, a reference to log beside the model's SLL, not the least SLL there is: a y that gives tied
    candidates one soft rank, or emits a candidate at two positions, can have a lower one.
    """
    return F.one_hot(order, order.shape[-1]).to(torch.get_default_dtype())


def blind_probs(order: Tensor) -> Tensor:
    """y of a model that knows only which candidates are already out: 1/(m - k + 1) each. (B, m, m)

    OURS, a reference to log beside the model's SLL. Teacher forcing shows the model the gold
    candidates before k. So even here a candidate's column peaks where the gold order has it: it
    grows until it comes out, since fewer are left, and is 0 after. A large gamma sees that: soft
    ranks in nearly perfect order. A model whose SLL is no lower than this one's has shown nothing
    but what teacher forcing gives away.
    """
    left = remaining(order).to(torch.get_default_dtype())  # (B, m, m)
    return left / left.sum(-1, keepdim=True)


def permutation_loss(log_y: Tensor, other_log_y: Tensor) -> Tensor:
    """PSL: cross-entropy between the outputs for two displayed orders of one list, by candidate.

    Args: log_y, other_log_y (B, m, m), log y and log y' over the m identifiers, the same gold order
        forced.
    Returns: (B,), nats per position. Its minimum over y' is the entropy of y, not 0; so the
        gradient through y also sharpens y.
    Source: PAPER (summary L), a distance between the two output distributions. GUESS: which one,
        L_psl = -1/m sum_k sum_i y_ki log y'_ki, and that gradients flow into both sides
        (InvariRank, SIGIR 2026, does so, too; experiments/objectives.py has a fixed target).
    """
    y = log_y.exp()  # (B, m, m)
    return -(y * other_log_y).sum(-1).mean(-1)


def alro_loss(log_probs: Tensor, order: Tensor, ratings: Tensor, *, alpha: float,
              beta: float, gamma: float, sigma: float = 1.0,
              other_log_probs: Tensor | None = None) -> dict[str, Tensor]:
    """The paper's objective per list, L = L_sft + alpha L_sll + beta L_psl.

    Args:
        log_probs: (B, m, m) of the list in one displayed order, over the vocabulary.
        order, ratings: (B, m) gold order and ratings.
        other_log_probs: the same in another displayed order; None leaves PSL out.
    Returns: dict of (B,) tensors: "sft", "sll", "psl" where it applies, "total"; and, detached, for
        the log, "kl": how far apart the two orders' outputs are (PSL less the entropy of y).
    SLL is in bits, the others in nats: a factor, which alpha can make up for.
    Source: PAPER (summary R), a weighted sum of the three losses. GUESS: SFT over the whole
        vocabulary, SLL and PSL over the m identifiers, those already out included (masking them
        would put log 0 into PSL).
    """
    log_y = log_probs.log_softmax(-1)  # (B, m, m) from the vocabulary to the m identifiers
    tau = gold_rank(ratings)  # (B, m)
    terms = {"sft": sft_loss(log_probs, order)}
    terms["sll"] = soft_lambda_loss(log_y.exp(), ratings, tau, gamma, sigma)
    total = terms["sft"]
    # A term of weight 0 is left out, not multiplied by 0: 0 * inf would be NaN.
    if alpha > 0:
        total = total + alpha * terms["sll"]
    if other_log_probs is not None:
        other_log_y = other_log_probs.log_softmax(-1)  # (B, m, m)
        terms["psl"] = permutation_loss(log_y, other_log_y)
        entropy = permutation_loss(log_y, log_y)  # (B,)
        terms["kl"] = (terms["psl"] - entropy).detach()
        if beta > 0:
            total = total + beta * terms["psl"]
    return {**terms, "total": total}


# ---- 5. Ranking: one prompt, one displayed order; PSL costs nothing here (PAPER: claim 4) --------

DECODINGS = ("greedy", "first", "ratings")


def token_logits(model, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Logits (..., n) of the given tokens (n,) alone, from hidden states (..., d).

    In float32 even under autocast: bf16 has eight significant bits, and ten candidates would often
    tie.
    """
    output_layer = model.get_output_embeddings()
    weight = output_layer.weight[tokens].float()  # (n, d)
    bias = getattr(output_layer, "bias", None)
    if bias is not None:
        bias = bias[tokens].float()  # (n,)
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.float(), weight, bias)


def next_candidate_logits(model, output, batch: Batch) -> Tensor:
    """Logits (B, m), by candidate, of what follows the last token that the model has read."""
    by_slot = token_logits(model, output.last_hidden_state[:, -1], batch.identifiers)  # (B, m)
    logits = by_slot.gather(-1, batch.slots.argsort(-1))  # (B, m) candidate -> slot -> logit
    check_finite(logits)
    return logits


def check_finite(logits: Tensor) -> None:
    """Raise AlroError if a row of logits (B, n) has a number that is not finite."""
    finite = logits.isfinite().all(-1)  # (B,)
    if not finite.all():
        rows = (~finite).nonzero().flatten().tolist()
        raise AlroError(f"the model's logits are not finite in rows {rows} of the batch: "
                        "its weights are broken")


def at_the_right_edge(input_ids: Tensor, prompt_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids, attention mask, position ids), (B, T) each, with every prompt moved to the right.

    Args: input_ids (B, T), padded on the right; prompt_tokens (B, 1).

        in the batch      P r o m p t B A . .        ranked        . . . . P r o m p t
                          L o n g   p r o m p t                    L o n g   p r o m p t

    (The dots on the right repeat the prompt's first token, hidden by the mask.) The next token then
    follows each prompt directly. Models with a sliding window count places in the cache, and pads
    in between would push real tokens out of it. What stood after a prompt (a gold answer, pads) is
    dropped.
    """
    width = input_ids.shape[1]
    padding = width - prompt_tokens  # (B, 1)
    place = torch.arange(width, device=padding.device) - padding  # (B, T) negative on the padding
    mask = (place >= 0).long()
    position_ids = place.clamp(min=0)
    return input_ids.gather(1, position_ids), mask, position_ids


@torch.no_grad()
def expected_ratings(model, batch: Batch) -> Tensor:
    """What the model *knows*: the rating (B, m) it expects of each candidate, by candidate.

    One reading of the prompt; at each candidate's " ->", just before its identifier, a softmax over
    the rating tokens alone, and the mean rating under it. No token is written or fed back.
    Raises: AlroError if a logit is not finite, or no single token tells a rating.
    Differs from the paper: OURS (see `rating_loss`). It is not blind to the display: a line reads
        the lines before it, so in another displayed order the ratings come out a little otherwise.
    """
    if len(batch.levels) == 0:
        raise AlroError("no expected ratings: no single token of this tokenizer tells a rating")
    model = unwrapped(model)
    # Padded on the right, which no token that counts sees: as in `target_logits`, no mask.
    hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    before_identifiers = hidden_before(hidden, batch.candidate_at)  # (B, m, d)
    logits = token_logits(model, before_identifiers, batch.level_tokens)  # (B, m, L)
    check_finite(logits.flatten(1))
    return logits.double().softmax(-1) @ batch.levels.double()


@torch.no_grad()
def rank_candidates(model, batch: Batch, decode: str = "greedy") -> Tensor:
    """Rank each list's candidates. Always a permutation.

    Args:
        batch: prompts. What follows a prompt (a gold answer) is not seen.
        decode: "greedy": m steps, each the likeliest identifier not yet out, fed back, with a KV
            cache; "first": sort the identifiers' logits of the first step: one step, no feedback;
            "ratings": sort what the model *knows*, its `expected_ratings`: nothing is written.
    Returns: (B, m) long, candidate indices from best to worst. Ties go to the lower index, which
        means nothing (breaking them by slot would let a dead model copy the displayed order).
    Raises: AlroError if a logit is not finite; ValueError for another decode.
    Source: PAPER (summary M), the ranking is what the model writes. GUESS: greedy, constrained to
        the identifiers.
    """
    if decode not in DECODINGS:
        raise ValueError(f"decode must be one of {', '.join(DECODINGS)}, got {decode!r}")
    if decode == "ratings":
        return expected_ratings(model, batch).argsort(dim=-1, descending=True, stable=True)
    model = unwrapped(model)
    # Stage 1: read the prompts.
    next_place = batch.prompt_tokens.unsqueeze(-1)  # (B, 1) just after the prompt
    input_ids, mask, position_ids = at_the_right_edge(batch.input_ids, next_place)
    output = model.base_model(input_ids=input_ids, attention_mask=mask, position_ids=position_ids,
                              use_cache=decode == "greedy")
    logits = next_candidate_logits(model, output, batch)  # (B, m)
    if decode == "first":
        return logits.argsort(dim=-1, descending=True, stable=True)
    # Stage 2: write the identifiers, each the likeliest of those that are left.
    tokens = batch.candidate_tokens()  # (B, m)
    already_out = torch.zeros_like(logits, dtype=torch.bool)  # (B, m)
    candidate = logits.argmax(-1, keepdim=True)  # (B, 1)
    ranking = [candidate]
    for step in range(1, logits.shape[-1]):
        already_out = already_out.scatter(-1, candidate, True)
        mask = torch.cat([mask, torch.ones_like(next_place)], dim=-1)  # (B, T + step)
        output = model.base_model(
            input_ids=tokens.gather(-1, candidate), attention_mask=mask,
            position_ids=next_place + step - 1,  # of the identifier just written
            past_key_values=output.past_key_values, use_cache=True)
        logits = next_candidate_logits(model, output, batch)  # (B, m)
        candidate = logits.masked_fill(already_out, -torch.inf).argmax(-1, keepdim=True)  # (B, 1)
        ranking.append(candidate)
    return torch.cat(ranking, dim=-1)


# ---- python alro.py: three candidates by hand; nothing is trained --------------------------------

def main() -> None:
    """Print every quantity of the paper for one list of three candidates, rated 5, 3 and 3."""
    torch.set_printoptions(precision=4, sci_mode=False)
    titles = ["Fargo (1996)", "Casino (1995)", "Babe (1995)"]
    ratings = torch.tensor([[5.0, 3.0, 3.0]])
    order = torch.tensor([[0, 1, 2]])
    print("The prompt in two displayed orders:")
    for slots in ([0, 1, 2], [2, 0, 1]):
        print(build_prompt([("Heat (1995)", 4)], titles, slots), end="\n\n")

    # Row k: what output position k emits when those before it emitted the gold candidates; by
    # candidate, not by slot. In the other displayed order the model takes Babe for Casino.
    y = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.2, 0.2, 0.6]]], requires_grad=True)
    other = y.detach()[..., [0, 2, 1]]
    print("y (row k: output position k; columns: Fargo, Casino, Babe)", y.detach()[0], sep="\n")
    print("y', in the other displayed order (the same columns)", other[0], sep="\n")
    print("SFT: -(log .6 + log .5 + log .6) / 3 =", f"{sft_loss(y.log(), order).item():.4f} nats")

    tau = gold_rank(ratings)
    print("gold rank tau", tau[0], sep="\n")
    print("soft rank of candidate 1 at gamma 10, from its column of y (.6 .2 .2):")
    print("  (1 e^6 + 2 e^2 + 3 e^2) / (e^6 + e^2 + e^2) =", f"{soft_rank(y, 10)[0, 0].item():.4f}")
    for gamma in (1, 10, 100):
        mine, blind = soft_rank(y, gamma).detach()[0], soft_rank(blind_probs(order), gamma)[0]
        print(f"gamma {gamma}: soft rank", mine, "of the blind model", blind)
    print("pair weights delta_ij |G_i - G_j|", pair_weights(ratings, tau)[0], sep="\n")

    sll = soft_lambda_loss(y, ratings, tau, gamma=10)
    gradient = torch.autograd.grad(sll.sum(), y)[0]  # (1, 3, 3)
    print(f"SLL at gamma 10: {sll.item():.4f} bits; d SLL / d y, the entries of y taken as free:",
          gradient[0], sep="\n")
    print("SLL of a model that is sure of the gold order, and of the blind one:")
    for gamma in (1, 10, 100):
        perfect = soft_lambda_loss(perfect_probs(order), ratings, tau, gamma)
        blind = soft_lambda_loss(blind_probs(order), ratings, tau, gamma)
        print(f"  at gamma {gamma}: {perfect.item():.4f} and {blind.item():.4f}")

    psl = permutation_loss(y.log(), other.log())
    print("PSL: the first row gives -(.6 log .6 + .3 log .1 + .1 log .3), the mean of the three is",
          f"{psl.item():.4f} nats per position")
    terms = alro_loss(y.log(), order, ratings, alpha=1, beta=1, gamma=10,
                      other_log_probs=other.log())
    rounded = {name: round(value.item(), 4) for name, value in terms.items()}
    print("all losses, alpha = beta = 1 (kl: PSL less the entropy of y; total: SFT + SLL + PSL):",
          rounded, sep="\n")


if __name__ == "__main__":
    main()
