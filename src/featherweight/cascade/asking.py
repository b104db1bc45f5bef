"""One request on its way through the stages: who was asked, what it cost, who answered."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import orjson

from featherweight.cascade.answers import answer_of
from featherweight.cascade.deciding import Watch, confidence, decided_at, nothing
from featherweight.cascade.rule import StageRule
from featherweight.cascade.trace import Attempt, Trace
from featherweight.engines.types import Generation, Prompt, Request, TopLogprob, failed
from featherweight.errors import EngineError


def prompt_key(prompt: Prompt) -> str:
    """What a question is known by where scores tie: the sha256 of its prompt as JSON."""
    return hashlib.sha256(orjson.dumps(prompt)).hexdigest()


class Asked:
    """The state of one request; `result` is there once nobody else needs to be asked.

    `names` are the engines', `name` is the cascade's.
    """

    def __init__(
        self, request: Request, stages: Sequence[StageRule], names: Sequence[str], name: str
    ) -> None:
        self.request = request
        self.result: Generation | None = None
        self._stages, self._names, self._name = stages, names, name
        self._attempts: list[Attempt] = []

    @cached_property
    def key(self) -> str:
        """What the question is known by."""
        return prompt_key(self.request.prompt)

    @property
    def trace(self) -> Trace:
        """What was tried so far."""
        return Trace(tuple(self._attempts), self.result.error if self.result else None)

    def to(self, number: int) -> Request:
        """The request as a stage gets it: with the alternatives that its score reads."""
        k = max(self.request.top_logprobs, self._stages[number].top_logprobs)
        return replace(self.request, top_logprobs=k)

    def shown(
        self, tops: tuple[tuple[TopLogprob, ...], ...] | None
    ) -> tuple[tuple[TopLogprob, ...], ...] | None:
        """Alternatives as many as the caller asked for, not as the score needs."""
        k = self.request.top_logprobs
        return tuple(one[:k] for one in tops) if tops is not None and k else None

    def watch(self, number: int) -> Watch | None:
        """Who looks at a stage's answer while it arrives; nobody at the last stage's.

        The most tokens it can have are the request's: an engine refuses a request whose prompt and
        max_tokens do not fit its context together, so the room there is never less.
        """
        stage = self._stages[number]
        if stage.score is None:
            return None
        return Watch(stage, self.key, self.request.max_tokens, self._names[number])

    # ---- what a stage came to

    def settle(self, number: int, generation: Generation) -> None:
        """A stage gave a whole answer, or says why it has none."""
        if generation.error is not None:
            spent = generation.prompt_tokens, generation.completion_tokens, generation.seconds
            self.fault(number, generation.error, *spent)
            return
        stage = self._stages[number]
        attempt = Attempt(
            number,
            self._names[number],
            "answered",
            generation.prompt_tokens,
            generation.completion_tokens,
            generation.seconds,
        )
        if stage.score is None or stage.threshold is None:
            self._accept(attempt, generation)
            return
        answer = answer_of(generation, replace(self.request, top_logprobs=stage.top_logprobs))
        if answer.failed:
            reason = nothing(self._names[number])
            self._failed(replace(attempt, outcome="failed", error=reason))
            return
        try:
            score = confidence(stage, answer)
        except EngineError as error:  # no fault that another stage makes good: the rule is not met
            self._attempts.append(replace(attempt, outcome="failed", error=str(error)))
            self.refuse(str(error))
            return
        attempt = replace(attempt, score=score, threshold=stage.threshold.value)
        if not stage.threshold.defers(score, self.key):
            self._accept(attempt, generation)
            return
        at = decided_at(stage, answer, self.key, self.request.max_tokens)
        self._attempts.append(replace(attempt, outcome="deferred", decided_at=at))

    def stop(
        self, number: int, watch: Watch, prompt_tokens: int, tokens: int, seconds: float
    ) -> None:
        """A stage was stopped: whatever it had written further, it would not have been trusted.

        `tokens` had come by then: some come several at a time.
        """
        tokens = max(tokens, watch.tokens)
        threshold = self._stages[number].threshold
        assert threshold is not None
        self._attempts.append(
            Attempt(
                number,
                self._names[number],
                "deferred",
                prompt_tokens,
                tokens,
                seconds,
                score=watch.bound,
                threshold=threshold.value,
                decided_at=watch.tokens,
                saved_tokens=max(self.request.max_tokens - tokens, 0),
            )
        )

    def cancel(
        self, number: int, prompt_tokens: int, completion_tokens: int, seconds: float
    ) -> None:
        """Nobody waits for the answer any more."""
        spent = prompt_tokens, completion_tokens, seconds
        self._attempts.append(Attempt(number, self._names[number], "cancelled", *spent))

    def fault(
        self, number: int, error: str, prompt_tokens: int, completion_tokens: int, seconds: float
    ) -> None:
        """A stage failed: the next one is asked, if there is one."""
        spent = prompt_tokens, completion_tokens, seconds
        self._failed(Attempt(number, self._names[number], "failed", *spent, error=error))

    def refuse(self, error: str) -> None:
        """There is no answer, for this reason; what was spent stays counted."""
        tokens = self.trace.completion_tokens
        found = failed(self._name, error, self.trace.seconds, self.trace.prompt_tokens)
        self.result = replace(found, completion_tokens=tokens)

    def _failed(self, attempt: Attempt) -> None:
        self._attempts.append(attempt)
        if attempt.stage == len(self._stages) - 1:
            told = "; ".join(
                f"stage {a.stage}, {a.model}, "
                + (f"failed: {a.error.rstrip('.')}" if a.error else "was not sure enough")
                for a in self._attempts
            )
            self.refuse(f"{self._name}: no stage gave an answer: {told}.")

    def _accept(self, attempt: Attempt, generation: Generation) -> None:
        """Its answer is the cascade's; its usage is that of all who tried."""
        self._attempts.append(attempt)
        trace = self.trace
        self.result = replace(
            generation,
            top_logprobs=self.shown(generation.top_logprobs),
            prompt_tokens=trace.prompt_tokens,
            completion_tokens=trace.completion_tokens,
            seconds=trace.seconds,
        )
