"""Word documents from Teams and Google Meet, read straight from the ZIP archive.

Only `word/document.xml` is opened, in one pass and with hard limits: an archive of a few kilobytes
can claim to hold gigabytes.
"""

import io
import re
import zipfile
from collections.abc import Iterator

from featherweight.errors import TranscriptError
from featherweight.transcript.headed import Heading, otter_heading, under_headings
from featherweight.transcript.meet import is_meet, read_meet
from featherweight.transcript.plain import read_plain
from featherweight.transcript.speakers import could_be_name, labelled_lines, starts_sentence
from featherweight.transcript.text import one_line, printable, problem
from featherweight.transcript.times import span
from featherweight.transcript.types import Turn

MAX_XML = 50_000_000  # bytes of document.xml: some 100 hours of speech
MAX_RATIO = 400  # deflate itself ends near 1000; Word's own XML stays under 100
MAX_MEMBERS = 5_000
_PART = "word/document.xml"
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_SPEAKERS = frozenset(["speaker", "name", "participant", "speaker name"])
_COLUMNS = _SPEAKERS | {
    *("time", "timestamp", "start", "end", "start time", "end time", "#", "no", "no."),
    *("text", "transcript", "transcription", "utterance", "message"),
}
_NO_SPEECH = re.compile(r"transcribed by http.*|.{1,80} (?:started|stopped) transcription", re.I)

Paragraph = list[str]  # its lines
Row = tuple[str, ...]  # its cells


def read_docx(data: bytes, source: str) -> tuple[str, list[Turn]]:
    """(format, turns): `teams-docx`, `meet-docx`, or `docx` for any other Word document.

    Raises `TranscriptError` for archives that are not Word, encrypted, broken or too large.
    """
    blocks = list(_blocks(_document(data, source), source))
    lines: list[tuple[str, Heading | None]] = []
    named = False  # whether the table above says that a column is who speaks
    for block in blocks:
        if isinstance(block, tuple):
            if columns := _columns(block):
                named = not columns.isdisjoint(_SPEAKERS)
            else:
                lines += _row(block, named)
        elif not _NO_SPEECH.fullmatch(" ".join(block).strip()):
            lines += _paragraph(block)
        lines.append(("", None))
    headings = sum(heading is not None for _, heading in lines)
    # a title with its time above labelled lines heads nothing
    if headings and headings >= labelled_lines(line for line, heading in lines if heading is None):
        return "teams-docx", under_headings(lines)
    texts: list[str] = []
    for block in blocks:
        texts += [" ".join(block), ""] if isinstance(block, tuple) else [*block, ""]
    if is_meet(texts):
        return "meet-docx", read_meet(texts)
    return "docx", read_plain("\n".join(texts))


def _paragraph(lines: Paragraph) -> list[tuple[str, Heading | None]]:
    """A Teams paragraph: `Name   0:03`, a line break, the text; or times, name, text."""
    times = span(lines[0]) if lines else None
    if times is not None and times[1] is not None and len(lines) > 1:
        name = one_line(lines[1])
        named = len(lines) > 2 and could_be_name(name) and not starts_sentence(name)
        heading: Heading = (name if named else None, *times, "")
        return [("", heading), *((line, None) for line in lines[2 if named else 1 :])]
    return [(line, otter_heading(line, one_space=True)) for line in lines]


def _columns(cells: Row) -> set[str]:
    """What a table's first row calls its columns; nothing for any other row."""
    found = {cell.casefold() for cell in cells if cell}
    return found if found <= _COLUMNS else set()


def _row(cells: Row, named: bool) -> list[tuple[str, Heading | None]]:
    """A table row with a cell that is a time: the cell before the text is the speaker.

    A number in front is the row's own, a second time the end. Without times the first of two cells
    is the speaker where the table says so (`named`).
    """
    filled = [cell for cell in cells if cell]
    if len(filled) > 2 and filled[0].isdigit():
        filled = filled[1:]
    at = next((index for index, cell in enumerate(filled) if span(cell) is not None), None)
    heading: Heading | None
    if at is None:
        if len(filled) == 2:
            heading = otter_heading(filled[0], one_space=True)
            if heading is None and named and could_be_name(filled[0]):
                heading = (filled[0], None, None, "")
            if heading is not None:
                return [("", heading), (filled[1], None)]
        return [(cell, None) for cell in filled]
    start, end = span(filled.pop(at)) or (None, None)
    if end is None and at < len(filled) and (later := span(filled[at])) is not None:
        end = later[0]
        filled.pop(at)
    speaker = filled.pop(0) if len(filled) > 1 and could_be_name(filled[0]) else None
    return [("", (speaker, start, end, "")), *((cell, None) for cell in filled)]


