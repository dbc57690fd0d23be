"""What runs look like: curves, and y of one list in two displayed orders. No formulas here.

    python -m experiments.figures RUN... --out FOLDER     as numbers and, with matplotlib, as pictures
"""
import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from alro import (
    IDENTIFIERS, AlroError, blind_probs, candidate_log_probs, gold_order, soft_rank, target_logits)
from data import RankingList, fit_histories, generator, random_slots
from evaluate import (
    EvaluationData, chance_ndcg, choose_lists, ndcg, rankers_of_run, ratings_of, reference_rankers)
from experiments import compare
from plumbing.flags import (
    check_input, import_optional, one_line_error, option, parse_flags, run_script)
from plumbing.folder import check_writable, read_log, read_run_config
from plumbing.machine import autocast

GAMMAS = (0.3, 1, 3, 10, 30, 100, 300)  # of the soft ranks that are drawn
SAYS, KNOWS = "what it says", "what it knows"
LEVEL_SLOTS = ("level: no slot is favoured on average;\nwhether two orders agree is the agreement's to "
               "say")


class Picture(NamedTuple):
    """Curves in one panel or several side by side."""
    title: str
    x: str
    y: str
    panels: dict[str, dict]  # {panel: {line: (xs, ys)}}; ys of several rows: one for each seed,
                             # drawn as thin lines beside their mean
    levels: dict = {}        # {name: y}, lines across all panels
    note: str = ""


def learning_curves(folders, field="valid_ndcg"):
    """(steps, a score on validation lists: a row for each of several runs that differ in their
    seed). field: of log.jsonl."""
    with one_line_error(f"log.jsonl of {', '.join(folders)}: cannot be read"):
        validations = []
        for folder in folders:
            rows = [row for row in read_log(folder) if field in row]
            validations.append([(row["step"], row[field]) for row in rows])
        # The n-th validation of every seed came at the same step; runs may have stopped early.
        shortest = min(map(len, validations))
        points = np.array([of_run[:shortest] for of_run in validations], float)
        points = points.reshape(len(folders), shortest, 2)  # (seeds, validations, 2)
    return points[0, :, 0].tolist(), points[..., 1].tolist()


def learning_picture(rows: dict[str, list[str]], levels: dict) -> Picture:
    """How runs learn; rows: {row: its runs' folders}, levels: of `levels_of`."""
    panels = {}
    for panel, field in {SAYS: "valid_ndcg", KNOWS: "valid_knows"}.items():
        lines = {name: learning_curves(folders, field) for name, folders in rows.items()}
        lines = {name: (steps, scores) for name, (steps, scores) in lines.items() if steps}
        if lines:
            panels[panel] = lines
    seeds = max(map(len, rows.values()))
    each = f": {seeds} seeds (thin) and their mean" if seeds > 1 else ""
    return Picture(f"Learning to rank{each}", "step", "NDCG, validation lists in random order",
                   panels, levels)


def levels_of(data: EvaluationData) -> dict[str, float]:
    """NDCG of the whole list by chance and, where there is one, by the oracle."""
    ratings, m = ratings_of(data.lists), data.list_size  # (N, m)
    levels = {"chance": chance_ndcg(ratings, m).mean().item()}
    oracle = reference_rankers(data).get("oracle")
    if oracle:
        levels["oracle"] = ndcg(ratings, oracle(data.lists, None), m).mean().item()
    return levels


def validation_levels(folder: str, data: EvaluationData) -> dict[str, float]:
    """`levels_of` the lists that a run was validated on."""
    with one_line_error(f"log.jsonl of {folder}: cannot be read"):
        first = next(row["step"] for row in read_log(folder) if "valid_ndcg" in row)
    cfg = read_run_config(folder)["train"]
    # No more than were trained on before the first validation (train.prepare).
    limit = min(first * cfg["batch_size"], cfg["valid_lists"] or len(data.splits.valid))
    return levels_of(choose_lists(data.ratings, data.splits, "valid", limit))


def letters_of(m: int) -> list[str]:
    """What the m slots are called."""
    return [identifier.strip() for identifier in IDENTIFIERS[:m]]


def slot_picture(by_slot: dict) -> Picture:
    """by_slot: {line: mean predicted rank (m,) of what each slot displays, or (seeds, m)}."""
    m = np.shape(next(iter(by_slot.values())))[-1]
    lines = {name: (letters_of(m), ranks) for name, ranks in by_slot.items()}
    return Picture("Is a slot favoured?", "slot in which a candidate is displayed",
                   "mean predicted rank (1 = best)", {"": lines},
                   {"no slot favoured": (m + 1) / 2}, LEVEL_SLOTS)


