"""Train a list-wise ranker: configuration, the data of one step, the losses, one step, the loop.

    python train.py                                 the demo: a tiny model, a synthetic world
    python train.py --ablation True --seeds 5       what SLL and PSL add, on two kinds of orders
    python train.py --preset small-gpu --download True   a 135M model on MovieLens-100K, on a GPU
    python train.py --resume RUN                    go on where an interrupted run stopped
    torchrun --nproc_per_node=N train.py ...        N processes share each step's lists

Every flag is a field of DataConfig (data.py), TrainConfig or RunConfig. A run's folder holds
config.json, log.jsonl, model/ (best on validation), checkpoint/ (what resuming needs) and, where
test lists were ranked, eval-test.json.

The algorithm is TrainingSteps.batch (what a step shows the model), `model_outputs` and `losses`
(with the formulas of alro.py) and `one_step`; the loop in `train` calls them. Read these first.
"""
import dataclasses
import functools
import inspect
import math
import os
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from tqdm import tqdm

import evaluate
from alro import (
    Batch, alro_loss, blind_probs, gold_order, gold_rank, item_log_probs, perfect_probs,
    rating_loss, soft_lambda_loss, target_logits)
from data import (
    DataConfig, Encoder, RankingList, Ratings, Splits, generator, informative, load, make_encoder,
    random_slots, seed_from, sha256, sha256_of_words, split)
from evaluate import ModelRanker, choose_lists, in_plain_words, ndcg, rank_test_lists
from model import (
    autocast, build_model, choose_bf16, describe_device, encode, hardware, join_processes,
    leave_processes, pick_device, processes, sum_over_processes, use_one_thread)
from runs import (
    LOG_FIELDS, Clock, FolderInUse, Origin, StopRequest, TrainingLog, check_input, check_minimum,
    command, config_from_dict, error_at, ignore_interrupt, load_checkpoint, open_folder, option,
    parse_flags, read_run_config, run_script, save_checkpoint, save_model, trainable,
    until_stopped, write_config)

