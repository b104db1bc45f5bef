"""Rendered turns come back as they were, and no bytes at all can do anything else but fail well."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featherweight.errors import TranscriptError
from featherweight.transcript import FORMATS, Transcript, Turn, clean, parse_transcript

DATA = Path(__file__).parents[1] / "data" / "transcripts"
SAMPLES = [path for path in sorted(DATA.rglob("*")) if path.is_file()]

# Words that no format could take for syntax: that is the other tests' business.
words = st.lists(
    st.text(st.sampled_from(string.ascii_letters + "éüßжя的אب'"), min_size=1, max_size=8),
    min_size=1,
    max_size=8,
).map(lambda parts: " ".join(part.replace("'", "x'", 1) for part in parts))
hard_words = st.lists(
    st.sampled_from(
        ["a", "<", "&", ">", "&amp;", "<i>", "3:1", "--", "*", "{", "“ß”", "-->", "[x]"]
    ),
    min_size=1,
    max_size=6,
).map(lambda parts: "w " + " ".join(parts) + " w")
names = st.sampled_from(
    ["Jane Smith", "SPEAKER_00", "Dr. María-José O'Neil", "Smith, Jane (EXT)", "田中太郎", "PM Two"]
)
milliseconds = st.integers(0, 100 * 3_600_000)


@st.composite
def turns(draw: st.DrawFn, text: st.SearchStrategy[str] = words) -> list[Turn]:
    found = []
    for _ in range(draw(st.integers(1, 6))):
        start, end = draw(milliseconds), draw(milliseconds)  # in any order: files overlap
        found.append(Turn(draw(names), draw(text), start / 1000, end / 1000))
    return found


def stamp(seconds: float | None, mark: str = ".") -> str:
    total = round((seconds or 0) * 1000)
    rest, thousandths = divmod(total, 1000)
    return f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}{mark}{thousandths:03}"


def back(text: str, name: str) -> list[Turn]:
    return list(parse_transcript(text.encode(), source=name).turns)


@given(turns(words | hard_words))
def test_vtt(found: list[Turn]) -> None:
    def quote(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    cues = [
        f"{stamp(turn.start)} --> {stamp(turn.end)}\n"
        f"<v {quote(turn.speaker or '')}>{quote(turn.text)}</v>\n"
        for turn in found
    ]
    assert back("WEBVTT\n\n" + "\n".join(cues), "a.txt") == found


@given(turns())
def test_srt(found: list[Turn]) -> None:
    cues = [
        f"{number}\n{stamp(turn.start, ',')} --> {stamp(turn.end, ',')}\n"
        f"[{turn.speaker}]: {turn.text}\n"
        for number, turn in enumerate(found, start=1)
    ]
    assert back("\n".join(cues), "a") == found


@given(turns(words | hard_words))
def test_whisperx_json(found: list[Turn]) -> None:
    segments = [
        {"start": turn.start, "end": turn.end, "text": turn.text, "speaker": turn.speaker}
        for turn in found
    ]
    assert back(json.dumps({"segments": segments}), "a.txt") == found
    assert back(json.dumps(segments, ensure_ascii=False), "a.json") == found


@given(turns(words | hard_words))
def test_whisperx_tsv(found: list[Turn]) -> None:
    rows = [
        f"{round((turn.start or 0) * 1000)}\t{round((turn.end or 0) * 1000)}"
        f"\t[[{turn.speaker}]]{turn.text}"
        for turn in found
    ]
    assert back("\n".join(["start\tend\ttext", *rows]), "a.csv") == found


@given(turns(words | hard_words))
def test_audacity(found: list[Turn]) -> None:
    rows = [f"{turn.start}\t{turn.end}\t[[{turn.speaker}]]{turn.text}" for turn in found]
    assert back("\n".join(rows), "a.txt") == found


@given(turns())
@pytest.mark.parametrize("form", ["{0}: {1}", "**{0}:** {1}", "- **{0}**: {1}", "[{0}]: {1}"])
def test_text(form: str, found: list[Turn]) -> None:
    expected = [Turn(turn.speaker, turn.text) for turn in found]
    lines = [form.format(turn.speaker, turn.text) for turn in found]
    assert back("\n".join(lines), "a.txt") == expected
    assert back("\n\n".join(lines), "a.txt") == expected


@given(turns())
def test_qmsum(found: list[Turn]) -> None:
    items = [{"speaker": turn.speaker, "content": turn.text} for turn in found]
    expected = [Turn(turn.speaker, turn.text) for turn in found]
    assert back(json.dumps({"meeting_transcripts": items}), "a") == expected


def holds(data: bytes, source: str, name: str | None = None) -> None:
    """The contract of `parse_transcript` on any bytes."""
    try:
        transcript = parse_transcript(data, source=source, format=name)
    except TranscriptError as error:
        message = str(error)
        assert message.isprintable() and message.endswith(".") and message.startswith(source)
        return
    assert any(turn.text for turn in transcript.turns) and transcript.format in FORMATS
    for turn in transcript.turns:
        assert turn.text or transcript.format == "qmsum"
        assert turn.text == " ".join(turn.text.split())
        for said in (turn.text, turn.speaker or "x"):
            said.encode()  # no surrogates
            assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in said)
        for time in (turn.start, turn.end):
            assert time is None or 0 <= time < float("inf")
    assert len(clean(transcript).turns) == len(transcript.turns)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=400), st.sampled_from([None, *FORMATS]))
def test_any_bytes(data: bytes, name: str | None) -> None:
    holds(data, "meeting", name)


syntax = st.sampled_from(
    ["WEBVTT", "\n", "\n\n", "-->", "00:00:01.000", "<v Jane>", "</v>", "[", "]", "{", "}", '"',
     ":", ",", "Jane: ", "**", "0:03", "  ", "\t", "[[A]]", "start\tend\ttext", "Transcript",
     "Attendees", "1", "\x1b[31m", "\x1b]0;x\x07", "\x00", "&lt;", "&#27;", "&#xd800;", "<?xml ",
     "\ufeff", "text", "segments", "meeting_transcripts", "content", "NaN", "1e999", "\u202e", "(",
     ")", "- ", "# ", "NOTE ", "é", "\x85", "\u2028", "1", "[SPEAKER_00]: ", ".", "<nite:root "]
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(syntax, max_size=40).map("".join), st.sampled_from([None, *FORMATS]))
def test_any_syntax(text: str, name: str | None) -> None:
    holds(text.encode(), "meeting", name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "segments",
                    "text",
                    "start",
                    "end",
                    "speaker",
                    "meeting_transcripts",
                    "content",
                    "starttime",
                    "label",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(json_values)
def test_any_json(value: object) -> None:
    holds(json.dumps(value).encode(), "meeting.json")


@settings(max_examples=1500, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_samples(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(SAMPLES))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(raw) - 1)))
        match data.draw(st.sampled_from(["flip", "cut", "splice", "repeat", "delete"])):
            case "flip" if raw:
                raw[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del raw[at:]
            case "splice":
                other = data.draw(st.sampled_from(SAMPLES)).read_bytes()
                begin = data.draw(st.integers(0, len(other)))
                raw[at:at] = other[begin : begin + data.draw(st.integers(0, 200))]
            case "repeat":
                raw[at:at] = raw[at : at + 50] * data.draw(st.integers(1, 20))
            case "delete":
                del raw[at : at + data.draw(st.integers(1, 50))]
    holds(bytes(raw), path.name)


noisy = st.lists(
    st.sampled_from(
        ["{disfmarker}", "{vocalsound}", "{pause}", "l_c_d_", "T_V_s", "p_m_s", "a_", "_", "a",
         "b", ".", ",", "?", "'s", "'", "n't", "$", "5", ".5", "(", ")", "Okay", "-", "{", "}",
         "..", ";", "re", ":", "snake_case", "x_y"]
    ),
    max_size=12,
).flatmap(lambda parts: st.sampled_from([" ".join(parts), "".join(parts)]))  # fmt: skip


@settings(max_examples=1000)
@given(st.lists(noisy, min_size=1, max_size=5))
def test_cleaning_twice_changes_nothing_more(texts: list[str]) -> None:
    dirty = Transcript(tuple(Turn(None, text) for text in texts), "x", "text")
    once = clean(dirty)
    assert clean(once) == once
    assert len(once.turns) == len(dirty.turns)
    assert "{disfmarker}" not in str(once.turns)
