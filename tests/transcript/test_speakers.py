"""Who is a speaker, and what only looks like one."""

import pytest

from featherweight.transcript.speakers import (
    choose_labels,
    could_be_name,
    is_name_like,
    split_label,
)

NAMES = [
    "Jane Smith", "Smith, Jane (EXT)", "Dr. María-José O'Neil", "SPEAKER_00", "Speaker 1", "PM",
    "Project Manager", "jsmith", "田中太郎", "Анна Иванова", "محمد علي", "Jane (she/her)",
    "Ludwig van Beethoven", "van der Berg", "J. R. Smith", "Jean-Luc D’Arc", "jane@example.com",
    "Unknown Speaker", "Jane S.", "ACME | Jane", "+1 415-555-0100", "R2-D2", "Tom & Jane", "李",
    "علی\u200cرضا کریمی", "Yuko Date", "Caleb Link",
    "Professor A", "Lynne Neagle AM", "Grad E", "User Interface", "Kirsty Williams AC",
]  # fmt: skip
NOT_NAMES = [
    "Note", "Agenda", "Action items", "Date", "Time", "Attendees", "Topic", "Summary", "Q&A",
    "10", "Plan B", "Step 1", "what we need now is really this thing", "Well. So", "Really?", "",
    "Meeting Title", "Prepared By", "Interview Date",
    "x" * 65, "Slide 12", "—", "3 May, 2026,", "http",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    assert could_be_name(name)
    assert split_label(f"{name}: hello") == (name, "hello")
    assert name in choose_labels([name, name, "Tom Jones"], 3)


@pytest.mark.parametrize("label", NOT_NAMES)
def test_not_names(label: str) -> None:
    assert not could_be_name(label)


@pytest.mark.parametrize(
    "line",
    [
        "10:30 Meeting: rooms",
        "https://example.com",
        "C:\\x",
        "3:1",
        "a::b",
        ": x",
        "no colon",
        "x:y",
    ],
)
def test_lines_without_a_label(line: str) -> None:
    assert split_label(line) is None


def test_full_width_colons_need_no_space() -> None:
    assert split_label("田中太郎：はい。") == ("田中太郎", "はい。")


@pytest.mark.parametrize(
    ("label", "like"),
    [
        ("Jane", True),
        ("let's start", False),
        ("Let's start", False),
        ("jsmith", False),
        ("李", True),
    ],
)
def test_capitals(label: str, like: bool) -> None:
    assert is_name_like(label) is like


def test_sentences_with_colons_are_not_speakers() -> None:
    said = [
        "Let's start",
        "So",
        "The problem",
        "One thing",
        "Okay",
        "so here is",
        "Question",
        "First",
    ]
    assert choose_labels(
        ["Jane Smith"] * 5 + [label for label in said if could_be_name(label)], 12
    ) == {"Jane Smith"}


def test_one_word_needs_company() -> None:
    assert choose_labels(["Paris"], 10) == frozenset()
    assert choose_labels(["Paris", "Paris"], 10) == {"Paris"}
    assert choose_labels(["Jane", "Tom", "Bob"], 4) == {"Jane", "Tom", "Bob"}


def test_question_and_answer_count_where_they_take_turns() -> None:
    assert choose_labels(["Q", "A"] * 3, 6) == {"Q", "A"}
    assert choose_labels(["Q", "A"] * 3, 60) == frozenset()
    assert choose_labels(["Q"] * 3, 3) == frozenset()


def test_roles_and_articles_count_when_they_come_back() -> None:
    assert choose_labels(["Host"], 3) == frozenset()
    assert choose_labels(["Host"] * 3, 3) == {"Host"}
    assert choose_labels(["The Chair"] * 3, 9) == {"The Chair"}
    assert choose_labels(["project manager"] * 3, 9) == {"project manager"}
