"""Train a list-wise ranker: settings, the data of one step, the losses, one step, the loop.

    python train.py                                 the demo: a tiny model, a synthetic world
    python train.py --alpha 0 --beta 0              plain fine-tuning, to compare
    python train.py --losses MODULE:FUNCTION        another objective (experiments/objectives.py)
    python train.py --preset small-gpu --download True   a 135M model on MovieLens-100K, on a GPU
    python train.py --resume RUN                    go on where an interrupted run stopped
    torchrun --nproc_per_node=N train.py ...        N processes share each step's lists

A run's folder holds config.json, log.jsonl, model/ (best on validation), checkpoint/ (what resuming
needs) and, where test lists were ranked, eval-test.json.

The algorithm is `two_displays` (what a step shows the model; data.Encoder makes tokens of it),
`model_outputs` and `losses` (with the formulas of alro.py) and `one_step`; the loop in `train`
calls them. Read these first.
"""
import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import torch
import transformers

from alro import (
    Batch, alro_loss, blind_probs, gold_order, gold_rank, candidate_log_probs, perfect_probs,
    rating_loss, soft_lambda_loss, target_logits)
from data import (
    DataConfig, Encoder, RankingList, Ratings, Splits, fit_histories, generator,
    informative_lists, load, make_encoder, random_slots, seed_from, split)
from evaluate import (
    ModelRanker, chance_ndcg, choose_lists, fit_to_model, knows_ratings, ndcg, rankers_of_run,
    ratings_of, score_run)
from plumbing.checks import check_training
from plumbing.flags import (
    command, error_at, function_named, name_of, next_command, option, parse_flags,
    run_script)
from plumbing.folder import (
    check_losses, data_hashes, open_run, prefetched, read_run_config, say, settings_of_run,
    stop_request)
from plumbing.machine import (
    ALONE, Team, autocast, join_processes, peak_memory, pick_device, set_up_machine)
from plumbing.model import build_model, sha256_of_base, trainable, warn_of_unknown_titles
from plumbing.presets import PRESETS
from plumbing.tables import describe_start

# ---- Settings ------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the demo's; GUESS: all numbers, we do not know the paper's."""
    _argument_group_name = "training"

    # ---- the model: what is fine-tuned, and how much of it
    model: str = option("tiny", "tiny (built here, random weights), or a Hugging Face id or folder "
                                "(safetensors)")
    width: int = option(64, "of the tiny model; a multiple of 8")
    lora_rank: int | None = option(None, "train a LoRA adapter of this rank (needs peft); None = "
                                         "all weights")

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

    # ---- the optimiser: AdamW, a rate that goes up and then down, clipped gradients
    seed: int = option(0, "of weights, batches, displayed orders and ties; never of the data")
    steps: int | None = option(1200, "optimiser steps; None = as many as --epochs says")
    epochs: float = option(1.0, "passes over the training lists, where --steps is None")
    batch_size: int = option(8, "lists per optimiser step")
    lr: float = option(3e-3, "peak learning rate of AdamW")

    # ---- time and memory: none of these changes a gradient beyond its rounding
    grad_accum: int = option(1, "parts that a step's lists go through the model in: less memory")
    gradient_checkpointing: bool = option(False, "keep only each layer's input, compute the rest "
                                                 "twice: less memory")
    bf16: bool | None = option(None, "compute in bf16 (default: for a pretrained model, where GPU "
                                     "or processor has it)")
    compile: bool = option(False, "torch.compile the decoder layers (needs a C++ compiler)")

    # ---- looking at it
    valid_every: int | None = option(None, "steps between validations, each with a checkpoint; "
                                           "None = a tenth of all")
    valid_lists: int | None = option(200, "most validation lists to rank (and no more than were "
                                             "trained on since the last time); None = all")
    test_lists: int | None = option(300, "test lists to rank at the end; 0 = none, None = all")

    def __post_init__(self):
        check_training(self)


