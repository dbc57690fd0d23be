"""What a student does in mine/ breaks nothing; what a student is told helps. In a copy of the project."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import start
from classroom import HERE, load, path_of
from helpers import log_of

ROOT = HERE.parents[1]


@pytest.fixture
def project(tmp_path):
    """The project with an empty mine/: links to all that is only read, a copy of the exercises and of what is run:
    Python looks for modules where a script really lies."""
    for path in ROOT.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in ("plumbing", "experiments", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    exercises = tmp_path / "tests" / "exercises"
    exercises.mkdir(parents=True)
    for path in (ROOT / "tests").glob("*.py"):
        (tmp_path / "tests" / path.name).symlink_to(path)
    for path in HERE.rglob("*"):
        inside = path.relative_to(HERE)
        if path.is_file() and not {"mine", "__pycache__"} & set(inside.parts):
            (exercises / inside).parent.mkdir(exist_ok=True)
            (exercises / inside).write_bytes(path.read_bytes())
    (exercises / "mine").mkdir()
    return tmp_path


def run(project: Path, *arguments: str) -> tuple[int, str]:
    """(exit status, output) of a command of Python, given as a student would, from the project's root."""
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def mine(project: Path, number: int) -> Path:
    return project / "tests" / "exercises" / "mine" / path_of(number, "stub").name


TWO_STEPS = ["--steps", "2", "--valid_lists", "1", "--test_lists", "0"]


@pytest.mark.parametrize("number, script", [
    (7, ["time_packed.py", "--mine"]), (8, ["train_invariant.py", "--steps", "2", "--mine"]),
    (11, ["try_calibrate.py", "RUN", "--test_lists", "2", "--mine"])])
def test_what_the_scripts_cannot_run_yet_is_one_line(project, number, script):
    command = [f"tests/exercises/{script[0]}", *script[1:]]
    status, output = run(project, *command)
    assert status == 1 and output.startswith(f"error: there is no {mine(project, number)} yet"), output
    mine(project, number).write_bytes(path_of(number, "stub").read_bytes())
    if "RUN" in script:
        status, output = run(project, "train.py", *TWO_STEPS, "--out", "RUN")
        assert status == 0, output
    status, output = run(project, *command)
    last = output.splitlines()[-1]
    assert status == 1 and "Traceback" not in output and last.startswith("error: ") and "is not written yet" in last


def train_with(project: Path, losses: str) -> tuple[int, str]:
    """`run` of two steps of train.py with a loss function, in the folder run/."""
    return run(project, "train.py", "--losses", losses, *TWO_STEPS, "--out", "run")


def test_train_py_takes_the_losses_of_exercise_3(project):
    """Not begun: one line; begun: the student's own function and line; done: a run that knows whose losses it has."""
    losses = "tests.exercises.mine.exercise_3_plackett_luce:losses"
    assert losses in load(3, "stub").__doc__ and losses in (HERE / "README.md").read_text(encoding="utf-8")
    status, output = train_with(project, losses)
    expected = f"error: --losses {losses}: there is no such function (ModuleNotFoundError: No module named "
    assert status == 1 and output.startswith(expected)
    assert len(output.splitlines()) == 1 and not (project / "run").exists(), output

    mine(project, 3).write_bytes(path_of(3, "stub").read_bytes())
    status, output = train_with(project, losses)
    assert status == 1 and output.splitlines()[-1] == "NotImplementedError", output
    assert f'{mine(project, 3)}", line ' in output and ", in losses\n" in output, output
    shutil.rmtree(project / "run")

    mine(project, 3).write_bytes(path_of(3, "solution").read_bytes())
    for of in (losses, losses.replace(".mine.", ".solutions.")):
        status, output = train_with(project, of)
        assert status == 0 and f"loss: {of};" in output, output
        assert json.loads((project / "run" / "config.json").read_text())["losses"] == of
        assert any("sll" in row and "perfect_sll" in row for row in log_of(project / "run"))
        shutil.rmtree(project / "run")


