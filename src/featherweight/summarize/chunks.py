"""Cut a transcript into pieces that a model can read, losing nothing.

Chunks end between turns. A turn that is too long for any chunk is cut between sentences, a
sentence that is too long between words, a word that is too long between characters. Whether a text
fits is asked of the model's own tokenizer, not guessed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

from featherweight.errors import FeatherweightError
from featherweight.retrieve.terms import terms
from featherweight.summarize.sentences import sentences
from featherweight.transcript.types import Transcript, Turn

Fits = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Piece:
    """A turn, or a part of one, as characters [start, end) of its text."""

    turn: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive pieces. `text` is what the model reads."""

    pieces: tuple[Piece, ...]
    text: str

    @property
    def turns(self) -> tuple[int, ...]:
        """Turn numbers in the chunk, in order, each once."""
        return tuple(dict.fromkeys(piece.turn for piece in self.pieces))


def cut(
    transcript: Transcript,
    fits: Fits,
    turns: Sequence[int] | None = None,
    by_topic: bool = False,
) -> list[Chunk]:
    """Chunks of `transcript` (of the given turn numbers only, where given), in order.

    Every turn is in at least one chunk, empty ones too. With `by_topic` a chunk may end earlier
    than it must, where the words before and after have least in common (after Hearst 1997,
    TextTiling). Raises `FeatherweightError` where not even one character fits.
    """
    chosen = range(len(transcript.turns)) if turns is None else turns
    pieces = [Piece(turn, 0, len(transcript.turns[turn].text)) for turn in chosen]
    words = _Words(transcript) if by_topic else None
    chunks: list[Chunk] = []
    first, guess = 0, 16
    while first < len(pieces):
        end = _longest(transcript, pieces, first, guess, fits)
        if end == first:
            pieces[first : first + 1] = _split(transcript, pieces[first])
            continue
        guess = end - first
        if words is not None and end < len(pieces):
            end = words.valley(pieces, first, end)
        chunks.append(Chunk(tuple(pieces[first:end]), render(transcript, pieces[first:end])))
        first = end
    return chunks


def render(transcript: Transcript, pieces: Sequence[Piece]) -> str:
    """What the model reads: a line for each voice in turn, `Speaker: text`."""
    lines: list[str] = []
    last: tuple[str | None] | None = None
    for piece in pieces:
        turn = transcript.turns[piece.turn]
        text = " ".join(turn.text[piece.start : piece.end].split())
        if not text:
            continue
        if last == (turn.speaker,):
            lines[-1] += f" {text}"
        else:
            lines.append(f"{turn.speaker}: {text}" if turn.speaker else text)
            last = (turn.speaker,)
    return "\n".join(lines)


def _longest(
    transcript: Transcript, pieces: Sequence[Piece], first: int, guess: int, fits: Fits
) -> int:
    """The largest `end` for which pieces[first:end] fit; `first` where not even one does.

    Gallops from a guess, then halves: few questions to the tokenizer.
    """

    def good(end: int) -> bool:
        return fits(render(transcript, pieces[first:end]))

    last = len(pieces)
    low, high = first, last + 1  # good(low), not good(high)
    step, end = 1, min(first + guess, last)
    if good(end):
        low = end
        while low < last:
            end = min(low + step, last)
            if not good(end):
                high = end
                break
            low, step = end, step * 2
    else:
        high = end
        while high - first > 1:
            end = max(high - step, first + 1)
            if good(end):
                low = end
                break
            high, step = end, step * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return min(low, last)


def _split(transcript: Transcript, piece: Piece) -> list[Piece]:
    """Two or more smaller pieces that hold every character of `piece` but white space."""
    text = transcript.turns[piece.turn].text[piece.start : piece.end]
    ranges = sentences(text)
    if len(ranges) < 2:
        middle = len(text) // 2
        space = text.rfind(" ", 1, middle + 1)
        at = space if space > 0 else middle
        if at < 1:
            raise FeatherweightError(
                "the model's context is too small for this instruction and any text at all; "
                "choose a model with a longer context or a shorter query."
            )
        ranges = [(0, at), (at, len(text))]
    return [Piece(piece.turn, piece.start + start, piece.start + end) for start, end in ranges]


class _Words:
    """Which words each turn adds, to see where the talk changes."""

    reach = 12  # turns on either side of a boundary
    earliest = 0.6  # share of a chunk that must lie before a boundary

    def __init__(self, transcript: Transcript) -> None:
        self._of = [Counter(terms(turn.text)) for turn in transcript.turns]
        self._turns: Sequence[Turn] = transcript.turns

    def valley(self, pieces: Sequence[Piece], first: int, end: int) -> int:
        """The boundary in the last part of pieces[first:end] with the least similar sides."""
        start = first + max(1, round((end - first) * self.earliest))
        found = range(start, end + 1)
        return min(found, key=lambda at: (self._similarity(pieces, at), -at))

    def _similarity(self, pieces: Sequence[Piece], at: int) -> float:
        before, after = (
            sum((self._of[p.turn] for p in side), Counter[str]())
            for side in (pieces[max(0, at - self.reach) : at], pieces[at : at + self.reach])
        )
        shared = sum(count * after[word] for word, count in before.items())
        size = sqrt(sum(c * c for c in before.values()) * sum(c * c for c in after.values()))
        return shared / size if size else 0.0
