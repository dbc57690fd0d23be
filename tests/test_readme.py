"""What the README says is there, is there."""
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_exactly_the_checked_commands():
    commands = [line.split("#")[0].strip() for line in README.splitlines() if line.endswith("# checked")]
    ci = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert len(commands) == 2 and all(command in ci for command in commands)


def test_every_function_and_test_in_the_paper_to_code_map_exists():
    table = README.split("## From the paper to the code")[1].split("\n## ")[0]
    code = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py")])
    names = [name for row in table.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row)]
    assert len(names) > 15
    for name in names:
        assert f"def {name}(" in code, name


def test_every_flag_in_the_readme_exists():
    import data
    import evaluate
    import train
    known = {f"--{name}" for config in (data.DataConfig, data.ShowConfig, train.TrainConfig, evaluate.EvalConfig)
             for name in config.__dataclass_fields__} | {"--preset", "--help"}
    used = set(re.findall(r"--[a-z_]+", README))
    assert used and used <= known, used - known
