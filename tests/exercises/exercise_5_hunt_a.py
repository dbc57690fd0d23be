"""Exercise 5: hunt for silent bugs, A. 45 minutes.

`suspects/hunt_a.py` holds four colleagues' lambda losses. Training with any of them runs through without a warning: the
total loss falls, because SFT is the larger part of it. Some are wrong all the same; at least one is right, though
it gives other numbers than alro.lambda_loss.

Do not look for the lines first. Write down what any lambda loss on *positions* must do, as a test that takes the
function as its argument, and let the test tell. Do not compare with alro.lambda_loss, or with any other implementation:
for a loss of your own you would have none. A property that holds for every input is worth more than many numbers: the
checks also bring losses that you do not see, some of them wrong for certain candidates only. They count how many
suspects you judge rightly and do not say which. To ask one by hand, in Python from the project's root: import sys;
sys.path += [".", "tests/exercises"]; from suspects import hunt_a.

What to learn: to turn "the loss should get smaller when the ranking gets better" into a test; to ask what must *not*
matter; that a falling loss shows that something is being minimised, not what.

Begin: python tests/exercises/start.py 5       Check: pytest tests/exercises --exercise 5
Expect, when you are done, to know which suspects are right without having compared a number.
"""


def check_lambda_loss(lambda_loss) -> None:
    """Raise AssertionError if lambda_loss cannot be a lambda loss on positions; return None otherwise.

    Args: lambda_loss(position (B, m), ratings (B, m), ranks (B, m), sigma=1.0) -> (B,), as alro.lambda_loss; position:
        small = ranked high. It may differ in its weights and in its size.
    Use plain asserts on inputs that you choose, or draw; or define a Hypothesis test in here, and call it.

    Questions that help. The best candidate moves up a little: what must happen, wherever it stood, however bad the list
    was? And the worst? What may the candidates' numbers have to do with it? And the other lists of the batch?
    """
    raise NotImplementedError
