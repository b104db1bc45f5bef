"""Online learning over a log: what would have been decided, paid and lost.

All answers are in the log, so no model runs; a stage's answer is looked at only where the learner
asks for it. What a request was worth is its quality, from 0 to 1, less price x cost, in mean costs
of the last stage. The student's own cost, a fraction of a millisecond, is not counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.closed import agreement, label
from featherweight.cascade.course import Course
from featherweight.cascade.events import STUDENT
from featherweight.cascade.hashing import Words, hashed
from featherweight.cascade.learned import Learned
from featherweight.cascade.online import Learner
from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.types import Floats, Log
from featherweight.engines.types import Prompt
from featherweight.errors import CascadeError
from featherweight.tasks import Example
from featherweight.tasks.choice import picked

if TYPE_CHECKING:
    from featherweight.cascade.hindsight import Fixed

Cost = Literal["flops", "seconds", "usd"]


def question(prompt: Prompt) -> str:
    """What of a prompt is asked: the text, or the user's messages."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message["content"] for message in prompt if message["role"] == "user")


@dataclass(frozen=True)
class Stream:
    """A log with its questions: per row the words and the choices; tables [rows, stages].

    `quality` is from 0 to 1, 0 where there is an error, `agreement` is with the last stage. `unit`
    is a mean cost of the last stage. Made by `stream`.
    """

    log: Log
    kind: Cost
    examples: tuple[Example, ...]
    words: tuple[Words, ...]
    scores: Floats
    cost: Floats
    quality: Floats
    agreement: Floats

    @property
    def unit(self) -> float:
        return float(self.cost[:, -1].mean())

    def value(self, quality: Floats, cost: Floats, price: float) -> Floats:
        """What a request was worth."""
        return quality - price * cost / self.unit


def stream(
    log: Log, examples: Mapping[str, Example], scores: Sequence[Score | Learned], kind: Cost
) -> Stream:
    """`log` as a stream; `examples` by id are what was asked, `scores` the stages' but the last's.

    Raises `CascadeError` where a question is missing, a cost is not known or a last answer failed:
    nothing says then what was lost.
    """
    if len(scores) != len(log.models) - 1:
        raise CascadeError(
            f"{len(scores)} scores for {len(log.models)} stages; give one for each but the last."
        )
    for row in log.rows:
        if row.id not in examples:
            raise CascadeError(
                f"row {row.id!r}: no such question; name the task and the data that were logged."
            )
        if row.stages[-1].error is not None:
            raise CascadeError(
                f"row {row.id!r}: the last stage, {log.models[-1]}, failed "
                f"({row.stages[-1].error}); ask it again or take the row out."
            )
    asked = tuple(examples[row.id] for row in log.rows)
    low, high = log.metric.low, log.metric.high
    return Stream(
        log=log,
        kind=kind,
        examples=asked,
        words=tuple(hashed(question(example.prompt)) for example in asked),
        scores=np.column_stack([_scores(log, j, score) for j, score in enumerate(scores)]),
        cost=_costs(log, kind),
        quality=np.nan_to_num((log.quality() - low) / (high - low), nan=0.0),
        agreement=np.array(
            [
                [
                    0.0
                    if a.error is not None
                    else agreement(a.text, row.stages[-1].text, example.choices)
                    for a in row.stages
                ]
                for row, example in zip(log.rows, asked, strict=True)
            ]
        ),
    )


def _scores(log: Log, stage: int, score: Score | Learned) -> Floats:
    """[rows]; -inf where it failed."""
    found = np.full(len(log.rows), -np.inf)
    there = [n for n, row in enumerate(log.rows) if not row.stages[stage].failed]
    answers = [log.rows[n].stages[stage] for n in there]
    found[there] = score_answers(score, answers, [log.rows[n].id for n in there])
    return found


def _costs(log: Log, kind: Cost) -> Floats:
    """[rows, stages]; what a failed answer cost is 0 where nobody knows."""
    for row in log.rows:
        for answer in row.stages:
            if getattr(answer, kind) is None and answer.error is None:
                raise CascadeError(
                    f"row {row.id!r}: the {kind} of {answer.model} are not known; log them or "
                    "count another cost."
                )
    found = np.array([[getattr(a, kind) or 0.0 for a in row.stages] for row in log.rows])
    if not found[:, -1].any():
        raise CascadeError(f"all {kind} of {log.models[-1]} are 0; count another cost.")
    return found


# ---- the learner


