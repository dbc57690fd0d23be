"""ALRO: aligned list-wise ranking objectives. The paper, top to bottom, in its order.

    Chao, Zheng, Zhu, Liu: Make Large Language Model a Better Ranker. Findings of EMNLP 2024, arXiv 2403.19181.

A language model reads a user's rated history and m candidate items, and writes the candidates' identifiers from most
to least liked. Nothing here trains: these are the formulas, on plain tensors. train.py holds the loop.

Three marks tell where a line comes from; we had the abstract and public summaries, not the full text:
    PAPER:  stated there.
    GUESS:  the paper must say something here, but our sources do not; our value, and why.
    OURS:   a departure or an addition of ours, and why.

symbol   code         shape       range    meaning
m        list_size    -           2..26    candidates in one list
r_i      ratings      (B, m)      >= 0     the user's rating of candidate i
tau_i    gold_rank    (B, m)      1..m     target rank of candidate i; ties share their mean rank
y_{k,i}  probs        (B, m, m)   0..1     probability that output position k emits candidate i (teacher forced)
gamma    gamma        -           > 0      sharpness of the soft-argmax
s_i      soft_rank    (B, m)      1..m     soft output position of candidate i: SMALL = ranked high
G_i      gain         (B, m)      0..1     (2^r_i - 1) / ideal DCG of the list
D_k      discount     -           > 0      log2(1 + k)
delta_ij in pair_weights (B, m, m) >= 0    | 1/D_|tau_i - tau_j| - 1/D_(|tau_i - tau_j| + 1) |
sigma    sigma        -           > 0      slope of the pairwise logistic
alpha    alpha        -           >= 0     weight of the soft lambda loss (SLL)
beta     beta         -           >= 0     weight of permutation-sensitive learning (PSL)

The *lambda* of "lambda loss" is the name of a family of losses (LambdaRank, LambdaLoss); it is not a weight.

Shapes stand at the end of the line that makes a tensor. B lists in a batch, T tokens, V words of vocabulary, K
positions that have a target, d width of the model. A list's m candidates can be numbered in two ways:
    item   0..m-1, the list's own fixed order, which carries no information; every loss and metric uses this one;
    slot   0..m-1, where the candidate is displayed in the prompt: slot j shows item slots[j] as letter "ABC..."[j].
Only the prompt and the batch know slots. Everything after `item_log_probs` is by item, so no loss can mix them up.
"""
import bisect
import math
import re
import string
from typing import NamedTuple

import torch
import torch.nn.functional as F

IDENTIFIERS = [" " + letter for letter in string.ascii_uppercase]  # the leading space is part of the token


class AlroError(ValueError):
    """Something the user can mend; the message is one line that says what, where, and what would be right."""


# ---- 1. The list-wise prompt, with explicit feedback (PAPER: claim 3; the wording is a GUESS) -----------------------

