"""One request's way through the levels of an online cascade: who is asked next, who answers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featherweight.cascade.closed import agreement, label
from featherweight.cascade.events import STUDENT, Event, Seen, Try
from featherweight.cascade.hashing import Words
from featherweight.cascade.types import uniform

if TYPE_CHECKING:
    from featherweight.cascade.online import Learner


class Course:
    """Begun by `Learner.begin`; as long as `next` is a stage, that is asked and its answer taken.

    `kept` is the level whose answer the policy trusts, `None` if it goes on to the last stage.
    `explored` requests ask all stages, whatever the policy says.
    """

    def __init__(
        self, learner: "Learner", number: int, words: Words, choices: Sequence[str]
    ) -> None:
        self.number, self.words, self.choices = number, words, choices
        self.chance = learner.settings.chance(number)
        self.explored = uniform(str(number), learner.settings.seed) < self.chance
        self._learner, self._last = learner, learner.stages - 1
        self._texts: list[str | None] = [None] * learner.stages
        self._scores: list[float | None] = [None] * self._last
        self._costs: list[float | None] = [None] * learner.stages
        self._backing = [0.0] * self._last
        self._on_path = [False] * self._last
        chances = learner.student.chances(words.indices, words.values)
        self._chances = {
            key: float(p) for (key, _), p in zip(learner.labels, chances[1:], strict=True)
        }
        self.guess = max(self._chances, key=lambda key: self._chances[key], default=None)
        self._sure = _logit(self._chances[self.guess]) if self.guess is not None else 0.0
        self.ahead = learner.ahead(words)
        self.trust: dict[int, float] = {}
        """P(agrees with the last stage) of each level that has said something."""
        self.kept: int | None = None
        if self.guess is not None:
            self.trust[STUDENT] = learner.judged(STUDENT, words, (1.0, self._sure))
            if 1 - self.trust[STUDENT] <= self.ahead[0]:
                self.kept = STUDENT
        self.next: int | None = None
        self._go_on(0)

    def _go_on(self, stage: int) -> None:
        """To `stage` or the first behind it that is worth asking; nowhere if an answer is kept."""
        if self.explored:
            self.next = stage
        elif self.kept is not None:
            self.next = None
        else:
            while stage < self._last and self._skipped(stage):
                stage += 1
            self.next = stage

    def _skipped(self, stage: int) -> bool:
        return self.ahead[stage] >= self.ahead[stage + 1]

    def take(self, text: str | None, score: float | None, cost: float | None) -> None:
        """What stage `next` came to: its text, `None` if it failed, its score (the last has none),
        and what it cost, `None` if that is not known."""
        stage = self.next
        assert stage is not None
        self._texts[stage], self._costs[stage] = text, cost
        if stage == self._last:
            self.next = None
            return
        self._on_path[stage] = self.kept is None and not self._skipped(stage)
        if text is not None:
            assert score is not None
            self._scores[stage] = score
            self._backing[stage] = self._chances.get(label(text, self.choices) or "", 0.0)
            dense = self._learner.dense(stage, score, self._backing[stage])
            self.trust[stage] = self._learner.judged(stage, self.words, dense)
            if self._on_path[stage] and 1 - self.trust[stage] <= self.ahead[stage + 1]:
                self.kept = stage
        self._go_on(stage + 1)

    def cancel(self) -> None:
        """There will be no answer, for a reason that has nothing to do with trust."""
        self.kept = self.next = None
        self._texts[self._last] = None

    # ---- when it is over

    @property
    def answered(self) -> int | None:
        """The level whose answer is given: the last stage's if it was asked and did not fail, else
        the one kept; `None` where there is none."""
        return self._last if self._texts[self._last] is not None else self.kept

    @property
    def text(self) -> str | None:
        """The answer."""
        if self.answered == STUDENT:
            return dict(self._learner.labels)[self.guess or ""]
        return None if self.answered is None else self._texts[self.answered]

    @property
    def propensity(self) -> float:
        """The probability, over the coin alone, that the last stage was asked."""
        return 1.0 if self.kept is None else self.chance

    @property
    def seen(self) -> Seen:
        return Seen(tuple(self._scores), tuple(self._costs), self.said)

    @property
    def said(self) -> tuple[str, str] | None:
        """The last stage's label, and how the student would write it."""
        text = self._texts[self._last]
        key = None if text is None else label(text, self.choices)
        if text is None or key is None:
            return None
        return key, key if self.choices else text.strip()

    @property
    def event(self) -> Event | None:
        """What can be learned; `None` where the last stage was not asked, or failed."""
        text = self._texts[self._last]
        if text is None:
            return None
        tries: list[Try | None] = []
        for stage in range(self._last):
            score, own = self._scores[stage], self._texts[stage]
            if score is None or own is None:
                tries.append(None)
                continue
            # asked without the coin only if the policy asks both it and the last stage
            sure = self._on_path[stage] and self.kept is None
            weight = 1.0 if sure else 1 / self.chance
            agreed = agreement(own, text, self.choices)
            tries.append(Try(score, self._backing[stage], agreed, weight))
        said = self.said
        return Event(
            self.words,
            said and said[0],
            self.guess,
            self._sure,
            1 / self.propensity,
            tuple(tries),
        )

    @property
    def checked(self) -> tuple[float, float] | None:
        """Agreement and weight of an answer that was kept and explored all the same.

        Not in the warm-up, whose policy is not one yet."""
        text = self._texts[self._last]
        if self.kept is None or text is None or self.chance == 1:
            return None
        if self.kept == STUDENT:
            return float(self.said is not None and self.said[0] == self.guess), 1 / self.chance
        return agreement(self._texts[self.kept] or "", text, self.choices), 1 / self.chance


def _logit(chance: float) -> float:
    chance = min(max(chance, 1e-3), 1 - 1e-3)
    return math.log(chance / (1 - chance))
