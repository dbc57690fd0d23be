"""What a run prints: the lines of its start; a result (eval-SPLIT.json) as a table and in words."""
import math

import numpy as np

from alro import IDENTIFIERS

FEW_STEPS = 80  # no run of results/ has left the uniform trap before
FEW_TRAINING_LISTS, DEMO_LISTS = 2000, 7973  # GUESS: a quarter; what the demo learns from
FEW_LISTS = 30  # GUESS: an interval of fewer is surer than they are


def describe_start(data_cfg, cfg, job, device_text: str, losses_name: str) -> str:
    """What a person wants to know before the first step; cfg: train.TrainConfig, job: train.Job."""
    m, steps, columns = data_cfg.list_size, job.steps.total, job.ratings.columns
    n_trained = sum(weight.numel() for weight in job.model.parameters() if weight.requires_grad)
    counts = "".join(f"; {name}: {count}" for name, count in columns.counts.items())
    lines = [f"{data_cfg.dataset}: {len(job.steps.lists)} training lists of {m} with two different "
             f"ratings, of {len(job.splits.train)}{counts}",
             f"{cfg.model}: {job.model.num_parameters():,} weights, {n_trained:,} trained; "
             f"{device_text}"]
    objective = (f"SFT + {cfg.alpha:g} SLL + {cfg.beta:g} PSL + {cfg.history_weight:g} history + "
                 f"{cfg.candidate_weight:g} candidates' ratings; gamma {cfg.gamma:g}")
    if losses_name != "train:losses":  # only it knows what it weighs
        objective = losses_name
    lines.append(f"loss: {objective}; on {cfg.display_order} orders, seed {cfg.seed}")
    passes = steps * cfg.batch_size / len(job.steps.lists)
    lines.append(f"{steps} steps of {cfg.batch_size} lists ({passes:.1f} passes over them), "
                 f"validated on {len(job.valid_lists)}; every setting is in config.json")
    trap = (f"compare the SFT loss with log(m) = {math.log(m):.3f}, any of the m letters, and "
            f"log(m!)/m = {math.lgamma(m + 1) / m:.3f}, the uniform trap: any of those not yet out")
    if cfg.display_order == "shown":
        trap += "; copying the shown order goes below it"
    lines.append(trap)
    if cfg.candidate_weight > 0 and len(job.encoder.levels) == 0:
        levels = ", ".join(f"{level:g}" for level in job.ratings.words.levels)
        lines.append(f"note: no single token of this tokenizer tells the ratings {levels} apart: "
                     "the candidates' are no targets, and what the model knows cannot be read off")
    if len(job.steps.lists) < FEW_TRAINING_LISTS:
        lines.append(f"note: {len(job.steps.lists)} training lists are few (the demo has "
                     f"{DEMO_LISTS:,}): in {passes:.0f} passes they may be learned by heart, and "
                     "no more")
    if steps < FEW_STEPS:
        lines.append(f"note: {steps} steps are too few to leave the uniform trap; expect about "
                     "chance (see --steps, --epochs)")
    return "\n".join(lines)


def ndcg_metrics(result: dict) -> list[str]:
    """The result's metrics of NDCG in random orders, "ndcg@1" first; the last sees most of a list."""
    metrics = next(iter(result["methods"].values()))
    return [name for name in metrics if name.startswith("ndcg@") and not name.endswith("_shown")]


def columns_of_text(rows: dict, width: int) -> str:
    """{row: {title: cell}} as text: the titles, then a line per row, every column `width` wide."""
    margin = max(14, *map(len, rows))
    titles = list(next(iter(rows.values())))
    lines = [" " * margin + "".join(f"{title:>{width}}" for title in titles)]
    for name, cells in rows.items():
        lines.append(f"{name:<{margin}}" + "".join(f"{cells[title]:>{width}}" for title in titles))
    return "\n".join(lines)


def gap_closed(result: dict, name: str) -> float:
    """How much of the way from chance (0) to the oracle (1) a method goes, in NDCG."""
    metric = ndcg_metrics(result)[-1]
    mean = {row: method[metric]["mean"] for row, method in result["methods"].items()}
    return (mean[name] - mean["chance"]) / (mean["oracle"] - mean["chance"])


def text_table(result: dict) -> str:
    """The result as text: a row per method, chance first.

    Where an oracle is known, the gap closed; where a row holds several seeds, their spread
    (standard deviation).
    """
    methods = result["methods"]
    top = ndcg_metrics(result)[-1]  # "ndcg@6"
    at = top.removeprefix("ndcg")
    columns = {metric.upper(): metric for metric in ndcg_metrics(result)}
    columns[f"{at} shown"] = f"{top}_shown"
    columns |= {"agreement": "agreement", "top-1 flips": "top1_flip_rate"}
    several_seeds = any("by_seed" in method for method in methods.values())
    rows = {}  # {method: {title of a column: cell}}
    for name, method in methods.items():
        row = rows[name] = {}
        for title, metric in columns.items():
            row[title] = f"{method[metric]['mean']:.3f}" if metric in method else "-"
        # Half of the interval is what one reads as "plus or minus".
        low, high = method[top]["ci95"]
        row[f"+-95% {at}"] = f"{(high - low) / 2:.3f}"
        if several_seeds:
            row["sd of seeds"] = "-"
        if "by_seed" in method:
            row["sd of seeds"] = f"{np.std(method['by_seed'][top], ddof=1):.3f}"
        row["calls"] = str(method["llm_calls_per_list"])
        row["ms/list"] = f"{result['timing'][name]['ms_per_list']:.1f}"
        if "oracle" in methods:
            row["gap closed"] = f"{gap_closed(result, name):.2f}"
    head = (f"{result['ranked_lists']} {result['split']} lists of {result['list_size']} in "
            f"{result['orders']} random orders; {result['dataset']}, {result['model']}, seed "
            f"{result['seed']}, {result['hardware']}")
    return "\n".join([head, columns_of_text(rows, 12), *notes_on(result)])


