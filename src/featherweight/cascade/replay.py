"""Online learning over a log: what would have been decided, paid and lost, and against whom.

All answers are in the log, so no model runs; a stage's answer is looked at only where the learner
asks for it. Regret is against the best fixed thresholds in hindsight, which know the whole stream
and all qualities, while the learner only knows what the last stage said when it was asked. Both are
measured by `value`: quality from 0 to 1 less price x cost, in mean costs of the last stage.
The student's own cost, a tenth of a millisecond, is not counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np

from featherweight.cascade.closed import agreement, label
from featherweight.cascade.events import STUDENT
from featherweight.cascade.hashing import Words, hashed
from featherweight.cascade.learned import Learned
from featherweight.cascade.online import Learner
from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.types import Answer, Floats, Log
from featherweight.engines.types import Prompt
from featherweight.errors import CascadeError
from featherweight.tasks import Example
from featherweight.tasks.choice import picked

Cost = Literal["flops", "seconds", "usd"]
POINTS = 2_500  # of a grid of thresholds of several stages


def question(prompt: Prompt) -> str:
    """What of a prompt is asked: the text, or the user's messages."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message["content"] for message in prompt if message["role"] == "user")


@dataclass(frozen=True)
class Stream:
    """A log with its questions: per row the words and the choices; tables [rows, stages].

    `quality` is from 0 to 1, 0 where an answer failed, `agreement` is with the last stage. `unit`
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
                    0.0 if failed(a) else agreement(a.text, row.stages[-1].text, example.choices)
                    for a in row.stages
                ]
                for row, example in zip(log.rows, asked, strict=True)
            ]
        ),
    )


def failed(answer: Answer) -> bool:
    """Whether there is nothing to score: an error, or no token at all."""
    return answer.error is not None or answer.token_logprobs == ()


def _scores(log: Log, stage: int, score: Score | Learned) -> Floats:
    """[rows]; -inf where it failed."""
    found = np.full(len(log.rows), -np.inf)
    there = [n for n, row in enumerate(log.rows) if not failed(row.stages[stage])]
    answers = [log.rows[n].stages[stage] for n in there]
    found[there] = score_answers(score, answers, [log.rows[n].id for n in there])
    return found


def _costs(log: Log, kind: Cost) -> Floats:
    for row in log.rows:
        for answer in row.stages:
            if getattr(answer, kind) is None:
                raise CascadeError(
                    f"row {row.id!r}: the {kind} of {answer.model} are not known; log them or "
                    "count another cost."
                )
    found = np.array([[float(getattr(a, kind)) for a in row.stages] for row in log.rows])
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
    rows: np.ndarray[Any, np.dtype[np.intp]]
    level: np.ndarray[Any, np.dtype[np.intp]]
    asked: np.ndarray[Any, np.dtype[np.bool_]]
    explored: np.ndarray[Any, np.dtype[np.bool_]]
    propensity: Floats
    quality: Floats
    agreement: Floats
    cost: Floats
    unjudged: int

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
    rows = list(range(len(found.log.rows))) if order is None else list(order)
    steps = []
    unjudged = 0
    for row in rows:
        example, answers = found.examples[row], found.log.rows[row].stages
        course = learner.begin(learner.requests, found.words[row], example.choices)
        asked = np.zeros(len(answers), dtype=bool)
        while (stage := course.next) is not None:
            asked[stage] = True
            answer, last = answers[stage], stage == len(answers) - 1
            if not last and failed(answer):
                course.take(None, None, found.cost[row, stage])
            else:
                score = None if last else float(found.scores[row, stage])
                course.take(answer.text, score, found.cost[row, stage])
        learner.observe(course)
        level = course.answered
        assert level is not None  # the last answers of a stream did not fail
        if level == STUDENT:
            judged = _quality(found, row, course.text or "")
            unjudged += judged is None
            quality = judged or 0.0
            agreed = float(label(answers[-1].text, example.choices) == course.guess)
        else:
            quality, agreed = found.quality[row, level], found.agreement[row, level]
        cost = found.cost[row, asked].sum()
        steps.append((row, level, asked, course.explored, course.propensity, quality, agreed, cost))
    columns = [np.array(column) for column in zip(*steps, strict=True)]
    return Replay(found, learner.settings.price, *columns, unjudged=unjudged)


def _quality(found: Stream, row: int, text: str) -> float | None:
    """Of an answer of the student: that of a stage which says the same, else by the example."""
    example = found.examples[row]
    said = label(text, example.choices)
    for stage, answer in enumerate(found.log.rows[row].stages):
        if not failed(answer) and said is not None and label(answer.text, example.choices) == said:
            return float(found.quality[row, stage])
    if example.choices and "answer" in example.meta:
        return float(picked(text, example.choices) == example.meta["answer"])
    return None


# ---- whom it is compared with


@dataclass(frozen=True)
class Fixed:
    """Thresholds that never change: -inf trusts every answer, +inf none.

    `quality`, `agreement`, `cost` and `value` are of each row of the stream, [rows].
    """

    name: str
    thresholds: tuple[float, ...]
    quality: Floats
    agreement: Floats
    cost: Floats
    value: Floats


def fixed(
    found: Stream, price: float, name: str, thresholds: Sequence[float], scores: Floats
) -> Fixed:
    """What `thresholds` do: a score at its threshold is trusted, failed answers never."""
    on = np.logical_and.accumulate((scores < thresholds) | np.isneginf(scores), axis=1)
    chosen = on.sum(axis=1)
    rows = np.arange(len(chosen))
    cost = np.cumsum(found.cost, axis=1)[rows, chosen]
    quality = found.quality[rows, chosen]
    return Fixed(
        name,
        tuple(float(value) for value in thresholds),
        quality,
        found.agreement[rows, chosen],
        cost,
        found.value(quality, cost, price),
    )


def always(found: Stream, price: float, stage: int) -> Fixed:
    """One stage answers everything, no other is asked."""
    quality, cost = found.quality[:, stage], found.cost[:, stage]
    value = found.value(quality, cost, price)
    name = f"always {found.log.models[stage]}"
    return Fixed(name, (), quality, found.agreement[:, stage], cost, value)


def best_fixed(
    found: Stream,
    price: float,
    scores: Mapping[str, Floats] | None = None,
    rows: Sequence[int] | None = None,
    by: Literal["quality", "agreement"] = "quality",
) -> Fixed:
    """The thresholds whose value is highest in hindsight on `rows` (all), over the scores given.

    All thresholds of one stage are tried, of more stages a grid of shares. Each of `scores` is
    [rows, stages - 1]; the stream's own if none are given. With `by` agreement what counts is what
    the learner can see too. Of equal ones the first, which asks least.
    """
    part = np.arange(len(found.words)) if rows is None else np.array(rows)
    worth = found.quality if by == "quality" else found.agreement
    paid = np.cumsum(found.cost, axis=1)
    table = found.value(worth, paid, price)[part]
    best: tuple[float, str, tuple[float, ...]] | None = None
    for name, own in (scores or {"score": found.scores}).items():
        grid = [_thresholds(own[part, j], own.shape[1]) for j in range(own.shape[1])]
        for total, thresholds in _totals(own[part], table, grid):
            if best is None or total > best[0]:
                best = total, name, thresholds
    assert best is not None
    _, name, thresholds = best
    own = (scores or {"score": found.scores})[name]
    return fixed(found, price, name, thresholds, own)


def _thresholds(scores: Floats, stages: int) -> Floats:
    """-inf, the scores that there are or a grid of them, +inf."""
    there = np.unique(scores[np.isfinite(scores)])
    most = int(POINTS ** (1 / stages)) - 2
    if stages > 1 and len(there) > most:
        there = there[np.linspace(0, len(there) - 1, most).round().astype(int)]
    return np.concatenate([[-np.inf], there, [np.inf]])


def _totals(
    scores: Floats, table: Floats, grid: Sequence[Floats]
) -> list[tuple[float, tuple[float, ...]]]:
    """The value of each combination of thresholds; `table` [n, stages] is a row's, by who answers.

    For two stages by running sums: rows sorted by score, those below the threshold go on.
    """
    n = np.arange(len(scores))
    if len(grid) == 1:
        order = np.argsort(scores[:, 0], kind="stable")
        gain = np.concatenate([[0.0], np.cumsum((table[:, 1] - table[:, 0])[order])])
        kept = scores[order, 0]
        below = np.maximum(np.searchsorted(kept, grid[0]), np.isneginf(kept).sum())
        totals = table[:, 0].sum() + gain[below]
        return [(float(t), (float(v),)) for t, v in zip(totals, grid[0], strict=True)]
    found = []
    for values in product(*grid):
        on = np.logical_and.accumulate((scores < values) | np.isneginf(scores), axis=1)
        found.append((float(table[n, on.sum(axis=1)].sum()), tuple(map(float, values))))
    return found
