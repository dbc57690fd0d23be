"""How much time does packing save? One training step (forward, backward) with two rows per list, and with one.

    python tests/exercises/time_packed.py            the solution of exercise 7; --mine: your own
    python tests/exercises/time_packed.py --steps 3  fewer steps: the middle one of so many is taken
"""
import argparse
import statistics
import time

import torch
import transformers
from classroom import displays, gold, load, run_exercise, tiny_model, word_tokenizer

import alro
import data


def step_times(ways, model, batch, steps: int) -> list[float]:
    """Seconds of a step with SFT and PSL, for each way to get logits: the middle one of `steps`, the first not counted.

    The ways take turns, so that whatever else the machine does slows them alike.
    """
    times = [[] for _ in ways]
    for _ in range(steps + 1):
        for logits, taken in zip(ways, times):
            start = time.perf_counter()
            answer_logits, _, _ = logits(model, batch)  # (2 B, m, V)
            first, second = alro.candidate_log_probs(answer_logits, batch).chunk(2)  # (B, m, m) each
            loss = alro.sft_loss(first, batch.order[:len(first)]) + alro.permutation_loss(
                first.log_softmax(-1), second.log_softmax(-1))
            loss.mean().backward()
            model.zero_grad()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in times]


def setting(m: int, history: int, words: int, lists: int, shape: dict | None):
    """(model, batch) of `lists` synthetic lists in two displayed orders; every title made `words` words long."""
    cfg = data.DataConfig(list_size=m, history_size=history, stride=1)
    ratings = data.load(cfg, n_users=200)
    said = ratings.words._replace(texts=[title + " again" * (words - 2) for title in ratings.words.texts])
    splits = data.split(ratings, cfg)
    chosen = [one for one in splits.train + splits.test if len(one.history) == history][:lists]
    tokenizer = word_tokenizer(said)
    torch.manual_seed(0)
    model = tiny_model(len(tokenizer)) if shape is None else transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=len(tokenizer), num_attention_heads=4, num_key_value_heads=4, bos_token_id=None, eos_token_id=None,
        **shape))
    encoder = data.Encoder(tokenizer, said, m, 10 ** 6)
    order = gold(chosen)
    batch = encoder.encode(chosen + chosen, displays("one", chosen) + displays("two", chosen),
                           torch.cat([order, order]))
    return model, batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mine", action="store_true", help="time your mine/exercise_7_packed.py, not the solution")
    parser.add_argument("--steps", type=int, default=11, help="timed steps of each")
    options = parser.parse_args()
    packed = load(7, "mine" if options.mine else "solution").packed_target_logits
    wide = dict(hidden_size=256, intermediate_size=704, num_hidden_layers=4)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; tokens of a list and seconds of a step:")
    for name, *sizes in (("the demo: tiny, m 6, history 8, 32 lists", 6, 8, 2, 32, None),
                         ("4 layers of width 256, m 10, history 20, 4 lists", 10, 20, 10, 4, wide)):
        model, batch = setting(*sizes)
        read = []  # (rows, tokens) of each forward pass
        hook = model.model.layers[0].register_forward_hook(lambda _, seen, __, read=read: read.append(seen[0].shape))
        one, both = (logits(model, batch)[0] for logits in (alro.target_logits, packed))
        assert torch.allclose(one, both, atol=1e-4), "not the same numbers: no time is worth that"
        hook.remove()
        before, after = 2 * read[0][1], read[1][1]
        apart, together = step_times((alro.target_logits, packed), model, batch, options.steps)
        print(f"{name}: two rows {before} tokens {apart:.3f} s; packed {after} tokens {together:.3f} s; "
              f"ratio of tokens {after / before:.2f}, of time {together / apart:.2f}")


if __name__ == "__main__":
    run_exercise(main)
