"""From what a model writes to separate statements."""

import pytest

from featherweight.summarize.points import (
    circular,
    dangling,
    distinct,
    finished_sentence,
    listed_points,
)


@pytest.mark.parametrize(
    "text",
    [
        "- The price is 19 euros.\n- Tobias fixes the map.",
        "* The price is 19 euros.\n* Tobias fixes the map.",
        "• The price is 19 euros.\n\n• Tobias fixes the map.\n",
        "1. The price is 19 euros.\n2. Tobias fixes the map.",
        "1) The price is 19 euros.\n2) Tobias fixes the map.",
        "(1) The price is 19 euros.\n(2) Tobias fixes the map.",
        "  – The price is 19 euros.\n  – Tobias fixes the map.",
        "- **The price is 19 euros.**\n- `Tobias` fixes the map.",
        "Here are the points:\n\n- The price is 19 euros.\n- Tobias fixes the map.\n\nMore?",
        "The price is 19 euros. Tobias fixes the map.",
        "The price is 19 euros.\nTobias fixes the map.",
        "## The price is 19 euros.\n__Tobias__ fixes the map.",
        "- The price is 19 euros.\n- ...\n-\n- Tobias fixes the map.\n- ***",
        "- The price is 19 euros.\r\n- Tobias fixes the map.\r\n",
    ],
)
def test_forms_of_a_list(text: str) -> None:
    assert listed_points(text, cut_off=False) == ["The price is 19 euros.", "Tobias fixes the map."]


@pytest.mark.parametrize("text", ["", " \n ", "...", "- \n- ", "**"])
def test_nothing(text: str) -> None:
    assert listed_points(text, cut_off=False) == []


def test_a_number_that_opens_a_sentence_is_no_bullet() -> None:
    assert listed_points("19 euros is the price. 3.5 was too low.", False) == [
        "19 euros is the price.",
        "3.5 was too low.",
    ]


def test_a_last_point_without_its_end_is_dropped() -> None:
    text = "- The price is 19 euros.\n- Tobias fixes the"
    assert listed_points(text, cut_off=True) == ["The price is 19 euros."]
    assert listed_points(text, cut_off=False) == ["The price is 19 euros.", "Tobias fixes the"]
    assert listed_points("- Tobias fixes the", cut_off=True) == ["Tobias fixes the"]
    assert listed_points("- One thing.\n- 'Two things.'", cut_off=True)[-1] == "'Two things.'"


def test_near_duplicates() -> None:
    assert distinct(
        [
            "The launch is on 16 June.",
            "On 16 June is the launch.",
            "The price is 19 euros a year.",
            "The price of a year is 19 euros, everybody agreed.",
        ]
    ) == ["The launch is on 16 June.", "The price is 19 euros a year."]


@pytest.mark.parametrize(
    ("beginning", "ending", "cut_off", "expected"),
    [
        (
            "They decided",
            " to charge 19 euros for a year. They also",
            True,
            "They decided to charge 19 euros for a year.",
        ),
        (
            "They decided",
            " to charge 19 euros for a year",
            False,
            "They decided to charge 19 euros for a year.",
        ),
        ("They decided", " to charge 19 euros for a year", True, None),
        ("They decided", "", False, None),
        ("They decided", "  ", False, None),
        (
            "They discussed",
            " the price of the app and the price of the app and the price of the app.",
            False,
            None,
        ),
        ("They discussed", " map map map map map map map.", False, None),
    ],
)
def test_finished_sentences(
    beginning: str, ending: str, cut_off: bool, expected: str | None
) -> None:
    assert finished_sentence(beginning, ending, cut_off) == expected


def test_dangling() -> None:
    assert dangling("He would send the draft on Friday.")
    assert dangling("It takes eleven seconds.")
    assert dangling("They would be working with the councils.")
    assert not dangling("They agreed to wait for the councils.")
    assert not dangling("They also discussed the councils.")
    assert not dangling("The councils said that they would wait.")
    assert not dangling("…")


def test_circular() -> None:
    assert circular("We will go and we will go and we will go.")
    assert not circular("The radar layer loads only the tiles that are visible.")
