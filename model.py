"""The language model, its tokenizer, what they run on. Nothing of the paper; may be skipped.

    build_model(cfg, ratings) -> (model, tokenizer)   as train.TrainConfig says: tiny, or pretrained
    load_run(folder) -> (model, tokenizer)            of a run that train.py has written
    load_tokenizer(name), load_model(name)            of a Hugging Face id or folder: safetensors
                                                      only, no remote code
"""
import contextlib
import itertools
import os
import platform
import re
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.distributed as processes
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from alro import IDENTIFIERS, backbone, build_prompt
from runs import check_input, command, import_optional, one_line_error, read_run_config

# ---- The device, its number format, several processes --------------------------------------------

def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    processor = platform.processor() or platform.machine()
    return f"{processor} CPU, {torch.get_num_threads()} threads"


def use_one_thread(device: torch.device, model_name: str) -> None:
    """The tiny model is so small that two threads mostly wait for one another; and one repeats bit
    for bit. The other core tokenises."""
    if device.type == "cpu" and model_name == "tiny":
        torch.set_num_threads(1)


def processor_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products: AMX, or AVX512-BF16.

    Measured with AVX512-BF16 (AMD's Zen 4, two threads, alone): SmolLM2-135M ranks 16 lists of
    ml-100k in 8.0 to 8.3 s in bf16 and in 13.3 to 14.0 s in float32. With AMX: not measured.
    """
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    has_avx512_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return has_amx or has_avx512_bf16


def choose_bf16(requested: bool | None, device: torch.device, model_name: str) -> tuple[bool, str]:
    """(whether to compute in bf16, why). Weights that are trained stay float32."""
    if requested is not None:
        return requested, "as --bf16 says"
    if model_name == "tiny":
        return False, "a tiny model gains nothing, and its numbers stay those of another machine"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return True, "a GPU that has bf16"
        return False, "this GPU has no bf16"
    if processor_multiplies_bf16():
        return True, "a pretrained model, on a processor that multiplies bf16"
    return False, "a processor that does not multiply bf16"


def autocast(device: torch.device, bf16: bool):
    """The context to compute in."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def describe_device(device: torch.device, bf16: bool, reason: str) -> str:
    """One line for the start: where the run computes, in which format, and why."""
    name = str(device)
    if device.type == "cpu":
        name = f"cpu, {torch.get_num_threads()} threads, no CUDA GPU found"
        if torch.backends.mps.is_available():
            name += " (Apple's GPU is not used)"
    return f"{name}; {'bf16' if bf16 else 'float32'}: {reason}"


PROCESS_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun


def join_processes() -> tuple[int, int]:
    """(this process's rank, how many there are).

    Under torchrun each takes a share of every step's lists. Raises: AlroError if only some of what
    torchrun sets is there.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    check_input(world.isdecimal() and int(world) > 0,
                f"the environment says WORLD_SIZE={world!r}, no number of processes: unset it, or "
                "start with torchrun --nproc_per_node=N train.py ...")
    if int(world) == 1:
        return 0, 1
    missing = [name for name in PROCESS_VARIABLES if not os.environ.get(name)]
    check_input(not missing, f"the environment says WORLD_SIZE={world}, but not "
                             f"{', '.join(missing)}: unset it, or start with "
                             "torchrun --nproc_per_node=N train.py ...")
    if not processes.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "nccl"
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        processes.init_process_group(backend)
    return processes.get_rank(), int(world)


def leave_processes(n_processes: int) -> None:
    """What ends what `join_processes` began."""
    if n_processes > 1:
        processes.destroy_process_group()


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place."""
    if processes.is_initialized():
        processes.all_reduce(tensor)
    return tensor


# ---- What the method needs of a tokenizer --------------------------------------------------------

def encode(tokenizer, texts: list[str], **options):
    """Tokenise; what looks like a special token inside a title ("<|im_end|>") stays text."""
    return tokenizer(texts, split_special_tokens=True, **options)


def special_tokens(tokenizer) -> tuple[int, set[int]]:
    """(how many tokens it puts before every text, ids of the special ones).

    No text may hold a special one beyond those: `encode` splits what looks like one, but a Unigram
    model finds it again among its own words.
    """
    own = len(encode(tokenizer, [""]).input_ids[0])
    return own, {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}


# Where an identifier stands: after a title, first in the answer, later in the answer.
IDENTIFIER_PLACES = (("Fargo (1996) ->", "\n"), ("Ranking:", ""), ("Ranking: A", " B"))


def identifier_tokens(tokenizer, m: int) -> torch.Tensor:
    """Token ids (m,) of the identifiers, after checking that they are what the method needs.

    Each identifier must be one token, the same after a title and in the answer, and all must
    differ: then output position k is token k of the answer, and a candidate's probability is one
    entry of the softmax. Raises: AlroError naming the first identifier for which that is not so.
    """
    tokens = []
    for name in IDENTIFIERS[:m]:
        seen = set()
        for before, after in IDENTIFIER_PLACES:
            prefix, whole = encode(tokenizer, [before, before + name + after]).input_ids
            added = whole[len(prefix):]
            one_token = len(added) == 1 or (after and len(added) > 1)
            check_input(whole[:len(prefix)] == prefix and one_token,
                        f"identifier {name!r} is not one token after {before!r}: "
                        "this tokenizer will not do")
            seen.add(added[0])
        check_input(len(seen) == 1, f"identifier {name!r} is one token after a title and another "
                                    f"in the answer: {seen}")
        check_input(seen.isdisjoint({tokenizer.unk_token_id, *tokens}),
                    f"identifier {name!r} is unknown, or has the token of one before it: {seen}")
        tokens.extend(seen)
    return torch.tensor(tokens)  # (m,)


def rating_tokens(tokenizer, levels: list[float]) -> torch.Tensor:
    """The token (L,) that tells each rating of a scale where it ends a line of the history, as in
    "Heat: 4"; empty where no single token does.

    All else must be the same in every rating: half stars ("4", "4.5"), or 1 and 10 in digits of
    one token each, differ in how many tokens they have. Then candidates' ratings are no targets
    (alro.rating_loss), and what the model knows cannot be read off: no two ratings are ever taken
    for one. The history's ratings stay targets, all their tokens.
    """
    rated = encode(tokenizer, [f"Heat: {level:g}" for level in levels]).input_ids
    before = {tuple(tokens[:-1]) for tokens in rated}
    last = [tokens[-1] for tokens in rated]
    told = len(before) == 1 and len({*last}) == len(levels) and tokenizer.unk_token_id not in last
    return torch.tensor(last if told else [], dtype=torch.long)


# ---- The tiny model of the demo ------------------------------------------------------------------

# The prompt's fixed sentences are one token each, and so is a rating (": 4"); a word keeps the
# space or line break before it.
SENTENCES = r"A user rated .*:|\nRank these .* this user:|\nRanking:"
RATING = r": [\d.]+(?=\n|$)"
PUNCTUATION = r"[ \n]?((?!: [\d.]+(\n|$))[^\s\w])+"  # but for the colon of a rating
WORDS = f"{SENTENCES}|{RATING}|[ \\n]?\\w+|{PUNCTUATION}|\\s"


def word_tokenizer(ratings) -> PreTrainedTokenizerFast:
    """A word-level tokenizer for the tiny model: a token for each word of catalogue and prompt.

    As in byte-level BPE a word keeps the space before it, so that the identifier " A" is not the
    "A" that opens the prompt. Args: ratings: data.Ratings.
    """
    splitter = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    words = ratings.prompt_words()
    levels = np.unique(ratings.rating).tolist()
    # Texts that hold every word: each title, each rating, each identifier.
    history = list(zip(words.texts, itertools.cycle(levels)))
    history += [(words.texts[0], level) for level in levels]
    letters = len(IDENTIFIERS)
    slots = list(range(letters))
    texts = [build_prompt(history, ["x"] * letters, slots, words.noun, words.scale)]
    texts += [f"\n{text} ->" for text in words.texts]
    if words.averages is not None:
        known = words.averages[~np.isnan(words.averages)]
        texts += [f"x, {average:.1f} ->" for average in np.unique(known)]
        texts += [f"\n{text}, 1.0 ->" for text in words.texts]  # ")," is one word, too
    vocabulary = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    ids = {word: i for i, word in enumerate(["<pad>", "<unk>", *sorted(vocabulary)])}
    tokenizer = Tokenizer(models.WordLevel(ids, "<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def tiny_model(vocabulary: int, width: int = 64) -> Qwen3ForCausalLM:
    """A Qwen3 of 170,000 weights at width 64, as deep as ranking by taste is long:

        layer 1   a rating reads its film's genre, right before it; an identifier reads its own
                  line's film and genre;
        layer 2   an identifier collects the history's ratings of that genre: the user's taste;
        layer 3   the answer reads how each identifier did, and which of them are out already;
        layer 4   room for comparing them.
    That is what such a model can do, no finding about what this one does. Queries and keys are
    normalised (Qwen3's difference from Llama): larger rates stay safe. Of deviation 0.1, not 0.02:
    so small a model then leaves the uniform trap far earlier.
    """
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": width // 4}
    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=vocabulary, **shape, **heads, max_position_embeddings=1024,
        tie_word_embeddings=True, initializer_range=0.1, bos_token_id=None, eos_token_id=None))


# ---- Any other model -----------------------------------------------------------------------------

def load_tokenizer(name: str):
    """The tokenizer of a Hugging Face id or folder; no remote code."""
    with one_line_error(f"--model {name}: no tokenizer there"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    limit = tokenizer.model_max_length
    check_input(isinstance(limit, int | float),
                f"--model {name}: its tokenizer's model_max_length is {limit!r}, no number")
    return tokenizer


def load_model(name: str, dtype: torch.dtype = torch.float32):
    """A causal language model from a Hugging Face id or folder: safetensors only, no remote code.

    A folder with a LoRA adapter loads its base model and puts the adapter on. Raises: AlroError if
    there is no such model, or if its logits are not just the output layer's (some families scale or
    cap them).
    """
    options = {"use_safetensors": True, "trust_remote_code": False, "dtype": dtype}
    with one_line_error(f"--model {name}: cannot be loaded"):
        if is_adapter(name):
            peft = import_optional("peft", "a LoRA adapter")
            model = peft.AutoPeftModelForCausalLM.from_pretrained(name, **options)
        else:
            model, report = AutoModelForCausalLM.from_pretrained(
                name, output_loading_info=True, **options)
            missing = sorted(report["missing_keys"])  # left random, with a warning only
            check_input(not missing, f"--model {name}: its files lack {len(missing)} of its "
                                     f"tensors, {missing[:1]} first")
    check_output_layer(name, backbone(model).eval())
    return model


def dtype_beside_adapter(requested_bf16: bool | None, model_name: str) -> torch.dtype:
    """Of the weights that a LoRA adapter is put on: no step changes them, so where a GPU computes
    in bf16 they need no float32 copy, neither in training nor afterwards."""
    device = pick_device()
    bf16, _why = choose_bf16(requested_bf16, device, model_name)
    return torch.bfloat16 if bf16 and device.type == "cuda" else torch.float32


def is_adapter(name: str) -> bool:
    return Path(name, "adapter_config.json").exists()


@torch.no_grad()
def check_output_layer(name: str, model) -> None:
    """Raise AlroError if alro.target_logits would not be the model's own logits."""
    probe = torch.arange(4).unsqueeze(0)
    hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
    ours, its_own = model.get_output_embeddings()(hidden), model(input_ids=probe).logits
    # NaN is for alro.rank_candidates to tell.
    same = torch.allclose(ours, its_own, atol=1e-4, equal_nan=True)
    check_input(same, f"--model {name}: its logits are more than its output layer gives; "
                      "alro.target_logits would be wrong")


def context_length(model, tokenizer) -> int:
    """Tokens the model can read: the smaller of what the model and its tokenizer say."""
    known = backbone(model).get_input_embeddings().weight.shape[0]
    check_input(len(tokenizer) <= known,
                f"the tokenizer has {len(tokenizer)} tokens, the model knows {known} of them")
    positions = getattr(backbone(model).config, "max_position_embeddings", 10 ** 9)
    return min(positions, tokenizer.model_max_length)


def load_run(folder: str):
    """(model, tokenizer) of a run: the weights that were best on validation."""
    name = str(Path(folder, "model"))
    check_input(Path(name).is_dir(),
                f"{folder} has no model/ yet: {command('train.py', '--resume', folder)}")
    dtype = torch.float32
    if is_adapter(name):
        config = read_run_config(folder)["train"]
        dtype = dtype_beside_adapter(config.get("bf16"), config["model"])
    return load_model(name, dtype).to(pick_device()), load_tokenizer(name)


# ---- The model of a training run -----------------------------------------------------------------

def set_dropout(model, cfg) -> None:
    """Dropout wherever the model's configuration has one. Raises: AlroError if it has none."""
    # Llama, OPT and their kin keep numbers, GPT-2 and BLOOM have layers of their own.
    names = ("attention_dropout", "dropout", "activation_dropout", "attn_dropout_p")
    numbers = [(part, name) for part in model.modules() for name in names
               if isinstance(getattr(part, name, None), float | int)]
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Dropout)]
    check_input(bool(numbers or layers or cfg.lora_rank or not cfg.dropout),
                f"--dropout: {cfg.model} has none to set")
    for part, name in numbers:
        setattr(part, name, cfg.dropout)
    for layer in layers:
        layer.p = cfg.dropout


