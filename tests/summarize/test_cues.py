"""Tasks and decisions in the speakers' own words."""

import pytest

from featherweight.summarize.cues import quoted, responsible, said
from featherweight.transcript import Transcript, Turn


def meeting(*turns: tuple[str | None, str]) -> Transcript:
    return Transcript(tuple(Turn(speaker, text) for speaker, text in turns), "m.txt", "text")


STANDUP = meeting(
    ("Maria Lopez", "Good morning. Let's start."),
    ("Priya Nair", "Almost done. I will finish the documentation by Wednesday evening."),
    ("Tom Becker", "I'll start with the search page. It is slow."),
    ("Maria Lopez", "Let's decide that now. Comments are loaded on demand."),
    ("Maria Lopez", "Friday at two, then. Priya, please book the large room."),
    ("Tom Becker", "Did we agree on that? Then we release on Thursday."),
)


def test_promises_and_requests_are_tasks() -> None:
    points = quoted(STANDUP, "actions", 6)
    assert [point.evidence[0].turn for point in points] == [1, 4]
    assert [(point.owner, point.due) for point in points] == [
        ("Priya Nair", "Wednesday evening"),
        ("Priya Nair", None),
    ]


def test_settled_things_are_decisions() -> None:
    found = said(STANDUP, "decisions", 6)
    assert found == [
        (3, "Let's decide that now. Comments are loaded on demand."),
        (5, "Then we release on Thursday."),
    ]


def test_quotes_are_pieces_of_their_turns() -> None:
    for focus in ("actions", "decisions"):
        for point in quoted(STANDUP, focus, 6):  # type: ignore[arg-type]
            (item,) = point.evidence
            assert item.quote in STANDUP.turns[item.turn].text and point.supported
            assert point.text.endswith(item.quote)


def test_the_clearest_are_kept_in_order() -> None:
    turns = [("A B", f"We should paint wall number {n} by Friday.") for n in range(20)]
    turns[13] = ("A B", "I will send the report by Friday, that is my action item.")
    found = said(meeting(*turns), "actions", 3)
    assert len(found) == 3 and 13 in [number for number, _ in found]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("speakers", "text", "owner"),
    [
        (("The Chair", "Bob Gray"), "The deadline is Friday, please send it.", None),
        (("Will Smith", "Bob Gray"), "Will you please send the report?", None),
        (("Project Manager", "Bob Gray"), "Project plans are due, please write them.", None),
        (("Ann Lee", "Bob Gray"), "Ann, can you send the report?", "Ann Lee"),
        (("Ann Lee", "Bob Gray"), "Could you send the report, Ann?", "Ann Lee"),
        (("Ann Lee", "Bob Gray"), "Somebody told Ann Lee to send the report.", "Ann Lee"),
        (("Ann Lee", "Bob Gray"), "I will send the report.", "Bob Gray"),
    ],
)
def test_who_is_responsible(speakers: tuple[str, str], text: str, owner: str | None) -> None:
    transcript = meeting((speakers[0], "Hello."), (speakers[1], text))
    assert responsible(transcript, 1, text) == owner


def test_a_meeting_without_cues_gives_nothing() -> None:
    assert quoted(meeting((None, "It rained."), (None, "")), "actions", 6) == []
