"""From ratings to lists of candidates to batches.

    python data.py [--dataset ml-100k --data_path DIR]     one list's prompt in two displayed orders

    load(cfg) -> Ratings -> split(ratings, cfg) -> Splits of RankingList
    Encoder.encode(lists, slots, orders) -> alro.Batch

Where ratings come from, files or the demo's world, is in plumbing/: they arrive here as columns.
`python -m experiments.describe` tells more of a data set.
"""
import dataclasses
import functools
import hashlib
import itertools
from typing import NamedTuple

import numpy as np
import torch

from alro import IDENTIFIERS, Batch, build_prompt, gold_order
from plumbing.averages import FOLDS, fold_averages
from plumbing.checks import check_data
from plumbing.files import Columns, item_texts, read_dataset
from plumbing.flags import check_input, option, parse_flags, run_script, warn
from plumbing.model import (
    check_prompt, context_length, fit_history, identifier_tokens, line_end_tokens, pad,
    rating_tokens, special_tokens, tokenise)
from plumbing.world import synthetic

MIN_HISTORY = 5  # a list exists only where so many ratings come before it


# ---- What is ranked ------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to rank. The defaults are the demo's."""
    _argument_group_name = "data"

    dataset: str = option(
        "synthetic", "synthetic, ml-100k, -1m, -10m, -20m, -25m, -32m, -latest-small, recbole, "
        "amazon-2018 or csv")
    data_path: str | None = option(
        None, "folder with the dataset's files, as its publisher unpacks them")
    download: bool = option(
        False, "fetch an ml-... set into --data_path (or data/<dataset>), its MD5 checked")
    list_size: int = option(6, "m, candidates in a list, 2..26 (GUESS)")
    history_size: int = option(8, "most ratings of history to show (GUESS)")
    stride: int = option(5, "ratings between the ends of a user's training lists (OURS)")
    fields: str = option("title", "what the prompt says of an item: title[,category][,average]")
    noun: str | None = option(
        None, "what the prompt calls an item (default: the dataset's word)")
    k_core: int | None = option(
        None, "keep users and items with at least this many ratings, again and again until it "
        "holds")
    drop_zeros: bool = option(False, "a rating of 0 means \"not rated\": leave it out")
    new_films: int = option(
        2, "synthetic: films of each test list that nobody has rated before")
    retriever_noise: float = option(
        0.7, "synthetic: the shown order is by rating plus noise of this deviation")

    def __post_init__(self):
        check_data(self)


class PromptWords(NamedTuple):
    """The words of a dataset's prompts."""
    texts: list[str]            # how the prompt names each item
    noun: str                   # what it calls an item: "movie"
    scale: tuple[float, float]  # the worst and the best rating
    levels: list[float]         # all ratings that occur, ascending
    averages: np.ndarray | None = None  # (folds, items): what users of a fold see; NaN = nothing
    folds: list[int] | None = None      # the fold of each user

    def candidate(self, item: int, user: int) -> str:
        """The text of an item in a candidate's line: with its average, if there is one."""
        if self.averages is None:
            return self.texts[item]
        average = self.averages[self.folds[user], item]
        return self.texts[item] + ("" if np.isnan(average) else f", {average:.1f}")


class Ratings(NamedTuple):
    """A dataset, complete: its columns, and what its prompts say."""
    columns: Columns
    words: PromptWords


@dataclasses.dataclass(frozen=True)
class RankingList:
    """m candidates of one user, to be put in order from most to least liked by this user.

    Candidate i is items[i], 0 <= i < m; an *item* is an index into the catalogue.
    """
    list_id: str
    user: int                         # index into Columns.users
    history: list[tuple[int, float]]  # (item, rating) just before the list, oldest first
    items: list[int]      # m candidates: shuffled, so that a candidate's number tells nothing
    ratings: list[float]  # m, by candidate
    shown: list[int]      # the one displayed order a retriever would give: slot -> candidate

    @property
    def informative(self) -> bool:
        return len(set(self.ratings)) > 1  # with one rating for all, every order is right


class Splits(NamedTuple):
    train: list[RankingList]
    valid: list[RankingList]
    test: list[RankingList]
    fit: dict[str, np.ndarray]  # split -> rows of Columns that another recommender, a *rival*
                                # (experiments/rivals.py), may be fitted on


# ---- Randomness ----------------------------------------------------------------------------------
# Every random number of data and training comes from a key that says what it is for: (seed, epoch,
# list), say. So any list can be redone by itself: resuming, sharing lists among processes and
# comparing are exact.

