"""A run's folder, its flags and its errors. Nothing of the paper is here; a reader may skip it.

    flags      a configuration is a frozen dataclass; each field, made by `option`, is a flag
    errors     what the user can mend is one line that says what, where, and what would be right
    folder     config.json, log.jsonl, model/, checkpoint/ and lock: all are written and read here
               (but for loading a model: model.py)
    waiting    a bar for long work; Ctrl-C and SIGTERM, which stop a run after its step
"""
import argparse
import contextlib
import dataclasses
import importlib
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import typing
from pathlib import Path

import numpy as np
import torch
import transformers
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

from alro import AlroError, clean_text


# ---- Errors in one line --------------------------------------------------------------------------

def check_input(good: bool, message: str) -> None:
    """The one way to say that an input is wrong: what, where, and what would be right."""
    if not good:
        raise AlroError(message)


class FolderInUse(AlroError):
    """Another process is training in that folder."""


@contextlib.contextmanager
def one_line_error(what: str):
    """For calls into libraries that read or write files: their errors become one line after `what`.

    Those errors have no common type: safetensors, tokenizers, torch and transformers each raise
    their own, or a bare Exception, for one and the same full disk or damaged file.
    """
    try:
        yield
    except AlroError:
        raise
    except Exception as error:
        # torch says "unexpected pos 4 vs 3" after the system's "No space left on device".
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        text = textwrap.shorten(f"{type(cause).__name__}: {cause}", 400)
        raise AlroError(f"{what}: {text}") from None


@contextlib.contextmanager
def error_at(place: str):
    """What goes wrong in here is told with the place where it did."""
    try:
        yield
    except AlroError as error:
        raise AlroError(f"{place}: {error}") from None


def import_optional(package: str, purpose: str):
    """Import a package that only some uses need."""
    try:
        return importlib.import_module(package)
    except ImportError:
        name = package.split(".")[0]
        raise AlroError(f"{purpose} needs one more package: pip install {name}") from None


OUT_OF_MEMORY = ("out of memory; what needs less of it: a larger --grad_accum, "
                 "--gradient_checkpointing True, --lora_rank 8")


def explain_runtime_error(error: Exception) -> str | None:
    """What to tell the user of a RuntimeError or MemoryError that is no bug; None if it is one."""
    text = str(error)
    # CUDA has a class of its own; the CPU's allocator tells in words.
    memory = re.search("not enough memory|can't allocate memory", text)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or memory:
        return OUT_OF_MEMORY
    # With its pid: a worker has died. Without: it has passed on an error of its own, a bug.
    dead_worker = re.search(r"DataLoader worker \(pid", text)
    if isinstance(error, ConnectionError | EOFError) or dead_worker:
        # torch notices a dead worker itself, or finds one end of a connection, whichever is first.
        return "the process that tokenises has ended (killed, or out of memory)"
    return None


