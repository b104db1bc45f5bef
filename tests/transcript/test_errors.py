"""Input that is no transcript: one sentence, never a traceback."""

import io
import os
import struct
from pathlib import Path

import pytest

from featherweight.errors import TranscriptError
from featherweight.transcript import parse_transcript, read_transcript, text


def refused(data: bytes, source: str = "a.vtt", format: str | None = None) -> str:
    with pytest.raises(TranscriptError) as caught:
        parse_transcript(data, source=source, format=format)
    message = str(caught.value)
    assert message.startswith(source) and message.endswith(".") and message.isprintable()
    assert caught.value.__cause__ is None  # nothing but the sentence
    return message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b" \r\n\t\n", "white space"),
        (b"\xef\xbb\xbf", "white space"),
        (b"\xff\xfe\n\x00", "white space"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "picture"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "picture"),
        (b"%PDF-1.7\n...", "PDF"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (rb"{\rtf1\ansi Jane: hello}", "RTF"),
        (b"ID3\x04" + bytes(50), "recording .MP3.*transcriber"),
        (b"\xff\xfb\x90\x00" + bytes(50), "recording"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "recording .WAV"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(50), "recording .MP4"),
        (b"OggS" + bytes(50), "recording .Ogg"),
        (b"\x1aE\xdf\xa3" + bytes(50), "recording"),
        (bytes(range(256)) * 8, "binary"),
        (struct.pack("<200d", *(float(number) / 7 for number in range(200))), "binary"),
        (b"<!DOCTYPE html><html><body>hi</body></html>", "web page"),
        (b"<html lang=en>", "web page"),
        (b"WEBVTT\n", "no speech"),
        (b"WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.000\n\n", "no speech"),
        (b"WEBVTT\n\nNOTE only a note\n", "no speech"),
        (b"1\n00:00:00,000 --> 00:00:01,000\n<i></i>\n", "no speech"),
        (b"start\tend\ttext\n0\t1\t\n", "no speech"),
        (b'{"segments": []}', "no speech"),
        (b'{"meeting_transcripts": [{"speaker": "A", "content": ""}]}', "no speech"),
        (b'{"a": 1, "b": 2}', "the keys 'a', 'b', .*'segments'"),
        (b"{}", r"keys \(none\)"),
        (b"[]", "0 items"),
        (b'[{"words": 1}]', "'words'"),
        (b"[[1]]", "without keys"),
        (b'{"a": [1,\n 2,,]}', "line 2, column 4"),
        (b'{"segments": [', "broken JSON at line 1"),
        (b'{"a": 1}\n{"a": 2', "broken JSON at line 2"),
        (b'{"a": ' + b"[" * 100_000, "nested"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "digits"),
        (b'{"meeting_transcripts": []}\n{"meeting_transcripts": []}', "2 meetings"),
        (b'[{"meeting_transcripts": []}, {"meeting_transcripts": []}]', "2 meetings"),
        (b"<?xml version='1.0'?><tt><p>x</p></tt>", "unknown kind.*'tt'"),
        (b"<?xml version='1.0'?><tt>", "XML is broken"),
        (b"<?xml version='1.0' encoding='nonsense'?><tt/>", "XML is broken"),
        (
            b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><a>&b;</a>',
            "declares entities",
        ),
        (
            b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><a>&a;</a>',
            "declares entities",
        ),
    ],
)
def test_refusals(data: bytes, says: str) -> None:
    import re

    assert re.search(says, refused(data))


def test_keys_in_errors_are_few_short_and_harmless() -> None:
    keys = ", ".join(f'"key{number}{"x" * 500}\\u001b[31m\\ud800": 1' for number in range(50))
    assert len(refused(b"{" + keys.encode() + b"}")) < 800


def test_a_source_cannot_drive_the_terminal() -> None:
    with pytest.raises(TranscriptError) as caught:
        parse_transcript(b"", source="a\x1b[31m\udcff.vtt")
    assert str(caught.value).isprintable()


def test_too_large_is_refused_with_the_number(tmp_path: Path) -> None:
    assert "100,000,001 bytes" in refused(bytes(text.MAX_BYTES + 1))
    path = tmp_path / "big.vtt"
    with path.open("wb") as file:
        file.truncate(text.MAX_BYTES + 7)  # sparse: takes no space
    with pytest.raises(TranscriptError, match="100,000,007 bytes"):
        read_transcript(path)


def test_wrong_formats_are_named() -> None:
    assert "no format 'doc'" in refused(b"Jane: hi", format="doc")
    assert "not a Word document" in refused(b"Jane: hi", format="teams-docx")
    assert "broken JSON" in refused(b"Jane: hi", format="qmsum")
    assert "whisperx-json, not qmsum" in refused(b'{"segments": []}', format="qmsum")
    assert "ZIP archive, not vtt" in refused(b"PK\x03\x04", format="vtt")


def test_paths(tmp_path: Path) -> None:
    missing = tmp_path / "missing.vtt"
    for path, says in (
        (missing, "no such file"),
        (tmp_path, "folder"),
        (tmp_path / ("x" * 5000), "cannot be read"),
        (Path("a\0b"), "cannot be read"),
    ):
        with pytest.raises(TranscriptError, match=says):
            read_transcript(path)


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.vtt"
    path.write_text("WEBVTT")

    def deny(*_: object, **__: object) -> io.BytesIO:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)  # root may read everything
    with pytest.raises(TranscriptError, match="permissions"):
        read_transcript(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(
        target=path.write_bytes, args=(b"WEBVTT\n\n00:01.000 --> 00:02.000\nHi",)
    )
    writer.start()
    assert read_transcript(path).turns[0].text == "Hi"
    writer.join()
