"""The shapes in which OpenAI-compatible servers are asked and answer; no answer is trusted."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featherweight.engines.text import find_stop, split_beginning
from featherweight.engines.types import FinishReason, Message, TopLogprob

# what servers call the two good endings; everything else is an error
FINISHED: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
}
REPORT = "report it to whoever runs the server"


class WireError(Exception):
    """What a server gave that is no answer, and what to do about it."""

    def __init__(self, what: str, advice: str = REPORT) -> None:
        super().__init__(what)
        self.advice = advice


@dataclass
class Answer:
    """One choice while it arrives: text, tokens, ending, usage."""

    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    tops: list[tuple[TopLogprob, ...]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    ending: str | None = None
    finish: FinishReason = "error"
    gaps: bool = False  # text came without log-probabilities
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def has_logprobs(self) -> bool:
        """Whether every piece of text came with its log-probabilities."""
        return not self.gaps and bool(self.logprobs)

    @property
    def has_ids(self) -> bool:
        return len(self.ids) == len(self.logprobs)

    def tokens_before(self, end: int) -> int:
        """How many tokens begin before byte `end` of the text."""
        start = count = 0
        for piece in self.pieces:
            if start >= end:
                break
            count += 1
            start += len(piece)
        return count

    def tokens_kept(self, stop: Sequence[str]) -> int:
        """How many tokens no stop string cut off; servers report the cut ones too."""
        cut = find_stop(b"".join(self.pieces), [s.encode() for s in stop])
        return len(self.pieces) if cut is None else self.tokens_before(cut)

    @property
    def written(self) -> int:
        """Tokens that the model wrote: the server's count, else those told of and an end token.

        Of a server that does not count, the end token is among those told of if the last of them
        adds nothing to the text.
        """
        if self.completion_tokens or not self.has_logprobs:
            return self.completion_tokens or len(self.logprobs)
        whole = b"".join(self.pieces).strip() == self.text.encode().strip()
        return len(self.logprobs) + (self.finish == "stop" and whole and self.pieces[-1] != b"")

    def check(self) -> None:
        """Settle `finish`; raise `WireError` for an answer that did not end well."""
        if self.ending is None:
            raise WireError("an answer that breaks off before its end", "try again")
        if self.ending not in FINISHED:
            advice = {
                "content_filter": "the server's filter stopped it, so change the prompt",
                "tool_calls": "choose a model that answers in text",
                "function_call": "choose a model that answers in text",
            }
            raise WireError(
                f"no whole answer but finish_reason {self.ending[:40]!r}",
                advice.get(self.ending, "try again"),
            )
        self.finish = FINISHED[self.ending]
        self.gaps = self.gaps or not self._tells_every_token()

    def _tells_every_token(self) -> bool:
        """Whether every token of the text has its log-probability; else none may be used.

        llama-server tells only the last token of a character that takes several, with the whole
        character as its bytes; vLLM's bytes of such tokens are wrong but it tells them all. So
        where the text has such characters the count decides, give or take the end token.
        """
        missing = self.completion_tokens - len(self.logprobs)
        if self.completion_tokens and 0 <= missing <= 1:
            return True
        covered = b"".join(self.pieces).lstrip().startswith(self.text.encode().lstrip())
        return covered and (self.text.isascii() or not self.completion_tokens)


def chat_fields(messages: Iterable[Message]) -> dict[str, Any]:
    """`messages` for a request, and that a beginning of the answer is to be continued."""
    found, beginning = split_beginning(list(messages))
    fields: dict[str, Any] = {"messages": [dict(message) for message in found]}
    if beginning:
        fields["messages"].append({"role": "assistant", "content": beginning})
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    return fields


def parse_choice(answer: Answer, choice: Any, raw: bool) -> str:
    """Add one choice (whole, or a chunk of a stream) to `answer`; return its text."""
    if not isinstance(choice, dict):
        raise WireError("a choice that is not a JSON object")
    part = choice if raw else choice.get("message", choice.get("delta"))
    if not isinstance(part, dict):
        part = {}
    if part.get("refusal"):
        raise WireError("a refusal", "change the prompt")
    text = _text(part.get("text" if raw else "content"))
    before = len(answer.logprobs)
    _parse_logprobs(answer, choice.get("logprobs"))
    if text and len(answer.logprobs) == before:
        answer.gaps = True
    answer.text += text
    ending = choice.get("finish_reason")
    if ending is not None:
        answer.ending = str(ending)
    return text


def parse_usage(answer: Answer, usage: Any) -> None:
    """Token counts, where the server gives them."""
    if isinstance(usage, dict):
        answer.prompt_tokens = _count(usage.get("prompt_tokens"))
        answer.completion_tokens = _count(usage.get("completion_tokens"))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        # half of a surrogate pair is legal JSON and no text
        return content.encode("utf-8", "replace").decode()
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    raise WireError("an answer whose content is not text")


def _parse_logprobs(answer: Answer, logprobs: Any) -> None:
    """Chat shape {content: [...]} (llama-server uses it everywhere) or the older parallel lists."""
    if not isinstance(logprobs, dict):
        return
    content = logprobs.get("content")
    if isinstance(content, list):
        for entry in content:
            if not isinstance(entry, dict):
                raise WireError("a log-probability that is not a JSON object")
            one, others = _entry(entry), entry.get("top_logprobs") or []
            if not isinstance(others, list) or not all(isinstance(top, dict) for top in others):
                raise WireError("top log-probabilities that are not a list of JSON objects")
            _add(answer, one, tuple(_entry(top, True) for top in others))
    elif isinstance(tokens := logprobs.get("tokens"), list):
        values = logprobs.get("token_logprobs")
        tops = logprobs.get("top_logprobs") or [{}] * len(tokens)
        if not isinstance(values, list) or not isinstance(tops, list):
            raise WireError("log-probabilities that are not a list")
        if not len(values) == len(tokens) == len(tops):
            raise WireError("lists of tokens and log-probabilities of different lengths")
        if not all(top is None or isinstance(top, dict) for top in tops):
            raise WireError("top log-probabilities that are not JSON objects")
        for token, value, top in zip(tokens, values, tops, strict=True):
            others = (top or {}).items()
            _add(
                answer,
                TopLogprob(None, _bytes(token, None), _logprob(value)),
                tuple(TopLogprob(None, _bytes(t, None), _logprob(v, True)) for t, v in others),
            )


def _add(answer: Answer, chosen: TopLogprob, tops: tuple[TopLogprob, ...]) -> None:
    answer.pieces.append(chosen.bytes)
    answer.logprobs.append(chosen.logprob)
    answer.tops.append(tops)
    if chosen.id is not None:
        answer.ids.append(chosen.id)


def _entry(entry: Any, alternative: bool = False) -> TopLogprob:
    if not isinstance(entry, dict):
        raise WireError("an alternative token that is not a JSON object")
    token_id = entry.get("id")
    return TopLogprob(
        token_id if isinstance(token_id, int) else None,
        _bytes(entry.get("token"), entry.get("bytes")),
        _logprob(entry.get("logprob"), alternative),
    )


def _bytes(token: Any, values: Any) -> bytes:
    """The token's bytes: stated ones, else its text as UTF-8."""
    if isinstance(values, list) and values:
        try:
            return bytes(values)
        except (TypeError, ValueError):
            raise WireError("token bytes that are not numbers from 0 to 255") from None
    return token.encode("utf-8", "replace") if isinstance(token, str) else b""


def _logprob(value: Any, alternative: bool = False) -> float:
    """A natural log; an alternative may be impossible (-inf), the chosen token may not."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        if number < 1e-3 and (math.isfinite(number) or (alternative and number < 0)):
            return min(number, 0.0)  # rounding puts a certain token a hair above zero
    raise WireError(
        f"a log-probability of {value!r}", f"{REPORT}, or turn log-probabilities off there"
    )
