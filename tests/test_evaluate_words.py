"""What is said of a table: in words that the numbers choose, by groups of lists, and in pictures of y."""
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import said

import alro
import data
import evaluate
from experiments import compare, figures, rivals
from plumbing.averages import item_mean as damped_mean
from plumbing.files import Columns
from plumbing.tables import FEW_LISTS, in_plain_words, notes_on


# ---- In plain words ------------------------------------------------------------------------------

def table(trained, shown, agreement, item_mean=0.85, chance=0.80, oracle=0.98, half=0.01):
    """A result of lists of 6 with these scores; half: half of a 95 % interval."""
    def row(score, **more):
        interval = {"mean": score, "ci95": [score - half, score + half]}
        return {"ndcg@6": interval, **{name: {"mean": value} for name, value in more.items()}}
    methods = {"chance": row(chance), "item mean": row(item_mean),
               "trained": row(trained, **{"ndcg@6_shown": shown, "agreement": agreement})}
    if oracle is not None:
        methods["oracle"] = row(oracle)
    return {"list_size": 6, "ranked_lists": 300, "methods": methods}


def test_a_table_at_chance_reads_otherwise_than_a_good_one():
    good = in_plain_words(table(trained=0.971, shown=0.975, agreement=0.83))
    assert "better than chance (NDCG@6 0.971, chance 0.800)" in good and "closes 95% of the gap" in good
    assert "ranked much the same (agreement 0.83)" in good and "better than the item mean (0.850)" in good
    chance = in_plain_words(table(trained=0.803, shown=0.795, agreement=0.02))
    assert "no better than chance" in chance and "gap" not in chance and "much the same" not in chance
    assert "worse than the item mean" in chance and "follows the order" in chance


def test_a_model_that_copies_what_it_is_shown_is_said_to():
    copying = in_plain_words(table(trained=0.803, shown=0.950, agreement=0.004))
    assert "no better than chance" in copying and "follows the order in which" in copying
    assert "in the order that a retriever shows this earns 0.950" in copying


def test_a_model_that_ranks_upside_down_is_said_to():
    """A sign that is wrong somewhere: not "no better than chance"."""
    assert "worse than chance" in in_plain_words(table(trained=0.70, shown=0.70, agreement=0.9))


@pytest.mark.parametrize("agreement, words", [(0.75, "much the same"), (0.74, "partly"), (0.3, "partly"),
                                              (0.29, "follows the order"), (-0.5, "follows the order")])
def test_agreement_chooses_the_words(agreement, words):
    assert words in in_plain_words(table(trained=0.9, shown=0.9, agreement=agreement))


@pytest.mark.parametrize("knows, words", [
    (0.95, "It knows more than it says"), (0.905, "It says what it knows"),
    (0.85, "It says more than its expected ratings know"), (0.8, "It knows no more than it says")])
def test_what_it_knows_is_told_beside_what_it_says(knows, words):
    says = 0.805 if knows == 0.8 else 0.9  # both no better than chance
    result = table(trained=says, shown=says, agreement=0.9)
    assert "sorted by the rating" not in in_plain_words(result)
    interval = [knows - 0.01, knows + 0.01]
    result["methods"]["knows"] = {"ndcg@6": {"mean": knows, "ci95": interval}, "agreement": {"mean": 0.71}}
    said = in_plain_words(result)
    assert f"{words}; sorted by the rating" in said and f"{knows:.3f}" in said and "(agreement 0.71)" in said


@pytest.mark.parametrize("item_mean, words", [(0.85, "better than"), (0.905, "about as good as"),
                                              (0.895, "about as good as"), (0.95, "worse than")])
def test_the_item_mean_is_only_beaten_outside_the_interval(item_mean, words):
    assert f"It is {words} the item mean" in in_plain_words(
        table(trained=0.9, shown=0.9, agreement=0.9, item_mean=item_mean))


def test_without_an_oracle_or_a_second_order_there_are_fewer_words():
    """Real ratings have no oracle; one order has no agreement. And any row can be spoken of."""
    result = table(trained=0.9, shown=0.9, agreement=0.9, oracle=None)
    del result["methods"]["trained"]["agreement"]
    result["methods"]["runs/a"] = result["methods"].pop("trained")
    words = in_plain_words(result, "runs/a")
    assert "gap" not in words and "agreement" not in words and words.count(". ") == 1


