"""What answering one request took: every attempt, also those whose text nobody sees."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["answered", "deferred", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One stage's try at a request.

    `score` is the answer's, or where it was stopped early the highest that it could still have
    become; `None` where the stage has none (the last) or failed. Tokens and seconds are what was
    spent; of an answer that was stopped or cancelled, the tokens that had come by then. The
    prompt's are 0 where nobody told: a cancelled stage, a stopped one that cannot count. A deferred
    answer was sure to be deferred after `decided_at` tokens, `None` where only its end decided.
    `saved_tokens` were allowed and never written because it was stopped there: at most so many,
    since it might have ended sooner.
    """

    stage: int
    model: str
    outcome: Outcome
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    score: float | None = None
    threshold: float | None = None
    decided_at: int | None = None
    saved_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's attempts in order; none where the request itself was refused.

    `error` says why there is no answer, `None` where there is one or nobody waited for it.
    """

    attempts: tuple[Attempt, ...]
    error: str | None = None

    @property
    def answered(self) -> Attempt | None:
        """The attempt whose answer was given."""
        return next((a for a in self.attempts if a.outcome == "answered"), None)

    @property
    def prompt_tokens(self) -> int:
        """Tokens read by all stages together."""
        return sum(attempt.prompt_tokens for attempt in self.attempts)

    @property
    def completion_tokens(self) -> int:
        """Tokens written by all stages together."""
        return sum(attempt.completion_tokens for attempt in self.attempts)

    @property
    def seconds(self) -> float:
        """Time spent in all stages together."""
        return sum(attempt.seconds for attempt in self.attempts)
