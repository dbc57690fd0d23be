"""The tables of README.md, results/README.md and results/tables/, written from results/*.json.

    python results/make/pages.py          write them anew: results/tables/*.md whole, in the two pages what stands
                                          between the marks <!-- table NAME --> and <!-- end -->
    pytest tests/trust/test_readme.py     fails where a page says something else than the files do
"""
import json
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md"]
TABLES_FOLDER = ROOT / "results" / "tables"


# ---- Cells -----------------------------------------------------------------------------------------------------------

def read(name: str) -> dict:
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def number(value: float, digits: int = 3) -> str:
    """As a page prints it, ".982": no zero before the point, a real minus (also before a rounded .000)."""
    text = f"{abs(value):.{digits}f}"
    text = text.removeprefix("0") if abs(value) < 1 else text
    return f"−{text}" if value < 0 else text


def signed(value: float, digits: int = 3) -> str:
    return number(value, digits) if value < 0 else f"+{number(value, digits)}"


def interval(low: float, high: float, digits: int = 3) -> str:
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def metric_of(result: dict) -> str:
    return f"ndcg@{result['list_size']}"


def mean_of(result: dict, row: str) -> float:
    """A row's NDCG of the whole list."""
    return result["methods"][row][metric_of(result)]["mean"]


def share(result: dict, value: float) -> float:
    """Of an NDCG: how much of the way from chance to the oracle."""
    chance, oracle = mean_of(result, "chance"), mean_of(result, "oracle")
    return (value - chance) / (oracle - chance)


def gap(result: dict, row: str) -> str:
    """The share of the gap that a row closes, as a page prints it."""
    return number(share(result, mean_of(result, row)), 2)


def seeds_range(result: dict, method: dict) -> str:
    """Share of the gap, else NDCG, of the lowest and the highest seed."""
    if method.get("seeds", 1) == 1 or "by_seed" not in method:
        return ""
    ends = [function(method["by_seed"][metric_of(result)]) for function in (min, max)]
    if "oracle" in result["methods"]:
        return " to ".join(number(share(result, end), 2) for end in ends)
    return " to ".join(number(end) for end in ends)


def steps_until(method: dict) -> str:
    """The median step of the first validation at .85 of the gap, and how many seeds never got there."""
    steps = method.get("steps_until_85")
    if not steps:
        return ""
    there = [step for step in steps if step is not None]
    late = len(steps) - len(there)
    if late > len(there):
        return f"{late} of {len(steps)} never"
    return f"{np.median(there):.0f}" + (f"; {late} never" if late else "")


def cell(result: dict, row: str, column: str) -> str:
    method = result["methods"][row]
    if column == "gap":
        return gap(result, row) if "oracle" in result["methods"] else ""
    if column == "range":
        return seeds_range(result, method)
    if column == "steps":
        return steps_until(method)
    if column == "seeds":
        return str(method.get("seeds", ""))
    if column == "calls":
        return str(method["llm_calls_per_list"])
    if column == "interval":
        of_top = method[metric_of(result)]
        return " to ".join(map(number, of_top.get("ci95_seeds_and_lists", of_top["ci95"])))
    if column in ("sll", "blind_sll", "perfect_sll"):
        return number(method[column]) if column in method else ""
    if column == "slots":
        return " ".join(f"{rank:.1f}" for rank in method["mean_rank_by_slot"])
    return number(method[column]["mean"]) if column in method else ""


TITLES = {"gap": "gap closed", "range": "lowest to highest seed", "steps": "steps until .85", "interval": "95 %",
          "top1_flip_rate": "top-1 flips", "slots": "mean rank by slot",
          "sll": "SLL", "blind_sll": "blind", "perfect_sll": "perfect"}


def title_of(column: str) -> str:
    return TITLES.get(column, column.replace("ndcg", "").replace("_shown", " shown"))


