"""From a run's rows to its figures: each with n, groups and an interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.errors import DataError
from featherweight.evaluate.instruction import in_order, in_range
from featherweight.evaluate.perplexity import perplexity
from featherweight.evaluate.predictions import Reference
from featherweight.evaluate.score import METRICS, measure
from featherweight.evaluate.statistics import Estimate, estimates
from featherweight.evaluate.text import words
from featherweight.tasks.instruct import LENGTHS
from featherweight.tasks.run import Outcome, Row
from featherweight.tasks.types import Example, Task

PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class Results:
    """The figures of one run. `missing` examples were not answered and are not in them.

    Accuracies and shares are in percent, as ROUGE is. `empty` answers have no word (ROUGE 0, and no
    compression), `cut_off` ones reached the limit of tokens.
    """

    n: int
    groups: int
    missing: int
    empty: int
    cut_off: int
    metrics: Mapping[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        metrics = {k: {"mean": v.mean, "ci95": list(v.ci95)} for k, v in self.metrics.items()}
        counts = {"n": self.n, "groups": self.groups, "missing": self.missing}
        return {**counts, "empty": self.empty, "cut_off": self.cut_off, "metrics": metrics}


def results(task: Task, outcome: Outcome, seed: int = 0) -> Results:
    """Score what was answered. Raises `DataError` where nothing was."""
    rows = outcome.rows
    if not rows:
        reason = next(iter(outcome.failed.values()), "no example was answered")
        raise DataError(f"{task.name}: nothing to score; {reason}")
    if task.kind == "text":
        groups = sorted(rows)  # not as answered: the bootstrap's draws follow the order
        metrics = _text(task, [rows[id] for id in groups], groups, seed)
    else:
        answered = [example for example in task.examples if example.id in rows]
        groups = [example.group or example.id for example in answered]
        pairs = [(example, rows[example.id]) for example in answered]
        metrics = (
            _choice(pairs, groups, seed)
            if task.kind == "choice"
            else _summary(task, pairs, groups, seed)
        )
    answers = [row["prediction"] for row in rows.values() if "prediction" in row]
    return Results(
        n=len(groups),
        groups=len(set(groups)),
        missing=len(outcome.failed),
        empty=sum(not answer.strip() for answer in answers),
        cut_off=sum(row.get("finish_reason") == "length" for row in rows.values()),
        metrics=metrics,
    )


def _text(task: Task, rows: list[Row], groups: list[str], seed: int) -> dict[str, Estimate]:
    logprobs = [row["logprob"] for row in rows]

    def per(unit: str) -> Estimate:
        return perplexity(logprobs, [row[unit] for row in rows], groups, seed)

    if task.name == "wikitext2-tokens":
        return {"token_perplexity": per("tokens")}
    byte = per("bytes")
    bits = [float(np.log2(value)) for value in (byte.mean, *byte.ci95)]
    return {
        "word_perplexity": per("words"),
        "byte_perplexity": byte,
        "bits_per_byte": Estimate(bits[0], (bits[1], bits[2])),
    }


def _choice(pairs: list[tuple[Example, Row]], groups: list[str], seed: int) -> dict[str, Estimate]:
    columns = {
        name: [PERCENT * row["scores"][name] for _, row in pairs] for name in pairs[0][1]["scores"]
    }
    if "logprobs" not in pairs[0][1]:
        columns["unparsed"] = [PERCENT * (row["picked"] is None) for _, row in pairs]
    return _means(columns, groups, seed)


def _summary(
    task: Task, pairs: list[tuple[Example, Row]], groups: list[str], seed: int
) -> dict[str, Estimate]:
    texts = [row["prediction"] for _, row in pairs]
    lengths = [len(words(text)) for text in texts]
    if all(example.target is not None for example, _ in pairs):
        references = [
            Reference(example.target or "", "", example.meta.get("general") is True, "", "")
            for example, _ in pairs
        ]
        columns = dict(zip(METRICS, measure(texts, references).T.tolist(), strict=True))
    else:
        columns = {"words": list(map(float, lengths))}
    found = _means(columns, groups, seed)
    if task.sources:
        pressed = [
            (group, len(words(task.sources[group])) / count)
            for group, count in zip(groups, lengths, strict=True)
            if count
        ]
        if pressed:
            of, ratios = zip(*pressed, strict=True)
            found |= _means({"compression": list(ratios)}, list(of), seed)
    if all("length" in example.meta for example, _ in pairs):
        found |= _followed(pairs, groups, lengths, seed)
    return found


def _followed(
    pairs: list[tuple[Example, Row]], groups: list[str], lengths: list[int], seed: int
) -> dict[str, Estimate]:
    """Did short come out short: share within the words asked for, share of meetings in order."""
    asked = [example.meta["length"] for example, _ in pairs]
    inside = [PERCENT * value for value in in_range(asked, lengths, LENGTHS)]
    ordered = in_order(groups, asked, lengths, LENGTHS)
    found = _means({"length_followed": inside}, groups, seed)
    if ordered:
        column = {"lengths_in_order": [PERCENT * value for value in ordered.values()]}
        found |= _means(column, list(map(str, ordered)), seed)
    return found


def _means(columns: Mapping[str, list[float]], groups: list[str], seed: int) -> dict[str, Estimate]:
    table = np.array(list(columns.values())).T
    return dict(zip(columns, estimates(table, groups, seed=seed), strict=True))
