"""What every engine needs between tokens and text: checks, stop strings, whole characters.

All of it works on bytes, because a token may hold half a character; what is handed out is text.
"""

import codecs
import math
from collections.abc import Sequence

from featherweight.engines.types import Message, Prompt, Request
from featherweight.errors import ContextLengthError, EngineError

ZERO_WIDTH_SPACE = "\u200b"  # after a literal's first character: no control token any more
HALF = "a character in it is cut in half (a lone surrogate), repair the text first"


def check_request(model: str, request: Request, blocks: bool = False) -> None:
    """Raise `EngineError` for a request that no engine can answer, or this one cannot.

    `blocks` says that the engine can keep an answer from repeating itself (`no_repeat`).
    """
    wrong = _prompt_problem(request.prompt)
    if request.max_tokens < 1:
        wrong = f"max_tokens is {request.max_tokens}, give at least 1"
    elif not (math.isfinite(request.temperature) and request.temperature >= 0):
        wrong = f"temperature is {request.temperature}, give 0 (greedy) or more"
    elif request.top_logprobs < 0:
        wrong = f"top_logprobs is {request.top_logprobs}, give 0 or more"
    elif request.no_repeat < 0:
        wrong = f"no_repeat is {request.no_repeat}, give 0 or more"
    elif request.no_repeat and not blocks:
        wrong = (
            "a server cannot be told to block repetitions (no_repeat), use a local model for that"
        )
    elif isinstance(request.stop, str) or not all(request.stop):
        wrong = "stop must be a tuple of strings that are not empty"
    elif not all(map(_is_text, request.stop)):
        wrong = HALF
    if wrong:
        raise EngineError(f"{model}: the request cannot be answered: {wrong}.")


def check_prompt(model: str, prompt: Prompt) -> None:
    """Raise `EngineError` for a prompt that is neither text nor a list of messages."""
    if wrong := _prompt_problem(prompt):
        raise EngineError(f"{model}: the prompt cannot be read: {wrong}.")


def split_beginning(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """The messages to answer, and the beginning of the answer that the last one may be.

    An empty beginning is none: a template would leave out even the line that opens the answer.
    """
    found = list(messages)
    beginning = found.pop()["content"] if found[-1]["role"] == "assistant" else ""
    return found, beginning


def _prompt_problem(prompt: Prompt) -> str | None:
    if isinstance(prompt, str):
        return None if _is_text(prompt) else HALF
    if not prompt:
        return "the prompt has no messages, give at least one"
    for message in prompt:
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            return "every message needs a role and a content that are text"
        if not _is_text(message["content"]):
            return HALF
    return None


def _is_text(text: str) -> bool:
    """Whether UTF-8 can hold it; a lone surrogate (from a cut escape, say) it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_context(model: str, prompt_tokens: int, max_tokens: int, context_length: int) -> None:
    """Raise `ContextLengthError` where prompt and answer cannot fit together."""
    if prompt_tokens + max_tokens > context_length:
        raise ContextLengthError(model, prompt_tokens, max_tokens, context_length)


def repeats(ids: Sequence[int], n: int) -> set[int]:
    """The tokens that after `ids` would end an n-gram that stands in `ids` already."""
    if not n or len(ids) < n:
        return set()
    start = list(ids[len(ids) - n + 1 :])
    return {
        ids[at + n - 1] for at in range(len(ids) - n + 1) if list(ids[at : at + n - 1]) == start
    }


def find_stop(data: bytes, stop: Sequence[bytes]) -> int | None:
    """Where the stop string that is complete first begins in `data`, or `None`.

    Complete first, not begun first: so the cut does not depend on how the bytes were split into
    tokens. Of several that end together the longest wins.
    """
    found = [(at + len(s), at) for s in stop if (at := data.find(s)) >= 0]
    return min(found)[1] if found else None


class TextHolder:
    """Token bytes in, text that may be shown out; the same text however the bytes are split.

    Held back: bytes of an unfinished character, and a tail that may become a stop string. A stop
    string ends the text and is not part of it. Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [s.encode() for s in stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""
        self._starts: list[int] = []  # byte offset at which each fed piece begins
        self._fed = 0
        self._shown = 0  # bytes given to the decoder
        self.text = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Add one token's bytes; return the text that is now certain."""
        if self.stopped:
            return ""
        self._starts.append(self._fed)
        self._fed += len(piece)
        self._held += piece
        cut = find_stop(self._held, self._stop)
        if cut is not None:
            self.stopped = True
            return self._show(self._held[:cut], last=True)
        return self._show(self._held[: len(self._held) - self._tail()])

    def finish(self) -> str:
        """End of the answer: return what was held back."""
        return "" if self.stopped else self._show(self._held, last=True)

    def tokens_kept(self) -> int:
        """How many of the pieces fed have text before the stop string (all, if there was none)."""
        return self.tokens_shown() if self.stopped else len(self._starts)

    def tokens_shown(self) -> int:
        """How many of the pieces fed have given text already; no stop string can cut them."""
        return sum(start < self._shown for start in self._starts)

    def _tail(self) -> int:
        """Length of the longest end of the held bytes that begins a stop string."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-size:]
            if any(s.startswith(end) for s in self._stop):
                return size
        return 0

    def _show(self, data: bytes, last: bool = False) -> str:
        self._held = self._held[len(data) :]
        self._shown += len(data)
        text = self._decoder.decode(data, final=last)
        self.text += text
        return text
