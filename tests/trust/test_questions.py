"""--ask: a question of one's own is ranked, or refused in one line that names its file."""
import contextlib
import io
import json

import pytest
from helpers import one_line, said

import alro
import data
import evaluate
from experiments.ask import ask as ask_run


def test_more_candidates_than_identifiers_and_bad_ratings_in_a_question(straight, tmp_path):
    """27 candidates, NaN and infinite ratings, no history: refused by name, or ranked."""
    def ask(history, candidates):
        (tmp_path / "q.json").write_text(json.dumps({"history": history, "candidates": candidates}))
        return ask_run(str(straight), str(tmp_path / "q.json"), "greedy")

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


@pytest.mark.parametrize("text, complaint", [
    ("{", "not JSON"), ("[]", "JSON object"), ('{"history": []}', "candidates"),
    ('{"history": [["a", 9]], "candidates": ["x", "y"]}', "rating 9"),
    ('{"history": [["a"]], "candidates": ["x", "y"]}', "history"),
    ('{"history": [], "candidates": ["x"]}', "1 candidates"),
])
def test_a_bad_question_is_one_clear_line(straight, tmp_path, text, complaint):
    (tmp_path / "q.json").write_text(text)
    message = one_line(evaluate.main, [str(straight), "--ask", str(tmp_path / "q.json")])
    assert "q.json" in message and complaint in message
