"""The shapes of text, JSON and tables that the samples leave out."""

import json

import pytest

from featherweight.errors import TranscriptError
from featherweight.transcript import Turn, parse_transcript


def read(text: str, source: str = "a.txt") -> tuple[str, list[Turn]]:
    transcript = parse_transcript(text.encode(), source=source)
    return transcript.format, list(transcript.turns)


def spoken(text: str) -> list[tuple[str | None, str, float | None]]:
    return [(turn.speaker, turn.text, turn.start) for turn in read(text)[1]]


def test_times_in_plain_text() -> None:
    assert spoken(
        "[00:01:02] So: we begin.\n[00:01:05] Jane: Yes.\n0:12 Jane: hello\nTom (0:15): hey\n"
        "**Jane (0:20)**: x\n**Tom** [0:21] y\n00:00:30 - Jane: z\n\n10:30 Meeting: is that us?"
    ) == [
        (None, "So: we begin.", 62.0),
        ("Jane", "Yes.", 65.0),
        ("Jane", "hello", 12.0),
        ("Tom", "hey", 15.0),
        ("Jane", "x", 20.0),
        ("Tom", "y", 21.0),
        ("Jane", "z", 30.0),
        (None, "10:30 Meeting: is that us?", None),
    ]


def test_a_time_on_its_own_line_belongs_to_the_next_turn_only() -> None:
    assert spoken("0:00\nhello there\n\n(0:05)\nyou tube\n\nand more") == [
        (None, "hello there", 0.0),
        (None, "you tube", 5.0),
        (None, "and more", None),
    ]


def test_paragraphs_lines_and_lists() -> None:
    assert spoken("one\ntwo") == [(None, "one", None), (None, "two", None)]
    assert spoken("one\ntwo\n\nthree") == [(None, "one two", None), (None, "three", None)]
    assert spoken("Jane: buy\n- milk\n- eggs\nTom: ok\n\n- a\n- b") == [
        ("Jane", "buy - milk - eggs", None),
        ("Tom", "ok", None),
        (None, "- a", None),
        (None, "- b", None),
    ]


def test_names_under_times() -> None:
    assert spoken("00:00:01 Jane Smith\nHello.\n\n[0:05] Tom\nHi.\n\n0:09 - Jane Smith\nBye.") == [
        ("Jane Smith", "Hello.", 1.0),
        ("Tom", "Hi.", 5.0),
        ("Jane Smith", "Bye.", 9.0),
    ]
    assert spoken("[0:01] Good\n[0:02] Morning Tom\n") == [
        (None, "Good", 1.0),
        (None, "Morning Tom", 2.0),
    ]


def test_one_line_with_tabs_makes_no_table() -> None:
    said = "Jane: hi\nTom: ho\nRoom\t10:30\tfree\nJane: a\nTom: b\n"
    assert [turn[0] for turn in spoken(said)] == ["Jane", "Tom", "Jane", "Tom"]


def test_forms_above_speech_are_nobodys() -> None:
    assert spoken(
        "Date: 3 May\nAttendees: Jane, Tom\n\nJane: hi\nNote: late\nTom: ho\nJane: ha"
    ) == [
        (None, "Date: 3 May", None),
        (None, "Attendees: Jane, Tom", None),
        ("Jane", "hi", None),
        (None, "Note: late", None),
        ("Tom", "ho", None),
        ("Jane", "ha", None),
    ]


@pytest.mark.parametrize("title", ["Weekly Sync\t10:00", "Board Meeting  14:00", "[Music] 0:00"])
def test_a_title_with_its_time_says_nothing_below(title: str) -> None:
    format_, turns = read(f"{title}\nJane Smith: Good morning.\nTom Jones: Hi.\nJane Smith: Fine.")
    assert format_ == "text" and turns[0].speaker is None
    assert [turn.speaker for turn in turns[1:]] == ["Jane Smith", "Tom Jones", "Jane Smith"]


@pytest.mark.parametrize(
    "names", [("Jane Smith:", "Tom Jones:"), ("**Jane Smith:**", "**Tom Jones:**")]
)
def test_a_blank_line_below_a_name(names: tuple[str, str]) -> None:
    jane, tom = names
    assert spoken(f"{jane}\n\nGood morning.\n\n{tom}\n\nHi.") == [
        ("Jane Smith", "Good morning.", None),
        ("Tom Jones", "Hi.", None),
    ]