WARMUP, FALL = 0.1, 0.35  # GUESS: shares of the steps, the first and the last ones
CLIP = 1.0                # GUESS: the largest norm of a step's gradient
TEST_ORDERS = 2           # random displayed orders of each test list at the end of a run


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What to do, and where. Of these only the loss function affects what a run learns."""
    _argument_group_name = "what to do"

    out: str | None = option(None, "the run's folder (default: runs/<dataset>-<n>, n = 1, 2, ...)")
    resume: str | None = option(None, "go on with the run in this folder, under its own "
                                      "configuration; takes no other flag")
    losses: str = option("train:losses", "the step's loss function, module:function")


# ---- The data of one step ------------------------------------------------------------------------
# A step shows the model --batch_size lists, in one or several parts of B lists each. With PSL each
# list is shown twice, in two displayed orders: B rows in the first order and, below them, the same
# B lists in the other. A list brings its shown order with it; what is drawn (shuffled orders, ties)
# comes from (seed, epoch, list_id) and nothing else, so that resuming, sharding and comparing are
# exact.

class StepData(NamedTuple):
    parts: list[Batch]    # this process's share of the step's lists, in --grad_accum parts
    list_ids: list[str]   # of all lists of the step, in all processes


class TrainingSteps:
    """`data_of(s)` is all the data of step s: a pure function of (seed, s).

    So a run can start anywhere, in any process.
    """

    # Lists of about the same length go into one step; this many steps are sorted together.
    SORTED_TOGETHER = 16

    def __init__(self, lists: list[RankingList], encoder: Encoder, cfg: TrainConfig,
                 team: Team = ALONE):
        self.lists, self.encoder, self.cfg, self.team = lists, encoder, cfg, team
        self.per_epoch = math.ceil(len(lists) / cfg.batch_size)
        self.total = cfg.steps or max(1, round(cfg.epochs * self.per_epoch))
        self.lengths = encoder.about_how_long(lists)  # (lists,)

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

    def data_of(self, step: int) -> StepData:
        epoch, place = divmod(step, self.per_epoch)
        lists = self.lists_of(epoch, place)
        # This process's share, and its parts: 8 lists, 2 processes and --grad_accum 4 make 4 parts
        # of one list in each process. Every n-th list goes into one part: all are about as long.
        mine = self.team.share(lists)
        n_shares = self.cfg.grad_accum * self.team.size
        lists_per_part = math.ceil(self.cfg.batch_size / n_shares)
        n_parts = math.ceil(len(mine) / lists_per_part)
        parts = [self.two_displays(mine[part::n_parts], epoch) for part in range(n_parts)]
        return StepData(parts, [ranking_list.list_id for ranking_list in lists])

    def two_displays(self, lists: list[RankingList], epoch: int) -> Batch:
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
            # "shown": what a retriever would show, the same order each time, a hint at the ratings:
            # copying it pays in training, and is caught when another order is displayed.
            if self.cfg.display_order == "shown":
                first_slots.append(ranking_list.shown)
            else:
                first_slots.append(random_slots(m, *key, "first"))
            other_slots.append(random_slots(m, *key, "other"))
        gold = torch.cat(gold)  # (B, m)
        # Without PSL nobody would read the second order.
        if self.cfg.beta == 0:
            return self.encoder.encode(lists, first_slots, gold)
        slots = first_slots + other_slots
        return self.encoder.encode(lists + lists, slots, torch.cat([gold, gold]))


# ---- The losses of one step ----------------------------------------------------------------------
# From tokens to one number per list. The formulas are alro.py's; here is what they are fed with.

def model_outputs(model, batch: Batch, cfg: TrainConfig):
    """What the model says of a batch of B lists or, with PSL, of B lists in two displayed orders.

    Returns: (log_probs, other_log_probs, rating_terms): (B, m, m), log_probs[b, k, i] is that of
    candidate i at output position k of list b, normalised over the vocabulary; the same in the
    other displayed order, or None; {name: (loss (B,) of ratings, its weight)}.
    """
    # Stage 1: one pass of the model over all rows. Both displayed orders go through it together:
    # half as many passes.
    with autocast(batch.input_ids.device, cfg.bf16):
        answer_logits, history_logits, candidate_logits = target_logits(model, batch)
    # Stage 2: from slots to candidates. The letter " A" stands for slot 0, which shows another
    # candidate in the other order. By candidate the two can be compared, the display is gone.
    log_probs = candidate_log_probs(answer_logits, batch)  # (B or 2 B, m, m)
    # Stage 3: the two halves of the rows, as `two_displays` has put them together.
    other = None
    if cfg.beta > 0:
        log_probs, other = log_probs.chunk(2)  # (B, m, m) each
    # Stage 4: ratings; like SFT, they use the first displayed order only.
    n_lists = len(log_probs)
    rating_terms = {}
    if cfg.history_weight > 0:
        term = rating_loss(history_logits[:n_lists], batch.history_rated[:n_lists])  # (B,)
        rating_terms["history"] = term, cfg.history_weight
    if cfg.candidate_weight > 0:
        term = rating_loss(candidate_logits[:n_lists], batch.candidate_rated[:n_lists])  # (B,)
        rating_terms["candidates"] = term, cfg.candidate_weight
    return log_probs, other, rating_terms


def losses(model, batch: Batch, cfg: TrainConfig) -> dict[str, torch.Tensor]:
    """The objective's terms and its "total", each (B,), and what to compare them with."""
    log_probs, other_log_probs, rating_terms = model_outputs(model, batch, cfg)
    # With PSL the batch has 2 B rows, and rows B and on are the same lists again.
    n_lists = len(log_probs)
    order, ratings = batch.order[:n_lists], batch.ratings[:n_lists]  # (B, m)
    # Stage 5: the objective, on the first displayed order; the other one is for PSL alone. (GUESS:
    # the paper's sum shows one prompt. `both_orders_losses` in experiments/objectives.py has the
    # other reading.)
    terms = alro_loss(
        log_probs, order, ratings, alpha=cfg.alpha, beta=cfg.beta, gamma=cfg.gamma,
        sigma=cfg.sigma, other_log_probs=other_log_probs)
    # OURS: ratings as targets, too.
    return {**add_rating_terms(terms, rating_terms), **references(order, ratings, cfg)}