def test_few_lists_are_said_to_tell_nothing():
    """Of one list the interval has no width: "worse than chance: something is wrong", once."""
    result = table(trained=0.70, shown=0.70, agreement=0.9, half=0.0)
    real = table(0.7, 0.7, 0.9, oracle=None)["methods"]
    for count, few in ((1, True), (FEW_LISTS - 1, True), (FEW_LISTS, False)):
        result["ranked_lists"] = count
        assert ("worse than chance" in in_plain_words(result)) != few
        assert ("So few lists do not tell" in in_plain_words(result)) == few
        assert any("tell next to nothing" in note for note in notes_on({**result, "methods": real})) == few


def test_a_row_above_the_oracle_in_the_shown_order_is_explained():
    def with_shown(shown):
        interval = {"mean": 0.98, "ci95": [0.98, 0.98]}
        rows = {name: {"ndcg@6": interval, "ndcg@6_shown": {"mean": value}}
                for name, value in (("chance", 0.8), ("trained", shown), ("oracle", 0.98))}
        return {"ranked_lists": 300, "methods": rows}
    note, = notes_on(with_shown(0.985))
    assert "noise in the ratings, which the oracle does not know" in note
    assert notes_on(with_shown(0.975)) == []


# ---- Groups of lists, and the rival that is told the genre ---------------------------------------

COLUMNS = ([0, 0, 0, 1, 1, 1, 2, 2], [0, 1, 2, 0, 1, 3, 0, 2], [5, 5, 1, 1, 2, 4, 4, 2], list(range(8)))


def small_data(expected=None, categories=None):
    """Items 0, 1, 2, 3 with 3, 2, 2 and 1 ratings, 4 and 5 with none; two lists, the second with item 4."""
    names = [str(i) for i in range(6)]
    titles = ["Sea Love", "Sky Love", "Sea War", "Sky War", "New War", "New Love"]
    user, item, rating, time = map(np.array, COLUMNS)
    columns = Columns(user, item, rating.astype(float), time.astype(float), ["a", "b", "c"], names, titles,
                      categories or [""] * 6, "movie", {}, expected)
    ratings = data.Ratings(columns, data.PromptWords(titles, "movie", (1.0, 5.0), [1.0, 2.0, 4.0, 5.0]))
    lists = [data.RankingList("a/test", 0, [(0, 5.0)], [0, 1], [4.0, 2.0], [0, 1]),
             data.RankingList("b/test", 1, [(0, 1.0), (1, 2.0)], [4, 1], [5.0, 1.0], [1, 0])]
    splits = data.Splits([], [], lists, {"test": np.arange(8)})
    return evaluate.EvaluationData(ratings, splits, "test", 2, lists, "")


def groups_of(evaluation_data):
    methods = {"item mean": evaluate.score_method(
        evaluate.reference_rankers(evaluation_data)["item mean"], evaluation_data.lists, 2)}
    return compare.by_group(methods, evaluation_data), methods["item mean"]["values"]["ndcg@2"]


def test_lists_with_and_without_new_items_are_groups_of_their_own(monkeypatch):
    """Made-up worlds: new is what nobody has rated; real ones: what few have, and the table says how few."""
    groups, values = groups_of(small_data(expected=np.zeros((3, 6))))
    assert groups["new items"] == {"lists": 1, "item mean": values[1]}
    assert groups["no new items"] == {"lists": 1, "item mean": values[0]}
    monkeypatch.setattr(compare, "NEW_ITEM_RATINGS", 1)
    groups, values = groups_of(small_data())
    assert groups["new items (<= 1 ratings)"] == {"lists": 1, "item mean": values[1]}
    assert groups["no new items"]["lists"] == 1
    monkeypatch.setattr(compare, "NEW_ITEM_RATINGS", -1)
    assert not [name for name in groups_of(small_data())[0] if "new" in name]  # nothing to set apart


