"""JSON transcripts: WhisperX segments, the AMI/ICSI list, QMSum meetings."""

import json
from typing import Any

from featherweight.transcript.text import one_line, problem, quoted
from featherweight.transcript.times import clock, number
from featherweight.transcript.types import Turn

_KNOWN = (
    "known are 'segments' (WhisperX), 'meeting_transcripts' (QMSum), and a list of items with "
    "'text' beside 'start' (WhisperX) or 'starttime' (AMI)"
)


def read_json(text: str, source: str) -> tuple[str, list[Turn]]:
    """(format, turns) of a JSON document, or of JSON lines that hold one meeting.

    Raises `TranscriptError` for broken JSON, several meetings, or a shape that we do not know.
    """
    value = _load(text, source)
    if isinstance(value, list) and value and all(_is_meeting(item) for item in value):
        if len(value) > 1:
            raise problem(
                source,
                f"it holds {len(value)} meetings and a transcript is one",
                "save the one you want in its own file, for JSON lines with "
                "sed -n 1p FILE > MEETING.json (1p is the first line)",
            )
        value = value[0]
    if isinstance(value, dict):
        if _is_meeting(value):
            return "qmsum", _turns(value["meeting_transcripts"], text="content")
        if isinstance(value.get("segments"), list):
            return "whisperx-json", _turns(value["segments"])
        parts = [item for one in value.values() if isinstance(one, list) for item in one]
        # Whisper's short form; not the whole text beside utterances that say who and when
        if isinstance(value.get("text"), str) and not any(map(_says, parts)):
            return "whisperx-json", _turns([value])
        raise problem(
            source,
            f"the JSON has the keys {_names(value)}, and none that we know ({_KNOWN})",
            "export it in one of these shapes, or as text",
        )
    if isinstance(value, list):
        items = [item for item in value if isinstance(item, dict)]
        if any("text" in item and ("starttime" in item or "label" in item) for item in items):
            return "ami-json", _turns(items, start="starttime", end="endtime")
        if any("text" in item for item in items):
            return "whisperx-json", _turns(items)
        if any("content" in item and "speaker" in item for item in items):
            return "qmsum", _turns(items, text="content")
        keys = _names({key: None for item in items[:20] for key in item})
        having = f"with the keys {keys}" if items else "without keys"
        raise problem(
            source,
            f"the JSON is a list of {len(value)} items {having}, no shape that we know ({_KNOWN})",
            "export it in one of these shapes, or as text",
        )
    raise problem(
        source,
        f"the JSON is a single {type(value).__name__}, not a transcript ({_KNOWN})",
        "export it in one of these shapes, or as text",
    )


def _load(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and error.msg == "Extra data":
            return _load_lines(text, source)
        raise _broken(source, error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise _nested(source) from None
    except ValueError:
        raise problem(
            source, "its JSON holds a number with thousands of digits", "export it again"
        ) from None


def _load_lines(text: str, source: str) -> list[Any]:
    values = []
    for index, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise _broken(source, error.msg, index, error.colno) from None
            except (RecursionError, ValueError):
                raise _nested(source) from None
    return values


def _broken(source: str, why: str, line: int, column: int) -> Exception:
    return problem(
        source,
        f"broken JSON at line {line}, column {column} ({one_line(why)})",
        "export it again, or mend that place",
    )


def _nested(source: str) -> Exception:
    return problem(source, "its JSON is nested too deeply to be a transcript", "export it again")


def _is_meeting(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("meeting_transcripts"), list)


def _says(item: Any) -> bool:
    return isinstance(item, dict) and "text" in item


def _names(keys: dict[Any, Any]) -> str:
    names = [quoted(key, 30) for key in list(keys)[:8]]
    more = ", …" if len(keys) > 8 else ""
    return ", ".join(names) + more if names else "(none)"


def _turns(items: Any, *, text: str = "text", start: str = "start", end: str = "end") -> list[Turn]:
    """One turn per item; times in seconds, as numbers or clock times.

    Items without words are left out, but not of QMSum: its annotations count every item.
    """
    turns = []
    for item in items:
        if not isinstance(item, dict):
            item = {text: item} if isinstance(item, str) else {}
        said = item.get(text)
        words = one_line(said) if isinstance(said, str) else ""
        if words or text == "content":
            named = item.get("speaker")
            if isinstance(named, int) and not isinstance(named, bool) and abs(named) < 10**9:
                named = str(named)
            speaker = one_line(named) or None if isinstance(named, str) else None
            turns.append(Turn(speaker, words, _time(item.get(start)), _time(item.get(end))))
    return turns


def _time(value: object) -> float | None:
    if isinstance(value, str) and ":" in value:
        return clock(value)
    return number(value)
