"""The files handed to students: the same functions as the solutions, and nothing filled in."""
import inspect

import pytest
from classroom import HERE, NUMBERS, load


def functions(module) -> dict:
    return {name: f for name, f in vars(module).items()
            if inspect.isfunction(f) and f.__module__ == module.__name__ and not name.startswith("_")}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stub_has_the_solutions_functions_and_none_is_written(number):
    stubs, solved = functions(load(number, solution=False)), functions(load(number, solution=True))
    assert stubs and (HERE / f"test_exercise_{number}.py").exists()
    for name, stub in stubs.items():
        assert inspect.signature(stub) == inspect.signature(solved[name]), name
        assert stub.__doc__, name
        with pytest.raises(NotImplementedError):
            stub(*[None] * len(inspect.signature(stub).parameters))


def test_the_readme_lists_every_exercise():
    text = (HERE / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    for path in HERE.glob("exercise_*.py"):
        assert f"`{path.name}`" in text
