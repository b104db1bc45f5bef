"""Did "short" come out short: lengths in words against what was asked for.

Plain numbers for each item or group, so that the caller bootstraps them like any metric.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

Ranges = Mapping[str, tuple[int, int]]
"""Fewest and most words for each length's name, both included: `{"short": (1, 60), ...}`."""


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


def _ordered(ranges: Ranges) -> list[str]:
    return sorted(ranges, key=lambda length: ranges[length])


def _check(ranges: Ranges, lengths: Sequence[str]) -> None:
    for length, (fewest, most) in ranges.items():
        if not 0 <= fewest <= most:
            raise ValueError(f"the range of {length!r} is {fewest} to {most} words")
    if unknown := set(lengths) - set(ranges):
        raise ValueError(f"no range of words for {', '.join(map(repr, sorted(unknown)))}")