def clean_text(text: str) -> str:
    """One line of plain text: white space, control characters and lone surrogates become single spaces."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+", " ", text).strip()


def build_prompt(history, titles, slots, noun: str = "movie", scale=(1, 5)) -> str:
    """The prompt for one list, in one displayed order. The answer is appended to it: " B A", identifiers only.

    Args:
        history: list of (title, rating), oldest first; may be empty. A rating of None: the title alone.
        titles: m titles in item order.
        slots: permutation of 0..m-1; slot j shows titles[slots[j]].
        noun, scale: what the items are called; the lowest and the highest rating.
    Returns: text with exactly one line per candidate, each ending in its own identifier whatever the titles say
        (titles pass through `clean_text`, so none can open a line of its own).
    Raises: AlroError if slots is not a permutation of the titles, or there are more titles than letters.
    Source: PAPER says list-wise, with the ratings of the history. GUESS: the words.
    Differs from the paper: OURS, the identifier stands after the title. A causal model then has read the title when
        it reaches the identifier, and can store there what it must later copy into the answer. In a study made
        before this code, a model of 135M parameters stayed at chance with "A. Fargo" instead.
    """
    if len(titles) > len(IDENTIFIERS):
        raise AlroError(f"{len(titles)} candidates, but identifiers are the {len(IDENTIFIERS)} letters A-Z")
    if sorted(slots) != list(range(len(titles))):
        raise AlroError(f"slots must be a permutation of 0..{len(titles) - 1}, got {list(slots)}")
    lines = [f"A user rated these {noun}s ({scale[0]:g} = worst, {scale[1]:g} = best):"]
    lines += [clean_text(title) + ("" if rating is None else f": {rating:g}") for title, rating in history]
    lines += [f"Rank these {noun}s from most to least liked by this user:"]
    lines += [f"{clean_text(titles[item])} ->{name}" for name, item in zip(IDENTIFIERS, slots)]
    return "\n".join(lines + ["Ranking:"])


def encode(tokenizer, texts: list[str], **options):
    """Tokenise texts; what looks like a special token inside a title ("<|im_end|>") stays text."""
    return tokenizer(texts, split_special_tokens=True, **options)


def identifier_tokens(tokenizer, m: int) -> torch.Tensor:
    """Token ids (m,) of the identifiers, after checking that they are what the method needs.

    Each identifier must be one token, the same after a title and in the answer, and all must differ: then output
    position k is token k of the answer, and a candidate's probability is one entry of the softmax.
    Raises: AlroError naming the first identifier for which that is not so.
    """
    tokens = []
    for name in IDENTIFIERS[:m]:
        seen = set()
        for before, after in (("Fargo (1996) ->", "\n"), ("Ranking:", ""), ("Ranking: A", " B")):
            prefix, whole = encode(tokenizer, [before, before + name + after]).input_ids
            found = whole[len(prefix):]
            if whole[:len(prefix)] != prefix or not found or (not after and len(found) != 1):
                raise AlroError(f"identifier {name!r} is not one token after {before!r}: this tokenizer will not do")
            seen.add(found[0])
        if len(seen) != 1:
            raise AlroError(f"identifier {name!r} is one token after a title and another in the answer: {seen}")
        if seen & {tokenizer.unk_token_id, *tokens}:
            raise AlroError(f"identifier {name!r} is unknown, or has the token of one before it: {seen}")
        tokens += seen
    return torch.tensor(tokens)  # (m,)


def rating_tokens(prompt: str, offsets: list[tuple[int, int]], lines: int) -> list[int]:
    """Indices of the tokens that hold the rating at the end of each of the prompt's `lines` history lines.

    Args: offsets: (start, end) of each token in the text. Used by OURS, `history_loss`.
    """
    starts, ends = map(list, zip(*offsets))
    found, end = [], prompt.index("\n")  # the first line is no history
    for line in prompt.split("\n")[1:lines + 1]:
        end += 1 + len(line)
        start = end - len(line) + line.rindex(" ") + 1  # the rating is what follows the last space
        found += range(bisect.bisect_right(ends, start), bisect.bisect_left(starts, end))  # tokens that touch it
    return found


# ---- 2. The target: gold order and gold rank ------------------------------------------------------------------------

def gold_order(ratings: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Items from best to worst, ties in random order.

    Args: ratings (B, m); generator makes the draw repeatable.
    Returns: (B, m) long, item indices.
    Differs from the paper: OURS, ties are drawn anew at each call. SFT needs *some* order inside a tie; the displayed
        order would teach it position bias, and a fixed one would be learned by heart.
    """
    draw = torch.rand(ratings.shape, generator=generator).argsort(-1).to(ratings.device)  # (B, m) a random order
    by_rating = ratings.gather(-1, draw).argsort(dim=-1, descending=True, stable=True)  # (B, m) stable: keeps the draw
    return draw.gather(-1, by_rating)


def rank_of(order: torch.Tensor) -> torch.Tensor:
    """1-based rank (B, m) long of each item in an order (B, m) of item indices: the inverse permutation, plus one."""
    return order.argsort(-1) + 1


def gold_rank(ratings: torch.Tensor) -> torch.Tensor:
    """tau: target ranks (B, m) float in 1..m, ratings descending; tied items share the mean of their ranks.

    Differs from the paper: OURS, the paper's tau is a permutation. With mean ranks no loss depends on how ties fell.
    """
    better = (ratings.unsqueeze(-2) > ratings.unsqueeze(-1)).sum(-1)  # (B, m) how many are rated above item i
    equal = (ratings.unsqueeze(-2) == ratings.unsqueeze(-1)).sum(-1)  # (B, m) how many as item i, itself included
    return better + (equal + 1) / 2  # the mean of better + 1 .. better + equal


# ---- 3. The model's probabilities, teacher forced, by item ----------------------------------------------------------

