"""Read the gold evidence: answer sentences, their central evidence, and the meeting."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from featherweight.transcript.types import Transcript, Turn

Span = tuple[int, int, int]  # turn, first character, end


@dataclass
class Answer:
    """One sentence of a human answer and where its central evidence stands."""

    meeting: str
    text: str
    ces: list[Span]  # unique, located in the turn
    query: str
    general: bool


@dataclass
class Meeting:
    id: str
    domain: str
    transcript: Transcript
    answers: list[Answer] = field(default_factory=list)  # with at least one CES
    without_ces: int = 0
    not_located: int = 0


def rows(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def locate(content: str, text: str) -> tuple[int, int] | None:
    """Where `content` stands in `text`, white space being equal to white space."""
    pattern = r"\s+".join(re.escape(word) for word in content.split())
    found = re.search(pattern, text) if pattern else None
    return found.span() if found else None


def tidy(text: str) -> str:
    """Speech as a reader wants it: no noise marks, no space before punctuation and clitics."""
    text = re.sub(r"\{[^{}]*\}", " ", text).replace("_", "")
    text = re.sub(r"\s+", " ", text)
    return re.sub(r" (?=[.,;:?!]|['’](?:s|re|ve|ll|m|d|t)\b)", "", text).strip()


def load(data: Path, split: str, clean: bool = False) -> list[Meeting]:
    """Meetings of `split`, joined on meeting_id, in the file's order.

    `clean` tidies the transcript and the gold evidence alike; else both stay raw.
    """
    read = tidy if clean else str
    transcripts = {row["meeting_id"]: row for row in rows(data / "qmsum" / f"{split}.jsonl.gz")}
    meetings = []
    for row in rows(data / "qmsum_evidence" / f"{split}.jsonl.gz"):
        turns = tuple(
            Turn(turn["speaker"], read(turn["content"]))
            for turn in transcripts[row["meeting_id"]]["meeting_transcripts"]
        )
        meeting = Meeting(
            row["meeting_id"], row["domain"], Transcript(turns, row["meeting_id"], "qmsum")
        )
        for kind in ("general_query_list", "specific_query_list"):
            for query in row["qmsum"].get(kind, []):
                for text, evidence in zip(
                    query["tokenized_answer"], query["evidence"], strict=True
                ):
                    spans = set()
                    for item in evidence:
                        if item["type"] != "CES":
                            continue
                        at = locate(read(item["content"]), turns[item["turn_index"]].text)
                        if at is None:
                            meeting.not_located += 1
                        else:
                            spans.add((item["turn_index"], *at))
                    if spans:
                        general = kind.startswith("general")
                        meeting.answers.append(
                            Answer(meeting.id, text, sorted(spans), query["query"], general)
                        )
                    else:
                        meeting.without_ces += 1
        meetings.append(meeting)
    return meetings
