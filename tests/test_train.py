"""Training at run level: it learns, it repeats, it resumes bit for bit, and it stops when numbers are broken."""
import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch

import alro
import data
import evaluate
import train
from model import build_model

GOLDEN = Path(__file__).with_name("golden.json")
DATA = data.DataConfig()


def config(out, **more) -> train.TrainConfig:
    """A run of seconds; 12 steps of 8 lists, validated and saved every 4."""
    return train.TrainConfig(**{"out": str(out), "steps": 12, "batch_size": 8, "valid_every": 4, "valid_limit": 5,
                                "test_limit": 0, "log_every": 1, "warmup_steps": 2, **more})


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """60 users in place of 2,000: the same code, seconds saved."""
    whole = data.synthetic
    monkeypatch.setattr(data, "synthetic", lambda cfg: whole(cfg, n_users=60))


def log_of(out) -> list[dict]:
    return [json.loads(line) for line in Path(out, "log.jsonl").read_text().splitlines()]


def same_but_for_time(rows):
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows]


def weights_of(out) -> dict:
    state = torch.load(Path(out, "checkpoint", "state.pt"), weights_only=True)
    return {**state["weights"], "step": torch.tensor(state["step"])}


def assert_same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run, made once."""
    whole = data.synthetic
    data.synthetic = lambda cfg: whole(cfg, n_users=60)
    try:
        out = tmp_path_factory.mktemp("straight") / "run"
        train.train(DATA, config(out))
    finally:
        data.synthetic = whole
    return out


# ---- It learns ------------------------------------------------------------------------------------------------------

def test_overfits_one_batch(tmp_path):
    """Eight lists, seen again and again in the same displays, are ranked almost perfectly."""
    cfg = config(tmp_path)
    ratings = data.load(DATA)
    lists = data.informative(data.split(ratings, DATA).train, "training")[:8]
    model, tokenizer = build_model(cfg, ratings)
    encoder = data.Encoder(tokenizer, ratings.titles, ratings.noun, ratings.scale, 6, 500, history_targets=True)
    steps = train.TrainingSteps(lists, encoder, cfg)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = steps.batch(lists, 0)
    for _ in range(100):
        loss = train.losses(model, batch, cfg)["total"].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for slots in batch.slots.split(8):
        ranked = train.model_ranker(model, encoder)(lists, slots.tolist())
        assert train.ndcg(torch.tensor([one.ratings for one in lists]), ranked, 6).mean() > 0.97


def test_golden_losses_of_the_first_ten_steps(tmp_path):
    """No change of the code moves these but one that means to (then: ALRO_GOLDEN=write, and say how far they moved)."""
    train.train(DATA, config(tmp_path / "run", steps=10, valid_every=10))
    found = [{name: row[name] for name in ("sft", "sll", "psl", "kl", "history", "total")}
             for row in log_of(tmp_path / "run") if "sft" in row]
    if os.environ.get("ALRO_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert len(found) == len(golden) == 10
    for row, expected in zip(found, golden):
        assert row == pytest.approx(expected, rel=1e-5)


# ---- It repeats and resumes -----------------------------------------------------------------------------------------

def test_two_seeded_runs_are_identical_and_another_seed_is_not(tmp_path, straight):
    train.train(DATA, config(tmp_path / "again"))
    assert_same_weights(straight, tmp_path / "again")
    assert same_but_for_time(log_of(straight)) == same_but_for_time(log_of(tmp_path / "again"))
    train.train(DATA, config(tmp_path / "other", seed=1))
    assert log_of(straight)[0]["sft"] != log_of(tmp_path / "other")[0]["sft"]


class Crash(Exception):
    pass


@pytest.mark.parametrize("crash_at", [2, 6, 8, 11])
def test_resuming_after_a_crash_equals_never_having_crashed(tmp_path, straight, crash_at):
    """2 N steps = N + resume N, bit for bit, log included; with dropout's random state, see the next test."""
    def crash(step):
        if step == crash_at:
            raise Crash
    with pytest.raises(Crash):
        train.train(DATA, config(tmp_path / "run"), on_step=crash)
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write('{"step": 9, "sf')  # a line cut short by the crash
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_weights(straight, tmp_path / "run")
    assert same_but_for_time(log_of(straight)) == same_but_for_time(log_of(tmp_path / "run"))


