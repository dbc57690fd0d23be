"""Checks of exercise 10, on small worlds; and the numbers that its text promises."""
import numpy as np
import pytest
import torch
from classroom import check, check_close

import data
import evaluate

NAMES = {"chance", "item mean", "embedding at its best", "told the genre", "oracle"}


@pytest.mark.parametrize("k", [0, 3])
def test_the_lists(work, k):
    lists = work.world_lists(k, users=60)
    cfg = data.DataConfig(new_films=k)
    ratings = data.load(cfg, n_users=60)
    expected = [one for one in data.split(ratings, cfg).test if one.informative]
    check([vars(one) for one in lists.lists] == [vars(one) for one in expected], "world_lists",
          f"the {len(expected)} informative test lists of that world", "choose_lists(ratings, splits, \"test\", None)",
          f"{len(lists.lists)} lists")


@pytest.mark.parametrize("k", [0, 2, 6])
def test_the_embedding_knows_old_films_and_nothing_of_new_ones(work, k):
    lists = work.world_lists(k, users=60)
    columns = lists.ratings.columns
    rated, mean = set(columns.item[lists.fit].tolist()), columns.rating[lists.fit].mean()
    found = work.embedding_at_its_best(lists)(lists.lists, [one.shown for one in lists.lists])
    for one, order in zip(lists.lists, found.tolist()):
        scores = [columns.expected[one.user, item] if item in rated else mean for item in one.items]
        expected = np.argsort(-np.array(scores), kind="stable").tolist()
        check(order == expected, "embedding_at_its_best", f"{expected} for list {one.list_id}, of scores {scores}",
              "which films have a rating in lists.fit? ties by candidate index: evaluate.score_ranker", order)


@pytest.mark.parametrize("k", [0, 2, 6])
def test_a_row_is_the_mean_ndcg_of_each(work, k):
    row, lists = work.ndcg_row(k, users=60), work.world_lists(k, users=60)
    check(row.keys() >= NAMES, "ndcg_row", f"the names {sorted(NAMES)}", "told_the_category gives {name: ranker}",
          sorted(row))
    ratings = torch.tensor([one.ratings for one in lists.lists])
    columns = lists.ratings.columns
    mean = evaluate.item_mean(columns.item[lists.fit], columns.rating[lists.fit], len(columns.items))
    scores = {"item mean": [mean[one.items] for one in lists.lists],
              "oracle": [columns.expected[one.user][one.items] for one in lists.lists]}
    for name, values in scores.items():
        order = torch.tensor(np.argsort(-np.array(values), kind="stable"))
        check_close(row[name], evaluate.ndcg(ratings, order, 6).mean(), "ndcg_row", f"the mean NDCG@6 of {name}",
                    "over all test lists; item mean from lists.fit")
    check_close(row["chance"], evaluate.chance_ndcg(ratings, 6).mean(), "ndcg_row", "the exact expectation of chance",
                "evaluate.chance_ndcg")


def row_of(mean, embedding, told):
    return {"chance": 0.8, "item mean": mean, "embedding at its best": embedding, "told the genre": told, "oracle": 1.0}


def test_from_when_it_pays(work):
    rows = {4: row_of(0.82, 0.85, 0.98), 0: row_of(0.85, 0.98, 0.98), 2: row_of(0.84, 0.95, 0.98)}
    for share, expected in ((0.1, 2), (0.2, 4), (0.9, None), (0.0, 2)):
        check(work.pays_from(rows, share) == expected, "pays_from", f"{expected} for a share of {share}",
              "the best of the two without titles; more than share * (oracle - chance); the smallest k, not the first",
              work.pays_from(rows, share))
    rows[2]["item mean"] = 0.99
    check(work.pays_from(rows, 0.1) == 4, "pays_from", "4 where item mean is better than both at 2", "max of the two",
          work.pays_from(rows, 0.1))


def test_what_the_exercise_is_about(work):
    rows = work.curve([0, 1, 2, 4, 6])
    check(list(rows) == [0, 1, 2, 4, 6], "curve", "a row for each k", "ndcg_row(k, users)", list(rows))
    for k, row in rows.items():
        check(row["told the genre"] > 0.98 and abs(row["told the genre"] - row["oracle"]) < 0.01, "curve",
              f"told the genre at .98 or more, {k} new films", "see the checks above", row)
    advantage = [row["told the genre"] - row["embedding at its best"] for row in rows.values()]
    check(abs(advantage[0]) < 0.005 and advantage == sorted(advantage), "curve", "an advantage that grows from 0",
          "does the embedding know nothing of new films?", advantage)
    expected = {"chance": 0.824, "embedding at its best": 0.824, "item mean": 0.824}
    for name, value in expected.items():
        check(abs(rows[6][name] - value) < 0.008, "curve", f"{name} about {value} with six new films", "as chance",
              rows[6][name])
    check(abs(rows[2]["embedding at its best"] - 0.968) < 0.003, "curve", "the embedding at .968 with two", "see above",
          rows[2])
    check(abs(rows[0]["item mean"] - 0.850) < 0.005, "curve", "item mean .850 with no new film", "lists.fit",
          rows[0]["item mean"])
    check(work.pays_from(rows) == 2, "pays_from", "2: from two new films of six on", "see above", work.pays_from(rows))
