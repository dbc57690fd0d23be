"""The script behind results/arms.json: what it plans; its tables, from what is kept of the runs, without a model."""
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import edit

import train
from alro import AlroError
from data import DataConfig
from experiments import objectives

sys.path.append(str(Path(__file__).parents[1] / "results" / "make"))

import measure  # noqa: E402

SHORT = {"steps": 4, "valid_every": 2, "valid_lists": 4}


@pytest.fixture
def small(monkeypatch, tmp_path, small_world, few_draws):
    """Two rows with two seeds and one with a seed in another world; runs of seconds. The results' folder."""
    measure.world_of.cache_clear()
    measure.valid_levels.cache_clear()
    monkeypatch.setattr(measure, "LISTS", 5)
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(measure, "plan", lambda: {
        "SFT, shown": measure.Row(range(2), {**SHORT, **measure.SFT}),
        "ratings only, shown": measure.Row(range(2), SHORT, losses=objectives.ratings_only_losses),
        "ALRO, shown, lists of 10": measure.Row(range(1), SHORT, {"list_size": 10})})
    (tmp_path / "results").mkdir()
    yield tmp_path / "results"
    measure.world_of.cache_clear()
    measure.valid_levels.cache_clear()


def test_runs_are_trained_once_and_their_tables_need_no_model(small, tmp_path, monkeypatch, capsys):
    runs = tmp_path / "runs"
    measure.main(["train", "--runs", str(runs)])
    measure.main(["list", "--runs", str(runs)])
    assert capsys.readouterr().out.count("\ndone ") == 5
    monkeypatch.setattr(train, "train", None)
    measure.main(["train", "--runs", str(runs)])  # there is nothing left to do
    for model in [*runs.rglob("model"), *runs.rglob("checkpoint")]:
        shutil.rmtree(model)
    measure.main(["score", "arms", "lists_of_10", "--runs", str(runs), "--commit", "c0ffee"])
    assert "not kept" not in capsys.readouterr().out
    arms = json.loads((small / "arms.json").read_text())
    assert [*arms["methods"]] == ["chance", "SFT, shown", "SFT, shown, knows", "ratings only, shown",
                                  "ratings only, shown, knows", "item mean", "retriever", "oracle"]
    assert arms["commit"] == "c0ffee" and arms["ranked_lists"] == 5 and arms["orders"] == measure.ORDERS
    row = arms["methods"]["SFT, shown, knows"]
    of_seeds = []
    for seed in range(2):
        kept, = (runs / "SFT-shown" / str(seed) / "scores").glob("ratings-*.json")
        values = json.loads(kept.read_text())["values"]["ndcg@6"]
        assert len(values) == 5
        of_seeds.append(sum(values) / 5)
    assert row["by_seed"]["ndcg@6"] == pytest.approx(of_seeds) and row["seeds"] == 2
    assert [row["lowest_seed"], row["highest_seed"]] == pytest.approx(sorted(of_seeds))
    assert row["ndcg@6"]["mean"] == pytest.approx(sum(of_seeds) / 2)
    gap = arms["differences"]["SFT, shown, knows - ratings only, shown, knows"]["ndcg@6"]
    assert len(gap["by_seed"]) == 2 and "SFT, shown, knows - SFT, shown" in arms["differences"]
    ten = json.loads((small / "lists_of_10.json").read_text())
    assert ten["list_size"] == 10 and "ALRO, shown, lists of 10, knows" in ten["methods"]
    # What does not lie there is named, and with it later seeds are left out: rows are paired seed by seed.
    shutil.rmtree(runs / "SFT-shown" / "0" / "scores")
    measure.main(["score", "arms", "--runs", str(runs), "--commit", "c0ffee"])
    assert "SFT, shown, seed 0" in capsys.readouterr().out
    assert "SFT, shown" not in json.loads((small / "arms.json").read_text())["methods"]
    # A run of other settings is not taken for the row's.
    config = runs / "ratings-only-shown" / "0" / "config.json"
    edit(config, train={**json.loads(config.read_text())["train"], "gamma": 3.0})
    with pytest.raises(AlroError, match="trained with gamma 3.0, not 10.0"):
        measure.main(["score", "arms", "--runs", str(runs), "--commit", "c0ffee"])


