"""Train a list-wise ranker: one configuration, one loop.

    python train.py                                    the demo: a tiny model, a synthetic world, one minute
    python train.py --ablation --seeds 5               what SLL and PSL add, on shuffled orders and on the shown one
    python train.py --preset small-gpu --download      a 135M model on MovieLens-100K, one small GPU
    python train.py --resume RUN                       go on where an interrupted run stopped
    torchrun --nproc_per_node=N train.py ...           N processes, one GPU each, share each step's lists

Every flag is a field of DataConfig (data.py) or of TrainConfig below. A run's folder holds config.json, log.jsonl,
model/ (best on validation), checkpoint/ (what resuming needs) and, where test lists were ranked, eval-test.json.
"""
import contextlib
import dataclasses
import itertools
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from tqdm import tqdm

import evaluate
from alro import (AlroError, Batch, alro_loss, blind_probs, by_item, encode, gold_order, gold_rank, history_loss,
                  soft_lambda_loss, target_logits)
from cli import check_least, explained, from_dict, hold, option, parse, read_config, require, run, write_json
from data import DataConfig, Encoder, RankingList, Ratings, generator, informative, load, random_slots, sha256, split
from evaluate import (chance_method, in_words, load_run, model_ranker, ndcg, reference_rankers,
                      score_method, summary, text_table, write_results)