# ---- Configuration -------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the demo's; GUESS: all numbers, we do not know the paper's."""
    _argument_group_name = "training"

    # ---- the model: what is fine-tuned, and how much of it
    model: str = option("tiny", "tiny (built here, random weights), or a Hugging Face id or folder "
                                "(safetensors)")
    width: int = option(64, "of the tiny model; a multiple of 8")
    lora_rank: int = option(0, "train a LoRA adapter of this rank (needs peft); 0 = all weights")
    dropout: float = option(0.0, "dropout where the model's configuration has one, and in LoRA")

    # ---- the objective: L_sft + alpha L_sll + beta L_psl
    #      + history_weight L_history + candidate_weight L_candidates
    # alpha, beta, gamma and sigma are the paper's symbols (the table at the top of alro.py). What
    # the paper set them to is not known to us.
    alpha: float = option(3.0, "weight of the soft lambda loss")
    beta: float = option(1.5, "weight of permutation-sensitive learning; 0 = one prompt per list, "
                              "half the work")
    gamma: float = option(10.0, "sharpness of the soft-argmax (see alro.soft_rank)")
    sigma: float = option(1.0, "slope of the pairwise logistic, per rank")
    history_weight: float = option(1.0, "weight of the loss on the history's ratings (OURS)")
    candidate_weight: float = option(1.0, "weight of the loss on the candidates' ratings, which no "
                                          "prompt shows (OURS); both 0: the paper's objective")
    display_order: str = option("shown", "order in the first prompt: shown (a fixed one per list) "
                                         "or shuffled (anew each time)")
    through_target: bool = option(True, "gradients also flow through PSL's target (GUESS: yes, the "
                                        "demo learns sooner)")

    # ---- the optimiser: AdamW, a rate that goes up and then down, clipped gradients
    seed: int = option(0, "of weights, batches, displayed orders and ties; never of the data")
    steps: int = option(1200, "optimiser steps; wins over --epochs; 0 = as many as --epochs says")
    epochs: float = option(1.0, "passes over the training lists, where --steps is 0")
    batch_size: int = option(8, "lists per optimiser step")
    lr: float = option(3e-3, "peak learning rate of AdamW")
    warmup: float = option(0.1, "share of the steps until the rate is at its peak")
    decay: float = option(0.35, "share of the steps, the last ones, in which it goes down to 0")
    weight_decay: float = option(0.0, "of AdamW")
    clip: float = option(1.0, "largest norm of a step's gradient")

    # ---- time and memory: none of these changes a gradient beyond its rounding
    grad_accum: int = option(1, "parts that a step's lists go through the model in: less memory")
    gradient_checkpointing: bool = option(False, "keep only each layer's input, compute the rest "
                                                 "twice: less memory")
    bf16: bool | None = option(None, "compute in bf16 (default: for a pretrained model, where GPU "
                                     "or processor has it)")
    compile: bool = option(False, "torch.compile the decoder layers (needs a C++ compiler)")

    # ---- looking at it: how often something is written, validated, ranked
    log_every: int = option(20, "steps between lines of log.jsonl")
    valid_every: int = option(0, "steps between validations, each with a checkpoint; 0 = a tenth")
    valid_limit: int = option(200, "validation lists to rank; 0 = all")
    patience: int = option(0, "stop after this many validations without a better NDCG; 0 = never")
    test_at_end: bool = option(True, "rank test lists at the end (evaluate.py does it later)")
    test_limit: int = option(300, "test lists to rank at the end; 0 = all")
    test_orders: int = option(2, "random displayed orders of each of them")

    def __post_init__(self):
        check_minimum(self, seed=0, steps=0, batch_size=1, grad_accum=1, width=8)
        check_minimum(self, alpha=0, beta=0, history_weight=0, candidate_weight=0)
        check_minimum(self, weight_decay=0, lora_rank=0)
        check_minimum(self, log_every=1, valid_every=0, valid_limit=0, patience=0)
        check_minimum(self, test_limit=0, test_orders=1)
        for name in ("epochs", "lr", "clip", "gamma", "sigma"):
            value = getattr(self, name)
            check_input(0 < value < 1e9, f"--{name} must be positive, below 1e9, got {value}")
        for name in ("warmup", "decay"):
            value = getattr(self, name)
            check_input(0 <= value <= 1, f"--{name} must be a share, in 0..1, got {value}")
        check_input(self.warmup + self.decay <= 1, "--warmup and --decay must add up to at most 1")
        check_input(self.width % 8 == 0, f"--width must be a multiple of 8, got {self.width}")
        check_input(0 <= self.dropout < 1,
                    f"--dropout must be in 0..1, below 1, got {self.dropout}")
        check_input(self.display_order in ("shown", "shuffled"),
                    f"--display_order must be shown or shuffled, got {self.display_order!r}")
        check_input(not self.lora_rank or self.model != "tiny",
                    "--lora_rank needs a --model: tiny has no folder to go to")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What to do, and where; none of it changes what a run learns."""
    _argument_group_name = "what to do"

    out: str | None = option(None, "the run's folder (default: runs/<dataset>-<n>, n = 1, 2, ...)")
    resume: str | None = option(None, "go on with the run in this folder, under its own "
                                      "configuration; takes no other flag")
    ablation: bool = option(False, "train SFT, + SLL, + PSL, both (ALRO), on shuffled and on shown "
                                   "orders, and compare")
    seeds: int = option(1, "seeds of each arm of the --ablation, from --seed on")

    def __post_init__(self):
        check_minimum(self, seeds=1)


# Other defaults for the same flags; a flag on the command line wins over its preset.
# small-gpu with --compile True --seed 1 --valid_every 148 is ALRO of results/real-gpu.json, minutes
# on an H100; paper was never run.
PRESETS = {
    "demo": {},
    "small-gpu": dict(
        model="HuggingFaceTB/SmolLM2-135M-Instruct", dataset="ml-100k", noun="movie",
        fields="title,category,average", list_size=10, history_size=20,
        steps=0, batch_size=32, lr=3e-4, alpha=1.0, beta=1.0,
        display_order="shuffled", through_target=True,
        grad_accum=4, test_limit=0),
    # GUESS: all but the dataset, which is one of those that the paper uses (summary L).
    "paper": dict(
        model="meta-llama/Llama-2-7b-hf", dataset="ml-1m", list_size=10, history_size=20,
        steps=0, epochs=5.0, batch_size=64, lr=1e-4, alpha=1.0, beta=1.0, dropout=0.05,
        display_order="shuffled", through_target=True, lora_rank=8, grad_accum=16,
        test_at_end=False),
}


# ---- The data of one step ------------------------------------------------------------------------
# A step shows the model --batch_size lists, in one or several parts of B lists each. With PSL each
# list is shown twice, in two displayed orders: B rows in the first order and, below them, the same
# B lists in the other. A list brings its shown order with it; what is drawn (shuffled orders, ties)
# comes from (seed, epoch, list_id) and nothing else, so that resuming, sharding and comparing are
# exact.

class StepData(NamedTuple):
    parts: list[Batch]    # this process's share of the step's lists, in --grad_accum parts
    list_ids: list[str]   # of all lists of the step, in all processes
    shortened: list[str]  # ids of this process's lists whose oldest history did not fit the model


class TrainingSteps(torch.utils.data.Dataset):
    """Element s is all the data of step s: a pure function of (seed, s).

    So a run can start anywhere, in any process.
    """

    # Lists of about the same length go into one step; so many steps are sorted together.
    SORTED_TOGETHER = 16

    def __init__(self, lists: list[RankingList], encoder: Encoder, cfg: TrainConfig,
                 process: int = 0, n_processes: int = 1):
        self.lists, self.encoder, self.cfg = lists, encoder, cfg
        self.process, self.n_processes = process, n_processes
        self.per_epoch = math.ceil(len(lists) / cfg.batch_size)
        self.total = cfg.steps or max(1, round(cfg.epochs * self.per_epoch))
        self.lengths = self.about_how_long()  # (lists,)

    def about_how_long(self) -> torch.Tensor:
        """(lists,) about how many tokens each list's prompt has."""
        tokens = encode(self.encoder.tokenizer, self.encoder.words.texts).input_ids
        text_tokens = torch.tensor([len(text) for text in tokens])  # (items,)
        lengths = []
        for ranking_list in self.lists:
            history = [item for item, _ in ranking_list.history]
            in_texts = text_tokens[history + ranking_list.items].sum().item()
            lengths.append(in_texts + 4 * len(history))  # about four more for a rating's line
        return torch.tensor(lengths)

    def __len__(self) -> int:
        return self.total

    def lists_of(self, epoch: int, place: int) -> list[RankingList]:
        """The lists of the epoch's step at this place; an epoch has each list once."""
        batch_size, numbers = self.cfg.batch_size, generator("epoch", self.cfg.seed, epoch)
        rows = torch.randperm(len(self.lists), generator=numbers)
        # Padding is work for nothing, so lists of one step should be about equally long: cut the
        # random order into stretches of some steps, sort each stretch by length, and shuffle the
        # steps, so that long lists do not always come last.
        stretches = rows.split(self.SORTED_TOGETHER * batch_size)
        by_length = [stretch[self.lengths[stretch].argsort(stable=True)] for stretch in stretches]
        shuffled_steps = torch.randperm(self.per_epoch, generator=numbers)
        start = shuffled_steps[place].item() * batch_size
        chosen = torch.cat(by_length)[start:start + batch_size]
        return [self.lists[row] for row in chosen.tolist()]

    def __getitem__(self, step: int) -> StepData:
        epoch, place = divmod(step, self.per_epoch)
        lists = self.lists_of(epoch, place)
        # This process's share, and its parts: 8 lists, 2 processes and --grad_accum 4 make 4 parts
        # of one list in each process. Every n-th list goes into one part: all are about as long.
        mine = lists[self.process::self.n_processes]
        lists_per_part = math.ceil(self.cfg.batch_size / (self.cfg.grad_accum * self.n_processes))
        n_parts = math.ceil(len(mine) / lists_per_part)
        parts, shortened = [], []
        for part in range(n_parts):
            batch, cut = self.batch(mine[part::n_parts], epoch)
            parts.append(batch)
            shortened.extend(cut)
        return StepData(parts, [ranking_list.list_id for ranking_list in lists], shortened)

    def batch(self, lists: list[RankingList], epoch: int) -> tuple[Batch, list[str]]:
        """B rows in the first displayed order and, for PSL, the same B lists in another.

        Both halves share their gold order: they differ in nothing but the display.
        """
        gold, first_slots, other_slots = [], [], []
        for ranking_list in lists:
            key = (self.cfg.seed, epoch, ranking_list.list_id)
            ratings = torch.tensor([ranking_list.ratings])  # (1, m)
            # The answer to be learned. Ties are drawn anew each epoch, and without a look at the
            # displayed orders: were they broken by the display, SFT would teach position bias.
            gold.append(gold_order(ratings, generator("ties", *key)))
            m = len(ranking_list.items)
            # "shown": what a retriever would show, the same order each time; copying it pays.
            if self.cfg.display_order == "shown":
                first_slots.append(ranking_list.shown)
            else:
                first_slots.append(random_slots(m, *key, "first"))
            other_slots.append(random_slots(m, *key, "other"))
        gold = torch.cat(gold)  # (B, m)
        # Without PSL nobody would read the second order.
        if self.cfg.beta == 0:
            return self.encoder.batch(lists, first_slots, gold)
        return self.encoder.batch(lists + lists, first_slots + other_slots, torch.cat([gold, gold]))


