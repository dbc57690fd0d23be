"""The embedding-based rivals: nothing held out is seen, nothing later is read."""
import numpy as np
import pytest
import torch

import data
from experiments import rivals

CONFIG = data.DataConfig(list_size=5, history_size=6)
RATINGS = data.load(CONFIG, n_users=40)


def test_what_is_scored_moves_no_rival_nor_its_setting(monkeypatch):
    """Test ratings drawn anew: the same grid choice, the same orders."""
    monkeypatch.setattr(rivals, "GRID", [{"dim": 4, "l2": l2} for l2 in (0.003, 0.1)])
    splits, columns = data.split(RATINGS, CONFIG), RATINGS.columns
    other = columns.rating.copy()
    held_out = np.setdiff1d(np.arange(len(other)), splits.fit["test"])
    other[held_out] = np.random.default_rng(0).integers(1, 6, len(held_out))
    changed = RATINGS._replace(columns=columns._replace(rating=other))
    a, b = (rivals.embedding_rankers(r.columns, data.split(r, CONFIG), "test") for r in (RATINGS, changed))
    assert a[1] == b[1] and list(a[0]) == ["popularity", "MF", "LightGCN", "SASRec"]
    for name in a[0]:
        assert torch.equal(a[0][name](splits.test, None), b[0][name](splits.test, None)), name


def test_sasrec_reads_nothing_later_and_a_user_is_the_state_after_the_last_rating():
    fit = rivals.Fit(RATINGS.columns, data.split(RATINGS, CONFIG).fit["valid"])
    torch.manual_seed(0)
    model = rivals.SASRec(fit, 8, 0.01, length=7, ahead=3).eval()
    rows = model.end[3] - torch.arange(7, 0, -1)
    before = model.states(rows[None])[0]
    assert torch.allclose(model.vectors()[0][3], before[-1, 1:], atol=1e-6)
    fit.centred[rows[4:]] = 9
    after = model.states(rows[None])[0]
    assert torch.equal(before[:4], after[:4]) and not torch.allclose(before[4:], after[4:])


@pytest.mark.parametrize("name", rivals.RIVALS)
def test_an_item_that_nobody_rated_has_no_vector(name):
    """Once it kept the one it was drawn as: on lists of new films alone MF was below chance, LightGCN above it."""
    cfg = data.DataConfig(list_size=5, history_size=6)
    ratings = data.load(cfg, n_users=30)
    splits = data.split(ratings, cfg)
    fit = rivals.Fit(ratings.columns, splits.fit["test"])
    unrated = (fit.of_item == 0).nonzero().flatten().tolist()
    rated = (fit.of_item > 0).nonzero().flatten().tolist()
    *_, score = rivals.score_after_each_epoch(name, fit, {"dim": 8, "l2": 0.02}, 2, 0)
    for user in range(5):
        one = data.RankingList("x", user, [], [*unrated[:2], *rated[:3]], [3.0] * 5, [0, 1, 2, 3, 4])
        assert len(unrated) >= 2 and (score(one)[:2] == 0).all() and (score(one)[2:] != 0).all()
