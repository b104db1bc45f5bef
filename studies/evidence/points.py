"""True points and false ones, each with its meeting: what the support check is judged on.

Kinds: "true"; "number", "name", "negation inserted", "negation removed": one thing changed;
"other meeting": a true point put to the next meeting but a few of the same split.
"""

import random
from collections.abc import Iterator, Sequence

from data import Meeting
from negatives import changed_name, changed_negation, changed_number

from featherweight.summarize.support import proper_names

KINDS = ("number", "name", "negation inserted", "negation removed", "other meeting")


def points(meetings: Sequence[Meeting], seed: int) -> Iterator[tuple[int, int, str, str]]:
    """(meeting to judge in, answer number in its own meeting, kind, point), meeting by meeting."""
    rng = random.Random(seed)
    rows = []
    for number, meeting in enumerate(meetings):
        speakers = sorted({turn.speaker or "" for turn in meeting.transcript.turns})
        stranger = rng.choice([other for other in meetings if other is not meeting])
        elsewhere = sorted({name for a in stranger.answers for name in proper_names(a.text)})
        for at, answer in enumerate(meeting.answers):
            rows.append((number, at, "true", answer.text))
            if changed := changed_number(answer.text, rng):
                rows.append((number, at, "number", changed))
            if changed := changed_name(answer.text, speakers, elsewhere, rng):
                rows.append((number, at, "name", changed))
            if denied := changed_negation(answer.text, rng):
                rows.append((number, at, f"negation {denied[0]}", denied[1]))
            other = (number + rng.randrange(1, len(meetings))) % len(meetings)
            rows.append((other, at, "other meeting", answer.text))
    return iter(sorted(rows, key=lambda row: row[0]))
