"""What can go wrong when a finished run is evaluated: a result is lost, or means something else than one thinks."""
import json
import shutil

import pytest
from helpers import csv_run, edit, one_line, said
from worlds import many, write

import data
import evaluate
import train
from experiments import compare, figures, rivals
from experiments.ask import ask
from plumbing import folder as run_folder

TITLES = {str(i): f"Film {i}" for i in range(40)}


@pytest.fixture
def run(straight, tmp_path):
    """A copy of the run in the csv world, not evaluated yet."""
    shutil.copytree(straight, tmp_path / "run", ignore=shutil.ignore_patterns("eval-*"))
    return tmp_path / "run"


def evaluated(run, *flags):
    """Evaluate; (what was in eval-test.json before, what is there after)."""
    before = result_of(run)
    evaluate.main([str(run), *flags])
    return before, result_of(run)


def result_of(run, name="eval-test"):
    path = run / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def size(result):
    return result["ranked_lists"], result["orders"]


# ---- 1. A cheap look never replaces an expensive result ------------------------------------------

@pytest.mark.parametrize("flags", [["--limit", "2"], ["--limit", "2", "--orders", "9"], ["--orders", "1"]])
def test_a_partial_result_does_not_replace_a_fuller_one_and_says_so(run, capsys, flags):
    """Fewer lists, or as many in fewer orders; the lines by list stay, too; the table is printed."""
    evaluate.main([str(run), "--orders", "2"])
    lines = (run / "eval-test.lists.jsonl").read_bytes()
    capsys.readouterr()
    before, after = evaluated(run, *flags)
    assert before == after and (run / "eval-test.lists.jsonl").read_bytes() == lines
    printed = capsys.readouterr()
    note, = [line for line in printed.err.splitlines() if "eval-test.json" in line]
    assert "is not kept" in note and str(before["ranked_lists"]) in note
    assert "NDCG@3" in printed.out


def test_a_fuller_result_replaces_a_partial_one_and_an_equal_one_is_written_anew(run):
    sizes = [size(evaluated(run, *flags)[1]) for flags in (
        ["--limit", "2", "--orders", "1"], ["--limit", "2", "--orders", "2"], ["--orders", "1"])]
    assert sizes[0] == (2, 1) and sizes[1] == (2, 2) and sizes[2][0] > 2 and sizes[2][1] == 1
    (run / "eval-test.json").write_text("{")  # a damaged one is no result
    assert size(evaluated_again(run)) == (2, 1)


def evaluated_again(run):
    evaluate.main([str(run), "--limit", "2", "--orders", "1"])
    return result_of(run)


def test_another_decoding_has_a_file_of_its_own(run):
    evaluate.main([str(run), "--limit", "3", "--orders", "1"])
    before = result_of(run)
    evaluate.main([str(run), "--limit", "4", "--orders", "1", "--decode", "first"])
    assert result_of(run) == before and result_of(run, "eval-test-first")["decode"] == "first"
    assert (run / "eval-test-first.lists.jsonl").exists()


def test_a_result_of_other_weights_is_out_of_date_however_full(run):
    """Trained on after it was evaluated: fewer lists replace it."""
    evaluate.main([str(run), "--orders", "1"])
    edit(run / "eval-test.json", model_sha256="of before")
    before, after = evaluated(run, "--limit", "2", "--orders", "1")
    assert size(before)[0] > size(after)[0] == 2


def test_rivals_with_fewer_rows_do_not_replace_those_with_more(small_world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rivals, "RIVALS", {})
    flags = ["--limit", "5", "--orders", "1", "--out", str(tmp_path)]
    rivals.main(flags)
    rows = list(result_of(tmp_path)["methods"])
    rivals.main([*flags, "--embedding", "False"])
    assert list(result_of(tmp_path)["methods"]) == rows and "popularity" in rows
    assert "is not kept" in capsys.readouterr().err


# ---- 2. What cannot be written costs no table, and is tried before the work ----------------------

@pytest.fixture
def work(monkeypatch):
    """The rankings that were asked for."""
    asked, score_method = [], evaluate.score_method

    def counting(*arguments):
        asked.append(arguments)
        return score_method(*arguments)
    for module in (evaluate, compare):  # the rivals' rows are scored by compare
        monkeypatch.setattr(module, "score_method", counting)
    return asked


