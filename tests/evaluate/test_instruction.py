"""Lengths in words against what was asked for."""

import random

import pytest

from featherweight.evaluate.instruction import (
    in_order,
    in_range,
)

RANGES = {
    "long": (151, 300),
    "short": (1, 60),
    "medium": (61, 150),
}  # the order written is no order


def test_both_ends_are_in_range() -> None:
    lengths = ["short"] * 4 + ["medium"] * 4 + ["long"] * 2
    words = [0, 1, 60, 61, 60, 61, 150, 151, 300, 301]
    assert in_range(lengths, words, RANGES) == [0, 1, 1, 0, 0, 1, 1, 0, 1, 0]


def test_order_within_groups() -> None:
    rows = [
        ("right", "long", 90),
        ("right", "short", 10),
        ("right", "medium", 50),
        ("wrong", "short", 60),
        ("wrong", "medium", 50),
        ("wrong", "long", 70),
        ("equal", "short", 40),
        ("equal", "long", 40),
        ("no medium", "long", 41),
        ("no medium", "short", 40),
        ("alone", "short", 1),
        ("alone", "short", 2),
    ]
    expected = {"right": 1, "wrong": 0, "equal": 0, "no medium": 1}
    assert in_order(*zip(*rows, strict=True), RANGES) == expected
    assert list(in_order(*zip(*rows, strict=True), RANGES)) == list(expected)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert in_order(*zip(*shuffled, strict=True), RANGES) == expected


def test_several_answers_count_as_their_mean() -> None:
    lengths = ["short", "short", "medium"]
    assert in_order(["m"] * 3, lengths, [10, 80, 50], RANGES) == {"m": 1}
    assert in_order(["m"] * 3, lengths, [10, 100, 50], RANGES) == {"m": 0}
    assert in_order([("m", 1), ("m", 2), ("m", 2)], lengths, [10, 80, 50], RANGES) == {("m", 2): 0}


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="no range of words for 'tiny'"):
        in_range(["tiny"], [3], RANGES)
    with pytest.raises(ValueError, match="'short' is 9 to 8"):
        in_range(["short"], [3], {"short": (9, 8)})
    with pytest.raises(ValueError, match="longer than argument 1"):
        in_order(["m"], ["short", "long"], [3, 4], RANGES)
