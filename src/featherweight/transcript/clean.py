"""Cleaning is a step of its own, so that what a file says and what a model reads stay apart.

Research corpora carry marks for noise, letters spelled with underscores, and spaces that a
tokeniser put before punctuation. Turn numbers survive: evidence cites them.
"""

import re
from dataclasses import replace

from featherweight.transcript.types import Transcript

_NOISE = re.compile(
    r"\{\s*(?:disfmarker|vocalsound|pause|gap|comment|nonvocalsound)\s*\}", re.IGNORECASE
)
# l_c_d_ and L_C_D_s, T_V_'s; without the last underscore only three letters or more: p_m_s.
_SPELLED = re.compile(r"(?<![^\W_])(?<!_)((?:[^\W\d_]_)+)([^\W\d_]?)(?![^\W_])(?!_)")
_LEADING = re.compile(r"^(?:[,.;:](?=\s|$)\s*)+")
_SPACED = re.compile(r"(?<=[^\s,.]) +[,.](?=\s|$)")
_JOINED = re.compile(r"(?<=[^\s,.])[,.](?=\s|$)")
_PUNCTUATION = re.compile(r"(?<! ) +([,.?!;:])(?=\s|$)")
_REPEATED = re.compile(r",(?: ?,)+")
_DANGLING = re.compile(r",(?=[.?!](?:\s|$))")
_CONTRACTION = re.compile(r"(?<=\w) +(n't|'(?:s|m|re|ll|ve|d))(?=[\s,.?!;:]|$)", re.IGNORECASE)
_CURRENCY = re.compile(r"([$£€]) +(?=\d)")
_OPENING = re.compile(r"\( +")
_CLOSING = re.compile(r"(?<! ) +\)")

_GAPS = (
    (_PUNCTUATION, r"\1"),
    (_REPEATED, ","),
    (_DANGLING, ""),
    (_CONTRACTION, r"\1"),
    (_CURRENCY, r"\1"),
    (_OPENING, "("),
    (_CLOSING, ")"),
)


def clean(transcript: Transcript) -> Transcript:
    """Remove noise marks, write spelled letters as words, close the gaps a tokeniser left.

    Spaces change only in a transcript whose commas and full stops mostly follow a space: people
    do not write so. A turn that was only noise stays, empty, so that numbers hold. Cleaning twice
    changes nothing more.
    """
    texts = [_without_marks(turn.text) for turn in transcript.turns]
    spaced = sum(len(_SPACED.findall(text)) for text in texts)
    joined = sum(len(_JOINED.findall(text)) for text in texts)
    if spaced > joined:
        texts = [_close_gaps(text) for text in texts]
    turns = tuple(
        turn if text == turn.text else replace(turn, text=text)
        for turn, text in zip(transcript.turns, texts, strict=True)
    )
    return replace(transcript, turns=turns)


def _without_marks(text: str) -> str:
    bare, count = _NOISE.subn(" ", text)
    bare = _SPELLED.sub(_as_word, bare)
    if not count:
        return bare
    bare = " ".join(bare.split())
    return _LEADING.sub("", bare) if any(map(str.isalnum, bare)) else ""


def _as_word(match: re.Match[str]) -> str:
    letters, last = match[1].replace("_", ""), match[2]
    if not last:
        return letters.upper()
    if last == "s" and letters.isupper():
        return letters + last  # T_V_s: more than one television
    return (letters + last).upper() if len(letters) > 1 else match[0]


def _close_gaps(text: str) -> str:
    """All rules, again while one makes work for another; each only shortens, so it ends."""
    before = ""
    while text != before:
        before = text
        for pattern, into in _GAPS:
            text = pattern.sub(into, text)
    return text
