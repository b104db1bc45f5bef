"""What a file is, from what it holds; its suffix is asked only where the content leaves it open."""

import re
from itertools import pairwise

from featherweight.transcript import headed, meet, tables
from featherweight.transcript.captions import timing
from featherweight.transcript.speakers import labelled_lines
from featherweight.transcript.text import decode, looks_binary, problem

# Families: each is one reader, which then tells its own formats apart.
Family = str

_SCAN = 400  # lines from the top that are asked; a heading later than that is no heading
_HEAD = 4_000_000  # characters from which those lines are taken
_SPEAKER_LINE = re.compile(r"\[SPEAKER_[A-Z0-9]{1,8}\]:", re.IGNORECASE)
_JSON_START = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*(?:[{\]\"]|\[\s*[\[{\]\"\d-]))")
_JSON_MAYBE = re.compile(r"\s*(?:\{|\[\s*(?:-?\d+\s*[,.\]eE]|true\b|false\b|null\b))")
_XML_START = re.compile(r"\s*(?:<\?xml\b|<nite:)", re.IGNORECASE)
_HTML_START = re.compile(r"\s*<(?:!doctype html|html)\b", re.IGNORECASE)
_HEADER_OF = (
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"GIF8", "a picture (GIF)"),
    (b"%PDF-", "a PDF document"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90", "a program"),
    (rb"{\rtf", "an RTF document"),
)
_SOUND = (
    (b"ID3", "MP3"),
    (b"OggS", "Ogg"),
    (b"fLaC", "FLAC"),
    (b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (b"#!AMR", "AMR"),
    (b"0&\xb2u\x8ef\xcf\x11", "Windows Media"),
    (b"FORM", "AIFF"),
    (b"caff", "Core Audio"),
)


def check_bytes(data: bytes, source: str) -> None:
    """Raise the `TranscriptError` that names what these bytes are, if they are no transcript."""
    if not data:
        raise problem(source, "the file is empty", "export the transcript again")
    if (sound := _sound(data)) is not None:
        raise problem(
            source,
            f"this is a recording ({sound}), not a transcript",
            "run a transcriber such as WhisperX on it first and give its output",
        )
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise problem(
            source,
            "a password-protected Word document, or one in the old .doc format",
            "save it without a password as .docx",
        )
    for start, what in _HEADER_OF:
        if data.startswith(start):
            raise problem(source, f"this is {what}", "save or unpack it as text, VTT or .docx")


def is_zip(data: bytes) -> bool:
    return data.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"))


def check_text(data: bytes, text: str, source: str) -> None:
    """Raise `TranscriptError` for white space only, for binary data and for web pages."""
    if not text.strip():
        raise problem(source, "the file holds only white space", "export the transcript again")
    if looks_binary(data):
        raise problem(
            source, "this is binary data, not text", "export the transcript as VTT, SRT or text"
        )
    if _HTML_START.match(text):
        raise problem(
            source, "this is a web page", "download the transcript itself, or save it as text"
        )


def is_xml(text: str) -> bool:
    return _XML_START.match(text) is not None


def family(text: str, suffix: str) -> Family:
    """The reader for `text`: one of vtt, srt, json, xml, tsv, audacity, zoom, meet, otter,
    whisperx-txt, text. `suffix` is in lower case with its dot.
    """
    if text.lstrip().startswith("WEBVTT"):
        return "vtt"
    if is_xml(text):
        return "xml"
    if _JSON_START.match(text) or (suffix == ".json" and _JSON_MAYBE.match(text)):
        return "json"
    lines = [line for line in text[:_HEAD].split("\n") if line.strip()][:_SCAN]
    times = [times for line in lines if "-->" in line and (times := timing(line)) is not None]
    if any(None not in pair for pair in times):
        return "vtt" if suffix == ".vtt" and not _has_commas(lines) else "srt"
    if tables.is_tsv_header(lines[0]):
        return "tsv"
    if sum(tables.is_label(line) for line in lines) * 2 > len(lines):
        return "audacity"
    rows = sum(headed.zoom_row(line) is not None for line in lines)
    # one line like a heading above labelled ones is a title with its time
    labelled = labelled_lines(lines)
    headings = sum(headed.zoom_heading(line) is not None for line in lines)
    if (rows * 4 >= len(lines) and rows >= labelled) or (headings and headings >= labelled):
        return "zoom"
    if meet.is_meet(text.split("\n")):
        return "meet"
    if _otter(text[:_HEAD].split("\n"), labelled):
        return "otter"
    if any(_SPEAKER_LINE.match(line.strip()) for line in lines):
        return "whisperx-txt"
    return "text"


def text_of(data: bytes, source: str) -> str:
    """Decoded text, after every check on it."""
    text = decode(data)
    check_text(data, text, source)
    return text


def _otter(lines: list[str], labelled: int) -> bool:
    """A heading with words below it: `Jane Smith  0:03` alone is the end of some sentence.

    No fewer than lines are `labelled`, or it is a title.
    """
    lines = lines[: 2 * _SCAN]  # blank ones are among them
    found = zip(lines, headed.otter_headings(lines), strict=True)
    headings = [heading is not None for line, heading in found if line.strip()]
    return sum(headings) >= labelled and any(
        here and not below for here, below in pairwise(headings)
    )


def _has_commas(lines: list[str]) -> bool:
    return any("-->" in line and "," in line for line in lines)


def _sound(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] in (b"WAVE", b"AVI "):
        return "WAV" if data[8:12] == b"WAVE" else "AVI"
    if data[4:8] == b"ftyp":
        return "MP4 or M4A"
    # MPEG audio frames: eleven set bits, then a layer that exists. FF FE is UTF-16 instead.
    if len(data) > 3 and data[0] == 0xFF and data[1] in (0xFB, 0xF3, 0xF2, 0xFA, 0xF1, 0xF9):
        return "MP3 or AAC"
    return next((name for start, name in _SOUND if data.startswith(start)), None)