def table(result: dict, columns: list[str], rows: list[str] | None = None) -> str:
    """Some rows of a result; those that are not there are left out."""
    rows = [row for row in (rows or result["methods"]) if row in result["methods"]]
    cells = [[row, *(cell(result, row, column) for column in columns)] for row in rows]
    return markdown(["", *map(title_of, columns)], cells)


def difference(result: dict, pair: str, metric: str | None = None) -> dict:
    """{"mean", "ends": 95 % interval, "by_seed"} of "ONE - OTHER"."""
    entry = result["differences"][pair][metric or metric_of(result)]
    return {"mean": entry["mean"], "ends": entry["ci95_seeds_and_lists"], "by_seed": entry["by_seed"]}


def in_short(found: dict) -> str:
    return f"{signed(found['mean'])} {interval(*found['ends'])}"


def counted(found: dict) -> str:
    """A difference, and in how many seeds the first row is above the second."""
    above = sum(gap > 0 for gap in found["by_seed"])
    seeds = len(found["by_seed"])
    return f"{in_short(found)}; " + (f"above in {above} of {seeds}" if seeds > 1 else "one seed")


def differences(result: dict, pairs: list[str] | None = None) -> str:
    pairs = [pair for pair in (pairs or result["differences"]) if pair in result["differences"]]
    metrics = (metric_of(result), "agreement")
    cells = [[pair.replace(" - ", " − "), *(counted(difference(result, pair, metric)) for metric in metrics)]
             for pair in pairs]
    return markdown(["", *map(title_of, metrics)], cells)


# ---- results/tables: every row and every difference ------------------------------------------------------------------

# file -> (title, the command that writes it)
FULL = {
    "arms": ("The demo: what each loss does, and the controls", "python results/make/measure.py score arms"),
    "rivals": ("The demo: rivals", "python results/make/measure.py score rivals"),
    "new_films": ("The demo: new films", "python results/make/measure.py score new_films"),
    "noise": ("The demo: the retriever's noise", "python results/make/measure.py score noise"),
    "knobs": ("The demo: one setting changed", "python results/make/measure.py score knobs"),
    "sizes": ("The demo: the tiny model in three widths", "python results/make/measure.py score sizes"),
    "calibrate": ("The demo: calibration", "python tests/exercises/try_calibrate.py RUN PSL_RUN, seed by seed"),
    "invariant": ("The demo: invariance by construction",
                  "python tests/exercises/train_invariant.py --json results/invariant.json"),
    "real-tiny": ("MovieLens-100K: a tiny model from random weights",
                  "python results/make/real_table.py score --size tiny --data_path DATA --out results"),
    "clear": ("MovieLens-100K with clearer ratings: when a tiny model says what it knows",
              "python results/make/clear.py score --data_path DATA --out results"),
    "real-tiny-6": ("MovieLens-100K: a tiny model, lists of 6",
                    "python results/make/real_table.py score --size tiny, at its commit"),
    "real-short": ("MovieLens-100K: SmolLM2-135M on a CPU, 800 lists, with rating targets",
                   "python results/make/real_table.py score --size short --limit 200 --data_path DATA --out results"),
    "real": ("MovieLens-100K: SmolLM2-135M on a CPU, history alone",
             "an earlier version of results/make/real_table.py"),
    "real-gpu": ("MovieLens-100K: SmolLM2-135M on a GPU, history alone",
                 "an earlier version of results/make/real_table.py"),
}


def columns_of(result: dict) -> list[str]:
    metrics = {metric for method in result["methods"].values() for metric in method}
    cutoffs = [f"ndcg@{k}" for k in (1, 3, 6, 10) if f"ndcg@{k}" in metrics]
    shown = [f"{metric_of(result)}_shown"] if f"{metric_of(result)}_shown" in metrics else []
    gaps = ["gap", "range", "steps"] if "oracle" in result["methods"] else ["range"]
    sll = ["sll", "blind_sll", "perfect_sll"] if "sll" in metrics else []
    return [*cutoffs, *shown, "interval", *gaps, "agreement", "top1_flip_rate", "slots", "seeds", "calls", *sll]


