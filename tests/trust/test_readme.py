"""What the pages say is there, is there, and their numbers are those of the files."""
import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

import alro
import data
import evaluate
import train
from experiments import ablation, compare, figures, rivals

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "results" / "make"))

import pages  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
LOG = (ROOT / "results" / "LOG.md").read_text(encoding="utf-8")


def python_files() -> list[Path]:
    """All tests but what students write."""
    return [path for path in ROOT.glob("tests/**/*.py") if "mine" not in path.parts]


@pytest.mark.parametrize("page", pages.PAGES, ids=["README", "results"])
def test_the_tables_of_the_pages_are_those_of_the_files(page):
    """230 numbers were once compared by hand; now `python results/make/pages.py` writes them."""
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- table ") >= 2 and pages.written(text) == text
    assert not re.search(r"<!-- table [\w-]+ -->\n<!-- end -->", text), "a table was never written"


def test_each_full_table_is_that_of_its_file():
    for name in pages.FULL:
        there = (ROOT / "results" / "tables" / f"{name}.md").read_text(encoding="utf-8")
        assert there == pages.full_page(name), name
    assert (ROOT / "results" / "tables" / "README.md").read_text(encoding="utf-8") == pages.index()
    assert {path.stem for path in ROOT.glob("results/tables/*")} == {*pages.FULL, "README"}


def test_the_pages_are_short():
    for page, most_lines, most_words in ((README, 200, 1800), (RESULTS, 200, 3200)):
        prose = page.replace("|", " ")  # bars of tables are no words
        assert len(page.splitlines()) <= most_lines and len(prose.split()) <= most_words
    assert "not the paper's full text" in README.split("##")[0]


