"""Solution 6: two puppets, and what the model has read before it must answer.

suspect_1 reads the output at the places of the answer itself. The model sees the token there and need only repeat it:
the loss goes to 0, and at inference, where nothing stands there yet, it has learned nothing. suspect_2 counts from the
end of the padded row: right for the longest list of a batch alone. suspect_3 takes a candidate's number for its slot:
the row holds the letters of other films. suspect_4 is right.
"""
import torch
from classroom import prompts

import alro


class Puppet(torch.nn.Module):
    """A model that gives token say(input_ids)[b, t] a logit of 50 at place t of row b, and every other token 0.

    Args: say: function (B, T) long -> (B, T) long; words: size of the vocabulary.
    Use: alro.candidate_log_probs(alro.target_logits(Puppet(...), batch)[0], batch) -> (B, m, m).
    """

    def __init__(self, say, words: int):
        super().__init__()
        self.head = torch.nn.Linear(words, words, bias=False)
        torch.nn.init.eye_(self.head.weight)  # so that hidden states are logits
        self.say, self.words, self.base_model = say, words, self.read

    def get_output_embeddings(self):
        return self.head

    def read(self, input_ids, **_):
        class Output:
            last_hidden_state = 50 * torch.nn.functional.one_hot(self.say(input_ids), self.words).float()  # (B, T, V)
        return Output


def check_batching(make_batch, encoder, lists, slots, orders) -> None:
    batch, words = make_batch(encoder, lists, slots, orders), len(encoder.tokenizer)
    # What the losses look candidates up by is what was asked for.
    assert torch.equal(batch.slots, torch.as_tensor(slots)) and torch.equal(batch.order, orders)
    assert batch.ratings.tolist() == [one.ratings for one in lists]
    # Before it must answer, the model has read each list's prompt, in its displayed order, and nothing else: no
    # neighbour's, and no answer.
    for row, length, prompt in zip(batch.input_ids, batch.prompt_tokens, prompts(encoder, lists, slots)):
        assert row[:length].tolist() == prompt

    def loss(say):  # (B,)
        answer_logits, _, _ = alro.target_logits(Puppet(say, words), batch)
        return alro.sft_loss(alro.candidate_log_probs(answer_logits, batch), batch.order)

    # Who knows the next token at every place makes no mistake, in any row, whatever its padding.
    assert (loss(lambda ids: ids.roll(-1, dims=1)) < 1e-3).all()
    # Who repeats the token just read is always wrong: no identifier follows itself, and the first follows a colon. (In
    # nats: a logit of 50 on a wrong token.) The lines above would do; this one names the harm.
    assert (loss(lambda ids: ids) > 40).all()
