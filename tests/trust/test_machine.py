"""What machines do to a run: signals, missing memory, odd environments, few open files, other processors."""
import dataclasses
import io
import multiprocessing
import os
import resource
import signal
import sys

import pytest
import torch
from helpers import (assert_same_end, csv_run, demo_config, demo_run, from_child, log_of, one_line, said,
                     saved_step)

import data
import model
import runs
import train
from alro import AlroError


def test_sigterm_saves_and_says_how_to_resume_as_control_c_does(small_world, demo_straight, tmp_path):
    """What Slurm, spot machines and `docker stop` send."""
    def stop(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit, match="--resume"):
        train.train(*demo_run(tmp_path / "run"), on_step=stop)
    assert saved_step(tmp_path / "run") == 6  # the step that was under way is finished
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_end(demo_straight, tmp_path / "run")


def test_a_signal_to_all_processes_which_ends_the_loader_too_saves_the_last_step(small_world, tmp_path, monkeypatch):
    def dying_loader(steps, first, device):
        for step in range(first, 7):
            yield train.as_arrays(steps[step])
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")
    monkeypatch.setattr(train, "make_loader", dying_loader)
    with pytest.raises(SystemExit, match="--resume"):
        train.train(*demo_run(tmp_path / "run"))
    assert saved_step(tmp_path / "run") == 7 and log_of(tmp_path / "run")[-1]["step"] == 7


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: not enough memory: you tried "
                 "to allocate 8 bytes."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")])
def test_out_of_memory_is_one_line_that_names_what_helps(error):
    def fail():
        raise error
    message = said(fail)
    assert "out of memory" in message
    for flag in ("--grad_accum", "--gradient_checkpointing", "--lora_rank"):
        assert flag in message


@pytest.mark.parametrize("text", ["The size of tensor a (3) must match the size of tensor b (4)",
                                  "Caught RuntimeError in DataLoader worker process 0. must match"])
def test_a_bug_keeps_its_traceback(text):
    def fail():
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="must match"):
        runs.run_script(fail)


def test_a_loss_of_ones_own_needs_no_more_than_a_total(small_world, tmp_path):
    def my_losses(model, batch, cfg):
        log_probs, _, _ = train.model_outputs(model, batch, cfg)
        return {"total": -log_probs[:, 0].logsumexp(-1)}
    train.train(*demo_run(tmp_path / "run", steps=2, valid_every=2), losses=my_losses)
    assert log_of(tmp_path / "run")[0].keys() >= {"total", "grad_norm"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_signal_to_the_worker_in_the_middle_of_a_step_loses_no_step(small_world, tmp_path, monkeypatch):
    """Slurm and systemd signal every process; torch then raises wherever the main one is."""
    def signal_all():
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGTERM)
            child.join(5)
        os.kill(os.getpid(), signal.SIGTERM)
    real, steps = train.losses, []

    def losses(*arguments):
        steps.append(1)
        if len(steps) == 6:
            signal_all()
        return real(*arguments)
    losses.__name__ = "losses"
    with pytest.raises(SystemExit, match="--resume"):
        train.train(*demo_run(tmp_path / "run"), losses=losses)
    assert saved_step(tmp_path / "run") == 6 and log_of(tmp_path / "run")[-1]["step"] == 6