def test_every_number_in_the_prose_stands_in_a_table():
    """What is worked by hand is printed by alro.py (above); all else is of a file, by way of a written table."""
    tables = "".join(re.findall(r"<!-- table .*?<!-- end -->", README + RESULTS, flags=re.S))
    tables += "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("results/tables/*.md"))
    numbers = r"(?<![\w.])\.\d{2,4}(?!\d)"
    known = set(re.findall(numbers, tables)) | {pages.number(pages.read("cost")["loss"][0]["share"])}
    by_hand = README.split("## One list by hand")[1].split("\n## ")[0]
    for page in (README.replace(by_hand, ""), RESULTS):
        prose = re.sub(r"<!-- table .*?<!-- end -->", "", page, flags=re.S)
        prose = re.sub(r"has gone .*? all at 100", "", prose)  # of what teacher forcing gives away, below
        found = set(re.findall(numbers, prose))
        assert found <= known, found - known


def test_a_number_is_printed_as_the_pages_have_it():
    assert [pages.number(value) for value in (0.9824, -0.0312, 0, -0.0001, 12.5)] == [".982", "−.031", ".000",
                                                                                    "−.000", "12.500"]
    assert pages.signed(0.004) == "+.004" and pages.signed(-0.004) == "−.004" and pages.signed(0.98, 2) == "+.98"
    assert pages.steps_until({"steps_until_85": [480, None, 600]}) == "540; 1 never"
    assert pages.steps_until({"steps_until_85": [None, None, 600]}) == "2 of 3 never"


def test_ci_runs_exactly_the_checked_commands():
    commands = [line.split("#")[0].strip() for line in README.splitlines() if line.endswith("# checked")]
    ci = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert len(commands) == 2 and all(command in ci for command in commands)


def test_every_function_and_test_in_the_paper_to_code_map_exists():
    table = README.split("## From the paper to the code")[1].split("\n## ")[0]
    code = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.py"), *python_files()])
    names = [name for row in table.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row)]
    assert len(names) > 15
    for name in names:
        assert f"def {name}(" in code, name


def test_every_section_that_is_referred_to_exists():
    folders = ("", "plumbing", "experiments")
    code = "".join(path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).glob("*.py"))
    names = {*re.findall(r'under "([^"]+)"', README), *re.findall(r'README, "([^"]+)"', code)}
    assert "Sources" in names
    assert all(f"\n## {name}\n" in README for name in names), names


def test_every_table_of_results_is_there_and_names_what_it_was_measured_on():
    pages_text = README + RESULTS + LOG + pages.index()
    named = set(re.findall(r"`(?:results/)?([\w.-]+\.(?:json|png))`", pages_text))
    named |= set(re.findall(r"\]\((?:results/)?([\w.-]+\.(?:json|png|md))\)", pages_text))
    there = {path.name for path in ROOT.glob("results/*.*")} - {"README.md", "LOG.md", "pictures.json"}
    assert there <= named and len(there) > 5, there - named
    for name in there:
        text = (ROOT / "results" / name).read_bytes()
        if name.endswith(".json"):
            found = json.loads(text)
            tables = [found] if "hardware" in found else list(found.values())
            assert all({"hardware", "model", "dataset"} <= table.keys() for table in tables), name
            for table in tables:
                assert "methods" not in table or {"seed", "orders", "data_sha256"} <= table.keys(), name
                assert "methods" not in table or "chance" in table["methods"], name
                assert "methods" not in table or table["commit"], name
            assert not re.search(rb'"/\w', text), f"{name} holds a path of one machine"


def test_every_picture_names_what_it_is_of_and_the_maps_are_those_of_the_median_seed():
    """Once seed 0 was pictured, where the difference of the two losses was largest."""
    path = ROOT / "results" / "pictures.json"
    if not path.exists():
        pytest.skip("these pictures are of before `measure.py figures` wrote pictures.json")
    told = json.loads(path.read_text())
    assert {f"{name}.png" for name in told} == {png.name for png in ROOT.glob("results/*.png")}
    for name, about in told.items():
        assert about["sha256"] == hashlib.sha256((ROOT / "results" / f"{name}.png").read_bytes()).hexdigest(), name
    arms, maps = pages.read("arms"), told["output_by_slot"]
    assert maps["commit"] == arms["commit"] == told["slot_curve"]["commit"] == told["learning_curves"]["commit"]
    gaps = arms["differences"][maps["median_of"]]["ndcg@6"]["by_seed"]
    seed, = {seed for seeds in maps["seeds"].values() for seed in seeds}
    assert sum(gap < gaps[seed] for gap in gaps) == (len(gaps) - 1) // 2
    for row, seeds in told["slot_curve"]["seeds"].items():
        assert len(seeds) == arms["methods"][row]["seeds"], row
    films = next(iter(pages.read("new_films").values()))
    assert told["new_films"]["rows"] == [*films["methods"]] and told["new_films"]["commit"] == films.get("commit")


def test_every_flag_in_the_readme_exists():
    configs = (data.DataConfig, train.TrainConfig, train.RunConfig, evaluate.EvalConfig, ablation.AblationConfig,
               compare.CompareConfig, figures.FiguresConfig, rivals.RivalsConfig)
    known = {f"--{name}" for config in configs for name in config.__dataclass_fields__}
    known |= {"--preset", "--help", "--exercise", "--only", "--nproc_per_node"}
    used = set(re.findall(r"--[a-z][a-z_0-9]*", README))
    assert used and used <= known, used - known


def test_the_list_worked_by_hand_is_what_alro_prints(capsys):
    alro.main()
    printed = set(re.findall(r"-?\d+\.\d{4}", capsys.readouterr().out))
    block = README.split("## One list by hand")[1].split("```")[1]
    numbers = re.findall(r"-?\d+\.\d{4}", block)
    assert len(numbers) == 14 and set(numbers) <= printed, set(numbers) - printed


def test_every_test_that_a_promise_names_exists():
    code = "".join(path.read_text(encoding="utf-8") for path in python_files())
    promises = (ROOT / "tests" / "trust" / "README.md").read_text(encoding="utf-8")
    names = re.findall(r"`(test_\w+)`", promises)
    assert len(names) > 10
    for name in names:
        assert f"def {name}(" in code, name


def test_the_page_and_the_losses_tests_say_what_to_run_first():
    """A dropped mask turns hundreds of tests red: the losses' own, of seconds, say which."""
    hint = "pytest -x tests/test_losses.py"
    first_line = (ROOT / "tests" / "test_losses.py").read_text(encoding="utf-8").splitlines()[0]
    assert hint in first_line and hint in README


def test_what_teacher_forcing_gives_away_is_what_soft_rank_says():
    """The blind model's share of the way from a uniform y to a sure one, by gamma."""
    cfg = data.DataConfig()
    ratings = data.load(cfg)
    lists = evaluate.choose_lists(ratings, data.split(ratings, cfg), "test", 500).lists
    scale = evaluate.ratings_of(lists).float()  # (500, 6)
    order = torch.cat([alro.gold_order(row.unsqueeze(0)) for row in scale])
    shares = []
    for gamma in (1, 10, 30, 100):
        uniform, blind, sure = (
            alro.soft_lambda_loss(y, scale, alro.gold_rank(scale), gamma).mean()
            for y in (torch.full((500, 6, 6), 1 / 6), alro.blind_probs(order), alro.perfect_probs(order)))
        shares.append(pages.number(((uniform - blind) / (uniform - sure)).item(), 2))
    said = "{} of the way at gamma 1, {} at train.py's 10, {} at 30, all at 100".format(*shares)
    assert said in RESULTS and shares[3] == "1.00"


def test_the_trace_of_one_list_prints_its_seven_steps(monkeypatch, capsys, small_world):
    spec = importlib.util.spec_from_file_location("trace_of_a_list", ROOT / "tests" / "exercises" / "trace.py")
    trace = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trace)
    trace.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines if re.match(r"\d\. ", line)] == list("1234567")
    assert "Ranking:[1]" in "".join(lines)
