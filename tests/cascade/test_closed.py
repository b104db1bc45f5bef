"""What counts as a short answer, and when two answers say the same."""

import pytest

from featherweight.cascade.closed import agreement, label


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("B", "b"),
        (" (b). ", "b"),
        ("B) no", "b"),
        ("b: the whole of it", None),  # too long for a label
        ("Yes.", "yes"),
        ("NO", "no"),
        ("New  York", "new york"),
        ("a dog", "a dog"),  # no letter: nothing sets it off
        ("Yes, because it is", None),
        ("yes\nno", None),
        ("", None),
        ("...", None),
    ],
)
def test_labels(text: str, wanted: str | None) -> None:
    assert label(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("A", "the sun"), ("the Sun", "the sun"), ("The answer is B.", "a star"), ("C", None)],
)
def test_labels_where_the_choices_are_known(text: str, wanted: str | None) -> None:
    assert label(text, ("the Sun", "A star")) == wanted


def test_agreement() -> None:
    assert agreement("B", "b. no") == 1 and agreement("B", "C") == 0
    assert agreement("A", "the answer is (A)", ("x", "y")) == 1
    assert agreement("", "") == 1 and agreement("", "word") == 0
    # 2 common words of 3 and of 5
    assert agreement("The red fox", "the small red dog barked", ()) == pytest.approx(4 / 8)
    assert agreement("a a b c", "a b b d") == pytest.approx(4 / 8)
    # a short answer and a long one have words only
    assert agreement("Yes", "yes it is so") == pytest.approx(2 / 5)
