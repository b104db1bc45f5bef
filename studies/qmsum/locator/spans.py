"""QMSum's specific questions as windows with the share of each that lies in the gold span."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherweight.retrieve import pack, windows
from featherweight.tasks.qmsum import gold_turns, meetings, queries, spoken


@dataclass(frozen=True)
class Meeting:
    name: str
    turns: list[str]  # `Speaker: text`
    lengths: list[int]  # words of each turn
    questions: list[tuple[str, frozenset[int]]]  # text, turns of the gold span

    def windows(self, size: int, stride: int) -> tuple[list[tuple[int, int]], list[str]]:
        """Ranges of turns, and their texts, a line a turn."""
        spans = windows(self.lengths, size, stride)
        return spans, ["\n".join(self.turns[a:b]) for a, b in spans]

    def words(self, turns: Sequence[int] | frozenset[int]) -> int:
        return sum(self.lengths[turn] for turn in turns)

    def shares(self, spans: list[tuple[int, int]], gold: frozenset[int]) -> np.ndarray:
        """[windows]: how much of each window's words lies in the gold span, 0 to 1."""
        return np.array(
            [
                self.words([i for i in range(a, b) if i in gold]) / max(1, self.words(range(a, b)))
                for a, b in spans
            ]
        )

    def caught(self, spans, scores, gold: frozenset[int], budget: int) -> tuple[float, float]:
        """Recall and precision, in words, of what a budget of words picks."""
        picked = pack(spans, scores, self.lengths, budget)
        hit = self.words([turn for turn in picked if turn in gold])
        return hit / max(1, self.words(gold)), hit / max(1, self.words(picked))


def load(data: Path, split: str) -> list[Meeting]:
    """The meetings of train or val; test is for the summaries, once."""
    if split not in ("train", "val"):
        raise SystemExit("the locator is fitted on train and chosen on val; test stays unread")
    found = []
    for row in meetings(data, split)[0]:
        turns = spoken(row)
        asked = [
            (query["query"], frozenset(gold_turns(row, query, len(turns))))
            for query in queries(row, "specific_query_list")
        ]
        lengths = [len(turn.split()) for turn in turns]
        found.append(Meeting(row.key("meeting_id"), turns, lengths, asked))
    return found
