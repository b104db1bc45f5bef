"""What every engine takes and gives: plain data, so that no caller asks which engine answers."""

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict, runtime_checkable

FinishReason = Literal["stop", "length", "error"]


class Message(TypedDict):
    """One chat message; `role` is system, user or assistant."""

    role: str
    content: str


Prompt = str | Sequence[Message]
"""Raw text goes to the model as it is; messages go through the model's own chat template.

A last message by the assistant is the beginning of the answer: the model continues it, and the
generation holds only what it added. Text in messages is never read as control tokens.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One generation to make. Temperature 0 is greedy decoding.

    With `no_repeat` n above 0 no n tokens in a row are written twice in one answer, though the
    prompt's may be (n-gram blocking, Paulus et al., arXiv 1705.04304): small models otherwise say
    one sentence for ever. llama.cpp does it up to the first character that takes several tokens; an
    engine that cannot do it refuses the request.
    """

    prompt: Prompt
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    top_logprobs: int = 0
    no_repeat: int = 0


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One alternative at one position: token id if the engine tells, its bytes, natural log."""

    id: int | None
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Generation:
    """What came back for one request.

    `token_logprobs` are natural logs under the model's own distribution (no temperature, no
    filter), the end token included when it was generated, tokens cut off by a stop string
    excluded; `None` where the engine gives none, never 0 or 1. `completion_tokens` counts what the
    model wrote, its end token and tokens cut off included; it and `prompt_tokens` are 0 where a
    server does not tell. A request that failed has `finish_reason="error"` and says why in `error`.
    `seconds` is this request's wall time, waiting in the engine's queue not counted where the
    engine can tell.
    """

    text: str
    token_ids: tuple[int, ...] | None
    token_logprobs: tuple[float, ...] | None
    top_logprobs: tuple[tuple[TopLogprob, ...], ...] | None
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    model: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a stream; the last one carries the whole `Generation` and may have no text.

    `token_logprobs` are those of tokens that no stop string can cut off any more, `top_logprobs`
    theirs where the request asked for some; put together they are the generation's.
    """

    text: str
    token_logprobs: tuple[float, ...] | None = None
    generation: Generation | None = None
    top_logprobs: tuple[tuple[TopLogprob, ...], ...] | None = None


class Engine(Protocol):
    """Where tokens come from. Engines are context managers in effect: call `close` when done."""

    @property
    def name(self) -> str:
        """The spec's short form, as printed to people and written to manifests."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may take together."""
        ...

    @property
    def params(self) -> int | None:
        """Number of parameters, or `None` where the engine cannot know."""
        ...

    @property
    def attention_width(self) -> int | None:
        """Sum over layers of query heads x head size, or `None` where it cannot be told.

        Attention over a context costs 4 x width operations a token and position of context.
        """
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """Answer many requests, batched, in the order given; one failure does not stop the rest."""
        ...

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Answer one request piece by piece; raises `EngineError` where `generate` would report."""
        ...

    def astream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """`stream` for an event loop; closing or cancelling it stops the model."""
        ...

    def score(self, pairs: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        """Natural-log probability of each token of every continuation, given its prompt.

        Prompt and continuation are tokenised joined and cut at the boundary; a token that straddles
        it belongs to the continuation. Raises `EngineError` by name where an engine cannot.
        """
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """The token ids of plain text, without special tokens, for `score_tokens`.

        Raises `EngineError` by name where an engine gives none.
        """
        ...

    def score_tokens(
        self, rows: Iterable[Sequence[int]], start: bool = False, known: int = 1
    ) -> Iterator[tuple[float, ...]]:
        """Natural-log probability of every token of each row but the first, given those before.

        With `start` the model's start token (its BOS, else its end token) goes in front, so that
        every token is scored. Of `known` tokens at the beginning none is: from them a prompt bank
        chooses, which must not see what is scored. Raises `EngineError` by name where an engine
        cannot.
        """
        ...

    @property
    def counts_tokens(self) -> bool:
        """Whether `count_tokens` works here; a remote server may offer no tokenizer.

        A caller that must split a text without it falls back on a cautious estimate and says so.
        """
        ...

    def count_tokens(self, prompt: Prompt) -> int:
        """Exact number of tokens that the model would read, chat template and BOS included.

        Never an estimate: raises `EngineError` by name where an engine cannot count.
        """
        ...

    def close(self) -> None:
        """Free the model or the connections; safe to call twice."""
        ...


Watcher = Callable[[Delta], bool]
"""Sees an answer's pieces as they become certain; true where it need not go on."""


@runtime_checkable
class Watched(Protocol):
    """An engine that can stop the answers of a batch one by one."""

    def generate_watched(
        self, requests: Sequence[Request], watches: Sequence[Watcher | None]
    ) -> Iterator[Generation]:
        """`generate`, with a watch for each request; one that it stopped holds what came till then.

        The last piece of an answer that ends by itself is not shown.
        """
        ...


def failed(
    request_model: str, error: str, seconds: float = 0.0, prompt_tokens: int = 0
) -> Generation:
    """The `Generation` of a request that failed."""
    return Generation(
        text="",
        token_ids=None,
        token_logprobs=None,
        top_logprobs=None,
        finish_reason="error",
        prompt_tokens=prompt_tokens,
        completion_tokens=0,
        seconds=seconds,
        model=request_model,
        error=error,
    )
