"""Every kind of tokenizer: identifiers are one token each, wherever they stand, or it is refused."""
import pytest
import torch
from helpers import csv_run, one_line, refused
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from worlds import encoder_of, sentencepiece, tokenizer_of

import alro
import data
from plumbing.model import identifier_tokens, tokenise


@pytest.mark.parametrize("kind", ["word", "byte", "byte, digits", "unigram", "llama"])
def test_every_kind_of_tokenizer_meets_the_methods_needs(world, kind):
    """Identifiers single and distinct; prompt + answer tokenise as the parts do; padding, and a pad token that is the
    end token, change no loss and no ranking."""
    cfg = csv_run(world, "-")[0]
    ratings = data.load(cfg)
    lists, tokenizer = data.split(ratings, cfg).train[:6], tokenizer_of(kind, ratings)
    identifiers = identifier_tokens(tokenizer, 26).tolist()
    assert len(set(identifiers)) == 26 and [tokenizer.decode([i]).strip() for i in identifiers] == list(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer) + 1, n_embd=16, n_layer=2, n_head=2,
                                       initializer_range=0.5)).eval()
    words = ratings.words
    encoder = data.Encoder(tokenizer, words, 3, 1000)
    slots = [data.random_slots(3, one.list_id) for one in lists]
    gold = torch.cat([alro.gold_order(torch.tensor([one.ratings])) for one in lists])

    def measure(lists, slots, gold):
        batch = encoder.encode(lists, slots, gold)
        answer_logits, history_logits, candidate_logits = alro.target_logits(model, batch)
        ratings = (alro.rating_loss(history_logits, batch.history_rated)
                   + alro.rating_loss(candidate_logits, batch.candidate_rated))
        return (batch, alro.candidate_log_probs(answer_logits, batch), ratings, alro.rank_candidates(model, batch))
    together = measure(lists, slots, gold)
    if tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    padded = together[0]._replace(input_ids=torch.nn.functional.pad(together[0].input_ids, (0, 9), value=(
        tokenizer.pad_token_id)))
    of_padded = alro.candidate_log_probs(alro.target_logits(model, padded)[0], padded)
    assert torch.allclose(of_padded, together[1], atol=1e-5)
    assert torch.equal(alro.rank_candidates(model, padded), together[3])
    for row, one in enumerate(lists):
        batch, log_probs, history, ranked = measure([one], [slots[row]], gold[row:row + 1])  # alone: nothing is padded
        text = data.list_prompt(words, one, slots[row])
        answer = "".join(alro.IDENTIFIERS[slots[row].index(item)] for item in gold[row].tolist())
        assert batch.input_ids[0].tolist() == tokenise(tokenizer, [text + answer]).input_ids[0]
        assert torch.allclose(log_probs[0], together[1][row], atol=1e-5)
        assert torch.allclose(history[0], together[2][row], atol=1e-5) and torch.equal(ranked[0], together[3][row])


def test_a_tokenizer_that_ends_every_text_or_has_no_identifiers_is_refused():
    """An end token after the prompt would stand before the answer; letters in bytes are not one token each."""
    ends, bytes_only = sentencepiece("llama"), sentencepiece("unigram")
    ends.backend_tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 2)])
    assert "identifier ' A'" in one_line(identifier_tokens, ends, 2)
    bytes_only.backend_tokenizer.model = models.Unigram(
        [("<unk>", 0.0), *((f"<0x{i:02X}>", -30.0) for i in range(256))], 0, byte_fallback=True)
    assert "identifier ' A'" in one_line(identifier_tokens, bytes_only, 2)


def test_identifiers_must_be_one_token_each():
    """Refused by name: " A" in two tokens or merged with the line's end; all letters <unk>, or one, or two alike."""
    def tokens(letters, splitter=r"\n| ?\w+| ?[^\s\w]+| ", normalizer=None):
        words = ["<unk>", *letters, "->", " ->", "Ranking", ":", "\n", "Fargo"]
        tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(splitter), behavior="isolated")
        if normalizer:
            tokenizer.normalizer = normalizer
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
        return encoder_of(fast, [], 26).identifiers.tolist()

    assert tokens(alro.IDENTIFIERS) == list(range(1, 27))
    with refused("identifier ' A'"):
        tokens([" ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], splitter=r"[\s\S]")
    with refused("identifier ' A'"):
        tokens([*alro.IDENTIFIERS, *(name + "\n" for name in alro.IDENTIFIERS)], splitter=r" \w\n?|\w+| ?[^\s\w]+|\s")
    for letters, normalizer in ([], None), (alro.IDENTIFIERS, normalizers.Lowercase()):
        with refused("identifier ' [AB]'"):
            tokens(letters, normalizer=normalizer)
    with refused("identifier ' Q'"):
        tokens([letter for letter in alro.IDENTIFIERS if letter != " Q"])
    with refused("identifier ' Q'"):
        tokens(alro.IDENTIFIERS, normalizer=normalizers.Replace("Q", "B"))
