"""One streamed answer of llama.cpp's server, chunk by chunk, to deltas and a `Generation`.

Stop strings are handled here, not by the server: the server reports a cut-off token with empty
bytes, which cannot be told from the end token. A character that takes several tokens (emoji, some
scripts) comes with the log-probability of the last of them only; the answer's log-probabilities
are then `None`, since a list with holes would be taken for the whole.

The server cannot keep an answer from repeating itself: its penalties read the prompt too. Where a
token would (`Request.no_repeat`), the answer drops it, stops the server and says what it must not
choose there; the caller asks for the rest, whose first token is then free of those, and so on.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from featherweight.engines.text import TextHolder, repeats
from featherweight.engines.types import (
    Delta,
    FinishReason,
    Generation,
    Request,
    TopLogprob,
    Watcher,
    failed,
)


class Answer:
    """Takes the chunks as the server calls it with them; `on_delta` gets what is certain.

    So does `watch`, which ends the answer where it says so, but for the last piece of all.

    While `rest` is true after a call to the server, it is to be asked for the rest: what follows
    `ids`, none of `banned` first.
    """

    def __init__(
        self,
        request: Request,
        stop: threading.Event,
        on_delta: Callable[[Delta], None],
        watch: Watcher | None = None,
    ) -> None:
        self._request = request
        self._stop = stop
        self._on_delta = on_delta
        self._watch = watch
        self._holder = TextHolder(request.stop)
        self._tokens: list[dict[str, Any]] = []
        self._sent = 0  # tokens whose log-probabilities were handed on
        self._written = 0  # tokens that the model wrote, those without log-probability included
        self._complete = True
        self._before = 0  # tokens written in earlier calls to the server
        self.rest = False
        self.banned: set[int] = set()
        self._finish: FinishReason | None = None
        self._error: str | None = None

    @property
    def ids(self) -> list[int]:
        """The tokens written so far, while the server told them all."""
        return [token["id"] for token in self._tokens]

    def ask(self) -> None:
        """A call to the server begins."""
        self.rest = False
        self._before = len(self._tokens)

    def __call__(self, chunk: dict[str, Any]) -> bool:
        """Take one chunk; True tells the server to stop."""
        if "error" in chunk:
            self._error = str(chunk["error"].get("message", chunk["error"])).rstrip(".")
            return True
        for choice in chunk["choices"]:
            self._take(choice, (chunk.get("timings") or {}).get("predicted_n"))
        # a program that ends waits for its threads, so they must not write to their limit
        ended = not threading.main_thread().is_alive()
        return self._stop.is_set() or self._finish is not None or self.rest or ended

    def _take(self, choice: dict[str, Any], written: int | None) -> None:
        tokens = (choice.get("logprobs") or {}).get("content") or []
        if written is not None and self._before + written != len(self._tokens) + len(tokens):
            self._complete = False
            if self.banned:  # the rest must not be without them; repetitions are let be from here
                self.banned, self.rest = set(), True
                return
        if self._repeats(tokens):
            return
        self._tokens += tokens
        text = given = choice.get("text") or ""
        if text or tokens:  # one token a chunk, as long as the answer is complete
            text = self._holder.feed(text.encode())
        if written is not None:
            self._written = self._before + written
        if self._holder.stopped:
            self._finish = "stop"
        elif reason := choice.get("finish_reason"):
            self._finish = "length" if reason == "length" else "stop"
            text += self._holder.finish()
        elif self.banned and given and self._written < self._request.max_tokens:
            # what was banned is so for one token only; the end token has no text
            self.banned, self.rest = set(), True
        if text:
            piece = self._delta(text, self._holder.tokens_shown())
            self._on_delta(piece)
            if self._watch is not None and self._finish is None and self._watch(piece):
                self._finish, self.rest = "stop", False

    def _repeats(self, tokens: Sequence[dict[str, Any]]) -> bool:
        """Whether `tokens` (one, or none) repeat; after a token that was not told, none does."""
        if not self._request.no_repeat or not self._complete or self.banned or not tokens:
            return False
        banned = repeats(self.ids, self._request.no_repeat)
        if tokens[0]["id"] in banned:
            self.banned, self.rest = banned, True
        return self.rest

    def _delta(self, text: str, upto: int) -> Delta:
        """`text` with the log-probabilities not handed on yet; those after `upto` may be cut."""
        if not self._complete:
            return Delta(text)
        fresh = self._tokens[self._sent : upto]
        self._sent = max(self._sent, upto)
        return Delta(text, _logprobs(fresh), top_logprobs=self._tops(fresh))

    def _tops(self, tokens: Sequence[dict[str, Any]]) -> tuple[tuple[TopLogprob, ...], ...] | None:
        count = self._request.top_logprobs
        return tuple(_alternatives(token, count) for token in tokens) if count else None

    def last(self, model: str, prompt_tokens: int, seconds: float) -> Delta:
        """What was not handed on yet, and the whole; an error or a cancellation is a failed one."""
        if self._error is not None or self._finish is None:
            reason = self._error or "stopped before the end"
            return Delta("", None, failed(model, f"{model}: {reason}.", seconds, prompt_tokens))
        kept = self._tokens[: self._holder.tokens_kept()] if self._complete else None
        generation = Generation(
            text=self._holder.text,
            token_ids=None if kept is None else tuple(t["id"] for t in kept),
            token_logprobs=None if kept is None else _logprobs(kept),
            top_logprobs=None if kept is None else self._tops(kept),
            finish_reason=self._finish,
            prompt_tokens=prompt_tokens,
            completion_tokens=self._written,
            seconds=seconds,
            model=model,
        )
        return replace(self._delta("", len(kept or ())), generation=generation)


def _logprobs(tokens: Sequence[dict[str, Any]]) -> tuple[float, ...]:
    return tuple(token["logprob"] for token in tokens)


def _alternatives(token: dict[str, Any], count: int) -> tuple[TopLogprob, ...]:
    return tuple(
        TopLogprob(t["id"], bytes(t["bytes"]), t["logprob"]) for t in token["top_logprobs"][:count]
    )