def curves(table: dict, rows: dict, levels: dict) -> dict[str, Picture]:
    """{file: what is drawn there}.

    rows: the table's rows of runs, each with its runs' folders; levels: of `validation_levels`.
    """
    m, methods = table["list_size"], table["methods"]
    # What teacher forcing alone gives away: see alro.blind_probs.
    blind = blind_probs(torch.arange(m).unsqueeze(0))  # (1, m, m)
    soft_ranks = torch.cat([soft_rank(blind, gamma) for gamma in GAMMAS])  # (gammas, m)
    by_gamma = {f"gold position {k + 1}": (GAMMAS, soft_ranks[:, k].tolist()) for k in range(m)}
    return {
        "slot_curve": slot_picture({name: methods[name]["mean_rank_by_slot"] for name in rows}),
        "learning_curves": learning_picture(rows, levels),
        "soft_rank": Picture("Soft ranks of a model that knows only what is already out", "gamma",
                             "soft rank", {"": by_gamma})}


@torch.no_grad()
def output_by_slot(ranker, ranking_list: RankingList):
    """y of one list in two displayed orders, the shown one and a random one, by slot.

    Returns: (y, gold_slots): (2, m, m) probability that output position k emits the candidate in slot j,
    the gold ones before k forced; (2, m) the slot of the gold candidate at each output position. A
    model that copies the display puts y on the diagonal, a good one where the gold ones are.
    """
    list_id = ranking_list.list_id
    slots = [ranking_list.shown, random_slots(len(ranking_list.items), "eval", list_id, 0)]
    gold = gold_order(torch.tensor([ranking_list.ratings]), generator("figure", list_id))  # (1, m)
    batch = ranker.encoder.encode([ranking_list] * 2, slots, gold.expand(2, -1))
    device = next(ranker.model.parameters()).device
    with autocast(device, ranker.bf16):
        answer_logits, _, _ = target_logits(ranker.model, batch.to(device))  # (2, m, V)
    y = candidate_log_probs(answer_logits.cpu(), batch).softmax(-1)  # (2, m, m) by candidate
    # The one place where y is looked at by slot: here the display is the question.
    by_slot = y.gather(-1, batch.slots.unsqueeze(1).expand_as(y))
    gold_slots = batch.slots.argsort(-1).gather(-1, batch.order)
    return by_slot.numpy(), gold_slots.numpy()


def most_levels(lists) -> RankingList:
    """The first list with the most different ratings: its gold order has the fewest ties."""
    return max(lists, key=lambda ranking_list: len({*ranking_list.ratings}))


def print_maps(maps: dict) -> None:
    """{title: of `output_by_slot`} as numbers, the gold candidate's slot marked with a star."""
    for name, orders in maps.items():
        for order, y, gold_slots in zip(("shown", "a random"), *orders):
            print(f"\n{name}, {order} order: y by slot, a line per output position, * = gold")
            for probs, gold_slot in zip(y.tolist(), gold_slots.tolist()):
                marks = ["*" if slot == gold_slot else " " for slot in range(len(probs))]
                print("  " + " ".join(f"{p:.2f}{mark}" for p, mark in zip(probs, marks)))


# ---- Drawing -------------------------------------------------------------------------------------

# Lines that lie on one another are told apart by these.
MARKERS, DASHES = "os^DvPX*", ("-", "--", "-.", ":")
REFERENCES = {"chance": "0.6", "oracle": "0.0"}  # greys: lines to compare the others with


