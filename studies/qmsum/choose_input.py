"""What a model should read of a meeting, chosen on val: window sizes for located and even spans.

usage: choose_input.py --data DIR

For specific questions: the share of the gold spans' words that a budget of words catches, and the
share of the answer's terms that occur in what was picked. For whole-meeting questions: the latter.
Prints Markdown; `choose_input.md` is its output.
"""

import argparse
from pathlib import Path

import numpy as np

from featherweight.retrieve import BM25Locator, pack, windows
from featherweight.retrieve.terms import terms
from featherweight.tasks.qmsum import gold_turns, meetings, queries, spoken

BUDGETS = (700, 900, 1200)
LOCATED = ((75, 25), (100, 50), (150, 50), (200, 100), (300, 100), (375, 125), (500, 150))
EVEN = (30, 60, 90, 150, 300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    rows, _ = meetings(parser.parse_args().data, "val")
    read = [(row, spoken(row)) for row in rows]
    print("| budget | window, stride | gold words caught | answer terms caught |")
    print("| --- | --- | --- | --- |")
    for budget in BUDGETS:
        for size, stride in LOCATED:
            caught = [
                share for row, turns in read for share in located(row, turns, budget, size, stride)
            ]
            gold, answer = np.mean(caught, axis=0)
            print(f"| {budget} | {size}, {stride} | {gold:.3f} | {answer:.3f} |", flush=True)
    print("\n| budget | even windows | answer terms caught, whole meeting |")
    print("| --- | --- | --- |")
    for budget in BUDGETS:
        for size in EVEN:
            share = np.mean([s for row, turns in read for s in even(row, turns, budget, size)])
            print(f"| {budget} | {size} | {share:.3f} |")


def located(row, turns, budget, size, stride):
    lengths = [len(turn.split()) for turn in turns]
    spans = windows(lengths, size, stride)
    texts = ["\n".join(turns[a:b]) for a, b in spans]
    for query in queries(row, "specific_query_list"):
        picked = set(pack(spans, BM25Locator().scores(query["query"], texts), lengths, budget))
        gold = set(gold_turns(row, query, len(turns)))
        words = min(sum(lengths[i] for i in gold), budget)
        yield sum(lengths[i] for i in gold & picked) / words, overlap(query, turns, picked)


def even(row, turns, budget, size):
    lengths = [len(turn.split()) for turn in turns]
    spans = windows(lengths, size, size)
    for count in range(max(1, budget // size), 0, -1):
        places = np.unique(np.linspace(0, len(spans) - 1, count).round().astype(int))
        picked = {turn for i in places for turn in range(*spans[i])}
        if sum(lengths[i] for i in picked) <= budget:
            break
    for query in queries(row, "general_query_list"):
        yield overlap(query, turns, picked)


def overlap(query, turns, picked) -> float:
    answer = set(terms(query["answer"]))
    return len(answer & {t for i in picked for t in terms(turns[i])}) / max(1, len(answer))


if __name__ == "__main__":
    main()
