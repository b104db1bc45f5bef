"""Encodings, line ends, and text that a terminal cannot obey."""

import pytest

from featherweight.transcript.text import decode, looks_binary, one_line, printable, quoted
from featherweight.transcript.times import clock, number, span


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("naïve – “x”".encode("cp1252"), "naïve – “x”"),
        (b"caf\xe9", "café"),
        ("Grüße und Küsse, 田中さん".encode()[:-1], "Grüße und Küsse, 田中さ\ufffd"),
        ("日本語\n会議".encode("utf-16"), "日本語\n会議"),
        ("Jane: hi\n".encode("utf-16-le"), "Jane: hi\n"),
        ("Jane: hi\n".encode("utf-16-be") + b"\x00", "Jane: hi\n\ufffd"),
        (b"a\r\nb\rc\n\rd", "a\nb\nc\n\nd"),
        (b"a\x00b c d e f", "ab c d e f"),
        ("日本語 会議\n".encode("utf-16-le"), "日本語 会議\n"),
        (b"", ""),
    ],
)
def test_decode(data: bytes, text: str) -> None:
    assert decode(data) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("\x1b]0;never ended", "]0;never ended"),
        ("\x9b31m\x07\x7f\x08", "31m"),
        ("a\u202eb\u2066c\ufeff", "abc"),
        ("\ud83d\ude00 \udfff", "\ufffd\ufffd \ufffd"),
        ("می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),  # joiners are spelling
    ],
)
def test_printable(text: str, safe: str) -> None:
    assert printable(text) == safe


def test_nested_escapes_leave_nothing() -> None:
    assert "\x1b" not in printable("\x1b\x1b[0m[31m\x1b")


def test_one_line_and_quoted() -> None:
    assert one_line(" a\u2028b\x85c\x0bd\t\n e ") == "a b c d e"
    assert quoted("x" * 500, 10) == repr("x" * 9 + "…")


def test_binary() -> None:
    assert looks_binary(bytes(range(256)))
    assert not looks_binary("Grüße 田中\n".encode() * 10)
    assert not looks_binary(b"\x1b[31mred\x1b[0m")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:03", 3.0), ("75:10", 4510.0), ("1:02:03", 3723.0), ("00:00:01.031", 1.031),
        ("00:00:01,5", 1.5), ("100:00:00", 360000.0), ("10:02:11 AM", 36131.0),
        ("1:05 pm", 47100.0), ("12:00:00 am", 0.0), ("12:30 pm", 45000.0), ("0:0:5.100", 5.1),
        ("1:60", None), ("1:60:00", None), ("1:2:3:4", None), ("13:00 pm", None), ("", None),
        ("1", None), ("-1:00", None), ("１:００", None), ("1:00x", None), ("9" * 99 + ":00", None),
    ],
)  # fmt: skip
def test_clock(text: str, seconds: float | None) -> None:
    assert clock(text) == seconds


def test_span() -> None:
    assert span("0:01 - 0:05") == span("0:01–0:05") == span("0:01 --> 0:05") == (1.0, 5.0)
    assert span("0:01") == (1.0, None)
    assert span("0:01 - later") is None and span("2020-01-01") is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1, 1.0), (1.5, 1.5), ("77.44", 77.44), (" 2 ", 2.0), (0, 0.0), (None, None), (True, None),
        ("", None), ("soon", None), ("1_000", None), ("nan", None), (float("nan"), None),
        (float("inf"), None), (-1, None), (10**400, None), ("9" * 50, None), ([], None), ({}, None),
        ("1e400", None), ("٣", None),
    ],
)  # fmt: skip
def test_number(value: object, seconds: float | None) -> None:
    assert number(value) == seconds
