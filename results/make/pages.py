"""The tables of README.md and results/README.md, written from results/*.json.

    python results/make/pages.py          write them anew, between the marks <!-- table NAME --> and <!-- end -->
    pytest tests/trust/test_readme.py     fails where a page says something else than the files do
"""
import json
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md"]


def read(name: str) -> dict:
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def metric_of(result: dict) -> str:
    return f"ndcg@{min(10, result['list_size'])}"


def share_of_gap(result: dict, value: float) -> str:
    """Of an NDCG: how much of the way from chance to the oracle."""
    chance, oracle = (result["methods"][row][metric_of(result)]["mean"] for row in ("chance", "oracle"))
    return number((value - chance) / (oracle - chance), 2)


def gap_closed(result: dict, row: str) -> str:
    if "oracle" not in result["methods"]:
        return ""
    return share_of_gap(result, result["methods"][row][metric_of(result)]["mean"])


def spread(method: dict, metric: str) -> str:
    values = method.get("by_seed", {}).get(metric, [])
    return number(float(np.std(values, ddof=1))) if len(values) > 1 else ""


def cells_of(result: dict, row: str, columns: list[str]) -> list[str]:
    method, top = result["methods"][row], metric_of(result)
    cells = []
    for column in columns:
        if column == "gap closed":
            cells.append(gap_closed(result, row))
        elif column == "sd":
            cells.append(spread(method, top))
        elif column == "lowest seed":
            cells.append(number(min(method["by_seed"][top])) if "by_seed" in method else "")
        elif column == "seeds":
            cells.append(str(method.get("seeds", "")))
        elif column == "calls":
            cells.append(str(method["llm_calls_per_list"]))
        elif column == "interval":
            low, high = method[top].get("ci95_seeds_and_lists", method[top]["ci95"])
            cells.append(f"{number(low)} to {number(high)}")
        elif column in ("sll", "blind_sll", "perfect_sll"):
            cells.append(number(method[column]) if column in method else "")
        else:
            cells.append(number(method[column]["mean"]) if column in method else "")
    return cells


NAMES = {"agreement": "agreement", "top1_flip_rate": "top-1 flips", "ndcg@6_shown": "@6 shown", "interval": "95 %",
         "ndcg@10_shown": "@10 shown", "sll": "SLL", "blind_sll": "blind", "perfect_sll": "perfect"}


def table(result: dict, columns: list[str], rows: list[str] | None = None) -> str:
    rows = [row for row in (rows or result["methods"]) if row in result["methods"]]
    head = ["", *(NAMES.get(column, column.replace("ndcg", "")) for column in columns)]
    return markdown(head, [[row, *cells_of(result, row, columns)] for row in rows])


def signed(value: float) -> str:
    return ("+" if value >= 0 else "−") + number(abs(value))


def interval(low: float, high: float) -> str:
    return f"[{signed(low)}, {signed(high)}]"


def differences(result: dict) -> str:
    rows = []
    for pair, by_metric in result["differences"].items():
        row = [pair.replace(" - ", " − ")]
        for metric in (metric_of(result), "agreement"):
            ends = by_metric[metric]["ci95_seeds_and_lists"]
            seeds = by_metric[metric]["by_seed"]
            above = sum(gap > 0 for gap in seeds)
            counted = f"; above in {above} of {len(seeds)}" if len(seeds) > 1 else "; one seed"
            row.append(f"{signed(by_metric[metric]['mean'])} {interval(*ends)}{counted}")
        rows.append(row)
    return markdown(["", metric_of(result).replace("ndcg", ""), "agreement"], rows)