def _document(data: bytes, source: str) -> bytes:
    """The bytes of `word/document.xml`, or an error that says what the archive is instead."""
    if data.count(b"PK\x01\x02") > MAX_MEMBERS:
        raise problem(
            source, f"the archive lists more than {MAX_MEMBERS:,} files", "save it again in Word"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if _PART not in names:
                raise _not_word(names, source)
            info = archive.getinfo(_PART)
            if info.flag_bits & 1:
                raise problem(
                    source, "the document is protected by a password", "save it without one"
                )
            with archive.open(info) as member:
                xml = member.read(MAX_XML + 1)
    except TranscriptError:
        raise
    except Exception as error:  # zipfile, zlib, bz2, lzma and struct each raise errors of their own
        raise _broken(source, error) from None
    if len(xml) > MAX_XML or len(xml) > MAX_RATIO * max(info.compress_size, 10_000):
        raise problem(
            source,
            f"{_PART} unpacks to more than {min(MAX_XML, len(xml)):,} bytes, far more than speech",
            "save the document again, as text if need be",
        )
    return xml


def _broken(source: str, error: Exception) -> TranscriptError:
    reason = one_line(str(error)) or type(error).__name__
    return problem(
        source, f"the .docx archive is damaged ({reason})", "download or save the document again"
    )


def _not_word(names: list[str], source: str) -> TranscriptError:
    if any(name.startswith(("xl/", "ppt/")) for name in names):
        return problem(
            source, "an Excel or PowerPoint file, not a transcript", "export the speech as text"
        )
    if "content.xml" in names:
        return problem(source, "an OpenDocument file", "save it as .docx or .txt")
    return problem(
        source, "a ZIP archive without a Word document", "unpack it and give the file inside"
    )


def _blocks(xml: bytes, source: str) -> Iterator[Paragraph | Row]:
    """Paragraphs and table rows in document order. Rows that hold no time come as paragraphs."""
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    paragraphs: list[list[str]] = []  # open ones: a text box nests a paragraph in another
    rows: list[list[list[str]]] = []  # open rows, each a list of cells, each a list of lines
    ignoring = 0
    try:
        for event, element in ElementTree.iterparse(io.BytesIO(xml), events=("start", "end")):
            tag = element.tag
            if tag == _FALLBACK:
                ignoring += 1 if event == "start" else -1
                continue
            if ignoring or not tag.startswith((_WORD, _STRICT)):
                continue
            name = tag.rpartition("}")[2]
            if event == "start":
                if name == "p":
                    paragraphs.append([])
                elif name == "tr":
                    rows.append([])
                elif name == "tc" and rows:
                    rows[-1].append([])
                continue
            if name == "t" and paragraphs:
                paragraphs[-1].append(printable(element.text or "").replace("\n", " "))
            elif name in ("br", "cr") and paragraphs:
                paragraphs[-1].append("\n")
            elif name == "tab" and paragraphs:
                paragraphs[-1].append("\t")
            elif name == "noBreakHyphen" and paragraphs:
                paragraphs[-1].append("-")
            elif name == "p":
                text = "".join(paragraphs.pop()).replace("\x0b", "\n")
                lines = [line for line in text.split("\n") if line.strip()]
                if rows and rows[-1]:
                    rows[-1][-1] += lines
                elif lines:
                    yield lines
                element.clear()
            elif name == "tr":
                cells = rows.pop()
                if rows and rows[-1]:  # a table inside a cell is text of that cell
                    rows[-1][-1] += [line for cell in cells for line in cell]
                else:
                    yield from _cells(cells)
                element.clear()
    except DefusedXmlException:
        raise problem(
            source, "its XML declares entities, which Word never does", "save it again in Word"
        ) from None
    except (SyntaxError, ValueError, LookupError) as error:  # ParseError is a SyntaxError
        raise problem(
            source,
            f"the document's XML is broken ({one_line(str(error))})",
            "download or save the document again",
        ) from None


def _cells(cells: list[list[str]]) -> Iterator[Paragraph | Row]:
    texts = tuple(one_line(" ".join(cell)) for cell in cells)
    if len([text for text in texts if text]) > 1:
        yield texts
        return
    for cell in cells:
        if cell:
            yield cell
