"""What a user can rely on when things go wrong: files, disks, numbers, text and models that are not as they should be.

Every failure is an AlroError (or, from the command line, "error: ...") of one line, and leaves what was there whole.
"""
import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import signal
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from test_data import LAYOUTS, byte_level, every_layout, many, read, rows_of, word_level, write
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import alro
import cli
import data
import evaluate
import train
from alro import AlroError
from model import load_model, load_tokenizer, word_tokenizer

FORK = multiprocessing.get_context("fork")


def one_line(call, *arguments) -> str:
    """The message of the AlroError that call raises; one line of it."""
    with pytest.raises(AlroError) as error:
        call(*arguments)
    assert len(str(error.value).splitlines()) == 1, str(error.value)
    return str(error.value)


def said(call, *arguments) -> str:
    """What a script's user sees when its main fails: one line, no traceback."""
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: call(*arguments))
    assert str(stop.value).startswith("error: ") and len(str(stop.value).splitlines()) == 1, str(stop.value)
    return str(stop.value)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in the csv layout: 30 users with 16 to 22 ratings each of 40 films."""
    folder = tmp_path_factory.mktemp("world")
    return write(folder, "csv", many(users=30, least=16, most=22), {str(i): f"Film {i}" for i in range(40)})


def settings(world, out, m=3, history_size=4, **more):
    """(DataConfig, TrainConfig) of a run of a second."""
    return data.DataConfig("csv", str(world), list_size=m, history_size=history_size), train.TrainConfig(**{
        "out": str(out), "steps": 6, "batch_size": 4, "valid_every": 3, "valid_limit": 3, "test_limit": 0,
        "log_every": 1, "warmup_steps": 1, **more})


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("straight") / "run"
    train.train(*settings(world, out))
    return out


def state(out) -> dict:
    return torch.load(out / "checkpoint" / "state.pt", weights_only=True)


def assert_same_end(one, other):
    """Equal weights, log and best model, bit for bit."""
    first, second = state(one), state(other)
    assert first["step"] == second["step"] == 6
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    logs = [[{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"}
             for line in (out / "log.jsonl").read_text().splitlines()] for out in (one, other)]
    assert logs[0] == logs[1]
    assert len({(out / "model" / "model.safetensors").read_bytes() for out in (one, other)}) == 1


def in_child(function, *arguments):
    """Start function in a process of its own; what it returns, or how it stopped, comes through the pipe."""
    ours, theirs = FORK.Pipe()

    def call():
        try:
            theirs.send(function(*arguments))
        except (Exception, SystemExit) as error:
            theirs.send(f"{type(error).__name__}: {error}")
    process = FORK.Process(target=call)
    process.start()
    return process, ours


# ---- 1. Interruption (kill -9 at random moments: test_interruption.py; Ctrl-C: test_train.py) -----------------------

def test_a_run_in_use_is_refused_and_free_once_its_process_is_killed(world, straight, tmp_path):
    """A second --resume beside a running one changes no file; after kill -9 it goes on at once, to the same end."""
    out, (ready, go) = tmp_path / "run", FORK.Pipe()

    def wait(step):
        if step == 4:
            go.send("at step 4")
            signal.pause()
    process, _ = in_child(lambda: train.train(*settings(world, out), on_step=wait))
    try:
        assert ready.poll(60) and ready.recv() == "at step 4"
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert "in use" in one_line(train.main, ["--resume", str(out)])
        assert "in use" in one_line(train.train, *settings(world, out))
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    finally:
        process.kill()
        process.join()
    train.main(["--resume", str(out)])
    assert_same_end(straight, out)


def test_a_run_is_not_gone_on_with_on_other_data(world, straight, tmp_path):
    """Ratings changed since: refused. The same ratings in another order of lines: not."""
    shutil.copytree(straight, tmp_path / "run")
    shutil.copytree(world, tmp_path / "world")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["data_path"] = str(tmp_path / "world")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    header, *lines = (world / "ratings.csv").read_text().splitlines()
    (tmp_path / "world" / "ratings.csv").write_text("\n".join([header, *lines[::-1]]))
    train.main(["--resume", str(tmp_path / "run")])
    user, item, _, time = zip(*(line.split(",") for line in lines))
    lines = [",".join(row) for row in zip(user, item, ["3"] * 20 + ["4"] * len(lines), time)]
    (tmp_path / "world" / "ratings.csv").write_text("\n".join([header, *lines]))
    assert "made with other data" in one_line(train.main, ["--resume", str(tmp_path / "run")])


@pytest.mark.parametrize("part, name, value", [
    ("train", "lr", 1e-3), ("train", "seed", 7), ("train", "steps", 9), ("train", "batch_size", 3),
    ("train", "dropout", None), ("data", "stride", 3), ("data", "history_ratings", None)])
def test_a_run_is_not_gone_on_with_under_another_configuration(straight, tmp_path, part, name, value):
    """config.json edited, or a field deleted so that its default would hold: half a run each way is no run."""
    shutil.copytree(straight, tmp_path / "run")
    config = json.loads((straight / "config.json").read_text())
    if value is None:
        del config[part][name]
        config["train"]["clip"] = 2.0  # the deleted field's default is the run's value: harmless, were it all
    else:
        config[part][name] = value
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert "other data or another configuration" in one_line(train.main, ["--resume", str(tmp_path / "run")])
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("theirs", ["model/mine.txt", "checkpoint/state.pt", "log.jsonl", "config.json", "thesis.tex"])
def test_a_folder_with_anything_in_it_is_not_trained_in(world, straight, tmp_path, theirs):
    """--out must be new or empty: refused by name before a byte is touched, a run's own files or somebody's."""
    out = tmp_path / "run"
    (out / theirs).parent.mkdir(parents=True)
    (out / theirs).write_text("mine")
    message = one_line(train.train, *settings(world, out))
    assert f"{out} holds ['{theirs.split('/')[0]}']" in message and f"--resume {out}" in message
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {theirs, "lock"}
    assert (out / theirs).read_text() == "mine"


def test_the_same_command_works_after_a_kill_before_config_json(world, straight, tmp_path):
    """And --out that names a file is one line, which says so."""
    (tmp_path / "run").mkdir()
    for name in "lock", "config.json.partial":
        (tmp_path / "run" / name).write_text("{")
    train.train(*settings(world, tmp_path / "run"))
    assert_same_end(straight, tmp_path / "run")
    assert one_line(train.train, *settings(world, world / "items.csv")) == f"--out {world}/items.csv is a file, " \
        "not a folder"


def test_control_c_in_the_last_validation_saves_and_says_how_to_resume(world, straight, tmp_path, monkeypatch):
    """Before the test lists are ranked; resumed, they are."""
    calls, real = [], train.ndcg

    def interrupt(*arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)
    monkeypatch.setattr(train, "ndcg", interrupt)
    with pytest.raises(SystemExit, match=f"--resume {tmp_path}/run"):
        train.train(*settings(world, tmp_path / "run", test_limit=3))
    assert len(calls) == 2 and not list((tmp_path / "run").glob("eval-*"))
    assert_same_end(straight, tmp_path / "run")
    assert "trained" in train.main(["--resume", str(tmp_path / "run")])["result"]["methods"]


def test_a_killed_loader_is_one_line(world, tmp_path):
    """As the system does it where memory has run out. Any other RuntimeError keeps its traceback: it is a bug."""
    def kill(step):
        if step == 2:
            for child in multiprocessing.active_children():
                child.kill()

    def run():  # in a process of its own: torch raises from a signal handler, wherever that finds Python
        cli.run(lambda: train.train(*settings(world, tmp_path / "run", steps=200), on_step=kill))
    process, pipe = in_child(run)
    assert pipe.poll(60)
    assert pipe.recv() == "SystemExit: error: the process that tokenises was killed; memory may have run out"
    process.join()

    def fail(error):
        raise error
    for error in (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), EOFError(),
                  RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), ConnectionResetError(104, "reset")):
        assert "memory may have run out" in said(fail, error)  # which of them comes is chance
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.run(lambda: fail(RuntimeError("shapes differ")))


# ---- 2. Full disk, denied rights -------------------------------------------------------------------------------------

@pytest.mark.parametrize("limit, what", [(100, "log.jsonl"), (100_000, "model"), (400_000, "checkpoint"),
                                         (800_000, "checkpoint")])
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint_whole(world, straight, tmp_path, limit, what):
    """From step 4 on no file may grow past `limit` bytes, so that log, model or checkpoint fail, by the system's own
    error, in whatever library writes them. With room again the run goes on to the same end."""
    out = tmp_path / "run"
    shutil.copytree(straight, out)

    def fill(step):
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def run():
        if what == "model":  # the second validation must be the better one, so that it saves
            values = iter([0.1, 0.9])
            train.ndcg = lambda *_: torch.tensor([next(values)])
        shutil.rmtree(out)
        cli.run(lambda: train.train(*settings(world, out), on_step=fill))
    process, pipe = in_child(run)
    assert pipe.poll(60)
    message = pipe.recv()
    process.join()
    assert message.startswith("SystemExit: error: ") and len(message.splitlines()) == 1, message
    assert f"{out}/{what}" in message and "written" in message and "File too large" in message, message
    assert state(out)["step"] == 3 and load_model(str(out / "model"))
    if what != "model":
        train.main(["--resume", str(out)])
        assert_same_end(straight, out)


@pytest.mark.parametrize("error", [
    OSError(28, "No space left on device"), Exception("No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672]\n. unexpected pos 51328 vs 51280"),
    PermissionError(13, "Permission denied")])
@pytest.mark.parametrize("where", ["tokenizer", "model", "checkpoint", "config.json"])
def test_every_writer_explains_every_error(world, straight, tmp_path, monkeypatch, error, where):
    """torch, safetensors and tokenizers raise types of their own: one line that names the place; no file is lost."""
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    model, tokenizer = evaluate.load_run(str(out))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def fail(*_, **__):
        raise error
    if where in ("tokenizer", "model"):
        monkeypatch.setattr({"tokenizer": tokenizer, "model": model}[where], "save_pretrained", fail)
        message = one_line(train.save_model, model, tokenizer, out)
    elif where == "checkpoint":
        monkeypatch.setattr(torch, "save", fail)
        message = one_line(train.save_checkpoint, out, {})
    else:
        monkeypatch.setattr(Path, "write_text", fail)
        message = one_line(cli.write_json, out / "config.json", {})
    assert f"{out}/{where.replace('tokenizer', 'model')}: cannot be written" in message
    assert before.items() <= {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}.items()


def test_a_full_disk_after_a_kill_between_two_renames_keeps_the_only_model(straight, tmp_path, monkeypatch):
    """model.old alone is left, and the model that should follow it cannot be written."""
    shutil.copytree(straight / "model", tmp_path / "model.old")
    model, tokenizer = evaluate.load_run(str(straight))

    def fail(*_, **__):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(model, "save_pretrained", fail)
        assert "No space left" in one_line(train.save_model, model, tokenizer, tmp_path)
    assert load_model(str(tmp_path / "model.old"))
    train.save_model(model, tokenizer, tmp_path)  # with room again
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and load_model(str(tmp_path / "model"))


def test_a_full_disk_while_the_log_is_cut_back_is_one_line(straight, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(straight, out)

    def run():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with contextlib.redirect_stdout(io.StringIO()):  # pytest's is a file, too
            cli.run(lambda: train.main(["--resume", str(out)]))
    process, pipe = in_child(run)
    assert pipe.poll(60) and (message := pipe.recv()).startswith(f"SystemExit: error: {out}/log.jsonl: "), message
    process.join()
    assert "File too large" in message and len(message.splitlines()) == 1
    assert (out / "log.jsonl").read_bytes() == (straight / "log.jsonl").read_bytes()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become nobody")
@pytest.mark.parametrize("closed", ["", "lock", "checkpoint", "log.jsonl", "config.json"])
def test_denied_rights_are_one_line_that_names_the_path(world, straight, closed):
    """A run of nobody's in which one folder is read-only or one file unreadable ("": the run's own folder), gone on
    with from step 3 by nobody. Not in tmp_path, which nobody may not enter."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        shutil.copytree(world, Path(folder, "world"))
        cfgs = settings(Path(folder, "world"), out)

        def stop(step):
            if step == 4:
                raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt):
            train.train(*cfgs, on_step=stop)
        assert state(out)["step"] == 3
        before = (out / "checkpoint" / "state.pt").read_bytes()
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, 65534, 65534)
        os.chmod(out / closed, 0o555 if (out / closed).is_dir() else 0)

        def run():
            os.setgid(65534)
            os.setuid(65534)
            cli.run(lambda: train.main(["--resume", str(out)]))
        process, pipe = in_child(run)
        assert pipe.poll(60)
        message = pipe.recv()
        process.join()
        assert re.match(rf"SystemExit: error: .*{out / closed}", message) and "Permission denied" in message, message
        assert len(message.splitlines()) == 1
        assert (out / "checkpoint" / "state.pt").read_bytes() == before


