"""One list's way, step by step, on the demo's world: from its ratings to its losses and its ranking.

    python tests/exercises/trace.py          with the model as a run begins with it
    python tests/exercises/trace.py RUN      with the model of a finished run
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch  # noqa: E402

import train  # noqa: E402
from alro import expected_ratings, candidate_log_probs, rank_candidates, target_logits  # noqa: E402
from data import DataConfig  # noqa: E402
from plumbing.folder import read_run_config  # noqa: E402
from plumbing.model import load_run  # noqa: E402


def main(arguments: list[str]) -> None:
    torch.set_printoptions(precision=3, sci_mode=False, linewidth=110)
    data_cfg, cfg = DataConfig(), train.TrainConfig(bf16=False)
    job = train.prepare(data_cfg, cfg)
    columns = job.ratings.columns
    # The first list in which what is displayed first is not the best: the answer is no A B C D E F.
    one = next(one for one in job.steps.lists if one.ratings[one.shown[0]] < max(one.ratings))
    model = load_run(arguments[0], read_run_config(arguments[0]))[0] if arguments else job.model.eval()

    print("1. The user's ratings in the order of time; in brackets the window of this list")
    candidates = {one.items[i] for i in range(6)}
    mine = columns.user == one.user
    for item, rating in zip(columns.item[mine], columns.rating[mine]):
        text = f"{columns.titles[item]} {rating:g}"
        print(f"[{text}]" if item in candidates else text, end="; ")
    print()
    print(f"2. RankingList {one.list_id}: items {one.items}, ratings {one.ratings}; shown {one.shown} "
          "(slot -> candidate)")

    batch = job.steps.two_displays([one], epoch=0)
    print("3. Two rows, two displayed orders. The first prompt with its answer. What is read after a token: [k] y_k,\n"
          "   [r] a rating of the history, [c] a candidate's rating, which no prompt shows")
    tokens, end = batch.input_ids[0].tolist(), int(batch.prompt_tokens[0])
    reads = {end - 1 + k: k + 1 for k in range(6)} | {t - 1: "r" for t in batch.history_at[0].tolist()}
    reads |= {t - 1: "c" for t in batch.candidate_at[0].tolist()}
    decode = job.encoder.tokenizer.decode
    print("".join(decode([token]) + (f"[{reads[t]}]" if t in reads else "") for t, token in enumerate(tokens)))
    print("4. Slots -> candidates:", batch.slots.tolist(), "; the token of each candidate:")
    print("  ", [[decode([token]) for token in row] for row in batch.candidate_tokens().tolist()])
    print("   gold order (output position -> candidate):", batch.order[0].tolist())

    with torch.no_grad():
        y = candidate_log_probs(target_logits(model, batch)[0], batch).softmax(-1)  # (2, m, m)
        print("5. y by candidate in each displayed order: row k, what output position k emits", y, sep="\n")
        print("6. Losses:", {name: round(value.item(), 3) for name, value in train.losses(model, batch, cfg).items()})
        print("7. Ranked, best first, in each displayed order:", rank_candidates(model, batch).tolist())
        print("   What it knows, the rating expected of each candidate:", expected_ratings(model, batch), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
