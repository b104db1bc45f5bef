"""A summary as plain data, and its JSON form (schema: docs/summary.schema.json)."""

from dataclasses import dataclass, field
from typing import Any, Literal

from featherweight.summarize.evidence import Evidence

Length = Literal["short", "medium", "long"]
Focus = Literal["actions", "decisions"]
Strategy = Literal[
    "single",
    "truncate",
    "map-reduce",
    "chapters",
    "chapters-resummarise",
    "chapters-rewrite",
    "locate",
    "answer",
    "quotes",
]


@dataclass(frozen=True, slots=True)
class Point:
    """One statement of a summary with the sentences that support it, best first.

    `supported` is the checker's verdict, never the model's. `owner` and `due` are set only for
    action items, and only where a cited turn states them.
    """

    text: str
    supported: bool
    evidence: tuple[Evidence, ...]
    reasons: tuple[str, ...] = ()
    owner: str | None = None
    due: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished summary. `notes` tell the reader what to know before trusting it."""

    text: str
    points: tuple[Point, ...]
    strategy: Strategy
    model: str
    chunks_total: int
    chunks_failed: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    source: str
    turns: int
    query: str | None = None
    focus: Focus | None = None
    length: Length = "medium"
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The object that `featherweight summarize --format json` prints."""
        return {
            "summary": self.text,
            "points": [_point(point, self.focus) for point in self.points],
            "strategy": self.strategy,
            "model": self.model,
            "chunks": {"total": self.chunks_total, "failed": self.chunks_failed},
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
            },
            "seconds": round(self.seconds, 3),
            "source": self.source,
            "query": self.query,
            "focus": self.focus,
            "length": self.length,
            "notes": list(self.notes),
        }


def _point(point: Point, focus: Focus | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "text": point.text,
        "supported": point.supported,
        "evidence": [
            {
                "turn": item.turn,
                "speaker": item.speaker,
                "start": item.start,
                "quote": item.quote,
                "score": round(item.score, 4),
            }
            for item in point.evidence
        ],
        "reasons": list(point.reasons),
    }
    if focus == "actions":
        found |= {"owner": point.owner, "due": point.due}
    return found
