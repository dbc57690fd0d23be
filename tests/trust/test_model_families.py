"""What training and ranking ask of a pretrained model is asked when it is loaded: with tiny random models of many
families, and with stand-ins that each lack one thing."""
import pytest
import torch
import transformers
from helpers import refused

from plumbing.model import check_model, context_length

SHAPE = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "pad_token_id": 0,
         "bos_token_id": None, "eos_token_id": None}
GPT_SHAPE = {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
GOOD = {
    "Llama": {}, "Qwen2": {}, "Qwen3": {}, "Mistral": {"sliding_window": 4}, "Gemma": {}, "Gemma3Text": {}, "Phi": {},
    "Phi3": {}, "GPT2": GPT_SHAPE, "GPTJ": GPT_SHAPE, "GPTNeoX": {}, "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "Bloom": {"n_layer": 2, "n_head": 4}, "Mixtral": {"num_local_experts": 4}, "StableLm": {}, "Olmo2": {}}
BAD = {
    "Mamba": ({}, "no cache"),
    "Bart": ({"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
              "is_decoder": True, "is_encoder_decoder": False}, "ignores position_ids"),
    "Llama": ({"is_causal": False}, "not causal"),
    "Granite": ({"logits_scaling": 2.0}, "more than its output layer")}


def make(family: str, more: dict):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE, **more)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", GOOD)
def test_a_family_that_does_what_is_asked_is_let_through(family):
    check_model(family, make(family, GOOD[family]))


@pytest.mark.parametrize("family", BAD)
def test_a_family_that_does_not_is_refused_in_one_line_that_says_what_it_lacks(family):
    more, words = BAD[family]
    model = make(family, more)
    with refused(f"--model {family}: .*{words}") as error:
        check_model(family, model)
    assert len(str(error.value).splitlines()) == 1


def stand_in(change):
    """A Llama whose layers' output passes through `change(output, arguments)`."""
    model = make("Llama", {})
    real = model.base_model.forward
    model.base_model.forward = lambda **arguments: change(real(**arguments), arguments)
    return model


def no_hidden_states(output, _arguments):
    return {"state": output.last_hidden_state}


def a_cache_that_forgets(output, arguments):
    """The second step, read upon a cache, is read otherwise."""
    if arguments.get("past_key_values") is not None:
        output.last_hidden_state = output.last_hidden_state.flip(-1)
    return output


@pytest.mark.parametrize("change,words", [(no_hidden_states, "no last_hidden_state"),
                                          (a_cache_that_forgets, "cache does not give")])
def test_a_model_that_lacks_one_thing_is_refused(change, words):
    with refused(f"--model stand-in: .*{words}"):
        check_model("stand-in", stand_in(change))


class Words:
    model_max_length = 5000

    def __len__(self):
        return 90


@pytest.mark.parametrize("config,limit", [
    (transformers.LlamaConfig(max_position_embeddings=99), 99), (transformers.GPT2Config(n_positions=99), 99),
    (transformers.MptConfig(max_seq_len=99), 99), (transformers.BloomConfig(), 5000),
    (transformers.Gemma3Config(text_config={"max_position_embeddings": 99}), 99)])
def test_the_context_limit_is_read_where_the_family_keeps_it(config, limit):
    """Also in a nested configuration; BLOOM has none, so the tokenizer's counts."""
    model = make("Llama", {})
    model.config = config
    assert context_length(model, Words()) == limit
