"""What training and ranking cost, as tables and as JSON. Run by hand on a quiet machine, from the project's root:

    python results/make/benchmark.py                         tiny model, CPU: minutes
    python results/make/benchmark.py --preset small-gpu --download True --grad_accum 1 --compile True --batch_size 64
    python results/make/benchmark.py --only seven_billion    Llama-2-7B, random weights, LoRA: a GPU

Times are medians over repetitions; ratios within one run on one machine are what counts. Tokens are prompt and answer,
padding not counted. MFU = 6 N tokens / seconds over the measured rate of a large bf16 matrix product, N = weights
without the input embedding (the output layer works on targets only and is left out).
"""
import dataclasses
import functools
import gc
import importlib.util
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from alro import (  # noqa: E402
    IDENTIFIERS, at_the_right_edge, gold_rank, permutation_loss, rank_candidates, soft_lambda_loss, unwrapped)
from data import (  # noqa: E402
    DataConfig, RankingList, fit_histories, generator, informative_lists, list_prompt, load, make_encoder, random_slots,
    split)
from evaluate import ModelRanker  # noqa: E402
from experiments.rivals import bootstrapped, point_wise  # noqa: E402
from plumbing.flags import check_input, option, parse_flags, run_script, write_json  # noqa: E402
from plumbing.folder import prefetched  # noqa: E402
from plumbing.machine import autocast, hardware, pick_device, set_up_machine  # noqa: E402
from plumbing.model import build_model, tiny_model, trainable  # noqa: E402
from train import CLIP, PRESETS, State, TrainConfig, TrainingSteps, losses, one_step  # noqa: E402

DEVICE = pick_device()


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    only: str | None = option(None, "training, memory, loss, loop, ranking, growth or seven_billion (default: all but "
                                    "that)")
    json: str | None = option(None, "write the tables here, too")
    repeat: int = option(5, "repetitions of each measurement, after one that does not count")


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(work, repeat: int) -> float:
    """Median time of work(), once warm."""
    work()
    times = []
    for _ in range(repeat):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def show(title: str, rows: list[dict]) -> list[dict]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    width = {name: max(len(name), *(len(str(row.get(name, ""))) for row in rows)) + 2 for name in names}
    print(f"\n{title}\n" + "".join(f"{name:>{width[name]}}" for name in names))
    for row in rows:
        print("".join(f"{row.get(name, '')!s:>{width[name]}}" for name in names), flush=True)
    return rows


@functools.cache
def peak_flops() -> float:
    """Operations per second of a large bf16 matrix product on the GPU; NaN without one."""
    if DEVICE.type != "cuda":
        return math.nan
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192 ** 3 / seconds(lambda: a @ b, 20)


def tokens_of(batch) -> int:
    return (batch.prompt_tokens + batch.slots.shape[1]).sum().item()


def prepared(data_cfg, cfg, ratings, lists):
    """(model on the device, encoder, training steps)."""
    model, tokenizer = build_model(cfg, ratings.words)
    encoder = make_encoder(model, tokenizer, ratings.words, data_cfg.list_size,
                           multiple=64 if cfg.compile else 1)
    fitting = fit_histories(lists, encoder)
    return model.to(DEVICE).train(), encoder, TrainingSteps(fitting, encoder, cfg)


# ---- Training: the tricks off, the tricks on ------------------------------------------------------------------------

def naive_losses(model, batch, cfg):
    """As train.losses, from the logits of every token, under an attention mask."""
    length = batch.prompt_tokens + batch.slots.shape[1]  # (B,)
    mask = (torch.arange(batch.input_ids.shape[1], device=length.device) < length.unsqueeze(-1)).long()  # (B, T)

    class AllLogits:  # target_logits asks a model for hidden states and its output layer; this one has the logits ready
        def base_model(self, input_ids, use_cache):
            logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits.float()  # (B, T, V)
            return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=logits)

        def get_output_embeddings(self):
            return lambda logits: logits
    return losses(AllLogits(), batch, cfg)


