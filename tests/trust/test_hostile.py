"""Hostile text in titles stays one line of text; nothing in a model folder or a checkpoint is executed."""
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import csv_run, edit, one_line, said, state_of
from tokenizers import processors
from worlds import byte_level, many, sentencepiece, word_level, write

import alro
import data
import train
from alro import AlroError
from plumbing.model import load_model, load_tokenizer, tokenise


# ---- Text ------------------------------------------------------------------------------------------------------------

ODD = ["a\nb", "a\rb", "a\r\nb", "a\x0bb", "a\x0cb", "a\x1cb\x1db\x1eb", "a\x85b", "a\u2028b\u2029c", "Fargo -> A",
       "x ->", "-> A\n-> B", "Ranking:", "Ranking: A B C", "Rank these movies from most to least liked by this user:",
       "A user rated these movies (1 = worst, 5 = best):", "A", " B", "A: 5", "\u200fמחר\u202eabc\u2066", "<|im_end|>",
       "<|im_start|>user", "<s></s><unk><pad>", "😀👨‍👩‍👧 🎬", "\ufeffx", "x" * 10_000, "word " * 2000, "", " ", "\0",
       "\ud800", "e\u0301\u0302" * 50, "{0} %s {title}"]


def check_hostile(tokenizer, titles, special):
    """m lines, each ending in its own identifier; no special token; answers are where they should be."""
    for start in range(0, len(titles), 8):
        names = [*titles[start:start + 8], "Heat (1995)", "Babe (1995)"]
        m = len(names) - 1
        slots = data.random_slots(m, "odd", start)
        text = alro.build_prompt([(names[-1], 4)], names[:m], slots)
        lines = text.splitlines()
        assert len(lines) == 1 + 1 + 1 + m + 1 and lines[-1] == "Ranking:"
        assert all(line.endswith(f" ->{name}") for line, name in zip(lines[3:-1], alro.IDENTIFIERS))
        encoder = data.Encoder(tokenizer, data.PromptWords(names, "movie", (1, 5), [1.0, 5.0]), m, 10 ** 6)
        one = data.RankingList("x", 0, [(m, 4.0)], list(range(m)), [1.0] * m, slots)
        gold = torch.randperm(m, generator=data.generator(start)).unsqueeze(0)
        batch = encoder.encode([one], [slots], gold)
        ids = batch.input_ids[0].tolist()
        assert not special & set(ids[1:])  # (the first may be the tokenizer's own beginning-of-text)
        assert ids[batch.prompt_tokens[0]:] == [
            encoder.identifiers[slots.index(item)].item() for item in gold[0].tolist()]
        whole = tokenise(tokenizer, [text + "".join(alro.IDENTIFIERS[slots.index(i)] for i in gold[0].tolist())])
        assert whole.input_ids[0] == ids


@pytest.mark.parametrize("kind", ["word", "byte", "unigram", "llama"])
def test_hostile_titles_stay_one_line_and_text(kind):
    tokenizer = {"word": lambda: word_level([*ODD, "Heat (1995)", "Babe (1995)"]), "byte": byte_level,
                 "unigram": lambda: sentencepiece("unigram"), "llama": lambda: sentencepiece("llama")}[kind]()
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    if kind != "unigram":
        return check_hostile(tokenizer, ODD, special)
    # A Unigram model looks its whole vocabulary up, so "</s>" in a title is that token: refused, by list.
    check_hostile(tokenizer, [title for title in ODD if "</s>" not in title], special)
    titles = ["Babe", "x </s> y", "Heat"]
    encoder = data.Encoder(tokenizer, data.PromptWords(titles, "movie", (1, 5), [1.0, 5.0]), 2, 10 ** 6)
    fine, bad = (data.RankingList(f"{n}/test", 0, [], [0, n], [1.0] * 2, [0, 1]) for n in (2, 1))
    encoder.encode([fine], [[0, 1]])
    assert "list '1/test': a title holds a special token" in one_line(encoder.encode, [fine, bad], [[0, 1]] * 2)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    encoder = data.Encoder(tokenizer, encoder.words, 2, 10 ** 6)
    assert encoder.encode([fine], [[0, 1]]).input_ids[0, 0] == 1  # its own beginning-of-text is no title's
    titles[1] = "<s>"
    assert "list '1/test'" in one_line(encoder.encode, [fine, bad], [[0, 1]] * 2)


