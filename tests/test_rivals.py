"""Rivals that ask the same language model (bootstrapping, point-wise) and rivals of the losses."""
import functools

import numpy as np
import pytest
import torch
from helpers import demo_config, demo_run, log_of, refused
from hypothesis import given
from oracles import oracle_lambda_loss
from test_losses import lists, positive

import alro
import baselines
import data
import train
from evaluate import ModelRanker
from model import build_model
from runs import read_run_config

CONFIG = data.DataConfig(list_size=5, history_size=6)
RATINGS = data.synthetic(CONFIG, n_users=20)
LISTS = data.split(RATINGS, CONFIG).test[:12]
SHOWN = [one.shown for one in LISTS]
OTHER = [one.shown[::-1] for one in LISTS]


@pytest.fixture(scope="module")
def ranker():
    """The untrained model, asked list-wise."""
    model, tokenizer = build_model(train.TrainConfig(), RATINGS)
    return ModelRanker(model.eval(), data.make_encoder(model, tokenizer, RATINGS.prompt_words(), 5))


# ---- Ways to rank ---------------------------------------------------------------------------------------------------

def test_bootstrapping_ranks_independently_drawn_orders_and_sorts_by_mean_rank():
    """A ranker that copies the display: what comes out is the mean slot over drawn orders, another set for each order
    displayed; a ranker indifferent to the display is left as it is."""
    asked = []

    def copying(lists, slots):
        asked.append([tuple(order) for order in slots])
        return torch.tensor(slots)
    found = baselines.bootstrapped(copying, 4)(LISTS, SHOWN)
    drawn = asked[:4]
    for row in range(len(LISTS)):
        ranks = torch.stack([alro.rank_of(torch.tensor([order[row]]))[0] for order in drawn]).double().mean(0)
        assert (ranks[found[row]].diff() >= 0).all()
        assert len({order[row] for order in drawn}) > 1  # not one order four times
    baselines.bootstrapped(copying, 4)(LISTS, OTHER)
    assert asked[4:] != drawn
    blind = data_blind_order()
    assert torch.equal(baselines.bootstrapped(lambda lists, slots: blind, 3)(LISTS, SHOWN), blind)


def data_blind_order():
    return torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(n)) for n in range(len(LISTS))])


def test_point_wise_sorts_by_the_expected_rating_of_one_more_history_line(ranker):
    """Against the model's own logits, one prompt at a time, and whatever the displayed order."""
    model, encoder = ranker.model, ranker.encoder
    levels = np.unique(RATINGS.rating)
    rank = baselines.point_wise(ranker, levels, batch_size=7)
    found = rank(LISTS, SHOWN)
    assert torch.equal(found, rank(LISTS, OTHER))
    for one, order in zip(LISTS[:4], found):
        scores = []
        for item in one.items:
            lines = ["A user rated these movies (1 = worst, 5 = best):"]
            lines += [f"{RATINGS.titles[i]}: {rating:g}" for i, rating in one.history]
            prompt = encoder.tokenizer("\n".join([*lines, f"{RATINGS.titles[item]}:"]), return_tensors="pt").input_ids
            tokens = [encoder.tokenizer.convert_tokens_to_ids(f" {level:g}") for level in levels]
            y = model(prompt).logits[0, -1, tokens].double().softmax(-1)
            scores.append((y * torch.tensor(levels)).sum())
        scores = torch.stack(scores)
        assert (scores[order].diff() <= 1e-6).all()


# ---- Rivals of the losses -------------------------------------------------------------------------------------------

@given(lists(), positive)
def test_first_step_rival_is_the_lambda_loss_of_the_first_positions_scores(case, sigma):
    ratings, logits = case
    random = torch.Generator().manual_seed(0)
    logits = logits + torch.randn(logits.shape, dtype=torch.float64, generator=random)  # no ties
    found = baselines.first_step_loss(logits.log_softmax(-1), ratings, sigma)
    for row, (scores, r) in enumerate(zip(logits[:, 0].tolist(), ratings.tolist())):
        ranks = [1 + sum(other > score for other in scores) for score in scores]
        assert abs(found[row].item() - oracle_lambda_loss([-x for x in scores], r, ranks, sigma)) < 1e-9


@pytest.fixture(scope="module")
def step():
    """(model, batch of one training step, log-probabilities of both displayed orders): 8 lists."""
    model, tokenizer = build_model(demo_config(), RATINGS)
    encoder = data.make_encoder(model, tokenizer, RATINGS.prompt_words(), 5, history_targets=True)
    steps = train.TrainingSteps(data.informative(data.split(RATINGS, CONFIG).train, "training"), encoder, demo_config())
    batch = steps[0].parts[0]
    with torch.no_grad():
        log_probs = alro.item_log_probs(alro.target_logits(model, batch)[0], batch).chunk(2)
    return model, batch, log_probs


SWITCHES = [{}, {"alpha": 0.5, "beta": 0.25, "history_weight": 0.0}, {"alpha": 0.0, "history_weight": 0.5},
            {"soft_ties": True}]


