"""Exercise 10: when does it pay? 45 minutes.

A language model reads titles. What is that worth, when an embedding that has seen thousands of ratings knows a film
better than its title does? It depends on how many films nobody has rated yet. In the demo's world that is one flag,
--new_films k: so many of the six candidates of each test list are new. No model is needed to see what *could* be
gained: put numbers on what each kind of ranker can know at best.

What to learn: to ask what a method can know before training it; that NDCG has to be read beside chance and the oracle,
both of which move with the data; that where a method pays is a property of the data, not of the method alone.

Begin: python tests/exercises/start.py 10      Check: pytest tests/exercises --exercise 10
Then try it: print curve([0, 1, 2, 4, 6]). Expect "told the genre" at .98 or more throughout; "embedding at its best" as
good with no new film, .968 with two, and no better than chance, .82, with six; "item mean" from .850 down to chance. By
`pays_from`, titles pay from two new films on. From where for you? Then compare with trained rankers (results/README.md,
"Rivals, and where films are new"). Which of your bounds do the embeddings reach, and which does ALRO?
"""
import evaluate


def world_lists(new_films: int, users: int = 1000) -> evaluate.EvaluationData:
    """All test lists with two different ratings, of the synthetic world of DataConfig(new_films=new_films) with so many
    users. Hint: data.load, data.split, evaluate.choose_lists.
    """
    raise NotImplementedError


def embedding_at_its_best(lists: evaluate.EvaluationData):
    """A ranker that knows all that ratings can tell, and no title.

    Of a film with a rating in lists.fit it knows the user's rating without noise (columns.expected, (users, items), of
    columns = lists.ratings.columns); of any other film nothing but the mean of all ratings in lists.fit.
    Returns: function (lists, slots) -> (N, m). Hint: evaluate.score_ranker.
    """
    raise NotImplementedError


def ndcg_row(new_films: int, users: int = 1000) -> dict[str, float]:
    """Mean NDCG@6 over the test lists: {"chance": ., "item mean": ., "embedding at its best": ., "told the genre": .,
    "oracle": .}, and the retriever's where evaluate.reference_rankers gives it.

    Hints: evaluate.reference_rankers, experiments.rivals.told_the_category, evaluate.ndcg; chance is an exact
    expectation, evaluate.chance_ndcg. None of these looks at the displayed order.
    """
    raise NotImplementedError


def curve(new_films, users: int = 1000) -> dict[int, dict[str, float]]:
    """{k: ndcg_row(k)} for each k in new_films."""
    raise NotImplementedError


def pays_from(rows: dict[int, dict[str, float]], share: float = 0.1) -> int | None:
    """The smallest k from which reading titles pays; None if it never does.

    It pays where "told the genre" leaves the best of those that read none ("item mean", "embedding at its best") behind
    by more than `share` of what there is to gain at all, oracle less chance.
    """
    raise NotImplementedError