@pytest.mark.parametrize(
    "field",
    [
        *("Meeting Title: Budget", "Meeting Date: 3 May", "Call Duration: 34:12", "Zoom Link: x"),
        *("Recorded By: Jane", "Action Points: none", "Passcode: 12", "Uhrzeit: 10", "日期: 3"),
        *("**Host:** Jane Smith", "- **Owner:** Tom", "**Organizer:** Jane"),
    ],
)
def test_fields_of_forms_say_nothing(field: str) -> None:
    text = f"{field}\n\nJane Smith: Good morning.\nTom Jones: Hi.\nJane Smith: Fine."
    assert {turn.speaker for turn in read(text)[1]} == {None, "Jane Smith", "Tom Jones"}


def test_a_role_that_comes_back_speaks() -> None:
    assert [who for who, _, _ in spoken("**Host:** Hi.\n**Guest:** Hi.\n" * 2)] == [
        *("Host", "Guest"),
        *("Host", "Guest"),
    ]
    said = spoken("Jane Smith: Hi.\nYou: Shall we?\n" * 3)
    assert [who for who, _, _ in said] == ["Jane Smith", "You"] * 3


def test_times_behind_the_colon_and_before_it() -> None:
    text = "Speaker 1: (00:03)\nHello.\nJane Smith: 00:09\nHi.\n0:12 | Jane Smith: Yes."
    assert spoken(text) == [
        ("Speaker 1", "Hello.", 3.0),
        ("Jane Smith", "Hi.", 9.0),
        ("Jane Smith", "Yes.", 12.0),
    ]


def test_questions_and_answers() -> None:
    assert [turn[0] for turn in spoken("Q: a\nA: b\nQ: c\nA: d")] == ["Q", "A", "Q", "A"]


def test_curly_and_square_beginnings_are_not_always_json() -> None:
    assert spoken("{disfmarker} hi") == [(None, "{disfmarker} hi", None)]
    assert spoken("[Laughter] hi") == [(None, "[Laughter] hi", None)]


def test_otter_paragraphs_keep_their_heading() -> None:
    assert read("Notes\n\nJane  0:03\none\n\ntwo\n\nTom  0:09\nthree")[1] == [
        Turn(None, "Notes"),
        Turn("Jane", "one", 3.0),
        Turn("Jane", "two"),
        Turn("Tom", "three", 9.0),
    ]


def test_otter_times_in_speech_are_no_headings() -> None:
    assert read("Tom  0:09\nWe meet at  10:30\n\njsmith  0:11\nNow  10:31")[1] == [
        Turn("Tom", "We meet at 10:30", 9.0),
        Turn("jsmith", "Now 10:31", 11.0),
    ]


def test_headings_with_one_space_whose_names_come_back() -> None:
    text = (
        "Call\n\nSpeaker 1 00:03\none\n\ntwo\n\nJane Smith 0:08\nthree\n\nSpeaker 1 01:12\nat 10:30"
    )
    assert read(text) == (
        "otter",
        [
            Turn(None, "Call"),
            Turn("Speaker 1", "one", 3.0),
            Turn("Speaker 1", "two"),
            Turn("Jane Smith", "three", 8.0),
            Turn("Speaker 1", "at 10:30", 72.0),
        ],
    )


def test_names_alone_above_what_they_say() -> None:
    text = "Jane Smith\nHello, Bob.\nHow are you?\n\nBob\nWell.\n\nAnd you?\n\nJane Smith\nFine."
    assert read(text) == (
        "otter",
        [
            Turn("Jane Smith", "Hello, Bob. How are you?"),
            Turn("Bob", "Well."),
            Turn("Bob", "And you?"),
            Turn("Jane Smith", "Fine."),
        ],
    )


@pytest.mark.parametrize(
    "text",
    [
        "Welcome 09:00\nBy the chair\n\nBreak 10:00\nCoffee\n\nPanel 10:30\nTalks\n\nBreak 12:00\n",
        "Ann 0:09\nwe met\n\nAnn 0:07\nat five\n\nAnn 0:01\nor so",  # times fall
        "Jane Smith\nHello.\n\nBob Jones\nHi.\n\nTom Lee\nHi.",  # a list of people, for all we know
        "Monday\nWe met.\n\nTuesday\nWe met.\n\nMonday\nWe met again.",
        "Wind\nblows here.\n\nRain\nfalls.\n\nWind\nblows.\n\n" + "and on it goes\n\n" * 9,
        "Refrain\nla la\n\nRefrain\nla la",  # one voice, if any
    ],
)
def test_what_only_looks_like_such_headings(text: str) -> None:
    assert {turn.speaker for turn in read(text)[1]} == {None}


