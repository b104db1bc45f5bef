"""Online learning with real engines: requests in, answers out, a state that goes on.

Requests are taken in batches, those between two lessons, so that a stage gets what is asked of it
in one go. An answer is observed when it is given out: whoever stops in between goes on there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from featherweight.cascade.answers import answer_of
from featherweight.cascade.asking import Asked
from featherweight.cascade.cascade import Cascade, answers_of
from featherweight.cascade.course import Course
from featherweight.cascade.deciding import confidence, nothing
from featherweight.cascade.events import STUDENT
from featherweight.cascade.hashing import hashed
from featherweight.cascade.journal import Journal, journal_of
from featherweight.cascade.online import BATCH, Learner, Settings
from featherweight.cascade.online_state import line_of, resume, save
from featherweight.cascade.replay import question
from featherweight.cascade.rule import DeferralRule
from featherweight.cascade.rule_file import rule_json
from featherweight.cascade.stages import PARTS
from featherweight.cascade.trace import Attempt, Trace
from featherweight.engines.types import Engine, Generation, Request, failed
from featherweight.errors import EngineError
from featherweight.files import check_writable, locked

NAME = "online: words"
"""What the student is called where models are named."""
SAVED = 8 * BATCH  # requests between two times that the state is written

Price = Callable[[Engine, Generation], float | None]


class Passed(NamedTuple):
    """An answer, what it took, and how it was decided; `course` is `None` for a request refused.

    In the trace level -1 is the student, `score` is the estimated chance to agree with the last
    stage, `threshold` what it had to reach.
    """

    generation: Generation
    trace: Trace
    course: Course | None


def in_seconds(engine: Engine, generation: Generation) -> float:
    """What an answer cost, in seconds."""
    return generation.seconds


def learner_for(rule: DeferralRule, settings: Settings, state: Path) -> Learner:
    """The learner that `state` holds, or a new one, for the stages and scores of `rule`.

    Scores are counted from the rule's thresholds. Raises `CascadeError` as `resume` does.
    """
    thresholds = [stage.threshold for stage in rule.stages[:-1]]
    centres = [None if one is None else one.value for one in thresholds]
    return resume(state, len(rule.stages), settings, centres, about(rule))


def about(rule: DeferralRule) -> dict[str, Any]:
    """What of a rule a state is about: which models, asked how, by which score."""
    stages = []
    for stage, data in zip(rule.stages, rule_json(rule)["stages"], strict=True):
        known = PARTS if stage.engine != "openai" else ("spec",)
        identity = {part: stage.identity[part] for part in known if part in stage.identity}
        kept = ("engine", "template_sha256", "dtype", "decoding", "score", "threshold")
        stages.append({"identity": identity, **{name: data[name] for name in kept}})
    return {"stages": stages}


def learn_requests(
    cascade: Cascade,
    requests: Iterable[Request],
    state: Path,
    settings: Settings,
    cost: Price = in_seconds,
) -> Iterator[Passed]:
    """Answer `requests` in order and learn from them; `state` is read first and kept up to date.

    What was observed is in its journal before the answer is given out, so that a killed process
    forgets none; the state itself is written every `SAVED` requests and when the iterator ends or
    is closed. A request that is refused, or whose stage tells no log-probabilities, is answered
    with its error and teaches nothing. Raises `CascadeError` for a state that does not belong here,
    `OutputError` where it cannot be written or another process is learning with it.
    """
    check_writable(state.absolute().parent)
    busy = f"{state}: another run is learning with it; wait for it or name another file."
    with locked(state.with_name(f".{state.name}.lock"), busy):
        learner = learner_for(cascade.rule, settings, state)
        journal = Journal(state, save(learner, state))  # before anybody is paid
        iterator = iter(requests)
        written = learner.requests
        try:
            while batch := _batch(cascade, learner, iterator):
                for number in range(len(cascade.engines)):
                    _ask(cascade, number, [way for way in batch if way.asks(number)], cost)
                for way in batch:
                    passed = way.end()
                    if way.course is not None:
                        journal.add(line_of(way.course))
                        learner.observe(way.course)
                    if learner.requests - written >= SAVED:
                        journal.close()
                        journal = Journal(state, save(learner, state))
                        written = learner.requests
                    yield passed
        finally:
            journal.close()
            save(learner, state)
            journal_of(state).unlink(missing_ok=True)


def _batch(cascade: Cascade, learner: Learner, requests: Iterator[Request]) -> list["_Way"]:
    """Requests up to the next lesson, with those refused among them."""
    found: list[_Way] = []
    number = learner.requests
    for request in requests:
        asked = cascade.asked(request)
        if asked.result is not None:
            found.append(_Way(cascade, asked, None))
        else:
            course = learner.begin(number, hashed(question(request.prompt)))
            found.append(_Way(cascade, asked, course))
            number += 1
        if number % BATCH == 0:
            break
    return found


def _ask(cascade: Cascade, number: int, ways: Sequence["_Way"], cost: Price) -> None:
    """Stage `number` answers those who ask it."""
    engine = cascade.engines[number]
    requests = [way.asked.to(number) for way in ways]
    if requests:
        for way, answer in zip(ways, answers_of(engine, requests), strict=True):
            way.take(number, answer, cost(engine, answer))


class _Way:
    """A request, its course, and what was tried so far."""

    def __init__(self, cascade: Cascade, asked: Asked, course: Course | None) -> None:
        self.asked, self.course = asked, course
        self._cascade = cascade
        self._tried: dict[int, tuple[Attempt, Generation]] = {}
        self._error: str | None = None

    def asks(self, number: int) -> bool:
        """Whether this stage is to be asked."""
        return self.course is not None and self.course.next == number

    def take(self, number: int, generation: Generation, cost: float | None) -> None:
        """What stage `number` came to."""
        assert self.course is not None
        stage, name = self._cascade.rule.stages[number], self._cascade.engines[number].name
        request = replace(self.asked.request, top_logprobs=stage.top_logprobs)
        answer = replace(answer_of(generation, request), model=name)
        score, error = None, generation.error
        if error is None and stage.score is not None:
            try:
                if answer.failed:
                    error = nothing(name)
                else:
                    score = confidence(stage, answer)
            except EngineError as missing:  # the rule is not met: no other stage makes that good
                self._error = error = str(missing)
        attempt = Attempt(
            number,
            name,
            "deferred" if error is None else "failed",
            generation.prompt_tokens,
            generation.completion_tokens,
            generation.seconds,
            error=error,
        )
        self._tried[number] = attempt, generation
        if self._error is not None:
            self.course.cancel()
        else:
            self.course.take(None if error is not None else generation.text, score, cost)

    def end(self) -> Passed:
        """The answer, or why there is none."""
        course = self.course
        if course is None:
            assert self.asked.result is not None
            return Passed(self.asked.result, self.asked.trace, None)
        attempts = [self._with_trust(course, attempt) for attempt, _ in self._tried.values()]
        if course.guess is not None:
            student = Attempt(STUDENT, NAME, "deferred")
            attempts.insert(0, self._with_trust(course, student))
        trace = Trace(tuple(attempts), self._why(course, attempts))
        return Passed(self._generation(course, trace), trace, course)

    def _with_trust(self, course: Course, attempt: Attempt) -> Attempt:
        level = attempt.stage
        last = level == len(self._cascade.engines) - 1
        return replace(
            attempt,
            outcome="answered" if level == course.answered else attempt.outcome,
            score=course.trust.get(level),
            threshold=None if last else 1 - course.ahead[level + 1],
        )

    def _why(self, course: Course, attempts: Sequence[Attempt]) -> str | None:
        if course.answered is not None:
            return None
        told = "; ".join(
            f"stage {a.stage}, {a.model}, "
            + (f"failed: {a.error.rstrip('.')}" if a.error else "was not sure enough")
            for a in attempts
        )
        return self._error or f"{self._cascade.name}: no stage gave an answer: {told}."

    def _generation(self, course: Course, trace: Trace) -> Generation:
        """The answer; its usage is that of all who tried."""
        if course.answered is None:
            found = failed(self._cascade.name, trace.error or "")
        elif course.answered == STUDENT:
            found = Generation(course.text or "", None, None, None, "stop", 0, 0, 0.0, NAME)
        else:
            found = self._tried[course.answered][1]
        return replace(
            found,
            top_logprobs=self.asked.shown(found.top_logprobs),
            prompt_tokens=trace.prompt_tokens,
            completion_tokens=trace.completion_tokens,
            seconds=trace.seconds,
        )
