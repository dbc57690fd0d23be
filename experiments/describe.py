"""A page about a dataset: its ratings, its lists, how long its prompts are.

    python -m experiments.describe --dataset ml-100k --data_path DIR [--model NAME]
"""
import dataclasses
import math
import re

import numpy as np

from data import MIN_HISTORY, DataConfig, Splits, list_prompt, load, split
from plumbing.files import tied_times
from plumbing.flags import check_input, option, parse_flags, run_script
from plumbing.model import load_tokenizer, tokenise


@dataclasses.dataclass(frozen=True)
class DescribeConfig:
    model: str | None = option(
        None, "count the prompts' tokens with the tokenizer of this Hugging Face id or folder")


def describe(ratings, splits: Splits, tokenizer=None) -> str:
    """A page about a dataset; ratings: data.Ratings."""
    columns, words = ratings.columns, ratings.words
    lists = splits.train + splits.valid + splits.test
    check_input(len(lists) > 0,
                f"no user has --list_size ratings after {MIN_HISTORY} others: no lists")
    m = len(lists[0].items)
    lines = [f"{len(columns.users)} users, {len(columns.items)} items, "
             f"{len(columns.rating)} ratings"]
    for name, count in columns.counts.items():
        total = len(columns.items) if "titles" in name else columns.counts["ratings read"]
        is_share = re.search("dropped|cleaned|missing", name)
        lines.append(f"{name}: {count}" + (f" ({count / total:.1%})" if is_share else ""))
    lines += histogram(columns.rating)
    lines.append(f"same time: {tied_times(columns):.1%} of a user's neighbouring ratings")
    for name, part in zip(Splits._fields, splits[:3]):
        useful = sum(ranking_list.informative for ranking_list in part)
        lines.append(f"{name}: {len(part)} lists of {m}, {useful} with two different ratings "
                     f"({useful / max(1, len(part)):.1%})")
    lines.append(f"tied: {tied_pairs(lists):.1%} of the pairs in a list")
    lines.append(prompt_lengths(words, lists, tokenizer))
    return "\n".join(lines)


def histogram(rating):
    """A line for each rating; of more than 20 different ones, for each half."""
    name = "rating"
    if len(np.unique(rating)) > 20:
        rating = np.round(2 * rating) / 2
        name = "rating, rounded to halves,"
    values, counts = np.unique(rating, return_counts=True)
    lines = []
    for value, count in zip(values, counts):
        bar = "#" * round(40 * count / counts.max())
        lines.append(f"{name} {value:g}: {count:9d} {count / len(rating):6.1%} {bar}")
    return lines


def tied_pairs(lists):
    """The share of pairs of a list's candidates that have one rating."""
    table = np.array([ranking_list.ratings for ranking_list in lists])  # (lists, m)
    m = table.shape[1]
    equal = (table[:, :, None] == table[:, None, :]).mean()
    return (equal * m - 1) / (m - 1)  # less the diagonal


def prompt_lengths(words, lists, tokenizer):
    """How long prompts are, from a sample of at most 2,000 lists."""
    sample = lists[::math.ceil(len(lists) / 2000)]
    prompts = [list_prompt(words, ranking_list, ranking_list.shown) for ranking_list in sample]
    unit, pieces = "words", map(str.split, prompts)
    if tokenizer:
        unit, pieces = "tokens", tokenise(tokenizer, prompts).input_ids
    lengths = list(map(len, pieces))
    return (f"prompt: {min(lengths)} to {max(lengths)} {unit}, median {np.median(lengths):.0f} "
            f"(of {len(sample)} lists)")


def main(arguments: list[str] | None = None) -> str:
    cfg, describe_cfg = parse_flags(arguments, DataConfig, DescribeConfig)
    ratings = load(cfg)
    tokenizer = load_tokenizer(describe_cfg.model) if describe_cfg.model else None
    text = describe(ratings, split(ratings, cfg), tokenizer)
    print(text)
    return text


if __name__ == "__main__":
    run_script(main)
