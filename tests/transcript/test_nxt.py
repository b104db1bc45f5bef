"""NXT meetings: several files per meeting, pointers by id, never by path."""

from pathlib import Path

import pytest

from featherweight.errors import TranscriptError
from featherweight.transcript import Turn, parse_transcript, read_transcript

ROOT = '<?xml version="1.0" encoding="ISO-8859-1"?><nite:root xmlns:nite="http://nite.sourceforge.net/"'


def words(meeting: str, agent: str, *items: str) -> str:
    return f'{ROOT} nite:id="{meeting}.{agent}.words">{"".join(items)}</nite:root>'


def word(number: int, text: str, start: object = "", end: object = "", more: str = "") -> str:
    return f'<w nite:id="w{number}" starttime="{start}" endtime="{end}" {more}>{text}</w>'


def test_without_segments_silence_ends_a_turn(tmp_path: Path) -> None:
    path = tmp_path / "M1.A.words.xml"
    path.write_text(
        words("M1", "A", word(0, "Hi", 0, 0.5), word(1, "all", 1.4, 2), word(2, "Bye", 3.1, 4))
    )
    assert list(read_transcript(path).turns) == [
        Turn("A", "Hi all", 0.0, 2.0),
        Turn("A", "Bye", 3.1, 4.0),
    ]


def test_icsi_segments_name_the_participant(tmp_path: Path) -> None:
    """Words without times, hyphens of their own, Latin-1, segments in ../Segments/X.A.segs.xml."""
    folder, segments = tmp_path / "Words", tmp_path / "Segments"
    folder.mkdir()
    segments.mkdir()
    path = folder / "Bxx001.A.words.xml"
    items = (
        word(0, "Caf\xe9", 1, 2, 'c="W"'),
        word(1, "-", more='c="HYPH"'), word(2, "re", more='c="W"'),
        word(3, "'s", more='c="APOSS"'), word(4, ",", more='c="CM"'), '<pause nite:id="w5"/>',
        word(6, "", more='c="W"'), word(7, "left", 9, 10),
    )  # fmt: skip
    path.write_bytes(words("Bxx001", "A", *items).encode("latin-1"))
    (segments / "Bxx001.A.segs.xml").write_text(
        f'{ROOT}><segment nite:id="s" starttime="0.5" endtime="3" participant="me011">'
        '<nite:child href="Bxx001.A.words.xml#id(w0)..id(w5)"/></segment>'
        '<segment nite:id="empty" starttime="4" endtime="5"/></nite:root>'
    )
    assert list(read_transcript(path).turns) == [
        Turn("me011", "Café-re's, {pause}", 0.5, 3.0),
        Turn("A", "left", 9.0, 10.0),
    ]


def test_speakers_interleave_by_start_and_other_meetings_stay_out(tmp_path: Path) -> None:
    for name, start in (("M1.A", 5), ("M1.B", 1), ("M2.A", 0), ("M11.A", 0)):
        meeting, agent = name.split(".")
        text = words(meeting, agent, word(0, name, start, start + 1))
        (tmp_path / f"{name}.words.xml").write_text(text)
    turns = read_transcript(tmp_path / "M1.A.words.xml").turns
    assert [(turn.speaker, turn.text) for turn in turns] == [("B", "M1.B"), ("A", "M1.A")]


def test_pointers_never_open_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "M1.A.words.xml").write_text(words("M1", "A", word(0, "hi", 0, 1)))
    (tmp_path / "M1.A.segments.xml").write_text(
        f'{ROOT}><segment transcriber_start="0"><nite:child href="../../etc/passwd#id(w0)"/>'
        '<nite:child href="secret#id(nothing)..id("/></segment></nite:root>'
    )
    turns = read_transcript(tmp_path / "M1.A.words.xml").turns
    assert list(turns) == [Turn("A", "hi", 0.0, 1.0)]


def test_bytes_alone_are_one_speaker() -> None:
    data = words("M1", "C", word(0, "hi", 0, 1)).encode()
    assert list(parse_transcript(data, source="-").turns) == [Turn("C", "hi", 0.0, 1.0)]
    assert parse_transcript(data, source="M1.D.words.xml").turns[0].speaker == "D"


def test_a_segments_file_alone_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "M1.A.segments.xml"
    path.write_text(f'{ROOT}><segment nite:id="s"/></nite:root>')
    with pytest.raises(TranscriptError, match=r"ends in \.words\.xml"):
        read_transcript(path)


def test_overlapping_segments_and_deep_nesting_end(tmp_path: Path) -> None:
    count = 20_000
    items = [word(number, "x", number, number + 1) for number in range(count)]
    deep = "<w>" * count + "deep" + "</w>" * count
    (tmp_path / "M1.A.words.xml").write_text(words("M1", "A", *items, deep))
    pointer = f'<segment><nite:child href="#id(w0)..id(w{count - 1})"/></segment>'
    (tmp_path / "M1.A.segs.xml").write_text(f"{ROOT}>{pointer * count}</nite:root>")
    turns = read_transcript(tmp_path / "M1.A.words.xml").turns
    assert [len(turn.text) for turn in turns] == [2 * count - 1, 4]


def test_a_broken_sibling_is_named(tmp_path: Path) -> None:
    (tmp_path / "M1.A.words.xml").write_text(words("M1", "A", word(0, "hi", 0, 1)))
    (tmp_path / "M1.B.words.xml").write_text("<broken")
    with pytest.raises(TranscriptError, match=r"M1\.B\.words\.xml.*broken"):
        read_transcript(tmp_path / "M1.A.words.xml")