def add_rating_terms(terms: dict, rating_terms: dict) -> dict[str, torch.Tensor]:
    """The objective's terms and "total", with weighted rating terms; see `model_outputs`."""
    total = terms["total"]
    for term, weight in rating_terms.values():
        total = total + weight * term
    rating_losses = {name: term for name, (term, _weight) in rating_terms.items()}
    return {**terms, **rating_losses, "total": total}


@torch.no_grad()
def references(order: torch.Tensor, ratings: torch.Tensor, cfg: TrainConfig) -> dict:
    """What to read SLL beside: that of a model that knows only what is already out, and of one that
    is sure of the gold order."""
    # No model is asked. tau is the target rank of each candidate.
    tau = gold_rank(ratings)  # (B, m)
    blind = soft_lambda_loss(blind_probs(order), ratings, tau, cfg.gamma, cfg.sigma)
    perfect = soft_lambda_loss(perfect_probs(order), ratings, tau, cfg.gamma, cfg.sigma)
    return {"blind_sll": blind, "perfect_sll": perfect}


# ---- One step ------------------------------------------------------------------------------------
# The loop in `train` calls this again and again.

class State:
    """What a step changes, and what resuming needs."""

    def __init__(self, model, cfg: TrainConfig, total_steps: int):
        self.model = model
        self.device = next(model.parameters()).device
        self.parameters = list(trainable(model).values())
        # Fused: one pass over all weights in place of one for each tensor; the same numbers.
        self.optimizer = torch.optim.AdamW(
            self.parameters, cfg.lr, (0.9, 0.95), weight_decay=0.0, fused=True)
        # The rate: a straight line up, then the peak, then a straight line down to 0. The line up
        # begins at 0, as is usual: the first step moves nothing.
        warm, falling = round(WARMUP * total_steps), round(FALL * total_steps)
        self.scheduler = transformers.get_wsd_schedule(
            self.optimizer, warm, falling, num_training_steps=total_steps, decay_type="linear")
        self.step = 0
        self.best = -math.inf  # validation NDCG; `Run.validated` keeps it