@pytest.mark.parametrize("switches", SWITCHES)
def test_first_step_losses_put_it_in_the_place_of_sll(step, switches):
    """All other parts are those of train.losses, and the total is their weighted sum."""
    model, batch, (log_probs, _) = step
    cfg = demo_config(gamma=5.0, sigma=2.0, **switches)
    ours, rival = train.losses(model, batch, cfg), baselines.first_step_losses(model, batch, cfg)
    assert rival.keys() == ours.keys()
    sll = baselines.first_step_loss(log_probs, batch.ratings[:8], 2.0)
    assert torch.allclose(rival["sll"], sll, atol=1e-6) and not torch.allclose(rival["sll"], ours["sll"])
    for name in ours.keys() - {"sll", "total"}:
        assert torch.allclose(rival[name], ours[name]), name
    assert torch.allclose(rival["total"], ours["total"] + cfg.alpha * (rival["sll"] - ours["sll"]), atol=1e-5)


@pytest.mark.parametrize("switches", SWITCHES)
def test_both_orders_losses_average_sft_and_sll_over_the_displayed_orders(step, switches):
    """Against the pure losses of each order; all other parts are those of train.losses."""
    model, batch, both = step
    cfg = demo_config(gamma=5.0, sigma=2.0, **switches)
    ours, rival = train.losses(model, batch, cfg), baselines.both_orders_losses(model, batch, cfg)
    order, ratings = batch.order[:8], batch.ratings[:8]
    sft = [alro.sft_loss(log_probs, order) for log_probs in both]
    if cfg.soft_ties:
        sft = [alro.soft_ties_loss(log_probs, order, ratings) for log_probs in both]
    sll = [alro.soft_lambda_loss(log_probs.softmax(-1), ratings, alro.gold_rank(ratings), 5.0, 2.0)
           for log_probs in both]
    assert rival.keys() == ours.keys()
    assert torch.allclose(rival["sft"], sum(sft) / 2, atol=1e-5) and not torch.allclose(rival["sft"], ours["sft"])
    assert torch.allclose(rival["sll"], sum(sll) / 2, atol=1e-5)
    for name in ours.keys() - {"sft", "sll", "total"}:
        assert torch.allclose(rival[name], ours[name]), name
    change = rival["sft"] - ours["sft"] + cfg.alpha * (rival["sll"] - ours["sll"])
    assert torch.allclose(rival["total"], ours["total"] + change, atol=1e-5)


@pytest.mark.parametrize("losses", [baselines.first_step_losses, baselines.both_orders_losses])
def test_a_rivals_loss_changes_the_gradient(step, losses):
    model, batch, _ = step

    def gradient(losses):
        model.zero_grad()
        losses(model, batch, demo_config())["total"].mean().backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert not torch.allclose(gradient(train.losses), gradient(losses), atol=1e-6)


def test_a_rivals_loss_is_passed_to_train_and_named_in_its_config(small_world, tmp_path):
    """And such a run is gone on with under the same losses alone."""
    run = tmp_path / "run"
    train.train(*demo_run(run, steps=2), losses=baselines.first_step_losses)
    assert read_run_config(str(run))["losses"] == "baselines.first_step_losses" and log_of(run)[0]["sll"] > 0
    with refused("first_step_losses"):
        train.main(["--resume", str(run)])
    resumed = train.RunConfig(resume=str(run))
    with refused("other data or another configuration"):
        train.train(data.DataConfig(), demo_config(steps=2), resumed)
    train.train(data.DataConfig(), demo_config(steps=2), resumed, losses=baselines.first_step_losses)


def losses(model, batch, cfg):
    return baselines.first_step_losses(model, batch, cfg)


@pytest.mark.parametrize("own, name", [(losses, f"{__name__}.losses"),
                                       (functools.partial(losses), f"{__name__}.losses()")])
def test_a_loss_of_ones_own_is_told_from_the_projects_even_where_it_has_its_name(
        small_world, tmp_path, own, name, capsys):
    run = tmp_path / "run"
    train.train(*demo_run(run, steps=2), losses=own)
    assert read_run_config(str(run))["losses"] == name and f"loss: {name};" in capsys.readouterr().out
    with refused("trained with the losses"):
        train.main(["--resume", str(run)])


def weighted(model, batch, cfg, weight=1.0):
    terms = train.losses(model, batch, cfg)
    return {**terms, "total": weight * terms["total"]}


def test_a_loss_with_another_value_given_to_it_is_another_loss(small_world, tmp_path):
    run = tmp_path / "run"
    train.train(*demo_run(run, steps=2), losses=functools.partial(weighted, weight=2.0))
    resumed = data.DataConfig(), demo_config(steps=2), train.RunConfig(resume=str(run))
    with refused("other data or another configuration"):
        train.train(*resumed, losses=functools.partial(weighted, weight=3.0))
    train.train(*resumed, losses=functools.partial(weighted, weight=2.0))


