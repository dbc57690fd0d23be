"""The language model and what it runs on: a tiny one built here, or one in Hugging Face format. Nothing of the paper.

    load_tokenizer(name), load_model(name)          from a Hugging Face id or folder: safetensors only, no remote code
    build_model(cfg, ratings) -> (model, tokenizer)  as train.TrainConfig says: tiny or loaded, dropout, LoRA, memory
"""
import contextlib
import itertools
import os
import platform
from pathlib import Path

import numpy as np
import torch
import torch.distributed as processes
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_layers import GradientCheckpointingLayer

from alro import IDENTIFIERS, backbone, build_prompt, encode
from cli import explained, optional, require


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def autocast(device: torch.device, bf16: bool = False):
    """bf16 on a GPU, or where asked for; full float32 on a CPU, where a student wants to see the same numbers twice."""
    bf16 = bf16 or device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def join() -> tuple[int, int]:
    """(this process's rank, how many there are): under torchrun each takes a share of every step's lists."""
    world = int(os.environ.get("WORLD_SIZE", 1))  # set by torchrun
    if world > 1 and not processes.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        processes.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return (processes.get_rank(), world) if world > 1 else (0, 1)


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place."""
    if processes.is_initialized():
        processes.all_reduce(tensor)
    return tensor


# ---- The tiny model of the demo -------------------------------------------------------------------------------------

def word_tokenizer(ratings) -> PreTrainedTokenizerFast:
    """A word-level tokenizer for the tiny model: a token for each word of the catalogue and of the prompt.

    A word keeps the space or line break before it, as in byte-level BPE, so the identifier " A" is not the "A" that
    opens the prompt; the prompt's fixed sentences are one token each. Both shorten the prompt.
    Args: ratings: data.Ratings.
    """
    splitter = pre_tokenizers.Split(
        Regex(r"A user rated .*:|\nRank these .* this user:|\nRanking:|[ \n]?\w+|[ \n]?[^\s\w]+|\s"),
        behavior="isolated")
    levels = np.unique(ratings.rating).tolist()
    history = [*zip(ratings.titles, itertools.cycle(levels)), *((ratings.titles[0], level) for level in levels)]
    letters = len(IDENTIFIERS)
    texts = [build_prompt(history, ["x"] * letters, list(range(letters)), ratings.noun, ratings.scale),
             *(f"\n{title} ->" for title in ratings.titles)]
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def tiny_model(vocabulary: int) -> LlamaForCausalLM:
    """A Llama of 90,000 weights. Of deviation 0.1, not 0.02: at width 64 that leaves the uniform trap far earlier."""
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, initializer_range=0.1,
        bos_token_id=None, eos_token_id=None))


# ---- Any other model ------------------------------------------------------------------------------------------------

def load_tokenizer(name: str):
    """The tokenizer of a Hugging Face id or folder; no remote code."""
    with explained(f"--model {name}: no tokenizer there"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    limit = tokenizer.model_max_length
    require(isinstance(limit, int | float), f"--model {name}: its tokenizer's model_max_length is {limit!r}, no number")
    return tokenizer


def special_tokens(tokenizer) -> tuple[int, set[int]]:
    """(how many tokens it puts before every text, ids of the special ones, which no text may hold beyond those).

    `alro.encode` splits what looks like one of them, but a Unigram model finds it again among its own words.
    """
    own = len(encode(tokenizer, [""]).input_ids[0])
    return own, {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}


def load_model(name: str, dtype: torch.dtype = torch.float32):
    """A causal language model from a Hugging Face id or folder: safetensors only, no remote code.

    A folder with a LoRA adapter loads its base model and puts the adapter on. Raises AlroError if there is no such
    model, or if its logits are not just the output layer's (some families scale or cap them).
    """
    options = {"use_safetensors": True, "trust_remote_code": False, "dtype": dtype}
    with explained(f"--model {name}: cannot be loaded"):
        if Path(name, "adapter_config.json").exists():
            model = optional("peft", "a LoRA adapter").AutoPeftModelForCausalLM.from_pretrained(name, **options)
        else:
            model, report = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **options)
            missing = sorted(report["missing_keys"])  # left random, with a warning only
            require(not missing, f"--model {name}: its files lack {len(missing)} of its tensors, {missing[:1]} first")
    inner, probe = backbone(model).eval(), torch.arange(4).unsqueeze(0)
    with torch.no_grad():
        ours = inner.get_output_embeddings()(inner.base_model(input_ids=probe, use_cache=False).last_hidden_state)
        require(torch.allclose(ours, inner(input_ids=probe).logits, atol=1e-4, equal_nan=True),  # NaN: rank_candidates
                f"--model {name}: its logits are more than its output layer gives; alro.target_logits would be wrong")
    return model


def context_length(model, tokenizer) -> int:
    """Tokens the model can read: the smaller of what the model's and the tokenizer's configurations say."""
    known = backbone(model).get_input_embeddings().weight.shape[0]
    require(len(tokenizer) <= known, f"the tokenizer has {len(tokenizer)} tokens, the model knows {known} of them")
    return min(getattr(backbone(model).config, "max_position_embeddings", 10 ** 9), tokenizer.model_max_length)


def build_model(cfg, ratings):
    """(model, tokenizer), on the CPU, as cfg (train.TrainConfig) says."""
    torch.manual_seed(cfg.seed)
    if cfg.model == "tiny":
        tokenizer = word_tokenizer(ratings)
        model = tiny_model(len(tokenizer))
    else:
        require(not Path(cfg.model, "adapter_config.json").exists(),
                f"--model {cfg.model} is a LoRA adapter; name its base model")
        frozen = cfg.lora_rank > 0 and pick_device().type == "cuda"  # no step changes them: bf16 will do
        tokenizer, model = load_tokenizer(cfg.model), load_model(cfg.model, torch.bfloat16 if frozen else torch.float32)
    layers = [layer for layer in model.modules() if hasattr(layer, "attention_dropout")]  # Llama and its kin
    drops = [layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]   # GPT-2
    require(bool(layers or drops or cfg.lora_rank or not cfg.dropout), f"--dropout: {cfg.model} has none to set")
    for layer in layers:
        layer.attention_dropout = cfg.dropout
    for layer in drops:
        layer.p = cfg.dropout
    if cfg.gradient_checkpointing:  # keep each layer's input only, compute the rest again on the way back
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if cfg.lora_rank:
        peft = optional("peft", "--lora_rank")
        model = peft.get_peft_model(model, peft.LoraConfig(  # GUESS: all linear layers, scale 2
            r=cfg.lora_rank, lora_alpha=2 * cfg.lora_rank, lora_dropout=cfg.dropout, target_modules="all-linear",
            task_type="CAUSAL_LM"))
    if cfg.compile:  # one layer's code serves them all, so this compiles once for each length (see Encoder.multiple)
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):  # what transformers makes decoder layers from
                layer.compile()
    return model, tokenizer
