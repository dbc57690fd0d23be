"""The same numbers again: after saving and loading, and in two processes as in one."""
import torch
from helpers import csv_run, in_child

import alro
import data
import evaluate
from plumbing import folder as run_folder
from plumbing.model import load_model, load_run, load_tokenizer


def test_saving_and_loading_changes_nothing(world, straight, tmp_path):
    """A trained model and its tokenizer: bit for bit the same after a round trip. (A checkpoint: resuming equals never
    having stopped, test_train.py.)"""
    model, tokenizer = load_run(str(straight), run_folder.read_run_config(str(straight)))
    model.cpu()
    run_folder.save_model(model, tokenizer, tmp_path)
    again, words = load_model(str(tmp_path / "model")), load_tokenizer(str(tmp_path / "model"))
    names = ["model.safetensors", "tokenizer.json"]
    assert all((tmp_path / "model" / n).read_bytes() == (straight / "model" / n).read_bytes() for n in names)
    cfg = csv_run(world, "-")[0]
    ratings = data.load(cfg)
    lists = data.split(ratings, cfg).test[:5]
    found = []
    for one, vocabulary in ((model, tokenizer), (again, words)):
        encoder = data.make_encoder(one.eval(), vocabulary, ratings.words, 3)
        batch = encoder.encode(lists, [ranking_list.shown for ranking_list in lists], torch.arange(3).expand(5, 3))
        found.append(alro.target_logits(one, batch)[0])
    assert torch.equal(*found)


def test_two_processes_evaluate_to_what_one_does(world, straight):
    """Every list's displayed orders, rankings and metrics are those it has in one process over all lists."""
    cfg = csv_run(world, "-")[0]
    ratings = data.load(cfg)
    lists = data.informative_lists(data.split(ratings, cfg).test, "test")

    def rows(part):
        torch.set_num_threads(1)
        model, tokenizer = load_run(str(straight), run_folder.read_run_config(str(straight)))
        encoder = data.Encoder(tokenizer, ratings.words, 3, 500)
        found = evaluate.score_method(evaluate.ModelRanker(model, encoder, batch_size=7), part, orders=3)
        return [(one.list_id, [slots[i] for slots in found["slots"]],
                 [order[i].tolist() for order in found["predicted"]],
                 {name: float(value[i]) for name, value in found["values"].items()}) for i, one in enumerate(part)]

    children = [in_child(rows, part) for part in (lists[:11], lists[11:])]
    halves = [pipe.recv() for _, pipe in children]
    for process, _ in children:
        process.join()
    assert len(lists) > 20 and halves[0] + halves[1] == rows(lists)
