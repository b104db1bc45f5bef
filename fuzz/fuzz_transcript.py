"""Coverage-guided fuzzing of the transcript readers. Not part of the test run.

    pip install atheris defusedxml        # in an environment of its own
    mkdir -p corpus && find tests/data/transcripts -type f -exec cp {} corpus/ \\;
    PYTHONPATH=src python fuzz/fuzz_transcript.py corpus -max_total_time=600 -max_len=4096

The first byte chooses the format (most values mean: sniff), the rest is the file. A crash is any
exception but `TranscriptError`, or a transcript that breaks the contract; atheris saves the input.
"""

import sys

import atheris

with atheris.instrument_imports(include=["featherweight.transcript"]):
    from featherweight.errors import TranscriptError
    from featherweight.transcript import FORMATS, clean, parse_transcript


def one_input(data: bytes) -> None:
    """Read and clean one input; anything unexpected escapes."""
    chosen = data[0] if data else 255
    name = FORMATS[chosen] if chosen < len(FORMATS) else None
    try:
        transcript = parse_transcript(data[1:] if name else data, source="fuzz", format=name)
    except TranscriptError as error:
        assert str(error).isprintable()
        return
    assert any(turn.text for turn in transcript.turns)
    for turn in transcript.turns:
        (turn.text + (turn.speaker or "")).encode()
        assert "\x1b" not in turn.text + (turn.speaker or "")
        assert all(time is None or 0 <= time < float("inf") for time in (turn.start, turn.end))
    once = clean(transcript)
    assert len(once.turns) == len(transcript.turns)
    assert clean(once) == once


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
