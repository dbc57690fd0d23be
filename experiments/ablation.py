"""The paper's own question (summaries L, S): leave SLL out, leave PSL out, and compare.

    python -m experiments.ablation --seeds 3     SFT, + SLL, + PSL, both (ALRO), on two kinds of displays

Takes every flag of train.py that changes what is learned. Run again, it continues where it stopped.
"""
import dataclasses
import os
from pathlib import Path

from data import DataConfig
from experiments import compare
from plumbing.flags import check_input, check_minimum, option, parse_flags, run_script
from plumbing.folder import FolderInUse, settings_of_run
from plumbing.presets import PRESETS
from train import RunConfig, TrainConfig, train


@dataclasses.dataclass(frozen=True)
class AblationConfig:
    out: str | None = option(None, "the folder of all runs (default: runs/<dataset>-ablation)")
    seeds: int = option(1, "seeds of each arm, from --seed on")
    orders: int = option(3, "random displayed orders of each test list")

    def __post_init__(self):
        check_minimum(self, seeds=1, orders=1)


def ablation_runs(cfg: TrainConfig, seeds: int, root: Path) -> dict[Path, TrainConfig]:
    """{folder: configuration} of SFT, SFT + SLL, SFT + PSL and ALRO, on two kinds of displays."""
    # An arm is a pair of weights, alpha and beta. All arms share steps, lists and seeds; those
    # without PSL read one prompt per list where the others read two.
    arms = {"SFT": (0.0, 0.0), "SFT+SLL": (cfg.alpha, 0.0)}
    arms |= {"SFT+PSL": (0.0, cfg.beta), "ALRO": (cfg.alpha, cfg.beta)}
    runs = {}
    for display_order in ("shuffled", "shown"):
        for arm, (alpha, beta) in arms.items():
            for seed in range(cfg.seed, cfg.seed + seeds):
                runs[root / f"{arm}-{display_order}-{seed}"] = dataclasses.replace(
                    cfg, alpha=alpha, beta=beta, test_lists=0, seed=seed,
                    display_order=display_order)
    return runs


def check_same_config(folder: Path, data_cfg: DataConfig, cfg: TrainConfig) -> None:
    """Raise AlroError unless the run in the folder has this configuration."""
    # Else the folder's config.json would describe a run that never happened.
    for part, given in (("data", data_cfg), ("train", cfg)):
        saved = settings_of_run(str(folder), part, type(given))
        for field in dataclasses.fields(given):
            was, now = getattr(saved, field.name), getattr(given, field.name)
            check_input(was == now, f"{folder} was started with --{field.name} {was}, not {now}: "
                                    "give the same flags, or another --out")


def ablation(data_cfg: DataConfig, cfg: TrainConfig, ablation_cfg: AblationConfig) -> dict:
    """Train all arms, resuming those of an earlier call, and compare them in one table.

    Two processes may work side by side: each skips what the other is training.
    """
    check_input(os.environ.get("WORLD_SIZE", "1") == "1",
                "an ablation trains in one process: no torchrun")
    check_input(cfg.alpha > 0 and cfg.beta > 0,
                "an ablation compares with and without: --alpha and --beta must be above 0")
    check_input(cfg.test_lists != 0, "an ablation compares on test lists: --test_lists must be "
                                     "above 0, or None for all")
    root = Path(ablation_cfg.out or f"runs/{data_cfg.dataset}-ablation")
    runs = ablation_runs(cfg, ablation_cfg.seeds, root)
    # An arm that is there already must be one of this ablation: same data, same configuration.
    for folder, arm_cfg in runs.items():
        if (folder / "config.json").exists():
            check_same_config(folder, data_cfg, arm_cfg)
    # Those that are trained go by quickly: resuming a finished run has no step left to do.
    skipped = []
    for number, (folder, arm_cfg) in enumerate(runs.items(), 1):
        print(f"\n---- run {number} of {len(runs)}: {folder}")
        resumed = str(folder) if (folder / "config.json").exists() else None
        if resumed:  # perhaps made by another process since
            check_same_config(folder, data_cfg, arm_cfg)
        try:
            train(data_cfg, arm_cfg, RunConfig(out=str(folder), resume=resumed))
        except FolderInUse as error:
            print(error)
            skipped.append(str(folder))
    # Whether another process has finished those, only a second look can tell.
    check_input(not skipped, "all else is trained, but another process is training "
                             f"{', '.join(skipped)}: run the same command again when it has "
                             "ended, for the table")
    flags = ["--limit", str(cfg.test_lists), "--orders", str(ablation_cfg.orders)]
    flags += ["--pool", "True", "--json", str(root / "ablation.json")]
    return compare.main([*map(str, runs), *flags])


def main(arguments: list[str] | None = None) -> dict:
    configs = parse_flags(arguments, DataConfig, TrainConfig, AblationConfig, presets=PRESETS)
    return ablation(*configs)


if __name__ == "__main__":
    run_script(main)
