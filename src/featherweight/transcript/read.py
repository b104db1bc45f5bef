"""The way in: bytes or a path, to a `Transcript` or a `TranscriptError`."""

from pathlib import Path

from featherweight.errors import TranscriptError
from featherweight.transcript import sniff
from featherweight.transcript.captions import read_captions
from featherweight.transcript.docx import read_docx
from featherweight.transcript.headed import read_otter, read_zoom
from featherweight.transcript.json_formats import read_json
from featherweight.transcript.meet import read_meet
from featherweight.transcript.nxt import Track, read_nxt, words_name
from featherweight.transcript.plain import read_plain, read_whisperx_txt
from featherweight.transcript.tables import read_audacity, read_tsv
from featherweight.transcript.text import MAX_BYTES, printable, problem
from featherweight.transcript.types import Transcript, Turn

_FAMILY = {
    "teams-vtt": "vtt",
    "zoom-vtt": "vtt",
    "vtt": "vtt",
    "whisperx-srt": "srt",
    "srt": "srt",
    "whisperx-txt": "whisperx-txt",
    "whisperx-json": "json",
    "whisperx-tsv": "tsv",
    "audacity": "audacity",
    "otter": "otter",
    "zoom-txt": "zoom",
    "ami-json": "json",
    "nxt-xml": "xml",
    "qmsum": "json",
    "teams-docx": "docx",
    "meet-docx": "docx",
    "docx": "docx",
    "meet-txt": "meet",
    "text": "text",
}
FORMATS = tuple(_FAMILY)


def read_transcript(path: Path | str, *, format: str | None = None) -> Transcript:
    """The meeting in the file at `path`, whatever tool wrote it.

    `format` is one of `FORMATS`, for the rare file that is taken for another. Of an NXT meeting
    any one `X.A.words.xml` stands for all: its siblings are read too. Raises `TranscriptError`.
    """
    path = Path(path)
    data = _read_bytes(path)
    if _is_nxt(data, format):
        return _finish(str(path), "nxt-xml", read_nxt(_tracks(path, data), str(path)))
    return parse_transcript(data, source=str(path), format=format)


def parse_transcript(data: bytes, *, source: str, format: str | None = None) -> Transcript:
    """The meeting in `data`, the bytes of one file; `source` names it in errors and results.

    One turn per cue, segment, paragraph or JSON item, and one per voice inside a cue, in file
    order. `start` and `end` are seconds, None where the file states none. Of an NXT meeting this
    reads one speaker's words. Raises `TranscriptError`, and nothing else.
    """
    if format is not None and format not in _FAMILY:
        raise problem(
            source, f"there is no format {format!r}", f"choose one of {', '.join(FORMATS)}"
        )
    if len(data) > MAX_BYTES:
        raise _too_large(source, len(data))
    sniff.check_bytes(data, source)
    wanted = None if format is None else _FAMILY[format]
    if sniff.is_zip(data):
        _agree(wanted, "docx", format, source)
        name, turns = read_docx(data, source)
        return _finish(source, format or name, turns)
    if wanted == "docx":
        raise problem(source, "this is not a Word document", "leave the format out")
    text = sniff.text_of(data, source)
    kind = wanted or sniff.family(text, Path(printable(source)).suffix.lower())
    if kind == "xml":
        return _finish(source, "nxt-xml", read_nxt([Track(Path(source).name, data)], source))
    name, turns = _read_text(kind, text, source)
    if wanted == "json" and format is not None and name != format:
        raise problem(source, f"this JSON is {name}, not {format}", "leave the format out")
    return _finish(source, format or name, turns)


def _read_text(kind: str, text: str, source: str) -> tuple[str, list[Turn]]:
    match kind:
        case "vtt" | "srt":
            return read_captions(text, webvtt=kind == "vtt")
        case "json":
            return read_json(text, source)
        case "tsv":
            return "whisperx-tsv", read_tsv(text)
        case "audacity":
            return "audacity", read_audacity(text)
        case "zoom":
            return "zoom-txt", read_zoom(text)
        case "otter":
            return "otter", read_otter(text)
        case "meet":
            return "meet-txt", read_meet(text.split("\n"))
        case "whisperx-txt":
            return "whisperx-txt", read_whisperx_txt(text)
        case _:
            return "text", read_plain(text)


def _finish(source: str, name: str, turns: list[Turn]) -> Transcript:
    if not any(turn.text for turn in turns):
        raise problem(
            source,
            f"no speech in it (read as {name})",
            "check that the export holds the spoken words",
        )
    return Transcript(tuple(turns), printable(source), name)


def _agree(wanted: str | None, found: str, format: str | None, source: str) -> None:
    if wanted not in (None, found):
        raise problem(source, f"this is a ZIP archive, not {format}", "leave the format out")


def _read_bytes(path: Path) -> bytes:
    """All of a file, up to `MAX_BYTES`; pipes and devices too, which have no size to ask for."""
    source = str(path)
    try:
        if path.is_dir():
            raise problem(source, "this is a folder", "name one transcript file in it")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise _too_large(source, max(path.stat().st_size, len(data)))
    except FileNotFoundError:
        raise problem(source, "there is no such file", "check the path") from None
    except PermissionError:
        raise problem(source, "you may not read this file", "change its permissions") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise problem(source, f"cannot be read ({reason})", "check the path") from None
    return data


def _too_large(source: str, size: int) -> TranscriptError:
    return problem(
        source,
        f"{size:,} bytes, and a transcript may have {MAX_BYTES:,}",
        "split the file, one meeting each",
    )


def _is_nxt(data: bytes, format: str | None) -> bool:
    return format in (None, "nxt-xml") and b"nite" in data[:2_000] and data.lstrip()[:1] == b"<"


def _tracks(path: Path, data: bytes) -> list[Track]:
    """The words files of one meeting in one folder, each with its segments if they are there.

    AMI keeps segments in `../segments/X.A.segments.xml`, ICSI in `../Segments/X.A.segs.xml`.
    """
    named = words_name(path.name)
    if named is None:
        return [Track(path.name, data)]
    try:
        siblings = sorted(path.parent.iterdir(), key=lambda item: item.name)
    except OSError:  # a folder may be opened into but not listed
        siblings = [path]
    tracks = []
    for sibling in siblings:
        other = words_name(sibling.name)
        if other is not None and other[0] == named[0]:
            words = data if sibling.name == path.name else _read_bytes(sibling)
            tracks.append(Track(sibling.name, words, _segments(path.parent, *other)))
    return tracks


def _segments(folder: Path, meeting: str, agent: str) -> bytes | None:
    places = (folder, folder.parent / "segments", folder.parent / "Segments")
    for place in places:
        for ending in ("segments", "segs"):
            candidate = place / f"{meeting}.{agent}.{ending}.xml"
            if candidate.is_file():
                return _read_bytes(candidate)
    return None
