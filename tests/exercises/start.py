"""Begin an exercise: copy its stub to tests/exercises/mine/, where you write. What is there already is left alone.

    python tests/exercises/start.py 3

git ignores mine/, and `pytest` never looks into it, so nothing you write there can break anything.
"""
import argparse
from pathlib import Path

HERE = Path(__file__).parent
STUBS = {int(path.stem.split("_")[1]): path for path in HERE.glob("exercise_*.py")}


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("number", type=int, choices=sorted(STUBS), help="of the exercise")
    number = parser.parse_args(arguments).number
    mine = HERE / "mine" / STUBS[number].name
    mine.parent.mkdir(exist_ok=True)
    try:
        with open(mine, "x", encoding="utf-8") as file:  # x: refuses where there is a file
            file.write(STUBS[number].read_text(encoding="utf-8"))
    except FileExistsError:
        raise SystemExit(f"{mine} is there already, and stays as it is. To begin anew, rename it first.") from None
    print(f"write in {mine}\ncheck with: pytest tests/exercises --exercise {number}")
    return mine


if __name__ == "__main__":
    main()
