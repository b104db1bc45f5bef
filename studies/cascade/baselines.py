"""Scores that the study did not invent: text lengths, and the rule of another router (UCCI).

UCCI (arXiv 2605.18796, `pip install ucci-router`) defers by an isotonic estimate of P(small model
wrong) from the mean margin between the two likeliest tokens, the end token left out. Here it is
fitted on the val answers, as its own protocol does, with the package's own functions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from featherweight.cascade.sample import Sample, sample
from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.types import Answer, Floats, Log
from featherweight.errors import CascadeError


def longest_prompts(fit: Log, test: Log) -> Floats:
    """Defer the longest prompts, in the small model's tokens."""
    return -np.array([float(row.stages[0].prompt_tokens) for row in test.rows])


def longest_answers(fit: Log, test: Log) -> Floats:
    """Defer the longest answers, in tokens."""
    return score_answers(Score("length"), first(test))


def ucci(fit: Log, test: Log) -> Floats:
    """Defer by UCCI's P(small model wrong); a graded answer (ROUGE) is wrong in part."""
    there = [row for row in fit.rows if not row.stages[0].failed]
    if not there:
        raise CascadeError("the small model answered none of the fit questions.")
    low, high = fit.metric.low, fit.metric.high
    wrong = [(high - (row.stages[0].quality or 0.0)) / (high - low) for row in there]
    router = package().UCCIRouter()
    router.calibrate([uncertainty(row.stages[0]) for row in there], wrong)
    return -np.array(
        [
            1.0 if answer.failed else router.error_probability(uncertainty(answer))
            for answer in first(test)
        ]
    )


def uncertainty(answer: Answer) -> float:
    """UCCI's u(x), of tokens before the end."""
    margins = answer.margins or ()
    kept = margins[:-1] if answer.ended and len(margins) > 1 else margins
    return float(package().uncertainty_from_margins(np.clip(kept, 0, 1)))  # a hair off: rounding


def first(log: Log) -> list[Answer]:
    return [row.stages[0] for row in log.rows]


BASELINES: dict[str, Callable[[Log, Log], Floats]] = {
    "longest prompts": longest_prompts,
    "longest answers": longest_answers,
    "ucci": ucci,
}


def by_baseline(name: str, log: Log) -> Sample:
    """The test rows of `log`, scored by a baseline that may look at the fit rows."""
    test = log.part("test")
    return sample(test, BASELINES[name](log.part("fit"), test))


def usable(logs: Sequence[Log]) -> tuple[tuple[str, ...], str]:
    """The baselines that these logs and this machine allow, and why one is left out."""
    names = tuple(BASELINES)
    others = tuple(name for name in names if name != "ucci")
    try:
        package()
    except ImportError:
        return others, "ucci is left out: `pip install ucci-router` for its column."
    if any(answer.margins is None and not answer.failed for log in logs for answer in first(log)):
        return others, "ucci is left out: it reads margins, and these answers were kept without."
    return names, ""


def package() -> Any:
    import ucci

    return ucci
