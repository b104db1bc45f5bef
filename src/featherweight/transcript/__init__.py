"""A meeting file in, turns out.

Sniff the format from the content, read it without guessing anything, clean it as a separate step.
Turn numbers are what evidence cites: no step here merges, splits or drops a turn that was read.
"""

from featherweight.transcript.clean import clean
from featherweight.transcript.read import FORMATS, parse_transcript, read_transcript
from featherweight.transcript.types import Transcript, Turn

__all__ = ["FORMATS", "Transcript", "Turn", "clean", "parse_transcript", "read_transcript"]