# ---- The losses of one step ----------------------------------------------------------------------
# From tokens to one number per list. The formulas are alro.py's; here is what they are fed with.

def model_outputs(model, batch: Batch, cfg: TrainConfig):
    """What the model says of a batch of B lists or, with PSL, of B lists in two displayed orders.

    Returns: (log_probs, other_log_probs, rating_terms): (B, m, m), log_probs[b, k, i] is that of
    item i at output position k of list b, normalised over the vocabulary; the same in the other
    displayed order, or None; what alro_loss takes of `rating_loss`: terms (B,) and their weights.
    """
    # Stage 1: one pass of the model over all rows. Both displayed orders go through it together:
    # half as many passes.
    with autocast(batch.input_ids.device, cfg.bf16):
        answer_logits, history_logits, candidate_logits = target_logits(model, batch)
    # Stage 2: from slots to items. The letter " A" stands for slot 0, which holds another item in
    # the other order; by item the two can be compared, and the display is out of sight from here.
    log_probs = item_log_probs(answer_logits, batch)  # (B or 2 B, m, m)
    # Stage 3: the two halves of the rows, as TrainingSteps.batch has put them together.
    other = None
    n_lists = len(log_probs)
    if cfg.beta > 0:
        log_probs, other = log_probs.chunk(2)  # (B, m, m) each
        n_lists = len(log_probs)
    # Stage 4: ratings, in the first order alone: where SFT sees one display, they do, too.
    rating_terms = {}
    if cfg.history_weight > 0:
        term = rating_loss(history_logits[:n_lists], batch.history_rated[:n_lists])  # (B,)
        rating_terms |= {"history_term": term, "history_weight": cfg.history_weight}
    if cfg.candidate_weight > 0:
        term = rating_loss(candidate_logits[:n_lists], batch.candidate_rated[:n_lists])  # (B,)
        rating_terms |= {"candidate_term": term, "candidate_weight": cfg.candidate_weight}
    return log_probs, other, rating_terms


def losses(model, batch: Batch, cfg: TrainConfig) -> dict[str, torch.Tensor]:
    """The objective's terms and its "total", each (B,), and what to compare them with."""
    log_probs, other_log_probs, rating_terms = model_outputs(model, batch, cfg)
    # With PSL the batch has 2 B rows, and rows B and on are the same lists again.
    n_lists = len(log_probs)
    order, ratings = batch.order[:n_lists], batch.ratings[:n_lists]  # (B, m)
    # Stage 5: the objective, on the first displayed order; the other one is for PSL alone. (GUESS:
    # the paper's sum shows one prompt. `both_orders_losses` in baselines.py has the other reading.)
    terms = alro_loss(
        log_probs, order, ratings, alpha=cfg.alpha, beta=cfg.beta, gamma=cfg.gamma,
        sigma=cfg.sigma, other_log_probs=other_log_probs, through_target=cfg.through_target,
        **rating_terms)
    return {**terms, **references(order, ratings, cfg)}


