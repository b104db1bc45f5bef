"""Score predictions that exist, and compare two systems: ROUGE and length, with intervals.

A longer answer and a shorter one are not compared fairly by ROUGE alone, so words are always
reported, and `cap` gives the row in which all systems may write equally much.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.engines.types import Engine
from featherweight.errors import DataError
from featherweight.evaluate.judge import PROMPT_SHA256, JudgeSummary, Pair, judge, judge_summary
from featherweight.evaluate.predictions import (
    IDS,
    Joined,
    Reference,
    join,
    read_references,
    repeated,
)
from featherweight.evaluate.rouge import ROUGE, rouge
from featherweight.evaluate.semantic import Semantic, semantic
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
from featherweight.rows import Row, read_rows

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


def measure(predictions: Sequence[str], references: Sequence[Reference]) -> Floats:
    """Every metric of every answer: [n, len(METRICS)], ROUGE in percent points."""
    lengths = np.array([[len(words(text))] for text in predictions], dtype=np.float64)
    return np.hstack([rouge(predictions, [reference.text for reference in references]), lengths])


@dataclass(frozen=True, slots=True)
class Scores:
    """One system's means; of several runs (seeds) the means over all of them.

    `not_measured` names metrics with the reason; `measured` counts the items of a metric that not
    every item has (an empty answer has no faithfulness); `notes` are signatures and warnings.
    """

    n: int
    groups: int
    missing: int
    empty: int
    runs: int
    metrics: Mapping[str, Estimate | Seeds]
    measured: Mapping[str, int]
    not_measured: Mapping[str, str]
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Plain data: n, groups, and each metric's mean and interval."""
        metrics: dict[str, Any] = {}
        for name, found in self.metrics.items():
            metrics[name] = {"mean": found.mean, "ci95": list(found.ci95)}
            if name in self.measured:
                metrics[name]["n"] = self.measured[name]
            if isinstance(found, Seeds):
                metrics[name] |= {"seed_sd": found.sd, "runs": list(found.runs)}
        counts = {"n": self.n, "groups": self.groups, "missing": self.missing, "empty": self.empty}
        more = {"not_measured": dict(self.not_measured), "notes": list(self.notes)}
        return {**counts, "metrics": metrics, **more}


def score(
    predictions: Sequence[Path],
    references: Path,
    cap: Cap | None = None,
    allow_missing: bool = False,
    seed: int = 0,
    wanted: Semantic | None = None,
) -> Scores:
    """Score one file, or several runs of one system that differ in their seed only.

    `wanted` adds what needs encoders or sources. Raises `DataError` for files that do not fit.
    """
    if len({path.resolve() for path in predictions}) < len(predictions):
        raise DataError("one file of predictions is named twice; name each seed's run once.")
    joined = join(predictions, read_references(references), allow_missing)
    texts = [_capped(run, joined.references, cap) for run in joined.predictions]
    tables = np.stack([measure(run, joined.references) for run in texts], axis=-1)
    columns = dict(zip(METRICS, tables.transpose(1, 0, 2), strict=True))  # name to [n, runs]
    more = [semantic(joined, run, wanted or Semantic()) for run in texts]
    for name in more[0].columns:
        values = [run.columns[name] for run in more]
        columns[name] = np.array(values, dtype=np.float64).T  # None becomes NaN
    found, measured = _means(columns, joined.groups, seed)
    return Scores(
        n=len(joined.ids),
        groups=len(set(joined.groups)),
        missing=joined.missing,
        empty=sum(joined.empty),
        runs=len(texts),
        metrics=found,
        measured=measured,
        not_measured=more[0].not_measured,
        notes=list(dict.fromkeys(note for run in more for note in run.notes)),
    )


def _means(
    columns: Mapping[str, Floats], groups: Sequence[str], seed: int
) -> tuple[dict[str, Estimate | Seeds], dict[str, int]]:
    """Each column's mean over the items that have it in every run, and how many where not all."""
    found: dict[str, Estimate | Seeds] = {}
    measured: dict[str, int] = {}
    for name, column in columns.items():
        there = [bool(row.all()) for row in np.isfinite(column)]
        if not all(there):
            measured[name] = sum(there)
        if not any(there):
            continue
        kept, of = column[there], [group for group, has in zip(groups, there, strict=True) if has]
        if column.shape[1] == 1:
            [found[name]] = estimates(kept, of, seed=seed)
        else:
            found[name] = over_seeds(kept, of, seed=seed)
    return found, measured


