"""The decode loop: one batch of requests, each with its own length, stop strings and seed.

It is our own because three promises are hard to keep through transformers' `generate`: requests
of one batch differ in their settings; log-probabilities are the model's own, before any
temperature; and a row that is done leaves the batch.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from featherweight.engines.hf_model import Model
from featherweight.engines.hf_prompts import Encoded
from featherweight.engines.hf_vocabulary import Vocabulary
from featherweight.engines.text import TextHolder, repeats
from featherweight.engines.types import Delta, FinishReason, Request, TopLogprob, Watcher

NO_NUMBER = (
    "the model's output is not a number; its weights are broken or its precision is too narrow for "
    "it, so try dtype fp32."
)


@dataclass(eq=False)
class Row:
    """One request while it is being answered. `error` lacks the engine's name."""

    index: int
    request: Request
    prompt: Encoded
    strip_space: bool  # drop the space that SentencePiece puts before the first word
    watch: Watcher | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[tuple[TopLogprob, ...]] = field(default_factory=list)
    written: int = 0
    pending: str = ""
    sent: int = 0  # log-probabilities given out: only those of tokens that no stop string can cut
    finish: FinishReason | None = None
    error: str | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.holder = TextHolder(self.request.stop)
        self.random = random.Random(self.request.seed)

    @property
    def open(self) -> bool:
        return self.finish is None and self.error is None

    def feed(self, piece: bytes) -> None:
        if self.strip_space and piece:
            piece = piece.removeprefix(b" ")
            self.strip_space = False
        self.pending += self.holder.feed(piece)

    def cut(self) -> None:
        """Drop the tokens that a stop string cut off."""
        kept = self.holder.tokens_kept()
        del self.ids[kept:], self.logprobs[kept:], self.tops[kept:]

    def piece(self) -> Delta | None:
        """The text that became certain since the last piece, with its tokens; `None`: there is none
        yet, or the answer is done."""
        return self.delta(self.holder.tokens_shown()) if self.open and self.pending else None

    def delta(self, end: int) -> Delta:
        """The text that is certain and was not taken yet, with the tokens to `end`."""
        text, self.pending = self.pending, ""
        first, self.sent = self.sent, end
        tops = tuple(self.tops[first:end]) if self.request.top_logprobs else None
        return Delta(text, tuple(self.logprobs[first:end]), top_logprobs=tops)

    def watched(self) -> None:
        """Let the watch see what came; the answer is over where it says so."""
        if self.watch is not None and (piece := self.piece()) is not None and self.watch(piece):
            self.finish = "stop"


def decode(model: Model, vocabulary: Vocabulary, rows: Sequence[Row]) -> Iterator[None]:
    """Decode one batch to its end; each step fills `rows` by one token and then yields."""
    started = time.perf_counter()
    live = list(rows)
    try:
        state, logits = model.prefill([row.prompt for row in live])
        while True:
            tokens = _choose(live, logits, vocabulary)
            now = time.perf_counter() - started
            for row in live:
                row.seconds = now
            yield
            still = [i for i, row in enumerate(live) if row.open]
            if not still:
                return
            if len(still) < len(live):
                live = [live[i] for i in still]
                state.keep(still)
            logits = model.advance(state, [tokens[i] for i in still])
    except (torch.OutOfMemoryError, MemoryError):
        for row in rows:
            if row.open:
                row.error = (
                    f"out of memory with {len(rows)} requests at once; "
                    "lower batch_tokens or shorten the prompts."
                )


def _choose(rows: Sequence[Row], logits: torch.Tensor, vocabulary: Vocabulary) -> list[int]:
    """Pick the next token of every row from `logits` [B, V] and write it into the row."""
    logprobs = torch.log_softmax(logits, dim=-1)
    finite = torch.isfinite(logprobs.amax(dim=-1)).tolist()
    allowed = logprobs
    if any(blocked := [repeats(row.ids, row.request.no_repeat) for row in rows]):
        allowed = logprobs.clone()  # what is told stays the model's own
        for i, ids in enumerate(blocked):
            allowed[i, list(ids)] = -torch.inf
    tokens: list[int] = allowed.argmax(dim=-1).tolist()
    for i, row in enumerate(rows):
        if row.request.temperature > 0 and finite[i]:
            tokens[i] = _sample(allowed[i], row.request.temperature, row.random.random())
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
    values = chosen.tolist()
    for i, row in enumerate(rows):
        if finite[i]:
            _add(row, tokens[i], values[i], logprobs[i], vocabulary)
        else:
            row.error = NO_NUMBER
    return tokens


def _add(
    row: Row, token: int, logprob: float, logprobs: torch.Tensor, vocabulary: Vocabulary
) -> None:
    ended = token in vocabulary.end
    row.written += 1
    row.ids.append(token)
    row.logprobs.append(logprob)
    if row.request.top_logprobs:
        row.tops.append(_top(logprobs, row.request.top_logprobs, vocabulary))
    row.feed(b"" if token in vocabulary.special else vocabulary.bytes_of(token))
    if row.holder.stopped:
        row.cut()
        row.finish = "stop"
    elif ended or row.written >= row.request.max_tokens:
        row.finish = "stop" if ended else "length"
        row.pending += row.holder.finish()


def _top(logprobs: torch.Tensor, k: int, vocabulary: Vocabulary) -> tuple[TopLogprob, ...]:
    values, ids = logprobs.topk(k)
    return tuple(
        TopLogprob(token, vocabulary.bytes_of(token), value)
        for token, value in zip(ids.tolist(), values.tolist(), strict=True)
    )


def _sample(logprobs: torch.Tensor, temperature: float, uniform: float) -> int:
    """Inverse of the cumulative distribution at `uniform`, in float64 on `logprobs` [V]."""
    weights = torch.softmax(logprobs.double() / temperature, dim=-1).cumsum(-1)
    at = torch.searchsorted(weights, weights[-1] * uniform, right=True)
    return min(int(at), len(weights) - 1)
