"""One sample per format: what it says, exactly, under every name and every encoding."""

from pathlib import Path

import pytest

from featherweight.transcript import FORMATS, Turn, parse_transcript, read_transcript

DATA = Path(__file__).parents[1] / "data" / "transcripts"

JANE = "Smith, Jane (EXT)"
HELLO = "Good morning, everyone."
WHISPERX = [
    Turn("SPEAKER_00", HELLO, 0.031, 2.5),
    Turn("SPEAKER_01", "Morning.", 2.5, 5.75),
    Turn(None, "Who is that?", 5.75, 6.0),
]
QMSUM = [
    Turn("Project Manager", "Okay , {disfmarker} so let 's see the l_c_d_ ."),
    Turn("Marketing", "{vocalsound}"),
    Turn("Project Manager", "It 's $ 5 , right ?"),
]
NXT = [
    Turn("A", "Good morning. {vocalsound}", 0.9, 2.3),
    Turn("B", "Is it?", 3.0, 3.9),
    Turn("A", "It's {disfmarker} late.", 4.9, 6.0),
    Turn("B", "Yes.", 7.0, 7.4),
]
EXPECTED: dict[str, tuple[str, list[Turn]]] = {
    "ami.json": (
        "ami-json",
        [
            Turn("PM", "Okay , so {vocalsound} hello .", 77.44, 80.1),
            Turn("ME", "Hi .", 80.2, 80.9),
            Turn("PM", "The l_c_d_ ."),
        ],
    ),
    "generic.vtt": (
        "vtt",
        [
            Turn(None, "Before anyone speaks", 1.0, 4.5),
            Turn("Jane", "So a < b and b > a", 1.0, 4.5),
            Turn(None, "after", 1.0, 4.5),
            Turn("Tom", "First line second line", 4.5, 6.0),
            Turn(None, "Bonjour AT&T R&amp;D", None, 7.0),
        ],
    ),
    "markdown.md": (
        "text",
        [
            Turn(None, "# Weekly sync"),
            Turn(None, "**Action items:** none"),
            Turn("Jane", HELLO),
            Turn("Tom", "Morning."),
            Turn("Jane", "Shall we?", 62.0),
            Turn("Tom", "Yes.", 65.0, 67.0),
            Turn("Jane", "Then we begin.", 70.0),
        ],
    ),
    "meet.docx": (
        "meet-docx",
        [
            Turn("Jane Smith", "Good morning."),
            Turn("Tom Jones", "Morning."),
            Turn("Jane Smith", "Let's start: the budget.", 300.0),
        ],
    ),
    "meet.txt": (
        "meet-txt",
        [
            Turn("Jane Smith", HELLO),
            Turn("Tom Jones", "Morning. Let's start: the budget."),
            Turn("Tom Jones", "Three million. That is all.", 300.0),
            Turn("Dr. María-José O'Neil", "Fine."),
        ],
    ),
    "notes.docx": ("docx", [Turn("Jane", "Hello."), Turn("Tom", "Hi."), Turn("Jane", "Bye.")]),
    "nxt/words/XX1000a.A.words.xml": ("nxt-xml", NXT),
    "nxt/words/XX1000a.B.words.xml": ("nxt-xml", NXT),
    "otter.txt": (
        "otter",
        [
            Turn("Jane Smith", f"{HELLO} Let's start: the budget.", 3.0),
            Turn("Unknown Speaker", "Can you hear me? I hope so.", 62.0),
            Turn("Dr. María-José O'Neil", "We meet again at 10:30.", 3607.0),
        ],
    ),
    "paragraphs.txt": (
        "text",
        [
            Turn(None, "We met to talk about the budget. It was a long talk."),
            Turn(None, "Nothing was decided: the money is gone."),
        ],
    ),
    "plain.srt": (
        "srt",
        [
            Turn("Jane", "Shall we begin? It is late.", 1.0, 3.5),
            Turn("Tom", "Yes.", 3.5, 4.0),
            Turn("Jane", "Good.", 3.5, 4.0),
            Turn(None, "The answer is 42", 4.0, 6.0),
            Turn("Tom", "a --> b is an arrow.", 5.0, 7.0),
        ],
    ),
    "qmsum.json": ("qmsum", QMSUM),
    "qmsum.jsonl": ("qmsum", QMSUM),
    "speakers.txt": (
        "text",
        [
            Turn(None, "Weekly sync"),
            Turn(None, "Date: 3 May 2026"),
            Turn("Project Manager", "Good morning, everyone, and welcome."),
            Turn("PM", "Morning."),
            Turn(None, "Nobody knows who says this: a paragraph."),
            Turn(JANE, "Fine: thanks."),
            Turn("jsmith", "10:30 Meeting: is that us?"),
            Turn("Анна Иванова", "Да."),
            Turn("jsmith", "Yes."),
            Turn("SPEAKER_00", "End."),
        ],
    ),
    "teams-table.docx": (
        "teams-docx",
        [Turn("Jane Smith", "Good morning.", 3.0), Turn("Tom", "Hi: there.", 9.0)],
    ),
    "teams.docx": (
        "teams-docx",
        [
            Turn(None, "Weekly sync-20260503_100000-Meeting Recording"),
            Turn(JANE, "Good morning. Shall we?", 3.0),
            Turn("Tom Jones", "We meet at 10:30.", 3607.0),
            Turn(JANE, "Fine: thanks.", 3609.0),
        ],
    ),
    "teams.vtt": (
        "teams-vtt",
        [
            Turn(JANE, "Good morning & welcome, let's look at the budget.", 3.12, 6.48),
            Turn("O'Neil, María-José", "Is 3 < 4?", 6.48, 9.0),
            Turn(JANE, "Note: yes.", 6.48, 9.0),
            Turn('Tom "TJ" Jones', "Fine by me", 8.5, 11.25),
        ],
    ),
    "whisperx.aud": ("audacity", WHISPERX),
    "whisperx.json": ("whisperx-json", [*WHISPERX[:2], Turn(None, "Who is that?", 5.75)]),
    "whisperx.srt": ("whisperx-srt", WHISPERX),
    "whisperx.tsv": ("whisperx-tsv", WHISPERX),
    "whisperx.txt": ("whisperx-txt", [Turn(turn.speaker, turn.text) for turn in WHISPERX]),
    "whisperx.vtt": ("vtt", WHISPERX),
    "zoom-tabs-headings.txt": (
        "zoom-txt",
        [Turn("Jane Smith", HELLO, 11.0), Turn("Tom", "Morning.", 15.0)],
    ),
    "zoom-tabs.txt": (
        "zoom-txt",
        [
            Turn("Jane Smith", HELLO, 36131.0),
            Turn("Tom", "Morning.", 36135.0),
            Turn("Jane Smith", "Fine: thanks.", 36140.0),
        ],
    ),
    "zoom.txt": (
        "zoom-txt",
        [
            Turn("Jane Smith", HELLO, 36131.0),
            Turn("Tom [Guest]", "Morning. How are you?", 36135.0),
            Turn("Jane Smith", "Fine: thanks.", 36140.0),
        ],
    ),
    "zoom.vtt": (
        "zoom-vtt",
        [
            Turn("Jane Smith", HELLO, 1.23, 4.56),
            Turn(None, "Let's start: the budget is three million.", 4.9, 7.0),
            Turn("jsmith2", "I can hear you.", 7.1, 9.0),
            Turn("Jane Smith", "At 10:30 Meeting: rooms are full.", 9.1, 12.0),
            Turn(None, "10:30 Meeting: not a speaker.", 12.1, 13.0),
            Turn("jsmith2", "Thanks.", 13.1, 15.0),
            Turn("田中太郎", "はい。", 15.1, 16.0),
        ],
    ),
}
ONE_FILE = [name for name in EXPECTED if not name.startswith("nxt/")]
TEXTS = [name for name in ONE_FILE if not name.endswith(".docx")]
SUFFIXES = ["", ".vtt", ".srt", ".txt", ".json", ".tsv", ".docx", ".xml", ".md", ".mp3"]


