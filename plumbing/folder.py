"""A run's folder: everything in it is written and read here (but for loading a model: model.py).

    config.json    what defines the run                model/       the best on validation
    log.jsonl      a line every 20 steps               checkpoint/  all that resuming needs
    lock           held while a process trains here    eval-*       results of an evaluation

Every file is written whole or not at all: a kill, a full disk or a lost power line leave what was
there before.
"""
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import filelock
import numpy as np
import torch
import transformers
from tqdm import tqdm

from alro import AlroError, clean_text
from plumbing.flags import (
    check_input, command, config_from_dict, one_line_error, progress, read_json, to_nowhere, warn,
    write_json)
from plumbing.machine import hardware
from plumbing.model import trainable

# ---- Finding and locking it ----------------------------------------------------------------------

class FolderInUse(AlroError):
    """Another process is training in that folder."""


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


def lock_folder(folder: Path, name: str = "lock", timeout: float = 0) -> filelock.BaseFileLock:
    """Lock the folder while this process lives and keeps what is returned, however it ends.

    timeout: seconds to wait for another process; -1: until it is done. Raises: FolderInUse if it is
    not. Where there are no such locks (some network drives) nothing is guarded.
    """
    lock = filelock.FileLock(folder / name, timeout=timeout, is_singleton=True)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise FolderInUse(f"{folder} is in use: another process is training there") from None
    except PermissionError:
        raise  # somebody else's folder
    except (OSError, NotImplementedError):
        pass
    return lock


def is_locked(folder: Path) -> bool:
    """Whether another process is training in the folder now."""
    if not folder.exists():
        return False
    try:
        lock_folder(folder).release()
    except FolderInUse:
        return True
    return False