def seed_from(*key) -> int:
    """A seed for random numbers, 0..2^56, that depends on the key alone."""
    return int(hashlib.blake2b(repr(key).encode(), digest_size=7).hexdigest(), 16)


def generator(*key) -> torch.Generator:
    """Random numbers that depend on the key alone, not on what was drawn before."""
    return torch.Generator().manual_seed(seed_from(*key))


def random_slots(m: int, *key) -> list[int]:
    """A random displayed order of m candidates: slot -> candidate."""
    return torch.randperm(m, generator=generator("slots", *key)).tolist()


# ---- Ratings -------------------------------------------------------------------------------------

def load(cfg: DataConfig, n_users: int = 4000) -> Ratings:
    """Read, check and clean the dataset that cfg names; n_users: of the synthetic world.

    Raises: AlroError with file and line.
    """
    if cfg.dataset == "synthetic":
        columns = synthetic(cfg.list_size, cfg.new_films, n_users)
    else:
        columns = read_dataset(cfg)
    texts = item_texts(columns, cfg)  # what the prompt says of an item, wherever it stands
    levels = np.unique(columns.rating).tolist()
    averages, folds = None, [fold_of(user) for user in columns.users]
    if "average" in cfg.fields:
        # From the rows before all validation lists, for all splits: what a title's line says in
        # training, it says in the test, and it knows no more than the trained model.
        rows = fit_rows(columns.user, cfg.list_size)["train"]
        rater_fold = np.array(folds)[columns.user[rows]]
        averages = fold_averages(rater_fold, columns.item[rows], columns.rating[rows],
                                 len(columns.items))
    words = PromptWords(texts, cfg.noun or columns.noun, (levels[0], levels[-1]), levels, averages,
                        folds)
    return Ratings(columns, words)


def fold_of(user: str) -> int:
    """The fold of a user, by a hash of the id (see plumbing/averages.py)."""
    return generator("fold", user).initial_seed() % FOLDS


# ---- Split: ratings -> lists ---------------------------------------------------------------------

def fit_rows(user: np.ndarray, m: int) -> dict[str, np.ndarray]:
    """For each split, the rows that a rival may be fitted on: all but those of its own lists and of
    later splits. For training lists, which overlap with all else, those before validation lists.

    Args: user (N,) of each row, sorted.
    """
    n_ratings = np.bincount(user)  # (users,)
    # Counted from the user's end: the last row has 1, the one before it 2.
    from_end = np.cumsum(n_ratings)[user] - np.arange(len(user))  # (N,)
    held_out = np.zeros(len(user), bool)
    fit = {}
    for name, last in {"test": m, "valid": 2 * m}.items():
        has_list = n_ratings[user] >= last + MIN_HISTORY  # (N,)
        held_out |= has_list & (from_end <= last)  # valid: test's and its own
        fit[name] = np.flatnonzero(~held_out)
    return {"train": fit["valid"], **fit}


def split(ratings: Ratings, cfg: DataConfig) -> Splits:
    """Per user by time: the last m ratings are the test list, the m before the validation list;
    training lists are windows of m before that, each `stride` earlier (so they may overlap).

    A list exists only where MIN_HISTORY ratings come before it. The split is by user, not by
    global time: another user's rating in `fit` may be later than a test list.
    """
    columns, m = ratings.columns, cfg.list_size
    fit = fit_rows(columns.user, m)
    popularity = np.bincount(columns.item[fit["train"]], minlength=len(columns.items))  # (items,)
    splits = Splits([], [], [], fit)
    ends = np.cumsum(np.bincount(columns.user)).tolist()
    for user, (first, end) in enumerate(itertools.pairwise([0, *ends])):  # the user's rows
        name = columns.users[user]
        windows = [(splits.test, f"{name}/test", end - m)]
        windows.append((splits.valid, f"{name}/valid", end - 2 * m))
        for i, start in enumerate(range(end - 3 * m, first, -cfg.stride)):
            windows.append((splits.train, f"{name}/train-{i}", start))
        for lists, list_id, start in windows:
            if start - first >= MIN_HISTORY:
                past = slice(max(first, start - cfg.history_size), start)
                lists.append(make_list(columns, cfg, popularity, list_id, user, past))
    return splits


