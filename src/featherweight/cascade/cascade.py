"""Engines behind one another: the cheap one answers, the next is asked where a rule doubts it.

A `Cascade` is an `Engine`, so nobody downstream asks how many models there are. Which stage
answered is `Generation.model`; what all of them cost is in its token counts and seconds, which are
sums over every attempt, and stage by stage in a `Trace`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing
from itertools import islice
from typing import NoReturn

from featherweight.cascade.asking import Asked
from featherweight.cascade.deciding import Watch
from featherweight.cascade.rule import DeferralRule
from featherweight.cascade.stages import check_number, check_opened
from featherweight.cascade.streaming import Relay
from featherweight.cascade.trace import Trace
from featherweight.engines.text import check_request
from featherweight.engines.types import Delta, Engine, Generation, Prompt, Request, Watched, failed
from featherweight.errors import CascadeError, EngineError

WINDOW = 64
"""Requests that are on their way at once: a stage gets those of a window that the one before
passed on, as one batch."""


class Cascade:
    """`engines`, cheapest first, and the rule that says whose answers are trusted.

    That the engines are the rule's is checked as far as it costs nothing (their number, their chat
    templates); `check_stages` and `open_cascade` check their weights too. The cascade closes them.

    A request must have the rule's decoding: temperature and stop strings. `max_tokens` is the
    request's own: the decision is exact for any, but what was promised was measured with the
    rule's. A stage that fails is passed over, one that tells no log-probabilities is an error.

    `hold` says what a stream shows: see `streaming`. Batched answers are stopped early where the
    engine can do that (`Watched`); else a trace tells after how many tokens they could have been.

    Raises `CascadeError` where engines and rule do not go together.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        rule: DeferralRule,
        *,
        name: str | None = None,
        hold: bool = True,
    ) -> None:
        check_number(rule, engines)
        if any(isinstance(engine, Cascade) for engine in engines):
            raise CascadeError("a cascade is no stage of another; put its stages into one rule.")
        for number, (stage, engine) in enumerate(zip(rule.stages, engines, strict=True)):
            check_opened(number, stage, engine)
        self.engines, self.rule, self.hold = tuple(engines), rule, hold
        self._names = [engine.name for engine in engines]
        self._name = name or f"cascade of {', '.join(self._names)}"

    # ---- what an engine tells

    @property
    def name(self) -> str:
        """The spec, `cascade:DIR`, or the engines' names."""
        return self._name

    @property
    def context_length(self) -> int:
        """The smallest of its stages': what fits there fits everywhere."""
        return min(engine.context_length for engine in self.engines)

    @property
    def params(self) -> None:
        """None: how many a token goes through depends on the stage; see the trace."""
        return None

    @property
    def attention_width(self) -> None:
        """None, as `params`."""
        return None

    @property
    def counts_tokens(self) -> bool:
        """Whether every stage counts."""
        return all(engine.counts_tokens for engine in self.engines)

    def count_tokens(self, prompt: Prompt) -> int:
        """The most that any stage would read; raises `EngineError` where one cannot count."""
        return max(engine.count_tokens(prompt) for engine in self.engines)

    def score(self, pairs: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        """Not offered: a given text has a probability under each stage, and none under all."""
        self._no_probabilities()

    def encode(self, text: str) -> tuple[int, ...]:
        """Not offered, as `score`."""
        self._no_probabilities()

    def score_tokens(
        self, rows: Iterable[Sequence[int]], start: bool = False, known: int = 1
    ) -> Iterator[tuple[float, ...]]:
        """Not offered, as `score`."""
        self._no_probabilities()

    def _no_probabilities(self) -> NoReturn:
        raise EngineError(
            f"{self._name}: a cascade gives no log-probabilities of a given text; score with one "
            f"of its stages: {', '.join(self._names)}."
        )

    def close(self) -> None:
        """Close all stages."""
        for engine in self.engines:
            engine.close()

    # ---- whole answers

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """Answer many requests, in the order given; one failure does not stop the rest."""
        for generation, _ in self.generate_traced(requests):
            yield generation

    def generate_traced(self, requests: Iterable[Request]) -> Iterator[tuple[Generation, Trace]]:
        """`generate`, each answer with what it took."""
        iterator = iter(requests)
        while window := list(islice(iterator, WINDOW)):
            yield from self._window([self.asked(request) for request in window])

    def _window(self, window: Sequence[Asked]) -> Iterator[tuple[Generation, Trace]]:
        """Stage after stage; an answer is given out as soon as it and those before it are there."""
        open_ones = [asked for asked in window if asked.result is None]
        given = 0
        for number in range(len(self.engines)):
            if not open_ones:
                break
            passed_on = []
            requests = [asked.to(number) for asked in open_ones]
            watches = [asked.watch(number) for asked in open_ones]
            with closing(answers_of(self.engines[number], requests, watches)) as answers:
                for asked, watch, generation in zip(open_ones, watches, answers, strict=True):
                    if watch is not None and watch.stopped and generation.error is None:
                        spent = generation.prompt_tokens, generation.completion_tokens
                        asked.stop(number, watch, *spent, generation.seconds)
                    else:
                        asked.settle(number, generation)
                    if asked.result is None:
                        passed_on.append(asked)
                    while given < len(window) and (result := window[given].result) is not None:
                        yield result, window[given].trace
                        given += 1
            open_ones = passed_on
        for asked in window[given:]:
            assert asked.result is not None
            yield asked.result, asked.trace

    # ---- streams

    def stream(
        self, request: Request, record: Callable[[Trace], None] | None = None
    ) -> Generator[Delta, None, None]:
        """Answer piece by piece; a stage that cannot be trusted any more is stopped.

        `record` gets the trace when the stream ends, also where it is closed before its end.
        Raises `EngineError` where `generate` would report.
        """
        asked = self.asked(request)
        relay = Relay(asked, len(self.engines), self.hold)
        number = 0
        try:
            for number, engine in enumerate(self.engines):
                if asked.result is not None:
                    break
                relay.begin(number)
                try:
                    with closing(engine.stream(asked.to(number))) as deltas:
                        for delta in deltas:
                            yield from relay.take(delta)
                            if relay.stopped:
                                break
                except EngineError as error:
                    relay.fault(error)
                relay.end(self._read(number, request) if relay.broken else 0)
            relay.raise_failure()
        finally:
            relay.abandon(self._read(number, request) if relay.broken else 0)
            if record is not None:
                record(asked.trace)

    async def astream(
        self, request: Request, record: Callable[[Trace], None] | None = None
    ) -> AsyncGenerator[Delta, None]:
        """`stream` for an event loop; closing or cancelling it stops the stage that is writing."""
        asked = self.asked(request)
        relay = Relay(asked, len(self.engines), self.hold)
        number = 0
        try:
            for number, engine in enumerate(self.engines):
                if asked.result is not None:
                    break
                relay.begin(number)
                try:
                    async with aclosing(engine.astream(asked.to(number))) as deltas:
                        async for delta in deltas:
                            for piece in relay.take(delta):
                                yield piece
                            if relay.stopped:
                                break
                except EngineError as error:
                    relay.fault(error)
                read = await asyncio.to_thread(self._read, number, request) if relay.broken else 0
                relay.end(read)
            relay.raise_failure()
        finally:
            read = 0
            try:  # aside: a server is asked for it, and the loop has others to serve
                if relay.broken:
                    read = await asyncio.to_thread(self._read, number, request)
            finally:
                relay.abandon(read)
                if record is not None:
                    record(asked.trace)

    # ---- one request

    def asked(self, request: Request) -> Asked:
        """The request at its beginning; refused where no stage could answer it by the rule."""
        asked = Asked(request, self.rule.stages, self._names, self._name)
        decoding = self.rule.stages[0].decoding
        try:
            check_request(self._name, request, blocks=True)
        except EngineError as error:
            asked.refuse(str(error))
            return asked
        for what, given, known in (
            ("temperature", request.temperature, decoding.temperature),
            ("stop", sorted(request.stop), sorted(decoding.stop)),
            ("no_repeat", request.no_repeat, 0),
        ):
            if given != known:
                asked.refuse(
                    f"{self._name}: the request's {what} is {given}, but its rule was made for "
                    f"{known}; ask with that, or calibrate a rule for this decoding."
                )
                break
        return asked

    def _read(self, number: int, request: Request) -> int:
        """Tokens of the prompt, for a stage that ended before it said so; 0: not known."""
        engine = self.engines[number]
        try:
            return engine.count_tokens(request.prompt) if engine.counts_tokens else 0
        except EngineError:
            return 0


def answers_of(
    engine: Engine, requests: Sequence[Request], watches: Sequence[Watch | None] = ()
) -> Generator[Generation, None, None]:
    """A stage's answer to each request; if it stops answering, what is left failed.

    `watches`, one each, stop answers of an engine that can do that in a batch.
    """
    answers: Iterator[Generation] = iter(())
    reason = f"{engine.name}: it gave fewer answers than it was asked for."
    given = 0
    try:
        if any(watches) and isinstance(engine, Watched):
            answers = engine.generate_watched(requests, [w.sees if w else None for w in watches])
        else:
            answers = engine.generate(requests)
        for answer in islice(answers, len(requests)):
            yield answer
            given += 1
    except EngineError as error:
        reason = str(error)
    finally:
        if isinstance(answers, Generator):
            answers.close()
    for _ in requests[given:]:
        yield failed(engine.name, reason)