def hash_json(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(lists) -> str:
    """Hash of the lists' canonical JSON: results with the same one can be compared list by list."""
    return hash_json(sorted(map(vars, lists), key=lambda row: row["list_id"]))


def data_hashes(words, splits) -> dict[str, str]:
    """What a run's record keeps of its data: hashes of all lists, and of all that prompts say."""
    said = words._replace(averages=np.array(words.averages).tolist())
    return {"lists": sha256(splits.train + splits.valid + splits.test), "prompt": hash_json(said)}


# ---- config.json ---------------------------------------------------------------------------------

CONFIG_FIELDS = {  # what every reader needs
    "data": {"dataset": str, "list_size": int, "fields": str},
    "train": {"model": str, "seed": int, "alpha": float | int, "beta": float | int,
              "display_order": str, "candidate_weight": float | int, "bf16": bool | None},
    "prompt": {"noun": str, "scale": list, "levels": list}}


def write_config(folder: Path, origin: dict, data_config: dict, words) -> None:
    """config.json: everything that defines the run.

    Args: origin: see `Run`; words: data.PromptWords.
    """
    config = {"data": data_config, "train": origin["config"], "losses": origin["losses"]}
    config["prompt"] = {"noun": words.noun, "scale": words.scale, "levels": words.levels}
    config["data_sha256"] = origin["data"]
    config["base_sha256"] = origin["base"]
    config["hardware"] = hardware()
    libraries = (torch, np, transformers)
    config["versions"] = {library.__name__: library.__version__ for library in libraries}
    config["versions"]["python"] = sys.version.split()[0]
    write_json(folder / "config.json", config)


def read_run_config(folder: str) -> dict:
    """The config.json of a run, checked for what every reader of it needs."""
    path = f"{folder}/config.json"
    config = read_json(Path(path))
    for name in ("losses", "data_sha256", "base_sha256"):
        check_input(name in config, f"{path}: missing field {name!r}")
    for part, fields in CONFIG_FIELDS.items():
        for name, kind in fields.items():
            values = config.get(part)
            good = isinstance(values, dict) and name in values and isinstance(values[name], kind)
            check_input(good, f"{path}: {part} must be an object with {name}, a "
                              f"{getattr(kind, '__name__', kind)}")
    prompt = config["prompt"]
    known = CONFIG_FIELDS["prompt"]
    check_input(prompt.keys() == known.keys(), f"{path}: prompt has {[*prompt]}, not {[*known]}")
    noun = prompt["noun"]
    check_input(noun == clean_text(noun) != "", f"{path}: noun is not one line")
    return config


def about_runs(configs) -> dict:
    """What a table says of its runs: their dataset, their models and their seeds, each once."""
    about = {"dataset": configs[0]["data"]["dataset"]}
    for name in ("model", "seed"):
        values = list(dict.fromkeys(config["train"][name] for config in configs))
        about[name] = values[0] if len(values) == 1 else ", ".join(map(str, values))
    return about


def settings_of_run(folder: str, part: str, kind):
    """The "data" or "train" settings of a run, as the dataclass that they were."""
    return config_from_dict(kind, read_run_config(folder)[part], f"{folder}/config.json")


def check_data_of_run(folder: str, now: dict[str, str]) -> None:
    """Raise AlroError if a run was trained on other data than are there `now` (data_hashes)."""
    trained_on = read_run_config(folder)["data_sha256"]
    check_input(isinstance(trained_on, dict) and trained_on.keys() == now.keys(),
                f"{folder}/config.json: data_sha256 must be an object with {', '.join(now)}")
    for part, what in ("lists", "ratings"), ("prompt", "titles"):
        check_input(trained_on[part] == now[part],
                    f"{folder} was trained on other {what} than its dataset's files hold now: "
                    "restore the old files, or train again")


# ---- model/ and checkpoint/ ----------------------------------------------------------------------

CHECKPOINT = Path("checkpoint", "state.pt")


def save_model(model, tokenizer, folder: Path) -> None:
    """folder/model in Hugging Face format: written beside it, then moved into place."""
    # A link to a larger disk stays a link.
    final = Path(os.path.realpath(folder / "model"))
    partial, old = final.with_name("model.partial"), final.with_name("model.old")
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


def put_old_model_back(folder: Path) -> None:
    """Where a process was killed between save_model's two renames, the old model is whole."""
    final = Path(os.path.realpath(folder / "model"))
    old = final.with_name("model.old")
    if old.exists() and not final.exists():
        os.rename(old, final)


# ---- log.jsonl -----------------------------------------------------------------------------------

LOG_EVERY = 20  # steps between lines
# What a line has beside a loss function's values.
LOG_FIELDS = {"step", "lr", "tokens", "tokens_per_second", "grad_norm", "valid_ndcg", "valid_knows",
              "valid_chance", "log_m", "log_m_factorial_over_m"}


def read_log(folder: str) -> list[dict]:
    """The rows of a run's log.jsonl."""
    path = Path(folder, "log.jsonl")
    with one_line_error(f"{path}: cannot be read"):
        return [json.loads(line) for line in path.read_text().splitlines()]


def check_losses(values: dict[str, torch.Tensor], n_lists: int) -> None:
    """What a loss function returns must be one number per list: `one_step` takes the mean.

    A mean taken earlier would weight --grad_accum's parts wrongly, and nobody would notice.
    """
    kind = type(values).__name__
    check_input(isinstance(values, dict), f'a loss function must return a dict with "total", the '
                                          f"loss of each list; this one returns a {kind}")
    check_input("total" in values, f'a loss function must return "total", the loss of each list; '
                                   f"this one returns {', '.join(map(str, values))}")
    taken = LOG_FIELDS & values.keys()
    check_input(not taken, f"a loss function must not return {sorted(taken)}: another name")
    for name, value in values.items():
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        check_input(shape == (n_lists,), f"a loss function must return tensors of one number per "
                                         f"list, shape ({n_lists},), got as {name} {shape}")
    check_input(values["total"].requires_grad, 'a loss function must return a "total" that depends '
                                               "on the model: this one has no gradient")


class TrainingLog:
    """log.jsonl, and the check for finite numbers.

    Numbers stay on the device until `flush`, so that no step waits for Python.
    """

    def __init__(self, folder: Path | None, list_size: int):
        """folder None: another process writes."""
        self.folder = folder
        self.pending = []  # (step, means of its lists, their ids) since the last line
        self.start = time.perf_counter()
        # Two levels to compare the SFT loss with: any of the m letters, and the uniform trap.
        self.references = {"log_m": math.log(list_size),
                           "log_m_factorial_over_m": math.lgamma(list_size + 1) / list_size}

    def keep_until(self, step: int) -> None:
        """Drop the lines after a step: resuming writes them again."""
        if self.folder is None:
            return
        path = self.folder / "log.jsonl"
        with one_line_error(f"{path}: cannot be resumed from"):
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            whole = [line for line in lines if line.endswith("\n")]  # the last may be cut short
            kept = [line for line in whole if json.loads(line)["step"] <= step]
            partial = path.with_name("log.partial")
            partial.write_text("".join(kept))
            os.replace(partial, path)

    def flush(self) -> None:
        """Write a line of means since the last one. Raises: AlroError if a number is not finite."""
        if not self.pending:
            return
        rows, tokens, advice = [], 0, ""
        if self.folder and (self.folder / CHECKPOINT).exists():
            advice = "; the last checkpoint is from before"
        for step, means, list_ids in self.pending:
            numbers = {name: float(value) for name, value in means.items()}
            check_input(all(map(math.isfinite, numbers.values())),
                        f"step {step}: not finite: {numbers}, lists {list_ids}{advice}")
            tokens += numbers.pop("tokens") * len(list_ids)
            rows.append(numbers)
            check_input(numbers.keys() == rows[0].keys(),
                        f"step {step}: a loss function must return the same names each time, got "
                        f"{[*numbers]} after {[*rows[0]]}")
        # Measured here, where `float` has waited for the device to do all the steps.
        seconds = time.perf_counter() - self.start
        line = {"step": self.pending[-1][0]}
        line |= {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        line["tokens_per_second"] = round(tokens / seconds)
        line |= self.references
        line["lr"] = rows[-1]["lr"]
        self.pending = []
        self.start = time.perf_counter()
        self.write(line)

    def write(self, line: dict) -> None:
        if self.folder:
            path = self.folder / "log.jsonl"
            with one_line_error(f"{path}: cannot be written"), open(path, "a") as file:
                file.write(json.dumps(line) + "\n")


# ---- A run ---------------------------------------------------------------------------------------

def say(text: str) -> None:
    """Print beside a bar. What cannot be printed (a closed terminal, `| head`) ends no run."""
    if sys.stdout is None:  # closed before Python began
        return
    with contextlib.suppress(ValueError):  # closed in Python
        try:
            tqdm.write(text) if sys.stderr.isatty() else print(text)
            sys.stdout.flush()
        except OSError:
            to_nowhere(sys.stdout)


def open_run(run_cfg, data_cfg, origin: dict, words, team) -> "Run":
    """The run in its folder, new or to be gone on with; it is the same in all processes.

    Args: run_cfg: train.RunConfig; data_cfg, words: of data.py; origin: see `Run`.
    """
    folder, lock = run_cfg.resume, None
    if team.process == 0:
        if run_cfg.resume is None:
            folder = str(make_run_folder(run_cfg.out, data_cfg.dataset))
        lock = lock_folder(Path(folder))  # from here on files are written: one process at a time
        put_old_model_back(Path(folder))
        if run_cfg.resume is None:
            # What a failed start has left behind is not a run.
            partial = {*Path(folder).glob("config.json*.partial")}
            there = sorted(path.name for path in {*Path(folder).iterdir()} - partial)
            there = [name for name in there if name != "lock"]
            log = Path(folder, "log.jsonl")
            if {*there} <= {"config.json", log.name} and not (log.exists() and log.read_bytes()):
                with contextlib.suppress(AlroError):
                    read_run_config(folder)  # a run's, which ended before it logged a step
                    there = []
            check_input(not there, f"{folder} holds {there[:1]} already: go on with "
                                   f"{command('train.py', '--resume', folder)}, or give another "
                                   "--out")
            for path in partial:
                path.unlink()
    folder = Path(team.same(folder))
    if team.process == 0 and run_cfg.resume is None:
        write_config(folder, origin, dataclasses.asdict(data_cfg), words)
    return Run(folder, lock, origin, data_cfg.list_size, writes=team.process == 0)


class Run:
    """What a training run writes, from the first process alone.

    origin: what its weights come from, {"data": hashes of lists and prompts, "losses": name of the
    loss function, "base": hash of the weights under an adapter, "config": of TrainConfig}. A
    run never resumes from a checkpoint of another origin.
    """

    def __init__(self, folder: Path, lock, origin: dict, list_size: int, writes: bool):
        self.folder, self.origin, self.writes = folder, origin, writes
        self.lock = lock  # kept: it is free when this object goes
        self.list_size = list_size
        self.log = TrainingLog(folder if writes else None, list_size)

    def say(self, text: str | None) -> None:
        if self.writes and text:
            say(text)

    def check_origin(self, path: Path, saved: dict) -> None:
        """Raise AlroError if a checkpoint is not of this run's origin."""
        model = self.origin["config"]["model"]
        words = {"data": "other data", "losses": "another loss function",
                 "base": f"other weights of {model}, on which the adapter was put",
                 "config": "another configuration"}
        differing = [words[name] for name in words if saved[name] != self.origin[name]]
        check_input(not differing, f"{path} cannot be used: made with {' and '.join(differing)}")

    def load_checkpoint(self, state) -> None:
        """Put the checkpoint, if there is one, into the state (train.State).

        Raises: AlroError if it is damaged or of another origin.
        """
        path = self.folder / CHECKPOINT
        if path.exists():
            with one_line_error(f"{path} cannot be used"), torch.no_grad():
                saved = torch.load(path, map_location=state.device, weights_only=True)
                self.check_origin(path, saved.pop("origin"))
                for name, weight in trainable(state.model).items():
                    there = saved["weights"][name]
                    weight.copy_(there.view_as(weight))  # of another shape: an error, no broadcast
                state.optimizer.load_state_dict(saved["optimizer"])
                state.scheduler.load_state_dict(saved["scheduler"])
                state.step, state.best = int(saved["step"]), float(saved["best"])
            check_input(state.best == -math.inf or (self.folder / "model").exists(),
                        f"{self.folder}/model, the best on validation until step {state.step}, is "
                        "gone: restore it, or train again with another --out")
            self.say(f"resumed at step {state.step}")
        self.log.keep_until(state.step)

    def save(self, state) -> None:
        """checkpoint/state.pt, all that resuming needs, whole or not at all."""
        if not self.writes:
            return
        content = {"origin": self.origin, "step": state.step, "best": state.best}
        content["weights"] = trainable(state.model)
        content["optimizer"] = state.optimizer.state_dict()
        content["scheduler"] = state.scheduler.state_dict()
        path = self.folder / CHECKPOINT
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name("state.pt.partial")
        with one_line_error(f"{path.parent}: cannot be written; what was there is whole"):
            with open(partial, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)

    def log_step(self, state, means: dict, list_ids: list[str], due: bool) -> None:
        """Note a step's means; write them every LOG_EVERY steps, and before each validation."""
        self.log.pending.append((state.step, means, list_ids))
        if state.step % LOG_EVERY == 0 or due:
            self.log.flush()

    def validated(self, state, scores: dict[str, float], tokenizer) -> None:
        """Keep the model if it is the best so far, then log the validation, then the checkpoint.

        In this order: where the log has a validation, model/ is the best until then.
        """
        is_best = scores["valid_ndcg"] > state.best
        state.best = max(state.best, scores["valid_ndcg"])
        if is_best and self.writes:
            save_model(state.model, tokenizer, self.folder)
        self.log.write({"step": state.step, **scores})
        self.save(state)
        ndcg, chance = scores["valid_ndcg"], scores.get("valid_chance", 0)
        mark = " (best)" if is_best else ""
        if ndcg < chance:  # the best so far, perhaps, but nothing to praise
            mark = f" (below chance, {chance:.4f})"
        knows = f"; knows {scores['valid_knows']:.4f}" if "valid_knows" in scores else ""
        self.say(f"step {state.step}: validation NDCG@{self.list_size} {ndcg:.4f}{mark}{knows}")
        self.log.start = time.perf_counter()  # validating and saving is not training

    def interrupted(self, state) -> None:
        """After Ctrl-C, SIGTERM or a closed terminal, with the step under way finished."""
        self.log.flush()
        self.save(state)
        raise SystemExit("interrupted; go on with: "
                         f"{command('train.py', '--resume', self.folder)}")


STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")  # the last: its terminal was closed; not on Windows


@contextlib.contextmanager
def stop_request():
    """Inside `with`, Ctrl-C, SIGTERM and SIGHUP only add to the list that this gives; the second
    one ends the process."""
    requests = []

    def handle(number: int, _frame) -> None:
        if requests:
            sys.exit(128 + number)
        requests.append(number)

    numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup and signal.getsignal(hangup) == signal.SIG_IGN:  # nohup: go on without a terminal
        numbers.remove(hangup)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def prefetched(make, first: int, end: int, quiet: bool = False):
    """make(first), ..., make(end - 1), with a bar; a thread makes the next while this is used."""
    bar = progress(desc="training", initial=first, total=end, disable=quiet)
    waiting = None
    with concurrent.futures.ThreadPoolExecutor(1) as pool, bar:
        for number in range(first, end):
            following = pool.submit(make, number)
            if waiting:
                yield waiting.result()
                bar.update()
            waiting = following
        if waiting:
            yield waiting.result()


# ---- Results of an evaluation --------------------------------------------------------------------

def result_of(methods: dict, intervals: dict, data, calls: dict, about: dict) -> dict:
    """What eval-SPLIT.json holds (evaluate.summary).

    Args: intervals: {method: {metric: (mean, low, high)}}; data: evaluate.EvaluationData.
    """
    rows = {}
    for name, method in methods.items():
        row = rows[name] = {}
        for metric, (mean, low, high) in intervals[name].items():
            row[metric] = {"mean": mean, "ci95": [low, high]}
        row["mean_rank_by_slot"] = method["mean_rank_by_slot"]
        row["llm_calls_per_list"] = calls.get(name, 0)
        if "by_seed" in method:  # of several runs (experiments/compare.py)
            row["by_seed"] = method["by_seed"]
    result = {**about, "split": data.split, "hardware": hardware(), "list_size": data.list_size}
    result["lists"] = len(getattr(data.splits, data.split))
    result["informative_lists"] = data.n_informative
    result["ranked_lists"] = len(data.lists)
    result["data_sha256"] = data.sha256
    result["methods"] = rows
    result["timing"] = {name: {"ms_per_list": method["ms_per_list"]}
                        for name, method in methods.items()}
    return result


def is_fuller(there: dict, result: dict) -> bool:
    """Whether the old result has more lists, or as many lists and more orders or methods.

    A result of other weights is out of date, however full.
    """
    if there.get("model_sha256") != result.get("model_sha256"):
        return False
    old_size = (there["ranked_lists"], there["orders"])
    size = (result["ranked_lists"], result["orders"])
    more_methods = there["methods"].keys() > result["methods"].keys()
    return old_size > size or (old_size == size and more_methods)


def result_path(folder: Path, result: dict) -> Path:
    """eval-SPLIT.json; another decoding than the usual one has a file of its own."""
    suffix = "" if result["decode"] == "greedy" else f"-{result['decode']}"
    return folder / f"eval-{result['split']}{suffix}.json"


def write_results(folder: Path, result: dict, methods: dict, lists) -> None:
    """Write eval-SPLIT.json and eval-SPLIT.lists.jsonl; a fuller result that is there stays.

    Of two evaluations that end together one waits for the other. A table never stands beside the
    lines of another result: killed between the two files, there is no table.
    """
    with one_line_error(f"{folder}: cannot be written to"):
        lock = lock_folder(folder, "eval-lock", timeout=-1)
    try:
        replace_results(result_path(folder, result), result, methods, lists)
    finally:
        lock.release()


def replace_results(path: Path, result: dict, methods: dict, lists) -> None:
    try:
        with one_line_error(f"{path}: no result"):
            there = read_json(path)
            stays = is_fuller(there, result)
    except AlroError:  # none is there, or a damaged one
        stays = False
    if stays:
        warn(f"{path} holds a fuller result ({there['ranked_lists']} lists, {there['orders']} "
             f"orders): this one ({len(lists)} lists, {result['orders']} orders) is not kept")
        return
    lists_path = path.with_suffix(".lists.jsonl")
    # What an evaluation that was killed has left behind.
    for ending in "partial", "new":
        for left in path.parent.glob(f"{path.stem}.*.{ending}"):
            left.unlink()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    # The old table goes, the new lines come, then the new table; until all is on the disk, the old
    # ones stay.
    new_table = path.with_suffix(f".{os.getpid()}.new")
    write_json(new_table, result)
    with one_line_error(f"{lists_path}: cannot be written"):
        try:
            write_lines(partial, methods, lists)
            path.unlink(missing_ok=True)
            os.replace(partial, lists_path)
            os.replace(new_table, path)
        finally:  # where the disk is full
            partial.unlink(missing_ok=True)
            new_table.unlink(missing_ok=True)


def write_lines(path: Path, methods: dict, lists) -> None:
    """A line of JSON for each method and list, for paired comparisons."""
    with open(path, "w") as stream:
        for name, method in methods.items():
            for row, ranking_list in enumerate(lists):
                line = {"method": name, "id": ranking_list.list_id}
                line["displayed"] = [slots[row] for slots in method["slots"]]
                line["predicted"] = [order[row].tolist() for order in method["predicted"]]
                for metric, values in method["values"].items():
                    line[metric] = float(values[row])
                stream.write(json.dumps(line) + "\n")


def check_writable(folder: Path) -> None:
    """Make a folder; raise AlroError, before any work is done, if no file can be written there."""
    with one_line_error(f"{folder}: cannot be written to"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def check_destinations(folder: str, json_file: str | None) -> None:
    """Check before the work that its results can be written.

    Raises AlroError for a file that the user named; a run may be read-only, and is then warned of.
    """
    if json_file:
        check_writable(Path(json_file).parent)
    try:
        check_writable(Path(folder))
    except AlroError as error:  # the table may be all that is wanted
        warn(f"{error}; the table will be printed, but not kept there")