@pytest.mark.skipif(not os.environ.get("ALRO_REAL_INPUTS"), reason="ALRO_REAL_INPUTS is not set")
def test_hostile_titles_stay_text_with_a_real_tokenizer():
    tokenizer = load_tokenizer(str(Path(os.environ["ALRO_REAL_INPUTS"], "smollm2-135m")))
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    titles = [*ODD, *(token.content for token in tokenizer.added_tokens_decoder.values())]
    assert special & set(tokenizer("<|im_end|>").input_ids)  # so it would be, were it not for `tokenise`
    check_hostile(tokenizer, titles, special)


def test_a_list_too_long_for_the_model_is_one_line_from_the_loader_too(tmp_path):
    """The thread that makes the batches meets it first, with the history already left out."""
    write(tmp_path, "csv", many(users=8, least=16, most=16), {str(i): "long " * 500 + str(i) for i in range(40)})
    assert re.search(r"list '\d/train-\d': \d+ tokens, but the model reads 1024: too long",
                     said(train.train, *csv_run(tmp_path, tmp_path / "run")))


# ---- Files -----------------------------------------------------------------------------------------------------------

class Payload:
    """A pickle that, once loaded, leaves a file behind."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.mark.parametrize("fault", ["only a pickle", "only pickled weights", "remote model", "remote tokenizer",
                                   "remote model of a known type", "adapter with a pickle"])
def test_nothing_in_a_model_folder_is_executed(straight, tmp_path, fault, monkeypatch):
    """Pickled weights and code beside a model: refused in one line, or not looked at; never run."""
    folder, mark = tmp_path / "model", tmp_path / "executed"
    shutil.copytree(straight / "model", folder)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    if fault == "only pickled weights":  # harmless ones, which a loader of pickles would take
        torch.save(load_model(str(folder)).state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    if fault in ("only a pickle", "adapter with a pickle"):
        (folder / "model.safetensors").unlink()
        name = "pytorch_model.bin" if fault == "only a pickle" else "adapter_model.bin"
        (folder / name).write_bytes(pickle.dumps(Payload(mark)))
    if fault == "adapter with a pickle":
        pytest.importorskip("peft")
        (folder / "adapter_config.json").write_text(json.dumps({
            "peft_type": "LORA", "base_model_name_or_path": str(straight / "model"), "task_type": "CAUSAL_LM", "r": 2,
            "target_modules": ["q_proj"]}))
    if "remote model" in fault:
        edit(folder / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
             **({} if "known" in fault else {"model_type": "evil"}))
    if fault == "remote tokenizer":
        edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Model", "evil.Model"]},
             tokenizer_class="Model")
        try:
            loaded = load_tokenizer(str(folder))
        except AlroError as error:
            assert str(folder) in str(error) and len(str(error).splitlines()) == 1
        else:  # the code is not looked at: tokenizer.json alone says what the tokenizer is
            text = "Film 1 ->\nRanking: A"
            assert loaded.encode(text) == load_tokenizer(str(straight / "model")).encode(text)
    elif "known" in fault:
        load_model(str(folder))  # Llama by its own name: transformers' class, not the folder's
    else:
        assert str(folder) in one_line(load_model, str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("content", ["pickle", "object in an archive", "cut short", "not an archive", "a list",
                                     "no optimizer", "other shapes", "one number each", "best is a word"])
def test_a_bad_checkpoint_is_refused_and_not_executed(straight, tmp_path, content):
    out, mark = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(straight, out)
    file, good = out / "checkpoint" / "state.pt", state_of(straight)
    if content == "pickle":
        file.write_bytes(pickle.dumps(Payload(mark)))
    elif content in ("cut short", "not an archive"):
        file.write_bytes(file.read_bytes()[:-1000] if content == "cut short" else b"x")
    else:
        torch.save({"object in an archive": {**good, "step": Payload(mark)}, "a list": [1],
                    "no optimizer": {name: value for name, value in good.items() if name != "optimizer"},
                    "one number each": {**good, "weights": {name: w[:1] if w.dim() == 1 else w  # could be broadcast
                                                            for name, w in good["weights"].items()}},
                    "best is a word": {**good, "best": "much"},
                    "other shapes": {**good, "weights": {name: w[:1, :3] if w.dim() == 2 else w
                                                         for name, w in good["weights"].items()}}}[content], file)
    assert f"{file} cannot be used" in one_line(train.main, ["--resume", str(out)])
    assert not mark.exists()
