"""One model's tokens against another's, over the bytes of the text that both of them write."""

from collections.abc import Sequence

from featherweight.distill.data import Reader
from featherweight.errors import TrainingError

Span = tuple[int, int]


def byte_spans(reader: Reader, target: Sequence[int], text: str) -> list[Span]:
    """Where each token of `target` (without its end token) lies in `text`, in UTF-8 bytes.

    Raises `TrainingError` where the tokens do not spell the text (a tokenizer that normalises).
    """
    pieces = [reader.bytes_of(token) for token in target]
    raw, joined = text.encode(), b"".join(pieces)
    # SentencePiece begins a text with a space of its own; a token may straddle into the prompt
    offset = len(joined) - len(raw)
    if offset < 0 or not joined.endswith(raw):
        raise TrainingError(
            f"{reader.name}: its tokens do not spell the target {text[:40]!r}... byte for byte, so "
            "they cannot be compared with another model's; choose a model of the same family."
        )
    spans, at = [], -offset
    for piece in pieces:
        spans.append((max(at, 0), at + len(piece)))
        at += len(piece)
    return spans


def carried(bits: Sequence[bool], of: Sequence[Span], to: Sequence[Span]) -> list[bool]:
    """For each span of `to`: are the bits of all spans of `of` that overlap it true?

    Both cover the same bytes. An empty span stands for the byte that it begins at, and at the end
    of the text for the last one.
    """
    found = []
    for start, end in to:
        over = [
            bit
            for bit, (a, b) in zip(bits, of, strict=True)
            if a < max(end, start + 1) and b > start
        ]
        found.append(all(over or bits[-1:]))
    return found
