"""WebVTT and SubRip, one trap at a time."""

import pytest

from featherweight.transcript import Turn, parse_transcript
from featherweight.transcript.captions import timing

A = "00:00:01.000 --> 00:00:02.000"
B = "00:00:02.000 --> 00:00:03.000"


def vtt(*lines: str) -> list[tuple[str | None, str]]:
    text = "WEBVTT\n\n" + "\n".join(lines)
    return [(t.speaker, t.text) for t in parse_transcript(text.encode(), source="a.vtt").turns]


@pytest.mark.parametrize(
    ("line", "times"),
    [
        ("00:01.000 --> 00:02.500", (1.0, 2.5)),
        ("00:00:01,000 --> 00:00:02,500", (1.0, 2.5)),
        ("0:00:01.0-->123:00:02.5 align:start line:0", (1.0, 442802.5)),
        ("00:00:01,000 --> 00:00:02,000 X1:40 X2:600", (1.0, 2.0)),
        ("00:00:01.000 --> ", (1.0, None)),
        ("--> 00:00:01.000", (None, 1.0)),
        ("00:00:61.000 --> 00:00:02.000", (None, 2.0)),
        ("00:00:01:12 --> 00:00:02:00", (None, None)),  # frames: not a time that we know
        ("a --> b", None),
        ("-->", None),
        ("10:30 --> lunch", None),
        ("10:30 --> 11:00 is lunch", None),
        ("at 10:30 --> 11:00", None),
    ],
)
def test_timing_lines(line: str, times: object) -> None:
    assert timing(line) == times


def test_every_voice_of_a_cue_is_a_turn_with_the_times_of_the_cue() -> None:
    text = f"WEBVTT\n\n{A}\nBefore <v Jane>one</v> between <v.loud.first Tom>two <v>three"
    assert list(parse_transcript(text.encode(), source="a").turns) == [
        Turn(None, "Before", 1.0, 2.0),
        Turn("Jane", "one", 1.0, 2.0),
        Turn(None, "between", 1.0, 2.0),
        Turn("Tom", "two", 1.0, 2.0),
        Turn(None, "three", 1.0, 2.0),
    ]


def test_tags_go_and_other_angles_stay() -> None:
    assert vtt(
        A, "<c.red.bg_x>a</c> < <b>b</b> <3 <Jane> <00:00:01.500>x <ruby>y<rt>z</rt></ruby>"
    ) == [(None, "a < b <3 <Jane> x yz")]


def test_entities_are_decoded_once() -> None:
    assert vtt(A, "&lt;i&gt; &amp;amp; &nbsp;AT&T &copy &#65;&#x42; &unknown; &#27;[0m &lrm;x") == [
        (None, "<i> &amp; AT&T &copy AB &unknown; [0m \u200ex")
    ]


def test_a_voice_with_entities_and_brackets() -> None:
    assert vtt(A, "<v Tom &amp; Jane (R&amp;D)>hi") == [("Tom & Jane (R&D)", "hi")]


def test_colons_are_no_speakers_where_voices_are_marked() -> None:
    assert vtt(A, "<v Jane>Tom Jones: that is me", "", B, "Tom Jones: hi") == [
        ("Jane", "Tom Jones: that is me"),
        (None, "Tom Jones: hi"),
    ]


def test_blocks_that_are_not_cues() -> None:
    assert vtt(
        "NOTE", A, "commented out", "", "STYLE", "::cue {}", "", "REGION", "id:x", "", "1", A, "hi",
        "", "NOTE done", "", B, "STYLE is speech here"
    ) == [(None, "hi"), (None, "STYLE is speech here")]  # fmt: skip


def test_text_outside_cues_is_kept_without_times() -> None:
    assert vtt(A, "one", "", "two after a blank line", "and three", "", B, "four") == [
        (None, "one"),
        (None, "two after a blank line and three"),
        (None, "four"),
    ]


def test_cues_without_blank_lines_between() -> None:
    srt = "1\n00:00:01,000 --> 00:00:02,000\none\n2\n00:00:02,000 --> 00:00:03,000\ntwo\n42"
    turns = parse_transcript(srt.encode(), source="a").turns
    assert [(turn.text, turn.start) for turn in turns] == [("one", 1.0), ("two 42", 2.0)]