def groups(result: dict) -> str:
    """NDCG of every row in each group of at least 20 lists."""
    shown = {name: group for name, group in result["groups"].items() if group["lists"] >= 20}
    rows = [row for row in next(iter(shown.values())) if row != "lists"]
    cells = [[row, *(number(group[row]) for group in shown.values())] for row in rows]
    return markdown(["", *(f"{name} ({group['lists']})" for name, group in shown.items())], cells)


def validations(result: dict) -> str:
    """NDCG on validation lists, of each run at each validation; where it was asked, what it knows after the stroke."""
    lines = []
    for row, seeds in result["validation"].items():
        for seed, by_step in seeds.items():
            texts = []
            for step, found in by_step.items():
                says, knows = found if isinstance(found, list) else (found, None)
                texts.append(f"{step}: {number(says)}" + (f" / {number(knows)}" if knows else ""))
            lines.append([f"{row}, seed {seed}", "; ".join(texts)])
    return markdown(["run", "step: says / knows"], lines)


def measured_on(result: dict) -> str:
    parts = [f"{result['dataset']}, {result['model']}", f"{result['ranked_lists']} {result['split']} lists of "
             f"{result['list_size']} in {result['orders']} random displays", result["hardware"],
             f"commit {result['commit']}"]
    return "; ".join(parts) + "."


def calibration(found: dict) -> str:
    columns = ("ndcg@6", "ndcg@6_shown", "agreement", "widest_lean")
    cells = [[row, *(number(values[column]) for column in columns)] for row, values in found["rows"].items()]
    about = f"{found['lists']}; seeds {found['seeds']}; {found['hardware']}; commit {found['commit']}."
    lean = ("*widest lean*: how far the most favoured or disfavoured slot's mean rank is from the middle; mean over "
            "seeds. *first letter*: candidates sorted by the first letter's logits; *calibrated*: less the model's "
            "favourite slots, measured on lists whose candidates all have this text.")
    return "\n\n".join([about, markdown(["", "@6", "@6 shown", "agreement", "widest lean"], cells), lean])


def full_page(name: str) -> str:
    title, command = FULL[name]
    found = read(name)
    texts = [f"# {title}", f"Written by `python results/make/pages.py` from `results/{name}.json` (`{command}`). "
             "Columns: [results](../README.md)."]
    if "rows" in found:
        return "\n\n".join([*texts, calibration(found)]) + "\n"
    results = {"": found} if "methods" in found else found
    for part, result in results.items():
        if part:
            texts.append(f"## {part}")
        texts += [measured_on(result), table(result, columns_of(result))]
        if result.get("differences"):
            texts += ["Paired differences, over the same lists, seed by seed:", differences(result)]
        if result.get("groups"):
            texts += ["NDCG by group of lists (how many):", groups(result)]
        if result.get("validation"):
            texts += ["Validations:", validations(result)]
    return "\n\n".join(texts) + "\n"


# ---- Tables inside the two pages -------------------------------------------------------------------------------------

ARMS = [f"{arm}, {display}" for display in ("shown", "shuffled") for arm in ("SFT", "SFT+SLL", "SFT+PSL", "ALRO")]
REFERENCES = ["chance", "item mean", "retriever", "oracle"]


def says_and_knows(result: dict, row: str, column: str) -> str:
    """Of what the answer says and, after the stroke, of what the same models know."""
    cells = [cell(result, name, column) for name in (row, f"{row}, knows") if name in result["methods"]]
    return " / ".join(cells)


def losses() -> str:
    result = read("arms")
    columns = ["ndcg@6", "ndcg@6_shown", "gap", "range", "steps", "agreement"]
    rows = ["chance", *ARMS, *REFERENCES[1:]]
    cells = [[row, *(says_and_knows(result, row, column) for column in columns)] for row in rows]
    return markdown(["(says / knows)", *map(title_of, columns)], cells)


