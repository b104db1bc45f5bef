"""An engine whose answers a test decides; it holds callers to what a real engine would."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from featherweight.engines import Delta, Generation, Prompt, Request
from featherweight.engines.types import failed
from featherweight.errors import EngineError
from featherweight.transcript import Transcript, Turn

CAPABLE, SMALL = 3_000_000_000, 135_000_000

Answer = Callable[[Request, int], str | Generation]
"""What to say to a request that was asked so many times before."""


class ScriptedEngine:
    """Counts a token for each word and for each eight letters of a longer one."""

    def __init__(
        self,
        answer: Answer | str = "- The group settled the budget of the remote control.",
        *,
        params: int | None = CAPABLE,
        attention_width: int | None = None,
        context_length: int = 4096,
        counts_tokens: bool = True,
        name: str = "scripted",
    ) -> None:
        self.answer: Answer = answer if callable(answer) else lambda request, before: answer
        self.params = params
        self.attention_width = attention_width
        self.context_length = context_length
        self.counts_tokens = counts_tokens
        self.name = name
        self.asked: list[Request] = []
        self.too_long: list[Request] = []  # the caller should have known
        self.counted = 0
        self._times = Counter[str]()
        self.closed = False

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        for request in requests:
            text = text_of(request)
            before = self._times[text]
            self._times[text] += 1
            self.asked.append(request)
            prompt_tokens = tokens(request.prompt)
            if prompt_tokens + request.max_tokens > self.context_length:
                self.too_long.append(request)
                yield failed(self.name, f"{prompt_tokens} tokens do not fit the context.")
                continue
            answer = self.answer(request, before)
            yield said(answer, prompt_tokens) if isinstance(answer, str) else answer

    def count_tokens(self, prompt: Prompt) -> int:
        if not self.counts_tokens:
            raise EngineError(f"{self.name} cannot count tokens.")
        self.counted += 1
        return tokens(prompt)

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        raise NotImplementedError

    def astream(self, request: Request) -> AsyncGenerator[Delta, None]:
        raise NotImplementedError

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

    @property
    def read(self) -> str:
        """Everything it was asked, joined."""
        return "\n".join(text_of(request) for request in self.asked)


class ScoringEngine(ScriptedEngine):
    """Also knows how likely a text is: a token for each word of a continuation, and for each
    letter of running text."""

    def __init__(
        self,
        likelihood: Callable[[str, str], float] = lambda prompt, word: -len(word) / 4,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.likelihood = likelihood
        self.scored: list[tuple[Prompt, str]] = []
        self.rows: list[tuple[int, ...]] = []

    def score(self, pairs: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        for prompt, continuation in pairs:
            self.scored.append((prompt, continuation))
            text = text_of(Request(prompt))
            yield tuple(self.likelihood(text, word) for word in continuation.split())

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def score_tokens(
        self, rows: Iterable[Sequence[int]], start: bool = False, known: int = 1
    ) -> Iterator[tuple[float, ...]]:
        for row in rows:
            whole = (0, *row) if start else tuple(row)
            assert 1 <= len(whole) <= self.context_length
            self.rows.append(whole)
            yield tuple(letter_likelihood(token) for token in whole[known:])


def letter_likelihood(token: int) -> float:
    """What `ScoringEngine` says of a letter, whatever comes before it."""
    return -(1 + token % 7) / 8


def text_of(request: Request) -> str:
    """A request's prompt as one text."""
    if isinstance(request.prompt, str):
        return request.prompt
    return "\n".join(message["content"] for message in request.prompt)


def tokens(prompt: Prompt) -> int:
    texts = [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt]
    return sum(4 + sum(1 + len(word) // 8 for word in text.split()) for text in texts)


def said(text: str, prompt_tokens: int = 0, *, cut_off: bool = False) -> Generation:
    """An answer; `cut_off` where the model ran out of tokens."""
    reason = "length" if cut_off else "stop"
    return Generation(
        text, None, None, None, reason, prompt_tokens, len(text.split()), 0.0, "scripted"
    )


def meeting(*texts: str, speakers: Sequence[str | None] = ("Ann", "Bob", "Cem")) -> Transcript:
    """A transcript whose speakers take turns, a turn every ten seconds."""
    turns = tuple(
        Turn(speakers[number % len(speakers)], text, 10.0 * number, 10.0 * number + 9)
        for number, text in enumerate(texts)
    )
    return Transcript(turns, "meeting.vtt", "vtt")
