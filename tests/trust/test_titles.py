"""Titles that are no titles: what programs write where nothing is known, what many ids share, what no token knows."""
import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from worlds import many, read, rows_of, write

from plumbing.model import warn_of_unknown_titles


def world_with(tmp_path, name_of):
    """A csv world of 30 users and 60 items; name_of(i): the title of item i."""
    lines = many(users=30, items=60, least=20, most=30)
    return write(tmp_path, "csv", lines, {str(i): name_of(i) for i in range(60)}), lines


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "unknown", "N/A"])
def test_what_a_program_writes_for_nothing_is_no_title(tmp_path, capsys, word):
    """20 of 60 items called "nan" were one item once: 30 % of the ratings went as duplicates, without a word."""
    folder, lines = world_with(tmp_path, lambda i: word if i < 20 else f"Film {i}")
    ratings = read(folder, "csv")
    assert len(ratings.columns.items) == 60 and len(rows_of(ratings)) == len(lines)
    assert ratings.columns.titles[:2] == ["item 0", "item 1"]
    assert ratings.columns.counts["titles missing or empty"] == 20
    assert "33% of the items have no title" in capsys.readouterr().err


def test_a_film_that_is_called_so_keeps_its_title(tmp_path):
    """One item of that name is a film: "Unknown" (2011)."""
    folder, _ = world_with(tmp_path, lambda i: "Unknown" if i == 3 else f"Film {i}")
    assert read(folder, "csv").columns.titles[3] == "Unknown"


def test_a_title_that_many_ids_share_is_joined_and_told(tmp_path, capsys):
    folder, lines = world_with(tmp_path, lambda i: "Bag" if i < 20 else f"Film {i}")
    ratings = read(folder, "csv")
    lost = len(lines) - len(ratings.columns.rating)
    assert len(ratings.columns.items) == 41 and lost > 0
    said = capsys.readouterr().err
    assert f"{lost / len(lines):.0%} of the ratings go as duplicates" in said and "'Bag', of 20 ids" in said


def test_two_ids_of_one_title_are_joined_in_silence(tmp_path, capsys):
    """As MovieLens has a few: nothing to warn of."""
    folder, _ = world_with(tmp_path, lambda i: "Film 1" if i == 0 else f"Film {i}")
    assert len(read(folder, "csv").columns.items) == 59
    assert capsys.readouterr().err == ""


def test_titles_that_the_tokenizer_does_not_know_are_counted(capsys):
    words = Tokenizer(models.WordLevel({"<unk>": 0, "Heat": 1, "Babe": 2, "->": 3}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    warn_of_unknown_titles(tokenizer, ["Heat", "Babe"])
    assert capsys.readouterr().err == ""
    warn_of_unknown_titles(tokenizer, ["Heat", "Титаник", "東京物語"])
    said = capsys.readouterr().err
    assert "2 of 3 titles" in said and json.dumps("Титаник", ensure_ascii=False).strip('"') in said
