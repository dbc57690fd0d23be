"""Other objectives (experiments/objectives.py): each against the pure losses of alro.py."""
import functools
import itertools
import math

import pytest
import torch
from helpers import (
    Crash, assert_same_weights, crash_at, demo_config, demo_run, log_of, one_line, refused, saved_step)
from hypothesis import given
from hypothesis import strategies as st
from oracles import oracle_lambda_loss
from test_losses import lists, normal, positive, seeds

import alro
import data
import train
from experiments import objectives
from plumbing import folder as run_folder
from plumbing.folder import read_run_config
from plumbing.flags import function_named
from plumbing.model import build_model

CONFIG = data.DataConfig(list_size=5, history_size=6)
RATINGS = data.load(CONFIG, n_users=20)


# ---- A soft target over ties ----------------------------------------------------------------------------------------

@given(lists())
def test_equation_soft_ties_against_loop(case):
    """Position by position: the mean over the items that are rated as the gold one and did not come out before."""
    ratings, logits = case
    whole = logits.log_softmax(-1) - 1.5
    order = alro.gold_order(ratings)
    found = objectives.soft_ties_loss(whole, order, ratings)
    for b, (r, gold) in enumerate(zip(ratings.tolist(), order.tolist())):
        terms = []
        for k, item in enumerate(gold):
            right = [i for i in gold[k:] if r[i] == r[item]]
            terms.append(sum(-whole[b, k, i].item() for i in right) / len(right))
        assert found[b].item() == pytest.approx(sum(terms) / len(gold), abs=1e-9)


@given(st.lists(st.integers(1, 3), min_size=2, max_size=5), seeds)
def test_soft_ties_are_the_mean_of_sft_over_the_ways_to_draw_ties(ratings, seed):
    """Whatever the model says after each prefix: so both have the same gradient on average."""
    m = len(ratings)
    after = {}  # log-probabilities (m,) of the next item after each prefix

    def log_probs(order):
        rows = []
        for k in range(m):
            out = tuple(order[:k])
            if out not in after:
                after[out] = normal(seed + len(after), m).log_softmax(-1)
            rows.append(after[out])
        return torch.stack(rows).unsqueeze(0)
    gold = [order for order in itertools.permutations(range(m))
            if all(ratings[a] >= ratings[b] for a, b in itertools.pairwise(order))]
    hard = [alro.sft_loss(log_probs(order), torch.tensor([order])).item() for order in gold]
    rated = torch.tensor([ratings])
    soft = [objectives.soft_ties_loss(log_probs(order), torch.tensor([order]), rated).item() for order in gold]
    assert sum(soft) / len(gold) == pytest.approx(sum(hard) / len(gold), abs=1e-9)
    if len(gold) == 1:
        assert soft == pytest.approx(hard)


