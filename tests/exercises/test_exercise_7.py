"""Checks of exercise 7: the packed row gives what two rows give, and is shorter."""
import pytest
import torch
import transformers
from classroom import TOKENIZER, check, check_close, displays, encoder, gold, tiny_model, uneven_lists

import alro

NAME = "packed_target_logits"


def two_orders(first="one", second="two") -> alro.Batch:
    """2 B rows: B lists of unequal lengths, then the same in another displayed order."""
    lists = uneven_lists()
    order = gold(lists)
    return encoder().encode(lists + lists, displays(first, lists) + displays(second, lists), torch.cat([order, order]))


def answers(logits, model, batch) -> torch.Tensor:
    """(2 B, m, V) of a function like alro.target_logits."""
    return logits(model, batch)[0]


def llama(**more):
    """tiny_model, or (with arguments) one of another shape: fewer key heads, another family."""
    torch.manual_seed(0)
    if not more:
        return tiny_model(len(TOKENIZER))
    config = transformers.AutoConfig.for_model(
        **more, vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=None, eos_token_id=None)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("more", [{}, {"model_type": "llama"}, {"model_type": "qwen2"}])
def test_the_same_logits_and_log_probs_as_two_rows(work, more):
    model, batch = llama(**more).eval(), two_orders()
    packed, apart = work.packed_target_logits(model, batch), alro.target_logits(model, batch)
    check(packed[0].dtype == packed[1].dtype == torch.float32, NAME, "float32", ".float()", packed[0].dtype)
    check_close(packed[0], apart[0], NAME, "the answer's logits as alro.target_logits gives them",
                "position ids start again after the shared part; the mask; the order of the 2 B rows", atol=1e-5)
    real = (batch.history_rated != -100).unsqueeze(-1)  # what is read at a place that is padding does not matter
    check_close(packed[1] * real, apart[1] * real, NAME, "the history's logits as alro.target_logits gives them",
                "places in the shared part stay where they are, in both rows", atol=1e-5)
    check_close(packed[2], apart[2], NAME, "the candidates' logits as alro.target_logits gives them",
                "read where batch.candidate_at says, moved along as the answer is", atol=1e-5)
    check_close(alro.candidate_log_probs(packed[0], batch), alro.candidate_log_probs(apart[0], batch), NAME,
                "the same log_probs", "as for the logits", atol=1e-5)


def test_the_same_gradients(work):
    model, batch, found = llama(), two_orders(), []
    for logits in (alro.target_logits, work.packed_target_logits):
        answer_logits, history_logits, _ = logits(model, batch)
        y = alro.candidate_log_probs(answer_logits, batch).log_softmax(-1).chunk(2)
        alro.permutation_loss(*y).sum().backward(retain_graph=True)
        alro.rating_loss(history_logits, batch.history_rated).sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    for apart, packed in zip(*found):
        check_close(packed, apart, NAME, "the gradients of two rows", "is something detached?",
                    atol=1e-5 * max(1, apart.abs().max().item()))


def test_one_display_shown_twice_and_pads_that_agree(work):
    """Equal rows share everything, the answer included, and so do their pads, which are nothing to share."""
    model, batch = llama().eval(), two_orders(first="one", second="one")
    batch = batch._replace(input_ids=torch.nn.functional.pad(batch.input_ids, (0, 40)))
    packed, apart = answers(work.packed_target_logits, model, batch), answers(alro.target_logits, model, batch)
    check_close(packed, apart, NAME, "the logits of two rows that are equal", "what is shared ends before the pads",
                atol=1e-5)


def test_the_shared_part_is_read_once(work):
    model, batch, read = llama(), two_orders(), []
    model.model.layers[0].register_forward_hook(lambda layer, inputs, output: read.append(inputs[0].shape[:2]))
    work.packed_target_logits(model, batch)
    (rows, length), = read
    one, two = batch.input_ids.chunk(2)
    shared = (one == two).long().cumprod(-1).sum(-1).min().item()  # in every list: the sentence, and its history
    check(rows == len(batch.input_ids) // 2, NAME, f"{len(batch.input_ids) // 2} rows for the model", "one per list",
          rows)
    check(shared > 10 and length <= 2 * batch.input_ids.shape[1] - shared, NAME,
          "the shared part read once", "is it in the row twice?",
          f"{length} tokens")


def test_parts_do_not_see_each_other(work):
    """Another second row must leave the first one's outputs as they were."""
    model, batch, other = llama().eval(), two_orders(second="two"), two_orders(second="three")
    one, two = (answers(work.packed_target_logits, model, rows).chunk(2) for rows in (batch, other))
    check_close(one[0], two[0], NAME, "the first row's logits, whatever the second row holds",
                "its key is shared, or of the query's own part", atol=1e-5)
    check(not torch.allclose(one[1], two[1], atol=1e-2), NAME, "other logits for another second row", "is it read?")
