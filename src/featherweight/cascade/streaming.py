"""A stream of a cascade, piece by piece, for loops that wait and loops that await alike.

A stream shows the text of one stage only. Held back (`hold`), a stage's pieces are shown when its
answer is accepted, which for most scores is when its last token is in; only the last stage, whom
nobody overrules, is shown as it writes. Not held back, the first stage that writes is shown as it
writes: a draft, void if the final `Generation` comes from another stage.
"""

import time
from dataclasses import replace

from featherweight.cascade.asking import Asked
from featherweight.cascade.deciding import Watch
from featherweight.engines.types import Delta
from featherweight.errors import EngineError


class Relay:
    """Takes the pieces of one stage after the other, gives out those that may be shown."""

    def __init__(self, asked: Asked, stages: int, hold: bool) -> None:
        self._asked, self._last, self._hold = asked, stages - 1, hold
        self._shown: int | None = None  # the stage whose pieces were given out
        self._stage: int | None = None  # the one that is writing
        self._watch: Watch | None = None
        self._held: list[Delta] = []
        self._tokens = 0
        self._started = 0.0
        self._error = ""
        self.stopped = False

    def begin(self, number: int) -> None:
        """The next stage is asked."""
        self._stage = number
        self._watch = self._asked.watch(number)
        self._held, self._tokens, self.stopped = [], 0, False
        self._error = "its stream ended without a last piece."
        self._started = time.perf_counter()

    def take(self, delta: Delta) -> list[Delta]:
        """What may be shown now; `stopped` is set where the stage need not go on."""
        number = self._writing()
        self._tokens += len(delta.token_logprobs or ())
        if delta.generation is not None:
            self._asked.settle(number, delta.generation)
            self._stage = None
            return self._ending(number, delta)
        if self._watch is not None and self._watch.sees(delta):
            self.stopped = True
            return []
        delta = replace(delta, top_logprobs=self._asked.shown(delta.top_logprobs))
        if self._hold and number != self._last:
            self._held.append(delta)
            return []
        if self._shown not in (None, number):
            return []
        self._shown = number
        return [delta]

    def _ending(self, number: int, delta: Delta) -> list[Delta]:
        """The rest of an accepted answer; of any other nothing."""
        result = self._asked.result
        if result is None or result.error is not None:
            return []
        if self._shown not in (None, number):
            return [Delta("", generation=result)]
        tops = self._asked.shown(delta.top_logprobs)
        return [*self._held, replace(delta, generation=result, top_logprobs=tops)]

    @property
    def broken(self) -> bool:
        """Whether the stage began to write and did not end: its prompt was read, and paid for."""
        return self._stage is not None and (self.stopped or self._tokens > 0)

    def fault(self, error: EngineError) -> None:
        """The stage failed; after its last piece that changes nothing."""
        self._error = str(error)

    def end(self, prompt_tokens: int) -> None:
        """The stage's stream is closed: it gave its last piece, was stopped, or failed."""
        if self._stage is None:
            return
        if self.stopped and self._watch is not None:
            spent = prompt_tokens, self._tokens, self._seconds()
            self._asked.stop(self._stage, self._watch, *spent)
        else:
            spent = prompt_tokens, self._tokens, self._seconds()
            self._asked.fault(self._stage, self._error, *spent)
        self._stage = None

    def abandon(self, prompt_tokens: int) -> None:
        """The stream is closed; a stage that was still writing was paid for nothing."""
        if self._stage is not None:
            self._asked.cancel(self._stage, prompt_tokens, self._tokens, self._seconds())
            self._stage = None

    def raise_failure(self) -> None:
        """Raise `EngineError` where there is no answer."""
        result = self._asked.result
        if result is not None and result.error is not None:
            raise EngineError(result.error)

    def _writing(self) -> int:
        assert self._stage is not None
        return self._stage

    def _seconds(self) -> float:
        return time.perf_counter() - self._started
