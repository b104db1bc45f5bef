import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.retrieve import FittedLocator, Locator
from featherweight.retrieve.columns import WindowIndex, context, narrow, ranks, relative, smooth
from featherweight.retrieve.fitted import coefficients

TEXTS = st.lists(st.text(st.sampled_from("abc: \n?é{}"), max_size=30), max_size=12)


@given(TEXTS, st.text(st.sampled_from("abc W?"), max_size=20))
def test_any_texts_have_finite_scores(texts: list[str], query: str) -> None:
    found = FittedLocator().scores(query, texts)
    assert found.shape == (len(texts),) and found.dtype == np.float32
    assert np.isfinite(found).all()


def test_the_place_is_found_with_its_neighbours() -> None:
    texts = [f"Ann: the weather on day {n} was fine\nBob: yes it was" for n in range(60)]
    texts[40] = "Ann: the battery must last\nBob: a battery costs nineteen euros"
    locator: Locator = FittedLocator()
    found = locator.scores("What did the group discuss about the battery?", texts)
    assert found.argmax() == 40
    # a span is one run: beside the place is likelier than far from it
    assert min(found[39], found[41]) > np.median(found)


def test_a_named_speaker_is_preferred() -> None:
    texts = [f"{'Marketing' if n == 30 else 'Ann'}: the colour is nice" for n in range(60)]
    found = FittedLocator().scores("What did Marketing think about the colour?", texts)
    assert found.argmax() == 30


def test_weights_fit_the_columns() -> None:
    index, fitted = WindowIndex(["Ann: price", "Bob: weather"]), coefficients()
    first = index.columns("the price", fitted["rarity"])
    assert set(fitted["first"]) == {"", *first}
    assert set(fitted["second"]) == {"", *first, *context(np.array([0.1, 0.9]))}
    assert all(0 <= value <= 1 for value in fitted["rarity"].values())


def test_the_same_texts_give_the_same_scores_in_any_order_of_questions() -> None:
    texts = [f"Ann: point {n} about {'price' if n % 7 == 0 else 'time'}" for n in range(30)]
    locator = FittedLocator()
    alone = FittedLocator().scores("price", texts)
    locator.scores("time", texts)
    locator.scores("price", texts[:5])
    np.testing.assert_array_equal(locator.scores("price", texts), alone)


def test_its_name_tells_its_weights() -> None:
    name = FittedLocator().name
    assert name.startswith("fitted:") and len(name) == len("fitted:") + 64


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("What did A think of B when discussing C?", "What did A think of B "),
        ("When is the next meeting?", "When is the next meeting?"),
        ("Why did A agree in the discussion of C?", "Why did A agree "),
        ("Summarize C.", "Summarize C."),
    ],
)
def test_a_wider_topic_is_cut_off(query: str, asked: str) -> None:
    assert narrow(query) == asked


def test_smoothing_is_a_mean() -> None:
    np.testing.assert_allclose(smooth(np.ones(5), 2.0), np.ones(5))
    spread = smooth(np.eye(9)[4], 1.0)
    np.testing.assert_allclose(spread, spread[::-1])
    assert spread.argmax() == 4
    assert relative(np.array([0.0, 2.0, 4.0])).tolist() == [0, 0.5, 1]
    assert ranks(np.array([1.0, 3.0, 3.0])).tolist() == [2, 0, 1]
