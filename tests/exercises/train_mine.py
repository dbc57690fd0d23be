"""Train with the `losses` of an exercise: all of train.py, with your objective in the place of its own.

    python tests/exercises/train_mine.py 3 [flags of train.py]        --solution: with the solution's
"""
import sys

from classroom import load, run_exercise

import train
from data import DataConfig
from runs import check_input, parse_flags


def main(arguments: list[str]) -> dict:
    flags = [flag for flag in arguments[1:] if flag != "--solution"]
    work = load(int(arguments[0]), "mine" if flags == arguments[1:] else "solution")
    check_input(hasattr(work, "losses"), f"exercise {arguments[0]} has no function `losses` to train with; 3 has one")
    configs = parse_flags(flags, DataConfig, train.TrainConfig, train.RunConfig, presets=train.PRESETS)
    return train.train(*configs, losses=work.losses)


if __name__ == "__main__":
    run_exercise(lambda: main(sys.argv[1:]))