def noise() -> str:
    """A row for each noise of the retriever; of each arm NDCG, share of the gap, agreement."""
    arms = ["SFT, shown", "SFT, shuffled", "ALRO, shown"]
    columns = ["ndcg@6", "gap closed", "agreement"]
    head = ["retriever's noise", *(f"{arm}: {name}" for arm in arms for name in ("@6", "gap", "agreement"))]
    rows = []
    for title, result in read("noise").items():
        of_arm = {re.sub(r", retriever noise .*", "", row): row for row in result["methods"]}
        cells = [cell for arm in arms for cell in cells_of(result, of_arm[arm], columns)]
        rows.append([title.split()[-1], *cells])
    return markdown(head, rows)


def new_films() -> str:
    """NDCG of each ranker, a column for each share of new films."""
    tables = read("new_films")
    rows = next(iter(tables.values()))["methods"]
    cells = [[row, *(cells_of(result, row, ["ndcg@6"])[0] for result in tables.values())] for row in rows]
    return markdown(["", *(f"{title}: @6" for title in tables)], cells)


TWICE, SHOWN_TWICE = "SFT, shuffled, twice the steps", "SFT, shown, twice the steps"
FULL = ["ndcg@1", "ndcg@3", "ndcg@6", "ndcg@6_shown", "agreement", "top1_flip_rate", "seeds", "sd", "interval",
        "gap closed"]
SHORT = ["chance", "SFT, shown", "SFT+PSL, shown", "ALRO, shown", "SFT, shuffled", "SFT+SLL, shuffled",
         "ALRO, shuffled", "SFT+SLL, shuffled, soft ties", "retriever", "oracle"]


def lists_of_10(columns=("ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10")) -> str:
    return table(read("rivals-ml-100k"), list(columns))


REAL = ["ndcg@1", "ndcg@3", "ndcg@10", "interval", "agreement", "top1_flip_rate", "seeds", "calls"]


def real_groups(name: str, rows: list[str]) -> str:
    """NDCG of a few rows in each group of at least 20 lists."""
    groups = read(name)["groups"]
    cells = [[f"{title} ({group['lists']})", *(number(group[row]) for row in rows)]
             for title, group in groups.items() if group["lists"] >= 20]
    return markdown(["lists (how many)", *(f"{row}: @10" for row in rows)], cells)


def real_runs() -> str:
    """Of each run on the GPU: validation NDCG; training losses of its last steps, the log's last eight lines."""
    rows = []
    for row, seeds in read("real-gpu-runs")["runs"].items():
        for seed, run in seeds.items():
            steps = [line for line in run["log"] if "sft" in line]
            valid = {line["step"]: number(line["valid_ndcg"]) for line in run["log"] if "valid_ndcg" in line}
            assert [*valid] == [148, 296, 442] and [line["step"] for line in steps[-9:]] == [*range(300, 441, 20), 442]
            counts = [20] * 7 + [2]  # steps that a line is the mean of
            losses = {name: number(float(np.average([line[name] for line in steps[-8:]], weights=counts)))
                      for name in ("sft", "sll", "blind_sll", "perfect_sll")}
            kl = number(steps[-1]["kl"]) if "kl" in steps[-1] else "not logged"
            rows.append([f"{row}, seed {seed}", *valid.values(), *losses.values(), kl])
    titles = [f"valid @10, step {step}" for step in (148, 296, 442)]
    titles += ["train SFT", "train SLL", "blind SLL", "perfect SLL", "KL, last"]
    return markdown(["", *titles], rows)


def real_sweep() -> str:
    """Validation NDCG of ALRO with one setting changed."""
    rows = []
    for row, found in read("real-sweep")["rows"].items():
        mean, low, high = found["minus ALRO"]
        gap = "" if row == "ALRO" else f"{signed(mean)} {interval(low, high)}"
        rows.append([row, number(found["mean"]), gap])
    return markdown(["", "@10", "minus ALRO"], rows)


def knobs() -> str:
    texts = []
    for title, result in read("knobs").items():
        columns = [metric_of(result), "gap closed", "lowest seed", "agreement", "seeds"]
        columns += ["sll", "blind_sll", "perfect_sll"]
        texts.append(f"{title}:\n\n{table(result, columns)}")
    return "\n\n".join(texts)


