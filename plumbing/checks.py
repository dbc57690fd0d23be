"""Settings that are refused before any file is read: out of range, or not going together."""
import re

from alro import clean_text
from plumbing.files import LAYOUTS
from plumbing.flags import check_choice, check_input, check_minimum, check_positive
from plumbing.world import NEW_FILMS


def check_data(cfg) -> None:
    """cfg: data.DataConfig."""
    check_choice(cfg, dataset=["synthetic", *LAYOUTS])
    check_input(re.fullmatch("title(,category)?(,average)?", cfg.fields),
                f"--fields must be title[,category][,average], got {cfg.fields!r}")
    check_input(cfg.noun is None or cfg.noun == clean_text(cfg.noun) != "",
                "--noun must be one line of text")
    check_input(2 <= cfg.list_size <= 26,
                f"--list_size must be 2..26 (A to Z), got {cfg.list_size}")
    check_minimum(cfg, history_size=0, stride=1, k_core=1, new_films=0, retriever_noise=0)
    check_input(cfg.dataset.startswith("ml-") or not cfg.download,
                "--download works for the ml-... datasets only")
    if cfg.dataset == "synthetic":
        given = cfg.data_path or cfg.k_core or cfg.drop_zeros
        check_input(not given, "--data_path, --k_core and --drop_zeros are not for the synthetic "
                               "dataset")
        most_new = min(cfg.list_size, NEW_FILMS)
        check_input(cfg.new_films <= most_new,
                    f"--new_films must be at most {most_new}, got {cfg.new_films}")
    else:
        check_input(cfg.download or cfg.data_path is not None,
                    f"--dataset {cfg.dataset} needs --data_path, the folder with its files (or, "
                    "for ml-..., --download)")


def check_training(cfg) -> None:
    """cfg: train.TrainConfig."""
    check_minimum(cfg, seed=0, steps=1, batch_size=1, grad_accum=1, width=8, lora_rank=1)
    check_minimum(cfg, alpha=0, beta=0, history_weight=0, candidate_weight=0)
    check_minimum(cfg, valid_every=1, valid_lists=1, test_lists=0)
    check_positive(cfg, "epochs", "lr", "gamma", "sigma")
    check_choice(cfg, display_order=["shown", "shuffled"])
    check_input(cfg.width % 8 == 0, f"--width must be a multiple of 8, got {cfg.width}")
    check_input(cfg.lora_rank is None or cfg.model != "tiny",
                "--lora_rank needs a --model: tiny has no folder to go to")