@dataclass(frozen=True)
class Replay:
    """What happened to each request, in the order of the stream: all [n].

    `rows` are the log's, `level` who answered (-1: the student), `asked` [n, stages], `quality` and
    `agreement` those of the answers given, `cost` that of all who were asked. `unjudged` answers of
    the student are known to nobody and count as quality 0.
    """

    stream: Stream
    price: float
    rows: NDArray[np.intp]
    level: NDArray[np.intp]
    asked: NDArray[np.bool_]
    explored: NDArray[np.bool_]
    propensity: Floats
    quality: Floats
    agreement: Floats
    cost: Floats
    unjudged: int = 0

    @cached_property
    def value(self) -> Floats:
        return self.stream.value(self.quality, self.cost, self.price)

    def regret(self, fixed: "Fixed") -> Floats:
        """What `fixed` would have been worth more, up to each request."""
        return np.asarray(np.cumsum(fixed.value[self.rows] - self.value))

    def curve(self, fixed: "Fixed", points: int = 50) -> list[dict[str, float]]:
        """Rows for a table or a plot: means so far, and the regret."""
        regret = self.regret(fixed)
        ends = np.unique(np.linspace(1, len(self.rows), points).round().astype(int))
        return [
            {
                "requests": int(n),
                "cost": float(self.cost[:n].sum()),
                "cost_share": float(self.cost[:n].mean() / self.stream.unit),
                "quality": float(self.quality[:n].mean()),
                "agreement": float(self.agreement[:n].mean()),
                "asked_last": float(self.asked[:n, -1].mean()),
                "student": float((self.level[:n] == STUDENT).mean()),
                "explored": float(self.explored[:n].mean()),
                "regret": float(regret[n - 1]),
                "regret_per_request": float(regret[n - 1] / n),
            }
            for n in ends
        ]


def replay(found: Stream, learner: Learner, order: Sequence[int] | None = None) -> Replay:
    """Let `learner` go through the rows of `found`, in the log's order or in `order`.

    A learner that has seen requests goes on.
    """
    rows = np.arange(len(found.log.rows)) if order is None else np.array(order, dtype=np.intp)
    asked = np.zeros((len(rows), found.cost.shape[1]), dtype=bool)
    level = np.zeros(len(rows), dtype=np.intp)
    explored = np.zeros(len(rows), dtype=bool)
    propensity, quality, agreed = (np.zeros(len(rows)) for _ in range(3))
    unjudged = 0
    for n, row in enumerate(rows):
        course = _course(found, learner, int(row), asked[n])
        explored[n], propensity[n] = course.explored, course.propensity
        assert course.answered is not None  # the last answers of a stream did not fail
        level[n] = course.answered
        if level[n] == STUDENT:
            said = label(found.log.rows[row].stages[-1].text, course.choices)
            judged = _quality(found, int(row), course.text or "")
            unjudged += judged is None
            quality[n], agreed[n] = judged or 0.0, said == course.guess
        else:
            quality[n] = found.quality[row, level[n]]
            agreed[n] = found.agreement[row, level[n]]
    cost = (found.cost[rows] * asked).sum(axis=1)
    price = learner.settings.price
    return Replay(
        found, price, rows, level, asked, explored, propensity, quality, agreed, cost, unjudged
    )


def _course(found: Stream, learner: Learner, row: int, asked: NDArray[np.bool_]) -> Course:
    """A row's way through the levels; `asked` [stages] is set for those who were."""
    answers = found.log.rows[row].stages
    course = learner.begin(learner.requests, found.words[row], found.examples[row].choices)
    while (stage := course.next) is not None:
        asked[stage] = True
        last = stage == len(answers) - 1
        cost = float(found.cost[row, stage])
        if not last and answers[stage].failed:
            course.take(None, None, cost or None)  # 0 where nobody knows
        else:
            score = None if last else float(found.scores[row, stage])
            course.take(answers[stage].text, score, cost)
    learner.observe(course)
    return course


def _quality(found: Stream, row: int, text: str) -> float | None:
    """Of an answer of the student: that of a stage which says the same, else by the example."""
    example = found.examples[row]
    said = label(text, example.choices)
    for stage, answer in enumerate(found.log.rows[row].stages):
        if not answer.failed and said is not None and label(answer.text, example.choices) == said:
            return float(found.quality[row, stage])
    if example.choices and "answer" in example.meta:
        return float(picked(text, example.choices) == example.meta["answer"])
    return None