def draw_maps(pyplot, maps: dict, path: Path) -> None:
    """A row of two small heat maps for each entry of `maps`."""
    figure, axes = pyplot.subplots(
        len(maps), 2, squeeze=False, figsize=(6.4, 3.3 * len(maps) + 1), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    for (name, orders), pair in zip(maps.items(), axes):
        for title, y, gold_slots, map_axes in zip(("the shown", "a random"), *orders, pair):
            m = len(y)
            image = map_axes.imshow(y, vmin=0, vmax=1, cmap="Blues")
            cross, = map_axes.plot(gold_slots, range(m), "x", color="crimson", markersize=9)
            map_axes.set_xticks(range(m), letters_of(m))
            map_axes.set_yticks(range(m), range(1, m + 1))
            map_axes.set_title(f"{name}\nthe list in {title} order", fontsize=9)
    for map_axes in axes[-1]:
        map_axes.set_xlabel("slot, by its letter")
    for map_axes in axes[:, 0]:
        map_axes.set_ylabel("output position")
    figure.colorbar(image, ax=axes, shrink=0.6, label="probability that the letter is written here")
    figure.legend([cross], ["gold candidate"], loc="outside lower center")
    figure.suptitle("y of one list in two displayed orders\n(at each output position the gold "
                    "candidates before it are given)", fontsize=10)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def draw_line(axes, number: int, name: str, xs, ys) -> None:
    """One line of a panel, with those of its seeds."""
    seeds = np.atleast_2d(ys)  # (seeds, points)
    style = {"color": f"C{number}", "marker": MARKERS[number % len(MARKERS)],
             "linestyle": DASHES[number % len(DASHES)], "fillstyle": "none"}
    if name in REFERENCES:
        style = {"color": REFERENCES[name], "linestyle": ":"}
    # The later ones lie on top, thinner and smaller: what is under them can be seen.
    size = 1 / (1 + 0.15 * number)
    axes.plot(xs, seeds.mean(0), label=name, linewidth=3 * size, markersize=10 * size, **style)
    if len(seeds) > 1:
        axes.plot(xs, seeds.T, color=style["color"], linewidth=0.6, alpha=0.5)


def draw_curves(pyplot, picture: Picture, path: Path) -> None:
    n_panels = len(picture.panels)
    size = {"figsize": (2 + 4.2 * n_panels, 4.8), "layout": "constrained"}
    figure, panels = pyplot.subplots(1, n_panels, squeeze=False, sharey=True, **size)
    names = list(dict.fromkeys(name for lines in picture.panels.values() for name in lines))
    for axes, (title, lines) in zip(panels[0], picture.panels.items()):
        for name, (xs, ys) in lines.items():
            draw_line(axes, names.index(name), name, xs, ys)
        for name, level in picture.levels.items():
            axes.axhline(level, color=REFERENCES.get(name, "0.6"), linestyle=":")
        axes.set(title=title, xlabel=picture.x)
        if picture.x == "gamma":
            axes.set_xscale("log")
    for name, level in picture.levels.items():  # beside the last panel
        axes.annotate(f"{name} {level:.3g}", (1, level), xycoords=("axes fraction", "data"),
                      xytext=(4, -3), textcoords="offset points", fontsize=8)
    panels[0, 0].set_ylabel(picture.y)
    handles = dict(zip(*reversed(panels[0, 0].get_legend_handles_labels())))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, fontsize=9)
    if picture.note:
        panels[0, 0].set_title(picture.note, fontsize=8)
    figure.suptitle(picture.title)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def print_curves(picture: Picture) -> None:
    """Curves as x:y pairs, the mean over seeds."""
    print(f"\n{picture.title} ({picture.x}: {picture.y})")
    for title, lines in picture.panels.items():
        for name, (xs, ys) in lines.items():
            pairs = zip(xs, np.atleast_2d(ys).mean(0))
            texts = [f"{x if isinstance(x, str) else format(x, '.3g')}:{y:.3f}" for x, y in pairs]
            label = f"{name}, {title}" if title else name
            print(f"  {label:<32}{' '.join(texts)}")
    for name, level in picture.levels.items():
        print(f"  {name:<32}{level:.3f}")
    if picture.note:
        print(f"  {' '.join(picture.note.split())}")


def draw(folder: Path, pictures: dict[str, Picture], maps: dict | None = None) -> None:
    """Print what is to be drawn and, where matplotlib is installed, draw each: folder/NAME.png.

    maps: {title: of `output_by_slot`}.
    """
    for picture in pictures.values():
        print_curves(picture)
    print_maps(maps or {})
    try:
        import_optional("matplotlib", "drawing what stands above").use("agg")
    except AlroError as error:  # the numbers are all there
        print(f"\nno pictures: {error}")
        return
    pyplot = import_optional("matplotlib.pyplot", "drawing")
    folder.mkdir(parents=True, exist_ok=True)
    if maps:
        draw_maps(pyplot, maps, folder / "output_by_slot.png")
    for file, picture in pictures.items():
        draw_curves(pyplot, picture, folder / f"{file}.png")
    print(f"\npictures: {folder}")


@dataclasses.dataclass(frozen=True)
class FiguresConfig(compare.CompareConfig):
    out: str = option("figures", "the folder of the pictures")


def main(arguments: list[str] | None = None) -> dict:
    """Draw; returns the table that the curves are of (experiments.compare)."""
    cfg, runs = parse_flags(arguments, FiguresConfig, positional="runs")
    check_input(len(runs) > 0, "name at least one run's folder")
    check_writable(Path(cfg.out))
    if cfg.json:
        check_writable(Path(cfg.json).parent)
    configs = {folder: read_run_config(folder) for folder in runs}
    rows = compare.named_rows(configs, cfg.pool)
    table = compare.compare(configs, rows, cfg)
    data = compare.data_of_runs(configs, cfg.split, cfg.limit)
    # Of a row with several seeds, the first one's maps: their mean would show no model's.
    maps = {}
    for row, folders in rows.items():
        title = row
        if len(folders) > 1:
            title += f": seed {configs[folders[0]]['train']['seed']}"
        ranker = rankers_of_run(folders[0], data.ratings.words, data.list_size)["trained"]
        lists = fit_histories([most_levels(data.lists)], ranker.encoder)
        maps[title] = output_by_slot(ranker, *lists)
    levels = validation_levels(runs[0], data)
    draw(Path(cfg.out), curves(table, rows, levels), maps)
    return table


if __name__ == "__main__":
    run_script(main)