def test_an_exercise_without_losses_cannot_be_trained(project):
    mine(project, 2).write_bytes(path_of(2, "stub").read_bytes())
    status, output = train_with(project, "tests.exercises.mine.exercise_2_symmetric_psl:losses")
    assert status == 1 and output.startswith("error: --losses ") and "has no attribute 'losses'" in output, output
    assert len(output.splitlines()) == 1, output


def test_pytest_is_green_whatever_lies_in_mine(project):
    """Broken, half-solved, solved and nonsense files, and some that pytest would read if it looked: none is."""
    folder = mine(project, 1).parent
    mine(project, 1).write_text("def lambdarank_weights(:\n")
    stub, not_yet = path_of(3, "stub").read_text(encoding="utf-8"), "    raise NotImplementedError\n"
    assert stub.count(not_yet) > 1
    mine(project, 3).write_text(stub.replace(not_yet, "    return -scores.log_softmax(-1).sum(-1)\n", 1))
    mine(project, 5).write_bytes(path_of(5, "solution").read_bytes())
    mine(project, 6).write_bytes(b"\xff\xfe\x00 nonsense")
    for name in ("test_mine.py", "test_exercise_5.py", "conftest.py", "alro.py", "classroom.py", "exercise_99_new.py"):
        (folder / name).write_text("raise SystemExit('read')\n")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "test_exercise_1.py").write_text("def test_it():\n    assert False\n")
    few = "test_a_stub_has or test_the_property or test_the_lists or test_without_ties"
    for where in ([], ["tests/exercises"]):  # pytest finds conftest.py early in one of the two, late in the other
        status, output = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", *where, "-k", few,
                             "--ignore=tests/trust", *[f"--ignore={path}" for path in Path("tests").glob("test_*.py")])
        assert status == 0 and "mine" not in output, output


@pytest.mark.slow
def test_a_students_way_from_start_to_green(project):
    check = ["-m", "pytest", "-p", "no:cacheprovider", "tests/exercises", "--exercise", "9"]
    status, output = run(project, *check)
    assert status != 0 and "python tests/exercises/start.py 9" in output and "Traceback" not in output
    assert len(output.strip().splitlines()) < 4, output

    status, output = run(project, "tests/exercises/start.py", "9")
    assert status == 0 and "pytest tests/exercises --exercise 9" in output
    assert mine(project, 9).read_bytes() == path_of(9, "stub").read_bytes()
    status, output = run(project, *check)
    assert status == 1 and "leave_one_out is not written yet" in output

    solution = path_of(9, "solution").read_text(encoding="utf-8")
    wrong = solution.replace("total[ratings.item] - ratings.rating", "total[ratings.item]")
    assert wrong != solution
    mine(project, 9).write_text(wrong)
    status, output = run(project, *check)
    assert status == 1 and "leave_one_out" in output and "expected: in row " in output
    assert "hint:     (total - own) / (count - 1)" in output

    status, output = run(project, "tests/exercises/start.py", "9")
    assert status != 0 and "is there already" in output and mine(project, 9).read_text() == wrong  # never overwritten
    mine(project, 9).write_text(solution)
    assert run(project, *check)[0] == 0
    mine(project, 9).write_text("def told(:\n")
    status, output = run(project, *check)
    assert status == 1 and "cannot be loaded, line 1: SyntaxError" in output


def test_git_ignores_what_students_write():
    assert "/tests/exercises/mine/" in (ROOT / ".gitignore").read_text().split()


def test_start_copies_a_stub_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(start, "HERE", tmp_path)
    assert start.main(["3"]) == tmp_path / "mine" / path_of(3, "stub").name
    with pytest.raises(SystemExit, match="is there already"):
        start.main(["3"])
    with pytest.raises(SystemExit):
        start.main(["77"])
    assert "invalid choice: 77" in capsys.readouterr().err