def found() -> str:
    """What was found, in five sentences with their numbers."""
    methods = read("arms")["methods"]

    def of(row: str, metric: str = "ndcg@6") -> str:
        return number(methods[row][metric]["mean"], 2 if metric == "agreement" else 3)
    gap = {row: gap_closed(read("arms"), row) for row in methods}

    def new(count: str, row: str) -> str:
        return number(read("new_films")[f"{count} new films of 6"]["methods"][row]["ndcg@6"]["mean"])
    twice = read("arms")["differences"][f"ALRO, shown - {TWICE}"]["ndcg@6"]
    # ALRO of the five seeds that SFT has at twice the steps.
    shown_twice = read("arms")["differences"][f"ALRO, shown - {SHOWN_TWICE}"]["ndcg@6"]
    assert len(shown_twice["by_seed"]) == 5 and shown_twice["ci95_seeds_and_lists"][0] < 0
    first_five = share_of_gap(read("arms"), float(np.mean(methods["ALRO, shown"]["by_seed"]["ndcg@6"][:5])))
    gain = {row: read("arms")["differences"][f"{row}, soft ties - {row}"]["ndcg@6"]["ci95_seeds_and_lists"]
            for row in ("SFT, shuffled", "SFT+SLL, shuffled", "ALRO, shown")}
    assert gain["SFT, shuffled"][0] > 0 and gain["SFT+SLL, shuffled"][0] > 0 and gain["ALRO, shown"][0] < 0
    soft = [gap[f"{arm}, shuffled, soft ties"] for arm in ("SFT", "SFT+SLL", "ALRO")]
    low, high = twice["ci95_seeds_and_lists"]
    assert low < 0 < high and len(twice["by_seed"]) == 5, "they are told apart, or by other seeds: another sentence"
    return "\n".join([
        "1. **Plain fine-tuning on a retriever's order leans on the display**: NDCG@6 "
        f"{of('SFT, shown', 'ndcg@6_shown')} in that order, which alone is worth {of('retriever')}; "
        f"{of('SFT, shown')} in random ones (chance {of('chance')}), agreement {of('SFT, shown', 'agreement')}.",
        f"2. **ALRO on the same lists closes {gap['ALRO, shown']} of the gap** ({of('ALRO, shown')}, agreement "
        f"{of('ALRO, shown', 'agreement')}), by PSL with its random second display: SFT+PSL {gap['SFT+PSL, shown']}, "
        f"SFT+SLL {gap['SFT+SLL, shown']}, SFT {gap['SFT, shown']} (steps doubled: {gap[SHOWN_TWICE]}; "
        f"same five seeds' ALRO {first_five}, not told apart).",
        f"3. **Shuffling the display is the rival to beat**: SFT {gap['SFT, shuffled']}, SFT+SLL "
        f"{gap['SFT+SLL, shuffled']}, ALRO {gap['ALRO, shuffled']}; with soft ties (OURS: tied items "
        f"equally right) {', '.join(soft)}; shown ALRO {gap['ALRO, shown, soft ties']} "
        f"(without: {gap['ALRO, shown']}). At ALRO's training time shuffled "
        f"SFT ({gap[TWICE]}) and shown ALRO ({first_five}) are not told apart: ALRO's NDCG@6 {signed(twice['mean'])} "
        f"{interval(low, high)} (five seeds; [curves](results/learning_curves.png)).",
        "4. **Titles beat embeddings where films are new** (seeds 0 to 2, early ones): all six new, ALRO "
        f"{new('6', 'ALRO, shown')}, LightGCN "
        f"{new('6', 'LightGCN')}, MF {new('6', 'MF')}, chance {new('6', 'chance')}; none new, "
        f"{new('0', 'ALRO, shown')}, {new('0', 'LightGCN')}, {new('0', 'MF')} (oracle {new('0', 'oracle')}). *Told the "
        f"genre*, without a language model: {new('6', 'told the genre')}.",
        real_finding()])