def make_list(columns, cfg, popularity, list_id, user, past) -> RankingList:
    """The list whose candidates are the m rows after `past`, which is its history.

    Args: popularity (items,): how often each item stands in the fit rows.
    """
    m = cfg.list_size
    # In the order of time a candidate's number would tell how late it was rated.
    rows = past.stop + torch.randperm(m, generator=generator("items", list_id)).numpy()
    items, values = columns.item[rows], columns.rating[rows]
    if columns.expected is None:  # real ratings: the retriever shows the popular first
        score = popularity[items]
    else:  # the synthetic world's guesses well: the rating plus noise
        # So the shown order hints at the answer, and a model that copies it has learned nothing of
        # taste: what the demo is about.
        noise = torch.randn(m, generator=generator("shown", list_id)).numpy()
        score = values + cfg.retriever_noise * noise
    shown = np.argsort(-score, kind="stable").tolist()
    history = list(zip(columns.item[past].tolist(), columns.rating[past].tolist()))
    return RankingList(list_id, user, history, items.tolist(), values.tolist(), shown)


def informative_lists(lists: list[RankingList], what: str) -> list[RankingList]:
    """The lists that can tell a good order from a bad one; an error if there is none."""
    kept = [ranking_list for ranking_list in lists if ranking_list.informative]
    check_input(kept, f"no {what} list with two different ratings: users need up to 3 × "
                      f"--list_size + {MIN_HISTORY} ratings, not all the same")
    return kept


# ---- Prompts and batches: lists -> alro.Batch ----------------------------------------------------

def list_prompt(words: PromptWords, ranking_list: RankingList, slots) -> str:
    """The list's prompt in one displayed order."""
    history = [(words.texts[item], rating) for item, rating in ranking_list.history]
    candidates = [words.candidate(item, ranking_list.user) for item in ranking_list.items]
    return build_prompt(history, candidates, slots, words.noun, words.scale)


@dataclasses.dataclass
class Encoder:
    """Turns lists into batches, for one tokenizer; `make_encoder` makes one."""
    tokenizer: object
    words: PromptWords
    list_size: int
    max_length: int    # tokens the model can read, prompt and answer
    multiple: int = 1  # pad to a multiple of so many tokens: few lengths, for torch.compile

    def __post_init__(self):
        self.identifiers = identifier_tokens(self.tokenizer, self.list_size)  # (m,)
        self.level_tokens = rating_tokens(self.tokenizer, self.words.levels)  # (L,), or (0,)
        self.levels = torch.tensor(self.words.levels)[:len(self.level_tokens)]
        self.token_of_level = dict(zip(self.words.levels, self.level_tokens.tolist()))
        self.own_tokens, self.special_tokens = special_tokens(self.tokenizer)

    @functools.cached_property
    def text_tokens(self) -> torch.Tensor:
        """(items,) how many tokens the text of each item has."""
        tokens = tokenise(self.tokenizer, self.words.texts).input_ids
        return torch.tensor(list(map(len, tokens)))

    def about_how_long(self, lists) -> torch.Tensor:
        """(lists,) about how many tokens each list's prompt has: what grouping by length needs."""
        lengths = []
        for ranking_list in lists:
            history = [item for item, _rating in ranking_list.history]
            in_texts = self.text_tokens[history + ranking_list.items].sum().item()
            lengths.append(in_texts + 4 * len(history))  # about four more for a rating's line
        return torch.tensor(lengths)

    def encode(self, lists, slots, orders=None) -> Batch:
        """Tokenise B lists, list b in displayed order slots[b]; the Batch is on the CPU.

        Args: orders (B, m), gold: their identifiers are appended and become targets, and so do the
            ratings of history and candidates; None: prompts only, to rank.
        Raises: AlroError if a prompt is too long (see `fit_histories`) or holds a special token.
        """
        m = self.list_size
        displayed = torch.tensor(slots)  # (B, m)
        slot_of = displayed.argsort(-1)  # (B, m) candidate -> slot

        # Stage 1: prompts, and where in them something is to be predicted.
        prompts = [list_prompt(self.words, *pair) for pair in zip(lists, slots)]
        encoding = tokenise(self.tokenizer, prompts, return_offsets_mapping=True)
        rows = encoding.input_ids
        for ranking_list, tokens in zip(lists, rows):
            check_prompt(self, ranking_list.list_id, tokens)
        line_ends = [line_end_tokens(*pair) for pair in zip(prompts, encoding.offset_mapping)]
        # The last line is "Ranking:"; the m before it are the candidates', by slot, and end in an
        # identifier, which is one token.
        slot_at = torch.tensor([[places[-1] for places in ends[-1 - m:-1]] for ends in line_ends])
        candidate_at = slot_at.gather(-1, slot_of)  # (B, m)
        prompt_tokens = torch.tensor(list(map(len, rows)))  # (B,)
        ratings = torch.tensor([ranking_list.ratings for ranking_list in lists],
                               dtype=torch.float32)  # (B, m)

        # Stage 2: the targets, when training.
        history_at = [[] for _ in lists]
        candidate_rated = torch.full_like(displayed, -100)  # (B, m)
        if orders is None:
            orders = torch.arange(m).expand(len(lists), -1)  # (B, m), any will do
        else:
            answers = self.identifiers[slot_of.gather(-1, orders)].tolist()
            rows = [tokens + answer for tokens, answer in zip(rows, answers)]
            # After the first line, the history's; a rating may have several tokens.
            history_at = [list(itertools.chain(*ends[1:1 + len(ranking_list.history)]))
                          for ranking_list, ends in zip(lists, line_ends)]
            candidate_rated = torch.tensor([
                [self.token_of_level.get(rating, -100) for rating in ranking_list.ratings]
                for ranking_list in lists])  # (B, m)
        history_rated = [[tokens[t] for t in places] for tokens, places in zip(rows, history_at)]

        # Stage 3: one width for all rows. Pads are seen by no token that counts. (Token t is
        # predicted at t - 1: a padding place of 1 is read at 0, and not used.)
        input_ids = pad(rows, 0, self.multiple)  # (B, T)
        history_at = pad(history_at, 1)  # (B, H)
        history_rated = pad(history_rated, -100)  # (B, H)
        return Batch(
            input_ids, prompt_tokens, history_at, history_rated, candidate_at, candidate_rated,
            self.identifiers, self.level_tokens, self.levels, displayed, orders, ratings)


