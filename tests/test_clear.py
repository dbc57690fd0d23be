"""The script behind results/clear.json: MovieLens with clearer ratings."""
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data import DataConfig

sys.path.append(str(Path(__file__).parents[1] / "results" / "make"))

import clear  # noqa: E402
import real_table  # noqa: E402


@pytest.fixture
def films(tmp_path):
    """RecBole's two files: 40 users, 30 films, of which a third each is good, middling and bad."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "films"
    folder.mkdir()
    rows = [(user, film, np.clip(1 + film // 10 + rng.integers(0, 3), 1, 5), 100 * user + time)
            for user in range(40) for time, film in enumerate(rng.permutation(30))]
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "films.inter").write_text("\n".join([head, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "films.item").write_text("\n".join([head, *(f"{film}\tFilm {film}\t1990\tDrama" for film in range(30))]))
    return folder


def ratings_in(file: Path) -> np.ndarray:
    return np.array([line.split("\t")[:3] for line in file.read_text().splitlines()[1:]], float)


def test_without_noise_the_film_decides_and_with_noise_the_user_counts_no_more_than_before(films, tmp_path):
    for noise in (0, 1):
        clear.write_clear(films, tmp_path / str(noise), noise)
    before = ratings_in(films / "films.inter")
    clearest, noisy = (ratings_in(tmp_path / str(noise) / "clear.inter") for noise in (0, 1))
    assert np.array_equal(before[:, :2], clearest[:, :2]) and not np.array_equal(before[:, 2], clearest[:, 2])
    of_film = {film: {*clearest[clearest[:, 1] == film, 2]} for film in range(30)}
    assert all(len(levels) == 1 for levels in of_film.values())
    assert max(of_film[0]) < min(of_film[29]) and {*clearest[:, 2]} <= {1, 2, 3, 4, 5}
    assert np.allclose(np.bincount(noisy[:, 2].astype(int))[1:] / len(noisy), 0.2, atol=0.01)
    with_film = [np.corrcoef(ratings[:, 2], clearest[:, 2])[0, 1] for ratings in (noisy, clearest)]
    assert 0.3 < with_film[0] < 0.95
    assert (tmp_path / "0" / "clear.item").read_text() == (films / "films.item").read_text()


def test_plackett_luce_loss_against_loop():
    scores = torch.randn(5, 4, dtype=torch.float64)
    order = torch.stack([torch.randperm(4) for _ in range(5)])
    found = clear.plackett_luce_loss(scores, order)
    for row in range(5):
        rest, loss = [*range(4)], 0.0
        for candidate in order[row].tolist():
            loss -= math.log(scores[row, candidate].exp() / scores[row, rest].exp().sum())
            rest.remove(candidate)
        assert math.isclose(found[row].item(), loss / 4)
    trap = clear.plackett_luce_loss(torch.zeros(5, 4), order)
    assert torch.allclose(trap, torch.tensor(math.lgamma(5) / 4))


def test_what_a_model_knows_is_worth_nothing_or_all_of_the_trap():
    ratings = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1]])
    trap = math.lgamma(5) / 4
    assert abs(clear.loss_of_what_it_knows(torch.full((2, 4), 3.0), ratings) - trap) < 1e-5
    assert clear.loss_of_what_it_knows(ratings, ratings) < 0.01
    assert trap - 0.01 < clear.loss_of_what_it_knows(5 - ratings, ratings)  # the wrong way round: no scale helps


def test_the_step_of_saying_is_the_first_at_half_the_way():
    log = [{"step": step, "valid_ndcg": says, "valid_knows": 0.9, "valid_chance": 0.7}
           for step, says in ((10, 0.7), (20, 0.79), (30, 0.81), (40, 0.79))]
    assert clear.step_of_saying([{"step": 5, "sft": 1.0}, *log]) == 30 and clear.step_of_saying(log[:2]) is None


def test_the_table_is_trained_and_scored_by_two_commands(films, tmp_path, monkeypatch, few_draws):
    monkeypatch.chdir(tmp_path)
    size = real_table.SIZES["tiny"]
    train = {**size.train, "steps": 2, "batch_size": 4, "valid_lists": 3, "valid_every": 2}
    small = size._replace(train=train, data={"list_size": 3, "history_size": 4, "stride": 5})
    monkeypatch.setitem(real_table.SIZES, "tiny", small)
    all_jobs = clear.jobs
    monkeypatch.setattr(clear, "jobs", lambda cfg: [job for job in all_jobs(cfg) if job.data != DataConfig()])
    given = ["--data_path", str(films), "--out", ".", "--commit", "c0ffee"]
    with pytest.raises(Exception, match="noise-0: `train` first"):
        clear.main(["score", *given])
    clear.main(["train", *given])
    clear.main(["score", *given])
    tables = json.loads((tmp_path / "clear.json").read_text())
    assert [*tables] == ["noise 0", "noise 0.5", "noise 1", "as rated"]
    assert tables["noise 0"]["film_correlation"] > tables["noise 1"]["film_correlation"]
    for table in tables.values():
        assert {"chance", "SFT", "SFT, knows", "item mean"} == {*table["methods"]}
        assert table["trap"] == pytest.approx(math.lgamma(4) / 3) and table["commit"] == "c0ffee"
        assert [*table["validation"]["SFT"]["0"]] == ["2"]
        assert -0.1 < table["reward"] < table["trap"]
    with pytest.raises(Exception, match="one of: train, score"):
        clear.main(["draw", *given])