class Batch(NamedTuple):
    """B tokenised lists, padded on the right (data.py makes it). All long, but for ratings."""
    input_ids: torch.Tensor    # (B, T) prompt, then the gold answer for teacher forcing (not when ranking), then pads
    positions: torch.Tensor    # (B, K) where to read the model's output: first the m answers, then history ratings
    targets: torch.Tensor      # (B, K) the token that should come next there; -100 = none (padding)
    identifiers: torch.Tensor  # (m,) identifier token of each slot
    slots: torch.Tensor        # (B, m) displayed order: slot -> item
    order: torch.Tensor        # (B, m) gold order: output position -> item
    ratings: torch.Tensor      # (B, m) float, by item

    def to(self, device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def item_tokens(self) -> torch.Tensor:
        """(B, m) identifier token of each item: item -> slot -> token."""
        return self.identifiers[self.slots.argsort(-1)]


def backbone(model):
    """The causal language model itself, out of its LoRA wrapper if it has one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def target_logits(model, batch: Batch) -> torch.Tensor:
    """Next-token logits (B, K, V) float32, only at the K positions that have a target.

    The output layer is applied after gathering: the (B, T, V) tensor of all logits, by far the largest of a step,
    is never made. No attention mask: in a causal model padding on the right is seen by no token that counts.
    """
    model = backbone(model)
    hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # (B, T, d)
    index = batch.positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])  # (B, K, d)
    return model.get_output_embeddings()(hidden.gather(1, index)).float()  # (B, K, V)


def by_item(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """log P(position k emits item i), (B, m, m), from target logits (B, K, V); normalised over the vocabulary."""
    m = batch.slots.shape[-1]
    answers = logits[:, :m]  # (B, m, V)
    tokens = batch.item_tokens().unsqueeze(1).expand(-1, m, -1)  # (B, m, m): the same m tokens at each position
    return answers.gather(-1, tokens) - answers.logsumexp(-1, keepdim=True)


def item_log_probs(model, batch: Batch) -> torch.Tensor:
    """log P(position k emits item i | prompt, gold identifiers before k), (B, m, m) float32, by item.

    Normalised over the whole vocabulary, as SFT wants it; `.log_softmax(-1)` of it is the same over the list's m
    identifiers alone (y, as SLL and PSL want it): softmax does not see what is added to all its entries.
    """
    return by_item(target_logits(model, batch), batch)


# ---- 4. The losses: pure functions on tensors by item, any float dtype; one value per list, never reduced; no padding

def sft_loss(log_probs: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Supervised fine-tuning: next-token loss on the answer.

    Args: log_probs (B, m, m), normalised over the vocabulary; order (B, m) long, the gold order.
    Returns: (B,), nats per identifier.
    Source: PAPER, L_sft = -1/m sum_k log P(identifier of the item at gold position k | prompt, gold before k).
    Differs from the paper: nothing known.
    """
    return -log_probs.gather(-1, order.unsqueeze(-1)).squeeze(-1).mean(-1)


def history_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Next-token loss on the rating text of each history line ("Heat (1995): 4"), (B,), nats per token.

    Differs from the paper: OURS. To say "4" there, the model must use the lines before it: the same reading of a taste
    that ranking needs, at up to 20 more places per list. It helped a 135M model in the study that came before this
    code; the demo ends where it ends without it, too (README, "Results").
    """
    m = batch.slots.shape[-1]
    logits, targets = logits[:, m:], batch.targets[:, m:]  # (B, K - m, V), (B, K - m)
    loss = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="none")  # (B, K - m)
    return loss.sum(-1) / (targets != -100).sum(-1).clamp(min=1)  # a list without history: 0


def soft_rank(probs: torch.Tensor, gamma: float) -> torch.Tensor:
    """s: soft-argmax of each item's column of y over output positions; small = ranked high.

    Args: probs (B, m, m), y; gamma > 0, larger = closer to the position where the column peaks.
    Returns: (B, m) float, in 1..m.
    Source: PAPER, s_i = sum_k k exp(gamma y_ki) / sum_l exp(gamma y_li). Differs from the paper: nothing known.
    Not an expectation: a column of y need not sum to 1. Gamma has two cliffs. Too small (1), every s_i stays near
    (m + 1)/2. Too large (100), teacher forcing gives the answer away: see `blind_probs`.
    """
    weights = (gamma * probs).softmax(dim=-2)  # (B, m, m): each column sums to 1 over the output positions k
    k = torch.arange(1, probs.shape[-2] + 1, dtype=probs.dtype, device=probs.device)  # (m,)
    return (weights * k.unsqueeze(-1)).sum(dim=-2)


def pair_weights(ratings: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """Weight of each pair, a stand-in for what confusing i and j costs in NDCG. (B, m, m), i better-rated, else 0.

    Args: ratings (B, m) >= 0; ranks (B, m), 1-based, may be fractional.
    Returns: delta_ij |G_i - G_j| where ratings_i > ratings_j, else 0: ties and the diagonal weigh nothing.
    Source: PAPER, delta_ij = | 1/D_|tau_i - tau_j| - 1/D_(|tau_i - tau_j| + 1) |, D_k = log2(1 + k).
        GUESS: G_i = (2^r_i - 1) / ideal DCG, as in LambdaLoss (Wang et al., CIKM 2018).
    Differs from the paper: nothing known. delta depends on the *distance* of two ranks, not on where they are: a
    5-star next to a 4-star can weigh more than best against worst. Is that what you want of a ranker?
    """
    gain = 2.0 ** ratings - 1  # (B, m)
    places = torch.arange(1, ratings.shape[-1] + 1, dtype=gain.dtype, device=gain.device)  # (m,)
    ideal = (gain.sort(-1, descending=True).values / torch.log2(1 + places)).sum(-1, keepdim=True)  # (B, 1) ideal DCG
    gain = gain / ideal
    distance = (ranks.unsqueeze(-1) - ranks.unsqueeze(-2)).abs().to(gain.dtype)  # (B, m, m)
    delta = (1 / torch.log2(1 + distance) - 1 / torch.log2(2 + distance)).abs()  # infinite on the diagonal
    wins = ratings.unsqueeze(-1) > ratings.unsqueeze(-2)  # (B, m, m) i is rated above j
    # Select, do not multiply: 0 * inf (the diagonal) and 0/0 (an ideal DCG of 0) are NaN.
    return torch.where(wins, delta * (gain.unsqueeze(-1) - gain.unsqueeze(-2)).abs(), 0.0)


def lambda_loss(position: torch.Tensor, ratings: torch.Tensor, ranks: torch.Tensor, sigma: float = 1.0) -> torch.Tensor:
    """Weighted pairwise logistic loss on positions.

    Args: position (B, m), small = ranked high; ratings, ranks as in `pair_weights`; sigma > 0.
    Returns: (B,), in bits (log2); 0 if all ratings of a list are equal.
    Source: PAPER, sum over pairs with tau_i < tau_j of delta_ij |G_i - G_j| log2(1 + exp(sigma (s_i - s_j))).
    Differs from the paper: GUESS, the sign. The classic lambda loss has exp(-sigma (s_i - s_j)) because its s is a
        *score*, large = good. Here s is a *position*: i should come first, so s_i > s_j is what costs.
    With position = -score and ranks = ranks by score this is NDCG-Loss2 of the LambdaLoss paper.
    """
    gap = position.unsqueeze(-1) - position.unsqueeze(-2)  # (B, m, m) s_i - s_j
    # softplus(x) = ln(1 + e^x) keeps the gradient of the worst pairs and never overflows. It returns x itself above
    # its threshold, which at the default of 20 is off by 2e-9.
    loss = F.softplus(sigma * gap, threshold=40) / math.log(2)  # (B, m, m) in bits
    return (pair_weights(ratings, ranks).to(gap.dtype) * loss).sum(dim=(-2, -1))


def soft_lambda_loss(probs: torch.Tensor, ratings: torch.Tensor, ranks: torch.Tensor, gamma: float,
                     sigma: float = 1.0) -> torch.Tensor:
    """SLL: the lambda loss of soft ranks, so that it can be minimised through the model's probabilities.

    Args: probs (B, m, m), y over the m identifiers; ranks (B, m), tau (`gold_rank`). Returns: (B,), bits.
    Source: PAPER. Differs from the paper: see `soft_rank`, `pair_weights`, `lambda_loss`.
    """
    return lambda_loss(soft_rank(probs, gamma), ratings, ranks, sigma)


def blind_probs(order: torch.Tensor) -> torch.Tensor:
    """y of a model that knows nothing but which items are already out: 1/(m - k + 1) on each of the rest. (B, m, m)

    OURS, a reference to log beside the model's SLL. Teacher forcing shows the model the gold items before k, so even
    this one gets soft ranks in nearly perfect order when gamma is large: an SLL that is no lower says nothing.
    """
    rank = rank_of(order).unsqueeze(-2)  # (B, 1, m) the output position at which each item comes out
    k = torch.arange(1, order.shape[-1] + 1, device=order.device).unsqueeze(-1)  # (m, 1)
    left = (rank >= k).to(torch.get_default_dtype())  # (B, m, m) item i is not out yet before position k
    return left / left.sum(-1, keepdim=True)


def permutation_loss(log_probs: torch.Tensor, other_log_probs: torch.Tensor, through_target: bool = False):
    """PSL: cross-entropy between the outputs for two displayed orders of one list; both by item.

    Args: log_probs, other_log_probs (B, m, m), log y and log y' over the m identifiers, same gold order forced.
        through_target: whether gradients also flow into y (GUESS; no: y is a fixed target. train.py's demo says yes).
    Returns: (B,), nats per position. Its minimum over y' is the entropy of y, not 0.
    Source: PAPER, cross-entropy between two output distributions. GUESS, all details:
        L_psl = -1/m sum_k sum_i y_ki log y'_ki.
    """
    target = log_probs.exp()  # (B, m, m)
    if not through_target:
        target = target.detach()
    return -(target * other_log_probs).sum(-1).mean(-1)


def alro_loss(log_probs, order, ratings, *, alpha: float, beta: float, gamma: float, sigma: float = 1.0,
              other_log_probs=None, through_target: bool = False, loss_on_both: bool = False,
              history=None, history_weight: float = 0.0, first_step: bool = False) -> dict[str, torch.Tensor]:
    """The objective, L = L_sft + alpha L_sll + beta L_psl [+ history_weight L_history], per list.

    Args:
        log_probs: (B, m, m) of the list in one displayed order, over the vocabulary (`item_log_probs`).
        order, ratings: (B, m) gold order and ratings.
        other_log_probs: the same in another displayed order; None leaves PSL out.
        loss_on_both: SFT and SLL also on the other order, averaged (GUESS: no; the paper's sum shows one prompt).
        history: (B,), `history_loss`, or None.
        first_step: a rival of SLL in its place (OURS): the classic lambda loss of the first output position's logits.
    Returns: dict of (B,) tensors: "sft", "sll", "psl" and "history" where they apply, "total"; and, detached, for
        the log, "kl": how far apart the two orders' outputs are (PSL less the entropy of y).
    Source: PAPER, the objective. GUESS: SFT over the whole vocabulary, SLL and PSL over the m identifiers, those
        already out included (masking them would put log 0 into PSL).
    """
    def sft_and_sll(log_probs):
        if first_step:  # scores, large = good, and the ranks that they give
            score = log_probs[:, 0]  # (B, m)
            ranks = rank_of(score.argsort(-1, descending=True))
            return sft_loss(log_probs, order), lambda_loss(-score, ratings, ranks, sigma)
        probs = log_probs.log_softmax(-1).exp()  # (B, m, m) y: from the whole vocabulary to the m identifiers
        return sft_loss(log_probs, order), soft_lambda_loss(probs, ratings, gold_rank(ratings), gamma, sigma)

    parts = {}
    parts["sft"], parts["sll"] = sft_and_sll(log_probs)
    if other_log_probs is not None:
        y, other = log_probs.log_softmax(-1), other_log_probs.log_softmax(-1)
        if loss_on_both:
            sft, sll = sft_and_sll(other_log_probs)
            parts["sft"], parts["sll"] = (parts["sft"] + sft) / 2, (parts["sll"] + sll) / 2
        parts["psl"] = permutation_loss(y, other, through_target)
        parts["kl"] = (parts["psl"] - permutation_loss(y, y)).detach()
    if history is not None:
        parts["history"] = history
    weights = {"sft": 1.0, "sll": alpha, "psl": beta, "history": history_weight}
    # A term of weight 0 is left out, not multiplied by 0: 0 * inf would be NaN.
    parts["total"] = sum(weights[name] * parts[name] for name in weights if name in parts and weights[name])
    return parts


# ---- 5. Ranking: one prompt, one displayed order; PSL costs nothing here (PAPER: claim 4) ---------------------------

def next_item_logits(model, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Logits (B, m) of the m identifiers, by item, from hidden states (B, d); float32 even under autocast: bf16 has
    eight bits, and ten candidates would often tie."""
    head = model.get_output_embeddings()
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if getattr(head, "bias", None) is None else head.bias[batch.identifiers].float()
        by_slot = F.linear(hidden.float(), head.weight[batch.identifiers].float(), bias)  # (B, m)
    return by_slot.gather(-1, batch.slots.argsort(-1))


@torch.no_grad()
def rank_candidates(model, batch: Batch, decode: str = "greedy") -> torch.Tensor:
    """Rank each list's candidates. Always a permutation.

    Args:
        batch: prompts; `positions[:, 0]` is the last prompt token. What follows it (a gold answer) is not seen.
        decode: "greedy": m steps, each the likeliest identifier not yet out, fed back, with a KV cache;
            "first": sort the identifiers' logits of the first step: one step, no feedback.
    Returns: (B, m) long, item indices from best to worst. Ties go to the lower item index, which means nothing
        (breaking them by slot would let a dead model copy the displayed order).
    Raises: AlroError if a logit is not finite; ValueError for another decode.
    Source: PAPER, the ranking is what the model writes. GUESS: greedy, constrained to the identifiers.
    """
    if decode not in ("greedy", "first"):
        raise ValueError(f'decode must be "greedy" or "first", got {decode!r}')
    model = backbone(model)
    last = batch.positions[:, :1]  # (B, 1)
    # Prompts move to the right edge, so that the next token follows each: models with a sliding window count places in
    # the cache, and pads in between would push real tokens out of it. What stood after a prompt is dropped.
    place = torch.arange(batch.input_ids.shape[1], device=last.device) - (batch.input_ids.shape[1] - 1 - last)  # (B, T)
    mask, place = (place >= 0).long(), place.clamp(min=0)
    output = model.base_model(input_ids=batch.input_ids.gather(1, place), attention_mask=mask, position_ids=place,
                              use_cache=decode == "greedy")
    hidden = output.last_hidden_state[:, -1]  # (B, d)
    tokens, out = batch.item_tokens(), torch.zeros_like(batch.slots, dtype=torch.bool)  # (B, m), (B, m) already out
    ranking = []
    for step in range(1, batch.slots.shape[-1] + 1):
        logits = next_item_logits(model, hidden, batch)  # (B, m)
        if not logits.isfinite().all():
            rows = (~logits.isfinite().all(-1)).nonzero().flatten().tolist()
            raise AlroError(f"the model's logits are not finite in rows {rows} of the batch: its weights are broken")
        if decode == "first":
            return logits.argsort(dim=-1, descending=True, stable=True)
        item = logits.masked_fill(out, -torch.inf).argmax(-1, keepdim=True)  # (B, 1)
        ranking.append(item)
        if step == batch.slots.shape[-1]:
            return torch.cat(ranking, dim=-1)
        out = out.scatter(-1, item, True)
        mask = torch.cat([mask, torch.ones_like(last)], dim=-1)  # (B, T + step)
        output = model.base_model(input_ids=tokens.gather(-1, item), attention_mask=mask, position_ids=last + step,
                                  past_key_values=output.past_key_values, use_cache=True)
        hidden = output.last_hidden_state[:, -1]  # (B, d)


# ---- python alro.py: three candidates by hand; nothing is trained ---------------------------------------------------

def main() -> None:
    """Print every quantity of the paper for one list of three candidates, rated 5, 3 and 3."""
    torch.set_printoptions(precision=4, sci_mode=False)
    titles, ratings = ["Fargo (1996)", "Casino (1995)", "Babe (1995)"], torch.tensor([[5.0, 3.0, 3.0]])
    for slots in ([0, 1, 2], [2, 0, 1]):
        print(build_prompt([("Heat (1995)", 4)], titles, slots), end="\n\n")
    # Row k: what output position k emits when the positions before it emitted the gold items; by item, not by slot.
    y = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.2, 0.2, 0.6]]], requires_grad=True)
    other, order = y.detach()[..., [0, 2, 1]], torch.tensor([[0, 1, 2]])  # the other order's y' takes Babe for Casino
    tau = gold_rank(ratings)
    print("y", y.detach()[0], "y', in the other displayed order", other[0], "gold rank tau", tau[0], sep="\n")
    for gamma in (1, 10, 100):
        blind = soft_rank(blind_probs(order), gamma)[0]
        print(f"gamma {gamma}: soft rank", soft_rank(y, gamma).detach()[0], "of the blind model", blind)
    print("pair weights delta_ij |G_i - G_j|", pair_weights(ratings, tau)[0], sep="\n")
    sll = soft_lambda_loss(y, ratings, tau, gamma=10)
    print("SLL", sll.item(), "bits; d SLL / d y", torch.autograd.grad(sll.sum(), y)[0][0], sep="\n")
    parts = alro_loss(y.log(), order, ratings, alpha=1, beta=1, gamma=10, other_log_probs=other.log())
    print("all losses, alpha = beta = 1:", {name: round(value.item(), 4) for name, value in parts.items()})


if __name__ == "__main__":
    main()
