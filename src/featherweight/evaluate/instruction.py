"""Did "short" come out short: lengths in words against what was asked for.

Plain numbers for each item or group, so that the caller bootstraps them like any metric.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

Ranges = Mapping[str, tuple[int, int]]
"""Fewest and most words for each length's name, both included: `{"short": (1, 60), ...}`."""


@dataclass(frozen=True, slots=True)
class Words:
    """How many words the answers of one length have."""

    items: int
    mean: float
    median: float
    fewest: int
    most: int


def count_words(text: str) -> int:
    """Pieces between white space that hold a letter or digit: a list's dashes are no words."""
    return sum(any(letter.isalnum() for letter in piece) for piece in text.split())


def in_range(lengths: Sequence[str], words: Sequence[int], ranges: Ranges) -> list[int]:
    """1 for each answer whose words lie in the range of the length that was wanted, else 0: [n].

    Raises `ValueError` for a length that has no range.
    """
    _check(ranges, lengths)
    return [
        int(ranges[length][0] <= count <= ranges[length][1])
        for length, count in zip(lengths, words, strict=True)
    ]


def in_order(
    groups: Sequence[Hashable], lengths: Sequence[str], words: Sequence[int], ranges: Ranges
) -> dict[Hashable, int]:
    """1 for each group whose lengths come out in order, else 0: short < medium < long in words.

    Only groups with at least two lengths are in the result, in order of appearance. Several
    answers of one length count as their mean, so name groups as finely as they should be compared
    (meeting and query). Equal is not in order. Raises `ValueError` for a length without range.
    """
    _check(ranges, lengths)
    by_group: dict[Hashable, dict[str, list[int]]] = {}
    for group, length, count in zip(groups, lengths, words, strict=True):
        by_group.setdefault(group, {}).setdefault(length, []).append(count)
    result = {}
    for group, counts in by_group.items():
        means = [fmean(counts[length]) for length in _ordered(ranges) if length in counts]
        if len(means) > 1:
            result[group] = int(all(a < b for a, b in pairwise(means)))
    return result


def words_by_length(
    lengths: Sequence[str], words: Sequence[int], ranges: Ranges
) -> dict[str, Words]:
    """How many words the answers of each length have, shortest length first."""
    _check(ranges, lengths)
    counts: dict[str, list[int]] = defaultdict(list)
    for length, count in zip(lengths, words, strict=True):
        counts[length].append(count)
    return {
        length: Words(len(of), fmean(of), median(of), min(of), max(of))
        for length in _ordered(ranges)
        if (of := counts[length])
    }


def _ordered(ranges: Ranges) -> list[str]:
    return sorted(ranges, key=lambda length: ranges[length])


def _check(ranges: Ranges, lengths: Sequence[str]) -> None:
    for length, (fewest, most) in ranges.items():
        if not 0 <= fewest <= most:
            raise ValueError(f"the range of {length!r} is {fewest} to {most} words")
    if unknown := set(lengths) - set(ranges):
        raise ValueError(f"no range of words for {', '.join(map(repr, sorted(unknown)))}")
