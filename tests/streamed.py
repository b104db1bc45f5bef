"""An engine that writes given tokens with given log-probabilities, the way real engines do:
stop strings, the end token, a limit, streams that hold back what a stop string may still cut."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from featherweight.engines import Delta, Generation, Prompt, Request, TopLogprob
from featherweight.engines.text import TextHolder
from featherweight.engines.types import FinishReason, failed
from featherweight.errors import EngineError


@dataclass(frozen=True)
class Token:
    """`chances` are the likeliest alternatives', the first the token's own."""

    piece: bytes
    chances: tuple[float, ...] = (0.9, 0.05)
    end: bool = False

    @property
    def logprob(self) -> float:
        return math.log(self.chances[0])

    def tops(self, k: int) -> tuple[TopLogprob, ...]:
        return tuple(TopLogprob(None, b"", math.log(p)) for p in self.chances[:k])


END = Token(b"", (0.5, 0.25), end=True)


def words(*chances: float, end: bool = True) -> list[Token]:
    """A word for each probability, then the end token."""
    tokens = [Token(f" w{i}".encode(), (p, (1 - p) / 2)) for i, p in enumerate(chances)]
    return [*tokens, END] if end else tokens


@dataclass
class StreamedEngine:
    """`script` says what to write to a request; `fails_after` so many tokens it breaks.

    `written` counts the tokens that it computed, `closed_streams` those closed before their end.
    """

    script: Callable[[Request], Sequence[Token]]
    name: str = "small"
    logprobs: bool = True
    gives_tops: bool = True
    fails_after: int | None = None
    context_length: int = 4096
    counts_tokens: bool = True
    params: int | None = 135_000_000
    attention_width: int | None = None
    asked: list[Request] = field(default_factory=list)
    written: int = 0
    closed_streams: int = 0
    closed: bool = False

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        self.asked.append(request)
        holder = TextHolder(request.stop)
        logprobs: list[float] = []
        tops: list[tuple[TopLogprob, ...]] = []
        finish: FinishReason = "stop"
        sent, pending, count = 0, "", 0
        done = False
        try:
            for token in self.script(request):
                if count == self.fails_after:
                    raise EngineError(f"{self.name}: it broke.")
                count += 1
                self.written += 1
                logprobs.append(token.logprob)
                tops.append(token.tops(request.top_logprobs))
                pending += holder.feed(token.piece)
                if holder.stopped:
                    kept = holder.tokens_kept()
                    del logprobs[kept:], tops[kept:]
                    break
                if token.end or count == request.max_tokens:
                    finish = "stop" if token.end else "length"
                    pending += holder.finish()
                    break
                if pending:
                    certain = holder.tokens_shown()
                    yield self._delta(pending, logprobs[sent:certain], tops[sent:certain], request)
                    pending, sent = "", certain
            done = True
            last = self._delta(pending, logprobs[sent:], tops[sent:], request)
            generation = Generation(
                text=holder.text,
                token_ids=None,
                token_logprobs=tuple(logprobs) if self.logprobs else None,
                top_logprobs=tuple(tops) if request.top_logprobs and self.gives_tops else None,
                finish_reason=finish,
                prompt_tokens=self.count_tokens(request.prompt),
                completion_tokens=count,
                seconds=0.25,
                model=self.name,
            )
            yield Delta(last.text, last.token_logprobs, generation, last.top_logprobs)
        finally:
            self.closed_streams += not done

    def _delta(
        self,
        text: str,
        logprobs: Sequence[float],
        tops: Sequence[tuple[TopLogprob, ...]],
        request: Request,
    ) -> Delta:
        told = tuple(tops) if request.top_logprobs and self.gives_tops else None
        return Delta(text, tuple(logprobs) if self.logprobs else None, top_logprobs=told)

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        for request in requests:
            try:
                *_, last = self.stream(request)
            except EngineError as error:
                yield failed(self.name, str(error), 0.125, self.count_tokens(request.prompt))
                continue
            assert last.generation is not None
            yield last.generation

    async def astream(self, request: Request) -> AsyncGenerator[Delta, None]:
        deltas = self.stream(request)
        try:
            for delta in deltas:
                await asyncio.sleep(0)
                yield delta
        finally:
            deltas.close()

    def count_tokens(self, prompt: Prompt) -> int:
        texts = [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt]
        return 1 + sum(len(text.split()) for text in texts)

    def score(self, pairs: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        raise NotImplementedError

    def encode(self, text: str) -> tuple[int, ...]:
        raise NotImplementedError

    def score_tokens(
        self, rows: Iterable[Sequence[int]], start: bool = False, known: int = 1
    ) -> Iterator[tuple[float, ...]]:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True
