"""Flags from dataclasses, errors in one line, JSON files whole or not at all, a script's frame."""
import argparse
import contextlib
import dataclasses
import functools
import importlib
import inspect
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import get_args, get_type_hints

import torch
import transformers
from tqdm import tqdm

from alro import AlroError

# ---- Errors in one line --------------------------------------------------------------------------

def check_input(good: bool, message: str) -> None:
    """The one way to say that an input is wrong: what, where, and what would be right."""
    if not good:
        raise AlroError(message)


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


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
    """Errors inside are reported with the place where they happened."""
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


def is_out_of_memory(error: Exception) -> bool:
    # CUDA has a class of its own; the CPU's allocator tells in words.
    in_words = re.search("not enough memory|can't allocate memory", str(error))
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or in_words is not None


def to_nowhere(stream) -> None:
    """Discard all further output of a stream that has failed: what waits in its buffer would fail
    again at the next flush, at the end of the process at the latest."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


class Unheard:
    """Standard error whose reader may go away (`2>&1 | head`): no bar and no warning ends a run."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except OSError:
            to_nowhere(self.stream)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            to_nowhere(self.stream)


def run_script(main) -> None:
    """Run a script's main; what the user can mend is one line, not a traceback."""
    transformers.utils.logging.disable_progress_bar()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console without a title's character shows "?"
    try:
        with contextlib.redirect_stderr(Unheard(sys.stderr)):
            main()
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        to_nowhere(sys.stdout)
    except AlroError as error:
        raise SystemExit(f"error: {error}") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise  # a bug
        raise SystemExit(f"error: {OUT_OF_MEMORY}") from None
    except OSError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None


def command(*words) -> str:
    """A command to copy into a shell, whatever its paths hold."""
    texts = ["python", *map(str, words)]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def next_command(folder: Path, cfg) -> str:
    """What to run after a run of this configuration (train.TrainConfig), and why."""
    demo = dataclasses.replace(type(cfg)(), seed=cfg.seed, bf16=cfg.bf16)
    if cfg == demo:
        plain = command("train.py", "--alpha", 0, "--beta", 0, "--seed", cfg.seed)
        return f"Next, plain fine-tuning, to compare: {plain}"
    return f"Next, three lists in words: {command('evaluate.py', folder, '--show', 3)}"


# A bar for what takes a while; in a pipe, a line a minute.
progress = functools.partial(
    tqdm, delay=2, leave=False, mininterval=0.1 if sys.stderr.isatty() else 60)


# ---- Flags from dataclasses ----------------------------------------------------------------------

def option(default, help: str):
    """A dataclass field that is also a command-line flag."""
    return dataclasses.field(default=default, metadata={"help": help})


def check_minimum(cfg, **minimum) -> None:
    """Raise AlroError for the first field of cfg below its least value."""
    for name, least in minimum.items():
        value = getattr(cfg, name)
        check_input(value is None or least <= value <= 10 ** 9,
                    f"--{name} must be at least {least} and at most 10^9, got {value}")


def check_positive(cfg, *names) -> None:
    for name in names:
        value = getattr(cfg, name)
        check_input(0 < value < 1e9, f"--{name} must be positive, below 1e9, got {value}")


def check_choice(cfg, **choices) -> None:
    """Raise AlroError for the first field of cfg that is none of its choices."""
    for name, known in choices.items():
        value = getattr(cfg, name)
        check_input(value in known, f"--{name} must be one of {', '.join(known)}; got {value!r}")


def none_or(kind):
    """A flag's type: "None" gives None."""
    def parse(text: str):
        return None if text == "None" else kind(text)
    parse.__name__ = kind.__name__  # for argparse's own message
    return parse