@pytest.mark.parametrize("out", ["/proc/no/such", "/dev/null", "/dev/full/run"])
def test_a_folder_that_cannot_be_made_is_one_line(world, out):
    """A read-only place, a file in the folder's place, a device."""
    assert out.split("/")[1] in said(train.train, *settings(world, out))


# ---- 3. Poisoned numbers --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient", "rating", "part"])
def test_numbers_that_are_not_finite_stop_the_run(world, tmp_path, monkeypatch, where, value):
    """At step 4, in the loss, in one weight's gradient, in one rating or in one logged part: the error names step 4 and
    its lists (user/window); the checkpoint of step 3 is whole and finite."""
    calls, real, build = [], train.losses, train.build_model

    def poisoned(model, batch, cfg):
        calls.append(1)
        if len(calls) != 4:
            return real(model, batch, cfg)
        if where == "rating":
            batch.ratings[0, 0] = value
        parts = real(model, batch, cfg)
        if where == "part":
            return {**parts, "psl": parts["psl"] * value}
        return {**parts, "total": parts["total"] * value} if where == "loss" else parts

    def with_hook(cfg, ratings):
        model, tokenizer = build(cfg, ratings)
        if where == "gradient":
            model.base_model.layers[0].mlp.up_proj.weight.register_hook(
                lambda grad: grad.index_fill(0, torch.tensor([3]), value) if len(calls) == 4 else grad)
        return model, tokenizer
    monkeypatch.setattr(train, "losses", poisoned)
    monkeypatch.setattr(train, "build_model", with_hook)
    if where == "rating" and value < 0:
        pytest.skip("2^-inf is 0, a finite gain: the loss stays finite, and files hold no such rating")
    message = one_line(train.train, *settings(world, tmp_path / "run", log_every=50))
    assert re.search(r"step 4: not finite: .*lists \['\d+/train-\d+'", message), message
    assert state(tmp_path / "run")["step"] == 3
    assert all(weight.isfinite().all() for weight in state(tmp_path / "run")["weights"].values())