def test_control_c_saves_and_says_how_to_resume(tmp_path):
    """With dropout: the random state of the model's own draws is resumed too."""
    train.train(DATA, config(tmp_path / "whole", dropout=0.2))
    with pytest.raises(SystemExit, match="--resume"):
        train.train(DATA, config(tmp_path / "run", dropout=0.2),
                    on_step=lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None)
    assert weights_of(tmp_path / "run")["step"] == 6  # the step that was under way is finished
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_second_run_does_not_overwrite_the_first(tmp_path, straight):
    before = (straight / "log.jsonl").read_bytes()
    with pytest.raises(alro.AlroError, match="--resume"):
        train.train(DATA, config(straight))
    with pytest.raises(alro.AlroError, match="no other flag"):
        train.main(["--resume", str(straight), "--lr", "1"])
    assert (straight / "log.jsonl").read_bytes() == before


def test_two_runs_started_together_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(train.claim(None, "world")) for _ in range(2)] == ["runs/world-1", "runs/world-2"]
    assert [str(train.claim("mine", "world")) for _ in range(2)] == ["mine"] * 2  # train() looks what is in it
    Path("file").touch()
    with pytest.raises(alro.AlroError, match="--out file is a file"):
        train.claim("file", "world")


@pytest.mark.parametrize("field, value, complaint", [
    ("learning_rate", 1, "unknown field 'learning_rate'"), ("steps", "many", "steps must be int"),
    ("steps", True, "steps must be int"), ("lr", -1, r"config\.json: --lr must be positive")])
def test_a_config_json_with_a_bad_field_is_refused_by_name(tmp_path, straight, field, value, complaint):
    broken = json.loads((straight / "config.json").read_text())
    broken["train"][field] = value
    (tmp_path / "config.json").write_text(json.dumps(broken))
    with pytest.raises(alro.AlroError, match=complaint):
        train.main(["--resume", str(tmp_path)])


def test_best_model_on_validation_is_the_one_kept(tmp_path, monkeypatch):
    """NDCG goes up, then down: model/ holds the weights of the best, checkpoint/ those of the last step."""
    values = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(train, "ndcg", lambda ratings, *_: torch.full((len(ratings),), next(values)))
    kept = {}
    outcome = train.train(DATA, config(tmp_path / "run"), on_step=lambda step: kept.setdefault(step, (
        tmp_path / "run" / "model" / "model.safetensors").read_bytes() if step >= 4 else b""))
    assert outcome["best_valid_ndcg"] == pytest.approx(0.9)
    assert kept[4] != kept[8] == kept[12]


def test_patience_stops_early(tmp_path, monkeypatch):
    values = iter([0.9, 0.5, 0.4])
    monkeypatch.setattr(train, "ndcg", lambda ratings, *_: torch.full((len(ratings),), next(values)))
    train.train(DATA, config(tmp_path / "run", patience=1))
    assert weights_of(tmp_path / "run")["step"] == 8
    train.main(["--resume", str(tmp_path / "run")])  # a run that stopped early is not gone on with
    assert weights_of(tmp_path / "run")["step"] == 8


# ---- It stops when numbers are broken -------------------------------------------------------------------------------