def parse_flags(arguments: list[str] | None, *configs, presets: dict | None = None,
                positional: str | None = None, nargs: str | None = "*",
                alone: str | None = None) -> list:
    """One object for each dataclass, from the command line; then the positional arguments, if any.

    --preset NAME, where there are presets, changes defaults; flags win. An unknown flag is refused,
    and so is any flag beside the one that stands `alone`.
    """
    words = sys.argv[1:] if arguments is None else arguments
    flags = [word.split("=")[0] for word in words if word.startswith("--")]
    check_input(alone not in flags or len(flags) == 1,
                f"{alone} goes on with a run's own configuration and takes no other flag")
    parser = transformers.HfArgumentParser(
        list(configs), allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    hints = {name: kind for config in configs for name, kind in get_type_hints(config).items()}
    for action in parser._actions:
        if type(None) in get_args(hints.get(action.dest)) and action.type in (int, float):
            action.type = none_or(action.type)
    if positional:
        parser.add_argument(positional, nargs=nargs, help="what train.py wrote: a run's folder")
    if presets:
        default = next(iter(presets))
        parser.add_argument("--preset", choices=list(presets), default=default,
                            help="other defaults")
        chosen = parser.parse_known_args(arguments)[0].preset
        parser.set_defaults(**presets[chosen])
    *parsed, unknown = parser.parse_args_into_dataclasses(
        arguments, look_for_args_file=False, return_remaining_strings=True)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for name, value in {name: value for cfg in parsed for name, value in vars(cfg).items()}.items():
        flag = name if name == positional else f"--{name}"
        check_input(value != "", f"{flag} is empty: give a value, or leave it out")
    if positional:
        *parsed, others = parsed
        parsed.append(getattr(others, positional))
    return parsed[:len(configs) + (positional is not None)]


def name_of(function) -> str:
    """A loss function by the name that --losses and config.json have for it."""
    plain = inspect.isfunction(function) and function.__name__ != "<lambda>"
    check_input(plain, "a loss function needs a name of its own, for the run's record: def "
                       f"mine(...), no lambda or class; got {str(function):.80}")
    module = "train" if function.__module__ == "__main__" else function.__module__
    return f"{module}:{function.__qualname__}"


def function_named(name: str):
    """The function of a --losses module:function."""
    try:
        function = pkgutil.resolve_name(name)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        problem = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise AlroError(f"--losses {name}: there is no such function ({problem}); for example "
                        "experiments.objectives:soft_ties_losses") from None
    with error_at(f"--losses {name}"):
        known_as = name_of(function)
    check_input(known_as == name, f"--losses {name}: it calls itself {known_as}, so the run's "
                                  "record would name another: define it with a def of its own")
    parameters = inspect.signature(function).parameters
    check_input(len(parameters) >= 3, f"--losses {name}: a loss function takes (model, batch, cfg), "
                                      f"this one ({', '.join(parameters)})")
    return function


def config_from_dict(config, values: dict, where: str):
    """A configuration from JSON; an unknown, missing or ill-typed field is an error that names it."""
    types = get_type_hints(config)
    types = {name: kind for name, kind in types.items() if name != "_argument_group_name"}
    for name in {*types} ^ {*values}:
        check_input(False, f"{where}: {'unknown' if name in values else 'missing'} field {name!r}; "
                           f"known are {', '.join(types)}")
    for name, value in values.items():
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


# ---- JSON files ----------------------------------------------------------------------------------

def read_json(path: Path) -> dict:
    """The object in a JSON file."""
    with one_line_error(f"{path}: cannot be read"):
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows write a mark first
    # Cut short, say, or a number of 5,000 digits, or 100,000 brackets.
    with one_line_error(f"{path}: not JSON"):
        content = json.loads(text)
    check_input(isinstance(content, dict), f"{path}: expected a JSON object")
    return content


def write_json(path: Path, content) -> None:
    """The whole file or nothing: written beside it, then moved into place."""
    # A reader never sees half a file, and a kill leaves the old one.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with one_line_error(f"{path}: cannot be written"):
        try:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, path)
        finally:  # where path is a folder, or the disk is full
            partial.unlink(missing_ok=True)