def test_broken_weights_are_an_error_that_names_the_lists(world, straight, tmp_path):
    """A NaN in a trained model's weights: evaluation names lists and users, and writes no result."""
    from safetensors.torch import load_file, save_file
    shutil.copytree(straight, tmp_path / "run")
    file = tmp_path / "run" / "model" / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.mlp.up_proj.weight"][3] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    message = one_line(evaluate.main, [str(tmp_path / "run")])
    assert "not finite" in message and re.search(r"lists \['\d+/test'", message)
    assert not list((tmp_path / "run").glob("eval-*"))


@pytest.mark.parametrize("step", [3, 6])
def test_a_validation_that_is_not_finite_names_the_step(world, tmp_path, monkeypatch, step):
    """Logits that are NaN in validation alone: the step and the lists; the checkpoint before, if any, is whole."""
    build, done = train.build_model, []

    def poisoned(cfg, ratings):
        model, tokenizer = build(cfg, ratings)

        def poison(module, _, output):
            if not module.training and len(done) == step - 1:
                output.last_hidden_state.fill_(float("nan"))
        model.base_model.register_forward_hook(poison)
        return model, tokenizer
    monkeypatch.setattr(train, "build_model", poisoned)
    message = one_line(lambda: train.train(*settings(world, tmp_path / "run"), on_step=done.append))
    assert re.match(rf"step {step}: the model's logits are not finite .*lists \['\d+/valid'", message), message
    assert (state(tmp_path / "run")["step"] == 3) if step == 6 else not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.parametrize("m, history_size", [(2, 0), (2, 4), (26, 0)])
