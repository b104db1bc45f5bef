"""False points made from true ones: one number, one name or one negation changed.

Each function takes a true answer sentence and gives a changed one, or None where there is nothing
to change. The evidence for it is then found anew, as for any point.
"""

import random
import re
from collections.abc import Sequence

from featherweight.summarize.numbers import numbers
from featherweight.summarize.support import proper_names

_SMALL = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen
"""
WORDS = _SMALL.split()
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def changed_number(text: str, rng: random.Random) -> str | None:
    """Another number of like form and size: 25 -> 38, twelve -> seven, 12.5 -> 17.5."""
    found = numbers(text)
    if not found:
        return None
    start, end, value = rng.choice(found)
    old = text[start:end]
    for _ in range(50):
        new = _like(old, value, rng)
        if new is None:
            return None
        if [v for _, _, v in numbers(new)] != [value]:
            return text[:start] + new + text[end:]
    return None


def _like(old: str, value: float, rng: random.Random) -> str | None:
    if old[0].isdigit():
        digits = re.match(r"[\d,]+", old)
        whole = digits.group().rstrip(",")
        size = len(whole.replace(",", ""))
        low, high = (2, 9) if size == 1 else (10 ** (size - 1), 10**size - 1)
        new = rng.randint(low, high)
        return (f"{new:,}" if "," in whole else str(new)) + old[len(whole) :]
    parts = re.findall(r"[A-Za-z]+", old)
    number = [part for part in parts if part.lower() in WORDS or part.lower() in TENS]
    if not number:
        return None
    part = rng.choice(number)
    pool = (
        TENS if part.lower() in TENS else WORDS[2:13] if part.lower() in WORDS[:13] else WORDS[13:]
    )
    new = rng.choice(pool)
    return re.sub(rf"\b{part}\b", new.capitalize() if part[0].isupper() else new, old, count=1)


def speaker_mentions(text: str, speakers: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, speaker) where a speaker's name, without brackets, stands in the text."""
    found = []
    for name in speakers:
        plain = re.sub(r"\s*\(.*", "", name).strip()
        parts = plain.split()
        if not parts:
            continue
        # "Professor C" is also "the professor" or "C"; "Kirsty Williams AM" is "Kirsty Williams".
        forms = [plain]
        if len(parts) == 3 and parts[-1] == "AM":
            forms += [" ".join(parts[:2]), parts[0]]
        if len(parts) == 2 and len(parts[1]) == 1:
            forms += [parts[0], rf"{parts[1]}(?!['’.]\w)"]
        for form in forms:
            pattern = rf"\b{form if '(?' in form else re.escape(form)}\b"
            flags = 0 if len(form) == 1 or "(?" in form else re.IGNORECASE
            if at := re.search(pattern, text, flags):
                found.append((*at.span(), name))
                break
    return found


def changed_name(
    text: str, speakers: Sequence[str], elsewhere: Sequence[str], rng: random.Random
) -> str | None:
    """Another speaker of the same meeting for the named one; else another meeting's name."""
    mentions = speaker_mentions(text, speakers)
    if mentions:
        start, end, name = rng.choice(mentions)
        old = text[start:end]
        others = []
        for other in speakers:
            # "The professor" becomes "the grad", "C" becomes "D"; other names are put in whole.
            parts = re.sub(r"\s*\(.*", "", other).split()
            lettered = len(parts) == 2 and len(parts[1]) == 1
            new = " ".join(parts)
            if lettered and len(old) == 1:
                new = parts[1]
            elif lettered and " " not in old:
                new = parts[0]
            if new and other != name and new.casefold() not in text.casefold():
                others.append(new)
        if others:
            new = rng.choice(others)
            return text[:start] + (new.lower() if old.islower() else new) + text[end:]
    names = [name for name in proper_names(text) if len(name) > 2]
    others = [name for name in elsewhere if name.casefold() not in text.casefold()]
    if not names or not others:
        return None
    return re.sub(rf"\b{re.escape(rng.choice(names))}\b", rng.choice(others), text, count=1)


_NOT = re.compile(r"\b(?:not|never)\s+|n['’]t\b", re.IGNORECASE)
_CANNOT = re.compile(r"\bcannot\b", re.IGNORECASE)
_AUXILIARY = re.compile(
    r"\b(?:is|are|was|were|should|would|could|can|will|must|might|may|had|have|has|did|does|do)\b"
)
_BASE = {
    "thought": "think", "said": "say", "felt": "feel", "wanted": "want", "made": "make",
    "took": "take", "gave": "give", "found": "find", "went": "go", "brought": "bring",
    "put": "put", "chose": "choose", "knew": "know", "came": "come", "got": "get", "saw": "see",
    "agreed": "agree", "suggested": "suggest", "proposed": "propose", "decided": "decide",
    "believed": "believe", "mentioned": "mention", "preferred": "prefer", "needed": "need",
    "asked": "ask", "introduced": "introduce", "discussed": "discuss", "explained": "explain",
    "liked": "like", "recommended": "recommend", "argued": "argue", "noted": "note",
    "pointed": "point", "added": "add", "supported": "support", "worked": "work",
    "considered": "consider", "concluded": "conclude", "hoped": "hope", "used": "use",
}  # fmt: skip
_PAST = re.compile(rf"\b(?:{'|'.join(_BASE)})\b")


def changed_negation(text: str, rng: random.Random) -> tuple[str, str] | None:
    """("removed" | "inserted", text): drops a negation, or denies the verb of one clause."""
    if _CANNOT.search(text):
        return "removed", _CANNOT.sub("can", text, count=1)
    if found := _NOT.search(text):
        before, after = text[: found.start()], text[found.end() :]
        if found.group().lower().startswith("n"):
            before = re.sub(r"\b([Cc])a$", r"\1an", re.sub(r"\b([Ww])o$", r"\1ill", before))
            return "removed", before + after
        return "removed", before + after
    places = [(at.end(), "") for at in _AUXILIARY.finditer(text)]
    places += [(at.start(), at.group()) for at in _PAST.finditer(text)]
    if not places:
        return None
    at, verb = rng.choice(places)
    if verb:
        return "inserted", f"{text[:at]}did not {_BASE[verb]}{text[at + len(verb) :]}"
    return "inserted", f"{text[:at]} not{text[at:]}"