from model import add_up, autocast, build_model, context_length, hardware, join, pick_device, processes


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the demo's; GUESS: all numbers, the paper's are not known to us."""
    model: str = option("tiny", "tiny (built here, random weights), or a Hugging Face id or folder (safetensors)")
    out: str | None = option(None, "the run's folder (default: runs/<dataset>-<n>, the first n that is free)")
    seed: int = option(0, "of weights, batches, displayed orders and ties; never of the data")
    steps: int = option(0, "optimiser steps; wins over --epochs; 0 = as many as --epochs says")
    epochs: float = option(5.0, "passes over the training lists")
    batch_size: int = option(32, "lists per optimiser step")
    grad_accum: int = option(1, "parts a step's lists go through the model in: less memory, same gradient")
    lr: float = option(5e-3, "peak learning rate of AdamW")
    warmup_steps: int = option(50, "steps until the peak, then linear decay to 0")
    weight_decay: float = option(0.0, "of AdamW")
    dropout: float = option(0.0, "dropout wherever the model's configuration has one, and in LoRA")
    clip: float = option(1.0, "largest norm of a step's gradient")
    alpha: float = option(1.0, "weight of the soft lambda loss")
    beta: float = option(1.0, "weight of permutation-sensitive learning; 0 = one prompt per list, half the work")
    gamma: float = option(10.0, "sharpness of the soft-argmax (see alro.soft_rank)")
    sigma: float = option(1.0, "slope of the pairwise logistic, per rank")
    lambda_on: str = option("soft_rank", "soft_rank: SLL; first_step: a lambda loss of the first step's logits instead")
    history_weight: float = option(1.0, "weight of the loss on the history's ratings (OURS)")
    display_order: str = option("shown", "order in the first prompt: shown (a fixed one per list) or shuffled (anew)")
    through_target: bool = option(True, "gradients also flow through PSL's target (GUESS: yes, the demo learns sooner)")
    loss_on_both: bool = option(False, "SFT and SLL on both displayed orders, not on the first alone")
    lora_rank: int = option(0, "train a LoRA adapter of this rank (needs peft); 0 = all weights")
    gradient_checkpointing: bool = option(False, "keep only each layer's input, compute the rest twice: less memory")
    bf16: bool = option(False, "compute in bf16 on a CPU, too: faster where the processor has it (a GPU always does)")
    compile: bool = option(False, "torch.compile the decoder layers (needs a C++ compiler); lengths become few")
    log_every: int = option(20, "steps between lines of log.jsonl")
    valid_every: int = option(0, "steps between validations, each with a checkpoint; 0 = five times in a run")
    valid_limit: int = option(200, "validation lists to rank; 0 = all")
    patience: int = option(0, "stop after this many validations without a better NDCG; 0 = never")
    test_limit: int = option(500, "test lists to rank at the end; 0 = none (evaluate.py does it)")
    test_orders: int = option(3, "random displayed orders of each of them")
    resume: str | None = option(None, "go on with this run, with its own configuration; takes no other flag")
    ablation: bool = option(False, "train SFT, + SLL, + PSL, both (ALRO), on shuffled and shown orders, and compare")
    seeds: int = option(1, "seeds of each arm of the --ablation, from --seed on")

    def __post_init__(self):
        check_least(self, steps=0, batch_size=1, grad_accum=1, warmup_steps=0, weight_decay=0, alpha=0, beta=0,
                    history_weight=0, lora_rank=0, log_every=1, valid_every=0, valid_limit=0, patience=0, test_limit=0,
                    test_orders=1, seeds=1, seed=0)
        for name in ("epochs", "lr", "clip", "gamma", "sigma"):
            require(0 < getattr(self, name) < 1e9, f"--{name} must be positive, below 1e9, got {getattr(self, name)}")
        require(0 <= self.dropout < 1, f"--dropout must be in 0..1, below 1, got {self.dropout}")
        require(not self.lora_rank or self.model != "tiny", "--lora_rank needs a --model: tiny has no folder to go to")
        for name, known in {"display_order": ("shown", "shuffled"), "lambda_on": ("soft_rank", "first_step")}.items():
            require(getattr(self, name) in known, f"--{name} must be {' or '.join(known)}, got {getattr(self, name)!r}")


PRESETS = {
    "demo": {},
    "small-gpu": dict(model="HuggingFaceTB/SmolLM2-135M-Instruct", dataset="ml-100k", list_size=10, history_size=20,
                      noun="movie", epochs=1.0, lr=3e-4, beta=0.1, display_order="shuffled", through_target=False,
                      grad_accum=4, test_limit=0),
    # GUESS: all but the model and the dataset, which are among those the paper uses.
    "paper": dict(model="meta-llama/Llama-2-7b-hf", dataset="ml-1m", list_size=10, history_size=20, epochs=1.0, lr=1e-4,
                  beta=0.1, display_order="shuffled", through_target=False, lora_rank=8, grad_accum=16, test_limit=0),
}


# ---- One step's data and losses -------------------------------------------------------------------------------------

class TrainingSteps(torch.utils.data.Dataset):
    """Item s is all the data of step s: a pure function of (seed, s), so a run can start anywhere, in any process."""

    def __init__(self, lists: list[RankingList], encoder: Encoder, cfg: TrainConfig, rank: int = 0, world: int = 1):
        self.lists, self.encoder, self.cfg, self.rank, self.world = lists, encoder, cfg, rank, world
        self.per_epoch = -(-len(lists) // cfg.batch_size)
        self.total = cfg.steps or max(1, round(cfg.epochs * self.per_epoch))
        title_tokens = torch.tensor([len(tokens) for tokens in encode(encoder.tokenizer, encoder.titles).input_ids])
        self.lengths = torch.tensor([title_tokens[[item for item, _ in one.history] + one.items].sum().item()
                                     + 4 * len(one.history) for one in lists])  # (lists,) about the prompts' tokens

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, step: int) -> tuple[list[Batch], list[str], list[str]]:
        """(parts of this process's share of the batch, ids of all its lists, ids of lists with shortened history)."""
        epoch, i = divmod(step, self.per_epoch)
        random = generator("epoch", self.cfg.seed, epoch)
        order = torch.randperm(len(self.lists), generator=random)
        # Padding is work for nothing: sort stretches of 16 steps by length, then shuffle the steps.
        order = torch.cat([some[self.lengths[some].argsort(stable=True)]
                           for some in order.split(16 * self.cfg.batch_size)])
        i = torch.randperm(self.per_epoch, generator=random)[i].item()
        chosen = [self.lists[row] for row in order[i * self.cfg.batch_size:(i + 1) * self.cfg.batch_size].tolist()]
        self.encoder.shortened.clear()
        mine = chosen[self.rank::self.world]
        parts = -(-len(mine) // -(-self.cfg.batch_size // (self.cfg.grad_accum * self.world)))
        batches = [self.batch(mine[part::parts], epoch) for part in range(parts)]
        return batches, [one.list_id for one in chosen], list(self.encoder.shortened)

    def batch(self, lists: list[RankingList], epoch: int) -> Batch:
        """B rows in the first displayed order and, for PSL, B more of the same lists in another, with the same gold
        order: the two differ in nothing but the display."""
        cfg, m = self.cfg, self.encoder.list_size
        gold = torch.cat([gold_order(torch.tensor([one.ratings]), generator("ties", cfg.seed, epoch, one.list_id))
                          for one in lists])  # (B, m)
        slots = [one.shown if cfg.display_order == "shown" else random_slots(m, cfg.seed, epoch, one.list_id, "first")
                 for one in lists]
        if cfg.beta == 0:
            return self.encoder.batch(lists, slots, gold)
        slots += [random_slots(m, cfg.seed, epoch, one.list_id, "other") for one in lists]
        return self.encoder.batch(lists + lists, slots, torch.cat([gold, gold]))


def losses(model, batch: Batch, cfg: TrainConfig) -> dict[str, torch.Tensor]:
    """The objective's parts and "total", each (B,), for a batch of B or, with PSL, 2 B rows (`TrainingSteps.batch`)."""
    with autocast(batch.input_ids.device, cfg.bf16):
        logits = target_logits(model, batch)  # (B or 2 B, K, V): both displayed orders in one pass
    log_probs = by_item(logits, batch)  # (B or 2 B, m, m)
    first = slice(len(log_probs) // (1 if cfg.beta == 0 else 2))
    order, ratings = batch.order[first], batch.ratings[first]
    blind = soft_lambda_loss(blind_probs(order), ratings, gold_rank(ratings), cfg.gamma, cfg.sigma)
    parts = alro_loss(
        log_probs[first], order, ratings, alpha=cfg.alpha, beta=cfg.beta, gamma=cfg.gamma, sigma=cfg.sigma,
        other_log_probs=None if cfg.beta == 0 else log_probs[first.stop:],
        through_target=cfg.through_target, loss_on_both=cfg.loss_on_both, first_step=cfg.lambda_on == "first_step",
        history=history_loss(logits, batch)[first] if cfg.history_weight else None, history_weight=cfg.history_weight)
    tokens = (batch.positions[:, 0] + 1 + batch.slots.shape[1]).reshape(-1, len(order)).sum(0)  # no padding
    return {**parts, "blind_sll": blind, "tokens": tokens}  # blind: of a model which knows only what is already out


# ---- What a run leaves on disk --------------------------------------------------------------------------------------

def save_model(model, tokenizer, folder: Path) -> None:
    """folder/model in Hugging Face format: written beside it, then moved into place."""
    partial, old = folder / "model.partial", folder / "model.old"
    shutil.rmtree(partial, ignore_errors=True)
    with explained(f"{folder}/model: cannot be written; what was there is whole"):
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    if (folder / "model").exists():  # if not, the process before was killed between these two renames: old is whole
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder / "model", old)
    os.rename(partial, folder / "model")
    shutil.rmtree(old, ignore_errors=True)


def save_checkpoint(folder: Path, state: dict) -> None:
    """checkpoint/state.pt, whole or not at all."""
    (folder / "checkpoint").mkdir(exist_ok=True)
    partial = folder / "checkpoint" / "state.pt.partial"
    with explained(f"{folder}/checkpoint: cannot be written; what was there is whole"), open(partial, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / "checkpoint" / "state.pt")


def trainable(model) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class Log:
    """log.jsonl, and the check for finite numbers. They stay on the device until `flush`: no step waits for Python."""

    def __init__(self, path: Path | None, until: int, m: int):
        self.path, self.pending, self.start = path, [], time.perf_counter()
        self.references = {"log_m": math.log(m), "log_m_factorial_over_m": math.lgamma(m + 1) / m}
        if path:  # None: another process writes
            with explained(f"{path}: cannot be gone on with"):
                lines = path.read_text().splitlines(keepends=True) if path.exists() else []
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= until]
                path.with_name("log.partial").write_text("".join(kept))  # a resumed run writes the rest anew
                os.replace(path.with_name("log.partial"), path)

    def add(self, step: int, parts: list[dict], norm: torch.Tensor, ids: list[str]) -> None:
        sums = add_up(torch.stack([torch.cat([part[name].detach() for part in parts]).sum() for name in parts[0]]))
        means = dict(zip(parts[0], sums / len(ids)))
        self.pending.append((step, {**means, "grad_norm": norm.detach()}, ids))

    def flush(self, **more) -> dict:
        """Write a line of means since the last one; raise AlroError if a step's numbers were not finite."""
        if not self.pending:
            return {}
        rows = [(step, {name: value.item() for name, value in means.items()}, ids) for step, means, ids in self.pending]
        seconds = time.perf_counter() - self.start  # measured here, where the device has done all the steps
        saved = self.path and self.path.with_name("checkpoint").joinpath("state.pt").exists()
        for step, means, ids in rows:
            require(all(map(math.isfinite, means.values())), f"step {step}: not finite: {means}, lists {ids}"
                    + "; the last checkpoint is from before" * bool(saved))
        tokens = sum(means.pop("tokens") * len(ids) for _, means, ids in rows)
        line = {"step": rows[-1][0],
                **{name: sum(means[name] for _, means, _ in rows) / len(rows) for name in rows[0][1]},
                "tokens_per_second": round(tokens / seconds), **self.references, **more}
        self.pending, self.start = [], time.perf_counter()
        self.write(line)
        return line

    def write(self, line: dict) -> None:
        if self.path:
            with explained(f"{self.path}: cannot be written"), open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")


# ---- The loop -------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def at_step(step: int):
    try:
        yield
    except AlroError as error:
        raise AlroError(f"step {step}: {error}") from None


def no_interrupt(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides what an interruption means


def claim(out: str | None, name: str) -> Path:
    """The run's own folder, made here and now: two runs started together never share one."""
    for n in itertools.count(1):
        folder = Path(out or f"runs/{name}-{n}")
        try:
            folder.mkdir(parents=True, exist_ok=out is not None)
            return folder
        except FileExistsError:
            require(out is None, f"--out {out} is a file, not a folder")


def train(data_cfg: DataConfig, cfg: TrainConfig, resume: bool = False, on_step=None) -> dict:
    """Train one run, from its start or from its last checkpoint.

    on_step(step) is called after each step. Returns: {"folder", "best_valid_ndcg"; "result", "methods" of test lists}.
    """
    rank, world = join()
    device = pick_device()
    ratings = load(data_cfg)
    splits = split(ratings, data_cfg)
    train_lists, valid_lists = informative(splits.train, "training"), informative(splits.valid, "validation")
    valid_lists = valid_lists[:cfg.valid_limit or None]
    require(data_cfg.history_ratings or not cfg.history_weight, "--history_ratings False needs --history_weight 0")
    model, tokenizer = build_model(cfg, ratings)
    m, made_from = data_cfg.list_size, json.dumps([sha256(sum(splits[:3], [])), {**vars(cfg), "out": None}])
    encoder = Encoder(tokenizer, ratings.titles, ratings.noun, ratings.scale, m, context_length(model, tokenizer),
                      history_targets=cfg.history_weight > 0, multiple=64 if cfg.compile else 1)
    steps = TrainingSteps(train_lists, encoder, cfg, rank, world)
    smallest = len(train_lists) % cfg.batch_size or cfg.batch_size
    require(smallest >= world, f"an epoch's last step has {smallest} lists for {world} processes: another --batch_size")
    total, weights = len(steps), trainable(model)
    valid_every = cfg.valid_every or max(1, total // 5)

    name = [cfg.out if resume or rank else str(claim(cfg.out, data_cfg.dataset))]
    if world > 1:
        processes.broadcast_object_list(name)  # the first process has chosen
    folder, cfg = Path(name[0]), dataclasses.replace(cfg, out=name[0])
    _lock = None if rank else hold(folder / "lock")  # from here on files are written: one process at a time
    if rank == 0 and not resume:
        there = sorted({path.name for path in folder.iterdir()} - {"lock", "config.json.partial"})
        require(not there, f"{folder} holds {there[:1]} already: --resume {folder}, or another --out")
        write_json(folder / "config.json", {
            "data": dataclasses.asdict(data_cfg), "train": dataclasses.asdict(cfg),
            "prompt": {"noun": ratings.noun, "scale": ratings.scale}, "hardware": hardware(),
            "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__,
                         "transformers": transformers.__version__}})
    say = print if rank == 0 else (lambda *_, **__: None)
    say(" ".join(f"{name}={value}" for name, value in {**vars(data_cfg), **vars(cfg)}.items()),
        f"{device}: {'bf16 autocast' if cfg.bf16 or device.type == 'cuda' else 'float32, no GPU found'}; "
        f"{model.num_parameters():,} weights, {sum(p.numel() for p in weights.values()):,} of them trained",
        "; ".join(f"{name}: {count}" for name, count in ratings.counts.items()) or "a made-up world",
        f"{len(train_lists)} training lists with two different ratings of {len(splits.train)}; {total} steps of "
        f"{cfg.batch_size}; with no idea of the user SFT stays at log(m!)/m = {math.lgamma(m + 1) / m:.3f}", sep="\n")

    if device.type == "cpu" and cfg.model == "tiny":
        torch.set_num_threads(1)  # so small that two threads mostly wait for one another; the other core tokenises
    model.to(device).train()
    optimizer = torch.optim.AdamW(weights.values(), cfg.lr, (0.9, 0.95), weight_decay=cfg.weight_decay, fused=True)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, cfg.warmup_steps, total)
    start, best, worse = 0, -math.inf, 0
    if resume and (folder / "checkpoint" / "state.pt").exists():
        with explained(f"{folder}/checkpoint/state.pt cannot be used"), torch.no_grad():
            state = torch.load(folder / "checkpoint" / "state.pt", map_location=device, weights_only=True)
            require(state["made_from"] == made_from,
                    f"{folder}/checkpoint/state.pt cannot be used: made with other data or another configuration")
            for name, weight in weights.items():
                weight.copy_(state["weights"][name].view_as(weight))  # of another shape: an error, no broadcast
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
            start, best, worse = int(state["step"]), float(state["best"]), int(state["worse"])
            torch.set_rng_state(state["rng"].cpu())
    if resume:
        say(f"resumed at step {start}" if start else "no checkpoint yet: from the start")
    done = worse >= cfg.patience > 0  # a run that stopped early is not gone on with
    log, shortened, interrupted = Log(None if rank else folder / "log.jsonl", start, m), set(), []

    def checkpoint(step: int) -> None:
        if rank == 0:
            save_checkpoint(folder, {"step": step, "best": best, "worse": worse, "weights": weights,
                                     "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
                                     "rng": torch.get_rng_state(), "made_from": made_from})

    def validate() -> float:
        mine, score = valid_lists[rank::world], torch.zeros((), dtype=torch.float64)
        if mine:
            slots = [random_slots(m, "eval", one.list_id, 0) for one in mine]
            ranked = model_ranker(model, encoder, batch_size=rank_at_once(cfg))(mine, slots)
            score = ndcg(torch.tensor([one.ratings for one in mine]), ranked, m).sum()
        return add_up(score.to(device)).item() / len(valid_lists)

    loader = torch.utils.data.DataLoader(  # a generator of its own, not the one that dropout draws from
        steps, batch_size=None, sampler=range(start, start if done else total), generator=torch.Generator(),
        worker_init_fn=no_interrupt, num_workers=4 if device.type == "cuda" else 1,  # tokenises beside the model
        pin_memory=device.type == "cuda")  # so that copies to the device do not wait
    previous = signal.signal(signal.SIGINT, lambda *_: interrupted.append(True) if not interrupted else sys.exit(130))
    try:
        with tqdm(total=total, initial=start, disable=True if rank else None, mininterval=1) as bar:
            for step, (batches, ids, short) in enumerate(loader, start + 1):
                parts = []
                for batch in batches:
                    parts.append(losses(model, batch.to(device), cfg))
                    (parts[-1]["total"].sum() / len(ids)).backward()  # the sum over parts is the mean over lists
                for weight in weights.values() if world > 1 else ():
                    weight.grad = add_up(torch.zeros_like(weight) if weight.grad is None else weight.grad)
                norm = torch.nn.utils.clip_grad_norm_(weights.values(), cfg.clip)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad(set_to_none=True)
                shortened.update(short)
                log.add(step, parts, norm, ids)
                bar.update()
                due, leave = step % valid_every == 0 or step == total, bool(interrupted)
                if step % cfg.log_every == 0 or due or leave:
                    line = log.flush(lr=scheduler.get_last_lr()[0])
                    bar.set_postfix({name: f"{line[name]:.3f}" for name in parts[0] if name in line})
                if due:
                    with at_step(step):
                        found = validate()
                    log.write({"step": step, "valid_ndcg": found})
                    worse = 0 if found > best else worse + 1
                    if found > best:
                        best = found
                        if rank == 0:
                            save_model(model, tokenizer, folder)
                    if rank == 0:
                        bar.write(f"step {step}: validation NDCG@{m} {found:.4f}{' (best)' if worse == 0 else ''}")
                if due or leave:
                    checkpoint(step)
                    log.start = time.perf_counter()  # validating and saving is not training
                if on_step:
                    on_step(step)
                if leave or due and interrupted:
                    raise SystemExit(f"interrupted; go on with: python train.py --resume {folder}")
                if worse >= cfg.patience > 0:
                    break
    finally:
        signal.signal(signal.SIGINT, previous)
    if shortened:
        say(f"{len(shortened)} lists lost their oldest history: the prompt did not fit the model's context")
    outcome = {"folder": str(folder), "best_valid_ndcg": best}
    if world > 1:
        processes.destroy_process_group()
    if cfg.test_limit and rank == 0:
        say(f"trained; if interrupted now, rank the test lists with: python evaluate.py {folder}")
        outcome["result"], outcome["methods"] = report(cfg, data_cfg, ratings, splits, folder, encoder)
    return outcome


def rank_at_once(cfg: TrainConfig) -> int:
    """Lists to rank at a time: as many prompts as go through the model in training."""
    return max(1, 2 * cfg.batch_size // cfg.grad_accum)


def report(cfg: TrainConfig, data_cfg: DataConfig, ratings: Ratings, splits, folder: Path, encoder: Encoder):
    """Rank the test lists with the model best on validation; print and write the table. (result, methods)"""
    informative_lists, device, n = informative(splits.test, "test"), pick_device(), rank_at_once(cfg)
    lists = informative_lists[:cfg.test_limit]
    rankers = {"untrained": model_ranker(build_model(cfg, ratings)[0].to(device), encoder, batch_size=n),
               "trained": model_ranker(load_run(str(folder))[0], encoder, batch_size=n),
               **reference_rankers(ratings, splits.fit["test"])}
    methods = {"chance": chance_method(lists)}
    methods |= {name: score_method(ranker, lists, cfg.test_orders) for name, ranker in rankers.items()}
    result = summary(methods, lists, {"untrained": 1, "trained": 1}, dataset=data_cfg.dataset, split="test",
                     model=cfg.model, seed=cfg.seed, decode="greedy", lists=len(splits.test),
                     informative_lists=len(informative_lists), orders=cfg.test_orders)
    write_results(folder, result, methods, lists)
    one, found = lists[0], methods["trained"]
    print(f"\n{text_table(result)}\n")
    print(in_words(one, found["predicted"][0][0].tolist(), ratings.titles, found["slots"][0][0]))
    return result, methods


def ablation(data_cfg: DataConfig, cfg: TrainConfig) -> dict:
    """SFT alone, with SLL, with PSL, with both (ALRO), trained on shuffled orders and on the shown one."""
    require("WORLD_SIZE" not in os.environ, "--ablation trains in one process: no torchrun")
    root = Path(cfg.out or f"runs/{data_cfg.dataset}-ablation")
    arms = {"SFT": (0.0, 0.0), "SFT+SLL": (cfg.alpha, 0.0), "SFT+PSL": (0.0, cfg.beta), "ALRO": (cfg.alpha, cfg.beta)}
    runs = [dataclasses.replace(cfg, alpha=alpha, beta=beta, display_order=display, seed=seed, ablation=False, seeds=1,
                                test_limit=0, out=str(root / f"{arm}-{display}-{seed}"))
            for display in ("shuffled", "shown") for arm, (alpha, beta) in arms.items()
            for seed in range(cfg.seed, cfg.seed + cfg.seeds)]
    folders = [train(data_cfg, one, resume=Path(one.out, "config.json").exists())["folder"] for one in runs]
    return evaluate.main([*folders, "--limit", str(cfg.test_limit), "--orders", str(cfg.test_orders), "--pool", "True",
                          "--json", str(root / "ablation.json")])["table"]


def main(arguments: list[str] | None = None) -> dict:
    data_cfg, cfg = parse(arguments, DataConfig, TrainConfig, presets=PRESETS)
    if cfg.resume is not None:
        require(cfg == TrainConfig(resume=cfg.resume) and data_cfg == DataConfig(),
                "--resume RUN goes on with that run's own configuration and takes no other flag")
        config, where, out = read_config(cfg.resume), f"{cfg.resume}/config.json", cfg.resume
        data_cfg, cfg = from_dict(DataConfig, config["data"], where), from_dict(TrainConfig, config["train"], where)
        return train(data_cfg, dataclasses.replace(cfg, out=out), resume=True)
    return ablation(data_cfg, cfg) if cfg.ablation else train(data_cfg, cfg)


if __name__ == "__main__":
    run(main)