def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_parts_and_lists(tmp_path, monkeypatch):
    real = train.losses

    def poisoned(model, batch, cfg):
        poisoned.calls += 1
        parts = real(model, batch, cfg)
        return {**parts, "total": parts["total"] * (float("nan") if poisoned.calls == 6 else 1)}
    poisoned.calls = 0
    monkeypatch.setattr(train, "losses", poisoned)
    with pytest.raises(alro.AlroError, match=r"step 6: not finite: .*sll.*lists \['\d+/train") as error:
        train.train(DATA, config(tmp_path / "run", log_every=5))  # found at the next look, step 8, but named rightly
    assert "\n" not in str(error.value)
    found = weights_of(tmp_path / "run")
    assert found["step"] == 4 and all(value.isfinite().all() for value in found.values())
    assert str(error.value).endswith("; the last checkpoint is from before")
    poisoned.calls = 3
    with pytest.raises(alro.AlroError, match=r"step 3: not finite: .*'\]$"):  # there is none yet, so none is promised
        train.train(DATA, config(tmp_path / "early", log_every=5))


# ---- Its switches ---------------------------------------------------------------------------------------------------

def step_of(cfg):
    ratings = data.load(DATA)
    lists = data.informative(data.split(ratings, DATA).train, "training")
    model, tokenizer = build_model(cfg, ratings)
    encoder = data.Encoder(tokenizer, ratings.titles, ratings.noun, ratings.scale, 6, 500, cfg.history_weight > 0)
    return model, train.TrainingSteps(lists, encoder, cfg), lists


def test_display_order_and_psl_rows():
    """shown: the fixed order in the first copy; shuffled: another each epoch; the second copy shares the gold order."""
    _, steps, lists = step_of(config("-", display_order="shown"))
    batch, again = steps.batch(lists[:5], 0), steps.batch(lists[:5], 1)
    assert batch.slots.shape == (10, 6) and batch.slots[:5].tolist() == [one.shown for one in lists[:5]]
    assert torch.equal(again.slots[:5], batch.slots[:5]) and not torch.equal(again.slots[5:], batch.slots[5:])
    assert torch.equal(batch.order[:5], batch.order[5:]) and torch.equal(batch.ratings[:5], batch.ratings[5:])
    _, steps, _ = step_of(config("-", display_order="shuffled", beta=0.0, history_weight=0.0))
    batch, again = steps.batch(lists[:5], 0), steps.batch(lists[:5], 1)
    assert batch.slots.shape == (5, 6) and not torch.equal(batch.slots, again.slots)
    assert batch.positions.shape == (5, 6)  # no history targets


def test_every_epoch_sees_every_list_once():
    _, steps, lists = step_of(config("-", batch_size=7))
    seen = [name for step in range(steps.per_epoch) for name in steps[step][1]]
    assert sorted(seen) == sorted(one.list_id for one in lists)
    assert [name for step in range(steps.per_epoch, 2 * steps.per_epoch) for name in steps[step][1]] != seen


@pytest.mark.parametrize("accum", [2, 3, 20])
def test_gradient_accumulation_gives_the_same_gradient(tmp_path, straight, accum):
    """Whatever the parts' sizes (3: 3, 3 and 2 lists): the mean over lists, not the mean of the parts' means."""
    train.train(DATA, config(tmp_path / "run", grad_accum=accum))
    for one, other in zip(log_of(straight)[:3], log_of(tmp_path / "run")[:3]):
        assert other["total"] == pytest.approx(one["total"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    _, steps, _ = step_of(config("-", grad_accum=accum))
    assert len(steps[0][0]) == min(accum, 8)


@pytest.mark.parametrize("change", [
    {"alpha": 0.0}, {"beta": 0.5}, {"gamma": 5.0}, {"sigma": 2.0}, {"history_weight": 0.0}, {"through_target": False},
    {"loss_on_both": True}, {"display_order": "shuffled"}])
def test_each_switch_changes_the_gradient(change):
    def gradient(cfg):
        model, steps, _ = step_of(cfg)
        batches, _, _ = steps[0]
        train.losses(model, batches[0], cfg)["total"].mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])
    assert not torch.allclose(gradient(config("-")), gradient(config("-", **change)), atol=1e-6)