CONTROLS = ["SFT, both displays", "SFT+SLL, both displays",
            "SFT, shown, 4 times the steps",
            "ratings only, shown, knows", "ratings only, shuffled, knows",
            "SFT, shown, history alone", "SFT+SLL, shown, history alone", "ALRO, shown, history alone",
            "SFT, shown, no rating loss", "ALRO, shown, no rating loss"]


def controls() -> str:
    return table(read("arms"), ["gap", "range", "steps", "agreement", "seeds"], CONTROLS)


def pairs() -> str:
    return differences(read("arms"), [
        "ALRO, shown - SFT, shown", "SFT+SLL, shown - SFT, shown", "ALRO, shown - SFT+PSL, shown",
        "SFT+SLL, shuffled - SFT, shuffled", "ALRO, shown - SFT, shuffled",
        "SFT, both displays - SFT, shown", "SFT+PSL, shown - SFT, both displays",
        "ALRO, shown - SFT+SLL, both displays",
        "ALRO, shown, history alone - SFT, shown, history alone",
        "SFT, shuffled, knows - ratings only, shuffled, knows"])


RIVALS = ["chance", "SFT, shuffled", "SFT, shuffled, 5 orders", "ALRO, shown",
          "ALRO, shown, point-wise", "ALRO, shown, first step", "MF", "LightGCN", "told the genre", "oracle"]


def rivals() -> str:
    """Rivals in the demo's world and, where they were ranked there, by the share of new films."""
    result, worlds = read("rivals"), read("new_films")
    cells = []
    for row in RIVALS:
        in_worlds = [cell(world, row, "ndcg@6") if row in world["methods"] else "" for world in worlds.values()]
        shares = [in_worlds[0], cell(result, row, "ndcg@6"), *in_worlds[2:]]
        cells.append([row, *shares, *(cell(result, row, column) for column in ("gap", "agreement", "calls"))])
    heads = [f"@6, {title.split(' of')[0]}" for title in worlds]
    return markdown(["", *heads, "gap closed (2 new)", "agreement", "calls"], cells)


# column: (file, ending of the row)
REAL = {"a tiny model, says": ("real-tiny", ""), "it knows": ("real-tiny", ", knows"),
        "135M on a CPU, history alone": ("real", ""), "135M on a GPU, history alone": ("real-gpu", "")}
REAL_ROWS = ["chance", "SFT", "SFT, 4 times the steps", "SFT+SLL", "SFT+SLL, 4 times the steps", "SFT+PSL", "ALRO",
             "ratings only", "LightGCN", "printed average", "item mean"]


def real() -> str:
    """NDCG@10 and, in brackets, agreement; a column for each model."""
    results = {name: read(name) for name in {name for name, _ in REAL.values()}}
    cells = []
    for row in REAL_ROWS:
        line = [row]
        for name, ending in REAL.values():
            asked = row + ending
            methods = results[name]["methods"]
            found = asked in methods and (not ending or "seeds" in methods[asked])
            line.append(f"{cell(results[name], asked, 'ndcg@10')} ({cell(results[name], asked, 'agreement')})"
                        if found else "")
        if any(line[1:]):
            cells.append(line)
    return markdown(["", *REAL], cells)


def clear() -> str:
    """Where the ratings tell more, the answer pays, and comes."""
    head = ["ratings", "film", "reward, nats", "trap", "chance", "says", "knows", "agreement of it", "says from"]
    cells = []
    for world, result in read("clear").items():
        ndcg = metric_of(result)
        shares = [cell(result, row, ndcg) for row in ("chance", "SFT", "SFT, knows")]
        step = result["step_of_saying"]
        cells.append([world, number(result["film_correlation"], 2), number(result["reward"]), number(result["trap"]),
                      *shares, cell(result, "SFT", "agreement"), f"about step {step}" if step else "never"])
    return markdown(head, cells)


