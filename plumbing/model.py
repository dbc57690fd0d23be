"""The language model and its tokenizer: the tiny one of the demo, or a pretrained one.

    build_model(cfg, words) -> (model, tokenizer)    as train.TrainConfig says
    load_run(folder, cfg) -> (model, tokenizer)      of a run that train.py has written
"""
import bisect
import dataclasses
import hashlib
import itertools
import math
import os
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM)
from transformers.modeling_layers import GradientCheckpointingLayer

from alro import IDENTIFIERS, AlroError, at_the_right_edge, build_prompt, unwrapped
from plumbing.flags import check_input, command, import_optional, one_line_error, warn
from plumbing.machine import choose_bf16, pick_device

# ---- What the method needs of a tokenizer --------------------------------------------------------

def tokenise(tokenizer, texts: list[str], **options):
    """Tokenise; what looks like a special token inside a title ("<|im_end|>") stays text."""
    return tokenizer(texts, split_special_tokens=True, **options)


def special_tokens(tokenizer) -> tuple[int, set[int]]:
    """(how many tokens it puts before every text, ids of the special ones).

    No text may hold a special one beyond those: `tokenise` splits what looks like one, but a Unigram
    model finds it again among its own words.
    """
    own = len(tokenise(tokenizer, [""]).input_ids[0])
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
            prefix, whole = tokenise(tokenizer, [before, before + name + after]).input_ids
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
    rated = tokenise(tokenizer, [f"Heat: {level:g}" for level in levels]).input_ids
    before = {tuple(tokens[:-1]) for tokens in rated}
    last = [tokens[-1] for tokens in rated]
    told = len(before) == 1 and len({*last}) == len(levels) and tokenizer.unk_token_id not in last
    return torch.tensor(last if told else [], dtype=torch.long)


def line_end_tokens(prompt: str, offsets) -> list[list[int]]:
    """For each line of a prompt the indices of the tokens that touch its last word.

    In a history's line that is the rating, in a candidate's the identifier.
    Args: offsets: (start, end) of each token in the text.
    """
    starts, ends = map(list, zip(*offsets))
    tokens = []
    line_start = 0
    for line in prompt.split("\n"):
        line_end = line_start + len(line)
        word_start = line_start + line.rfind(" ") + 1  # after the last space
        first = bisect.bisect_right(ends, word_start)
        last = bisect.bisect_left(starts, line_end) - 1
        tokens.append(list(range(first, last + 1)))
        line_start = line_end + 1
    return tokens


def check_prompt(encoder, list_id: str, tokens: list[int]) -> None:
    """Raise AlroError if the tokens of a list's prompt are too many, or a special one among them."""
    check_input(len(tokens) + encoder.list_size <= encoder.max_length,
                f"list {list_id!r}: {len(tokens)} tokens, but the model reads "
                f"{encoder.max_length}: too long; try a smaller --list_size")
    check_input(encoder.special_tokens.isdisjoint(tokens[encoder.own_tokens:]),
                f"list {list_id!r}: a title holds a special token")


def fit_history(encoder, ranking_list, prompt_of):
    """The list without the oldest ratings of its history, as many as must go for the model to read
    its prompt; the list itself where none must.

    Args: encoder: data.Encoder; ranking_list: data.RankingList; prompt_of: its prompt.
    """
    # The answer has one token a candidate; as many more, since another display may be longer.
    room = encoder.max_length - 2 * encoder.list_size
    history = ranking_list.history

    def less(dropped: int):
        return dataclasses.replace(ranking_list, history=history[dropped:])

    def fits(dropped: int) -> bool:
        prompt = prompt_of(less(dropped))
        if len(prompt.encode()) + encoder.own_tokens <= room:  # a token has at least a byte
            return True
        return len(tokenise(encoder.tokenizer, [prompt]).input_ids[0]) <= room

    if not history or fits(0):
        return ranking_list
    # By bisection: False .. False True .. True.
    return less(bisect.bisect_left(range(len(history)), True, key=fits))


