"""Sentences and words for the metrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.evaluate.text import count_words, sentences, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t ", []),
        ("No full stop", ["No full stop"]),
        ("One. Two!  Three?\nFour", ["One.", "Two!", "Three?", "Four"]),
        ("A line\nbreak is no end.", ["A line break is no end."]),
        ("It cost 3.50 euros. Done.", ["It cost 3.50 euros.", "Done."]),
        ("Really?! Yes...", ["Really?!", "Yes..."]),
        ("Größe 🎉! Ça va?", ["Größe 🎉!", "Ça va?"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text(alphabet="ab.!? \n\u00a0\u2003é", max_size=60))
def test_nothing_is_lost_and_line_breaks_do_not_matter(text: str) -> None:
    found = sentences(text)
    assert " ".join(found).split() == text.split()
    assert all(found)
    assert sentences(" ".join(text.split())) == found
    assert [again for one in found for again in sentences(one)] == found


def test_words() -> None:
    assert words(" We  agreed,\nfinally. ") == ["We", "agreed,", "finally."]


def test_words_are_what_people_count() -> None:
    assert count_words("") == count_words(" \n - * –") == 0
    assert count_words("- The group's budget: 25 €.\n- Remote-control, é") == 6
