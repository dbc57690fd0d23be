"""Command line and JSON from dataclasses, and errors in one line. Nothing of the paper is here.

A configuration is a frozen dataclass whose fields are made by `option`: each is a flag with that default and help.
"""
import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import textwrap
import typing
from pathlib import Path

import transformers

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

from alro import AlroError, clean_text


def require(good: bool, message: str) -> None:
    """The one way to say that an input is wrong: what, where, and what would be right."""
    if not good:
        raise AlroError(message)


@contextlib.contextmanager
def explained(what: str):
    """For calls into libraries that read or write files: whatever they raise becomes one line that begins with what.

    Their errors have no common type: safetensors, tokenizers, torch and transformers each raise their own, or a bare
    Exception, for one and the same full disk or damaged file.
    """
    try:
        yield
    except AlroError:
        raise
    except Exception as error:
        if isinstance(error.__context__, OSError):  # torch's "unexpected pos 4 vs 3" after "No space left on device"
            error = error.__context__
        raise AlroError(f"{what}: {textwrap.shorten(f'{type(error).__name__}: {error}', 400)}") from None


def hold(path: Path):
    """Lock a file while this process lives and keeps what is returned; AlroError if another process has it locked.

    A record lock: it goes with its process, however that ends, and the loader's worker, which outlives a killed process
    by seconds, does not inherit it. Where there are no such locks (Windows, some network drives) nothing is guarded.
    """
    file = open(path, "a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise AlroError(f"{path.parent} is in use: another process is training there") from None
    except (OSError, AttributeError):
        pass
    return file


def option(default, help: str):
    """A dataclass field that is also a command-line flag."""
    return dataclasses.field(default=default, metadata={"help": help})


def check_least(cfg, **least) -> None:
    """Raise AlroError for the first field of cfg below its least value."""
    for name, value in least.items():
        require(value <= getattr(cfg, name) <= 10 ** 9,
                f"--{name} must be at least {value} and at most 10^9, got {getattr(cfg, name)}")


def parse(arguments: list[str] | None, *configs, presets: dict | None = None, positional: str | None = None) -> list:
    """One object for each dataclass, from the command line; then the positional arguments, if there are any.

    --preset NAME, where there are presets, changes defaults; flags win. An unknown flag is an error.
    """
    parser = transformers.HfArgumentParser(
        list(configs), allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    if positional:
        parser.add_argument(positional, nargs="*", help="folders that train.py wrote")
    if presets:
        parser.add_argument("--preset", choices=list(presets), default=next(iter(presets)), help="other defaults")
        parser.set_defaults(**presets[parser.parse_known_args(arguments)[0].preset])
    values = vars(parser.parse_args(arguments))
    found = [config(**{field.name: values[field.name] for field in dataclasses.fields(config)}) for config in configs]
    return found + ([values[positional]] if positional else [])


def from_dict(config, values: dict, where: str):
    """A configuration from JSON; unknown and ill-typed fields are an error that names them."""
    types = typing.get_type_hints(config)
    for name, value in values.items():
        require(name in types, f"{where}: unknown field {name!r}; known are {', '.join(types)}")
        accepts = float | int if types[name] is float else types[name]
        require(isinstance(value, accepts) and (types[name] is bool or not isinstance(value, bool)),
                f"{where}: {name} must be {getattr(types[name], '__name__', types[name])}, got {value!r}")
    try:
        return config(**values)
    except AlroError as error:  # "--lr must be positive": in this file
        raise AlroError(f"{where}: {error}") from None


def read_json(path: Path) -> dict:
    """The object in a JSON file."""
    with explained(f"{path}: cannot be read"):
        text = path.read_text(encoding="utf-8")
    with explained(f"{path}: not JSON"):  # cut short, a number of 5,000 digits, 100,000 brackets
        content = json.loads(text)
    require(isinstance(content, dict), f"{path}: expected a JSON object")
    return content


def read_config(folder: str) -> dict:
    """The config.json of a run, with what every reader of it needs."""
    config = read_json(Path(folder, "config.json"))
    for part, types in {"data": {"dataset": str}, "train": {"model": str, "seed": int},
                        "prompt": {"noun": str, "scale": list}}.items():
        for name, kind in types.items():
            require(isinstance(config.get(part), dict) and isinstance(config[part].get(name), kind),
                    f"{folder}/config.json: {part} must be an object with {name}, a {kind.__name__}")
    require(config["prompt"].keys() == {"noun", "scale"}, f"{folder}/config.json: prompt has {[*config['prompt']]}")
    require((noun := config["prompt"]["noun"]) == clean_text(noun) != "", f"{folder}/config.json: noun is not one line")
    return config


def write_json(path: Path, content) -> None:
    """The whole file or nothing: written beside it, then moved into place."""
    partial = path.with_name(path.name + ".partial")
    with explained(f"{path}: cannot be written"):
        try:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, path)
        finally:  # where path is a folder, or the disk is full
            partial.unlink(missing_ok=True)


def optional(package: str, why: str):
    """Import a package that only some uses need."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise AlroError(f"{why} needs one more package: pip install {package.split('.')[0]}") from None


def run(main) -> None:
    """Run a script's main; what the user can mend is one line, not a traceback."""
    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the loader's fork
    try:
        main()
    except (RuntimeError, ConnectionResetError, ConnectionRefusedError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise  # a bug
        # torch notices a killed worker itself, or finds one end of a connection only, whichever comes first.
        raise SystemExit("error: the process that tokenises was killed; memory may have run out") from None
    except (AlroError, OSError) as error:  # from the loader's worker it comes wrapped in a traceback: the last line
        raise SystemExit(f"error: {str(error).strip().splitlines()[-1].removeprefix('alro.AlroError: ')}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None