def attention_projections(model) -> list[str]:
    """Names of the layers with weights inside attention: q_proj and its kin, or GPT-2's c_attn."""
    return [name for name, part in model.named_modules()
            if re.search("attn|attention", name) and isinstance(part, torch.nn.Linear | Conv1D)]


def add_adapter(model, cfg):
    """The model with a LoRA adapter on it, the only part that is trained.

    GUESS: on the attention projections, alpha = 2 r: what three of the authors did in another work
    of the same months (LLM-TRSR, WWW 2024: r 8, alpha 16, dropout .05, rate 1e-4).
    """
    peft = import_optional("peft", "--lora_rank")
    targets = attention_projections(model)
    check_input(targets, f"--lora_rank: {cfg.model} has no attention projections to put it on")
    adapter = peft.LoraConfig(
        r=cfg.lora_rank, lora_alpha=2 * cfg.lora_rank, lora_dropout=cfg.dropout,
        target_modules=targets, task_type="CAUSAL_LM")
    return peft.get_peft_model(model, adapter)


def check_compiler(device: torch.device) -> None:
    """Raise AlroError if torch.compile would not find what it needs."""
    names = (os.environ.get("CXX", "g++"), "clang++")
    check_input(device.type == "cuda" or any(map(shutil.which, names)),
                "--compile needs a C++ compiler on a CPU (g++ or clang++), and there is none")


def build_model(cfg, ratings):
    """(model, tokenizer), on the CPU, as cfg (train.TrainConfig) says."""
    torch.manual_seed(cfg.seed)
    if cfg.model == "tiny":
        tokenizer = word_tokenizer(ratings)
        model = tiny_model(len(tokenizer), cfg.width)
    else:
        check_input(not is_adapter(cfg.model),
                    f"--model {cfg.model} is a LoRA adapter; name its base model")
        tokenizer = load_tokenizer(cfg.model)
        dtype = torch.float32
        if cfg.lora_rank:
            dtype = dtype_beside_adapter(cfg.bf16, cfg.model)
        model = load_model(cfg.model, dtype)
    set_dropout(model, cfg)
    if cfg.gradient_checkpointing:  # keep each layer's input only, compute the rest again
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if cfg.lora_rank:
        model = add_adapter(model, cfg)
    if cfg.compile:
        check_compiler(pick_device())
        # One layer's code serves them all, so this compiles once for each length of a batch
        # (Encoder.multiple keeps them few).
        for part in model.modules():
            if isinstance(part, GradientCheckpointingLayer):  # what decoder layers are made from
                part.compile()
    return model, tokenizer