def test_a_partials_name_is_the_same_in_another_process_or_refused():
    named = train.name_of(functools.partial(weighted, "a", weight=2.0, cfg=losses, batch=None))
    assert named == f"{__name__}.weighted('a', batch=None, cfg={__name__}.losses, weight=2.0)"
    with refused("got Tensor"):
        train.name_of(functools.partial(weighted, weight=torch.ones(2)))


def weighted_by(weight, tensors=()):
    def mine(model, batch, cfg):
        return weighted(model, batch, cfg, weight + len(tensors))
    return mine


def test_functions_made_by_one_function_are_told_apart_by_the_numbers_they_hold():
    one, other = (train.name_of(weighted_by(weight, [torch.ones(2)])) for weight in (2.0, 3.0))
    assert one == train.name_of(weighted_by(2.0)) != other
    assert one == f"{__name__}.weighted_by.<locals>.mine({{'weight': 2.0}})"


@pytest.mark.parametrize("accum", [1, 2])
def test_a_loss_that_returns_other_names_for_a_later_part_or_step_is_refused(small_world, tmp_path, accum):
    calls = []

    def mine(model, batch, cfg):
        calls.append(1)
        terms = train.losses(model, batch, cfg)
        return {**terms, "sometimes": terms["total"]} if len(calls) % 2 == 0 else terms
    with refused("same names each time"):
        train.train(*demo_run(tmp_path / "run", steps=2, grad_accum=accum, log_every=2), losses=mine)


def test_the_fields_of_the_log_are_those_that_a_loss_may_not_have(demo_straight):
    of_losses = {"sft", "sll", "psl", "kl", "history", "total", "blind_sll", "perfect_sll"}
    unseen = {"tokens", "tokens_per_second"}  # not in log.jsonl; left out by log_of
    assert set().union(*log_of(demo_straight)) - of_losses == train.LOG_FIELDS - unseen


@pytest.mark.parametrize("change, message", [
    (lambda terms: terms["total"].mean(), r"shape \(8,\), got as total"),
    (lambda terms: terms["total"].repeat(2), r"shape \(8,\), got as total"),
    (lambda terms: 1.0, r"shape \(8,\), got as total 1.0")])
def test_a_loss_that_is_not_one_number_per_list_is_refused(small_world, tmp_path, change, message):
    """A mean would be averaged again, over --grad_accum's parts, and the gradient would be another."""
    def own(model, batch, cfg):
        terms = train.losses(model, batch, cfg)
        return {**terms, "total": change(terms)}
    with refused(message):
        train.train(*demo_run(tmp_path / "run", steps=2), losses=own)


@pytest.mark.parametrize("own, message", [
    (lambda terms: {"sft": terms["sft"]}, 'must return a dict with a "total"'),
    (lambda terms: terms["total"], 'must return a dict with a "total"'),
    (lambda terms: {**terms, "sft": terms["sft"].mean()}, "got as sft"),
    *[(lambda terms, name=name: {**terms, name: terms["sft"]}, f"must not return .'{name}'.: another name")
      for name in sorted(train.LOG_FIELDS)]])
def test_a_loss_without_a_total_or_with_a_name_of_the_log_is_refused(small_world, tmp_path, own, message):
    with refused(message):
        train.train(*demo_run(tmp_path / "run", steps=2), losses=lambda *given: own(train.losses(*given)))


# ---- As a user runs it ----------------------------------------------------------------------------------------------

def test_command_line_ranks_with_a_run_and_writes_its_table(tmp_path, small_world, few_draws, capsys):
    run = str(tmp_path / "run")
    train.main(["--steps", "2", "--out", run, "--valid_limit", "5", "--test_at_end", "False"])
    result = baselines.main([run, "--limit", "6", "--orders", "2", "--embedding", "False",
                             "--out", str(tmp_path / "out")])
    rows = result["methods"]
    assert list(rows) == ["chance", "untrained", run, *(f"{run}, {way}" for way in (
        "first step", "3 orders", "5 orders", "point-wise")), "item mean", "retriever", "oracle"]
    assert [rows[name]["llm_calls_per_list"] for name in rows] == [0, 1, 1, 1, 3, 5, 6, 0, 0, 0]
    assert rows[f"{run}, point-wise"]["agreement"]["mean"] == 1
    assert (tmp_path / "out" / "eval-test.json").exists() and result["data_sha256"] in capsys.readouterr().out


def test_runs_on_other_data_are_refused(tmp_path, small_world):
    for name, seed in ("a", "0"), ("b", "1"):
        train.main(["--steps", "1", "--out", str(tmp_path / name), "--valid_limit", "5", "--test_at_end", "False",
                    "--data_seed", seed])
    with refused("other data"):
        baselines.main([str(tmp_path / "a"), str(tmp_path / "b")])
    with refused("no data flags"):
        baselines.main([str(tmp_path / "a"), "--list_size", "5"])