def training(bench, data_cfg, cfg, ratings, lists) -> list[dict]:
    """ms and tokens per second of a step: naive, then one trick after another; SFT and ALRO."""
    rows = []
    for name, beta in ("SFT+SLL", 0.0), ("ALRO", cfg.beta or 1.0):
        plain = dataclasses.replace(cfg, beta=beta, compile=False, steps=4)
        for trick in ("naive", "logits at targets, no mask", "+ fused AdamW, no sync, data ahead", "+ similar lengths",
                      *(["+ torch.compile"] if cfg.compile else [])):
            some = dataclasses.replace(plain, compile="compile" in trick)
            model, _, steps = prepared(data_cfg, some, ratings, lists)
            if "lengths" not in trick and "compile" not in trick:
                steps.lengths = torch.zeros(len(lists))  # all the same to it: a random order
            fused = trick.startswith("+")
            weights = list(trainable(model).values())
            optimizer = torch.optim.AdamW(weights, cfg.lr, fused=fused or None)  # None: torch's own choice
            ready = [steps.data_of(i).parts for i in range(4)]

            def one_step(i, steps=steps, ready=ready, fused=fused, trick=trick, model=model, weights=weights,
                         optimizer=optimizer, some=some):
                # Unless data come ahead, they are made here.
                for batch in ready[i] if fused else steps.data_of(i).parts:
                    batch = batch.to(DEVICE)
                    parts = (naive_losses if trick == "naive" else losses)(model, batch, some)
                    (parts["total"].sum() / cfg.batch_size).backward()
                    if not fused:
                        parts["total"].mean().item()  # waits for the device
                torch.nn.utils.clip_grad_norm_(weights, CLIP)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            took = seconds(lambda one_step=one_step: [one_step(i) for i in range(4)], bench.repeat)
            tokens = sum(tokens_of(batch) for batches in ready for batch in batches)
            count = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
            rows.append({"loss": name, "step": trick, "ms/step": round(1000 * took / 4, 1),
                         "tokens/s": round(tokens / took), "MFU": round(6 * count * tokens / took / peak_flops(), 3),
                         "padding": round(1 - tokens / sum(b.input_ids.numel() for bs in ready for b in bs), 3)})
            rows[-1]["times naive"] = round(rows[-1]["tokens/s"] / next(
                row["tokens/s"] for row in rows if row["loss"] == name), 2)
    last = {row["loss"]: row["ms/step"] for row in rows}
    rows.append({"loss": "PSL's price", "step": "ALRO / SFT+SLL, last rows",
                 "ms/step": round(last["ALRO"] / last["SFT+SLL"], 2)})
    return show(f"Training, {cfg.batch_size} lists of {data_cfg.list_size} a step", rows)


def memory(bench, data_cfg, cfg, ratings, lists) -> list[dict]:
    """Bytes a step needs beside weights: on a GPU its peak, on a CPU what it keeps for the way back."""
    rows = []
    for name, checkpointing in ("hidden.sum()", False), ("ALRO", False), ("ALRO, checkpointing", True):
        some = dataclasses.replace(cfg, compile=False, gradient_checkpointing=checkpointing)
        model, _, steps = prepared(data_cfg, some, ratings, lists)
        batch = steps.data_of(0).parts[0].to(DEVICE)
        kept = {}

        def keep(tensor, kept=kept):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor
        before = torch.cuda.memory_allocated() if DEVICE.type == "cuda" else 0
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            if name == "hidden.sum()":
                with autocast(DEVICE, cfg.bf16):
                    hidden = unwrapped(model).base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
                    loss = hidden.float().sum()
            else:
                loss = losses(model, batch, some)["total"].sum()
        for p in model.parameters():
            kept.pop(p.untyped_storage().data_ptr(), None)
        kept_bytes = sum(kept.values())
        del kept
        loss.backward()
        peak = torch.cuda.max_memory_allocated() - before if DEVICE.type == "cuda" else kept_bytes
        rows.append({"step's loss": name, "MiB": round(peak / 2 ** 20, 1)})
        rows[-1]["of hidden.sum()"] = round(rows[-1]["MiB"] / rows[0]["MiB"], 3)
        hidden = loss = model = batch = None  # the graph holds weights and gradients
    return show("Memory: " + ("peak of a step" if DEVICE.type == "cuda" else "kept for the backward pass"), rows)