def test_told_the_category_is_a_users_mean_in_it_beside_the_item_mean():
    """By hand, item by candidate; an item of two categories gets half of each; a new one its category alone."""
    evaluation_data = small_data(categories=["love", "love", "war", "war love", "", "war"])
    mean = damped_mean(np.array(COLUMNS[1]), np.array(COLUMNS[2], float), 6)
    shares = [{"love": 1}, {"love": 1}, {"war": 1}, {"war": 0.5, "love": 0.5}, {}, {"war": 1}]
    taste = {}
    for user in range(3):
        for name in ("love", "war"):
            rows = [(i, r) for u, i, r, _ in zip(*COLUMNS) if u == user]
            total = sum(shares[i].get(name, 0) * (r - mean[i]) for i, r in rows)
            taste[user, name] = total / (sum(shares[i].get(name, 0) for i, _ in rows) + 5)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rivals, "score_ranker", lambda score: asked.append(score) or score)
        assert list(rivals.told_the_category(evaluation_data)) == ["told the category"]
    for user in range(3):
        ranking_list = data.RankingList("x", user, [], list(range(6)), [0.0] * 6, list(range(6)))
        by_hand = [mean[i] + sum(share * taste[user, name] for name, share in shares[i].items()) for i in range(6)]
        assert np.allclose(asked[0](ranking_list), by_hand)


@pytest.mark.parametrize("titles", ["{name} {genre}", "{genre} {name}"])
def test_in_the_made_up_world_the_word_that_many_titles_share_is_the_genre(titles):
    """User a loves love and user b war: of two films that nobody has rated theirs comes first, wherever the genre
    stands in a title."""
    evaluation_data = small_data(expected=np.zeros((3, 26)))
    genres = ["Love", "Love", "War", "War", "War", "Love"] + ["War", "Love"] * 10
    ratings = evaluation_data.ratings
    columns = ratings.columns._replace(
        titles=[titles.format(genre=genre, name=f"N{n}") for n, genre in enumerate(genres)],
        items=[str(n) for n in range(26)])
    evaluation_data = evaluation_data._replace(ratings=ratings._replace(columns=columns))
    ranker, = rivals.told_the_category(evaluation_data).values()
    candidates = [4, 5]  # of war, of love
    lists = [data.RankingList(str(user), user, [], candidates, [0.0, 0.0], [0, 1]) for user in (0, 1)]
    assert [candidates[order[0]] for order in ranker(lists, None).tolist()] == [5, 4]


def test_without_categories_there_is_no_such_rival():
    assert rivals.told_the_category(small_data()) == {}
    assert rivals.told_the_category(small_data(categories=[""] * 6)) == {}


# ---- Pictures ------------------------------------------------------------------------------------

def test_y_by_slot_says_where_the_model_looks_and_where_it_should(small_world, demo_straight):
    """Each output position's probabilities add to 1; by slot they are the candidates'; gold: the best-rated's slot."""
    evaluation_data = compare.load_evaluation(data.DataConfig(), "test")
    ranker = evaluate.rankers_of_run(str(demo_straight), evaluation_data.ratings.words, 6)["trained"]
    ranking_list = figures.most_levels(evaluation_data.lists)
    assert len(set(ranking_list.ratings)) == max(len(set(one.ratings)) for one in evaluation_data.lists)
    y, gold_slots = figures.output_by_slot(ranker, ranking_list)
    assert y.shape == (2, 6, 6) and np.allclose(y.sum(-1), 1, atol=1e-5)
    for order, slots in enumerate((ranking_list.shown, data.random_slots(6, "eval", ranking_list.list_id, 0))):
        rated = [ranking_list.ratings[slots[slot]] for slot in gold_slots[order]]
        assert rated == sorted(ranking_list.ratings, reverse=True)
        gold = torch.tensor([[slots[slot] for slot in gold_slots[order]]])
        batch = ranker.encoder.encode([ranking_list], [slots], gold)
        batch = batch.to(next(ranker.model.parameters()).device)
        with torch.no_grad():
            by_item = alro.candidate_log_probs(alro.target_logits(ranker.model, batch)[0], batch)[0]
        by_item = by_item.log_softmax(-1).exp().numpy()
        assert np.allclose(y[order], by_item[:, slots], atol=1e-5)


