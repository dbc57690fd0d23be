"""What machines do to a run: signals, missing memory, odd environments, few open files, other processors."""
import dataclasses
import io
import os
import resource
import signal
import sys

import pytest
import torch
from helpers import (
    assert_same_end, csv_run, demo_config, demo_run, from_child, log_of, one_line, said, saved_step)

import data
import plumbing.model
import train
from alro import AlroError
from experiments import ablation
from plumbing import flags, machine
from plumbing import folder as run_folder


def signal_at(number: int, step: int):
    """A function to call after each step, which sends this process a signal after this one."""
    def after(done):
        if done == step:
            os.kill(os.getpid(), number)
    return after


@pytest.fixture
def hangup():
    """SIGHUP is not ignored, as it is where the tests themselves run under nohup; nor does it end them."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_sigterm_and_a_closed_terminal_save_and_say_how_to_resume_as_control_c_does(
        small_world, demo_straight, tmp_path, hangup, name):
    """What Slurm, spot machines and `docker stop` send; and a terminal that is closed, a connection that breaks."""
    with pytest.raises(SystemExit, match="--resume"):
        train.train(*demo_run(tmp_path / "run"), on_step=signal_at(getattr(signal, name), 5))
    assert saved_step(tmp_path / "run") == 6  # the step that was under way is finished
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_end(demo_straight, tmp_path / "run")


def test_what_nohup_has_begun_goes_on_without_its_terminal(small_world, demo_straight, tmp_path, hangup):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    train.train(*demo_run(tmp_path / "run"), on_step=signal_at(signal.SIGHUP, 5))
    assert_same_end(demo_straight, tmp_path / "run")
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_second_signal_ends_the_process_at_once(small_world, tmp_path):
    """Before the step under way is finished; the checkpoint of before is whole."""
    def twice(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("not ended")
    with pytest.raises(SystemExit) as stop:
        train.train(*demo_run(tmp_path / "run"), on_step=twice)
    assert stop.value.code == 128 + signal.SIGTERM and saved_step(tmp_path / "run") == 4


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_gone_away_ends_no_script(monkeypatch, stream):
    """`2>&1 | head -1`: bar, warnings, and what a run says of itself."""
    reading, writing = os.pipe()
    os.close(reading)
    done = []

    def work():
        for step in flags.progress(range(3), "training", delay=0, mininterval=0):
            run_folder.say(f"step {step}")
            flags.warn("nobody reads this")
            done.append(step)
    with open(writing, "w") as gone:
        monkeypatch.setattr(sys, stream, gone)
        flags.run_script(work)
        gone.flush()  # as at the end of a process
    assert done == [0, 1, 2]


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
                                  "DataLoader worker (pid 7) is killed by signal; must match"])
def test_a_bug_keeps_its_traceback(text):
    def fail():
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="must match"):
        flags.run_script(fail)


def test_a_loss_of_ones_own_needs_no_more_than_a_total(small_world, tmp_path):
    def my_losses(model, batch, cfg):
        log_probs, _, _ = train.model_outputs(model, batch, cfg)
        return {"total": -log_probs[:, 0].logsumexp(-1)}
    train.train(*demo_run(tmp_path / "run", steps=2, valid_every=2), losses=my_losses)
    assert log_of(tmp_path / "run")[0].keys() >= {"total", "grad_norm"}


def test_a_console_without_a_titles_characters_shows_question_marks(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    flags.run_script(lambda: print("Señor Łódź (1995)", flush=True))
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
    monkeypatch.setattr(machine, "processor_multiplies_bf16", lambda: native)
    bf16, why = machine.choose_bf16(requested, torch.device("cpu"), name)
    assert bf16 is chosen and why


@pytest.mark.parametrize("amx, avx512", [(True, False), (False, True), (False, False)])
def test_a_processor_with_amx_or_avx512_bf16_multiplies_it(monkeypatch, amx, avx512):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert machine.processor_multiplies_bf16() is (amx or avx512)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_gpu_without_bf16_computes_in_float32_and_says_so(monkeypatch, has_bf16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    bf16, why = machine.choose_bf16(None, torch.device("cuda"), "some/model")
    assert bf16 is has_bf16 and ("has bf16" in why if has_bf16 else "no bf16" in why)
    assert not machine.choose_bf16(None, torch.device("cuda"), "tiny")[0]  # as --help says


def test_compile_without_a_compiler_is_refused_before_a_folder_is_made(small_world, tmp_path, monkeypatch):
    monkeypatch.setattr(plumbing.model.shutil, "which", lambda name: None)
    assert "C++ compiler" in one_line(train.train, *demo_run(tmp_path / "run", compile=True))
    assert not (tmp_path / "run").exists()


# ---- The ablation on a shared machine -------------------------------------------------------------------------------

def ablation_of(out):
    """What ablation.ablation takes for runs of two steps."""
    data_cfg, cfg, _ = demo_run(out, steps=2, valid_every=2, test_lists=3)
    return data_cfg, cfg, ablation.AblationConfig(out=str(out))


def test_an_ablation_with_other_flags_is_refused_by_naming_the_field_before_anything_is_trained(
        small_world, tmp_path, monkeypatch):
    """Else an arm's config.json would tell of a run that never was."""
    data_cfg, cfg, ablation_cfg = ablation_of(tmp_path)
    first, arm = next(iter(ablation.ablation_runs(cfg, 1, tmp_path).items()))
    train.train(data_cfg, arm, train.RunConfig(out=str(first)))
    monkeypatch.setattr(ablation, "train", lambda *_: pytest.fail("trained"))
    message = one_line(ablation.ablation, data_cfg, dataclasses.replace(cfg, lr=0.1), ablation_cfg)
    assert f"--lr {train.TrainConfig().lr}, not 0.1" in message and str(first) in message
    message = one_line(ablation.ablation, dataclasses.replace(data_cfg, history_size=3), cfg, ablation_cfg)
    assert "--history_size 8, not 3" in message


def test_an_ablation_leaves_alone_what_another_process_trains(small_world, tmp_path):
    data_cfg, cfg, ablation_cfg = ablation_of(tmp_path)
    taken = list(ablation.ablation_runs(cfg, 1, tmp_path))[2]
    taken.mkdir(parents=True)
    lock = run_folder.lock_folder(taken)  # it holds for others than this process

    def elsewhere():
        try:
            ablation.ablation(data_cfg, cfg, ablation_cfg)
        except AlroError as error:
            return str(error)
    message = from_child(elsewhere)
    lock.release()
    assert str(taken) in message and "same command again" in message
    assert not (taken / "config.json").exists()
    trained = [folder for folder in ablation.ablation_runs(cfg, 1, tmp_path) if (folder / "model").exists()]
    assert len(trained) == 7


def test_a_run_of_csv_data_stops_on_a_signal_between_two_log_lines_without_losing_one(world, straight, tmp_path):
    data_cfg, cfg, run_cfg = csv_run(world, tmp_path / "run")
    with pytest.raises(SystemExit):
        train.train(data_cfg, cfg, run_cfg, on_step=signal_at(signal.SIGTERM, 1))
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_end(straight, tmp_path / "run")
