"""Measure finding and checking of evidence on a split; print tables, write JSON and Markdown.

    python studies/evidence/run.py --data DIR --split val

The transcripts are used raw, as QMSum has them, unless --clean is given. Intervals are
95 % percentile intervals of a bootstrap over meetings.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from data import Meeting, Span, load
from measure import interval, resamples
from points import KINDS, points
from sklearn.metrics import roc_auc_score

from featherweight.evaluate.evidence import prf, sentence_counts, turn_counts
from featherweight.retrieve import BM25
from featherweight.summarize.evidence import MOST, Evidence, EvidenceFinder
from featherweight.summarize.ranker import coefficients
from featherweight.summarize.sentences import sentences

HERE = Path(__file__).parent
KS = (1, 3, 5, 10)
Finder = Callable[[str, int | None], list[Span]]


def bm25_finder(meeting: Meeting) -> Finder:
    """Plain Okapi BM25 (k1 = 1.2, b = 0.75) over the same sentences.

    Adaptive: what reaches 0.85 of the best score, the share that is best on train.
    """
    turns = meeting.transcript.turns
    spans = [(n, a, b) for n, turn in enumerate(turns) for a, b in sentences(turn.text)]
    index = BM25([turns[n].text[a:b] for n, a, b in spans])

    def find(point: str, k: int | None) -> list[Span]:
        scores = index.scores(point)
        order = np.argsort(-scores, kind="stable")[: k or MOST]
        return [spans[at] for at in order if k or scores[at] >= 0.85 * scores[order[0]]]

    return find


def spans_of(meeting: Meeting, evidence: tuple[Evidence, ...]) -> list[Span]:
    found = []
    for item in evidence:
        start = meeting.transcript.turns[item.turn].text.find(item.quote)
        found.append((item.turn, start, start + len(item.quote)))
    return found


def shipped_finder(meeting: Meeting) -> Finder:
    finder = EvidenceFinder(meeting.transcript)
    return lambda point, k: spans_of(meeting, finder.find(point, k))


def finding(meetings: list[Meeting], weights: np.ndarray) -> dict:
    """system -> k -> level -> [P, R, F1] with intervals; `weights` [resamples, meetings]."""
    systems: dict[str, tuple[Callable[[Meeting], Finder], tuple[int | None, ...]]] = {
        "BM25": (bm25_finder, (*KS, None)),
        "shipped": (shipped_finder, (*KS, None)),
    }
    result: dict = {}
    per_meeting: dict = {}
    for name, (build, ks) in systems.items():
        counts = np.zeros((len(ks), 2, len(meetings), 4))
        words = np.zeros((len(ks), 2))
        for m, meeting in enumerate(meetings):
            find = build(meeting)
            for answer in meeting.answers:
                for row, k in enumerate(ks):
                    predicted = find(answer.text, k)
                    counts[row, 0, m] += sentence_counts(predicted, answer.ces)
                    counts[row, 1, m] += turn_counts(predicted, answer.ces)
                    turns = meeting.transcript.turns
                    words[row] += (
                        sum(len(turns[t].text[a:b].split()) for t, a, b in predicted),
                        len(predicted),
                    )
        for row, k in enumerate(ks):
            label = "adaptive" if k is None else str(k)
            entry = {
                "sentences a point": counts[row, 0, :, 0].sum()
                / sum(len(m.answers) for m in meetings),
                "words a sentence": words[row, 0] / max(words[row, 1], 1),
            }
            for level, title in enumerate(("sentence", "turn")):
                per_meeting[name, label, title] = counts[row, level]
                value = prf(counts[row, level].sum(axis=0))
                spread = interval(prf(np.einsum("bm,mc->bc", weights, counts[row, level])))
                entry[title] = {
                    metric: [float(value[i]), *spread[i]]
                    for i, metric in enumerate(("precision", "recall", "F1"))
                }
            result.setdefault(name, {})[label] = entry
    # Paired: the same resampled meetings for both systems.
    for label in (*map(str, KS), "adaptive"):
        for title in ("sentence", "turn"):
            a, b = per_meeting["shipped", label, title], per_meeting["BM25", label, title]
            gain = [prf(np.einsum("bm,mc->bc", weights, c))[:, 2] for c in (a, b)]
            point = prf(a.sum(axis=0))[2] - prf(b.sum(axis=0))[2]
            result.setdefault("gain in F1", {})[f"{label}, {title}"] = [
                float(point), *interval(gain[0] - gain[1]),
            ]  # fmt: skip
    return result


def gold_evidence(meeting: Meeting, number: int) -> tuple[Evidence, ...]:
    turns = meeting.transcript.turns
    return tuple(
        Evidence(t, turns[t].speaker, turns[t].start, turns[t].text[a:b], 1.0)
        for t, a, b in meeting.answers[number].ces
    )


def checking(meetings: list[Meeting], weights: np.ndarray) -> dict:
    """AUROC, recall and false support at the shipped threshold; evidence found anew each time."""
    rows, given, at = [], [], -1
    finder = None
    for number, answer, kind, text in points(meetings, seed=1):
        if number != at:
            finder, at = EvidenceFinder(meetings[number].transcript), number
        support = finder.check(text, finder.find(text))
        rows.append((number, kind, support.score, support.supported))
        if kind == "true":
            gold = finder.check(text, gold_evidence(meetings[number], answer))
            given.append((gold.score, gold.supported))
    meeting, kind, score, supported = (np.array(column) for column in zip(*rows, strict=True))
    true = kind == "true"

    def rate(mask: np.ndarray) -> list[float]:
        total = np.bincount(meeting[mask], minlength=len(meetings)).astype(float)
        kept = np.bincount(meeting[mask], weights=supported[mask], minlength=len(meetings))
        spread = interval((weights @ kept) / np.maximum(weights @ total, 1))
        return [float(kept.sum() / total.sum()), *spread]

    def entry(mask: np.ndarray) -> dict:
        return {"n": int(mask.sum()), "supported": rate(mask)} | (
            {}
            if (mask & true).any()
            else {"AUROC": float(roc_auc_score(true[mask | true], score[mask | true]))}
        )

    result = {"true points, evidence found": entry(true)}
    result["true points, gold evidence given"] = {
        "n": len(given), "supported": float(np.mean([s for _, s in given])),
    }  # fmt: skip
    for name in KINDS:
        if (kind == name).any():
            result[name] = entry(kind == name)
    result["all false points"] = entry(~true)
    rates = [result[name]["supported"][0] for name in KINDS if name in result]
    result["mean of the kinds' false support"] = float(np.mean(rates))
    result["trade-off"] = {
        f"{aim:.2f}": {
            "false support, all": float((score[~true] >= cut).mean()),
            "false support, mean of kinds": float(
                np.mean(
                    [(score[kind == name] >= cut).mean() for name in KINDS if (kind == name).any()]
                )
            ),
        }
        for aim in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
        for cut in [np.quantile(score[true], 1 - aim)]
    }
    return result


def speed(meetings: list[Meeting]) -> dict:
    """Twenty points found and checked in the meeting nearest to 10,000 words."""

    def size(meeting: Meeting) -> int:
        return sum(len(turn.text.split()) for turn in meeting.transcript.turns)

    meeting = min(meetings, key=lambda meeting: abs(size(meeting) - 10_000))
    begin = time.perf_counter()
    finder = EvidenceFinder(meeting.transcript)
    texts = [answer.text for answer in meeting.answers]
    for text in (texts * 20)[:20]:
        finder.check(text, finder.find(text))
    return {"words": size(meeting), "seconds": round(time.perf_counter() - begin, 3)}


def cell(values: list[float]) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"


def table(result: dict) -> str:
    lines = ["| system | k | level | precision | recall | F1 |", "|---|---|---|---|---|---|"]
    for name in ("BM25", "shipped"):
        for k, entry in result["finding"][name].items():
            for level in ("sentence", "turn"):
                cells = " | ".join(cell(entry[level][m]) for m in ("precision", "recall", "F1"))
                lines.append(f"| {name} | {k} | {level} | {cells} |")
    lines += ["", "| F1 gained over BM25 at | |", "|---|---|"]
    lines += [f"| {name} | {cell(v)} |" for name, v in result["finding"]["gain in F1"].items()]
    lines += [
        "",
        "| points | n | judged supported | AUROC against true points |",
        "|---|---|---|---|",
    ]
    for name, entry in result["checking"].items():
        if isinstance(entry, dict) and "n" in entry:
            rate = entry["supported"]
            shown = cell(rate) if isinstance(rate, list) else f"{rate:.3f}"
            auroc = f"{entry['AUROC']:.3f}" if "AUROC" in entry else ""
            lines.append(f"| {name} | {entry['n']} | {shown} | {auroc} |")
    mean = result["checking"]["mean of the kinds' false support"]
    lines.append(f"| mean of the kinds of false points | | {mean:.3f} | |")
    lines += [
        "",
        "| recall of true points | false support, all | false support, mean of kinds |",
        "|---|---|---|",
    ]
    for recall, entry in result["checking"]["trade-off"].items():
        lines.append(
            f"| {recall} | " + " | ".join(f"{value:.3f}" for value in entry.values()) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="holds qmsum/ and qmsum_evidence/")
    parser.add_argument("--split", default="val")
    parser.add_argument("--clean", action="store_true", help="tidy the transcripts first")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the two result files")
    args = parser.parse_args()
    meetings = load(args.data, args.split, args.clean)
    name = f"{args.split}-clean" if args.clean else args.split
    weights = resamples(len(meetings), args.resamples)
    result = {
        "split": args.split,
        "transcripts": "tidied" if args.clean else "raw",
        "meetings": len(meetings),
        "answer sentences": sum(len(m.answers) for m in meetings),
        "left out, without CES": sum(m.without_ces for m in meetings),
        "CES not located": sum(m.not_located for m in meetings),
        "CES": sum(len(a.ces) for m in meetings for a in m.answers),
        "thresholds": {k: coefficients()[k] for k in ("find threshold", "support threshold")},
        "finding": finding(meetings, weights),
        "checking": checking(meetings, weights),
        "speed": speed(meetings),
    }
    text = table(result)
    print({key: value for key, value in result.items() if not isinstance(value, dict)})
    print(text, result["speed"], sep="\n\n")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (args.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