def notes_on(result: dict) -> list[str]:
    """What in a table would else mislead."""
    notes, methods = [], result["methods"]
    if result["ranked_lists"] < FEW_LISTS:
        notes.append(f"note: so few lists ({result['ranked_lists']}) tell next to nothing, whatever "
                     f"the intervals say: rank {FEW_LISTS} or more")
    in_shown_order = {}
    if "oracle" in methods:
        shown = f"{ndcg_metrics(result)[-1]}_shown"
        in_shown_order = {name: method[shown]["mean"] for name, method in methods.items()
                          if shown in method}
    if max(in_shown_order.values(), default=0) > in_shown_order.get("oracle", 0):
        notes.append("note: above the oracle in the shown order? That order is made from the very "
                     "ratings that are scored, plus noise: it tells of the noise in the ratings, "
                     "which the oracle does not know")
    return notes


def in_plain_words(result: dict, row: str = "trained") -> str:
    """What a table shows of one method, for a person; the words are chosen by the numbers."""
    if result["ranked_lists"] < FEW_LISTS:
        return "So few lists do not tell what it has learned."
    sentences = [what_it_learned(result, row)]
    if "agreement" in result["methods"][row]:  # of two displays or more
        sentences.append(what_sways_it(result, row))
    if "knows" in result["methods"] and row == "trained":
        sentences.append(what_it_knows(result, row))
    sentences.append(beside_item_mean(result, row))
    return ". ".join(sentences) + "."


def what_it_learned(result: dict, row: str) -> str:
    """Has it learned to rank? Chance inside the interval reads as "no better"."""
    methods, metric = result["methods"], ndcg_metrics(result)[-1]
    chance, mean = methods["chance"][metric]["mean"], methods[row][metric]["mean"]
    low, high = methods[row][metric]["ci95"]
    scores = f"{metric.upper()} {mean:.3f}, chance {chance:.3f}"
    if low > chance:
        learned = f"In random orders it ranks better than chance ({scores})"
        if "oracle" in methods:
            learned += f" and closes {gap_closed(result, row):.0%} of the gap to the best possible"
        return learned
    if high < chance:
        return f"In random orders it ranks worse than chance ({scores}): something is wrong"
    return (f"In random orders it ranks no better than chance ({scores}): it has not learned the "
            "users' taste")


def what_sways_it(result: dict, row: str) -> str:
    """Does the displayed order sway it? One that copies the display does best in the shown order."""
    metric, method = ndcg_metrics(result)[-1], result["methods"][row]
    agreement, shown = method["agreement"]["mean"], method[f"{metric}_shown"]["mean"]
    if agreement >= 0.75:
        swayed = "Displayed in another order, a list is ranked much the same"
    elif agreement >= 0.3:
        swayed = "Displayed in another order, a list is partly ranked differently"
    else:
        swayed = "The ranking follows the order in which the candidates are displayed"
    _low, high = method[metric]["ci95"]
    if agreement < 0.75 and shown > high:
        swayed += f", and in the order that a retriever shows this earns {shown:.3f}"
    return f"{swayed} (agreement {agreement:.2f})"


def what_it_knows(result: dict, row: str) -> str:
    """Does it say what it knows?"""
    metric, knows = ndcg_metrics(result)[-1], result["methods"]["knows"]
    says = result["methods"][row][metric]["mean"]
    low, high = knows[metric]["ci95"]
    if low > says:
        known = "It knows more than it says"
    elif high < says:
        known = "It says more than its expected ratings know"
    elif low <= result["methods"]["chance"][metric]["mean"]:
        known = "It knows no more than it says"
    else:
        known = "It says what it knows"
    known += ("; sorted by the rating it expects for each candidate, the same "
              f"lists reach {knows[metric]['mean']:.3f}")
    if "oracle" in result["methods"]:
        known += f", {gap_closed(result, 'knows'):.0%} of the gap"
    if "agreement" in knows:
        known += f" (agreement {knows['agreement']['mean']:.2f})"
    return known


def beside_item_mean(result: dict, row: str) -> str:
    """Does it know anything of the user?"""
    metric = ndcg_metrics(result)[-1]
    item_mean = result["methods"]["item mean"][metric]["mean"]
    low, high = result["methods"][row][metric]["ci95"]
    compared = "about as good as"
    if low > item_mean:
        compared = "better than"
    elif high < item_mean:
        compared = "worse than"
    return (f"It is {compared} the item mean ({item_mean:.3f}), which knows every item but no user")


def in_words(data, method: dict, row: int) -> str:
    """List `row` for a person: the history, and the predicted order beside the true ratings.

    method: of `score_method`; the list is taken in its first random displayed order.
    """
    ranking_list = data.lists[row]
    titles = data.ratings.columns.titles
    order = method["predicted"][0][row].tolist()
    slots = method["slots"][0][row]
    # First what the model said; in brackets, what each rank could have held at best.
    history = [f"{titles[item]} {rating:g}" for item, rating in ranking_list.history]
    lines = [f"list {ranking_list.list_id}; history: {'; '.join(history)}",
             "predicted order      rating (best possible)  shown as"]
    best = sorted(ranking_list.ratings, reverse=True)
    for rank, candidate in enumerate(order, 1):
        title = titles[ranking_list.items[candidate]]
        rating = ranking_list.ratings[candidate]
        letter = IDENTIFIERS[slots.index(candidate)]
        lines.append(f"{rank:2d}. {title:<28.28} {rating:g} ({best[rank - 1]:g})  {letter}")
    return "\n".join(lines)
