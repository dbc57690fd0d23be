"""What runs look like: three curves, and y of one list in two displayed orders. No formulas here.

    python -m experiments.figures RUN... --out FOLDER     as numbers and, with matplotlib, as pictures
"""
import dataclasses
from pathlib import Path

import numpy as np
import torch

from alro import (AlroError, blind_probs, gold_order, candidate_log_probs, soft_rank, target_logits)
from data import RankingList, fit_histories, generator, random_slots
from evaluate import rankers_of_run
from experiments import compare
from plumbing.flags import (
    check_input, import_optional, one_line_error, option, parse_flags, run_script)
from plumbing.folder import check_writable, read_log, read_run_config
from plumbing.machine import autocast

GAMMAS = (0.3, 1, 3, 10, 30, 100, 300)  # of the soft ranks that are drawn


def learning_curves(folders):
    """(steps, validation NDCG: a row for each of several runs that differ in their seed)."""
    with one_line_error(f"log.jsonl of {', '.join(folders)}: cannot be read"):
        validations = []
        for folder in folders:
            rows = [row for row in read_log(folder) if "valid_ndcg" in row]
            validations.append([(row["step"], row["valid_ndcg"]) for row in rows])
        # The n-th validation of every seed came at the same step; runs may have stopped early.
        shortest = min(map(len, validations))
        points = np.array([of_run[:shortest] for of_run in validations], float)
        points = points.reshape(len(folders), shortest, 2)  # (seeds, validations, 2)
    return points[0, :, 0].tolist(), points[..., 1].tolist()


def curves(table: dict, rows: dict) -> dict[str, tuple]:
    """What --figures draws: {file: (title, x axis, y axis, {line: (xs, ys)})}.

    rows: the table's rows of runs, each with its runs' folders. Where ys are several rows, one for
    each seed, they are drawn as thin lines beside their mean.
    """
    m = table["list_size"]
    methods = table["methods"]
    places = range(1, m + 1)
    # What teacher forcing alone gives away: see alro.blind_probs.
    blind = blind_probs(torch.arange(m).unsqueeze(0))  # (1, m, m)
    soft_ranks = torch.cat([soft_rank(blind, gamma) for gamma in GAMMAS])  # (gammas, m)
    by_slot = {name: (places, methods[name]["mean_rank_by_slot"]) for name in rows}
    learning = {name: learning_curves(folders) for name, folders in rows.items()}
    by_gamma = {f"gold position {k}": (GAMMAS, soft_ranks[:, k - 1].tolist()) for k in places}
    return {
        "slot_curve": ("Flat = indifferent to the displayed order", "displayed slot",
                       "mean predicted rank", by_slot),
        "learning_curves": ("Learning", "step", "NDCG on validation lists", learning),
        "soft_rank": ("Soft ranks of a model that knows only what is already out", "gamma",
                      "soft rank", by_gamma)}


@torch.no_grad()
def output_by_slot(ranker, ranking_list: RankingList):
    """y of one list in two displayed orders, the shown one and a random one, by slot.

    Returns: (y, gold_slots): (2, m, m) probability that output position k emits the item in slot j,
    the gold items before k forced; (2, m) the slot of the gold item at each output position. A
    model that copies the display puts y on the diagonal, a good one where the gold items are.
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
    """{row: of `output_by_slot`} as numbers, the gold item's slot marked with a star."""
    for name, orders in maps.items():
        for order, y, gold_slots in zip(("shown", "a random"), *orders):
            print(f"\n{name}, {order} order: y by slot, a line per output position, * = gold")
            for probs, gold_slot in zip(y.tolist(), gold_slots.tolist()):
                marks = ["*" if slot == gold_slot else " " for slot in range(len(probs))]
                print("  " + " ".join(f"{p:.2f}{mark}" for p, mark in zip(probs, marks)))


def draw_maps(pyplot, maps: dict, path: Path) -> None:
    """A row of two small heat maps for each row of the table."""
    figure, axes = pyplot.subplots(len(maps), 2, squeeze=False, figsize=(5, 2.6 * len(maps)))
    for (name, orders), pair in zip(maps.items(), axes):
        for title, y, gold_slots, map_axes in zip(("shown", "random"), *orders, pair):
            places = range(1, len(y) + 1)
            ends = (0.5, len(y) + 0.5, len(y) + 0.5, 0.5)  # count from 1, the first line on top
            map_axes.imshow(y, vmin=0, vmax=1, cmap="Greys", extent=ends)
            map_axes.plot(gold_slots + 1, places, "rx")  # the gold order
            map_axes.set_title(f"{name}, {title} order", fontsize=8)
            map_axes.set(xlabel="slot", ylabel="output position")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def draw(folder: Path, figures: dict[str, tuple], maps: dict | None = None) -> None:
    """Print curves as x:y pairs and, where matplotlib is installed, draw each: folder/NAME.png.

    figures: of `curves`; maps: {row: of `output_by_slot`}.
    """
    for title, x, y, lines in figures.values():
        print(f"\n{title} ({x}: {y})")
        for name, (xs, ys) in lines.items():
            texts = [f"{at:g}:{value:.3f}" for at, value in zip(xs, np.atleast_2d(ys).mean(0))]
            print(f"  {name:<28}{' '.join(texts)}")
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
    for file, (title, x, y, lines) in figures.items():
        _, axes = pyplot.subplots()
        for name, (xs, ys) in lines.items():
            seeds = np.atleast_2d(ys)  # (seeds, points)
            mean_line, = axes.plot(xs, seeds.mean(0), marker="o", label=name)
            if len(seeds) > 1:  # each of them, thin
                axes.plot(xs, seeds.T, linewidth=0.5, color=mean_line.get_color())
        axes.set(title=title, xlabel=x, ylabel=y, xscale="log" if x == "gamma" else "linear")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))  # beside the curves, not over them
        axes.figure.savefig(folder / f"{file}.png", dpi=100, bbox_inches="tight")
        pyplot.close(axes.figure)


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
        ranker = rankers_of_run(folders[0], data.ratings.words, data.list_size)["trained"]
        lists = fit_histories([most_levels(data.lists)], ranker.encoder)
        maps[row] = output_by_slot(ranker, *lists)
    draw(Path(cfg.out), curves(table, rows), maps)
    return table


if __name__ == "__main__":
    run_script(main)