def test_a_run_that_cannot_be_written_to_is_warned_of_before_the_work_and_its_table_is_printed(
        run, monkeypatch, capsys, work):
    """As on a read-only disk. The end is an error all the same: who reads the files must not go on."""
    def read_only(*_, **__):
        raise PermissionError(13, "Permission denied")

    def warned(message, warn=run_folder.warn):
        assert not work
        warn(message)
    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", read_only)
    monkeypatch.setattr(run_folder, "write_lines", read_only)
    monkeypatch.setattr(run_folder, "warn", warned)
    message = one_line(evaluate.main, [str(run), "--limit", "3", "--orders", "1"])
    printed = capsys.readouterr()
    assert "eval-test.lists.jsonl: cannot be written" in message and "Permission denied" in message
    assert f"{run}: cannot be written to" in printed.err and "the table will be printed" in printed.err
    assert "NDCG@3" in printed.out and "So few lists" in printed.out and work  # to its last sentence


def test_a_file_in_the_way_costs_no_table(run, capsys):
    (run / "eval-test.lists.jsonl").mkdir()
    message = said(evaluate.main, [str(run), "--limit", "3", "--orders", "1"])
    assert "eval-test.lists.jsonl: cannot be written" in message
    assert "So few lists" in capsys.readouterr().out


@pytest.mark.parametrize("script, flag, name", [
    (evaluate, "--json", "file/table.json"), (compare, "--json", "file/table.json"),
    (figures, "--json", "file/table.json"), (figures, "--out", "file/figures")])
def test_a_place_that_the_user_named_is_tried_before_the_work(run, tmp_path, work, monkeypatch, script, flag, name):
    monkeypatch.chdir(tmp_path)  # where figures/ goes
    (tmp_path / "file").write_text("")  # a file where a folder should be
    message = said(script.main, [str(run), "--limit", "3", flag, str(tmp_path / name)])
    assert "cannot be written to" in message and str(tmp_path / "file") in message and not work


def test_the_folder_for_the_rivals_results_is_tried_before_the_work(small_world, tmp_path, work):
    (tmp_path / "file").write_text("")
    message = said(rivals.main, ["--limit", "3", "--out", str(tmp_path / "file" / "out")])
    assert "cannot be written to" in message and not work


# ---- 3. Data that are no longer those of the training --------------------------------------------

@pytest.fixture
def moving_world(tmp_path, monkeypatch):
    """A csv data set of its own, and a run trained on it."""
    monkeypatch.chdir(tmp_path)  # where figures/ goes
    folder = tmp_path / "world"
    folder.mkdir()
    lines = many(users=30, least=20, most=26)
    write(folder, "csv", lines, TITLES)
    train.train(*csv_run(folder, tmp_path / "run"))
    return folder, lines, str(tmp_path / "run")


def without_last(lines, n):
    """Less each user's last n ratings by time."""
    kept = []
    for user in {line[0] for line in lines}:
        mine = sorted((line for line in lines if line[0] == user), key=lambda line: (float(line[3]), int(line[1])))
        kept += mine[:-n]
    return kept


@pytest.mark.parametrize("script", [evaluate, rivals, compare, figures])
def test_a_run_is_not_evaluated_on_other_ratings_than_it_was_trained_on(moving_world, script, work):
    """Without each user's last ratings the test lists are lists that the model was trained on."""
    folder, lines, run = moving_world
    write(folder, "csv", without_last(lines, 3), TITLES)
    message = said(script.main, [run, "--limit", "3", "--orders", "1"])
    assert f"{run} was trained on other ratings" in message and not work


@pytest.mark.parametrize("script", [evaluate, rivals, compare, figures])
def test_a_run_is_not_evaluated_with_other_titles_than_it_was_trained_on(moving_world, script, work):
    folder, lines, run = moving_world
    write(folder, "csv", lines, {**TITLES, "3": "Film three"})
    message = said(script.main, [run, "--limit", "3", "--orders", "1"])
    assert f"{run} was trained on other titles" in message and not work