def test_smallest_and_largest_lists_train_and_rank(tmp_path, m, history_size):
    """m = 2 and m = 26, with no history at all: finite losses, permutations, and a table."""
    write(tmp_path, "csv", many(users=4, items=90, least=84, most=84), {str(i): f"Film {i}" for i in range(90)})
    outcome = train.train(*settings(tmp_path, tmp_path / "run", m, history_size, steps=2, valid_every=2, test_limit=4))
    assert all(sorted(order) == list(range(m)) for some in outcome["methods"]["trained"]["predicted"]
               for order in some.tolist())
    values = outcome["methods"]["trained"]["values"]
    assert all(((0 <= values[f"ndcg@{k}"]) & (values[f"ndcg@{k}"] <= 1)).all() for k in (1, 10))


def test_more_candidates_than_identifiers_and_bad_ratings_in_a_question(straight, tmp_path):
    """27 candidates, NaN and infinite ratings, no history: refused by name, or ranked."""
    def ask(history, candidates):
        (tmp_path / "q.json").write_text(json.dumps({"history": history, "candidates": candidates}))
        return evaluate.ask(str(straight), evaluate.EvalConfig(ask=str(tmp_path / "q.json")))

    films = [f"Film {i}" for i in range(27)]
    assert "27 candidates; 2..26" in one_line(ask, [], films)
    assert "1 candidates; 2..26" in one_line(ask, [], films[:1])
    for rating in (float("nan"), float("inf"), -1, 1e9):
        assert "'Film 0' has rating" in one_line(ask, [["Film 0", rating]], films[:3])
    assert "27 candidates" in one_line(alro.build_prompt, [], films, list(range(27)))
    assert "list_size" in one_line(lambda: data.DataConfig(list_size=27))
    for m in (2, 26):  # no history; 26 candidates with a model trained on lists of 3
        assert sorted(line.split(". ")[1] for line in ask([], films[:m]).splitlines()[:m]) == sorted(films[:m])


@pytest.mark.parametrize("history, candidates, expected", [
    ([], "Film 1", "expected"), ([], {"Film 1": 3, "Film 2": 4}, "expected"), ([], [None, 3], "expected"),
    ([], [["Film 1"], ["Film 2"]], "expected"), ({"a4": 0}, ["Film 1", "Film 2"], "expected"),
    (["a4"], ["Film 1", "Film 2"], "expected"), ([["Film 1", "4"]], ["Film 1", "Film 2"], "expected"),
    ([["Film 1", True]], ["Film 1", "Film 2"], "expected"), ([[3, 4]], ["Film 1", "Film 2"], "expected"),
    ([["Film 1", 4, 4]], ["Film 1", "Film 2"], "expected"), (None, ["Film 1", "Film 2"], "expected"),
    ([["Film 1", 10 ** 399]], ["Film 1", "Film 2"], "'Film 1' has rating"),
    ([["\ud800", 99]], ["Film 1", "Film 2"], "has rating 99"), ([], [], "0 candidates"),
    ([], ["a\n 1. b", "Film 2"], ["a 1. b", "Film 2"]), ([], ["\ud800 x", "Film 2"], ["x", "Film 2"]),
    ([["\ud800\n", 3]], ["", "Film 2"], ["", "Film 2"]), ([["Film 3", 4.0]], ["Film 1"] * 2, ["Film 1"] * 2)])
def test_odd_questions_are_one_line_or_a_ranking(straight, tmp_path, history, candidates, expected):
    """Through a real stream, which a lone surrogate would break."""
    (tmp_path / "q.json").write_text(json.dumps({"history": history, "candidates": candidates}))
    if isinstance(expected, str):
        message = said(evaluate.main, [str(straight), "--ask", str(tmp_path / "q.json")])
        assert str(tmp_path / "q.json") in message and expected in message
        return
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(stream):
        evaluate.main([str(straight), "--ask", str(tmp_path / "q.json")])
    stream.flush()
    lines = stream.buffer.getvalue().decode("utf-8").split("\n")
    assert sorted(line[4:] for line in lines[:2]) == sorted(expected) and [row[:4] for row in lines[:2]] == [
        " 1. ", " 2. "]


@pytest.mark.parametrize("more", [{"histroy": []}, {"history": [], "noun": "film"}, {"history": [], "histroy": []}])
def test_a_question_with_a_key_too_many_or_misspelt_is_refused(straight, tmp_path, more):
    """A misspelt history would be a ranking without one."""
    (tmp_path / "q.json").write_text(json.dumps({"candidates": ["Film 1", "Film 2"], **more}))
    message = one_line(evaluate.main, [str(straight), "--ask", str(tmp_path / "q.json")])
    assert f"{tmp_path}/q.json: expected" in message and "no more" in message


HUGE = {int: [10 ** 18, 10 ** 30, 10 ** 400, -1], float: ["1e300", "inf", "nan", "-inf"]}


@pytest.mark.parametrize("config", [train.TrainConfig, data.DataConfig, evaluate.EvalConfig])
def test_huge_flags_are_refused_by_name(config):
    """Every whole and every broken number that a configuration has: --steps 10^20, --epochs 1e300, --alpha inf, ..."""
    real = {"dataset": "csv", "data_path": "x"} if config is data.DataConfig else {}
    fields = [field for field in dataclasses.fields(config) if field.type in HUGE]
    assert len(fields) >= 4
    for field in fields:
        for value in HUGE[field.type]:
            message = one_line(lambda: config(**real, **{field.name: field.type(value)}))  # noqa: B023
            assert message.startswith(f"--{field.name} must be"), message
    for flag, value in (("--seed", 10 ** 30), ("--warmup_steps", 10 ** 400), ("--alpha", "inf")):
        assert f"error: {flag} must be" in said(train.main, [flag, str(value)])


