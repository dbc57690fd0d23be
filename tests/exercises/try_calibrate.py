"""Exercise 11 on trained models: what calibration takes off plain fine-tuning, beside PSL. Nothing is trained.

    python tests/exercises/try_calibrate.py RUN [PSL_RUN] [--mine]

RUN: a folder of train.py's, of plain fine-tuning (`--alpha 0 --beta 0`); PSL_RUN: one with PSL (`--alpha 0`). The
solution's functions, or with --mine your own. The habit is estimated on validation lists, the table is of test lists.
Rows: "says", the whole answer, letter after letter; "first letter", its first letter's probabilities sorted; the same,
calibrated with one film in all lines, another film for each list; calibrated with "N/A", which the demo's model has
never read; "knows", its expected ratings. "lean": of each slot, ranked above (-) or below the middle, on average.
"""
import argparse
import functools

import torch
from classroom import load, run_exercise

from data import generator
from evaluate import data_of_run, fit_to_model, rankers_of_run, score_method

PLACEHOLDER = "N/A"
VALID_LISTS, ORDERS = 200, 2


def rows_of_run(folder: str, work, test_lists: int) -> dict:
    """{row: score_method of it, with "lean"}, for one run."""
    test, valid = (data_of_run(folder, name, limit)
                   for name, limit in (("test", test_lists), ("valid", VALID_LISTS)))
    words = test.ratings.words
    texts = len(words.texts)
    # The placeholder is one more item of the catalogue: all that a prompt says of an item is its text.
    rankers = rankers_of_run(folder, words._replace(texts=[*words.texts, PLACEHOLDER]), test.list_size)
    model, encoder = rankers["trained"].model.eval(), rankers["trained"].encoder
    test, valid = fit_to_model(test, encoder), fit_to_model(valid, encoder)
    films = torch.randint(texts, (len(valid.lists),), generator=generator("neutral")).tolist()
    bias = functools.partial(work.slot_bias, model, encoder, valid.lists)
    rankers = {
        "says": rankers["trained"],
        "first letter": work.calibrated_ranker(model, encoder, torch.zeros(test.list_size)),
        "calibrated, a film": work.calibrated_ranker(model, encoder, bias(films)),
        f"calibrated, {PLACEHOLDER}": work.calibrated_ranker(model, encoder, bias([texts] * len(films))),
        **({"knows": rankers["knows"]} if "knows" in rankers else {})}
    rows = {}
    for name, ranker in rankers.items():
        row = rows[name] = score_method(ranker, test.lists, ORDERS)
        row["lean"] = work.lean(torch.cat(row["predicted"][:ORDERS]), torch.tensor(row["slots"][:ORDERS]).flatten(0, 1))
    return rows


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of trained runs")
    parser.add_argument("--mine", action="store_true", help="your mine/exercise_11_calibrate.py, not the solution")
    parser.add_argument("--test_lists", type=int, default=300)
    options = parser.parse_args(arguments)
    work = load(11, "mine" if options.mine else "solution")
    result = {}
    for folder in options.runs:
        rows = result[folder] = rows_of_run(folder, work, options.test_lists)
        metrics = [name for name in next(iter(rows.values()))["values"] if name.startswith("ndcg")][-2:] + ["agreement"]
        print(f"\n{folder}\n{'':<22}" + "".join(f"{name:>14}" for name in metrics) + "   lean of slots A, B, ...")
        for name, row in rows.items():
            numbers = "".join(f"{row['values'][metric].mean():>14.3f}" for metric in metrics)
            print(f"{name:<22}{numbers}   " + " ".join(f"{slot:+.2f}" for slot in row["lean"].tolist()))
    return result


if __name__ == "__main__":
    run_exercise(main)