def test_a_console_without_a_titles_characters_shows_question_marks(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    runs.run_script(lambda: print("Señor Łódź (1995)", flush=True))
    assert console.buffer.getvalue() == "Señor ?ód? (1995)".encode("cp1252") + os.linesep.encode()


@pytest.mark.parametrize("environment, complaint", [
    ({"WORLD_SIZE": "2"}, "not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
    ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}, "not MASTER_PORT"),
    ({"WORLD_SIZE": ""}, "WORLD_SIZE='', no number"), ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two', no number"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0', no number")])
def test_half_of_what_torchrun_sets_is_one_line(monkeypatch, tmp_path, environment, complaint):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    message = one_line(train.train, *demo_run(tmp_path / "run"))
    assert complaint in message and "torchrun" in message
    assert not (tmp_path / "run").exists()


def count_files_while_training(folder, accum: int) -> int:
    """Open files of a run of four steps, at their most, with this process allowed few more than that."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    data_cfg = data.DataConfig()
    cfg = demo_config(batch_size=accum, grad_accum=accum, steps=4, valid_every=4)
    counts = []
    train.train(data_cfg, cfg, train.RunConfig(out=str(folder)),
                on_step=lambda _: counts.append(len(os.listdir("/proc/self/fd"))))
    return max(counts)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_open_files_do_not_grow_with_grad_accum(small_world, tmp_path):
    few = from_child(count_files_while_training, tmp_path / "few", 1)
    many = from_child(count_files_while_training, tmp_path / "many", 64)
    assert isinstance(many, int), many
    assert many <= few + 2


@pytest.mark.parametrize("requested, name, native, chosen", [
    (None, "tiny", True, False), (None, "some/model", True, True), (None, "some/model", False, False),
    (True, "tiny", False, True), (False, "some/model", True, False)])
def test_bf16_is_chosen_for_a_pretrained_model_where_the_processor_has_it(monkeypatch, requested, name, native, chosen):
    monkeypatch.setattr(model, "processor_multiplies_bf16", lambda: native)
    bf16, why = model.choose_bf16(requested, torch.device("cpu"), name)
    assert bf16 is chosen and why


@pytest.mark.parametrize("amx, avx512", [(True, False), (False, True), (False, False)])
def test_a_processor_with_amx_or_avx512_bf16_multiplies_it(monkeypatch, amx, avx512):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert model.processor_multiplies_bf16() is (amx or avx512)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_gpu_without_bf16_computes_in_float32_and_says_so(monkeypatch, has_bf16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    bf16, why = model.choose_bf16(None, torch.device("cuda"), "some/model")
    assert bf16 is has_bf16 and ("has bf16" in why if has_bf16 else "no bf16" in why)
    assert not model.choose_bf16(None, torch.device("cuda"), "tiny")[0]  # as --help says


def test_compile_without_a_compiler_is_refused_before_a_folder_is_made(small_world, tmp_path, monkeypatch):
    monkeypatch.setattr(model.shutil, "which", lambda name: None)
    assert "C++ compiler" in one_line(train.train, *demo_run(tmp_path / "run", compile=True))
    assert not (tmp_path / "run").exists()


# ---- The ablation on a shared machine -------------------------------------------------------------------------------

def ablation_of(out, **more):
    data_cfg, cfg, _ = demo_run(out, steps=2, valid_every=2, test_limit=3, **more)
    return data_cfg, cfg, train.RunConfig(out=str(out), ablation=True)


def test_an_ablation_with_other_flags_is_refused_by_naming_the_field_before_anything_is_trained(
        small_world, tmp_path, monkeypatch):
    """Else an arm's config.json would tell of a run that never was."""
    data_cfg, cfg, run_cfg = ablation_of(tmp_path)
    first, arm = next(iter(train.ablation_runs(cfg, run_cfg, tmp_path).items()))
    train.train(data_cfg, arm, train.RunConfig(out=str(first)))
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained"))
    message = one_line(train.ablation, data_cfg, dataclasses.replace(cfg, lr=0.1), run_cfg)
    assert f"--lr {train.TrainConfig().lr}, not 0.1" in message and str(first) in message
    message = one_line(train.ablation, dataclasses.replace(data_cfg, history_size=3), cfg, run_cfg)
    assert "--history_size 8, not 3" in message


def test_an_ablation_leaves_alone_what_another_process_trains(small_world, tmp_path):
    data_cfg, cfg, run_cfg = ablation_of(tmp_path)
    taken = list(train.ablation_runs(cfg, run_cfg, tmp_path))[2]
    taken.mkdir(parents=True)
    lock = runs.lock_folder(taken)  # a record lock: it holds for others than this process

    def elsewhere():
        try:
            train.ablation(data_cfg, cfg, run_cfg)
        except AlroError as error:
            return str(error)
    message = from_child(elsewhere)
    lock.close()
    assert str(taken) in message and "same command again" in message
    assert not (taken / "config.json").exists()
    trained = [folder for folder in train.ablation_runs(cfg, run_cfg, tmp_path) if (folder / "model").exists()]
    assert len(trained) == 7


def test_a_run_of_csv_data_stops_on_a_signal_between_two_log_lines_without_losing_one(world, straight, tmp_path):
    data_cfg, cfg, run_cfg = csv_run(world, tmp_path / "run")
    with pytest.raises(SystemExit):
        train.train(data_cfg, cfg, run_cfg,
                    on_step=lambda step: step == 1 and os.kill(os.getpid(), signal.SIGTERM))
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_end(straight, tmp_path / "run")