def loss(bench, data_cfg, cfg, ratings, lists) -> list[dict]:
    """What SLL and PSL themselves cost, forward and backward, beside the whole step."""
    model, _, steps = prepared(data_cfg, dataclasses.replace(cfg, compile=False), ratings, lists)
    batch = steps.data_of(0).parts[0].to(DEVICE)
    check_input(cfg.beta > 0, "the loss benchmark is about SLL and PSL: --beta must not be 0")
    half, m = len(batch.slots) // 2, data_cfg.list_size
    rating, tau = batch.ratings[:half], gold_rank(batch.ratings[:half])
    logits = torch.randn(2 * half, m, m, device=DEVICE, requires_grad=True)

    def both():
        y, other = logits[:half].log_softmax(-1), logits[half:].log_softmax(-1)
        sll = soft_lambda_loss(y.exp(), rating, tau, cfg.gamma)
        (sll + permutation_loss(y, other)).mean().backward()
    step = seconds(lambda: losses(model, batch, cfg)["total"].mean().backward(), bench.repeat)
    took = seconds(both, 20)
    return show("SLL + PSL, forward and backward", [{"lists": half, "m": m, "ms": round(1000 * took, 2),
                                                     "step ms": round(1000 * step, 1), "share": round(took / step, 4)}])


# ---- The loop itself, and a library's -------------------------------------------------------------------------------

def forget_peak() -> None:
    """What is measured from here on is of the next model alone."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def row_of_speed(what: str, tokens: int, took: float, model) -> dict:
    count = sum(weight.numel() for weight in model.parameters()) - model.get_input_embeddings().weight.numel()
    row = {"what": what, "tokens/s": round(tokens / took), "MFU": round(6 * count * tokens / took / peak_flops(), 3)}
    if DEVICE.type == "cuda":
        row["peak GiB"] = round(torch.cuda.max_memory_allocated() / 2 ** 30, 1)
    return row


def ours(what: str, data_cfg, cfg, ratings, lists, warm: int, count: int) -> dict:
    """Tokens per second of train.py's loop, as it is, over `count` steps after `warm` that do not count."""
    cfg = dataclasses.replace(cfg, steps=warm + count)
    forget_peak()
    model, _, steps = prepared(data_cfg, cfg, ratings, lists)
    state = State(model, cfg, steps.total)
    tokens = torch.zeros((), device=DEVICE)
    for number, data in enumerate(prefetched(steps.data_of, 0, steps.total, quiet=True)):
        if number == warm:
            wait()
            start = time.perf_counter()
        means = one_step(state, data, cfg)
        if number >= warm:
            tokens += means["tokens"] * len(data.list_ids)
    wait()
    return row_of_speed(what, tokens.item(), time.perf_counter() - start, model)