# ---- 4. Bad data ----------------------------------------------------------------------------------------------------

SNIPPETS = [b"", b'"', b'""', b"\n", b"\r", b"\r\n", b"\t", b",", b"::", b"|", b"\0", b"\xef\xbb\xbf", b"\xff\xfe",
            b"\xe9", b"nan", b"-", b"1e999", b"\xe2\x80\xa8", b"\xd9\xa1", b"9" * 400, b"x" * 10_000, b"five", b" ",
            b"\x1c", b"\x85"]


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to three injuries: cut short, a piece gone, doubled or moved, bytes put in, a field or a line changed."""
    for _ in range(draw.randint(1, 3)):
        at, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
        end = min(end, at + draw.choice([1, 4, 30, 200]))
        kind = draw.randrange(8)
        lines = content.split(b"\n")
        if kind == 0:
            content = content[:at]
        elif kind == 1:
            content = content[:at] + content[end:]
        elif kind == 2:
            content = content[:end] + content[at:]
        elif kind == 3:
            draw.shuffle(lines)
            content = b"\n".join(lines)
        elif kind == 4:
            content = content.replace(b"\n", draw.choice([b"\r\n", b"\r", b"\n\n"]))
        elif kind == 5:
            content = content.decode("latin-1").encode(draw.choice(["utf-16", "utf-8", "utf-8-sig"]))
        else:
            content = content[:at] + draw.choice(SNIPPETS) + content[at if kind == 6 else end:]
    return content


def by_hand(folder, layout):
    """What a dataset's files say, read plainly: {(user, item): (time, rating)} of the last, {item: raw title}."""
    separator, ratings_file, header, titles_file, titles_header, encoding = LAYOUTS[layout]

    def table(file, codec, header):
        text = (folder / file).read_bytes().decode("utf-8-sig" if codec == "utf-8" else codec, "replace")
        rows = csv.reader(io.StringIO(text, newline="")) if separator == "," else (
            line.rstrip("\r\n").split(sep) for line in text.split("\n"))
        rows = [[field.strip() for field in row] for row in rows if row not in ([], [""])]
        if not header:
            return rows
        names = [name.split(":")[0] for name in re.split("[,\t]", header) if name not in ("genres", "class:token_seq")]
        names = [{"movie_title": r"\w*title", "release_year": r"(\w+_)?year"}.get(name, name) for name in names]
        there = [name.split(":")[0] for name in rows[0]]
        place = [next((i for i, found in enumerate(there) if re.fullmatch(name, found)), None) for name in names]
        return [["" if i is None else row[i] for i in place] for row in rows[1:]]

    sep, found = separator, {}
    for user, item, rating, time in table(ratings_file, "utf-8", header):
        found[user, item] = max(found.get((user, item), (-float("inf"), 0)), (float(time), float(rating)))
    sep = "|" if layout == "ml-100k" else separator
    return found, {row[0]: row[1:] for row in table(titles_file, encoding, titles_header)}


@every_layout
def test_a_thousand_damaged_files_load_to_what_they_say_or_name_file_and_line(tmp_path, layout):
    """250 damaged files of each layout. What loads holds exactly what a plain second reader finds, and every row that
    was dropped or cleaned is counted; what does not is one line with the file and, but for an empty one, the line.
    Every fifth is damaged harmlessly and must load, to what the files said before."""
    draw, outcomes = random.Random(layout), {"loaded": 0, "refused": 0}
    lines = many(users=3, items=8, most=8)
    for n in range(250):
        (tmp_path / f"{n}").mkdir()  # new files: to overwrite one waits for the disk
        folder = write(tmp_path / f"{n}", layout, lines + lines[:3], {str(i): f"Title, {i} (1995)" for i in range(8)})
        path = folder / LAYOUTS[layout][draw.choice([1, 1, 3])]
        whole = by_hand(folder, layout)
        header = LAYOUTS[layout][2] != ""
        injured = mutate(path.read_bytes(), draw) if n % 5 else harmless(path.read_bytes(), draw, header)
        path.unlink()
        path.write_bytes(injured)
        try:
            ratings = read(folder, layout)
        except AlroError as error:
            assert n % 5, f"a harmless file was refused: {error}"
            outcomes["refused"] += 1
            assert len(str(error).splitlines()) == 1
            assert re.search(rf"{path.name.replace('x.', '[*x].')}(:\d+: |: no ratings)", str(error)), str(error)
            continue
        outcomes["loaded"] += 1
        found, titles = by_hand(folder, layout)
        assert n % 5 or (found, titles) == whole
        assert rows_of(ratings) == {(user, item, rating, time) for (user, item), (time, rating) in found.items()}
        assert ratings.counts["ratings read"] == len(found) + ratings.counts["duplicates dropped"]
        cleaned = empty = 0
        for item, title in zip(ratings.items, ratings.titles):
            raw = titles.get(item, [""])
            name = alro.clean_text(raw[0])
            cleaned += any(alro.clean_text(text) != text for text in raw[:2 if layout == "recbole" else 1])
            empty += not name
            year = f" ({alro.clean_text(raw[1])})" if layout == "recbole" and len(raw) > 1 and raw[1] else ""
            assert title == (name + year if name else alro.clean_text(f"item {item}"))
        assert (ratings.counts["titles cleaned"], ratings.counts["titles missing or empty"]) == (cleaned, empty)
    print(layout, outcomes)
    assert min(outcomes.values()) > 20  # both kinds occur


