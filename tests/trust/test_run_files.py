"""A run's own files, damaged: config.json, log, checkpoint, model and tokenizer. One line that names the file."""
import json
import random
import re
import shutil

import pytest
from damage import mutate
from helpers import assert_same_end, csv_run, edit, one_line, refused, said

import data
import evaluate
import train
from alro import AlroError
from experiments import ask, figures
from plumbing import flags
from plumbing import folder as run_folder
from plumbing.model import load_model, load_run, load_tokenizer


def test_damaged_json_is_one_line_that_names_the_file(straight, tmp_path):
    """200 damaged config.json and as many questions: read as they are, or refused by name."""
    draw, good = random.Random(0), (straight / "config.json").read_bytes()
    question = b'{"history": [["Film 1", 4]], "candidates": ["Film 2", "Film 3"]}'
    values = [b"3", b'"x"', b"[]", b"{}", b"null", b"NaN", b"1" * 5000, b"[" * 100_000, b"true", b"-1", b"\xff", b""]

    def injured(content):
        if draw.random() < 0.5:
            return mutate(content, draw)
        spans = [match.span(1) for match in re.finditer(rb': ("[^"]*"|[^\s,{}\[\]]+|\[[^\]]*\]|\{[^}]*\})', content)]
        start, end = draw.choice(spans)
        return content[:start] + draw.choice(values) + content[end:]

    (tmp_path / "model").mkdir()
    for name, content in (("config.json", good), ("q.json", question)):
        refused = 0
        for _ in range(200):
            for file, text in {"config.json": good, "q.json": question, name: injured(content)}.items():
                (tmp_path / file).unlink(missing_ok=True)
                (tmp_path / file).write_bytes(text)
            try:  # the folder's model/ is empty: who gets there has accepted both files
                if name == "config.json":
                    config = run_folder.read_run_config(str(tmp_path))
                    flags.config_from_dict(data.DataConfig, config["data"], str(tmp_path / name))
                    flags.config_from_dict(train.TrainConfig, config["train"], str(tmp_path / name))
                ask.ask(str(tmp_path), str(tmp_path / "q.json"), "greedy")
            except AlroError as error:
                assert len(str(error).splitlines()) == 1
                at_model = "/model" in str(error) or str(error).startswith("--")  # --list_size must be ...
                assert at_model or name in str(error), str(error)
                refused += not at_model
        assert refused > 100


@pytest.mark.parametrize("part, values", [
    ("train", {"model": 3}), ("train", {"model": []}), ("train", {"model": None}), ("train", {"seed": [1]}),
    ("train", {"seed": "0"}), ("train", 3), ("data", {"dataset": 3}), ("data", None), ("prompt", {"noun": 3}),
    ("prompt", {"noun": ["a"]}), ("prompt", {"noun": "x\nFilm 9 -> A"}), ("prompt", {"noun": ""}), ("prompt", []),
    ("prompt", {"scale": "15"}), ("prompt", {"scale": [1]}), ("prompt", {"scale": [10 ** 400, 1]}),
    ("prompt", {"scale": [1, "five"]}), ("prompt", {"scael": [1, 5]}), ("prompt", {"levels": "12"}),
    ("prompt", {"levels": [1, "two"]}), ("prompt", {"levels": []}), ("train", {"candidate_weight": "x"})])
def test_wrong_types_in_config_json_are_one_line(straight, tmp_path, part, values):
    config = json.loads((straight / "config.json").read_text())
    config[part] = {**config[part], **values} if isinstance(values, dict) else values
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "q.json").write_text('{"history": [], "candidates": ["Film 1", "Film 2"]}')
    message = one_line(evaluate.main, [str(tmp_path), "--ask", str(tmp_path / "q.json")])
    assert f"{tmp_path}/config.json: " in message and (part in message or "noun" in message)
    assert all(name in message for name in (values if isinstance(values, dict) else ()))


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"[1]\n", b"3\n", b"x\n", b'{"valid_ndcg": 1}\n',
                                     b'{"step": 9, "sf', b'{"step": "9", "valid_ndcg": "x"}\n'])
