"""From a batch to log-probabilities and rankings: positions, slots and items, padding, caches, model families."""
import contextlib
import dataclasses
import zlib

import pytest
import torch
import transformers
from helpers import OneDevice
from hypothesis import given, settings
from hypothesis import strategies as st

import alro
import data
from plumbing.model import load_model, word_tokenizer

CONFIG = data.DataConfig(list_size=5, history_size=6)
RATINGS = data.load(CONFIG, n_users=12)
LISTS = data.split(RATINGS, CONFIG).train[:8]
TOKENIZER = word_tokenizer(RATINGS.words)
few = settings(max_examples=30)


def batch(key=0, answers=True, lists=LISTS):
    """Lists in random displayed orders; histories cut to different lengths, so that rows need padding."""
    lists = [dataclasses.replace(one, history=one.history[i % 4:]) for i, one in enumerate(lists)]
    slots = [data.random_slots(5, key, one.list_id) for one in lists]
    gold = torch.cat([alro.gold_order(torch.tensor([one.ratings]), data.generator(one.list_id)) for one in lists])
    encoder = data.Encoder(TOKENIZER, RATINGS.words, 5, 500)
    return encoder.encode(lists, slots, gold if answers else None)


def log_probs_of(model, batch):
    """(B, m, m), the trunk: what a model says of a batch, by candidate."""
    return alro.candidate_log_probs(alro.target_logits(model, batch)[0], batch)


def tiny(family: str, **more):
    """A randomly initialised model of a family, with the demo's vocabulary."""
    small = {"vocab_size": len(TOKENIZER), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
             "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    if family == "GPT2":
        small = {"vocab_size": len(TOKENIZER), "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": None,
                 "eos_token_id": None}
    torch.manual_seed(0)
    name = {"Gemma3": "Gemma3TextConfig"}.get(family, f"{family}Config")
    config = getattr(transformers, name)(**small, **more)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    if model.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)  # it begins at 0, where none would miss it
    return model


FAMILIES = ["Llama", "Qwen2", "Qwen3", "Mistral", "GPT2", "Gemma", "Gemma3", "Phi3", "Phi"]  # Phi: a head with a bias


class BlindStub(torch.nn.Module):
    """Scores an item by its title alone, wherever it is displayed: hidden states are logits, the head is identity."""

    def __init__(self):
        super().__init__()
        self.base_model, size = self.read, len(TOKENIZER)
        self.head = torch.nn.Linear(size, size, bias=False)
        torch.nn.init.eye_(self.head.weight)

    def get_output_embeddings(self):
        return self.head

    def read(self, input_ids, use_cache=False, past_key_values=None, **_):
        if past_key_values is not None:
            rows = past_key_values
        else:
            rows = torch.zeros(len(input_ids), len(TOKENIZER))
            for row, text in enumerate(TOKENIZER.batch_decode(input_ids)):
                for line in text.split("user:\n")[1].split("\nRanking:")[0].split("\n"):
                    title, letter = line.split(" ->")
                    token = TOKENIZER(letter).input_ids[0]
                    rows[row, token] = zlib.crc32(title.encode()) % 997 / 100
        hidden = rows.unsqueeze(1).expand(-1, input_ids.shape[1], -1)
        return transformers.modeling_outputs.BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=rows)


# ---- log-probabilities ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_candidate_log_probs_are_the_models_own(family):
    """Against the model's ordinary forward pass, one unpadded list at a time, items found by hand."""
    model, found = tiny(family), batch()
    ours = log_probs_of(model, found)
    for row in range(len(LISTS)):
        last = found.prompt_tokens[row].item() - 1
        ids = found.input_ids[row, :last + 6]  # prompt and five answers, no padding
        theirs = model(input_ids=ids.unsqueeze(0)).logits[0].log_softmax(-1)
        for k in range(5):
            for slot in range(5):
                item = found.slots[row, slot]
                expected = theirs[last + k, found.identifiers[slot]]
                assert torch.allclose(ours[row, k, item], expected, atol=1e-4)