def harmless(content: bytes, draw: random.Random, header: bool) -> bytes:
    """Injuries that change nothing a file says: other line ends, blank lines, lines shuffled or repeated."""
    lines = content.removesuffix(b"\n").split(b"\n")
    first = lines.pop(0) if header else b""
    for _ in range(draw.randint(1, 3)):
        kind = draw.randrange(3)
        if kind == 0:
            draw.shuffle(lines)
        elif kind == 1:
            lines += draw.choices(lines, k=3)
        else:
            lines.insert(draw.randrange(len(lines) + 1), b"")
    end = draw.choice([b"\n", b"\r\n", b"\n\n"])
    return end.join([first, *lines] if header else lines) + draw.choice([b"", end])


def test_damaged_archives_leave_no_file(tmp_path, monkeypatch):
    """200 damaged archives whose stated MD5 fits (the checks after it are on their own): loaded whole, or one line and
    an empty folder."""
    write(tmp_path, "ml-100k")
    with zipfile.ZipFile(archive := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as members:
        for file in ("u.data", "u.item"):
            members.write(tmp_path / file, f"ml-100k/{file}")
    draw, served, outcomes = random.Random(0), {}, set()
    monkeypatch.setattr(data.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(served[url[-4:]]))
    for n in range(200):
        content = bytearray(archive.getvalue())
        for _ in range(draw.randint(1, 3)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        content = bytes(content[:draw.randrange(len(content))] if n % 10 == 0 else content)
        served |= {".zip": content, ".md5": hashlib.md5(content).hexdigest().encode()}
        folder = tmp_path / f"{n}"
        try:
            data.download("ml-100k", folder)
        except AlroError as error:
            assert len(str(error).splitlines()) == 1 and "ml-100k.zip" in str(error)
            assert not list(folder.iterdir())
            outcomes.add("refused")
        else:
            assert sorted(path.name for path in folder.iterdir()) == ["u.data", "u.item"]
            assert all((folder / file).read_bytes() == (tmp_path / file).read_bytes() for file in ("u.data", "u.item"))
            outcomes.add("loaded")
    assert outcomes == {"loaded", "refused"}


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
                    config = cli.read_config(str(tmp_path))
                    cli.from_dict(data.DataConfig, config["data"], str(tmp_path / name))
                    cli.from_dict(train.TrainConfig, config["train"], str(tmp_path / name))
                evaluate.ask(str(tmp_path), evaluate.EvalConfig(ask=str(tmp_path / "q.json")))
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
    ("prompt", {"scale": [1, "five"]}), ("prompt", {"scael": [1, 5]})])
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
    """--resume mends a last line cut short, and refuses the rest; --figures, for finished runs, refuses all."""
    shutil.copytree(straight, tmp_path / "run")
    (tmp_path / "run" / "log.jsonl").write_bytes((straight / "log.jsonl").read_bytes() + content)
    if content.endswith(b"\n"):
        message = said(train.main, ["--resume", str(tmp_path / "run")])
        assert f"{tmp_path}/run/log.jsonl: cannot be gone on with" in message
    assert (tmp_path / "run" / "log.jsonl").read_bytes().endswith(content)
    table, runs = {"list_size": 3, "methods": {"run": {"mean_rank_by_slot": [2.0] * 3}}}, [str(tmp_path / "run")]
    if content != b"[1]\n":  # a row without a score, to --figures
        assert f"log.jsonl of {tmp_path}/run: cannot be read" in one_line(evaluate.curves, table, {"run": runs})
    if not content.endswith(b"\n"):
        train.main(["--resume", str(tmp_path / "run")])
        assert_same_end(straight, tmp_path / "run")


def test_train_says_what_reading_dropped(world, tmp_path, capsys):
    """A file with three lines twice: the run itself says so, not data.py alone."""
    folder = shutil.copytree(world, tmp_path / "world")
    lines = (world / "ratings.csv").read_text().splitlines()
    (folder / "ratings.csv").write_text("\n".join(lines + lines[-3:]))
    train.train(*settings(folder, tmp_path / "run"))
    printed = capsys.readouterr().out
    assert f"ratings read: {len(lines) + 2}; " in printed and "duplicates dropped: 3; " in printed


# ---- 5. Hostile text ------------------------------------------------------------------------------------------------

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
        encoder = data.Encoder(tokenizer, names, "movie", (1, 5), m, 10 ** 6, True)
        one = data.RankingList("x", 0, [(m, 4.0)], list(range(m)), [1.0] * m, slots)
        gold = torch.randperm(m, generator=data.generator(start)).unsqueeze(0)
        batch = encoder.batch([one], [slots], gold)
        ids, last = batch.input_ids[0].tolist(), batch.positions[0, 0].item()
        assert not special & set(ids[1:])  # (the first may be the tokenizer's own beginning-of-text)
        assert ids[last + 1:] == batch.targets[0, :m].tolist() == [
            encoder.identifiers[slots.index(item)].item() for item in gold[0].tolist()]
        whole = alro.encode(tokenizer, [text + "".join(alro.IDENTIFIERS[slots.index(i)] for i in gold[0].tolist())])
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
    encoder = data.Encoder(tokenizer, ["Babe", "x </s> y", "Heat"], "movie", (1, 5), 2, 10 ** 6)
    fine, bad = (data.RankingList(f"{n}/test", 0, [], [0, n], [1.0] * 2, [0, 1]) for n in (2, 1))
    encoder.batch([fine], [[0, 1]])
    assert "list '1/test': a title holds a special token" in one_line(encoder.batch, [fine, bad], [[0, 1]] * 2)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    assert encoder.batch([fine], [[0, 1]]).input_ids[0, 0] == 1  # its own beginning-of-text is no title's
    encoder.titles[1] = "<s>"
    assert "list '1/test'" in one_line(encoder.batch, [fine, bad], [[0, 1]] * 2)


