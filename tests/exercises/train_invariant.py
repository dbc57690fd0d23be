"""Exercise 8, trained: the demo's world and model, scored by construction without a displayed order; then its table.

    python tests/exercises/train_invariant.py [flags of train.py] [--mine] [--json FILE]

The solution's functions, or with --mine your own; --json writes what is printed, as results/ has it. Validation inside
train.train asks the model in the ordinary way, to write identifiers, which this one never learns: so there is only
one, at the end, whose number means nothing, and the last weights are the run's result. Candidates' ratings are no
targets here (exercise 8 has no term for them): --beta and --candidate_weight are 0.
"""
import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from classroom import load, run_exercise, word_tokenizer

import data
import train
from evaluate import choose_lists, reference_rankers, score_table, text_table
from plumbing.flags import check_input, parse_flags
from plumbing.folder import read_run_config
from plumbing.model import load_run

NAME = "invariant by construction"


def main(arguments: list[str]) -> dict:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--mine", action="store_true")
    parser.add_argument("--json")
    ours, flags = parser.parse_known_args(arguments)
    work = load(8, "mine" if ours.mine else "solution")
    data_cfg, cfg, run_cfg = parse_flags(flags, data.DataConfig, train.TrainConfig, train.RunConfig)
    check_input(cfg.steps and cfg.test_lists != 0 and cfg.model == "tiny",
                "say --steps, and some --test_lists; the model is the demo's")
    test_lists = cfg.test_lists
    cfg = dataclasses.replace(cfg, beta=0.0, candidate_weight=0.0, valid_every=cfg.steps, valid_lists=1, test_lists=0)

    ratings = data.load(data_cfg)
    starts_line = work.line_starts(word_tokenizer(ratings.words))
    start = time.perf_counter()
    outcome = train.train(data_cfg, cfg, run_cfg, losses=work.invariant_losses(starts_line))
    seconds = time.perf_counter() - start

    model, tokenizer = load_run(outcome["folder"], read_run_config(outcome["folder"]))
    encoder = data.make_encoder(model, tokenizer, ratings.words, data_cfg.list_size)
    lists = choose_lists(ratings, data.split(ratings, data_cfg), "test", test_lists)
    rankers = {**reference_rankers(lists), NAME: work.invariant_ranker(model, encoder, starts_line)}
    result, _ = score_table(rankers, lists, train.TEST_ORDERS, {NAME: 1}, dataset=data_cfg.dataset, model=cfg.model,
                            seed=cfg.seed, decode="scores")
    result |= {"training_seconds": seconds, "steps": cfg.steps, "batch_size": cfg.batch_size}
    agreement = result["methods"][NAME]["agreement"]["mean"]
    print(f"\n{text_table(result)}\n\ntrained in {seconds:.0f} s; agreement {agreement}")
    if ours.json:
        Path(ours.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    run_exercise(lambda: main(sys.argv[1:]))