def test_history_loss_is_the_mean_over_the_history_ratings_tokens():
    model, found = tiny("Llama"), batch()
    ours = alro.rating_loss(alro.target_logits(model, found)[1], found.history_rated)
    for row, one in enumerate(LISTS):
        length = len(one.history) - row % 4
        ids = found.input_ids[row, :found.prompt_tokens[row]]
        words = [TOKENIZER.decode([i]) for i in ids]
        # A rating is a number behind a colon, whether a token of its own (" 4") or with the colon (": 4").
        where = [t for t, word in enumerate(words)
                 if word.lstrip(": ") in set("12345") and (word[0] == ":" or words[t - 1] == ":")]
        ratings = [float(words[t].lstrip(": ")) for t in where]
        assert len(where) == length and ratings == [rating for _, rating in one.history[row % 4:]]
        logs = model(input_ids=ids.unsqueeze(0)).logits[0].log_softmax(-1)
        expected = -torch.stack([logs[t - 1, ids[t]] for t in where]).mean()
        assert torch.allclose(ours[row], expected, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_model_knows_is_read_before_each_candidates_identifier(family):
    """Value and place by hand, one unpadded list at a time, from the model's ordinary forward pass: the loss on the
    candidates' ratings, the expected rating, and the order that it gives."""
    model, found = tiny(family), batch()
    loss = alro.rating_loss(alro.target_logits(model, found)[2], found.candidate_rated)
    expected = alro.expected_ratings(model, found)
    assert torch.allclose(alro.expected_ratings(model, batch(answers=False)), expected, atol=1e-5)  # it is in no prompt
    levels = [1.0, 2.0, 3.0, 4.0, 5.0]
    stars = [TOKENIZER.convert_tokens_to_ids(f": {level:g}") for level in levels]
    for row in range(len(LISTS)):
        ids = found.input_ids[row, :found.prompt_tokens[row]]
        logits = model(input_ids=ids.unsqueeze(0)).logits[0]
        letters = [t for t, token in enumerate(ids.tolist()) if token in found.identifiers.tolist()][-5:]
        nats = 0.0
        for slot, place in enumerate(letters):
            item = found.slots[row, slot].item()
            before = logits[place - 1]
            nats -= before.log_softmax(-1)[stars[levels.index(LISTS[row].ratings[item])]].item() / 5
            mean = (before[stars].softmax(-1) * torch.tensor(levels)).sum()
            assert expected[row, item].item() == pytest.approx(mean.item(), abs=1e-4)
        assert loss[row].item() == pytest.approx(nats, abs=1e-4)
    order = alro.rank_candidates(model, found, "ratings")
    in_order = expected.gather(1, order)
    assert order.sort(-1).values.eq(torch.arange(5)).all() and (in_order[:, :-1] >= in_order[:, 1:]).all()


def test_relabelling_items_moves_nothing_that_the_model_knows():
    """Candidates numbered otherwise, displayed alike: the same texts, so the same ratings, under their new numbers."""
    model, new = tiny("Llama"), torch.tensor([3, 0, 4, 1, 2])  # item i of the new list was item new[i]
    old_of = new.tolist()
    slots = [data.random_slots(5, 0, one.list_id) for one in LISTS]
    encoder = data.Encoder(TOKENIZER, RATINGS.words, 5, 500)
    renamed = [dataclasses.replace(one, items=[one.items[i] for i in old_of], ratings=[one.ratings[i] for i in old_of])
               for one in LISTS]
    renamed_slots = [[old_of.index(item) for item in displayed] for displayed in slots]
    gold = torch.arange(5).expand(8, -1)
    before = encoder.encode(LISTS, slots, gold)
    after = encoder.encode(renamed, renamed_slots, new.argsort()[gold])
    assert torch.equal(before.input_ids, after.input_ids)
    assert torch.allclose(alro.expected_ratings(model, after), alro.expected_ratings(model, before)[:, new])
    losses = [alro.rating_loss(alro.target_logits(model, found)[2], found.candidate_rated) for found in (before, after)]
    assert torch.allclose(*losses)


def test_no_ratings_are_read_off_where_no_token_tells_them():
    found = batch()._replace(levels=torch.empty(0), level_tokens=torch.empty(0, dtype=torch.long))
    with pytest.raises(alro.AlroError, match="no single token"):
        alro.rank_candidates(tiny("Llama"), found, "ratings")


def test_no_logits_where_there_is_no_target(monkeypatch):
    """The output layer sees m + H + m places, never T: the (B, T, V) tensor is not made."""
    model, seen = tiny("Llama"), []
    model.get_output_embeddings().register_forward_hook(lambda *call: seen.append(call[1][0].shape))
    alro.target_logits(model, batch())
    assert [tuple(shape[:2]) for shape in seen] == [(8, 5 + 6 + 5)]


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_padding_and_its_token_change_nothing(family):
    model, found = tiny(family), batch()
    longer = torch.cat([found.input_ids, torch.full((8, 7), 3)], dim=1)  # more padding, of another token
    assert torch.allclose(log_probs_of(model, found),
                          log_probs_of(model, found._replace(input_ids=longer)), atol=1e-5)


@few
@given(st.integers(0, 10 ** 6), st.integers(0, 10 ** 6))
def test_displayed_order_moves_nothing_for_a_model_indifferent_to_it(one, two):
    """Permutation invariance end to end: log-probabilities, PSL's kl and the ranking, all by candidate."""
    model = BlindStub()
    first, second = batch(one), batch(two)
    a, b = log_probs_of(model, first), log_probs_of(model, second)
    assert torch.allclose(a, b, atol=1e-6)
    parts = alro.alro_loss(a, first.order, first.ratings, alpha=1, beta=1, gamma=10, other_log_probs=b)
    assert parts["kl"].abs().max() < 1e-6
    for decode in ("greedy", "first"):
        assert torch.equal(alro.rank_candidates(model, first, decode), alro.rank_candidates(model, second, decode))


def test_a_model_that_copies_the_display_is_not_invariant():
    """The test above must be able to fail: a random model's outputs do depend on the displayed order."""
    model = tiny("Llama")
    with torch.no_grad():
        model.get_output_embeddings().weight *= 50  # sharper, so that differences stand above rounding
    a, b = (log_probs_of(model, batch(key)).log_softmax(-1) for key in (1, 2))
    parts = alro.alro_loss(a, batch(1).order, batch(1).ratings, alpha=1, beta=1, gamma=10, other_log_probs=b)
    assert parts["kl"].mean() > 1e-3


# ---- ranking --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_ranking_equals_decoding_without_cache_one_list_at_a_time(family):
    model, found = tiny(family), batch(answers=False)
    ranked = alro.rank_candidates(model, found)
    for row in range(len(LISTS)):
        ids, left, expected = found.input_ids[row, :found.prompt_tokens[row]].tolist(), list(range(5)), []
        while left:
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            slot = max(left, key=lambda s: logits[found.identifiers[s]].item())
            left.remove(slot)
            ids.append(found.identifiers[slot].item())
            expected.append(found.slots[row, slot].item())
        assert ranked[row].tolist() == expected
    logits = model(input_ids=found.input_ids[:1, :found.prompt_tokens[0]]).logits[0, -1]
    first = found.slots[0][logits[found.identifiers].argsort(descending=True)]
    assert torch.equal(alro.rank_candidates(model, found, "first")[0], first)


@pytest.mark.parametrize("family", ["Mistral", "Gemma3"])
def test_a_sliding_window_shorter_than_the_prompt_does_not_mind_padding(family):
    """Each list ranked alone, where nothing is padded, as in a batch of unequal lengths."""
    model = tiny(family, sliding_window=8)
    together = alro.rank_candidates(model, batch(answers=False))
    whole = batch(answers=False)
    for row in range(len(LISTS)):
        one = whole._replace(input_ids=whole.input_ids[row:row + 1, :whole.prompt_tokens[row]],
                             prompt_tokens=whole.prompt_tokens[row:row + 1], slots=whole.slots[row:row + 1])
        assert torch.equal(alro.rank_candidates(model, one)[0], together[row])


@pytest.mark.parametrize("decode", ["greedy", "first"])
def test_ranking_does_not_see_an_answer_or_padding_in_the_batch(decode):
    model, gold = tiny("Llama"), batch()
    wrong = gold._replace(input_ids=gold.input_ids.clone())
    for row in range(len(LISTS)):
        wrong.input_ids[row, gold.prompt_tokens[row]:] = torch.randint(len(TOKENIZER), (1,)).item()
    expected = alro.rank_candidates(model, batch(answers=False), decode)
    assert torch.equal(alro.rank_candidates(model, gold, decode), expected)
    assert torch.equal(alro.rank_candidates(model, wrong, decode), expected)


@few
@given(st.integers(0, 2 ** 31), st.sampled_from(["greedy", "first"]), st.sampled_from([0.0, 1.0, 1e4]))
def test_ranking_is_always_a_permutation(seed, decode, scale):
    model = tiny("Llama")
    torch.manual_seed(seed)
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(0, scale)
    ranked = alro.rank_candidates(model, batch(seed, answers=False), decode)
    assert ranked.sort(-1).values.eq(torch.arange(5)).all()


def test_a_dead_model_ranks_at_random_not_as_displayed():
    """All logits equal: the ranking must be the item order, which carries no information, in every display."""
    model = tiny("Llama")
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    for decode in ("greedy", "first"):
        assert (alro.rank_candidates(model, batch(answers=False), decode) == torch.arange(5)).all()


def test_broken_weights_and_a_wrong_decode_are_errors():
    model = tiny("Llama")
    with pytest.raises(ValueError, match="beam"):
        alro.rank_candidates(model, batch(answers=False), "beam")
    with torch.no_grad():
        model.get_output_embeddings().weight[batch().identifiers[2]] = float("nan")
    with pytest.raises(alro.AlroError, match="not finite in rows"):
        alro.rank_candidates(model, batch(answers=False))


def test_loading_refuses_a_model_whose_logits_are_capped(tmp_path):
    """Gemma 2 squeezes its logits through a tanh, which target_logits does not."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                                       num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0,
                                       final_logit_softcapping=0.01)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(alro.AlroError, match="output layer"):
        load_model(str(tmp_path))


# ---- On another device ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_the_way_from_a_batch_to_losses_and_rankings_stays_on_its_device(family, monkeypatch):
    """On the meta device, which needs no GPU: an operation on tensors of two devices is an error, forward and back."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no meta device
    model, found = tiny(family).to("meta"), batch().to("meta")
    with OneDevice():
        answer_logits, history_logits, candidate_logits = alro.target_logits(model, found)
        log_probs = alro.candidate_log_probs(answer_logits, found)
        (alro.sft_loss(log_probs, found.order) + alro.rating_loss(history_logits, found.history_rated)
         + alro.rating_loss(candidate_logits, found.candidate_rated)).sum().backward()
        rankings = [alro.rank_candidates(model, found, decode) for decode in alro.DECODINGS]
    assert all(weight.grad.is_meta for weight in model.parameters())
    assert [tuple(ranking.shape) for ranking in rankings] == [(8, 5)] * 3