def test_flags_win_over_presets_and_presets_over_defaults():
    data_cfg, cfg = train.parse(["--preset", "small-gpu", "--data_path", "x", "--lr", "0.5", "--no_through_target"],
                                data.DataConfig, train.TrainConfig, presets=train.PRESETS)
    assert (data_cfg.dataset, data_cfg.list_size, cfg.lr, cfg.beta) == ("ml-100k", 10, 0.5, 0.1)
    assert train.parse([], data.DataConfig, train.TrainConfig, presets=train.PRESETS) == [DATA, train.TrainConfig()]
    for preset in train.PRESETS:
        train.parse(["--preset", preset, "--data_path", "x"] if preset != "demo" else [], data.DataConfig,
                    train.TrainConfig, presets=train.PRESETS)


@pytest.mark.parametrize("flags, complaint", [
    (["--lr", "0"], "--lr"), (["--batch_size", "0"], "--batch_size"), (["--display_order", "alphabetical"], "shuffled"),
    (["--model", "no/such/folder"], "no/such/folder"), (["--dropout", "1"], "--dropout"),
    (["--gamma", "nan"], "--gamma"), (["--lora_rank", "2"], "--lora_rank")])
def test_bad_flags_are_one_clear_line(flags, complaint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(alro.AlroError, match=complaint) as error:
        train.main([*flags, "--out", str(tmp_path / "run")])
    assert "\n" not in str(error.value)


def test_lora_trains_the_adapter_alone_and_is_loaded_again(tmp_path):
    pytest.importorskip("peft")
    ratings = data.load(DATA)
    model, tokenizer = build_model(config("-"), ratings)
    train.save_model(model, tokenizer, tmp_path)  # a base model in a folder of its own
    cfg = config(tmp_path / "run", model=str(tmp_path / "model"), lora_rank=2, test_limit=3)
    outcome = train.train(DATA, cfg)
    assert all("lora" in name for name in weights_of(tmp_path / "run") if name != "step")
    assert (tmp_path / "run" / "model" / "adapter_config.json").exists() and "trained" in outcome["result"]["methods"]


def test_ablation_pools_seeds_and_prints_the_arms_side_by_side(tmp_path, capsys):
    cfg = dataclasses.replace(config(tmp_path / "x", steps=2, test_limit=4, test_orders=2), ablation=True, seeds=2)
    table = train.ablation(DATA, cfg)
    arms = [f"{arm}-{display}" for display in ("shuffled", "shown") for arm in ("SFT", "SFT+SLL", "SFT+PSL", "ALRO")]
    assert list(table["methods"]) == ["chance", *(f"{arm}-0 +1 seeds" for arm in arms), "item mean", "oracle"]
    printed = capsys.readouterr().out
    assert all(arm in printed for arm in arms) and "sd of seeds" in printed
    settings = [json.loads((tmp_path / "x" / f"{arm}-1" / "config.json").read_text())["train"] for arm in arms]
    assert [(s["alpha"], s["beta"], s["display_order"]) for s in settings] == [
        (a, b, display) for display in ("shuffled", "shown") for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))]
    row = table["methods"]["SFT-shown-0 +1 seeds"]
    alone = [evaluate.main([f"{tmp_path}/x/SFT-shown-{seed}", "--limit", "4", "--orders", "2"]) for seed in (0, 1)]
    means = [next(iter(found.values()))["methods"][f"{tmp_path}/x/SFT-shown-{seed}"]["ndcg@10"]["mean"]
             for seed, found in enumerate(alone)]
    assert row["by_seed"]["ndcg@10"] == pytest.approx(means) and row["ndcg@10"]["mean"] == pytest.approx(sum(means) / 2)
    pairs = table["differences"]
    assert len(pairs) == 9 and all(pair.endswith(" - SFT-shuffled-0 +1 seeds") for pair in pairs)