@pytest.mark.skipif(not os.environ.get("ALRO_REAL_INPUTS"), reason="ALRO_REAL_INPUTS is not set")
def test_hostile_titles_stay_text_with_a_real_tokenizer():
    tokenizer = load_tokenizer(str(Path(os.environ["ALRO_REAL_INPUTS"], "smollm2-135m")))
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    titles = [*ODD, *(token.content for token in tokenizer.added_tokens_decoder.values())]
    assert special & set(tokenizer("<|im_end|>").input_ids)  # so it would be, were it not for `alro.encode`
    check_hostile(tokenizer, titles, special)


def test_a_list_too_long_for_the_model_is_one_line_from_the_loader_too(tmp_path):
    """The loader's worker meets it first; torch would wrap its whole traceback into the message."""
    write(tmp_path, "csv", many(users=8, least=16, most=16), {str(i): "long " * 500 + str(i) for i in range(40)})
    assert re.search(r"list '\d/train-\d': \d+ tokens without history: too long",
                     said(train.train, *settings(tmp_path, tmp_path / "run")))


# ---- 6. Hostile files -----------------------------------------------------------------------------------------------

class Payload:
    """A pickle that, once loaded, leaves a file behind."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


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
        assert str(folder) in one_line(load_tokenizer, str(folder))
    elif "known" in fault:
        load_model(str(folder))  # Llama by its own name: transformers' class, not the folder's
    else:
        assert str(folder) in one_line(load_model, str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("content", ["pickle", "object in an archive", "cut short", "not an archive", "a list",
                                     "no optimizer", "other shapes", "one number each", "worse is a word"])
def test_a_bad_checkpoint_is_refused_and_not_executed(straight, tmp_path, content):
    out, mark = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(straight, out)
    file, good = out / "checkpoint" / "state.pt", state(straight)
    if content == "pickle":
        file.write_bytes(pickle.dumps(Payload(mark)))
    elif content in ("cut short", "not an archive"):
        file.write_bytes(file.read_bytes()[:-1000] if content == "cut short" else b"x")
    else:
        torch.save({"object in an archive": {**good, "step": Payload(mark)}, "a list": [1],
                    "no optimizer": {name: value for name, value in good.items() if name != "optimizer"},
                    "one number each": {**good, "weights": {name: w[:1] if w.dim() == 1 else w  # could be broadcast
                                                            for name, w in good["weights"].items()}},
                    "worse is a word": {**good, "worse": "much"},
                    "other shapes": {**good, "weights": {name: w[:1, :3] if w.dim() == 2 else w
                                                         for name, w in good["weights"].items()}}}[content], file)
    assert f"{file} cannot be used" in one_line(train.main, ["--resume", str(out)])
    assert not mark.exists()


@pytest.mark.parametrize("file, values, names", [
    ("config.json", {"hidden_size": "many"}, "hidden_size"), ("config.json", {"hidden_act": "eval"}, "eval"),
    ("config.json", {"num_attention_heads": 0}, "Zero"), ("config.json", {"num_hidden_layers": 3}, "lack 9"),
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
    cfg = settings(world, tmp_path / "new", model=str(tmp_path / "run" / "model"))
    assert expected in one_line(train.train, *cfg) and not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", ["long", [1], {}])
def test_a_longest_length_that_is_no_number_is_refused(world, straight, tmp_path, value):
    shutil.copytree(straight, tmp_path / "run")
    edit(tmp_path / "run" / "model" / "tokenizer_config.json", model_max_length=value)
    cfg = settings(world, tmp_path / "new", model=str(tmp_path / "run" / "model"))
    for message in one_line(evaluate.load_run, str(tmp_path / "run")), one_line(train.train, *cfg):
        assert f"{tmp_path}/run/model" in message and "model_max_length" in message


# ---- 7. Tokenizers --------------------------------------------------------------------------------------------------

def sentencepiece(kind: str) -> PreTrainedTokenizerFast:
    """As SentencePiece's converted to tokenizers: "▁" for a space, one before the text, unknown characters as bytes.
    unigram: Unigram with Metaspace; llama: BPE with Llama 2's normalizer, and a token that begins every text."""
    byte = [f"<0x{i:02X}>" for i in range(256)]
    letters = ["▁" + chr(65 + i) for i in range(26)]
    pieces = [*map(chr, range(33, 127)), "▁", *letters, "->", "▁->", "Ran", "king", "Ranking"]
    if kind == "unigram":
        scores = [(piece, -12.0 + 4 * len(piece)) for piece in pieces]
        vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((name, -30.0) for name in byte), *scores]
        tokenizer = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first")
    else:
        merges = [("▁", letter[1]) for letter in letters] + [("-", ">"), ("▁", "->")]
        words = ["<unk>", "<s>", "</s>", *byte, *pieces]
        tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="<unk>",
                                         fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def tokenizer_of(kind: str, ratings):
    return {"word": lambda: word_tokenizer(ratings), "byte": byte_level,
            "byte, digits": lambda: byte_level(digits=True)}.get(kind, lambda: sentencepiece(kind))()