def test_soft_ties_allow_what_is_not_right_to_be_impossible():
    """An item that is out already may have probability 0: 0 times its infinite loss would be NaN."""
    y = torch.tensor([[[0.6, 0.4, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]])
    found = objectives.soft_ties_loss(y.log(), torch.tensor([[0, 1, 2]]), torch.tensor([[5.0, 3.0, 3.0]]))
    assert found.item() == pytest.approx(-(math.log(0.6) + math.log(0.5) + math.log(1)) / 3)


def test_gradcheck_of_soft_ties():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    ratings = torch.tensor([[5.0, 3.0, 3.0]] * 2, dtype=torch.float64)
    order = alro.gold_order(ratings)
    assert torch.autograd.gradcheck(lambda x: objectives.soft_ties_loss(x.log_softmax(-1), order, ratings), logits)


# ---- In the place of the project's losses ---------------------------------------------------------------------------

@given(lists(), positive)
def test_first_step_rival_is_the_lambda_loss_of_the_first_positions_scores(case, sigma):
    ratings, logits = case
    random = torch.Generator().manual_seed(0)
    logits = logits + torch.randn(logits.shape, dtype=torch.float64, generator=random)  # no ties
    found = objectives.first_step_loss(logits.log_softmax(-1), ratings, sigma)
    for row, (scores, r) in enumerate(zip(logits[:, 0].tolist(), ratings.tolist())):
        ranks = [1 + sum(other > score for other in scores) for score in scores]
        assert abs(found[row].item() - oracle_lambda_loss([-x for x in scores], r, ranks, sigma)) < 1e-9


@pytest.fixture(scope="module")
def step():
    """(model, batch of one training step, log-probabilities of both displayed orders): 8 lists."""
    model, tokenizer = build_model(demo_config(), RATINGS.words)
    encoder = data.make_encoder(model, tokenizer, RATINGS.words, 5)
    lists = data.informative_lists(data.split(RATINGS, CONFIG).train, "training")
    steps = train.TrainingSteps(lists, encoder, demo_config())
    batch = steps.data_of(0).parts[0]
    with torch.no_grad():
        log_probs = alro.candidate_log_probs(alro.target_logits(model, batch)[0], batch).chunk(2)
    return model, batch, log_probs


SWITCHES = [{}, {"alpha": 0.5, "beta": 0.25, "history_weight": 0.0}, {"alpha": 0.0, "history_weight": 0.5},
            {"candidate_weight": 0.0}]


@pytest.mark.parametrize("switches", SWITCHES)
def test_first_step_losses_put_it_in_the_place_of_sll(step, switches):
    """All other parts are those of train.losses, and the total is their weighted sum."""
    model, batch, (log_probs, _) = step
    cfg = demo_config(gamma=5.0, sigma=2.0, **switches)
    ours, rival = train.losses(model, batch, cfg), objectives.first_step_losses(model, batch, cfg)
    assert rival.keys() == ours.keys()
    sll = objectives.first_step_loss(log_probs, batch.ratings[:8], 2.0)
    assert torch.allclose(rival["sll"], sll, atol=1e-6) and not torch.allclose(rival["sll"], ours["sll"])
    for name in ours.keys() - {"sll", "total"}:
        assert torch.allclose(rival[name], ours[name]), name
    assert torch.allclose(rival["total"], ours["total"] + cfg.alpha * (rival["sll"] - ours["sll"]), atol=1e-5)


@pytest.mark.parametrize("switches", SWITCHES)
def test_both_orders_losses_average_sft_and_sll_over_the_displayed_orders(step, switches):
    """Against the pure losses of each order; all other parts are those of train.losses."""
    model, batch, both = step
    cfg = demo_config(gamma=5.0, sigma=2.0, **switches)
    ours, rival = train.losses(model, batch, cfg), objectives.both_orders_losses(model, batch, cfg)
    order, ratings = batch.order[:8], batch.ratings[:8]
    sft = [alro.sft_loss(log_probs, order) for log_probs in both]
    sll = [alro.soft_lambda_loss(log_probs.softmax(-1), ratings, alro.gold_rank(ratings), 5.0, 2.0)
           for log_probs in both]
    assert rival.keys() == ours.keys()
    assert torch.allclose(rival["sft"], sum(sft) / 2, atol=1e-5) and not torch.allclose(rival["sft"], ours["sft"])
    assert torch.allclose(rival["sll"], sum(sll) / 2, atol=1e-5)
    for name in ours.keys() - {"sft", "sll", "total"}:
        assert torch.allclose(rival[name], ours[name]), name
    change = rival["sft"] - ours["sft"] + cfg.alpha * (rival["sll"] - ours["sll"])
    assert torch.allclose(rival["total"], ours["total"] + change, atol=1e-5)


@pytest.mark.parametrize("switches", SWITCHES)
def test_both_displays_losses_lack_psl_alone(step, switches):
    """The control for PSL: the exposure without the pull."""
    model, batch, _ = step
    cfg = demo_config(**switches)
    with_psl = objectives.both_orders_losses(model, batch, cfg)
    found = objectives.both_displays_losses(model, batch, cfg)
    for name in found.keys() - {"total"}:
        assert torch.allclose(found[name], with_psl[name]), name
    assert torch.allclose(found["total"], with_psl["total"] - cfg.beta * found["psl"], atol=1e-5)


@pytest.mark.parametrize("switches", SWITCHES)
def test_soft_ties_losses_put_it_in_the_place_of_sft(step, switches):
    model, batch, (log_probs, _) = step
    cfg = demo_config(**switches)
    ours, rival = train.losses(model, batch, cfg), objectives.soft_ties_losses(model, batch, cfg)
    soft = objectives.soft_ties_loss(log_probs, batch.order[:8], batch.ratings[:8])
    assert torch.allclose(rival["sft"], soft, atol=1e-5) and not torch.allclose(rival["sft"], ours["sft"])
    for name in ours.keys() - {"sft", "total"}:
        assert torch.allclose(rival[name], ours[name]), name
    assert torch.allclose(rival["total"], ours["total"] + soft - ours["sft"], atol=1e-5)


def test_ratings_only_losses_hold_no_ranking_loss(step):
    """Their gradient is that of the two rating terms; without any weight there is nothing to learn."""
    model, batch, _ = step
    cfg = demo_config(history_weight=0.3, candidate_weight=0.7)
    found = objectives.ratings_only_losses(model, batch, cfg)
    assert torch.allclose(found["total"], 0.3 * found["history"] + 0.7 * found["candidates"])
    assert {"sft", "sll", "psl"} < found.keys()  # for the log
    with refused("ratings alone need"):
        objectives.ratings_only_losses(model, batch, demo_config(history_weight=0.0, candidate_weight=0.0))


def test_current_rank_losses_take_delta_at_the_models_own_ranks(step):
    model, batch, (log_probs, _) = step
    cfg = demo_config(gamma=5.0, sigma=2.0)
    ours, rival = train.losses(model, batch, cfg), objectives.current_rank_losses(model, batch, cfg)
    position = alro.soft_rank(log_probs.softmax(-1), 5.0)
    for row in range(8):
        ranks = [1 + sum(other < s for other in position[row].tolist()) for s in position[row].tolist()]
        expected = oracle_lambda_loss(position[row].tolist(), batch.ratings[row].tolist(), ranks, 2.0)
        assert rival["sll"][row].item() == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(rival["total"], ours["total"] + cfg.alpha * (rival["sll"] - ours["sll"]), atol=1e-5)


@pytest.mark.parametrize("switches", SWITCHES)
def test_detached_target_losses_pull_the_other_output_alone(step, switches):
    """All terms have the values of train.losses; PSL's gradient is that of the pure loss with y taken as given, so
    with y' taken as given, too, it has none."""
    model, batch, _ = step
    cfg = demo_config(gamma=5.0, sigma=2.0, **switches)
    ours, rival = train.losses(model, batch, cfg), objectives.detached_target_losses(model, batch, cfg)
    assert rival.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.allclose(rival[name], value, atol=1e-5), name

    def gradient(psl):
        return torch.autograd.grad(psl.sum(), model.get_input_embeddings().weight)[0]
    first, other = alro.candidate_log_probs(alro.target_logits(model, batch)[0], batch).log_softmax(-1).chunk(2)
    expected = gradient(alro.permutation_loss(first.detach(), other))
    through_both = gradient(ours["psl"])
    torch.testing.assert_close(gradient(rival["psl"]), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(through_both, expected, rtol=1e-3, atol=1e-4)


def test_no_gradient_flows_through_a_detached_target(step, monkeypatch):
    """The model's outputs put in the place of a model: y has no gradient of PSL, y' has one."""
    _, batch, both = step
    y, other = (log_probs.clone().requires_grad_() for log_probs in both)
    monkeypatch.setattr(objectives, "model_outputs", lambda *_: (y, other, {}))
    objectives.detached_target_losses(None, batch, demo_config())["psl"].sum().backward()
    assert y.grad is None and other.grad.abs().sum() > 0


@pytest.mark.parametrize("losses", [
    objectives.detached_target_losses, objectives.first_step_losses, objectives.both_orders_losses,
    objectives.both_displays_losses, objectives.soft_ties_losses, objectives.current_rank_losses,
    objectives.ratings_only_losses])
def test_a_rivals_loss_changes_the_gradient(step, losses):
    model, batch, _ = step

    def gradient(losses):
        model.zero_grad()
        losses(model, batch, demo_config())["total"].mean().backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert not torch.allclose(gradient(train.losses), gradient(losses), atol=1e-6)


# ---- Its name, in the run's record ----------------------------------------------------------------------------------

def test_a_rivals_loss_is_passed_to_train_and_named_in_its_config(small_world, tmp_path):
    """And such a run is gone on with under the same losses alone."""
    run = tmp_path / "run"
    train.train(*demo_run(run, steps=2), losses=objectives.first_step_losses)
    assert read_run_config(str(run))["losses"] == "experiments.objectives:first_step_losses"
    assert log_of(run)[0]["sll"] > 0
    resumed = train.RunConfig(resume=str(run))
    for others in ({}, {"losses": objectives.soft_ties_losses}):
        with refused("made with another loss function"):
            train.train(data.DataConfig(), demo_config(steps=2), resumed, **others)
    train.train(data.DataConfig(), demo_config(steps=2), resumed, losses=objectives.first_step_losses)


def losses(model, batch, cfg):
    return objectives.first_step_losses(model, batch, cfg)


@pytest.mark.parametrize("own, name", [
    (objectives.first_step_losses, "experiments.objectives:first_step_losses"), (losses, f"{__name__}:losses")])
def test_resume_finds_the_losses_by_their_name(small_world, tmp_path, own, name):
    """Also those of another module with the name of the project's: the run ends as one never disturbed."""
    straight, run = tmp_path / "straight", tmp_path / "run"
    train.train(*demo_run(straight, steps=4, valid_every=2), losses=own)
    with pytest.raises(Crash):
        train.train(*demo_run(run, steps=4, valid_every=2), losses=own, on_step=crash_at(3))
    assert saved_step(run) == 2 and read_run_config(str(run))["losses"] == name
    with refused("takes no other flag"):
        train.main(["--resume", str(run), "--losses", name])
    train.main(["--resume", str(run)])
    assert saved_step(run) == 4
    assert_same_weights(straight, run)
    assert log_of(straight) == log_of(run)


def test_losses_are_named_on_the_command_line(small_world, tmp_path, capsys):
    """--losses module:function is what losses=function is."""
    name, run, flags = "experiments.objectives:soft_ties_losses", tmp_path / "run", []
    for field, value in (("steps", 2), ("batch_size", 8), ("valid_every", 4), ("valid_lists", 5), ("test_lists", 0)):
        flags += [f"--{field}", str(value)]
    train.main([*flags, "--losses", name, "--out", str(run)])
    assert read_run_config(str(run))["losses"] == name and f"loss: {name};" in capsys.readouterr().out
    train.train(*demo_run(tmp_path / "other", steps=2), losses=objectives.soft_ties_losses)
    assert_same_weights(run, tmp_path / "other")
    train.train(*demo_run(tmp_path / "ours", steps=2))
    assert log_of(tmp_path / "ours") != log_of(run) == log_of(tmp_path / "other")


@pytest.mark.parametrize("name", [
    "experiments.objectives:nothing", "nowhere:losses", "experiments.objectives", "train:WARMUP", "", "a b:c"])
def test_losses_that_are_no_function_are_refused_before_anything_is_written(small_world, tmp_path, name):
    assert one_line(train.main, ["--losses", name, "--out", str(tmp_path / "run")]).startswith(f"--losses {name}")
    assert not (tmp_path / "run").exists()


def test_a_loss_of_ones_own_is_told_from_the_projects_even_where_it_has_its_name(small_world, tmp_path, capsys):
    run = tmp_path / "run"
    train.train(*demo_run(run, steps=2), losses=losses)
    name = f"{__name__}:losses"
    assert read_run_config(str(run))["losses"] == name and f"loss: {name};" in capsys.readouterr().out
    with refused("made with another loss function"):
        train.train(data.DataConfig(), demo_config(steps=2), train.RunConfig(resume=str(run)))


@pytest.mark.parametrize("nameless", [
    functools.partial(losses), lambda *given: losses(*given), functools.partial(lambda *given: losses(*given))],
    ids=["partial", "lambda", "both"])
def test_a_loss_without_a_name_is_refused_before_anything_is_written(small_world, tmp_path, nameless):
    """A partial's values and a lambda's text are in no name: two of them could not be told apart."""
    assert "def mine(...)" in one_line(train.name_of, nameless)
    assert "def mine(...)" in one_line(train.train, *demo_run(tmp_path / "run", steps=2), losses=nameless)
    assert not (tmp_path / "run").exists()


def test_a_run_whose_losses_no_name_leads_to_is_gone_on_with_from_python_alone(small_world, tmp_path):
    """A function made inside another one: --resume says in one line that it cannot be found."""
    def inner(model, batch, cfg):
        return losses(model, batch, cfg)
    run = tmp_path / "run"
    train.train(*demo_run(run, steps=2), losses=inner)
    assert f"{run}/config.json: " in one_line(train.main, ["--resume", str(run)])
    train.train(data.DataConfig(), demo_config(steps=2), train.RunConfig(resume=str(run)), losses=inner)


# ---- What it returns ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("accum", [1, 2])
def test_a_loss_that_returns_other_names_for_a_later_part_or_step_is_refused(
        small_world, tmp_path, monkeypatch, accum):
    monkeypatch.setattr(run_folder, "LOG_EVERY", 2)
    calls = []

    def mine(model, batch, cfg):
        calls.append(1)
        terms = train.losses(model, batch, cfg)
        return {**terms, "sometimes": terms["total"]} if len(calls) % 2 == 0 else terms
    with refused("same names each time"):
        train.train(*demo_run(tmp_path / "run", steps=2, grad_accum=accum), losses=mine)


def test_the_fields_of_the_log_are_those_that_a_loss_may_not_have(demo_straight):
    of_losses = {"sft", "sll", "psl", "kl", "history", "candidates", "total", "blind_sll", "perfect_sll"}
    unseen = {"tokens", "tokens_per_second"}  # not in log.jsonl; left out by log_of
    assert set().union(*log_of(demo_straight)) - of_losses == run_folder.LOG_FIELDS - unseen


@pytest.mark.parametrize("change, message", [
    (lambda terms: terms["total"].mean(), r"shape \(8,\), got as total"),
    (lambda terms: terms["total"].repeat(2), r"shape \(8,\), got as total"),
    (lambda terms: 1.0, r"shape \(8,\), got as total float")])
def test_a_loss_that_is_not_one_number_per_list_is_refused(small_world, tmp_path, change, message):
    """A mean would be averaged again, over --grad_accum's parts, and the gradient would be another."""
    def own(model, batch, cfg):
        terms = train.losses(model, batch, cfg)
        return {**terms, "total": change(terms)}
    with refused(message):
        train.train(*demo_run(tmp_path / "run", steps=2), losses=own)


@pytest.mark.parametrize("own, message", [
    (lambda terms: {"sft": terms["sft"]}, 'must return "total".*returns sft$'),
    (lambda terms: terms["total"], 'must return a dict with "total".*returns a Tensor$'),
    (lambda terms: {**terms, "sft": terms["sft"].mean()}, "got as sft"),
    (lambda terms: {**terms, "total": terms["total"].detach()}, "this one has no gradient$"),
    *[(lambda terms, name=name: {**terms, name: terms["sft"]}, f"must not return .'{name}'.: another name")
      for name in sorted(run_folder.LOG_FIELDS)]])
def test_a_loss_without_a_total_or_with_a_name_of_the_log_is_refused(small_world, tmp_path, own, message):
    def mine(model, batch, cfg):
        return own(train.losses(model, batch, cfg))
    with refused(message):
        train.train(*demo_run(tmp_path / "run", steps=2), losses=mine)


def decorated(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)
    return wrapper


wrapped = decorated(train.losses)  # its name says that it is train.losses
alias = objectives.soft_ties_losses


@pytest.mark.parametrize("name,words", [
    ("test_objectives:wrapped", "calls itself train:losses"), ("test_objectives:alias", "calls itself"),
    ("train:TrainConfig", "a name of its own"), ("os:getcwd", "a name of its own"),
    ("data:load", r"takes \(model, batch, cfg\), this one \(cfg, n_users\)"),
    ("no_such_module:f", "there is no such function"), ("train:no_such", "there is no such function")])
def test_a_name_that_the_record_could_not_go_on_with_is_refused_at_the_start(name, words):
    """Once a run with `wrapped` was recorded as train:losses, and went on with these."""
    with refused(words):
        function_named(name)


@pytest.mark.parametrize("content", ["1 / 0", "import sys; sys.exit(3)", "def f(:"])
def test_a_module_that_fails_when_it_is_imported_is_one_line(tmp_path, monkeypatch, content):
    (tmp_path / "failing_losses.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with refused("--losses failing_losses:f: there is no such function"):
        function_named("failing_losses:f")
