"""Datasets in every layout, written to disk and read again, and tokenizers of every kind."""
import itertools
import random
import re

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import alro
import data
from data import DataConfig
from plumbing.model import word_tokenizer


# ---- Files -----------------------------------------------------------------------------------------------------------

LAYOUTS = {  # layout -> (separator, ratings file, its header, titles file, its header, encoding of the titles)
    "ml-100k": ("\t", "u.data", "", "u.item", "", "latin-1"),
    "ml-1m": ("::", "ratings.dat", "", "movies.dat", "", "latin-1"),
    "ml-latest-small": (",", "ratings.csv", "userId,movieId,rating,timestamp",
                        "movies.csv", "movieId,title,genres", "utf-8"),
    "recbole": ("\t", "x.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float",
                "x.item", "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq", "utf-8"),
    "csv": (",", "ratings.csv", "user,item,rating,timestamp", "items.csv", "item,title", "utf-8")}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
TITLES = {"1": "Heat (1995)", "2": "Usual Suspects, The (1995)", "10": 'Amélie "of" Montmartre'}
LINES = [("7", "1", "4", "100"), ("7", "10", "3.5", "50"), ("11", "2", "5", "7"), ("7", "2", "0.5", "200")]


def write(folder, layout, lines=LINES, titles=TITLES, end="\n", mark=b""):
    """Write (user, item, rating, timestamp) lines and {item: title} as the layout has them."""
    def title_line(item, title):
        if layout == "recbole":
            name, year = re.fullmatch(r"(?s)(.*?)(?: \((\d{4})\))?", title).groups()
            return f"{item}\t{name}\t{year or ''}\tDrama"
        quoted = f'{item},"' + title.replace('"', '""') + '"'
        return {"ml-100k": "|".join([item, title] + ["0"] * 22), "ml-1m": f"{item}::{title}::Drama",
                "ml-latest-small": quoted + ",Drama", "csv": quoted}[layout]

    separator, ratings_file, ratings_header, titles_file, titles_header, encoding = LAYOUTS[layout]
    names = list(itertools.starmap(title_line, dict(titles).items()))
    for file, header, body, codec in ((ratings_file, ratings_header, map(separator.join, lines), "utf-8"),
                                      (titles_file, titles_header, names, encoding)):
        text = "".join(line + end for line in [header] * bool(header) + list(body))
        (folder / file).write_bytes(mark * (codec == "utf-8") + text.encode(codec))
    return folder


def read(folder, layout, **options):
    return data.load(DataConfig(dataset=layout, data_path=str(folder), **options))


def rows_of(ratings):
    """A dataset as text again: {(user id, item id, rating, timestamp)}."""
    columns = ratings.columns
    return {(columns.users[u], columns.items[i], float(r), float(t))
            for u, i, r, t in zip(columns.user, columns.item, columns.rating, columns.timestamp)}


def many(users=12, items=40, seed=0, least=5, most=40):
    """Lines of users with least..most ratings each, half stars and ties in time included."""
    rng = random.Random(seed)
    return [(str(u), str(i), str(rng.randint(1, 10) / 2), str(rng.randint(0, 30)))
            for u in range(users) for i in rng.sample(range(items), rng.randint(least, most))]


def replace_line(path, number, text):
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[:number - 1] + [text] + lines[number:]))


# ---- Tokenizers ------------------------------------------------------------------------------------------------------

def byte_level(digits=False):
    """A byte-level BPE tokenizer with a special token <|im_end|>, as chat models have; digits: one token each."""
    tokenizer = Tokenizer(models.BPE())
    splitters = [pre_tokenizers.Digits(individual_digits=True)] * digits + [pre_tokenizers.ByteLevel(False)]
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Sequence(splitters), decoders.ByteLevel()
    texts = ["Ranking:" + "".join(alro.IDENTIFIERS), "Heat (1995): 4\nBabe (1995) -> A\nRank these movies"] * 20
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def word_level(titles):
    """The tiny model's tokenizer for a catalogue of these titles, with ratings in half stars."""
    levels = [level / 2 for level in range(1, 11)]
    return word_tokenizer(data.PromptWords(list(map(alro.clean_text, titles)), "movie", (0.5, 5.0), levels))


def encoder_of(tokenizer, titles, m, max_length=100_000, levels=(1.0, 2.0, 3.0, 4.0, 5.0)):
    words = data.PromptWords(titles, "movie", (0.5, 5.0), list(levels))
    return data.Encoder(tokenizer, words, m, max_length)


def sentencepiece(kind: str) -> PreTrainedTokenizerFast:
    """As SentencePiece's converted to tokenizers: "▁" for a space, one before the text, unknown characters as bytes.
    unigram: Unigram with Metaspace; llama: BPE with Llama 2's normalizer, and a token that begins every text."""
    byte = [f"<0x{i:02X}>" for i in range(256)]
    letters = ["▁" + chr(65 + i) for i in range(26)]
    pieces = [*map(chr, range(33, 127)), "▁", *letters, "->", "▁->", "Ran", "king", "Ranking"]
    if kind == "unigram":
        scores = [(piece, -12.0 + 4 * len(piece)) for piece in pieces]
        vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((name, -30.0) for name in byte), *scores]
        tokenizer = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first")
    else:
        merges = [("▁", letter[1]) for letter in letters] + [("-", ">"), ("▁", "->")]
        words = ["<unk>", "<s>", "</s>", *byte, *pieces]
        tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="<unk>",
                                         fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def tokenizer_of(kind: str, ratings):
    return {"word": lambda: word_tokenizer(ratings.words), "byte": byte_level,
            "byte, digits": lambda: byte_level(digits=True)}.get(kind, lambda: sentencepiece(kind))()