def test_an_ablation_run_again_goes_on_with_its_arms(tmp_path, monkeypatch):
    """Crashed in its third arm, then twice the same command: the table of one never disturbed, and no arm anew."""
    cfg = dataclasses.replace(config("-", steps=2, valid_every=1, test_limit=2, test_orders=1), ablation=True)
    monkeypatch.chdir(tmp_path)

    def table(**more):
        found = train.ablation(DATA, dataclasses.replace(cfg, **more))["methods"]
        return {name.rpartition("/")[2]: row for name, row in found.items()}
    whole, real, arms = table(out="whole"), train.losses, []

    def crash(*arguments):
        arms.append(arguments)
        if len(arms) == 6:
            raise Crash
        return real(*arguments)
    monkeypatch.setattr(train, "losses", crash)
    with pytest.raises(Crash):
        table(out="again")
    done = Path("again/SFT-shuffled-0/checkpoint/state.pt").stat().st_mtime_ns
    assert table(out="again") == whole
    monkeypatch.setattr(train, "losses", None)  # all is trained: nothing is left to compute
    assert table(out="again") == whole
    assert Path("again/SFT-shuffled-0/checkpoint/state.pt").stat().st_mtime_ns == done


def test_log_holds_the_references(straight):
    row = log_of(straight)[0]
    assert row["log_m"] == pytest.approx(1.7918, abs=1e-4)
    assert row["log_m_factorial_over_m"] == pytest.approx(1.0965, abs=1e-4)
    assert row["blind_sll"] > 0 and {"sft", "sll", "psl", "kl", "history", "grad_norm", "lr"} <= row.keys()


# ---- Cheaper steps --------------------------------------------------------------------------------------------------

def test_an_epoch_holds_each_list_once_in_steps_of_similar_length():
    """Also with a last step that is not full; similar: less spread of lengths in a step than among all lists."""
    _, steps, lists = step_of(config("-", batch_size=10))
    steps.lengths = torch.arange(len(lists)) % 37  # as if prompts were of 37 lengths
    seen, spread = [], []
    for step in range(steps.per_epoch):
        ids = steps[step][1]
        rows = [[one.list_id for one in lists].index(name) for name in ids]
        seen += ids
        spread.append((steps.lengths[rows].max() - steps.lengths[rows].min()).item())
    assert sorted(seen) == sorted(one.list_id for one in lists)
    assert sum(spread) / len(spread) < 37 / 4  # ten random lists would span 30


def test_lengths_guess_the_prompts_tokens():
    _, steps, lists = step_of(config("-"))
    lists = [dataclasses.replace(one, history=one.history[n % 9:]) for n, one in enumerate(lists)]
    steps = train.TrainingSteps(lists, steps.encoder, steps.cfg)
    true = torch.tensor([len(steps.encoder.tokenise([one], [one.shown])[0][1]) for one in lists]).double()
    assert torch.corrcoef(torch.stack([true, steps.lengths.double()]))[0, 1] > 0.99


@pytest.mark.parametrize("flag", ["gradient_checkpointing", pytest.param("compile", marks=pytest.mark.slow)])
def test_cheaper_steps_have_the_same_gradient(flag):
    """--gradient_checkpointing computes each layer twice, --compile pads to few lengths; neither changes a gradient."""
    gradients, calls = [], []
    for cfg in config("-"), config("-", **{flag: True}):
        model, steps, _ = step_of(cfg)
        model.train()
        steps.encoder.multiple = 64 if cfg.compile else 1
        batch = steps[0][0][0]
        assert not cfg.compile or batch.input_ids.shape[1] == 128  # 65 tokens, padded
        calls.append(0)
        model.base_model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(calls.pop() + 1))
        train.losses(model, batch, cfg)["total"].sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert calls == [1, 2] or flag == "compile"
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_bf16_computes_in_bf16_and_changes_losses_by_its_rounding_alone():
    model, steps, _ = step_of(config("-"))
    batch, seen = steps[0][0][0], []
    model.base_model.layers[0].mlp.up_proj.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    full, half = (train.losses(model, batch, config("-", bf16=bf16))["total"] for bf16 in (False, True))
    assert seen == [torch.float32, torch.bfloat16] and half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)
