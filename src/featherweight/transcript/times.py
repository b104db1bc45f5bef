"""Times as files write them, to seconds; what cannot be read is None, never a guess."""

import math
import re

_CLOCK = re.compile(
    r"(?:(\d{1,4}):)?(\d{1,3}):(\d{1,2})(?:[.,](\d{1,9}))?(?:\s?([ap])\.?m\.?)?",
    re.ASCII | re.IGNORECASE,
)


def clock(text: str) -> float | None:
    """Seconds for `h:mm:ss`, `mm:ss`, each with an optional fraction after `.` or `,`.

    Two numbers are minutes and seconds, as every transcript tool writes them, unless am or pm
    follows. None for anything else, such as 61 seconds.
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    hours, minutes, seconds, fraction, half = match.groups()
    if half is not None and hours is None:
        hours, minutes, seconds = minutes, seconds, "0"
    if int(seconds) > 59 or (hours is not None and int(minutes) > 59):
        return None
    hour = int(hours or 0)
    if half is not None:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half in "pP" else 0)
    whole = hour * 3600 + int(minutes) * 60 + int(seconds)
    return float(f"{whole}.{fraction or 0}")


def span(text: str) -> tuple[float | None, float | None] | None:
    """(start, end) for `0:01`, or `0:01 - 0:05` with a hyphen, dash or arrow; None if neither."""
    for dash in ("-->", "–", "—", "-"):
        if dash in text:
            left, _, right = text.partition(dash)
            start, end = clock(left), clock(right)
            return None if start is None or end is None else (start, end)
    start = clock(text)
    return None if start is None else (start, None)


def number(value: object) -> float | None:
    """Seconds for a number, or the text of one; None unless finite and not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not (
        0 < len(value) < 40 and value.isascii() and "_" not in value
    ):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