def pad(rows, value, multiple=1) -> torch.Tensor:
    """(B, T) long, from B lists of numbers, padded on the right; T is a multiple of `multiple`."""
    width = math.ceil(max(map(len, rows)) / multiple) * multiple
    padded = [row + [value] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long)


# ---- The tiny model of the demo ------------------------------------------------------------------

# The prompt's fixed sentences are one token each, and so is a rating (": 4"); a word keeps the
# space or line break before it.
SENTENCES = r"A user rated .*:|\nRank these .* this user:|\nRanking:"
RATING = r": [\d.]+(?=\n|$)"
PUNCTUATION = r"[ \n]?((?!: [\d.]+(\n|$))[^\s\w])+"  # but for the colon of a rating
WORDS = f"{SENTENCES}|{RATING}|[ \\n]?\\w+|{PUNCTUATION}|\\s"


def word_tokenizer(words) -> PreTrainedTokenizerFast:
    """A word-level tokenizer for the tiny model: a token for each word of catalogue and prompt.

    As in byte-level BPE a word keeps the space before it, so that the identifier " A" is not the
    "A" that opens the prompt. Args: words: data.PromptWords.
    """
    splitter = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    # Texts that hold every word: each title, each rating, each identifier.
    history = list(zip(words.texts, itertools.cycle(words.levels)))
    history += [(words.texts[0], level) for level in words.levels]
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
    This is what such a model could do; what this one does was not studied. Queries and keys are
    normalised (Qwen3's difference from Llama): larger rates stay safe. Weights are drawn with
    deviation 0.1, not 0.02: so small a model then leaves the uniform trap far earlier.
    """
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": width // 4}
    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=vocabulary, **shape, **heads, max_position_embeddings=1024,
        tie_word_embeddings=True, initializer_range=0.1, bos_token_id=None, eos_token_id=None))


# ---- A pretrained model --------------------------------------------------------------------------

def check_is_there(name: str, what: str = "--model") -> None:
    """Refuse a folder that is gone by name: asked of the Hugging Face Hub, it would be a matter of
    the connection. What may be an id there, "owner/name", passes."""
    is_path = Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1
    check_input(Path(name).exists() or not is_path, f"{what} {name}: there is no such folder")


def load_tokenizer(name: str):
    """The tokenizer of a Hugging Face id or folder; no remote code."""
    check_is_there(name)
    with one_line_error(f"--model {name}: no tokenizer there"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    limit = tokenizer.model_max_length
    check_input(isinstance(limit, int | float),
                f"--model {name}: its tokenizer's model_max_length is {limit!r}, no number")
    return tokenizer


def load_model(name: str, dtype: torch.dtype = torch.float32):
    """A causal language model from a Hugging Face id or folder: safetensors only, no remote code.

    A folder with a LoRA adapter loads its base model and puts the adapter on. Raises: AlroError if
    there is no such model, or it does not do what is asked of it (`check_model`).
    """
    options = {"use_safetensors": True, "trust_remote_code": False, "dtype": dtype}
    with one_line_error(f"--model {name}: cannot be loaded"):
        if is_adapter(name):
            peft = import_optional("peft", "a LoRA adapter")
            base = peft.PeftConfig.from_pretrained(name).base_model_name_or_path
            check_is_there(base, f"{name} is an adapter on the model in")
            model = peft.AutoPeftModelForCausalLM.from_pretrained(name, **options)
        else:
            model, report = AutoModelForCausalLM.from_pretrained(
                name, output_loading_info=True, **options)
            missing = sorted(report["missing_keys"])  # left random, with a warning only
            check_input(not missing, f"--model {name}: its files lack {len(missing)} of its "
                                     f"tensors, {missing[:1]} first")
        check_model(name, unwrapped(model).eval())
    return model


def dtype_beside_adapter(requested_bf16: bool | None) -> torch.dtype:
    """Number format of the weights under a LoRA adapter: no step changes them, so where a GPU
    computes in bf16 they need no float32 copy."""
    device = pick_device()
    bf16, _why = choose_bf16(requested_bf16, device, "pretrained")
    return torch.bfloat16 if bf16 and device.type == "cuda" else torch.float32


def is_adapter(name: str) -> bool:
    return Path(name, "adapter_config.json").exists()


@torch.no_grad()
def check_model(name: str, model) -> None:
    """Raise AlroError unless the model answers as training and ranking (alro.py) will ask it.

    Two prompts of unlike length are read alone without a cache, and together, padded on the left,
    with one: the next token's logits, and those after one more token, must be the same. Tried with
    Llama, Qwen2, Qwen3, Mistral, Gemma, Gemma 3, Phi, Phi-3, GPT-2, GPT-NeoX, OPT, BLOOM, Mixtral.
    """
    def refuse(what: str):
        raise AlroError(f"--model {name}: {what}")

    def same(one, other) -> bool:  # NaN is for alro.rank_candidates to tell
        scale = other.abs().nan_to_num().max()
        return torch.allclose(one, other, rtol=0, atol=rounding * scale, equal_nan=True)

    rounding = 1e-3 if model.dtype == torch.float32 else 5e-2
    base, head = model.base_model, model.get_output_embeddings()
    known = model.get_input_embeddings().weight.shape[0]
    prompts = [torch.arange(1, 13) % known, torch.arange(5, 10) % known]
    next_token = torch.tensor([[2 % known]])

    # What training asks: hidden states, the output layer on them, and no look ahead.
    output = base(input_ids=prompts[0].unsqueeze(0), use_cache=False)
    if not isinstance(getattr(output, "last_hidden_state", None), torch.Tensor):
        refuse("its base_model gives no last_hidden_state")
    hidden = output.last_hidden_state  # (1, 12, d)
    if head is None or not same(head(hidden), model(input_ids=prompts[0].unsqueeze(0)).logits):
        refuse("its logits are more than its output layer gives; alro.target_logits would be wrong")
    changed = prompts[0].clone()
    changed[-1] = 3 % known
    of_changed = base(input_ids=changed.unsqueeze(0), use_cache=False).last_hidden_state
    if not same(of_changed[:, :-1], hidden[:, :-1]):
        refuse("it is not causal: a token changes what is read before it")

    # What ranking asks: several prompts at a time, and a cache.
    longer = [torch.cat([prompt, next_token[0]]).unsqueeze(0) for prompt in prompts]
    alone = [head(base(input_ids=row, use_cache=False).last_hidden_state[:, -2:]) for row in longer]
    alone = torch.cat(alone)  # (2, 2, V) after each prompt, and after one more token
    lengths = torch.tensor([[len(prompt)] for prompt in prompts])  # (2, 1)
    input_ids, mask, place = at_the_right_edge(pad_sequence(prompts, True), lengths)
    try:
        first = base(input_ids=input_ids, attention_mask=mask, position_ids=place, use_cache=True)
    except TypeError as error:
        refuse(f"it does not take what ranking gives it ({error})")
    if getattr(first, "past_key_values", None) is None:
        refuse("it has no cache (past_key_values), which ranking needs")
    if not same(head(first.last_hidden_state[:, -1]), alone[:, 0]):
        refuse("it ignores position_ids or the mask: padding on the left changes what it says")
    mask = torch.cat([mask, torch.ones_like(lengths)], dim=1)
    second = base(input_ids=next_token.expand(2, -1), attention_mask=mask, position_ids=lengths,
                  past_key_values=first.past_key_values, use_cache=True)
    if not same(head(second.last_hidden_state[:, -1]), alone[:, 1]):
        refuse("its cache does not give what reading the whole prompt gives")


# Where a family keeps how many tokens it can read.
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length",
                  "seq_length", "n_ctx")


def context_length(model, tokenizer) -> int:
    """Tokens the model can read: the smaller of what the model and its tokenizer say."""
    known = unwrapped(model).get_input_embeddings().weight.shape[0]
    check_input(len(tokenizer) <= known,
                f"the tokenizer has {len(tokenizer)} tokens, the model knows {known} of them")
    config = unwrapped(model).config.get_text_config()
    limits = [getattr(config, field, None) for field in CONTEXT_FIELDS]
    limits = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min([*limits[:1], int(tokenizer.model_max_length)])


def warn_of_unknown_titles(tokenizer, titles: list[str]) -> None:
    """Say how many titles the tokenizer does not know: the model cannot tell these apart."""
    # As a prompt has them: a word keeps the line break before it (see WORDS).
    tokens = tokenise(tokenizer, [f"\n{title} ->" for title in titles]).input_ids
    unknown = [title for title, row in zip(titles, tokens) if tokenizer.unk_token_id in row]
    if unknown:
        warn(f"{len(unknown)} of {len(titles)} titles hold what the tokenizer does not know, "
             f"{unknown[0]!r} for example: the model cannot read it")


def trainable(model) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def load_run(folder: str, config: dict):
    """(model, tokenizer) of a run: the weights that were best on validation.

    Args: config: the run's config.json. Raises: AlroError if the weights under its adapter
        have changed since.
    """
    name = str(Path(folder, "model"))
    check_input(Path(name).is_dir(),
                f"{folder} has no model/ yet: {command('train.py', '--resume', folder)}")
    dtype = torch.float32
    if is_adapter(name):
        dtype = dtype_beside_adapter(config["train"]["bf16"])
    model = load_model(name, dtype)
    check_input(sha256_of_base(model) == config["base_sha256"],
                f"{folder}: the weights of {config['train']['model']}, which its adapter was "
                "trained on, have changed since: restore the old ones, or train again")
    return model.to(pick_device()), load_tokenizer(name)


def sha256_of_weights(model_folder: Path) -> str:
    """Hash of the weights in a Hugging Face folder: a result of other weights is out of date."""
    digest = hashlib.sha256()
    for path in sorted(model_folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def sha256_of_base(model) -> str | None:
    """Hash of the weights that an adapter was put on: they are not saved with the run. None for a
    model without an adapter, which is saved whole."""
    if unwrapped(model) is model:
        return None
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if "lora_" not in name:
            # As float32, whatever the format: the run may go on on a machine with another one.
            digest.update(weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


# ---- The model of a training run -----------------------------------------------------------------

LORA_DROPOUT = 0.05


def add_adapter(model, cfg):
    """The model with a LoRA adapter on it, the only part that is trained.

    GUESS: on attention projections (for most families PEFT's default: queries and values), alpha =
    2 r, dropout .05: what three of the authors did in another work of the same months (LLM-TRSR,
    WWW 2024: r 8, alpha 16, dropout .05, rate 1e-4).
    """
    peft = import_optional("peft", "--lora_rank")
    adapter = peft.LoraConfig(  # on the layers that PEFT knows to be the family's projections
        r=cfg.lora_rank, lora_alpha=2 * cfg.lora_rank, lora_dropout=LORA_DROPOUT,
        task_type="CAUSAL_LM")
    with one_line_error(f"--lora_rank: {cfg.model} cannot take an adapter"):
        return peft.get_peft_model(model, adapter)


def check_compiler(device: torch.device) -> None:
    """Raise AlroError if torch.compile would not find what it needs."""
    names = (os.environ.get("CXX", "g++"), "clang++")
    check_input(device.type == "cuda" or any(map(shutil.which, names)),
                "--compile needs a C++ compiler on a CPU (g++ or clang++), and there is none")


def build_model(cfg, words):
    """(model, tokenizer), on the CPU, as cfg (train.TrainConfig) and words (data.PromptWords) say."""
    torch.manual_seed(cfg.seed)
    if cfg.model == "tiny":
        tokenizer = word_tokenizer(words)
        model = tiny_model(len(tokenizer), cfg.width)
    else:
        check_input(not is_adapter(cfg.model),
                    f"--model {cfg.model} is a LoRA adapter; name its base model")
        tokenizer = load_tokenizer(cfg.model)
        dtype = torch.float32
        if cfg.lora_rank:
            dtype = dtype_beside_adapter(cfg.bf16)
        model = load_model(cfg.model, dtype)
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