WIDTHS = {"32": ", width 32", "64": "", "128": ", width 128"}


def index() -> str:
    """A page: where each table comes from."""
    cells = []
    for name, (title, command) in FULL.items():
        found = read(name)
        first = found if "commit" in found else next(iter(found.values()))
        cells.append([title, f"[{name}.md]({name}.md)", f"`{name}.json`", f"`{command}`", first["commit"]])
    intro = ("Every row and difference of each file of results/, written by `python results/make/pages.py`. What they "
             "answer: [results](../README.md).")
    table = markdown(["question", "every row", "file", "command", "commit"], cells)
    return "\n\n".join(["# Every table", intro, table]) + "\n"


# ---- The page's claims and findings: words that the numbers must bear out --------------------------------------------

SHORT = ["chance", "SFT, shown", "SFT, shown, knows", "SFT+SLL, shown", "SFT+PSL, shown", "ALRO, shown",
         "SFT, shuffled", "SFT, shuffled, knows"]


def arms_short() -> str:
    return table(read("arms"), ["gap", "agreement"], SHORT)


def above(found: dict) -> bool:
    return found["ends"][0] > 0


def below(found: dict) -> bool:
    return found["ends"][1] < 0


def level(found: dict) -> bool:
    """Whether two rows are not told apart."""
    return not above(found) and not below(found)


def must(**conditions: bool) -> None:
    """The page's words say so. Where the numbers no longer do, it needs other words."""
    broken = [name for name, holds in conditions.items() if not holds]
    assert not broken, broken


def of_seeds(result: dict, row: str) -> str:
    """The share of the gap, its lowest and highest seed."""
    return f"{gap(result, row)} ({cell(result, row, 'range')})"


