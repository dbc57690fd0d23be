"""The files handed to students: the same functions as the solutions, and nothing filled in."""
import ast
import inspect

import pytest
from classroom import HERE, NUMBERS, load


def functions(module) -> dict:
    return {name: f for name, f in vars(module).items()
            if inspect.isfunction(f) and f.__module__ == module.__name__ and not name.startswith("_")}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stub_has_the_solutions_functions_and_none_is_written(number):
    stub_module = load(number, "stub")
    stubs, solved = functions(stub_module), functions(load(number, "solution"))
    given = getattr(stub_module, "GIVEN", set())  # written for the student, and the same in the solution
    assert stubs.keys() - given and (HERE / f"test_exercise_{number}.py").exists()
    for name, stub in stubs.items():
        assert inspect.signature(stub) == inspect.signature(solved[name]), name
        assert stub.__doc__, name
        if name in given:
            body = [ast.dump(ast.parse(inspect.getsource(f))) for f in (stub, solved[name])]
            assert body[0] == body[1], name
        else:
            with pytest.raises(NotImplementedError):
                stub(*[None] * len(inspect.signature(stub).parameters))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stub_says_how_to_begin_and_to_check(number):
    text = load(number, "stub").__doc__
    assert f"python tests/exercises/start.py {number} " in text
    assert f"pytest tests/exercises --exercise {number}" in text
    assert " minutes.\n" in text and "What to learn:" in text and "Expect" in text


@pytest.mark.parametrize("number", NUMBERS)
def test_every_check_says_what_is_wrong(number):
    """No bare assert: classroom.check names the function, what was expected, and a hint."""
    tree = ast.parse((HERE / f"test_exercise_{number}.py").read_text(encoding="utf-8"))
    bare = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not bare, f"lines {bare}"


def test_the_readme_lists_every_exercise_with_its_minutes():
    text = (HERE / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    for number in NUMBERS:
        path, = HERE.glob(f"exercise_{number}_*.py")
        minutes = load(number, "stub").__doc__.split(" minutes.\n")[0].split()[-1]
        row, = [line for line in text.splitlines() if f"`{path.name}`" in line]
        assert row.startswith(f"| {number} |") and f"| {minutes} |" in row
