"""The synthetic world of the demo: ratings that need no file."""
import numpy as np

from plumbing.files import Columns

GENRES = ["Western", "Musical"]  # the last word of a title
FILMS = """Acre Affair Anchor Arrow Autumn Banner Beacon Bell Border Bridge Candle Canyon Castle
    Circle Cloud Coast Crown Dawn Diary Door Dream Echo Ember Empire Exile Feather Field Fire Flight
    Forest Garden Gate Ghost Harbor Honor Horizon Island Journey Key Ladder Letter Lesson Mask
    Mirror Mountain Night Oath Ocean""".split()
NEW_FILMS = 12  # the last so many of them: nobody has rated these before the test lists


def permuted_rows(rng: np.random.Generator, first: int, end: int, rows: int) -> np.ndarray:
    """(rows, end - first): in each row the numbers first, ..., end - 1 in an order of its own."""
    numbers = np.tile(np.arange(first, end), (rows, 1))
    return rng.permuted(numbers, axis=1)


def synthetic(list_size: int, new_films: int, n_users: int) -> Columns:
    """A world that needs no file: rating = 3 + taste[user, film] + quality[film] + noise, rounded
    into 1..5.

    The last word of a title tells the genre; each user loves one of the two (taste +1) and not the
    other (-1). The quality of old films is spread evenly over -1/2..1/2. The last `new_films`
    ratings of a user are of *new* films: so many are in each test list, and none anywhere else. A
    new film has quality 0, so `expected`, the oracle's rating without noise, holds nothing about it
    that its title does not tell. What each kind of rival can know:
        item mean       the quality of the old films;
        embeddings      that, and the user's taste for the old films; of a new film nothing;
        title readers   that, and the user's taste for a new film: all that `expected` holds.
    """
    n_films = len(FILMS)
    n_old = n_films - NEW_FILMS
    per_user = min(3 * list_size + 14, n_old)
    rng = np.random.default_rng(0)

    # Who likes what.
    genre = np.arange(n_films) % len(GENRES)  # (films,)
    titles = [f"{film} {GENRES[kind]}" for film, kind in zip(FILMS, genre)]
    quality = np.zeros(n_films)
    quality[:n_old] = rng.permutation(np.linspace(-0.5, 0.5, n_old))
    loved = rng.integers(0, len(GENRES), (n_users, 1))  # the genre that each user loves
    taste = np.where(genre == loved, 1, -1)  # (users, films)
    expected = 3 + taste + quality

    # Who rates what, in the order of time: old films, then the new ones.
    old = permuted_rows(rng, 0, n_old, n_users)
    new = permuted_rows(rng, n_old, n_films, n_users)
    n_first = per_user - new_films
    item = np.concatenate([old[:, :n_first], new[:, :new_films]], axis=1)  # (users, per_user)
    noise = rng.normal(0, 0.3, item.shape)
    exact = np.take_along_axis(expected, item, axis=1) + noise
    rating = np.clip(np.rint(exact), 1, 5)

    # As columns; a film that nobody has rated is left out (where no list holds a new one).
    user, time = np.indices(item.shape)
    rated, item = np.unique(item, return_inverse=True)
    users = [str(number) for number in range(n_users)]
    items = [str(number) for number in rated]
    names = [titles[film] for film in rated]
    categories = [""] * len(rated)  # the title tells
    counts = {"ratings read": rating.size}
    user, item, rating, time = user.ravel(), item.ravel(), rating.ravel(), time.ravel().astype(float)
    return Columns(user, item, rating, time, users, items, names, categories, "movie", counts,
                   expected[:, rated])
