"""Exercise 5: hunt for a silent bug, A. 45 minutes.

`suspects/lambda_loss.py` is a colleague's lambda loss. Training with it runs through without a warning: the total loss
falls, because SFT is the larger part of it and pulls the other way. Something in it is wrong all the same.

Do not look for the line first. Write down what any lambda loss on *positions* must do, as a test that takes the
function as its argument, and let the test tell. Do not compare with alro.lambda_loss, or with any other implementation:
for a loss of your own you would have none. One property that holds for every input is worth more than many numbers.

What to learn: to turn "the loss should get smaller when the ranking gets better" into a test; that a falling loss shows
that something is being minimised, not what.

Check: pytest tests/exercises --exercise 5
Your property must hold for the right loss (and for one that is written quite differently), and must not for the suspect
and for a second wrong one.
"""


def check_lambda_loss(lambda_loss) -> None:
    """Raise AssertionError if lambda_loss cannot be a lambda loss on positions; return None otherwise.

    Args: lambda_loss(position (B, m), ratings (B, m), ranks (B, m), sigma=1.0) -> (B,), as alro.lambda_loss; position:
        small = ranked high.
    Use plain asserts on inputs that you choose, or draw; or define a Hypothesis test in here, and call it.
    """
    raise NotImplementedError