def run_script(main) -> None:
    """Run a script's main; what the user can mend is one line, not a traceback."""
    transformers.utils.logging.disable_progress_bar()
    # The tokenizer's threads do not survive the loader's fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console without a title's character shows "?"
    try:
        main()
    except AlroError as error:
        # From the loader's worker it comes wrapped in a traceback: the last line says it.
        last_line = str(error).strip().splitlines()[-1]
        raise SystemExit(f"error: {last_line.removeprefix('alro.AlroError: ')}") from None
    except (RuntimeError, MemoryError, OSError, EOFError) as error:
        message = explain_runtime_error(error)
        if message is None and isinstance(error, OSError):
            message = str(error)
        if message is None:
            raise  # a bug
        raise SystemExit(f"error: {message}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None


# ---- Flags and JSON from dataclasses -------------------------------------------------------------

def option(default, help: str):
    """A dataclass field that is also a command-line flag."""
    return dataclasses.field(default=default, metadata={"help": help})


def check_minimum(cfg, **minimum) -> None:
    """Raise AlroError for the first field of cfg below its least value."""
    for name, least in minimum.items():
        value = getattr(cfg, name)
        check_input(least <= value <= 10 ** 9,
                    f"--{name} must be at least {least} and at most 10^9, got {value}")


def parse_flags(arguments: list[str] | None, *configs, presets: dict | None = None,
                positional: str | None = None,
                positional_help: str = "folders that train.py wrote") -> list:
    """One object for each dataclass, from the command line; then the positional arguments, if any.

    --preset NAME, where there are presets, changes defaults; flags win. An unknown flag is refused.
    """
    parser = transformers.HfArgumentParser(
        list(configs), allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    if positional:
        parser.add_argument(positional, nargs="*", help=positional_help)
    if presets:
        default = next(iter(presets))
        parser.add_argument("--preset", choices=list(presets), default=default,
                            help="other defaults")
        chosen = parser.parse_known_args(arguments)[0].preset
        parser.set_defaults(**presets[chosen])
    # One namespace holds all flags: hand each dataclass its own.
    values = vars(parser.parse_args(arguments))
    parsed = []
    for config in configs:
        names = [field.name for field in dataclasses.fields(config)]
        parsed.append(config(**{name: values[name] for name in names}))
    if positional:
        parsed.append(values[positional])
    return parsed


def config_from_dict(config, values: dict, where: str):
    """A configuration from JSON; an unknown or ill-typed field is an error that names it.

    A field that is not there has its default: runs of before the field was thought of can go on.
    """
    types = typing.get_type_hints(config)
    for name, value in values.items():
        check_input(name in types,
                    f"{where}: unknown field {name!r}; known are {', '.join(types)}")
        accepted = float | int if types[name] is float else types[name]
        right_type = isinstance(value, accepted)
        if isinstance(value, bool):  # to Python, True is an int
            right_type = types[name] in (bool, bool | None)
        type_name = getattr(types[name], "__name__", types[name])
        check_input(right_type, f"{where}: {name} must be {type_name}, got {value!r}")
    try:
        return config(**values)
    except AlroError as error:  # "--lr must be positive": in this file
        raise AlroError(f"{where}: {error}") from None


def read_json(path: Path) -> dict:
    """The object in a JSON file."""
    with one_line_error(f"{path}: cannot be read"):
        text = path.read_text(encoding="utf-8")
    # Cut short, say, or a number of 5,000 digits, or 100,000 brackets.
    with one_line_error(f"{path}: not JSON"):
        content = json.loads(text)
    check_input(isinstance(content, dict), f"{path}: expected a JSON object")
    return content


def write_json(path: Path, content) -> None:
    """The whole file or nothing: written beside it, then moved into place."""
    # A reader never sees half a file, and a kill leaves the old one.
    partial = path.with_name(path.name + ".partial")
    with one_line_error(f"{path}: cannot be written"):
        try:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, path)
        finally:  # where path is a folder, or the disk is full
            partial.unlink(missing_ok=True)


# ---- The folder ----------------------------------------------------------------------------------

def command(*words) -> str:
    """A command to copy into a shell, whatever its paths hold."""
    texts = ["python", *map(str, words)]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def make_run_folder(out: str | None, dataset: str) -> Path:
    """The run's own folder, made here and now: two runs started together never share one."""
    if out is not None:
        check_input(not Path(out).is_file(), f"--out {out} is a file, not a folder")
        Path(out).mkdir(parents=True, exist_ok=True)
        return Path(out)
    # Making a folder is atomic: whoever makes it first has it.
    for n in itertools.count(1):
        folder = Path(f"runs/{dataset}-{n}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue


def lock_folder(folder: Path):
    """Lock the folder while this process lives and keeps what is returned.

    Raises: AlroError if another process has it locked. A record lock: it goes with its process,
    however that ends, and the loader's worker, which outlives a killed process by seconds, does not
    inherit it. Where there are no such locks (Windows, some network drives) nothing is guarded.
    """
    file = open(folder / "lock", "a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise FolderInUse(f"{folder} is in use: another process is training there") from None
    except (OSError, AttributeError):
        pass
    return file


def is_locked(folder: Path) -> bool:
    """Whether another process is training in the folder now."""
    if not folder.exists():
        return False
    try:
        lock_folder(folder).close()
    except FolderInUse:
        return True
    return False


def check_new(folder: Path) -> None:
    """Raise AlroError if something else than a start that came to nothing lies in the folder."""
    there = {path.name for path in folder.iterdir()} - {"lock", "config.json.partial"}
    check_input(not there, f"{folder} holds {sorted(there)[:1]} already: go on with "
                           f"{command('train.py', '--resume', folder)}, or give another --out")


def open_folder(resume: str | None, out: str | None, dataset: str, rank: int, world: int):
    """(the folder to write into, the same in all processes; the first process's lock on it)."""
    # A list, because torch.distributed can only change an object's inside.
    name, lock = [resume], None
    if rank == 0:
        if resume is None:
            name = [str(make_run_folder(out, dataset))]
        lock = lock_folder(Path(name[0]))  # from here on files are written: one process at a time
        if resume is None:
            check_new(Path(name[0]))
    if world > 1:
        torch.distributed.broadcast_object_list(name)  # the first process has chosen
    return Path(name[0]), lock


class Origin(typing.NamedTuple):
    """What a run's weights came from. A checkpoint of another origin is not gone on with."""
    lists: str    # hash of all lists
    prompt: str   # hash of the texts as the prompt prints them
    losses: str   # name of the step's loss function
    config: dict  # of TrainConfig

    def same_as(self, saved: dict, default_cfg) -> bool:
        """Fields that a checkpoint lacks were not thought of then: they had their default."""
        filled = {**dataclasses.asdict(default_cfg), **saved["config"]}
        return {**saved, "config": filled} == self._asdict()


def write_config(folder: Path, data_cfg, origin: Origin, words, hardware: str) -> None:
    """config.json: all that tells how the run came about. words: data.PromptWords."""
    config = {"data": dataclasses.asdict(data_cfg), "train": origin.config, "losses": origin.losses}
    config["prompt"] = {"noun": words.noun, "scale": words.scale, "levels": words.levels}
    config["data_sha256"] = {"lists": origin.lists, "prompt": origin.prompt}
    config["hardware"] = hardware
    libraries = (torch, np, transformers)
    config["versions"] = {library.__name__: library.__version__ for library in libraries}
    config["versions"]["python"] = sys.version.split()[0]
    write_json(folder / "config.json", config)


CONFIG_FIELDS = {"data": {"dataset": str}, "train": {"model": str, "seed": int},
                 "prompt": {"noun": str, "scale": list, "levels": list}}  # what every reader of a run needs


def read_run_config(folder: str) -> dict:
    """The config.json of a run, checked for what every reader of it needs."""
    path = f"{folder}/config.json"
    config = read_json(Path(path))
    for part, fields in CONFIG_FIELDS.items():
        for name, kind in fields.items():
            values = config.get(part)
            good = isinstance(values, dict) and isinstance(values.get(name), kind)
            check_input(good, f"{path}: {part} must be an object with {name}, a {kind.__name__}")
    prompt = config["prompt"]
    known = CONFIG_FIELDS["prompt"]
    check_input(prompt.keys() == known.keys(), f"{path}: prompt has {[*prompt]}, not {[*known]}")
    noun = prompt["noun"]
    check_input(noun == clean_text(noun) != "", f"{path}: noun is not one line")
    return config


def save_model(model, tokenizer, folder: Path) -> None:
    """folder/model in Hugging Face format: written beside it, then moved into place."""
    final, partial, old = folder / "model", folder / "model.partial", folder / "model.old"
    shutil.rmtree(partial, ignore_errors=True)
    with one_line_error(f"{final}: cannot be written; what was there is whole"):
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    # If there is none, a process before was killed between these two renames: old is whole.
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
    os.rename(partial, final)
    shutil.rmtree(old, ignore_errors=True)


def checkpoint_path(folder: Path) -> Path:
    return folder / "checkpoint" / "state.pt"


def trainable(model) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save_checkpoint(folder: Path, progress: "Progress", origin: Origin, model, optimizer,
                    scheduler) -> None:
    """checkpoint/state.pt, all that going on needs, whole or not at all."""
    state = {"progress": dataclasses.asdict(progress), "origin": origin._asdict()}
    state["weights"] = trainable(model)
    state["optimizer"], state["scheduler"] = optimizer.state_dict(), scheduler.state_dict()
    path = checkpoint_path(folder)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name("state.pt.partial")
    with one_line_error(f"{path.parent}: cannot be written; what was there is whole"):
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(folder: Path, origin: Origin, default_cfg, model, optimizer,
                    scheduler) -> "Progress":
    """Put the checkpoint into model, optimizer and scheduler: how far it came.

    Without a checkpoint nothing changes. Raises: AlroError if it is damaged or of another origin.
    """
    path = checkpoint_path(folder)
    if not path.exists():
        return Progress()
    device = next(model.parameters()).device
    with one_line_error(f"{path} cannot be used"), torch.no_grad():
        state = torch.load(path, map_location=device, weights_only=True)
        check_input(origin.same_as(state["origin"], default_cfg),
                    f"{path} cannot be used: made with other data or another configuration")
        for name, weight in trainable(model).items():
            saved = state["weights"][name]
            weight.copy_(saved.view_as(weight))  # of another shape: an error, no broadcast
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        saved = state["progress"]
        return Progress(int(saved["step"]), float(saved["best"]), int(saved["since_best"]))


# What log.jsonl has beside a loss function's values.
LOG_FIELDS = {"step", "lr", "tokens", "tokens_per_second", "grad_norm", "valid_ndcg", "valid_knows",
              "log_m", "log_m_factorial_over_m"}


class TrainingLog:
    """log.jsonl, and the check for finite numbers.

    Numbers stay on the device until `flush`, so that no step waits for Python.
    """

    def __init__(self, folder: Path | None, until: int, list_size: int):
        """folder None: another process writes. Lines after step `until` are written anew."""
        self.folder = folder
        self.pending = []
        self.start = time.perf_counter()
        # Two levels to compare the SFT loss with: any of the m letters, and the uniform trap.
        self.references = {"log_m": math.log(list_size),
                           "log_m_factorial_over_m": math.lgamma(list_size + 1) / list_size}
        if folder:
            self.keep_until(folder / "log.jsonl", until)

    @staticmethod
    def keep_until(path: Path, until: int) -> None:
        with one_line_error(f"{path}: cannot be gone on with"):
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            whole = [line for line in lines if line.endswith("\n")]  # the last may be cut short
            kept = [line for line in whole if json.loads(line)["step"] <= until]
            partial = path.with_name("log.partial")
            partial.write_text("".join(kept))
            os.replace(partial, path)

    def add(self, step: int, means: dict[str, torch.Tensor], list_ids: list[str],
            rate: float) -> None:
        """means: of the step's lists, by the name of what was measured; rate: the step's."""
        self.pending.append((step, means, list_ids))
        self.rate = rate

    def flush(self) -> dict:
        """Write a line of means since the last one. Raises: AlroError if a number is not finite."""
        if not self.pending:
            return {}
        rows, tokens = [], 0
        for step, means, list_ids in self.pending:
            numbers = {name: value.item() for name, value in means.items()}
            self.check_finite(step, numbers, list_ids)
            tokens += numbers.pop("tokens") * len(list_ids)
            rows.append(numbers)
            check_input(numbers.keys() == rows[0].keys(),
                        f"step {step}: a loss function must return the same names each time, got "
                        f"{[*numbers]} after {[*rows[0]]}")
        # Measured here, where `item` has waited for the device to do all the steps.
        seconds = time.perf_counter() - self.start
        averages = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        line = {"step": self.pending[-1][0], **averages,
                "tokens_per_second": round(tokens / seconds), **self.references, "lr": self.rate}
        self.pending = []
        self.restart_clock()
        self.write(line)
        return line

    def check_finite(self, step: int, numbers: dict[str, float], list_ids: list[str]) -> None:
        advice = ""
        if self.folder and checkpoint_path(self.folder).exists():
            advice = "; the last checkpoint is from before"
        check_input(all(map(math.isfinite, numbers.values())),
                    f"step {step}: not finite: {numbers}, lists {list_ids}{advice}")

    def restart_clock(self) -> None:
        """Validating and saving is not training."""
        self.start = time.perf_counter()

    def write(self, line: dict) -> None:
        if self.folder:
            path = self.folder / "log.jsonl"
            with one_line_error(f"{path}: cannot be written"), open(path, "a") as file:
                file.write(json.dumps(line) + "\n")


def read_log(folder: str) -> list[dict]:
    """The rows of a run's log.jsonl."""
    path = Path(folder, "log.jsonl")
    with one_line_error(f"{path}: cannot be read"):
        return [json.loads(line) for line in path.read_text().splitlines()]


# ---- Waiting -------------------------------------------------------------------------------------

SECONDS_BETWEEN_LINES = 60


def progress(iterable, what: str):
    """Go through a sequence and show how far: a bar on a terminal, else a line now and then."""
    total = len(iterable)
    # On a terminal a bar, and none for what takes no time.
    if sys.stderr.isatty():
        yield from tqdm(iterable, what, total, delay=2, leave=False)
        return
    start = last_line = time.monotonic()
    for done, element in enumerate(iterable, 1):
        yield element
        now = time.monotonic()
        if now - last_line >= SECONDS_BETWEEN_LINES and done < total:
            left = (now - start) / done * (total - done)
            print(f"{what}: {done} of {total}, about {in_minutes(left)} left", file=sys.stderr,
                  flush=True)
            last_line = now


@dataclasses.dataclass
class Progress:
    """How far a run has come."""
    step: int = 0
    best: float = -math.inf  # validation NDCG
    since_best: int = 0      # validations without a better one

    def add(self, ndcg: float) -> bool:
        """Note a validation; whether it is the best so far."""
        if ndcg > self.best:
            self.best, self.since_best = ndcg, 0
            return True
        self.since_best += 1
        return False

    def stopped_early(self, patience: int) -> bool:
        return self.since_best >= patience > 0


class Clock:
    """Says once, after some steps, about how long the rest of them will take."""

    UNTIMED, TIMED = 2, 3  # the first steps warm up

    def __init__(self, first: int, total: int):
        self.begin = first + self.UNTIMED
        self.end = self.begin + self.TIMED
        self.total = total
        self.started = 0.0

    def knows(self, step: int) -> bool:
        """To be called after each step; True once."""
        if step == self.begin:
            self.started = time.monotonic()
        return step == self.end

    def estimate(self, valid_every: int) -> str:
        per_step = (time.monotonic() - self.started) / self.TIMED
        left = self.total - self.end
        return (f"about {in_minutes(per_step * left)} for {left} more steps; validations, every "
                f"{valid_every} steps, come on top")


def in_minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


class StopRequest:
    """Inside `with`, Ctrl-C and SIGTERM only set `requested`; the second one ends the process."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.requested = False

    def handle(self, number: int, _frame) -> None:
        if self.requested:
            sys.exit(128 + number)
        self.requested = True

    def __enter__(self) -> "StopRequest":
        self.previous = {number: signal.signal(number, self.handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_error) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def until_stopped(loader, stop: StopRequest):
    """The loader's batches. A signal sent to all processes may have ended its workers: then no more
    come, which is no error.

    torch raises at once, wherever the main process is, when a worker dies. The step under way would
    be lost: so we look for the dead only where we wait for a batch.
    """
    batches = iter(loader)  # from here on torch listens
    child = getattr(signal, "SIGCHLD", None)  # not on Windows
    listener = signal.getsignal(child) if child else None
    waiting = False

    def look(number, frame):
        if waiting and callable(listener):
            listener(number, frame)
    if child:
        signal.signal(child, look)
    try:
        while True:
            try:
                waiting = True
                look(child, None)  # for what died during the step
                batch = next(batches, None)
            except (RuntimeError, ConnectionError, EOFError):
                time.sleep(1)  # the signal to all may have reached the worker first
                if not stop.requested:
                    raise
                return
            finally:
                waiting = False
            if batch is None:
                return
            yield batch
    finally:
        if child:
            signal.signal(child, listener)


def ignore_interrupt(_worker: int) -> None:
    """In a loader's worker: the main process decides what Ctrl-C means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