def claims() -> str:
    """The paper's claims, by alro.py's numbers, and what held here."""
    arms, epoch, sizes_of = read("arms"), read("real-gpu"), read("sizes")
    pairs = {name: difference(arms, name) for name in arms["differences"]}
    sll, sll_shuffled = pairs["SFT+SLL, shown - SFT, shown"], pairs["SFT+SLL, shuffled - SFT, shuffled"]
    sll_alone = pairs["SFT+SLL, shown, history alone - SFT, shown, history alone"]
    alone = pairs["ALRO, shown, history alone - SFT, shown, history alone"]
    films = difference(read("rivals"), "ALRO, shown - LightGCN")
    none_new = [mean_of(read("new_films")["0 new films of 6"], row) for row in ("ALRO, shown", "LightGCN")]
    on_films = {row: difference(epoch, f"ALRO - {row}") for row in ("SFT", "LightGCN")}
    on_cpu = difference(read("real"), "ALRO - SFT")
    by_width = [difference(sizes_of, f"ALRO, shown{ending} - SFT, shown{ending}") for ending in WIDTHS.values()]
    must(psl_decides=above(pairs["ALRO, shown - SFT, shown"]) and above(alone),
         sll_adds_nothing_to_psl=level(pairs["ALRO, shown - SFT+PSL, shown"]),
         sll_is_small=level(sll) and above(sll_shuffled) and sll_shuffled["mean"] < 0.01, sll_alone=level(sll_alone),
         titles_pay=above(films) and none_new[0] < none_new[1], embeddings_win=below(on_films["LightGCN"]),
         not_on_films=level(on_films["SFT"]), a_little_on_the_cpu=above(on_cpu),
         agree_on_films=above(difference(epoch, "ALRO - SFT", "agreement")),
         at_every_width=all(map(above, by_width)),
         by_less=by_width[0]["mean"] > by_width[1]["mean"] > by_width[2]["mean"],
         one_prompt=all(arms["methods"][row]["llm_calls_per_list"] == 1 for row in ARMS))

    def agreement(result: dict, row: str) -> str:
        return cell(result, row, "agreement")
    rows = [
        ["1. Next-token prediction of a list is not ranking", "in part", "in part",
         f"gap closed by SFT: shown {of_seeds(arms, 'SFT, shown')}, shuffled {of_seeds(arms, 'SFT, shuffled')}; "
         f"history alone, shown {of_seeds(arms, 'SFT, shown, history alone')}"],
        ["2. So order and rating gaps come out poorly; SLL mends it", "hardly", "not told apart",
         f"NDCG@6, SFT+SLL − SFT: shown {in_short(sll)}, shuffled {in_short(sll_shuffled)}; history alone, shown "
         f"{in_short(sll_alone)}"],
        ["3. SLL and PSL together mend it", "PSL does, mostly by its second display",
         "in the demo; hardly on MovieLens (135M)",
         f"NDCG@6, ALRO − SFT, shown: {in_short(pairs['ALRO, shown - SFT, shown'])}; ALRO − SFT+PSL: "
         f"{in_short(pairs['ALRO, shown - SFT+PSL, shown'])}; history alone: {in_short(alone)}; MovieLens, NDCG@10: "
         f"GPU {in_short(on_films['SFT'])}, CPU {in_short(on_cpu)}"],
        ["4. PSL removes position bias, at no cost when ranking", "most, mostly by its second display", "much (ALRO)",
         f"agreement, shown: SFT {agreement(arms, 'SFT, shown')}, SFT+PSL {agreement(arms, 'SFT+PSL, shown')}; "
         f"history alone, SFT {agreement(arms, 'SFT, shown, history alone')}, ALRO "
         f"{agreement(arms, 'ALRO, shown, history alone')}; MovieLens, SFT, ALRO: GPU {agreement(epoch, 'SFT')}, "
         f"{agreement(epoch, 'ALRO')}, CPU {agreement(read('real'), 'SFT')}, {agreement(read('real'), 'ALRO')}; "
         "1 prompt a list"],
        ["5. It beats embedding- and LLM-based recommenders", "in the demo, where films are new; other LLMs: not run",
         "not on MovieLens",
         f"NDCG@6, ALRO − LightGCN, two of six films new: {in_short(films)}, none new: "
         f"{' against '.join(map(number, none_new))}; MovieLens (GPU), NDCG@10: {in_short(on_films['LightGCN'])}"],
        ["6. It beats SFT at every model size, larger ones by more", "at each width, the larger by less", "not tested",
         "NDCG@6, ALRO − SFT, shown, tiny model, three seeds: " + ", ".join(
             f"{width} wide {in_short(found)}" for width, found in zip(WIDTHS, by_width))]]
    return markdown(["the paper's claim", "with rating targets", "history alone",
                     "number (lowest to highest seed) [95 % interval]"], rows)


def findings() -> str:
    """Six sentences."""
    arms = read("arms")

    def agreement(row: str) -> str:
        return number(arms["methods"][row]["agreement"]["mean"], 2)
    exposure = difference(arms, "SFT+PSL, shown - SFT, both displays")
    must(knows_more=above(difference(arms, "SFT, shown, knows - SFT, shown")), pull_adds=above(exposure),
         psl_alone_does_it=level(difference(arms, "ALRO, shown - SFT+PSL, shown")),
         read_off_is_best=above(difference(arms, "SFT, shuffled, knows - SFT, shuffled")),
         read_off_needs_no_list=level(difference(arms, "SFT, shuffled, knows - ratings only, shuffled, knows")),
         nothing_without_ratings=all(mean_of(arms, f"{arm}, shown, no rating loss") < mean_of(arms, "chance")
                                     for arm in ("SFT", "ALRO")))
    return "\n".join([
        "1. **On a retriever's display SFT knows more than it says**: its answer closes "
        f"{gap(arms, 'SFT, shown')} of the gap ({gap(arms, 'SFT, shown, 4 times the steps')} in four times the steps), "
        f"the ratings that the same model expects {gap(arms, 'SFT, shown, knows')}.",
        f"2. **PSL makes it say so**: {gap(arms, 'SFT+PSL, shown')} of the gap without SLL, and ALRO is level with it; "
        f"agreement rises from {agreement('SFT, shown')} to {agreement('SFT+PSL, shown')}.",
        "3. **Most of that is the second, random display**: SFT on both displays closes "
        f"{gap(arms, 'SFT, both displays')}; SFT+PSL is above it by {in_short(exposure)} in NDCG@6.",
        "4. **Shuffling and reading off is as good as any answer in random displays**: "
        f"{gap(arms, 'SFT, shuffled, knows')}, agreement {agreement('SFT, shuffled, knows')}; training on nothing but "
        "ratings is level with it.",
        "5. **The paper's objective alone (no loss on ratings), on shown displays, learns nothing of taste**: ALRO "
        f"{gap(arms, 'ALRO, shown, no rating loss')}, SFT {gap(arms, 'SFT, shown, no rating loss')} (three seeds). "
        f"History alone: ALRO {of_seeds(arms, 'ALRO, shown, history alone')}.",
        real_finding()])