@torch.no_grad()
def references(order: torch.Tensor, ratings: torch.Tensor, cfg: TrainConfig) -> dict:
    """What to read SLL beside: that of a model that knows only what is already out, and of one that
    is sure of the gold order."""
    # No model is asked. With the gold items forced, a *blind* model is certain only that what is
    # out already does not come again (alro.blind_probs). tau is the target rank of each item.
    tau = gold_rank(ratings)  # (B, m)
    blind = soft_lambda_loss(blind_probs(order), ratings, tau, cfg.gamma, cfg.sigma)
    perfect = soft_lambda_loss(perfect_probs(order), ratings, tau, cfg.gamma, cfg.sigma)
    return {"blind_sll": blind, "perfect_sll": perfect}


# ---- One step ------------------------------------------------------------------------------------
# The whole of training but for its bookkeeping: the loop in `train` calls this again and again.

def check_losses(values: dict[str, torch.Tensor], n_lists: int) -> None:
    """What a loss function returns must be one number per list: `one_step` takes the mean.

    A mean that is taken before would weigh --grad_accum's parts wrongly, and nobody would see it.
    """
    check_input(isinstance(values, dict) and "total" in values,
                f'a loss function must return a dict with a "total", got {values}')
    taken = LOG_FIELDS & values.keys()
    check_input(not taken, f"a loss function must not return {sorted(taken)}: another name")
    for name, value in values.items():
        good = isinstance(value, torch.Tensor) and value.shape == (n_lists,)
        check_input(good, f"a loss function must return tensors of one number per list, shape "
                          f"({n_lists},), got as {name} {value}")