def test_meet_with_notes_above() -> None:
    text = (
        "📝 Notes\nMay 3, 2026\nSummary\nThey met.\n\n📖 Transcript\nMay 3, 2026\n"
        "Weekly sync - Transcript\n00:00:00\n \nJane Smith: Hello.\nTom Jones: Hi.\n\n"
        "Transcription ended after 00:06:10"
    )
    assert read(text)[1] == [Turn("Jane Smith", "Hello.", 0.0), Turn("Tom Jones", "Hi.")]


def test_zoom_tabs() -> None:
    assert read("10:00:01\thello there: you\n10:00:02\t10:00:03\tJane\thi\tall\n")[1] == [
        Turn(None, "hello there: you", 36001.0),
        Turn("Jane", "hi all", 36002.0, 36003.0),
    ]


def test_meet_without_headings() -> None:
    text = "Standup - Transcript\n\nJane Smith: hi\n\nnobody\n\nTom: Plan B: go\nTom: on\n" + (
        "Meeting ended after 00:01:00"
    )
    assert read(text) == (
        "meet-txt",
        [
            Turn("Jane Smith", "hi"),
            Turn(None, "nobody"),
            Turn("Tom", "Plan B: go"),
            Turn("Tom", "on"),
        ],
    )


def test_tsv_columns_in_any_order() -> None:
    assert read("start\tend\tspeaker\ttext\n0\tx\tJane\ta\tb\n")[1] == [Turn("Jane", "a b", 0.0)]


@pytest.mark.parametrize(
    ("value", "turns"),
    [
        ([{"text": "a", "start": 1, "end": float("nan")}, "b", 3, None],
         [Turn(None, "a", 1.0)]),
        ({"segments": [{"text": "a", "speaker": 7, "start": -1}, {"text": 5}, "b"]},
         [Turn("7", "a"), Turn(None, "b")]),
        ({"segments": [{"text": "a", "start": "00:01:02,5", "end": "3"}]},
         [Turn(None, "a", 62.5, 3.0)]),
        ({"segments": [{"text": "a\ud800\u001b[31m\n b", "speaker": "\u0007", "start": 10**400}]},
         [Turn(None, "a\ufffd b")]),
        ({"meeting_transcripts": [{"content": ""}, {"speaker": "A", "content": "x"}, {}]},
         [Turn(None, ""), Turn("A", "x"), Turn(None, "")]),
        ({"text": "all of it", "language": "en"}, [Turn(None, "all of it")]),
        ([{"meeting_transcripts": [{"speaker": "A", "content": "x"}]}], [Turn("A", "x")]),
    ],
)  # fmt: skip
def test_json(value: object, turns: list[Turn]) -> None:
    assert read(json.dumps(value))[1] == turns


@pytest.mark.parametrize("key", ["utterances", "chunks", "speakers"])
def test_json_that_says_who_in_another_shape_is_refused(key: str) -> None:
    said = {"text": "Hi.", "speaker": "A"}
    with pytest.raises(TranscriptError, match="none that we know"):
        read(json.dumps({"text": "Hi. Hello.", key: [said]}), "a.json")
    words = {"text": "Hi.", "words": [{"word": "Hi.", "start": 0.1}]}
    assert read(json.dumps(words), "a.json")[1] == [Turn(None, "Hi.")]


def test_json_lines_of_segments() -> None:
    assert read('{"text": "a", "start": 1}\n{"text": "b"}\n')[1] == [
        Turn(None, "a", 1.0),
        Turn(None, "b"),
    ]


N = 300_000
CUE = "WEBVTT\n\n00:00.000 --> 00:01.000\n"


@pytest.mark.parametrize(
    "text",
    [
        " " * N + "x", "[a" * N, ":" * N, CUE + "<" * N, CUE + "<v " * N, CUE + "<v" + " " * N,
        CUE + "<c." * N, CUE + "&a" * N, "-->" * N, "**a" * N, "x\x1b[" * N, "\x1b]" * N + "x",
        "0:01\t" * N, "(1" * N, "1:" * N, "x" + "\n" * N + "x", "a_" * N, "{ " * N, "a" + " .," * N,
        "1\n00:00:00,000 --> 00:00:01,000\n" + "{\\" * N, "Jane" + " " * N + "(0:01): x",
        "x" * N + " " * N + "- transcript\nAttendees", ("x" * 70 + ": ") * (N // 70), "( " * N,
        "Jane: hi\n" * (N // 10),
    ],
)  # fmt: skip
def test_no_text_takes_quadratic_time(text: str) -> None:
    """Nothing is timed: at this size a quadratic step would simply never end."""
    from featherweight.transcript import clean

    assert clean(parse_transcript(text.encode(), source="a")).turns