def test_a_header_directly_above_a_cue() -> None:
    text = f"WEBVTT\n{A}\nhello"
    assert parse_transcript(text.encode(), source="a").turns == (Turn(None, "hello", 1.0, 2.0),)


def test_two_files_in_one() -> None:
    assert vtt(A, "one", "", "WEBVTT", "Kind: captions", "", A, "two") == [
        (None, "one"),
        (None, "two"),
    ]


def test_file_order_survives_overlaps_and_backward_times() -> None:
    text = f"WEBVTT\n\n{B}\nlate\n\n{A}\nearly\n\n00:00:09.000 --> 00:00:01.000\nbackward"
    turns = parse_transcript(text.encode(), source="a").turns
    assert [(turn.text, turn.start, turn.end) for turn in turns] == [
        ("late", 2.0, 3.0),
        ("early", 1.0, 2.0),
        ("backward", 9.0, 1.0),
    ]


def test_a_vtt_that_lost_its_header_goes_by_its_suffix() -> None:
    data = f"{A}\n<v Jane>hi</v>\n".encode()
    assert parse_transcript(data, source="a.vtt").format == "teams-vtt"
    assert parse_transcript(data, source="a.srt").format == "srt"


def test_zoom_continuations_have_no_speaker() -> None:
    assert vtt("1", A, "Jane: one", "", "2", B, "and on", "", "3", B, "Jane: two") == [
        ("Jane", "one"),
        (None, "and on"),
        ("Jane", "two"),
    ]


def test_escape_sequences_are_dropped_from_speech_and_names() -> None:
    assert vtt(A, "<v Ja\x1b[31mne>red \x1b]0;title\x07text\x9b2J \x00bell\x07\u202e</v>") == [
        ("Jane", "red text2J bell")
    ]


def test_webex_names_who_speaks_above_the_times() -> None:
    text = 'WEBVTT\n\n1 "Jane Smith" (3456789)\n00:00:01.000 --> 00:00:02.000\nHello.\n\n'
    text += '2 "" (0)\n00:00:03.000 --> 00:00:04.000\nHi.\n'
    turns = parse_transcript(text.encode(), source="a.vtt").turns
    assert [(turn.speaker, turn.text, turn.start) for turn in turns] == [
        ("Jane Smith", "Hello.", 1.0),
        (None, "Hi.", 3.0),
    ]


def test_broadcasts_mark_who_begins() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\n>> JANE: Good evening.\n- TOM: And now\n\n"
    text += "2\n00:00:03,000 --> 00:00:04,000\n>> JANE: Yes.\nTOM: No.\n- we stay at -5.\n"
    turns = parse_transcript(text.encode(), source="a.srt").turns
    assert [(turn.speaker, turn.text) for turn in turns] == [
        *(("JANE", "Good evening."), ("TOM", "And now"), ("JANE", "Yes.")),
        ("TOM", "No. - we stay at -5."),
    ]


def test_a_cue_that_begins_with_a_space() -> None:
    text = "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\n \nhello everyone\n\n"
    (turn,) = parse_transcript(text.encode(), source="a.vtt").turns
    assert (turn.text, turn.start, turn.end) == ("hello everyone", 1.0, 2.0)


def test_captions_that_roll_say_each_line_once() -> None:
    cues = (
        ("00:00:01.000 --> 00:00:03.000", " ", "hello<00:00:01.500><c> everyone</c>"),
        ("00:00:03.000 --> 00:00:03.010", "hello everyone", " "),
        ("00:00:03.010 --> 00:00:05.000", "hello everyone", "to<00:00:04.000><c> the budget</c>"),
        ("00:00:05.000 --> 00:00:05.010", "to the budget", " "),
        ("00:00:05.010 --> 00:00:07.000", "to the budget", "meeting"),
    )
    text = "WEBVTT\nKind: captions\n\n" + "\n\n".join("\n".join(cue) for cue in cues)
    turns = parse_transcript(text.encode(), source="a.vtt").turns
    assert [turn.text for turn in turns] == ["hello everyone", "to the budget", "meeting"]
    assert [turn.start for turn in turns] == [1.0, 3.01, 5.01]
