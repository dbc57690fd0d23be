"""Flags and configurations: what is unknown, ill-typed or out of range is refused by name."""
import dataclasses
import re

import pytest
from helpers import one_line, refused, said

import data
import evaluate
import train
from data import DataConfig
from experiments import ablation, compare, describe, figures, rivals
from plumbing import flags


def test_from_dict():
    """What is unknown, missing or of another type is named; whole numbers will do for fractions, truth values for
    neither."""
    types = [("rate", float, 0.5), ("steps", int, 3), ("fast", bool, False), ("name", str | None, None)]
    config = dataclasses.make_dataclass("Config", types)
    good = {"rate": 1, "steps": 2, "fast": True, "name": "x"}
    assert flags.config_from_dict(config, good, "x.json") == config(1, 2, True, "x")
    assert flags.config_from_dict(config, good | {"name": None}, "x.json") == config(1, 2, True, None)
    for field in good:
        with refused(f"x.json: missing field '{field}'"):
            flags.config_from_dict(config, {name: good[name] for name in good if name != field}, "x.json")
    for field, value in [("rate", "1"), ("rate", True), ("rate", None), ("steps", 1.5), ("steps", True), ("fast", 1),
                         ("name", 3), ("name", True), ("nothing", 0)]:
        with refused(f"x.json.*{field}"):
            flags.config_from_dict(config, good | {field: value}, "x.json")


@pytest.mark.parametrize("arguments", ["--no_such 1", "--list_siz 4", "--list_size four", "stray"])
def test_unknown_flags_exit_with_2(arguments, capsys):
    """An unknown flag, an abbreviated one, a value of another type, a stray word; a good one goes where it belongs."""
    with pytest.raises(SystemExit) as stop:
        flags.parse_flags(arguments.split(), DataConfig)
    assert stop.value.code == 2 and arguments.split()[0] in capsys.readouterr().err
    good = flags.parse_flags(["--list_size", "4", "--model", "x"], DataConfig, describe.DescribeConfig)
    assert good == [DataConfig(list_size=4), describe.DescribeConfig("x")]


@pytest.mark.parametrize("arguments, flag", [*((text, text.split()[-2]) for text in (
    "--data_path x --dataset ml-3m", "--list_size 1", "--list_size 27", "--history_size -1", "--stride 0",
    "--dataset csv --data_path x --k_core -1", "--dataset csv --data_path x --k_core 0",
    "--dataset csv --data_path x --download yes", "--download yes", "--k_core 5", "--data_path x")),
    ("--drop_zeros", "--drop_zeros"), ("--dataset csv", "--data_path"), ("--dataset ml-1m", "--download")])
def test_bad_values_name_the_flag(arguments, flag):
    """Each bad value of DataConfig, or pair of values that do not go together."""
    with refused(flag):
        flags.parse_flags(arguments.split(), DataConfig)


HUGE = {int: [10 ** 18, 10 ** 30, 10 ** 400, -1], float: ["1e300", "inf", "nan", "-inf"]}
HUGE[int | None] = HUGE[int]


@pytest.mark.parametrize("config, least", [
    (train.TrainConfig, 17), (data.DataConfig, 6), (evaluate.EvalConfig, 4), (compare.CompareConfig, 3),
    (figures.FiguresConfig, 3), (rivals.RivalsConfig, 3), (ablation.AblationConfig, 2)])
def test_huge_flags_are_refused_by_name(config, least):
    """Every whole and every broken number that a configuration has: --steps 10^20, --epochs 1e300, --alpha inf, ..."""
    real = {"dataset": "csv", "data_path": "x"} if config is data.DataConfig else {}
    fields = [field for field in dataclasses.fields(config) if field.type in HUGE]
    assert len(fields) >= least
    for field in fields:
        for value in HUGE[field.type]:
            value = float(value) if field.type is float else value
            message = one_line(lambda: config(**real, **{field.name: value}))  # noqa: B023
            assert message.startswith(f"--{field.name} must be"), message
    for flag, value in (("--seed", 10 ** 30), ("--steps", 10 ** 400), ("--alpha", "inf")):
        assert f"error: {flag} must be" in said(train.main, [flag, str(value)])


def test_flags_win_over_presets_and_presets_over_defaults():
    def parse(*arguments):
        return flags.parse_flags(arguments, data.DataConfig, train.TrainConfig, train.RunConfig, presets=train.PRESETS)
    data_cfg, cfg, run_cfg = parse("--preset", "small-gpu", "--data_path", "x", "--lr", "0.5", "--test_lists", "7")
    assert (data_cfg.dataset, data_cfg.list_size, cfg.lr, cfg.beta) == ("ml-100k", 10, 0.5, 1.0)
    assert cfg.test_lists == 7 and cfg.steps is None and run_cfg == train.RunConfig()
    assert parse("--preset", "small-gpu", "--data_path", "x")[1].test_lists is None  # all
    assert parse("--valid_lists", "None")[1].valid_lists is None  # over the default
    for preset in ("small-gpu", "paper"):  # as the real table
        assert train.PRESETS[preset]["beta"] == 1
    assert parse() == [DataConfig(), train.TrainConfig(), train.RunConfig()]
    for preset in train.PRESETS:
        parse("--preset", preset, *(["--data_path", "x"] if preset != "demo" else []))


@pytest.mark.parametrize("flags, complaint", [
    (["--lr", "0"], "--lr"), (["--batch_size", "0"], "--batch_size"), (["--display_order", "alphabetical"], "shuffled"),
    (["--model", "no/such/folder"], "no/such/folder"), (["--losses", "no.such:function"], "--losses no.such:function"),
    (["--gamma", "nan"], "--gamma"), (["--lora_rank", "2"], "--lora_rank")])
def test_bad_flags_are_one_clear_line(flags, complaint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert re.search(complaint, one_line(train.main, [*flags, "--out", str(tmp_path / "run")]))
    assert not (tmp_path / "run").exists()
