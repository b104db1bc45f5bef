"""Word documents: the shapes that Teams and Meet write, and archives that mean harm."""

import io
import zipfile
from xml.sax.saxutils import escape

import pytest

from featherweight.errors import TranscriptError
from featherweight.transcript import Turn, docx, parse_transcript

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
MC = "http://schemas.openxmlformats.org/markup-compatibility/2006"


def paragraph(text: str) -> str:
    """A `w:p`: a line feed becomes a break, `|` a new run."""
    runs = []
    for run in text.split("|"):
        lines = [f'<w:t xml:space="preserve">{escape(line)}</w:t>' for line in run.split("\n")]
        runs.append(f"<w:r><w:rPr><w:b/></w:rPr>{'<w:br/>'.join(lines)}</w:r>")
    return f"<w:p><w:pPr/>{''.join(runs)}</w:p>"


def table(*rows: tuple[str, ...]) -> str:
    cells = ("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows)
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def archive(body: str, *, head: str = "", names: tuple[str, ...] = ()) -> bytes:
    """A .docx with `body` in its document part."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("[Content_Types].xml", "<Types/>")
        for name in names:
            file.writestr(name, "x")
        file.writestr(
            "word/document.xml",
            f'<?xml version="1.0" encoding="UTF-8"?>{head}<w:document xmlns:w="{W}" '
            f'xmlns:mc="{MC}"><w:body>{body}</w:body></w:document>',
        )
    return buffer.getvalue()


def document(*paragraphs: str) -> bytes:
    return archive("".join(map(paragraph, paragraphs)))


def read(data: bytes) -> tuple[str, list[Turn]]:
    transcript = parse_transcript(data, source="meeting.docx")
    return transcript.format, list(transcript.turns)


def test_teams_with_breaks_inside_paragraphs() -> None:
    data = document(
        "Weekly sync-20260503_100000-Meeting Recording",
        "May 3, 2026, 10:00AM",
        "34m 12s",
        "Smith, Jane (EXT)|   0:03\nGood morning.\nShall we?",
        "Tom Jones|   1:00:07\nWe meet at 10:30.",
    )
    assert read(data) == (
        "teams-docx",
        [
            Turn(None, "Weekly sync-20260503_100000-Meeting Recording"),
            Turn(None, "May 3, 2026, 10:00AM"),
            Turn(None, "34m 12s"),
            Turn("Smith, Jane (EXT)", "Good morning. Shall we?", 3.0),
            Turn("Tom Jones", "We meet at 10:30.", 3607.0),
        ],
    )


def test_teams_with_headings_in_their_own_paragraphs() -> None:
    data = document("Jane Smith 0:03", "Good morning.", "And more.", "Tom\u00a0\u00a00:09", "Hi.")
    assert read(data)[1] == [
        Turn("Jane Smith", "Good morning.", 3.0),
        Turn("Jane Smith", "And more."),
        Turn("Tom", "Hi.", 9.0),
    ]


def test_teams_with_arrows() -> None:
    data = document(
        "0:0:5.100 --> 0:0:8.250\n田中太郎\nおはようございます。",
        "0:0:8.500 --> 0:0:10.300\nJane Smith\nGood morning.\nShall we?",
    )
    assert read(data)[1] == [
        Turn("田中太郎", "おはようございます。", 5.1, 8.25),
        Turn("Jane Smith", "Good morning. Shall we?", 8.5, 10.3),
    ]


def test_tables() -> None:
    rows = table(
        ("Time", "Speaker", "Transcript"),
        ("0:03", "Jane Smith", "Good morning."),
        ("0:09", "Tom", "Hi: there."),
    )
    assert read(archive(rows))[1] == [
        Turn("Jane Smith", "Good morning.", 3.0),
        Turn("Tom", "Hi: there.", 9.0),
    ]
    two = table(("Jane Smith  0:03", "Good morning."), ("Tom  0:09", "Hi."))
    assert read(archive(two))[1] == [
        Turn("Jane Smith", "Good morning.", 3.0),
        Turn("Tom", "Hi.", 9.0),
    ]


def test_layout_tables_do_not_hide_speech() -> None:
    data = archive(table(("Jane: hello",), ("Tom: hi",)) + paragraph("Jane: bye"))
    assert read(data) == (
        "docx",
        [Turn("Jane", "hello"), Turn("Tom", "hi"), Turn("Jane", "bye")],
    )


def test_meet() -> None:
    data = document(
        "May 3, 2026",
        "Weekly sync - Transcript",
        "Attendees",
        "Jane Smith, Tom Jones",
        "Transcript",
        "Jane Smith: |Good morning.\nTom Jones: |Morning.",
        "00:05:00",
        "Jane Smith: |Let's start: the budget.",
        "Meeting ended after 00:06:10 👋",
        "This editable transcript was computer generated and might contain errors.",
    )
    assert read(data) == (
        "meet-docx",
        [
            Turn("Jane Smith", "Good morning."),
            Turn("Tom Jones", "Morning."),
            Turn("Jane Smith", "Let's start: the budget.", 300.0),
        ],
    )


def test_text_boxes_come_once_and_deleted_text_never() -> None:
    box = (
        f"<w:p><mc:AlternateContent><mc:Choice>{paragraph('Jane: inside')}</mc:Choice>"
        f"<mc:Fallback>{paragraph('Jane: inside')}</mc:Fallback></mc:AlternateContent></w:p>"
    )
    deleted = "<w:p><w:del><w:r><w:delText>Tom: gone</w:delText></w:r></w:del></w:p>"
    data = archive(paragraph("Jane: first") + box + deleted)
    assert read(data)[1] == [Turn("Jane", "first"), Turn("Jane", "inside")]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (archive(""), "no speech"),
        (archive(paragraph("x"))[:-30], "damaged"),
        (archive(paragraph("x"))[:60], "damaged"),
        (archive("<w:p>"), "XML is broken"),
        (
            archive(paragraph("&a;"), head='<!DOCTYPE x [<!ENTITY a "b">]>'),
            "declares entities",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"EncryptedPackage" * 40, "password"),
    ],
)
def test_bad_documents_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(TranscriptError, match=says) as caught:
        read(data)
    assert "\n" not in str(caught.value)


def test_archives_of_other_kinds_are_named() -> None:
    for name, says in (
        ("xl/workbook.xml", "Excel"),
        ("content.xml", "OpenDocument"),
        ("a.vtt", "ZIP archive without a Word document"),
    ):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr(name, "x")
        with pytest.raises(TranscriptError, match=says):
            read(buffer.getvalue())


def test_encrypted_member_is_named() -> None:
    data = bytearray(document("Jane: hello"))
    at = data.rindex(b"PK\x01\x02")  # the document part is the last in the directory
    data[at + 8] |= 1
    with pytest.raises(TranscriptError, match="password"):
        read(bytes(data))


def test_zip_bombs_are_refused_before_they_unpack() -> None:
    bomb = archive(f"<w:p><w:r><w:t>{'a' * (docx.MAX_XML + 10)}</w:t></w:r></w:p>")
    assert len(bomb) < 200_000
    with pytest.raises(TranscriptError, match="unpacks to more"):
        read(bomb)
    ratio = archive(f"<w:p><w:r><w:t>{' ' * 20_000_000}</w:t></w:r></w:p>")
    with pytest.raises(TranscriptError, match="unpacks to more"):
        read(ratio)
    many = archive("", names=tuple(f"a{number}" for number in range(docx.MAX_MEMBERS)))
    with pytest.raises(TranscriptError, match="lists more than"):
        read(many)


def test_a_lying_size_does_not_help() -> None:
    bomb = bytearray(archive(f"<w:p><w:r><w:t>{'a' * (docx.MAX_XML + 10)}</w:t></w:r></w:p>"))
    at = bomb.rindex(b"PK\x01\x02")
    bomb[at + 24 : at + 28] = (1000).to_bytes(4, "little")  # the unpacked size it claims
    with pytest.raises(TranscriptError):
        read(bytes(bomb))


@pytest.mark.parametrize("method", [1, 9, 12, 14, 99])
def test_other_compressions_are_damage_or_read(method: int) -> None:
    data = bytearray(document("Jane: hello"))
    for mark, offset in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        data[data.rindex(mark) + offset] = method
    with pytest.raises(TranscriptError, match="damaged"):
        read(bytes(data))


def test_deep_nesting_does_not_crash() -> None:
    deep = "<w:tbl><w:tr><w:tc>" * 5_000 + paragraph("Jane: hi") + "</w:tc></w:tr></w:tbl>" * 5_000
    assert read(archive(deep))[1][0].text == "hi"


SAID = ("Jane Smith: Good morning.", "Tom Jones: Hi.", "Jane Smith: Fine.")
TURNS = [Turn("Jane Smith", "Good morning."), Turn("Tom Jones", "Hi."), Turn("Jane Smith", "Fine.")]


@pytest.mark.parametrize("title", ["3 May 2026 10:00", "Board Meeting 14:00", "Weekly\t10:00"])
def test_a_title_with_its_time_says_nothing_below(title: str) -> None:
    format_, turns = read(document(title, *SAID))
    assert format_ == "docx" and turns[1:] == TURNS and turns[0].speaker is None
    format_, turns = read(document(SAID[0], "Berlin 10:30", *SAID[1:]))
    assert [turn for turn in turns if turn.speaker] == TURNS


def test_a_form_above_labelled_lines_says_nothing() -> None:
    rows = table(("Date", "3 May 2026"), ("Time", "10:00 - 11:00"))
    _, turns = read(archive(rows + "".join(map(paragraph, SAID))))
    assert [turn for turn in turns if turn.speaker] == TURNS


def test_names_in_paragraphs_of_their_own() -> None:
    said = [Turn("Jane Smith", "Good morning."), Turn("Tom Jones", "Hi.")]
    assert read(document("Jane Smith:", "Good morning.", "Tom Jones:", "Hi."))[1] == said
    lines = ("00:00:03 Jane Smith", "Good morning.", "[00:00:09] Tom Jones", "Hi.")
    assert read(document(*lines))[1] == [
        Turn("Jane Smith", "Good morning.", 3.0),
        Turn("Tom Jones", "Hi.", 9.0),
    ]


@pytest.mark.parametrize(
    ("header", "row", "turn"),
    [
        (("Start", "End", "Speaker", "Text"), ("0:03", "0:05"), Turn("Jane", "Hello.", 3.0, 5.0)),
        (("#", "Time", "Speaker", "Transcript"), ("1", "0:03"), Turn("Jane", "Hello.", 3.0)),
        (("Speaker", "Text"), (), Turn("Jane", "Hello.")),
    ],
)
def test_columns_of_tables(header: tuple[str, ...], row: tuple[str, ...], turn: Turn) -> None:
    assert read(archive(table(header, (*row, "Jane", "Hello."))))[1] == [turn]


def test_what_teams_and_otter_add_is_no_speech() -> None:
    data = document(
        "Tom Jones started transcription",
        "Jane Smith   0:03\nHello.",
        "Tom Jones stopped transcription",
        "Transcribed by https://otter.ai",
    )
    assert read(data)[1] == [Turn("Jane Smith", "Hello.", 3.0)]
    data = document("0:0:8.5 --> 0:0:10.3\nYes\nlet us")
    assert read(data)[1] == [Turn(None, "Yes let us", 8.5, 10.3)]
