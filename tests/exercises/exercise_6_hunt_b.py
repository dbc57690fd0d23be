"""Exercise 6: hunt for silent bugs, B. 60 minutes.

`suspects/hunt_b.py` holds four colleagues' ways from lists to batches. With one of them the training loss falls further
and faster than with ours. Everyone is pleased, until the table comes: the trained model ranks at chance. Some of the
others are wrong in other ways; at least one is right.

Again, write a property that any right batching has and that takes the function as its argument; do not compare with
data.Encoder.encode. (`from classroom import prompts`: prompts(encoder, lists, slots), the tokens of each list's prompt,
is above suspicion.) Ask what the *loss* gets to see, not what the fields say of themselves: SFT, SLL and PSL read the
model's output for answer k at place `prompt_tokens - 1 + k`, and look up the candidates of `order` there, by way of
`slots`. And what does the *model* get to see before it must answer? (What the ratings' losses read is not asked here.)

Models on strings serve well as a probe: `Puppet` below says at every place whatever you like. Which puppet should make
no mistake with a right batching, and some with a wrong one?

What to learn: in teacher forcing the answer stands in the input, one place beside where it must be predicted; off by
one to the one side the model copies what it sees, to the other it answers before the question is complete.

Begin: python tests/exercises/start.py 6       Check: pytest tests/exercises --exercise 6
Your property must hold for every right batching, and for none that is wrong, seen or not, whatever lists it gets.
Expect, when you are done, to be able to say of every wrong suspect what its model learns instead.
"""
import torch


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
    """Raise AssertionError if the model or the losses are fed anything but these lists, in these orders; else None.

    Args: make_batch(encoder, lists, slots, orders) -> alro.Batch, as `Encoder.encode(lists, slots, orders)`;
        the rest is what to call it with: B lists of different lengths, their displayed and their gold orders (B, m).
        len(encoder.tokenizer) is the size of the vocabulary.
    """
    raise NotImplementedError