def test_a_run_without_hashes_is_refused(run):
    """Nobody can tell what it was trained on."""
    config = json.loads((run / "config.json").read_text())
    del config["data_sha256"]
    (run / "config.json").write_text(json.dumps(config))
    assert f"{run}/config.json: missing field 'data_sha256'" in one_line(
        evaluate.main, [str(run), "--limit", "2", "--orders", "1"])


# ---- 4. --ask goes by the run's own rules --------------------------------------------------------

QUESTION = {"history": [["Film 1", 5], ["Film 2", 1]], "candidates": ["Film 3", "Film 4", "Film 5"]}


def asked(run, tmp_path, monkeypatch, question=QUESTION, **data_cfg):
    """(the answer's lines, the prompt) of a question to a run with these fields of DataConfig."""
    config = json.loads((run / "config.json").read_text())
    edit(run / "config.json", data={**config["data"], **data_cfg})
    (tmp_path / "q.json").write_text(json.dumps(question))
    prompts, list_prompt = [], data.list_prompt
    monkeypatch.setattr(data, "list_prompt", lambda *args: prompts.append(list_prompt(*args)) or prompts[-1])
    answer = ask(str(run), str(tmp_path / "q.json"), "greedy")
    return answer.splitlines(), prompts[-1]


def test_a_model_is_shown_the_ratings_of_a_question(run, tmp_path, monkeypatch):
    lines, prompt = asked(run, tmp_path, monkeypatch)
    assert "Film 1: 5\nFilm 2: 1\n" in prompt and len(lines) == 3


def test_a_question_of_another_length_than_trained_on_is_ranked_with_a_note(run, tmp_path, monkeypatch):
    question = {**QUESTION, "candidates": ["Film 3", "Film 4", "Film 5", "Film 6"]}
    lines, _ = asked(run, tmp_path, monkeypatch, question)
    assert lines[4:] == ["note: this model was trained on lists of 3, not of 4"]


def test_a_question_to_a_model_of_more_fields_is_ranked_by_titles_with_a_note(run, tmp_path, monkeypatch):
    lines, prompt = asked(run, tmp_path, monkeypatch, fields="title,category,average")
    assert "Film 3 -> A" in prompt
    assert lines[3:] == ["note: this model was trained on title,category,average: yours are titles alone"]


# ---- 5. Files of a run that somebody has edited --------------------------------------------------

@pytest.mark.parametrize("hashes", [3, None, {}, {"lists": "x"}, ["lists", "prompt"]])
def test_hashes_that_are_none_are_refused_by_name(run, hashes):
    edit(run / "config.json", data_sha256=hashes)
    message = one_line(evaluate.main, [str(run), "--limit", "2"])
    assert f"{run}/config.json: data_sha256 must be an object with lists, prompt" in message


@pytest.mark.parametrize("script, flags", [(evaluate, []), (rivals, []), (compare, ["--pool", "True"]), (figures, [])])
@pytest.mark.parametrize("part, name", [(None, "losses"), (None, "data_sha256"), (None, "base_sha256"),
                                        ("train", "candidate_weight"), ("train", "bf16"), ("data", "list_size")])
def test_a_field_that_is_gone_is_named(run, tmp_path, monkeypatch, work, script, flags, part, name):
    """By every script that reads a run, before it computes anything."""
    monkeypatch.chdir(tmp_path)  # where figures/ goes
    config = json.loads((run / "config.json").read_text())
    del (config[part] if part else config)[name]
    (run / "config.json").write_text(json.dumps(config))
    message = said(script.main, [str(run), "--limit", "2", *flags])
    assert f"{run}/config.json: " in message and name in message and not work


@pytest.mark.parametrize("content", ["[]", "{}", '{"ranked_lists": "many", "orders": 3, "methods": {}}',
                                     '{"ranked_lists": 9, "orders": 3, "methods": 3}', "\xff"])
def test_a_damaged_result_is_no_fuller_one(run, content):
    """It is replaced, as one that is not there."""
    evaluate.main([str(run), "--limit", "1", "--orders", "1"])
    weights = result_of(run)["model_sha256"]
    if content.startswith('{"'):
        content = content[:-1] + f', "model_sha256": "{weights}"}}'
    (run / "eval-test.json").write_text(content, "latin-1")
    evaluate.main([str(run), "--limit", "2", "--orders", "1"])
    assert size(result_of(run)) == (2, 1)
