"""Owners and deadlines appear only where a cited turn states them, in the text too."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scripted import ScriptedEngine, meeting

from featherweight.summarize import Evidence, Point
from featherweight.summarize import summarize_transcript as summarize
from featherweight.summarize.actions import stated_only
from featherweight.summarize.support import contains
from featherweight.transcript import Transcript, Turn

DATES = [
    "by Friday",
    "before next Tuesday",
    "on Monday morning",
    "by this Friday",
    "by the end of the month",
    "by end of day",
    "by the end of next week",
    "in two weeks",
    "within the next two weeks",
    "in a few days",
    "within an hour",
    "at 3 pm",
    "at 3pm",
    "by 10:30",
    "at 9 o'clock",
    "by noon",
    "tomorrow",
    "later today",
    "tomorrow morning",
    "the day after tomorrow",
    "on 12 May",
    "by May 12",
    "by May 12th, 2026",
    "by the 12th of May",
    "on 2026-05-03",
    "by 03/05/2026",
    "by 3.5.2026",
    "in Q3",
    "by the end of Q3 2026",
    "in March",
    "by mid-May",
    "by the 15th",
    "by 2027",
    "early next week",
    "next month",
    "this quarter",
    "at the next meeting",
    "over the weekend",
    "by EOD",
    "(by Friday)",
    "no later than Friday",
    "two weeks from now",
    "by Friday or Monday",
]
FRAMES = [
    "Tom will send the report {date}.",
    "Tom will send the report {date} and call the printer.",
    "{date}, Tom will send the report.",
    "Send the report {date}",
    "The report is due {date}.",
]
# Whatever names a time in the phrases above.
TIMES = re.compile(
    r"\d|day\b|tomorrow|noon|week|month|quarter|hour|o'clock|march|(?-i:May)|Q3|EOD|next|this\b"
    r"|early|later|\bmid\b|\bend\b",
    re.IGNORECASE,
)


def checked(text: str, *turns: Turn) -> Point:
    transcript = Transcript(turns, "a.txt", "text")
    evidence = tuple(Evidence(n, t.speaker, t.start, t.text, 1.0) for n, t in enumerate(turns))
    return stated_only(Point(text, True, evidence), transcript)


def tidy(text: str) -> bool:
    return not re.search(
        r"\s[.,;:)]|\(\s|\(\)|,,|,\.|  |^[\s,.]|\s$|\b(?:by|before|at|on|or)\.?$", text
    )


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("date", DATES)
def test_an_unstated_date_is_in_no_field_and_not_in_the_text(frame: str, date: str) -> None:
    text = frame.format(date=date)
    point = checked(text[0].upper() + text[1:], Turn("Tom", "I'll send the report then."))
    assert point.due is None
    assert not TIMES.search(point.text), point.text
    assert tidy(point.text), point.text
    assert "report" in point.text


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("date", DATES)
def test_a_stated_date_stays(frame: str, date: str) -> None:
    text = frame.format(date=date)
    text = text[0].upper() + text[1:]
    said = date.strip("()")
    point = checked(text, Turn("Tom", f"Okay, I'll send the report {said}, I promise."))
    assert point.text == text
    assert point.due is not None and contains(said, point.due)
    assert point.owner == ("Tom" if "Tom" in text else None)


@pytest.mark.parametrize(
    "text",
    [
        "Tom may send it and march on with the plan.",
        "Tom will order 2.5 litres of paint and 12.50 euros of glue.",
        "Build the second prototype on the 2nd floor.",
        "Tom will keep the ratio of parts as it is.",
        "Ask for the first draft of the plan and one sample.",
    ],
)
def test_what_is_no_date_stays(text: str) -> None:
    point = checked(text, Turn("Tom", "I'll do it."))
    assert (point.text, point.due) == (text, None)


def test_a_date_that_belongs_to_a_thing() -> None:
    turn = Turn("Tom", "I'll do it.")
    assert (
        checked("Tom will write before Friday's call.", turn).text
        == "Tom will write before the call."
    )
    assert checked("Tom will review today's agenda.", turn).text == "Tom will review the agenda."


def test_a_date_of_another_turn_does_not_count() -> None:
    transcript = meeting("I'll send it.", "The party is on Friday.", speakers=("Tom", "Ann"))
    evidence = (Evidence(0, "Tom", 0.0, "I'll send it.", 1.0),)
    point = stated_only(Point("Tom will send it by Friday.", True, evidence), transcript)
    assert (point.text, point.owner, point.due) == ("Tom will send it.", "Tom", None)


@pytest.mark.parametrize(
    ("text", "turn", "expected", "owner"),
    [
        ("Tom will call.", Turn("Tom Jones", "I'll call them."), "Tom will call.", "Tom"),
        (
            "Tom Jones will call.",
            Turn("Tom Jones", "let me call"),
            "Tom Jones will call.",
            "Tom Jones",
        ),
        ("Tom will call.", Turn("Ann", "Tom, can you call?"), "Tom will call.", "Tom"),
        ("Tom will call.", Turn("Ann", "I'll call."), "Somebody will call.", None),
        # Tom speaks, but takes nothing on.
        ("Tom will call.", Turn("Tom", "Ann should call."), "Somebody will call.", None),
        ("Tom: call them.", Turn("Tom", "I will."), "Tom: call them.", "Tom"),
        ("Zoë: call them.", Turn("Tom", "I will."), "Call them.", None),
        ("Tom to call them.", Turn("Ann", "I will."), "Somebody to call them.", None),
        ("Tom and Ann will call.", Turn("Ann", "I can call."), "Ann will call.", "Ann"),
        (
            "Tom and Ann will call.",
            Turn("Bo", "Can Tom and Ann call?"),
            "Tom and Ann will call.",
            "Tom and Ann",
        ),
        ("Tom and Ann will call.", Turn("Bo", "Yes."), "Somebody will call.", None),
        (
            "They agreed that Tom will call.",
            Turn("Bo", "Yes."),
            "They agreed that somebody will call.",
            None,
        ),
        (
            "They agreed to have Tom call.",
            Turn("Bo", "Yes."),
            "They agreed to have somebody call.",
            None,
        ),
        ("Ask Anna to call.", Turn("Bo", "Yes."), "Ask somebody to call.", None),
        (
            "The call is to be made by Tom.",
            Turn("Bo", "Yes."),
            "The call is to be made by somebody.",
            None,
        ),
        ("Make the call (Tom).", Turn("Bo", "Yes."), "Make the call (somebody).", None),
        ("Budget: Tom will call.", Turn("Tom", "I'll call."), "Tom will call.", "Tom"),
        (
            "The project manager will call.",
            Turn("Project Manager", "I'll call."),
            "The project manager will call.",
            "The project manager",
        ),
        (
            "The project manager will call.",
            Turn("Ann", "The project manager should."),
            "The project manager will call.",
            "The project manager",
        ),
        ("The project manager will call.", Turn("Ann", "I'll call."), "Somebody will call.", None),
        ("Project manager will call.", Turn("Ann", "I'll call."), "Somebody will call.", None),
        ("The Industrial Designer must call.", Turn("Ann", "Okay."), "Somebody must call.", None),
        ("They will call.", Turn("Ann", "I'll call."), "They will call.", None),
        ("The team will call.", Turn("Ann", "I'll call."), "The team will call.", None),
        (
            "The remote control will be yellow.",
            Turn("Ann", "Yellow."),
            "The remote control will be yellow.",
            None,
        ),
        ("The next step is to call.", Turn("Ann", "Call."), "The next step is to call.", None),
        ("Call the printer.", Turn("Ann", "Call."), "Call the printer.", None),
        ("Testing is next.", Turn("Ann", "Fine. Testing is what comes."), "Testing is next.", None),
        ("María-José O'Neil will call.", Turn("Bo", "Yes."), "Somebody will call.", None),
        (
            "SPEAKER_01 will call.",
            Turn("SPEAKER_01", "I'm going to call."),
            "SPEAKER_01 will call.",
            "SPEAKER_01",
        ),
        (
            "SPEAKER_01 will call.",
            Turn("SPEAKER_02", "I'm going to call."),
            "Somebody will call.",
            None,
        ),
        ("Convert it to PDF.", Turn("Bo", "Yes."), "Convert it to PDF.", None),
    ],
)
def test_owners(text: str, turn: Turn, expected: str, owner: str | None) -> None:
    point = checked(text, turn)
    assert (point.text, point.owner) == (expected, owner)


names = st.sampled_from(["Tom", "Anna Berg", "Zoë", "Jean de Groot", "O'Neil", "Li"])
dates = st.sampled_from([None, *DATES])
frames = st.sampled_from(
    [
        "{name} will send the report {date}.",
        "{name} to send the report {date}",
        "{name}: send the report {date}.",
        "They agreed that {name} should send the report {date}.",
        "The report is written {date}, and {name} has to send it.",
        "Have {name} send the report {date}.",
        "Send the report {date} ({name}).",
    ]
)
turns = st.lists(
    st.tuples(
        st.one_of(st.none(), names),
        st.sampled_from(["I'll send it", "Okay", "{name} should", "We need the report"]),
        names,
        dates,
    ),
    max_size=3,
)


@given(frames, names, dates, turns)
@example("Have {name} send the report {date}.", "Li", "by Friday", [])
@example("Send the report {date} ({name}).", "Tom", None, [("Tom", "I'll send it", "Tom", None)])
def test_nothing_unstated_survives(
    frame: str, name: str, date: str | None, said: list[tuple[str | None, str, str, str | None]]
) -> None:
    cited = [
        Turn(speaker, f"{text.format(name=other)} {when or ''}.")
        for speaker, text, other, when in said
    ]
    text = re.sub(r" (?=[ .,]|$)", "", frame.format(name=name, date=date or ""))
    point = checked(text, *cited)
    spoken = " ".join(turn.text for turn in cited)
    promised = [turn.speaker for turn in cited if turn.speaker and "I'll" in turn.text]
    if name not in spoken and name not in promised:
        assert name not in point.text and point.owner is None
    bare = re.sub(r"^\(?(?:(?:by|in|on|at|before|over|within|no later than) )?|\)$", "", date or "")
    if date and not any(contains(turn.text, bare) for turn in cited):
        assert date not in point.text
    for found in (point.owner, point.due):
        assert found is None or found in spoken or found in promised
    assert tidy(point.text), point.text


def test_through_the_summarizer() -> None:
    transcript = meeting(
        "We have to tell the printer about the new colour of the cover.",
        "I'll call the printer about the cover tomorrow.",
        "Good.",
        speakers=("Ann", "Tom"),
    )
    engine = ScriptedEngine(
        "- Tom will call the printer about the cover tomorrow.\n"
        "- Maria will tell the printer about the new colour by 12 May.\n"
    )
    summary = summarize(transcript, engine, focus="actions")
    first, second = summary.to_json()["points"]
    assert (first["owner"], first["due"]) == ("Tom", "tomorrow")
    assert (second["owner"], second["due"]) == (None, None)
    assert "Maria" not in summary.text and "May" not in summary.text
