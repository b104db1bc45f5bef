"""Score predictions that exist, and compare two systems: ROUGE and length, with intervals.

A longer answer and a shorter one are not compared fairly by ROUGE alone, so words are always
reported, and `cap` gives the row in which all systems may write equally much.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.errors import DataError
from featherweight.evaluate.predictions import Joined, Reference, join, read_references
from featherweight.evaluate.rouge import ROUGE, rouge
from featherweight.evaluate.statistics import (
    Difference,
    Estimate,
    Floats,
    Seeds,
    estimates,
    holm,
    over_seeds,
    paired,
)
from featherweight.evaluate.text import words

METRICS = (*ROUGE, "words")


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `words` words an answer, `general` for a question about the whole meeting."""

    words: int
    general: int

    @classmethod
    def parse(cls, text: str) -> "Cap":
        """From `N` or `N:M`. Raises `DataError` for anything else."""
        first, colon, second = text.partition(":")
        numbers = [first, second] if colon else [first, first]
        if not all(re.fullmatch("[1-9][0-9]{0,8}", number) for number in numbers):
            raise DataError(f"{text!r} is no word limit; write N or N:M, such as 60 or 60:110.")
        return cls(int(numbers[0]), int(numbers[1]))

    def __call__(self, text: str, general: bool) -> str:
        """The first white-space words of `text`, all of it where it is short enough."""
        limit = self.general if general else self.words
        parts = words(text)
        return text if len(parts) <= limit else " ".join(parts[:limit])


def measure(
    predictions: Sequence[str], references: Sequence[Reference], cap: Cap | None = None
) -> Floats:
    """Every metric of every answer: [n, len(METRICS)], ROUGE in percent points."""
    if cap is not None:
        predictions = [
            cap(text, reference.general)
            for text, reference in zip(predictions, references, strict=True)
        ]
    lengths = np.array([[len(words(text))] for text in predictions], dtype=np.float64)
    return np.hstack([rouge(predictions, [reference.text for reference in references]), lengths])


@dataclass(frozen=True, slots=True)
class Scores:
    """One system's means; of several runs (seeds) the means over all of them."""

    n: int
    groups: int
    missing: int
    empty: int
    runs: int
    metrics: Mapping[str, Estimate | Seeds]

    def to_json(self) -> dict[str, Any]:
        """Plain data: n, groups, and each metric's mean and interval."""
        metrics = {}
        for name, found in self.metrics.items():
            metrics[name] = {"mean": found.mean, "ci95": list(found.ci95)}
            if isinstance(found, Seeds):
                metrics[name] |= {"seed_sd": found.sd, "runs": list(found.runs)}
        counts = {"n": self.n, "groups": self.groups, "missing": self.missing, "empty": self.empty}
        return {**counts, "metrics": metrics}


def score(
    predictions: Sequence[Path],
    references: Path,
    cap: Cap | None = None,
    allow_missing: bool = False,
    seed: int = 0,
) -> Scores:
    """Score one file, or several runs of one system that differ in their seed only."""
    joined = join(predictions, read_references(references), allow_missing)
    tables = [measure(texts, joined.references, cap) for texts in joined.predictions]
    by_metric = np.stack(tables, axis=-1).transpose(1, 0, 2)  # [metrics, n, runs]
    return summarise(dict(zip(METRICS, by_metric, strict=True)), joined, seed)


def summarise(columns: Mapping[str, Floats], joined: Joined, seed: int = 0) -> Scores:
    """Means of `columns`, name to [n, runs], with intervals."""
    groups = joined.groups
    runs = len(joined.predictions)
    metrics: dict[str, Estimate | Seeds]
    if runs == 1:
        found = estimates(np.hstack(list(columns.values())), groups, seed=seed)
        metrics = dict(zip(columns, found, strict=True))
    else:
        metrics = {name: over_seeds(column, groups, seed=seed) for name, column in columns.items()}
    return Scores(
        n=len(joined.ids),
        groups=len(set(groups)),
        missing=joined.missing,
        empty=sum(joined.empty),
        runs=runs,
        metrics=metrics,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the items that both answered; `p_holm` is adjusted over the metrics."""

    n: int
    groups: int
    missing: int
    empty: tuple[int, int]
    metrics: Mapping[str, Difference]
    p_holm: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain data; `diff` is A - B."""
        metrics = {
            name: {
                "a": found.a,
                "b": found.b,
                "diff": found.diff,
                "ci95": list(found.ci95),
                "p": found.p,
                "p_holm": self.p_holm[name],
            }
            for name, found in self.metrics.items()
        }
        counts = {"n": self.n, "groups": self.groups, "missing": self.missing}
        return {**counts, "empty": list(self.empty), "metrics": metrics}


def compare(
    a: Path,
    b: Path,
    references: Path,
    cap: Cap | None = None,
    allow_missing: bool = False,
    seed: int = 0,
) -> Comparison:
    """A - B for every metric, paired by item and clustered by group."""
    joined = join([a, b], read_references(references), allow_missing)
    first, second = (measure(texts, joined.references, cap) for texts in joined.predictions)
    differences = paired(first, second, joined.groups, seed=seed)
    adjusted = holm([found.p for found in differences])
    return Comparison(
        n=len(joined.ids),
        groups=len(set(joined.groups)),
        missing=joined.missing,
        empty=(joined.empty[0], joined.empty[1]),
        metrics=dict(zip(METRICS, differences, strict=True)),
        p_holm=dict(zip(METRICS, map(float, adjusted), strict=True)),
    )