def _capped(texts: Sequence[str], references: Sequence[Reference], cap: Cap | None) -> list[str]:
    if cap is None:
        return list(texts)
    return [cap(text, of.general) for text, of in zip(texts, references, strict=True)]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the items that both answered; `p_holm` is adjusted over the metrics."""

    n: int
    groups: int
    missing: int
    empty: tuple[int, int]
    metrics: Mapping[str, Difference]
    p_holm: Mapping[str, float]
    judged: JudgeSummary | None = None
    judge: str | None = None  # the judge's name

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
        found: dict[str, Any] = {**counts, "empty": list(self.empty), "metrics": metrics}
        if self.judged is not None:
            found["judge"] = {"model": self.judge, "prompt_sha256": PROMPT_SHA256}
            found["judge"] |= asdict(self.judged)
        return found


def compare(
    a: Path,
    b: Path,
    references: Path,
    cap: Cap | None = None,
    allow_missing: bool = False,
    seed: int = 0,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """A - B for every metric, paired by item and clustered by group.

    An `engine` is asked as judge as well; what it says has biases of its own, which are reported
    with it.
    """
    joined = join([a, b], read_references(references), allow_missing)
    texts = [_capped(run, joined.references, cap) for run in joined.predictions]
    first, second = (measure(run, joined.references) for run in texts)
    differences = paired(first, second, joined.groups, seed=seed)
    adjusted = holm([found.p for found in differences])
    return Comparison(
        n=len(joined.ids),
        groups=len(set(joined.groups)),
        missing=joined.missing,
        empty=(joined.empty[0], joined.empty[1]),
        metrics=dict(zip(METRICS, differences, strict=True)),
        p_holm=dict(zip(METRICS, map(float, adjusted), strict=True)),
        judged=None if engine is None else _judged(engine, joined, texts, seed, progress),
        judge=None if engine is None else engine.name,
    )


def compare_scored(a: Path, b: Path, allow_missing: bool = False, seed: int = 0) -> Comparison:
    """A - B where every row carries its own `scores` (a run of multiple choice, 0 or 1 each).

    In percent points; clusters are the rows' `group`, else each row its own. Raises `DataError`
    where the files' questions or scores differ.
    """
    first, second = _scored(a), _scored(b)
    if unknown := [name for name in second if name not in first] or [
        name for name in first if name not in second
    ]:
        there, other = (second, a) if unknown[0] in second else (first, b)
        if not allow_missing:
            raise DataError(
                f"{there[unknown[0]].where}: {unknown[0]!r} is not in {other} ({len(unknown)} are "
                "missing there); finish the run, or add --allow-missing to compare what both have."
            )
    kept = [name for name in first if name in second]
    if not kept:
        raise DataError(f"{a} and {b} have no question in common; name other files.")
    names = list(first[kept[0]].data["scores"])
    ours, theirs = (
        np.array([_values(rows[name], names) for name in kept]) for rows in (first, second)
    )
    groups = [first[name].data.get("group") or name for name in kept]
    differences = paired(ours, theirs, groups, seed=seed)
    adjusted = holm([found.p for found in differences])
    return Comparison(
        n=len(kept),
        groups=len(set(groups)),
        missing=len(first.keys() | second.keys()) - len(kept),
        empty=(0, 0),
        metrics=dict(zip(names, differences, strict=True)),
        p_holm=dict(zip(names, map(float, adjusted), strict=True)),
    )


def _scored(path: Path) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in read_rows(path):
        name = row.key(*IDS)
        if not isinstance(row.data.get("scores"), dict):
            raise DataError(
                f"{row.where}: it has no 'scores'; add --references FILE to score texts, or name "
                "the predictions of multiple choice."
            )
        if name in found:
            raise repeated(row, name, found[name].where)
        found[name] = row
    if not found:
        raise DataError(f"{path}: no predictions in it; name the file that holds them.")
    return found


def _values(row: Row, names: Sequence[str]) -> list[float]:
    scores = row.data["scores"]
    values = [scores.get(name) for name in names]
    if not all(isinstance(value, int | float) for value in values) or len(scores) != len(names):
        raise DataError(
            f"{row.where}: its scores are {', '.join(scores)}, elsewhere {', '.join(names)}; "
            "compare runs of one task, scored alike."
        )
    return [100.0 * value for value in values]


def _judged(
    engine: Engine,
    joined: Joined,
    texts: Sequence[Sequence[str]],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> JudgeSummary:
    pairs = [
        Pair(name, of.query or "Summarize the meeting.", a, b, of.text, of.group)
        for name, of, a, b in zip(joined.ids, joined.references, *texts, strict=True)
    ]
    found = []
    for judgement in judge(engine, pairs):
        found.append(judgement)
        if progress is not None:
            progress(len(found), len(pairs))
    return judge_summary(found, seed=seed)