def real_finding() -> str:
    """The finding on real ratings."""
    tiny, short, worlds = read("real-tiny"), read("real-short"), read("clear")
    films, demo = worlds["as rated"], worlds["the demo"]
    longer = "SFT, 4 times the steps"
    must(one_seed_each=all(result["methods"]["SFT"]["seeds"] == 1 for result in (tiny, short)),
         knows_the_average=all(level(difference(result, "SFT, knows - printed average")) for result in (tiny, short)),
         does_not_say=all(above(difference(result, "SFT, knows - SFT")) for result in (tiny, short)),
         at_chance=abs(mean_of(tiny, "SFT") - mean_of(tiny, "chance")) < 0.003,
         later_it_does=above(difference(tiny, f"{longer} - SFT")),
         clearer_is_sooner=[world["step_of_saying"] for world in worlds.values()][:4] == [750, 900, 1350, None])

    def ndcg(result: dict, row: str) -> str:
        return cell(result, row, "ndcg@10")

    def reward(world: dict) -> str:
        return f"of {number(world['trap'])} by {number(world['reward'])}"
    return (
        "6. **On MovieLens-100K models know long before they say** (one seed each). After 1,500 steps a tiny one, "
        f"read off, ranks as the average printed in its prompt does, NDCG@10 {ndcg(tiny, 'SFT, knows')}; it says "
        f"{ndcg(tiny, 'SFT')} (chance), after 6,000 {ndcg(tiny, longer)}. A 135M one, after 800 lists: "
        f"{ndcg(short, 'SFT, knows')} and {ndcg(short, 'SFT')} (200 lists). Real ratings are noisy and tied, and "
        f"saying pays little: guessing's SFT loss falls {reward(films)} nats, in the demo {reward(demo)}; clearer "
        "ratings bring it sooner.")


# ---- Writing ---------------------------------------------------------------------------------------------------------

TABLES = {
    "claims": claims, "findings": findings, "arms-short": arms_short,
    "losses": losses, "pairs": pairs,
    "controls": controls,
    "rivals": rivals, "real": real, "clear": clear,
}


def written(text: str) -> str:
    """The page with its tables written anew."""
    def fill(match: re.Match) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"
    return re.sub(r"<!-- table ([\w-]+) -->\n.*?<!-- end -->", fill, text, flags=re.S)


if __name__ == "__main__":
    TABLES_FOLDER.mkdir(exist_ok=True)
    contents = {TABLES_FOLDER / f"{name}.md": full_page(name) for name in FULL}
    contents[TABLES_FOLDER / "README.md"] = index()
    contents |= {page: written(page.read_text(encoding="utf-8")) for page in PAGES}
    for path, text in contents.items():
        path.write_text(text, encoding="utf-8")
        print(path)