def one_step(state: State, step_data: StepData, cfg: TrainConfig, losses=losses,
             team: Team = ALONE) -> dict:
    """Forward, backward, clip, update. Returns: the mean over the step's lists of each value that
    `losses` gives, and of their tokens; the gradient's norm; the rate. Most is on the device."""
    # Dropout (of LoRA) draws from (seed, step, process): resuming repeats it.
    torch.manual_seed(seed_from("step", cfg.seed, state.step, team.process))
    n_lists = len(step_data.list_ids)  # in all parts and processes
    sums_of_parts = []
    for batch in step_data.parts:
        batch = batch.to(state.device)
        values = losses(state.model, batch, cfg)
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
    # With several processes, each has seen its own lists: add their gradients up, too.
    team.add_gradients(state.parameters)
    # A gradient longer than CLIP is shortened to it; the norm is that of before.
    norm = torch.nn.utils.clip_grad_norm_(state.parameters, CLIP)
    rate = state.scheduler.get_last_lr()[0]
    state.optimizer.step()
    state.scheduler.step()  # the rate of the next step
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return {**team.means(sums_of_parts, n_lists), "grad_norm": norm.detach(), "lr": rate}


def validate(model, lists: list[RankingList], encoder: Encoder, cfg: TrainConfig,
             team: Team = ALONE) -> dict[str, float]:
    """Mean NDCG@m of the validation lists, each in one random displayed order.

    Returns: {"valid_ndcg": of what the answer says, "valid_chance": of a random one} and, where
    candidates' ratings are targets, "valid_knows": of the expected ratings.
    """
    # The order is random, whatever training shows: copying the display earns nothing here. It is
    # the same in every run, so that runs can be compared.
    mine, m = team.share(lists), encoder.list_size
    decodings = {"valid_ndcg": "greedy"}
    if knows_ratings(encoder, cfg.candidate_weight):
        decodings["valid_knows"] = "ratings"
    slots = [random_slots(m, "eval", ranking_list.list_id, 0) for ranking_list in mine]
    device = next(model.parameters()).device
    means = {"valid_chance": chance_ndcg(ratings_of(lists), m).mean().item()}
    for name, decode in decodings.items():
        ranker = ModelRanker(model, encoder, decode, lists_ranked_at_once(cfg), cfg.bf16)
        # In float64, summed over lists and processes: the same however they are shared out.
        total = torch.zeros((), dtype=torch.float64)
        if mine:
            total = ndcg(ratings_of(mine), ranker(mine, slots), m).sum()
        means[name] = team.sum(total.to(device)).item() / len(lists)
    return means