def test_every_format_has_a_sample() -> None:
    assert {name for name, _ in EXPECTED.values()} == set(FORMATS)
    files = {path.relative_to(DATA).as_posix() for path in DATA.rglob("*") if path.is_file()}
    assert files == {*EXPECTED, "nxt/segments/XX1000a.A.segments.xml"}


@pytest.mark.parametrize("name", EXPECTED)
def test_sample(name: str) -> None:
    path = DATA / name
    transcript = read_transcript(path)
    assert (transcript.format, list(transcript.turns)) == EXPECTED[name]
    assert transcript.source == str(path)


@pytest.mark.parametrize("name", EXPECTED)
def test_naming_the_format_changes_nothing(name: str) -> None:
    expected, turns = EXPECTED[name]
    transcript = read_transcript(str(DATA / name), format=expected)
    assert (transcript.format, list(transcript.turns)) == (expected, turns)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ONE_FILE)
def test_a_wrong_suffix_changes_nothing(name: str, suffix: str) -> None:
    transcript = parse_transcript((DATA / name).read_bytes(), source=f"meeting{suffix}")
    assert (transcript.format, list(transcript.turns)) == EXPECTED[name]


ENCODINGS = {
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "cr": lambda text: text.replace("\n", "\r").encode(),
    "bom": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-be with mark": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "utf-16-le": lambda text: text.encode("utf-16-le"),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "no last line end": lambda text: text.rstrip().encode(),
    "blank lines around": lambda text: f"\n\n{text}\n\n\n".encode(),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", TEXTS)
def test_encodings_and_line_ends_change_nothing(name: str, encoding: str) -> None:
    data = ENCODINGS[encoding]((DATA / name).read_bytes().decode())
    transcript = parse_transcript(data, source=name)
    assert (transcript.format, list(transcript.turns)) == EXPECTED[name]


@pytest.mark.parametrize("name", TEXTS)
def test_windows_1252(name: str) -> None:
    text = (DATA / name).read_bytes().decode()
    try:
        data = text.encode("cp1252")
    except UnicodeEncodeError:
        data = None
    if data is None:  # a name in another script cannot be written so
        text = text.replace("田中太郎", "Bob").replace("はい。", "Ja – ça va.")
        text = text.replace("Анна Иванова", "Zoë").replace("Да.", "Ja.").replace(" 👋", "")
        data = text.encode("cp1252")
    plain = parse_transcript(text.encode(), source=name)
    assert parse_transcript(data, source=name) == plain