def test_the_step_that_is_told_is_the_first_validation_at_that_share_of_the_gap(small, tmp_path):
    level = measure.late_level(DataConfig())
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [{"step": 2, "valid_ndcg": level - 0.01, "valid_knows": level},
             {"step": 4, "sll": 0.3, "blind_sll": 0.2, "perfect_sll": 0.1},
             {"step": 4, "valid_ndcg": level + 0.01, "valid_knows": 0.0}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = measure.Job("SFT, shown", 0, folder, DataConfig(), train.TrainConfig(), train.losses)
    assert measure.of_training([job], "") == {
        "steps_until_85": [4], "sll": 0.3, "blind_sll": 0.2, "perfect_sll": 0.1}
    assert measure.of_training([job], ", knows")["steps_until_85"] == [2]
    (folder / "log.jsonl").write_text("".join(json.dumps({**line, "valid_ndcg": 0.0}) + "\n" for line in lines))
    assert measure.of_training([job], "")["steps_until_85"] == [None]


def test_every_row_of_the_plan_can_be_trained_and_stands_in_a_table(monkeypatch):
    rows = measure.plan()
    assert len(measure.jobs(Path("runs"))) == sum(len(row.seeds) for row in rows.values())  # each is a configuration
    assert len({measure.file_name(row) for row in rows}) == len(rows) and {*measure.KNOBS} <= rows.keys()
    tabled = set()
    monkeypatch.setattr(measure, "table_of", lambda runs, ways, *_, **about: tabled.update(ways))
    for name in measure.SCORES.keys() - {"rivals", "new_films"}:  # they ask other rows once more, in other ways
        measure.SCORES[name](Path("runs"))
    assert tabled == {*rows}


def test_the_maps_are_those_of_the_median_seed_and_pictures_json_says_so(tmp_path, monkeypatch):
    """By the difference of the two rows, of three seeds the middle one; each picture by its hash."""
    pytest.importorskip("matplotlib")
    results = tmp_path / "results"
    results.mkdir()
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    scores = {"SFT, shown": [0.5, 0.6, 0.7], "ALRO, shown": [0.9, 0.7, 0.9], "SFT, shuffled": [0.5, 0.5, 0.5]}

    def kept_seeds(runs, row, way, data, most):
        found = []
        for seed, score in enumerate(scores[row]):
            job = measure.Job(row, seed, tmp_path / row / str(seed), DataConfig(), train.TrainConfig(), train.losses)
            measure.map_path(job).parent.mkdir(parents=True, exist_ok=True)
            measure.map_path(job).write_text(json.dumps({"y": [[[seed]]] * 2, "gold_slots": [[0]] * 2}))
            (job.folder / "log.jsonl").write_text('{"step": 1, "valid_ndcg": 0.5}\n')
            method = {"values": {"ndcg@6": np.array([score - 0.1, score + 0.1])}, "mean_rank_by_slot": [1.0] * 6}
            found.append((job, method))
        return found
    films = {"0 new films of 6": {"list_size": 6, "commit": "f11", "methods": {"chance": {"ndcg@6": {"mean": 0.8}}}}}
    (results / "new_films.json").write_text(json.dumps(films))
    drawn = {}

    def draw(folder, pictures, maps):
        drawn.update(maps)
        for name in [*pictures, "output_by_slot"]:
            (folder / f"{name}.png").write_text(name)
    for name, value in (("kept_seeds", kept_seeds), ("draw", draw), ("valid_levels", lambda cfg: {}),
                        ("world_of", lambda cfg: SimpleNamespace(list_size=6))):
        monkeypatch.setattr(measure, name, value)
    measure.main(["figures", "--runs", str(tmp_path), "--commit", "c0ffee"])
    assert [*drawn] == ["SFT, shown, seed 2 (the median)", "ALRO, shown, seed 2 (the median)"]  # .4, .1, .2
    assert all(y[0] == 2 for y, _ in drawn.values())
    told = json.loads((results / "pictures.json").read_text())
    assert {f"{name}.png" for name in told} == {path.name for path in results.glob("*.png")}
    assert told["output_by_slot"]["seeds"] == {"ALRO, shown": [2], "SFT, shown": [2]}
    assert (told["slot_curve"]["commit"], told["new_films"]["commit"]) == ("c0ffee", "f11")
    assert told["learning_curves"]["seeds"] == dict.fromkeys(scores, [0, 1, 2])
    assert told["new_films"]["sha256"] == hashlib.sha256(b"new_films").hexdigest()


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_the_commit_is_that_of_the_code_beside_the_runs(tmp_path):
    with pytest.raises(AlroError, match="give --commit"):
        measure.commit_of(tmp_path)

    def git(*words) -> str:
        settings = ["-c", "user.name=x", "-c", "user.email=x", "-c", "commit.gpgsign=false"]
        return subprocess.check_output(["git", "-C", tmp_path, *settings, *words], text=True).strip()
    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "runs").mkdir()
    git("add", "code.py")
    git("commit", "-q", "-m", "x")
    commit = git("rev-parse", "HEAD")
    assert measure.commit_of(tmp_path / "runs") == commit
    (tmp_path / "code.py").write_text("2")
    assert measure.commit_of(tmp_path / "runs") == f"{commit}-dirty"


def test_what_is_not_there_is_one_line(tmp_path):
    with pytest.raises(AlroError, match="no such folder"):
        measure.main(["score", "--runs", str(tmp_path / "none")])
    with pytest.raises(AlroError, match="no table arm"):
        measure.main(["score", "arm", "--runs", str(tmp_path)])