def test_a_damaged_log_is_one_line_that_names_it(straight, tmp_path, content):
    """--resume mends a last line cut short, and refuses the rest; figures, of finished runs, refuse all."""
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "log.jsonl").write_bytes((straight / "log.jsonl").read_bytes() + content)
    if content.endswith(b"\n"):
        message = said(train.main, ["--resume", str(tmp_path / "run")])
        assert f"{tmp_path}/run/log.jsonl: cannot be resumed from" in message
    assert (tmp_path / "run" / "log.jsonl").read_bytes().endswith(content)
    table, folders = {"list_size": 3, "methods": {"run": {"mean_rank_by_slot": [2.0] * 3}}}, [str(tmp_path / "run")]
    if content != b"[1]\n":  # a row without a score, to figures
        message = one_line(figures.curves, table, {"run": folders}, {})
        places = f"{tmp_path}/run/log.jsonl: cannot be read", f"log.jsonl of {tmp_path}/run: cannot be read"
        assert message.startswith(places)
    if not content.endswith(b"\n"):
        train.main(["--resume", str(tmp_path / "run")])
        assert_same_end(straight, tmp_path / "run")


@pytest.mark.parametrize("file, values, names", [
    ("config.json", {"hidden_size": "many"}, "hidden_size"), ("config.json", {"hidden_act": "eval"}, "eval"),
    ("config.json", {"num_attention_heads": 0}, "Zero"), ("config.json", {"num_hidden_layers": 3}, "num_hidden_layers"),
    ("config.json", {"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5}, "lack 11"),
    ("config.json", {"vocab_size": 7}, ""), ("config.json", {"model_type": "none"}, "none"),
    ("config.json", {"rope_parameters": 3}, "rope_parameters"), ("tokenizer_config.json", {"tokenizer_class": 3}, ""),
    ("config.json", "[", "JSON"), ("config.json", "[]", ""), ("tokenizer.json", "[]", ""), ("tokenizer.json", "\0", ""),
    ("tokenizer.json", "[" * 100_000, "recursion"), ("tokenizer_config.json", "[]", ""),
    ("model.safetensors", "", "header"), ("model.safetensors", "\xff" * 100, "header")])
def test_damaged_models_are_one_line(straight, tmp_path, file, values, names):
    """Ill-typed fields are named; a layer too many is refused, not filled with random weights."""
    folder = tmp_path / "model"
    shutil.copytree(straight / "model", folder)
    edit(folder / file, **values) if isinstance(values, dict) else (folder / file).write_text(values, "latin-1")
    load = load_tokenizer if file.startswith("tokenizer") else load_model
    message = one_line(load, str(folder))
    assert str(folder) in message and names in message


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(world, straight, tmp_path):
    """Its new tokens would be read beyond the end of the embedding."""
    shutil.copytree(straight, tmp_path / "run")
    tokenizer = load_tokenizer(str(tmp_path / "run" / "model"))
    known = len(tokenizer)
    tokenizer.add_tokens(["zz", "qq"])
    tokenizer.save_pretrained(tmp_path / "run" / "model")
    expected = f"the tokenizer has {known + 2} tokens, the model knows {known} of them"
    assert expected in one_line(evaluate.main, [str(tmp_path / "run"), "--limit", "2", "--orders", "1"])
    cfg = csv_run(world, tmp_path / "new", model=str(tmp_path / "run" / "model"))
    assert expected in one_line(train.train, *cfg) and not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", ["long", [1], {}])
def test_a_longest_length_that_is_no_number_is_refused(world, straight, tmp_path, value):
    shutil.copytree(straight, tmp_path / "run")
    edit(tmp_path / "run" / "model" / "tokenizer_config.json", model_max_length=value)
    cfg = csv_run(world, tmp_path / "new", model=str(tmp_path / "run" / "model"))
    config = run_folder.read_run_config(str(tmp_path / "run"))
    for message in one_line(load_run, str(tmp_path / "run"), config), one_line(train.train, *cfg):
        assert f"{tmp_path}/run/model" in message and "model_max_length" in message


def test_what_is_no_run_is_said_so(tmp_path):
    with refused("config.json"):
        evaluate.main([str(tmp_path)])
    with refused("--orders"):
        evaluate.main([str(tmp_path), "--orders", "0"])