def test_figures_hold_a_line_for_each_seed_and_two_maps_for_each_row(
        small_world, few_draws, demo_straight, tmp_path, monkeypatch, capsys):
    """Two seeds in one row: the printed curve is their mean; the maps are those of the row's first run."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    for seed in (0, 1):
        folder = tmp_path / f"seed{seed}"
        shutil.copytree(demo_straight, folder, ignore=shutil.ignore_patterns("eval-*"))
        config = json.loads((folder / "config.json").read_text())
        config["train"]["seed"] = seed
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "log.jsonl").write_text("".join(
            json.dumps({"step": step, "valid_ndcg": value + 0.2 * seed}) + "\n"
            for step, value in ((4, 0.5), (8, 0.7))))
    drawn = []
    monkeypatch.setattr(pyplot, "close", lambda figure: drawn.append(figure))
    figures.main([str(tmp_path / "seed0"), str(tmp_path / "seed1"), "--pool", "True", "--limit", "3", "--orders", "1",
                  "--out", str(tmp_path / "figures")])
    printed = capsys.readouterr().out
    assert "4:0.600 8:0.800" in printed and "ALRO, shown, 2 seeds: seed 0, shown order: y by slot" in printed
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "learning_curves.png", "output_by_slot.png", "slot_curve.png", "soft_rank.png"]
    maps, _, learning, _ = drawn
    assert len([axes for axes in maps.axes if axes.images]) == 2
    lines = sorted(tuple(line.get_ydata()) for line in learning.axes[0].lines[:3])
    assert np.allclose(lines, [(0.5, 0.7), (0.6, 0.8), (0.7, 0.9)])
    texts = [text.get_text()[:6] for text in learning.axes[0].texts]
    assert texts == ["chance", "oracle"]
    keys = [text.get_text() for text in maps.legends[0].get_texts()]
    assert keys == ["gold candidate"] and "probability" in maps.axes[-1].get_ylabel()
    assert [label.get_text() for label in maps.axes[0].get_xticklabels()] == [*"ABCDEF"]
    assert [label.get_text() for label in maps.axes[0].get_yticklabels()] == [*"123456"]


def test_lines_that_coincide_are_told_apart_and_what_it_knows_has_a_panel(tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    for name, knows in (("a", {"valid_knows": 0.6}), ("b", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("".join(
            json.dumps({"step": step, "valid_ndcg": 0.5, **knows}) + "\n" for step in (4, 8)))
    rows = {name: [str(tmp_path / name)] for name in "ab"}
    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    figures.draw(tmp_path / "out", {"learning": figures.learning_picture(rows, {"chance": 0.4})})
    says, knows = drawn[0].axes
    assert (says.get_title(), knows.get_title()) == ("what it says", "what it knows")
    styles = [(line.get_marker(), line.get_linestyle()) for line in says.lines[:2]]
    assert len({*styles}) == 2 and len({style[0] for style in styles}) == 2
    assert [line.get_label() for line in knows.lines[:1]] == ["a"] and len(knows.lines) == 2


def test_seeds_that_stopped_early_are_drawn_as_far_as_all_went(tmp_path):
    for name, steps in (("a", (4, 8, 12)), ("b", (4, 8))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("".join(
            json.dumps({"step": step, "valid_ndcg": 0.5}) + "\n" for step in steps))
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert figures.learning_curves(folders) == ([4, 8], [[0.5, 0.5], [0.5, 0.5]])


def test_lists_that_lost_history_are_reported(
        small_world, few_draws, demo_straight, tmp_path, monkeypatch, capsys):
    """In evaluation, too, whichever script ranks: how many, and what the model reads."""
    evaluation_data = compare.load_evaluation(data.DataConfig(), "test", 5)
    ranker = evaluate.rankers_of_run(str(demo_straight), evaluation_data.ratings.words, 6)["trained"]
    lists = evaluation_data.lists
    slots = [one.shown for one in lists]
    assert evaluate.fit_to_model(evaluation_data, ranker.encoder).lists == lists
    assert "lost" not in capsys.readouterr().err
    shortest = min(ranker.encoder.encode(lists, slots).prompt_tokens.tolist())
    room = shortest + 6 - 1  # too few for any prompt and its answer
    ranker.encoder = dataclasses.replace(ranker.encoder, max_length=room)
    fitted = evaluate.fit_to_model(evaluation_data, ranker.encoder)
    assert f"5 of 5 test lists lost their oldest history: the model reads {room} tokens" in capsys.readouterr().err
    for whole, cut in zip(lists, fitted.lists):
        assert 0 < len(cut.history) < len(whole.history) and cut.history == whole.history[-len(cut.history):]
        assert dataclasses.replace(cut, history=whole.history) == whole
    assert fitted.sha256 == evaluation_data.sha256  # it tells which lists these are, whatever a model reads of them
    ranker(fitted.lists, slots)
    with pytest.raises(alro.AlroError, match="too long"):
        ranker(lists, slots)
    monkeypatch.setattr(data, "context_length", lambda model, tokenizer: room)
    shutil.copytree(demo_straight, tmp_path / "run")
    for script, more in ((evaluate, []), (compare, []), (rivals, ["--embedding", "False"]),
                         (figures, ["--out", str(tmp_path / "figures")])):
        script.main([str(tmp_path / "run"), "--limit", "5", "--orders", "1", *more])
        assert capsys.readouterr().err.count("5 of 5 test lists lost their oldest history") == 1


# ---- Names of rows -------------------------------------------------------------------------------

def config_of(seed: int = 0, losses: str = "train:losses", alpha=3.0, beta=1.5, **more) -> dict:
    return {"data": {"dataset": "synthetic"}, "losses": losses,
            "train": {"seed": seed, "alpha": alpha, "beta": beta, "display_order": "shown", **more}}


def names(*configs) -> list[str]:
    return [*compare.names_of({f"runs/{n}": config for n, config in enumerate(configs)}).values()]


def test_rows_are_called_by_objective_and_display():
    """Not by folder: "synthetic-1 - synthetic-2" tells nobody what was compared."""
    sft = config_of(alpha=0.0, beta=0.0)
    assert names(sft, config_of(seed=1), config_of(beta=0.0, display_order="shuffled"), config_of(alpha=0.0)) == [
        "SFT, shown", "ALRO, shown", "SFT+SLL, shuffled", "SFT+PSL, shown"]
    assert names(config_of(losses="experiments.objectives:soft_ties_losses")) == ["soft_ties_losses, shown"]


def test_what_differs_beside_the_objective_is_named_and_what_does_not_is_not():
    """So is what two objectives have not in common: SFT of 60 steps beside ALRO of 1200."""
    assert names(config_of(alpha=0.0, beta=0.0, steps=60), config_of(steps=1200)) == [
        "SFT, shown, steps 60", "ALRO, shown, steps 1200"]
    assert names(config_of(alpha=1.0, gamma=10.0, test_lists=0), config_of(alpha=3.0, gamma=10.0)) == [
        "ALRO, shown, alpha 1.0", "ALRO, shown, alpha 3.0"]


def test_seed_and_folder_are_named_only_where_names_would_else_be_the_same():
    assert names(config_of(seed=0), config_of(seed=1)) == ["ALRO, shown, seed 0", "ALRO, shown, seed 1"]
    assert names(config_of(), config_of()) == [f"ALRO, shown, seed 0, in runs/{n}" for n in range(2)]


def test_pool_keeps_runs_of_other_losses_apart_and_refuses_two_runs_of_one_seed():
    runs = {"runs/a": config_of(0), "runs/b": config_of(1), "runs/c": config_of(2, "mine:my_losses")}
    assert compare.named_rows(runs, pool=True) == {
        "ALRO, shown, 2 seeds": ["runs/a", "runs/b"], "my_losses, shown": ["runs/c"]}
    runs["runs/d"] = config_of(1)
    message = said(compare.named_rows, runs, True)
    assert "runs/a, runs/b, runs/d" in message and "one run of each seed" in message
    assert len(compare.named_rows(runs, pool=False)) == 4


def test_a_difference_says_of_how_many_trainings_it_is(capsys):
    """An interval over users alone reads as a finding about two losses."""
    def method(calls=1, **more):
        return {"llm_calls_per_list": calls, **more}
    two = {"ndcg@6": [0.9, 0.8]}
    methods = {"A": method(), "B": method(), "C": method(by_seed=two), "oracle": method(0)}
    pairs = {f"{name} - A": {"ndcg@6": (0.1, 0.05, 0.15)} for name in ("B", "C", "oracle")}
    groups = {"all lists": {"lists": 40, **dict.fromkeys(methods, 0.9)}}
    compare.print_comparison({"methods": methods, "differences": pairs, "groups": groups, "list_size": 6}, "A")
    printed = capsys.readouterr().out
    assert "B - A (one training each): ndcg@6 +0.1000 [+0.0500, +0.1500]" in printed
    assert "C - A (trainings: 2 and 1)" in printed and "oracle - A (one training)" in printed