def one_step(model, data: StepData, optimizer, scheduler, cfg: TrainConfig, losses=losses):
    """Forward, backward, clip, update. Returns: means over the step's lists, of each value that
    `losses` gives, and the norm of the gradient; still on the device."""
    parameters = list(trainable(model).values())
    n_lists = len(data.list_ids)
    sums_of_parts = []
    for batch in data.parts:
        batch = batch.to(parameters[0].device)
        values = losses(model, batch, cfg)
        n_rows = len(batch.order)  # with PSL two for each list
        check_losses(values, n_rows // 2 if cfg.beta > 0 else n_rows)
        # The gradient wanted is that of the mean over the step's lists. Each part gives its share
        # of that mean, and PyTorch adds the gradients of the parts up.
        (values["total"].sum() / n_lists).backward()
        sums = {name: value.detach().sum() for name, value in values.items()}
        # For the speed that is logged: tokens of all rows, prompt and answer, without padding.
        tokens = batch.prompt_tokens + batch.order.shape[1]  # (B or 2 B,)
        sums["tokens"] = tokens.sum().float()
        sums_of_parts.append(sums)
        check_input(sums.keys() == sums_of_parts[0].keys(),
                    f"a loss function must return the same names each time, got {[*values]}")
    # With several processes, each has seen its own lists: add their gradients up, too.
    add_gradients_of_all_processes(parameters)
    # A gradient longer than --clip is shortened to it; the norm is that of before.
    norm = torch.nn.utils.clip_grad_norm_(parameters, cfg.clip)
    optimizer.step()
    # The rate of the next step (see make_optimizer).
    scheduler.step()
    optimizer.zero_grad(set_to_none=True)
    return {**means_over_lists(sums_of_parts, n_lists), "grad_norm": norm.detach()}


def add_gradients_of_all_processes(parameters: list[torch.nn.Parameter]) -> None:
    if processes.is_initialized():
        for weight in parameters:
            # Every process must take part in every sum, whether it has a gradient or not.
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            sum_over_processes(weight.grad)


def in_any_process(happened: bool, device: torch.device) -> bool:
    """Whether it has happened in any process: all must leave the loop at the same step."""
    if not processes.is_initialized():
        return happened
    flag = torch.tensor(float(happened), device=device)
    return sum_over_processes(flag).item() > 0


def means_over_lists(sums_of_parts: list[dict], n_lists: int) -> dict[str, torch.Tensor]:
    # One tensor of all sums, so that several processes exchange it once.
    names = list(sums_of_parts[0])
    sums = [sum(part[name] for part in sums_of_parts) for name in names]
    means = sum_over_processes(torch.stack(sums)) / n_lists
    return dict(zip(names, means))


def validate(model, lists: list[RankingList], encoder: Encoder, cfg: TrainConfig,
             process: int = 0, n_processes: int = 1) -> tuple[dict[str, float], set[str]]:
    """Mean NDCG@m of the validation lists, each in one random displayed order; shared by processes.

    Returns: ({"valid_ndcg": of what the answer says} and, where candidates' ratings are targets,
    "valid_knows": of the expected ratings; ids of the lists whose oldest history did not fit).
    """
    # The order is random, whatever training shows: copying the display earns nothing here. It is
    # the same in every run, so that runs can be compared.
    mine, m = lists[process::n_processes], encoder.list_size
    decodings = {"valid_ndcg": "greedy"}
    if knows_ratings(encoder, cfg):
        decodings["valid_knows"] = "ratings"
    slots = [random_slots(m, "eval", ranking_list.list_id, 0) for ranking_list in mine]
    ratings = torch.tensor([ranking_list.ratings for ranking_list in mine])  # (N, m)
    device = next(model.parameters()).device
    means = {}
    for name, decode in decodings.items():
        ranker = ModelRanker(model, encoder, decode, lists_ranked_at_once(cfg), cfg.bf16)
        # In float64, summed over lists and processes: the same however they are shared out.
        total = torch.zeros((), dtype=torch.float64)
        if mine:
            total = ndcg(ratings, ranker(mine, slots), m).sum()
        means[name] = sum_over_processes(total.to(device)).item() / len(lists)
    return means, ranker.shortened


def knows_ratings(encoder: Encoder, cfg: TrainConfig) -> bool:
    """Whether what the model knows can be read off: it was asked in training, and a token tells."""
    return cfg.candidate_weight > 0 and len(encoder.levels) > 0


def lists_ranked_at_once(cfg: TrainConfig) -> int:
    """About as many prompts as go through the model at once in training."""
    return max(1, 2 * cfg.batch_size // cfg.grad_accum)


# ---- Starting and going on -----------------------------------------------------------------------
# Nothing here is of the paper: on a first reading, go on at "The loop".

class Job(NamedTuple):
    """What a run works on."""
    ratings: Ratings
    splits: Splits
    model: torch.nn.Module
    tokenizer: object
    encoder: Encoder
    steps: TrainingSteps
    valid_every: int                # steps
    valid_lists: list[RankingList]


def prepare(data_cfg: DataConfig, cfg: TrainConfig, process: int, n_processes: int) -> Job:
    """Load the data and the model. Raises: AlroError if they do not fit together."""
    check_input(data_cfg.history_ratings or not cfg.history_weight,
                "--history_ratings False needs --history_weight 0")
    ratings = load(data_cfg)
    splits = split(ratings, data_cfg)
    # Lists whose candidates all have one rating can teach no order.
    train_lists = informative(splits.train, "training")
    # Each process needs a list in each step, the smallest one of an epoch included.
    smallest_step = len(train_lists) % cfg.batch_size or cfg.batch_size
    check_input(smallest_step >= n_processes,
                f"an epoch's smallest step has {smallest_step} lists for {n_processes} processes: "
                "another --batch_size")
    model, tokenizer = build_model(cfg, ratings)
    # torch.compile makes code for one length of a batch: lengths that are multiples of 64 are few.
    multiple = 64 if cfg.compile else 1
    encoder = make_encoder(model, tokenizer, ratings.prompt_words(), data_cfg.list_size,
                           multiple=multiple)
    steps = TrainingSteps(train_lists, encoder, cfg, process, n_processes)
    valid_every = cfg.valid_every or max(1, steps.total // 10)
    # A validation ranks no more lists than were trained on since the one before: a short run would
    # do little else. (--valid_limit 0 ranks all: a slice to None leaves none out.)
    n_valid = min(cfg.valid_limit, valid_every * cfg.batch_size) or None
    valid_lists = informative(splits.valid, "validation")[:n_valid]
    return Job(ratings, splits, model, tokenizer, encoder, steps, valid_every, valid_lists)


def origin_of(job: Job, cfg: TrainConfig, losses) -> Origin:
    """What the weights will come from: a checkpoint is not gone on with on anything else."""
    all_lists = job.splits.train + job.splits.valid + job.splits.test
    return Origin(sha256(all_lists), sha256_of_words(job.encoder.words), name_of(losses),
                  dataclasses.asdict(cfg))


def name_of(function) -> str:
    """A loss function by the name that config.json keeps: `losses`, or its module and its name.

    A functools.partial and a function made inside another: with the numbers and words they hold.
    """
    if function is losses:
        return "losses"  # whether train.py is run or imported
    if isinstance(function, functools.partial):
        given = [name_of_value(value) for value in function.args]
        keywords = sorted(function.keywords.items())
        given += [f"{name}={name_of_value(value)}" for name, value in keywords]
        return f"{name_of(function.func)}({', '.join(given)})"
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{named.__module__}.{named.__qualname__}"
    held = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    values = {key: value for key, value in held.items() if isinstance(value, SIMPLE)}
    return f"{name}({values})" if values else name


SIMPLE = bool | int | float | str


def name_of_value(value) -> str:
    """What a partial was given, in words that are the same in the next process and for no other."""
    if callable(value):
        return name_of(value)
    check_input(value is None or isinstance(value, SIMPLE),
                "a loss function in a functools.partial may be given numbers, words and functions, "
                f"for a run's record: got {type(value).__name__}")
    return repr(value)


def claim_folder(run_cfg: RunConfig, data_cfg: DataConfig, origin: Origin, job: Job, process: int,
                 n_processes: int) -> tuple[Path, object]:
    """(the run's folder, locked and, if it is new, with its config.json; the lock)."""
    folder, lock = open_folder(run_cfg.resume, run_cfg.out, data_cfg.dataset, process, n_processes)
    # One process writes, the others only read.
    if process == 0 and run_cfg.resume is None:
        write_config(folder, data_cfg, origin, job.encoder.words, hardware())
    return folder, lock


FEW_STEPS = 80  # no run of results/ has left the uniform trap before


def describe_start(dataset: str, cfg: TrainConfig, job: Job, device_text: str,
                   losses_name: str) -> str:
    """What a person wants to know before the first step, in five lines."""
    m, steps = job.encoder.list_size, job.steps
    n_trained = sum(weight.numel() for weight in trainable(job.model).values())
    counts = "".join(f"; {name}: {count}" for name, count in job.ratings.counts.items())
    lines = [f"{dataset}: {len(steps.lists)} training lists of {m} with two different ratings, of "
             f"{len(job.splits.train)}{counts}"]
    lines.append(f"{cfg.model}: {job.model.num_parameters():,} weights, {n_trained:,} trained; "
                 f"{device_text}")
    objective = (f"SFT + {cfg.alpha:g} SLL + {cfg.beta:g} PSL + {cfg.history_weight:g} history + "
                 f"{cfg.candidate_weight:g} candidates' ratings; gamma {cfg.gamma:g}")
    if losses_name != name_of(losses):  # train(..., losses=...): only it knows what it weighs
        objective = losses_name
    lines.append(f"loss: {objective}; on {cfg.display_order} orders, seed {cfg.seed}")
    lines.append(f"{steps.total} steps of {cfg.batch_size} lists, validated on "
                 f"{len(job.valid_lists)}; every setting is in config.json")
    lines.append(f"levels of SFT: log(m) = {math.log(m):.3f}, any of the m letters; log(m!)/m = "
                 f"{math.lgamma(m + 1) / m:.3f}, the uniform trap: no repeats, and no idea")
    if cfg.display_order == "shown":
        lines[-1] += "; on shown orders copying the display goes below it"
    if cfg.candidate_weight > 0 and not knows_ratings(job.encoder, cfg):
        lines.append("note: no single token of this tokenizer tells the ratings "
                     f"{', '.join(f'{level:g}' for level in job.encoder.words.levels)} apart: the "
                     "candidates' are no targets, and what the model knows cannot be read off")
    if steps.total < FEW_STEPS:
        lines.append(f"note: {steps.total} steps are too few to leave the uniform trap; expect "
                     "about chance (see --steps, --epochs)")
    return "\n".join(lines)


def as_arrays(data: StepData) -> StepData:
    """For the way from the loader's worker: a tensor would cost an open file, an array does not."""
    parts = [Batch(*(tensor.numpy() for tensor in batch)) for batch in data.parts]
    return data._replace(parts=parts)


def as_tensors(data: StepData) -> StepData:
    parts = [Batch(*(torch.from_numpy(array) for array in batch)) for batch in data.parts]
    return data._replace(parts=parts)


def make_loader(steps: TrainingSteps, first: int, device: torch.device):
    """The steps' data from `first` on, tokenised in another process while the model works."""
    workers = 4 if device.type == "cuda" else 1
    places = range(first, steps.total)
    return torch.utils.data.DataLoader(
        steps, batch_size=None, sampler=places, collate_fn=as_arrays, num_workers=workers,
        worker_init_fn=ignore_interrupt)


def make_optimizer(model, cfg: TrainConfig, total_steps: int):
    """(AdamW, its rate: a straight line up, then the peak, then a straight line down to 0).

    The line up begins at 0, as is usual: the first step moves nothing.
    """
    # Fused: one pass over all weights in place of one for each tensor; the same numbers.
    optimizer = torch.optim.AdamW(trainable(model).values(), cfg.lr, (0.9, 0.95),
                                  weight_decay=cfg.weight_decay, fused=True)
    warm, falling = round(cfg.warmup * total_steps), round(cfg.decay * total_steps)
    return optimizer, transformers.get_wsd_schedule(
        optimizer, warm, falling, num_training_steps=total_steps, decay_type="linear")


# ---- The loop ------------------------------------------------------------------------------------

def train(data_cfg: DataConfig, cfg: TrainConfig, run_cfg: RunConfig | None = None, losses=losses,
          on_step=None) -> dict:
    """Train one run, from its start or, with run_cfg.resume, from its last checkpoint.

    Args: losses: the step's loss function (model, batch, cfg) -> dict of (B,) tensors with "total",
        see `losses`: another objective is another function.
        on_step(step) is called after each step.
    Returns: {"folder", "best_valid_ndcg", "shortened": {use: list ids}} and, where test lists were
        ranked, "result" and "methods" (evaluate.score_table).
    """
    # ---- start: data, model, folder
    # Nothing is written before all that can be wrong with flags, data and model has been checked.
    # Several processes (torchrun) do the same, each with its share of every step's lists.
    run_cfg = run_cfg or RunConfig()
    process, n_processes = join_processes()
    say = tqdm.write if process == 0 else (lambda *_: None)  # it leaves the bar alone
    device = pick_device()
    use_one_thread(device, cfg.model)
    job = prepare(data_cfg, cfg, process, n_processes)
    model, steps = job.model, job.steps
    # The run's record keeps --bf16 as it was given, not as it is chosen below: a run may go on on a
    # machine that chooses otherwise.
    origin = origin_of(job, cfg, losses)
    folder, _lock = claim_folder(run_cfg, data_cfg, origin, job, process, n_processes)
    bf16, why = choose_bf16(cfg.bf16, device, cfg.model)
    cfg = dataclasses.replace(cfg, bf16=bf16)
    device_text = describe_device(device, bf16, why)
    say(describe_start(data_cfg.dataset, cfg, job, device_text, origin.losses))

    # ---- start: optimiser, and how far an earlier process came
    # The checkpoint restores weights, AdamW's moments and the rate: what comes after it is bit for
    # bit what would have come without an interruption.
    model.to(device).train()
    optimizer, scheduler = make_optimizer(model, cfg, steps.total)
    # (TrainConfig(): a field that the checkpoint is too old to have had its default.)
    progress = load_checkpoint(folder, origin, TrainConfig(), model, optimizer, scheduler)
    if run_cfg.resume is not None:
        say(f"resumed at step {progress.step}")
    log = TrainingLog(folder if process == 0 else None, progress.step, data_cfg.list_size)
    shortened = {"train": set(), "valid": set(), "test": set()}
    clock = Clock(progress.step, steps.total)
    # A run whose patience ended has nothing left to train; without a checkpoint, step 0 is next.
    first = steps.total if progress.stopped_early(cfg.patience) else progress.step
    # No bar in a pipe, and none in the other processes.
    bar = tqdm(total=steps.total, initial=first, disable=True if process else None, mininterval=1)

    stopping = False
    with StopRequest() as stop, bar:
        for data in until_stopped(make_loader(steps, first, device), stop):
            # ---- step: the algorithm is in `one_step` and `losses`
            # Dropout, on any device, draws from (seed, step, process): resuming repeats it.
            torch.manual_seed(seed_from("step", cfg.seed, progress.step, process))
            rate = scheduler.get_last_lr()[0]  # this step's; `one_step` sets the next one's
            means = one_step(model, as_tensors(data), optimizer, scheduler, cfg, losses)
            progress.step += 1
            due = progress.step % job.valid_every == 0 or progress.step == steps.total
            stopping = in_any_process(stop.requested, device)  # a signal may come at any time

            # ---- log: numbers stay on the device until a line is due
            log.add(progress.step, means, data.list_ids, rate)
            shortened["train"].update(data.shortened)
            bar.update()
            if progress.step % cfg.log_every == 0 or due:
                line = log.flush()
                bar.set_postfix(total=f"{line['total']:.3f}")
            if clock.knows(progress.step):
                say(clock.estimate(job.valid_every))

            # ---- validate: the model that is best here, not the last one, is the run's result
            if due:
                with error_at(f"step {progress.step}"):
                    scores, cut = validate(model, job.valid_lists, job.encoder, cfg, process,
                                           n_processes)
                shortened["valid"].update(cut)
                is_best = progress.add(scores["valid_ndcg"])
                knows = ""
                if "valid_knows" in scores:
                    knows = f"; knows {scores['valid_knows']:.4f}"
                say(f"step {progress.step}: validation NDCG@{data_cfg.list_size} "
                    f"{scores['valid_ndcg']:.4f}{' (best)' if is_best else ''}{knows}")
                if is_best and process == 0:
                    save_model(model, job.tokenizer, folder)
                # Not before: where the log has a validation, model/ is the best until then.
                log.write({"step": progress.step, **scores})

            # ---- checkpoint: all that going on needs, whole or not at all
            if due and process == 0:
                save_checkpoint(folder, progress, origin, model, optimizer, scheduler)
            if due:
                log.restart_clock()
            if on_step:
                on_step(progress.step)
            if stopping or progress.stopped_early(cfg.patience):
                break

    # ---- end: after Ctrl-C or SIGTERM, with the step that was under way finished
    # (`StopRequest` has caught the signal; the last log lines are still to be written).
    if stopping or stop.requested:
        log.flush()
        if process == 0:
            save_checkpoint(folder, progress, origin, model, optimizer, scheduler)
        raise SystemExit(f"interrupted; go on with: {command('train.py', '--resume', folder)}")
    leave_processes(n_processes)
    say_peak_memory(say, device)

    # ---- end: the test lists, with the model that was best on validation
    outcome = {"folder": str(folder), "best_valid_ndcg": progress.best, "shortened": shortened}
    # The first process ranks alone: the others have nothing left to do.
    if cfg.test_at_end and process == 0:
        outcome |= test_at_end(folder, cfg, job, shortened)
    say_shortened(say, shortened)
    return outcome


def say_peak_memory(say, device: torch.device) -> None:
    if device.type == "cuda":  # of this process, since it started
        say(f"GPU memory at its peak: {torch.cuda.max_memory_allocated() / 2 ** 30:.1f} GiB")


def say_shortened(say, shortened: dict[str, set]) -> None:
    counts = {use: len(list_ids) for use, list_ids in shortened.items()}
    if any(counts.values()):
        say(f"lists whose oldest history did not fit into the model's context: {counts}")


def test_at_end(folder: Path, cfg: TrainConfig, job: Job, shortened: dict[str, set]) -> dict:
    """Rank the test lists and print the table: {"result", "methods"} of evaluate.score_table."""
    print(f"trained; if interrupted now, rank later: {command('evaluate.py', folder)}")
    test_data = choose_lists(job.ratings, job.splits, "test", cfg.test_limit)
    result, methods, shortened["test"] = rank_test_lists(
        folder, cfg, test_data, job.encoder, lists_ranked_at_once(cfg))
    print(f"\n{in_plain_words(result)}\n{next_command(folder, cfg)}")
    return {"result": result, "methods": methods}


def next_command(folder: Path, cfg: TrainConfig) -> str:
    """What to run after this run, and why."""
    demo = dataclasses.replace(TrainConfig(), seed=cfg.seed, bf16=cfg.bf16)
    if cfg == demo:
        plain = command("train.py", "--alpha", 0, "--beta", 0, "--seed", cfg.seed)
        return f"Next, plain fine-tuning, to compare: {plain}"
    return f"Next, three lists in words: {command('evaluate.py', folder, '--show', 3)}"


# ---- The ablation: what each loss adds -----------------------------------------------------------
# The paper's own question (summaries L, S): leave SLL out, leave PSL out, and compare.

def ablation_runs(cfg: TrainConfig, run_cfg: RunConfig, root: Path) -> dict[Path, TrainConfig]:
    """{folder: configuration} of SFT, SFT + SLL, SFT + PSL and ALRO, on two kinds of orders."""
    # An arm is a pair of weights, alpha and beta. All arms share steps, lists and seeds; those
    # without PSL read one prompt per list where the others read two.
    arms = {"SFT": (0.0, 0.0), "SFT+SLL": (cfg.alpha, 0.0)}
    arms |= {"SFT+PSL": (0.0, cfg.beta), "ALRO": (cfg.alpha, cfg.beta)}
    runs = {}
    for display_order in ("shuffled", "shown"):
        for arm, (alpha, beta) in arms.items():
            for seed in range(cfg.seed, cfg.seed + run_cfg.seeds):
                folder = root / f"{arm}-{display_order}-{seed}"
                arm_cfg = dataclasses.replace(cfg, alpha=alpha, beta=beta, test_at_end=False)
                runs[folder] = dataclasses.replace(
                    arm_cfg, seed=seed, display_order=display_order)
    return runs


def check_same_config(folder: Path, data_cfg: DataConfig, cfg: TrainConfig) -> None:
    """Raise AlroError if a run that is to be gone on with has another configuration than given."""
    # Else the folder's config.json would tell of a run that never was.
    there = read_run_config(str(folder))
    for part, given in (("data", data_cfg), ("train", cfg)):
        saved = config_from_dict(type(given), there[part], f"{folder}/config.json")
        for field in dataclasses.fields(given):
            was, now = getattr(saved, field.name), getattr(given, field.name)
            check_input(was == now, f"{folder} was started with --{field.name} {was}, not {now}: "
                                    "give the same flags, or another --out")


def ablation(data_cfg: DataConfig, cfg: TrainConfig, run_cfg: RunConfig) -> dict:
    """Train all arms, those of an earlier call gone on with, and compare them in one table.

    Two processes may work side by side: each leaves alone what the other is training.
    """
    check_input(os.environ.get("WORLD_SIZE", "1") == "1",
                "--ablation trains in one process: no torchrun")
    check_input(cfg.alpha > 0 and cfg.beta > 0,
                "--ablation compares with and without: --alpha and --beta must be above 0")
    root = Path(run_cfg.out or f"runs/{data_cfg.dataset}-ablation")
    runs = ablation_runs(cfg, run_cfg, root)
    # An arm that is there already must be one of this ablation: same data, same configuration.
    started = [folder for folder in runs if (folder / "config.json").exists()]
    for folder in started:
        check_same_config(folder, data_cfg, runs[folder])
    # Those that are trained go by quickly: resuming a finished run has no step left to do.
    skipped = []
    for number, (folder, arm_cfg) in enumerate(runs.items(), 1):
        print(f"\n---- run {number} of {len(runs)}: {folder}")
        resumed = str(folder) if (folder / "config.json").exists() else None
        if resumed:  # perhaps made by another process since
            check_same_config(folder, data_cfg, arm_cfg)
        try:
            train(data_cfg, arm_cfg, RunConfig(out=str(folder), resume=resumed))
        except FolderInUse as error:
            print(error)
            skipped.append(str(folder))
    # Whether another process has finished those, only a second look can tell.
    check_input(not skipped, "all else is trained, but another process was at "
                             f"{', '.join(skipped)}: for the table, give the same command again "
                             "when it has ended")
    flags = ["--limit", str(cfg.test_limit), "--orders", str(cfg.test_orders), "--pool", "True"]
    flags += ["--json", str(root / "ablation.json")]
    return evaluate.main([*map(str, runs), *flags])["table"]


# ---- python train.py -----------------------------------------------------------------------------

def resume(folder: str) -> dict:
    """Go on with a run, under its own configuration."""
    # Fields that were not thought of when the run was started have their defaults.
    config, where = read_run_config(folder), f"{folder}/config.json"
    data_cfg = config_from_dict(DataConfig, config["data"], where)
    cfg = config_from_dict(TrainConfig, config["train"], where)
    name = config.get("losses", name_of(losses))
    check_input(name == name_of(losses), f"{where}: trained with the losses {name!r}; go on with "
                                         "train(..., RunConfig(resume=...), losses=...)")
    return train(data_cfg, cfg, RunConfig(resume=folder))


def main(arguments: list[str] | None = None) -> dict:
    data_cfg, cfg, run_cfg = parse_flags(arguments, DataConfig, TrainConfig, RunConfig,
                                         presets=PRESETS)
    # Flags beside --resume would promise what cannot be: the run keeps its own.
    if run_cfg.resume is not None:
        alone = (data_cfg, cfg, run_cfg) == (DataConfig(), TrainConfig(),
                                             RunConfig(resume=run_cfg.resume))
        check_input(alone, "--resume RUN goes on with that run's own configuration and takes no "
                           "other flag")
        return resume(run_cfg.resume)
    if run_cfg.ablation:
        return ablation(data_cfg, cfg, run_cfg)
    return train(data_cfg, cfg, run_cfg)


if __name__ == "__main__":
    run_script(main)