def lists_ranked_at_once(cfg: TrainConfig) -> int:
    """About as many prompts as go through the model at once in training."""
    return max(1, 2 * cfg.batch_size // cfg.grad_accum)


# ---- The loop ------------------------------------------------------------------------------------

class Job(NamedTuple):
    """What a run works on."""
    ratings: Ratings
    splits: Splits
    model: torch.nn.Module
    encoder: Encoder
    steps: TrainingSteps
    valid_every: int                # steps
    valid_lists: list[RankingList]


def prepare(data_cfg: DataConfig, cfg: TrainConfig, team: Team = ALONE) -> Job:
    """Load the data and the model. Raises: AlroError if they do not fit together."""
    ratings = load(data_cfg)
    splits = split(ratings, data_cfg)
    model, tokenizer = build_model(cfg, ratings.words)
    # torch.compile makes code for one length of a batch: lengths that are multiples of 64 are few.
    multiple = 64 if cfg.compile else 1
    encoder = make_encoder(model, tokenizer, ratings.words, data_cfg.list_size, multiple)
    warn_of_unknown_titles(tokenizer, ratings.words.texts)

    # Lists whose candidates all have one rating can teach no order.
    train_lists = fit_histories(informative_lists(splits.train, "training"), encoder, "training")
    team.check_shares(len(train_lists), cfg.batch_size)
    steps = TrainingSteps(train_lists, encoder, cfg, team)

    # A validation ranks no more lists than were trained on since the one before: a short run would
    # do little else.
    valid_every = cfg.valid_every or max(1, steps.total // 10)
    valid_lists = informative_lists(splits.valid, "validation")[:cfg.valid_lists]
    valid_lists = fit_histories(valid_lists[:valid_every * cfg.batch_size], encoder)
    return Job(ratings, splits, model, encoder, steps, valid_every, valid_lists)


def train(data_cfg: DataConfig, cfg: TrainConfig, run_cfg: RunConfig = RunConfig(),  # noqa: B008
          losses=losses, on_step=None) -> dict:
    """Train one run, from its start or, with run_cfg.resume, from its last checkpoint.

    Args: losses: the step's loss function (model, batch, cfg) -> dict of (B,) tensors with "total",
        see `losses`: another objective is another function. on_step(step) is called after each.
    Returns: {"folder", "best_valid_ndcg"} and, where test lists were ranked, "result" and "methods"
        (evaluate.score_table).
    """
    # ---- start: nothing is written before data, model and flags are known to fit together
    team = join_processes()
    device, bf16, device_text = set_up_machine(cfg.model, cfg.bf16)
    job = prepare(data_cfg, cfg, team)
    total = job.steps.total
    # The record keeps --bf16 as it was given: a run may go on on a machine that chooses otherwise.
    origin = {"data": data_hashes(job.ratings.words, job.splits), "losses": name_of(losses)}
    origin |= {"base": sha256_of_base(job.model), "config": dataclasses.asdict(cfg)}
    cfg = dataclasses.replace(cfg, bf16=bf16)
    run = open_run(run_cfg, data_cfg, origin, job.ratings.words, team)
    run.say(describe_start(data_cfg, cfg, job, device_text, name_of(losses)))
    state = State(job.model.to(device).train(), cfg, total)
    run.load_checkpoint(state)

    # ---- train: the algorithm is in `one_step`, and in what it calls
    # A thread makes the data of the next step while the model works on this one.
    with stop_request() as stop:  # Ctrl-C, SIGTERM: leave after the step under way
        for step_data in prefetched(job.steps.data_of, state.step, total, quiet=not run.writes):
            means = one_step(state, step_data, cfg, losses, team)
            due = state.step % job.valid_every == 0 or state.step == total
            stopping = team.any(bool(stop), device)  # all leave at the same step
            run.log_step(state, means, step_data.list_ids, due)
            if due:  # the model that ranks best here, not the last one, is the run's result
                with error_at(f"step {state.step}"):
                    scores = validate(job.model, job.valid_lists, job.encoder, cfg, team)
                run.validated(state, scores, job.encoder.tokenizer)
            if on_step:
                on_step(state.step)
            if stopping:
                break
        if stop or state.step < total:
            run.interrupted(state)  # saves, says how to go on, and leaves with an error
    team.leave()

    # ---- end: the test lists, with the model that was best on validation
    run.say(peak_memory())
    outcome = {"folder": str(run.folder), "best_valid_ndcg": state.best}
    # The first process ranks alone: the others have nothing left to do.
    if cfg.test_lists != 0 and run.writes:
        outcome |= rank_test_lists(run.folder, cfg, job)
    return outcome


def rank_test_lists(folder: Path, cfg: TrainConfig, job: Job) -> dict:
    """Rank the test lists, keep and print the table: see evaluate.score_run."""
    say("trained; if interrupted now, rank later: "
        f"{command('evaluate.py', folder, '--orders', TEST_ORDERS)}")
    words, at_once = job.ratings.words, lists_ranked_at_once(cfg)
    untrained, _tokenizer = build_model(cfg, words)  # as it began: a pretrained one, zero-shot
    rankers = {"untrained": ModelRanker(untrained.to(pick_device()), job.encoder,
                                        batch_size=at_once, bf16=cfg.bf16)}
    rankers |= rankers_of_run(str(folder), words, job.encoder.list_size, batch_size=at_once)
    data = choose_lists(job.ratings, job.splits, "test", cfg.test_lists)
    scores = score_run(str(folder), rankers, fit_to_model(data, job.encoder), TEST_ORDERS, show=1)
    say(next_command(folder, cfg))
    return scores


# ---- python train.py -----------------------------------------------------------------------------

def main(arguments: list[str] | None = None) -> dict:
    # Flags beside --resume would promise what cannot be: the run keeps its own configuration.
    data_cfg, cfg, run_cfg = parse_flags(arguments, DataConfig, TrainConfig, RunConfig,
                                         presets=PRESETS, alone="--resume")
    folder = run_cfg.resume
    if folder is None:
        return train(data_cfg, cfg, run_cfg, losses=function_named(run_cfg.losses))
    data_cfg = settings_of_run(folder, "data", DataConfig)
    cfg = settings_of_run(folder, "train", TrainConfig)
    with error_at(f"{folder}/config.json"):
        losses_then = function_named(str(read_run_config(folder)["losses"]))
    return train(data_cfg, cfg, run_cfg, losses=losses_then)


if __name__ == "__main__":
    run_script(main)
