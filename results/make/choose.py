"""The demo's settings, chosen: seeds 100 to 104, validation lists alone. By hand: about an hour of two cores.

    python results/make/choose.py run       train and rank what is planned below, in its order; stopped,
                                            it goes on where it was; two of it may work side by side
    python results/make/choose.py table     what has been found so far
    python results/make/choose.py confirm   the chosen setting's ALRO on shown displays, on test lists, also of
                                            three seeds that were kept back

The plan and its rule were written down before the first run (results/LOG.md, "the third choice"). SFT
and SFT+SLL on shown displays are outcomes of the demo, not looked at here.
"""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

import evaluate  # noqa: E402
import train  # noqa: E402
from data import DataConfig  # noqa: E402
from experiments import compare  # noqa: E402
from plumbing.flags import read_json, write_json  # noqa: E402
from plumbing.folder import FolderInUse  # noqa: E402

RUNS = Path("runs/choose")
SEEDS = range(100, 105)
LISTS, ORDERS = 300, 2
STUDY = {"history_weight": 0.6, "candidate_weight": 0.4}  # about one mean over 8 and 6 tokens
ONE = {"history_weight": 1.0, "candidate_weight": 1.0}
# Fields of TrainConfig; of DataConfig. Those after the second were not run: it was enough. (Third was "the rate falls
# in the last fifth"; that is no setting any more: train.FALL.)
SETTINGS = {
    "as in the study": (STUDY, {}),
    "both weights 1": (ONE, {}),
    "rate 2e-3": ({**STUDY, "lr": 2e-3}, {}),
    "alpha 1, beta 1": ({**STUDY, "alpha": 1.0, "beta": 1.0}, {}),
    "retriever's noise .5": (STUDY, {"retriever_noise": 0.5}),
}
CHOSEN = "both weights 1"
KEPT_BACK = range(200, 203)
ARMS = {
    "ALRO, shuffled": {"display_order": "shuffled"},
    "ALRO, shown": {"display_order": "shown"},
    "SFT, shuffled": {"alpha": 0.0, "beta": 0.0, "display_order": "shuffled"},
    "SFT+PSL, shown": {"alpha": 0.0, "display_order": "shown"},
    "SFT+SLL, shuffled": {"beta": 0.0, "display_order": "shuffled"},
    "SFT+PSL, shuffled": {"alpha": 0.0, "display_order": "shuffled"},
}
ENOUGH = 0.9  # of the gap, in the worst seed of every arm


def jobs(settings=SETTINGS, seeds=SEEDS, arms=ARMS):
    """(setting, arm, seed, folder, DataConfig, TrainConfig)"""
    for setting, (train_fields, data_fields) in settings.items():
        for arm, weights in arms.items():
            for seed in seeds:
                name = f"{setting}/{arm}/{seed}".replace(" ", "-").replace(",", "").replace("'", "")
                cfg = train.TrainConfig(**{**train_fields, **weights, "seed": seed, "test_lists": 0})
                yield setting, arm, seed, RUNS / name, DataConfig(**data_fields), cfg


def gap(method, chance, oracle) -> float:
    values = [each["values"][f"ndcg@{6}"].mean() for each in (method, chance, oracle)]
    return float((values[0] - values[1]) / (values[2] - values[1]))


def score(folder: Path, data_cfg: DataConfig, split: str = "valid") -> dict:
    """What a run says and knows of the first lists of a split: share of the gap, agreement."""
    data = compare.load_evaluation(data_cfg, split, LISTS)
    chance = evaluate.chance_method(data.lists)
    oracle = evaluate.score_method(evaluate.reference_rankers(data)["oracle"], data.lists, ORDERS)
    found = {}
    for name, decode in (("says", "greedy"), ("knows", "ratings")):
        rankers = evaluate.rankers_of_run(str(folder), data.ratings.words, data.list_size, decode)
        ranker = next(iter(rankers.values()))
        method = evaluate.score_method(ranker, data.lists, ORDERS)
        found[name] = gap(method, chance, oracle)
        found[f"{name}, agreement"] = float(method["values"]["agreement"].mean())
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found["valid"] = [[row["step"], row["valid_ndcg"], row["valid_knows"]] for row in rows if "valid_ndcg" in row]
    return found


def train_and_score(folder: Path, data_cfg, cfg, split: str = "valid") -> None:
    kept = folder / f"choice-{split}.json"
    if kept.exists():
        return
    resume = str(folder) if (folder / "config.json").exists() else None
    try:
        train.train(data_cfg, cfg, train.RunConfig(out=str(folder), resume=resume))
    except FolderInUse:  # another process is at it
        return
    write_json(kept, score(folder, data_cfg, split))


def found_for(setting: str, split: str = "valid") -> dict:
    """{arm: {seed: what was found}} of a setting, as far as it was run."""
    found = {arm: {} for arm in ARMS}
    for _, arm, seed, folder, _, _ in jobs({setting: SETTINGS[setting]}):
        kept = folder / f"choice-{split}.json"
        if kept.exists():
            found[arm][seed] = read_json(kept)
    return found


def is_enough(setting: str) -> bool:
    """The rule: every seed of every arm says at least .9 of the gap, ALRO on shown displays .95 on average."""
    found = found_for(setting)
    worst = min((one["says"] for seeds in found.values() for one in seeds.values()), default=0)
    shown = [one["says"] for one in found["ALRO, shown"].values()]
    return worst >= ENOUGH and np.mean(shown) >= 0.95


def has_failed(setting: str) -> bool:
    """Whether a seed of an arm is known to end below ENOUGH."""
    return any(one["says"] < ENOUGH for seeds in found_for(setting).values() for one in seeds.values())


def run() -> None:
    for setting in SETTINGS:
        for _, _, _, folder, data_cfg, cfg in jobs({setting: SETTINGS[setting]}):
            if not has_failed(setting):  # one seed below decides it
                train_and_score(folder, data_cfg, cfg)
        if is_enough(setting):
            print(f"==== enough: {setting}", flush=True)
            break


def table() -> None:
    for setting in SETTINGS:
        for arm, seeds in found_for(setting).items():
            if seeds:
                says = " ".join(f"{one['says']:.2f}" for one in seeds.values())
                knows = " ".join(f"{one['knows']:.2f}" for one in seeds.values())
                agree = " ".join(f"{one['says, agreement']:.2f}" for one in seeds.values())
                print(f"| {setting} | {arm} | {', '.join(map(str, seeds))} | {says} | {knows} | {agree} |")


def confirm() -> None:
    arm = {"ALRO, shown": ARMS["ALRO, shown"]}
    for _, _, seed, folder, data_cfg, cfg in jobs({CHOSEN: SETTINGS[CHOSEN]}, [*KEPT_BACK, *SEEDS], arm):
        train_and_score(folder, data_cfg, cfg, "test")
        found = read_json(folder / "choice-test.json")
        print(f"seed {seed}: says {found['says']:.3f}, agreement {found['says, agreement']:.2f}; "
              f"knows {found['knows']:.3f}, agreement {found['knows, agreement']:.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        run()
    elif sys.argv[1:] == ["confirm"]:
        confirm()
    elif sys.argv[1:] == ["table"]:
        table()
    else:
        sys.exit(__doc__)
