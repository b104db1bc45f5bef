"""Bytes to text, and text that is safe to print.

Meeting tools write UTF-8, UTF-16 (with and without a mark) and Windows-1252, with every kind of
line end. Whatever they write, what leaves this module holds no control character that a terminal
could obey and no surrogate that an encoder could choke on.
"""

import re

from featherweight.errors import TranscriptError

MAX_BYTES = 100_000_000

# An escape sequence goes as a whole; a lone escape character goes alone, so that no words go with
# it: ESC [ ... letter (colours, cursor), ESC ] ... BEL (titles, links).
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]{0,2000}(?:\x07|\x1b\\)")
# C0 and C1 controls, explicit text direction (can reorder what a reader sees), inner byte order
# marks and noncharacters. Tab and line feed stay: readers need them.
_CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# What a text file does not hold; a share of these says that the bytes were never text.
_NOT_TEXT = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffd]")


def problem(source: str, what: str, advice: str) -> TranscriptError:
    """The one-sentence error that names the file, what is wrong with it and what to do."""
    return TranscriptError(f"{printable(source)}: {what}; {advice}.")


def quoted(value: object, limit: int = 60) -> str:
    """A value from the file, short and harmless, for an error message."""
    text = one_line(str(value)[: limit * 4])
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def printable(text: str) -> str:
    """`text` without escape sequences, control characters and surrogates; spaces as they are."""
    if "\x1b" in text:
        text = _ANSI.sub("", text)
    if _CONTROL.search(text):
        text = _CONTROL.sub("", text)
    if _SURROGATE.search(text):
        text = _SURROGATE.sub("\ufffd", text)
    return text


def one_line(text: str) -> str:
    """`printable`, with every run of white space made one space."""
    return " ".join(printable(text).split())


def decode(data: bytes) -> str:
    """The text of a file, with LF line ends and nothing that a terminal would obey.

    A byte order mark decides; else UTF-16 where zero bytes stand at every second place; else
    UTF-8, forgiving a few broken characters (a cut file); else Windows-1252. UTF-16 of a script
    that is not Latin has few zeros: it has to fail as UTF-8 too.
    """
    text = _decode(data).replace("\r\n", "\n").replace("\r", "\n")
    return printable(text)


def looks_binary(data: bytes) -> bool:
    """True where more than one character in twenty is one that no text holds."""
    text = _decode(data[:65_536])
    return len(_NOT_TEXT.findall(text)) * 20 > len(text)


def _decode(data: bytes) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        return data[3:].decode("utf-8", "replace")
    if data.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return data.decode("utf-32", "replace")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    sample = data[:65_536]
    zeros, odd = sample.count(0), sample[1::2].count(0)
    if zeros * 4 < len(sample):
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            pass
    if zeros * 50 >= len(sample) > 0:
        if odd * 10 >= zeros * 9:
            return data.decode("utf-16-le", "replace")
        if odd * 10 <= zeros:
            return data.decode("utf-16-be", "replace")
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    beyond_ascii = len(text) - len(text.encode("ascii", "ignore"))
    if broken * 4 <= beyond_ascii:  # real UTF-8 with a few scars, not another encoding
        return text
    return data.decode("cp1252", "replace")
