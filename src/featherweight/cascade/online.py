"""A cascade that learns from a stream whom to trust: Online Cascade Learning, arXiv 2402.04513.

Three kinds of levels. The first, the student, is a softmax regression on hashed words. It learns to
say what the last stage says where that is one of a few short answers (yes, no, B); of free text it
can say nothing, and its words only decide who is asked. Then come the stages of a rule, each with
its score. The last and dearest stage counts as right: its answers are the only labels.

For every level but the last a *judge* estimates P(agrees with the last stage), from the level's
confidence and the words. For every stage between, a *gate* estimates from the words which share of
the way's remaining loss is left once it has answered. With `price` the loss that a mean answer of
the last stage costs (a wrong answer is 1) and c the stages' mean costs relative to it, going on is

    ahead(last) = price;    ahead(j) = min(price * c(j) + gate(j) * ahead(j + 1), ahead(j + 1))

A stage is skipped where the second is not larger; level j's answer is kept if 1 - judge is at most
what is ahead. (The paper has networks decide, trained on the same sum of loss and cost; here what
they would have to find out is estimated, and can be looked at.)

Labels come from requests that the policy passes to the last stage, and from explored ones: with a
probability (`Settings.chance`), by a coin tossed before anything is known, all stages are asked.
Lessons draw requests in proportion to 1/propensity, so that what is learned holds for all of them
and not for the doubtful ones, and no step is larger than another. Nothing here is a promise: what
goes on learning is not what a calibration has seen.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.course import Course
from featherweight.cascade.events import STUDENT, Audit, Event, Moments, Seen
from featherweight.cascade.hashing import SIZE, Words
from featherweight.cascade.logistic import Logistic
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError

BATCH = 16  # requests between two lessons
STEPS = 32  # of each model in a lesson
MEMORY = 1024  # requests with a label that lessons draw from, the newest
MOST = 16  # labels
LEAST = 0.02  # chance to explore
DENSE = 4  # features of a judge beside the words

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """`price`: the share of a wrong answer that an answer of the last stage costs on average.

    With 0.1 it is asked where that makes more than one answer in ten right. `explore` is the least
    chance that all stages are asked; of the first `warmup` requests they always are. Raises
    `CascadeError` for what makes no sense.
    """

    price: float
    explore: float = LEAST
    warmup: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.price) and self.price > 0):
            raise CascadeError(
                f"a price of {self.price:g} for an answer of the last stage decides nothing; give "
                "a number above 0, such as 0.1."
            )
        if not LEAST <= self.explore <= 1:
            raise CascadeError(
                f"exploring {self.explore:g} of the requests gives too few labels or is no share; "
                f"give a number from {LEAST:g} to 1."
            )
        if self.warmup < 1:
            raise CascadeError(
                f"a warm-up of {self.warmup} requests teaches nothing; give 1 or more, such as 64."
            )

    def chance(self, number: int) -> float:
        """Of exploring request `number`, from 0: 1 in the warm-up, then it falls to `explore`."""
        return min(1.0, max(self.explore, (self.warmup / (number + 1)) ** 2))


class Learner:
    """The models and what they learn from, for `stages` stages.

    `centres` are where each score is counted from: its rule's threshold, or its running mean for
    `None`. `about` is plain data that a state must share to be gone on with. What decisions depend
    on changes only at the end of a batch of requests, so it does not matter how they come in.
    """

    def __init__(
        self,
        stages: int,
        settings: Settings,
        centres: Sequence[float | None] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if stages < 2:
            raise CascadeError("a cascade of one stage has nothing to learn; give two or more.")
        self.stages, self.settings, self.about = stages, settings, dict(about or {})
        self.centres = tuple(centres or (None,) * (stages - 1))
        self.requests = 0
        self.labels: list[tuple[str, str]] = []  # and how the student writes each
        self.student = Logistic(SIZE, 1, softmax=True)  # output 0: none of the labels
        self.judges = [Logistic(SIZE + DENSE) for _ in range(stages)]  # the first is the student's
        self.gates = [Logistic(SIZE + 1) for _ in range(stages - 1)]
        for judge in self.judges:
            judge.weights[SIZE + 1] = 1.0  # confidence, until it knows better
        self.scores = [Moments() for _ in range(stages - 1)]
        self.costs = [Moments() for _ in range(stages)]
        self.audit = Audit()
        self.memory: deque[Event] = deque(maxlen=MEMORY)
        self.pending: list[tuple[Seen, Event | None]] = []

    # ---- deciding

    def begin(self, number: int, words: Words, choices: Sequence[str] = ()) -> Course:
        """Request `number`, from 0, counting those of the batch that are not observed yet.

        `choices` are the answers to choose from, where they are known.
        """
        assert self.requests <= number < (self.requests // BATCH + 1) * BATCH
        return Course(self, number, words, choices)

    def ahead(self, words: Words) -> list[float]:
        """What going on to each stage will come to, in loss: [stages]."""
        price, last = self.settings.price, self.costs[-1].mean
        found = [price]
        for stage in reversed(range(self.stages - 1)):
            left = float(self.gates[stage].chances(*_joined(words, (1.0,)))[0])
            cost = self.costs[stage].mean / last if last else 0.0
            found.append(min(price * cost + left * found[-1], found[-1]))
        return found[::-1]

    def dense(self, stage: int, score: float, backing: float) -> tuple[float, ...]:
        """A stage's features beside the words; how far above the centre a score is counts apart."""
        centre, known = self.centres[stage], self.scores[stage]
        above = (score - (known.mean if centre is None else centre)) / known.spread
        above = min(max(above, -5.0), 5.0)
        return 1.0, above, max(above, 0.0), backing

    def judged(self, level: int, words: Words, dense: Sequence[float]) -> float:
        """P(agrees with the last stage) of an answer of `level`, `STUDENT` or a stage."""
        return float(self.judges[level - STUDENT].chances(*_joined(words, dense))[0])

    # ---- learning

    def observe(self, course: Course) -> None:
        """A request is done, they are observed in order; after a batch there is a lesson."""
        assert course.number == self.requests and course.next is None
        self.add(course.seen, course.event, course.checked)

    def add(self, seen: Seen, event: Event | None, checked: tuple[float, float] | None) -> None:
        """What `observe` takes of a course."""
        self.requests += 1
        if checked is not None:
            self.audit.add(*checked)
        self.pending.append((seen, event))
        if self.requests % BATCH == 0:
            self._learn()

    def _learn(self) -> None:
        for seen, event in self.pending:
            for values, sums in ((seen.scores, self.scores), (seen.costs, self.costs)):
                for value, one in zip(values, sums, strict=True):
                    if value is not None:
                        one.add(value)
            if seen.said is not None and len(self.labels) < MOST:
                self._add(seen.said)
            if event is not None:
                self.memory.append(event)
        self.pending.clear()
        if self.memory:
            self._lesson(np.random.default_rng([self.settings.seed, self.requests]))

    def _add(self, said: tuple[str, str]) -> None:
        if said[0] not in dict(self.labels):
            self.labels.append(said)
            self.student.add_output()

    def _lesson(self, rng: np.random.Generator) -> None:
        events = list(self.memory)
        keys = {key: place for place, (key, _) in enumerate(self.labels, 1)}
        for event in _drawn(rng, events, [event.weight for event in events]):
            target = np.zeros(self.student.outputs)
            target[keys.get(event.label or "", 0)] = 1.0
            self.student.learn(event.words.indices, event.words.values, target)
            if event.guess is not None:
                right = np.array([float(event.guess == event.label)])
                self.judges[0].learn(*_joined(event.words, (1.0, event.sure)), right)
        for stage, (judge, gate) in enumerate(zip(self.judges[1:], self.gates, strict=True)):
            tried = [(event, t) for event in events if (t := event.tries[stage]) is not None]
            for event, one in _drawn(rng, tried, [one.weight for _, one in tried]):
                x = _joined(event.words, self.dense(stage, one.score, one.backing))
                judge.learn(*x, np.array([one.agreement]))
                loss = 1 - float(judge.chances(*x)[0])
                left = min(1.0, loss / self.ahead(event.words)[stage + 1])
                gate.learn(*_joined(event.words, (1.0,)), np.array([left]))


def _drawn(rng: np.random.Generator, items: Sequence[T], weights: Sequence[float]) -> list[T]:
    """`STEPS` of `items`, each draw in proportion to the weights."""
    if not items:
        return []
    shares = np.array(weights)
    return [items[i] for i in rng.choice(len(items), STEPS, p=shares / shares.sum())]


def _joined(words: Words, dense: Sequence[float]) -> tuple[NDArray[np.intp], Floats]:
    """Words and further features as one sparse vector."""
    places = np.arange(SIZE, SIZE + len(dense))
    return np.concatenate([words.indices, places]), np.concatenate([words.values, dense])