@pytest.mark.parametrize("kind", ["word", "byte", "byte, digits", "unigram", "llama"])
def test_every_kind_of_tokenizer_meets_the_methods_needs(world, kind):
    """Identifiers single and distinct; prompt + answer tokenise as the parts do; padding, and a pad token that is the
    end token, change no loss and no ranking."""
    cfg = settings(world, "-")[0]
    ratings = data.load(cfg)
    lists, tokenizer = data.split(ratings, cfg).train[:6], tokenizer_of(kind, ratings)
    identifiers = alro.identifier_tokens(tokenizer, 26).tolist()
    assert len(set(identifiers)) == 26 and [tokenizer.decode([i]).strip() for i in identifiers] == list(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer) + 1, n_embd=16, n_layer=2, n_head=2,
                                       initializer_range=0.5)).eval()
    encoder = data.Encoder(tokenizer, ratings.titles, "movie", ratings.scale, 3, 1000, history_targets=True)
    slots = [data.random_slots(3, one.list_id) for one in lists]
    gold = torch.cat([alro.gold_order(torch.tensor([one.ratings])) for one in lists])

    def measure(lists, slots, gold):
        batch = encoder.batch(lists, slots, gold)
        logits = alro.target_logits(model, batch)
        return batch, alro.by_item(logits, batch), alro.history_loss(logits, batch), alro.rank_candidates(model, batch)
    together = measure(lists, slots, gold)
    if tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    padded = together[0]._replace(input_ids=torch.nn.functional.pad(together[0].input_ids, (0, 9), value=(
        tokenizer.pad_token_id)))
    assert torch.allclose(alro.item_log_probs(model, padded), together[1], atol=1e-5)
    assert torch.equal(alro.rank_candidates(model, padded), together[3])
    for row, one in enumerate(lists):
        batch, log_probs, history, ranked = measure([one], [slots[row]], gold[row:row + 1])  # alone: nothing is padded
        text = data.list_prompt(encoder, one, slots[row])
        answer = "".join(alro.IDENTIFIERS[slots[row].index(item)] for item in gold[row].tolist())
        assert batch.input_ids[0].tolist() == alro.encode(tokenizer, [text + answer]).input_ids[0]
        assert torch.allclose(log_probs[0], together[1][row], atol=1e-5)
        assert torch.allclose(history[0], together[2][row], atol=1e-5) and torch.equal(ranked[0], together[3][row])


def test_a_tokenizer_that_ends_every_text_or_has_no_identifiers_is_refused():
    """An end token after the prompt would stand before the answer; letters in bytes are not one token each."""
    ends, bytes_only = sentencepiece("llama"), sentencepiece("unigram")
    ends.backend_tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 2)])
    assert "identifier ' A'" in one_line(alro.identifier_tokens, ends, 2)
    bytes_only.backend_tokenizer.model = models.Unigram(
        [("<unk>", 0.0), *((f"<0x{i:02X}>", -30.0) for i in range(256))], 0, byte_fallback=True)
    assert "identifier ' A'" in one_line(alro.identifier_tokens, bytes_only, 2)


# ---- 8. Determinism (two seeded runs, order of lines: test_train.py, test_data.py) ----------------------------------

def test_saving_and_loading_changes_nothing(world, straight, tmp_path):
    """A trained model and its tokenizer: bit for bit the same after a round trip. (A checkpoint: resuming equals never
    having stopped, test_train.py.)"""
    model, tokenizer = evaluate.load_run(str(straight))
    train.save_model(model, tokenizer, tmp_path)
    again, words = load_model(str(tmp_path / "model")), load_tokenizer(str(tmp_path / "model"))
    names = ["model.safetensors", "tokenizer.json"]
    assert all((tmp_path / "model" / n).read_bytes() == (straight / "model" / n).read_bytes() for n in names)
    cfg = settings(world, "-")[0]
    ratings = data.load(cfg)
    lists = data.split(ratings, cfg).test[:5]
    found = [alro.item_log_probs(one, data.Encoder(vocabulary, ratings.titles, "item", ratings.scale, 3, 500).batch(
        lists, [one.shown for one in lists], torch.arange(3).expand(5, 3)))
        for one, vocabulary in ((model.eval(), tokenizer), (again.eval(), words))]
    assert torch.equal(*found)


def test_two_processes_evaluate_to_what_one_does(world, straight):
    """Every list's displayed orders, rankings and metrics are those it has in one process over all lists."""
    cfg = settings(world, "-")[0]
    ratings = data.load(cfg)
    lists = data.informative(data.split(ratings, cfg).test, "test")

    def rows(part):
        torch.set_num_threads(1)
        model, tokenizer = evaluate.load_run(str(straight))
        encoder = data.Encoder(tokenizer, ratings.titles, ratings.noun, ratings.scale, 3, 500)
        found = evaluate.score_method(evaluate.model_ranker(model, encoder, batch_size=7), part, orders=3)
        return [(one.list_id, [slots[i] for slots in found["slots"]],
                 [order[i].tolist() for order in found["predicted"]],
                 {name: float(value[i]) for name, value in found["values"].items()}) for i, one in enumerate(part)]

    children = [in_child(rows, part) for part in (lists[:11], lists[11:])]
    halves = [pipe.recv() for _, pipe in children]
    for process, _ in children:
        process.join()
    assert len(lists) > 20 and halves[0] + halves[1] == rows(lists)