def real_finding() -> str:
    """The finding on real ratings, some sentences more."""
    little, epoch = read("real"), read("real-gpu")

    def of(result: dict, row: str, metric: str = "ndcg@10") -> str:
        return number(result["methods"][row][metric]["mean"], 2 if metric == "agreement" else 3)

    def gap(result: dict, pair: str, metric: str = "ndcg@10") -> tuple:
        entry = result["differences"][pair][metric]
        return entry["mean"], *entry["ci95_seeds_and_lists"]

    # What the words below say of the numbers.
    for result, seeds, where in ((little, 2, "CPU"), (epoch, 1, "H100")):
        assert result["ranked_lists"] == result["informative_lists"] and result["model"] == "smollm2-135m"
        assert result["methods"]["ALRO"]["seeds"] == result["methods"]["SFT"]["seeds"] == seeds
        assert where in result["hardware"] and gap(result, "ALRO - SFT", "agreement")[1] > 0.1
        assert gap(result, "ALRO - LightGCN")[2] < 0
    for row in ("chance", "item mean", "LightGCN"):
        assert of(little, row) == of(epoch, row)
    first, then = gap(little, "ALRO - SFT"), gap(epoch, "ALRO - SFT")

    def both(row: str, result: dict) -> str:
        return f"{of(result, row, 'agreement')}, {of(result, row)}"
    return " ".join([
        f"5. **On MovieLens-100K, answers agree more with PSL**: ALRO {of(little, 'ALRO', 'agreement')}, NDCG@10 "
        f"{of(little, 'ALRO')}; SFT (half the prompts) {both('SFT', little)}; their SFT+SLL start "
        f"{both('start', little)} (SmolLM2-135M from 4 bits, two seeds; shuffled, {little['ranked_lists']} lists); "
        f"ALRO − SFT {signed(first[0])} {interval(*first[1:])}.",
        f"An H100 epoch (one seed): {both('ALRO', epoch)}; {both('SFT', epoch)}: {signed(then[0])} "
        f"{interval(*then[1:])}.",
        f"Item mean, in the prompt, {of(epoch, 'item mean')}; LightGCN {of(epoch, 'LightGCN')}; "
        f"chance {of(epoch, 'chance')}."])


TABLES = {
    "found": found,
    "arms-short": lambda: table(read("arms"), ["ndcg@6", "ndcg@6_shown", "agreement", "gap closed"], SHORT),
    "arms": lambda: table(read("arms"), FULL),
    "arms-differences": lambda: differences(read("arms")),
    "rivals": lambda: table(
        read("rivals"), ["ndcg@1", "ndcg@3", "ndcg@6", "agreement", "seeds", "calls", "gap closed"]),
    "rivals-differences": lambda: differences(read("rivals")),
    "new-films": new_films,
    "noise": noise,
    "knobs": knobs,
    "rivals-ml-100k": lists_of_10,
    "real": lambda: table(read("real"), REAL),
    "real-differences": lambda: differences(read("real")),
    "real-groups": lambda: real_groups("real", ["start", "SFT", "ALRO", "LightGCN", "told the category"]),
    "real-sweep": real_sweep,
    "real-gpu": lambda: table(read("real-gpu"), REAL),
    "real-gpu-differences": lambda: differences(read("real-gpu")),
    "real-gpu-groups": lambda: real_groups("real-gpu", ["SFT", "ALRO", "LightGCN", "told the category"]),
    "real-gpu-runs": real_runs,
}


def written(text: str) -> str:
    """The page with its tables written anew."""
    def fill(match: re.Match) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"
    return re.sub(r"<!-- table ([\w-]+) -->\n.*?<!-- end -->", fill, text, flags=re.S)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(page)