def trl_trainer(what: str, data_cfg, cfg, ratings, lists, warm: int, count: int, **changes) -> dict:
    """The same of TRL's SFTTrainer: next-token loss on the answer alone, the same lists, no padding counted.

    It draws their order anew, not by length, and adds an end token to each answer, which is not counted."""
    import datasets
    import trl
    forget_peak()
    model, encoder, steps = prepared(data_cfg, dataclasses.replace(cfg, steps=warm + count), ratings, lists)
    shown = []
    for step in range(warm + count):
        shown += steps.lists_of(*divmod(step, steps.per_epoch))
    rows, tokens = [], 0
    for one in shown:
        batch = steps.two_displays([one], 0)
        tokens += tokens_of(batch)
        answer = "".join(IDENTIFIERS[slot] for slot in batch.slots[0].argsort()[batch.order[0]].tolist())
        rows.append({"prompt": list_prompt(encoder.words, one, batch.slots[0].tolist()), "completion": answer})
    clock = {}

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step in (warm, warm + count):
                wait()
                clock[state.global_step] = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        config = trl.SFTConfig(
            output_dir=folder, per_device_train_batch_size=cfg.batch_size, max_steps=warm + count, learning_rate=cfg.lr,
            bf16=cfg.bf16, save_strategy="no", report_to=[], logging_strategy="no", max_length=None, disable_tqdm=True,
            dataloader_num_workers=4, use_cpu=DEVICE.type == "cpu", **changes)
        trainer = trl.SFTTrainer(model, config, train_dataset=datasets.Dataset.from_list(rows), callbacks=[Clock()],
                                 processing_class=encoder.tokenizer)
        trainer.train()
    took = clock[warm + count] - clock[warm]
    return row_of_speed(what, tokens * count // (warm + count), took, model)


def loop(bench, data_cfg, cfg, ratings, lists) -> list[dict]:
    """Tokens per second and memory of train.py's loop, SFT and ALRO; of TRL's SFTTrainer, if trl is installed."""
    rows = []

    def measure(run, what, more=None, **fields):
        some = dataclasses.replace(cfg, **fields)
        rows.append(run(what, data_cfg, some, ratings, lists, warm=3, count=2 * bench.repeat, **(more or {})))
        print(rows[-1], flush=True)
    whole = {"grad_accum": 1, "compile": False}
    sft = {"alpha": 0.0, "beta": 0.0, "history_weight": 0.0, "candidate_weight": 0.0}
    measure(ours, "SFT, no rating losses, one part", **whole, **sft)
    if importlib.util.find_spec("trl") and cfg.model != "tiny":  # whose tokenizer has no end token
        measure(trl_trainer, "TRL's SFTTrainer", **whole, **sft, more={"gradient_checkpointing": False})
        measure(trl_trainer, "TRL's SFTTrainer, its defaults", **whole, **sft)
    measure(ours, "SFT, one part", **whole, alpha=0.0, beta=0.0)
    measure(ours, "ALRO, one part", **whole)
    measure(ours, f"ALRO, --grad_accum {cfg.grad_accum}", compile=False)
    if cfg.compile:
        measure(ours, "ALRO, one part, --compile True", grad_accum=1)
    return show(f"The loop, {cfg.batch_size} lists of {data_cfg.list_size} a step, {hardware()}", rows)


# ---- Ranking --------------------------------------------------------------------------------------------------------

class OnlyIdentifiers(transformers.LogitsProcessor):
    """For generate(): nothing but identifiers that are not out yet."""

    def __init__(self, identifiers, prompt: int):
        self.identifiers, self.prompt = identifiers, prompt

    def __call__(self, input_ids, scores):
        allowed = torch.full_like(scores, -math.inf)
        allowed[:, self.identifiers] = scores[:, self.identifiers]
        return allowed.scatter(1, input_ids[:, self.prompt:], -math.inf)


def generate(model, encoder, batch_size: int, bf16: bool):
    """The same ranking by the library's own generate()."""
    @torch.no_grad()
    def rank(lists, slots):
        ranked = []
        for start in range(0, len(lists), batch_size):
            batch = encoder.encode(lists[start:start + batch_size], slots[start:start + batch_size])
            batch, T = batch.to(DEVICE), batch.input_ids.shape[1]
            prompts, mask, _ = at_the_right_edge(batch.input_ids, batch.prompt_tokens.unsqueeze(-1))
            with autocast(DEVICE, bf16):
                out = model.generate(prompts, attention_mask=mask,
                                     max_new_tokens=encoder.list_size, min_new_tokens=encoder.list_size,
                                     do_sample=False, pad_token_id=0,
                                     logits_processor=[OnlyIdentifiers(batch.identifiers, T)])
            items = (out[:, T:].unsqueeze(-1) == batch.candidate_tokens().unsqueeze(1)).long().argmax(-1)  # (B, m)
            ranked.append(items.cpu())
        return torch.cat(ranked)
    return rank


def ranking(bench, data_cfg, cfg, ratings, lists) -> list[dict]:
    """Milliseconds and calls (prompts read) of each way to rank the same lists with the same model."""
    cfg = dataclasses.replace(cfg, compile=False)
    model, encoder, _ = prepared(data_cfg, cfg, ratings, lists)
    model.eval()
    m, lists = data_cfg.list_size, lists[:64 if DEVICE.type == "cpu" else 256]
    greedy = ModelRanker(model, encoder, bf16=cfg.bf16)
    ways = {"greedy, KV cache, 64 lists at a time": (greedy, 1),
            "first step only": (ModelRanker(model, encoder, "first", bf16=cfg.bf16), 1),
            "generate(), 64 lists at a time": (generate(model, encoder, 64, cfg.bf16), 1),
            "generate(), list by list": (generate(model, encoder, 1, cfg.bf16), 1),
            "bootstrapped, 3 orders": (bootstrapped(greedy, 3), 3),
            "bootstrapped, 5 orders": (bootstrapped(greedy, 5), 5),
            "point-wise": (point_wise(greedy, np.unique(ratings.columns.rating)), m)}
    slots = [one.shown for one in lists]
    same = (generate(model, encoder, 64, cfg.bf16)(lists, slots) == greedy(lists, slots)).all(-1).float().mean().item()
    rows = []
    for name, (ranker, calls) in ways.items():
        took = seconds(functools.partial(ranker, lists, slots), 2)
        rows.append({"way": name, "calls": calls, "ms/list": round(1000 * took / len(lists), 2)})
        rows[-1]["times greedy"] = round(rows[-1]["ms/list"] / rows[0]["ms/list"], 2)
    return show(f"Ranking {len(lists)} lists of {m}; generate() and greedy give the same order for {same:.0%}", rows)


# ---- Growth ---------------------------------------------------------------------------------------------------------

def made_up(ratings, m: int, history: int, n: int) -> list[RankingList]:
    """Lists of random items and ratings: sizes for which no user has enough."""
    lists = []
    for number in range(n):
        random = generator("benchmark", m, history, number)
        items = torch.randint(len(ratings.columns.items), (history,), generator=random).tolist()
        values = torch.randint(1, 6, (history + m,), generator=random).double().tolist()
        candidates = torch.randperm(len(ratings.columns.items), generator=random)[:m].tolist()
        lists.append(RankingList(f"made-up/{number}", 0, list(zip(items, values)), candidates, values[history:],
                                 random_slots(m, number)))
    return lists


def growth(bench, data_cfg, cfg, ratings, lists) -> list[dict]:
    """Step and ranking time against list size, history and model size."""
    cfg, rows = dataclasses.replace(cfg, compile=False, batch_size=8, grad_accum=1, steps=1), []

    def measure(what, m, history, model=None):
        some = made_up(ratings, m, history, 8)
        built, encoder, steps = prepared(dataclasses.replace(data_cfg, list_size=m), cfg, ratings, some)
        built = model(encoder).to(DEVICE).train() if model else built
        batch = steps.data_of(0).parts[0].to(DEVICE)
        step = seconds(lambda: losses(built, batch, cfg)["total"].mean().backward(), bench.repeat)
        ask = encoder.encode(some, [one.shown for one in some]).to(DEVICE)
        built.eval()
        with autocast(DEVICE, cfg.bf16):
            rank = seconds(lambda: rank_candidates(built, ask), bench.repeat)
        rows.append({"what": what, "m": m, "history": history, "weights": f"{built.num_parameters():,}",
                     "tokens/prompt": batch.input_ids.shape[1], "step ms": round(1000 * step, 1),
                     "ranking ms/list": round(1000 * rank / 8, 2)})

    for m in (5, 10, 20, 26):
        measure("list size", m, 20)
    for history in (10, 20, 50, 100):
        measure("history", 10, history)
    for layers, width in [(2, 64), (4, 256), (8, 512)] + [(30, 576), (16, 2048)] * (DEVICE.type == "cuda"):
        def other(encoder, layers=layers, width=width):
            tiny = tiny_model(len(encoder.tokenizer))
            config = tiny.config
            config.update(dict(num_hidden_layers=layers, hidden_size=width, intermediate_size=width * 8 // 3,
                               num_attention_heads=width // 64 or 1, num_key_value_heads=width // 64 or 1,
                               head_dim=64, max_position_embeddings=4096,
                               layer_types=["full_attention"] * layers))
            return type(tiny)(config)
        measure(f"{layers} layers, width {width}", 10, 20, other)
    return show("Growth: 8 lists a step, both displayed orders", rows)


def seven_billion(bench, data_cfg, cfg, ratings, lists) -> list[dict]:
    """One LoRA step of a random-weight Llama-2-7B: bf16, checkpointing; peak memory. Needs peft and a GPU."""
    import peft
    check_input(DEVICE.type == "cuda", "seven_billion needs a GPU")
    _, encoder, steps = prepared(data_cfg, dataclasses.replace(cfg, batch_size=4, grad_accum=1), ratings, lists)
    with torch.device(DEVICE):
        model = transformers.LlamaForCausalLM._from_config(transformers.LlamaConfig(  # Llama-2-7B's sizes
            vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
            max_position_embeddings=4096), dtype=torch.bfloat16)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    optimizer = torch.optim.AdamW(trainable(model).values(), 1e-4, fused=True)
    batch = steps.data_of(0).parts[0].to(DEVICE)

    def step():
        losses(model, batch, cfg)["total"].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.reset_peak_memory_stats()
    took = seconds(step, bench.repeat)
    return show("Llama-2-7B, random weights, LoRA rank 8, 4 lists in 2 orders a step", [
        {"tokens": tokens_of(batch), "ms/step": round(1000 * took), "peak GiB": round(
            torch.cuda.max_memory_allocated() / 2 ** 30, 1)}])


def main(arguments: list[str] | None = None) -> dict:
    bench, data_cfg, cfg = parse_flags(arguments, BenchConfig, DataConfig, TrainConfig, presets=PRESETS)
    parts = {part.__name__: part for part in (training, memory, loss, loop, ranking, growth, seven_billion)}
    check_input(bench.only is None or bench.only in parts,
                f"--only must be one of {', '.join(parts)}, got {bench.only!r}")
    check_input(bench.repeat > 0, f"--repeat must be at least 1, got {bench.repeat}")
    ratings = load(data_cfg)
    lists = informative_lists(split(ratings, data_cfg).train, "training")
    _device, bf16, _text = set_up_machine(cfg.model, cfg.bf16)  # as train.py does
    cfg = dataclasses.replace(cfg, bf16=bf16)
    print(f"{hardware()}, torch {torch.__version__}, transformers {transformers.__version__}, {cfg.model} on "
          f"{data_cfg.dataset}, peak {peak_flops() / 1e12:.0f} TFLOP/s")
    chosen = [bench.only] if bench.only else [name for name in parts if name != "seven_billion"]
    result = {"hardware": hardware(), "model": cfg.model, "dataset": data_cfg.dataset, "torch": torch.__version__,
              **{name: parts[name](bench, data_cfg, cfg, ratings, lists) for name in chosen}}
    if bench.json:
        write_json(Path(bench.json), json.loads(json.dumps(result).replace("NaN", "null")))
    return result


if __name__ == "__main__":
    run_script(main)
