"""Rank your own list with a run's model.

    python evaluate.py RUN --ask FILE     {"history": [["Heat (1995)", 4], ...], "candidates": ["Fargo (1996)", ...]}
"""
from pathlib import Path

from alro import IDENTIFIERS, clean_text
from data import PromptWords, RankingList, fit_histories, list_prompt
from evaluate import rankers_of_run
from plumbing.flags import check_input, one_line_error, read_json
from plumbing.folder import read_run_config
from plumbing.model import tokenise


def is_rated_title(row) -> bool:
    """Whether row is ["title", rating]."""
    types = [*map(type, row)] if isinstance(row, list) else []
    return types in ([str, int], [str, float])


def read_question(path: Path, low: float, high: float):
    """(history, candidates) of a question, checked against what the model can read."""
    question = read_json(path)
    history = question.get("history")
    candidates = question.get("candidates")
    good = isinstance(history, list) and all(map(is_rated_title, history))
    good &= isinstance(candidates, list) and all(isinstance(title, str) for title in candidates)
    check_input(good and len(question) == 2,
                f'{path}: expected {{"history": [["title", rating], ...], '
                '"candidates": ["title", ...]} and no more')
    for title, rating in history:
        check_input(low <= rating <= high,
                    f"{path}: {title!r} has rating {rating}; the model knows {low:g}..{high:g}")
    check_input(2 <= len(candidates) <= len(IDENTIFIERS),
                f"{path}: {len(candidates)} candidates; 2..{len(IDENTIFIERS)} are possible")
    return history, candidates


def ask(folder: str, file: str, decode: str) -> str:
    """Rank one's own list with a run's model, by the run's own rules; the ranking in words."""
    config = read_run_config(folder)
    prompt = config["prompt"]
    with one_line_error(f"{folder}/config.json: prompt: scale must be two numbers, levels some"):
        low, high = map(float, prompt["scale"])
        levels = list(map(float, prompt["levels"]))
        check_input(len(levels) > 0, f"{folder}/config.json: prompt: levels must be some numbers")
    history, candidates = read_question(Path(file), low, high)
    n, m = len(history), len(candidates)

    # The history's titles are items 0..n-1, the candidates n..n+m-1.
    titles = [clean_text(title) for title, _rating in history]
    titles += map(clean_text, candidates)
    rated = [(item, rating) for item, (_title, rating) in enumerate(history)]
    shown = list(range(m))
    question = RankingList("ask", 0, rated, list(range(n, n + m)), [0.0] * m, shown)
    words = PromptWords(titles, prompt["noun"], (low, high), levels)
    ranker = next(iter(rankers_of_run(folder, words, m, decode).values()))
    questions = fit_histories([question], ranker.encoder)
    order = ranker(questions, [shown])[0].tolist()
    lines = [f"{rank:2d}. {titles[n + candidate]}" for rank, candidate in enumerate(order, 1)]

    # What the model was trained on goes for a question, too; where it differs, a note says so.
    trained, tokenizer = config["data"], ranker.encoder.tokenizer
    if m != trained["list_size"]:
        lines.append(f"note: this model was trained on lists of {trained['list_size']}, not of {m}")
    if trained["fields"] != "title":
        lines.append(f"note: this model was trained on {trained['fields']}: yours are titles alone")
    tokens = tokenise(tokenizer, [list_prompt(words, *questions, shown)]).input_ids[0]
    if tokenizer.unk_token_id in tokens:
        lines.append("note: this model's tokenizer does not know every word of these titles")
    if questions != [question]:
        lines.append("note: the oldest ratings of the history did not fit the model's context")
    return "\n".join(lines)