def make_encoder(model, tokenizer, words, list_size, multiple=1) -> Encoder:
    """The encoder for a model and its tokenizer: prompts as long as both can read."""
    return Encoder(tokenizer, words, list_size, context_length(model, tokenizer), multiple)


def fit_histories(lists: list[RankingList], encoder: Encoder, name: str | None = None):
    """The lists, the oldest ratings of a history left out where the model cannot read it whole.

    Warns of how many were shortened, if `name`, "training", say, is given.
    """
    def prompt_of(ranking_list: RankingList) -> str:
        return list_prompt(encoder.words, ranking_list, ranking_list.shown)

    fitting = [fit_history(encoder, ranking_list, prompt_of) for ranking_list in lists]
    n_shortened = sum(one is not whole for one, whole in zip(fitting, lists))
    if name and n_shortened:
        warn(f"{n_shortened} of {len(lists)} {name} lists lost their oldest history: the model "
             f"reads {encoder.max_length} tokens")
    return fitting


# ---- python data.py ------------------------------------------------------------------------------

def example(words: PromptWords, ranking_list: RankingList) -> str:
    """The prompt and answer of one list in two displayed orders."""
    list_id, m = ranking_list.list_id, len(ranking_list.items)
    gold = gold_order(torch.tensor([ranking_list.ratings]), generator(list_id))[0].tolist()
    displays = {"as shown": ranking_list.shown,
                "in a random order": random_slots(m, "eval", list_id, 0)}
    texts = []
    for name, slots in displays.items():
        answer = "".join(IDENTIFIERS[slots.index(candidate)] for candidate in gold)
        prompt = list_prompt(words, ranking_list, slots)
        texts.append(f"\n--- list {list_id}, {name}; [the answer] ---\n{prompt}[{answer}]")
    return "\n".join(texts)


def main(arguments: list[str] | None = None) -> str:
    cfg, = parse_flags(arguments, DataConfig)
    ratings = load(cfg)
    columns, splits = ratings.columns, split(ratings, cfg)
    lists = splits.train + splits.valid + splits.test
    check_input(len(lists) > 0,
                f"no user has --list_size ratings after {MIN_HISTORY} others: no lists")
    lines = [f"{len(columns.users)} users, {len(columns.items)} items, "
             f"{len(columns.rating)} ratings"]
    lines += [f"{what}: {count}" for what, count in columns.counts.items()]
    lines += [f"{name}: {len(part)} lists of {cfg.list_size}"
              for name, part in zip(Splits._fields, splits[:3])]
    text = "\n".join(lines) + "\n" + example(ratings.words, lists[-1])
    print(text)
    return text


if __name__ == "__main__":
    run_script(main)
