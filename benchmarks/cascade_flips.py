"""How often does the batch decide? A cascade's decisions under different batch sizes; early stops.

usage: cascade_flips.py [--embedded] [--hf DIR] [--questions 160] [--output FILE] [--table]

In floating point a forward of eight rows is not that of one, so a score near its threshold can fall
on either side of it. Questions are windows of 60 words of the meetings in examples/meetings, greedy
answers of at most 32 tokens. Thresholds that defer 10, 30 and 50 % are set on one half of the
questions, with answers made one by one; on the other half each way of asking is compared with them.
Beside it: how many of a deferred answer's tokens the early stop saves, by replaying the bound.
"""

import argparse
import json
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from featherweight.cascade.answers import ALTERNATIVES, answer_of
from featherweight.cascade.deciding import decided_at
from featherweight.cascade.rule import StageRule, alternatives
from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.types import Threshold
from featherweight.engines import Request, load_engine
from featherweight.retrieve import windows
from featherweight.transcript import read_transcript

SELF = Path(__file__)
TALKS = SELF.parent.parent / "examples" / "meetings"
MAX_TOKENS = 32
SCORES = ("sum", "mean", "min", "quantile:0.2", "margin", "entropy", "mean,no-end")
BUDGETS = (0.1, 0.3, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--embedded", action="store_true", help="the embedded model, llama.cpp")
    parser.add_argument("--hf", help="a transformers directory")
    parser.add_argument("--questions", type=int, default=160)
    parser.add_argument("--output", type=Path, default=SELF.parent / "results/cascade_flips.json")
    parser.add_argument("--table", action="store_true", help="print the results that are there")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.output.read_text())))
        return
    found = json.loads(args.output.read_text()) if args.output.exists() else {}
    asked = questions(args.questions)
    if args.embedded:
        found["llama.cpp, embedded model"] = compare(asked, llama_cpp)
    if args.hf:
        found["transformers, float32"] = compare(asked, lambda ask: transformers(ask, args.hf))
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def questions(count: int) -> list[Request]:
    """The first `count` windows, spread over the meetings."""
    texts: list[str] = []
    for path in sorted(TALKS.iterdir()):
        words = " ".join(turn.text for turn in read_transcript(path).turns).split()
        spans = windows([1] * len(words), 60, 60)
        texts += [" ".join(words[first:end]) for first, end in spans]
    step = max(1, len(texts) // count)
    prompts = [
        [{"role": "user", "content": f"{text}\n\nWhat is this part of the meeting about?"}]
        for text in texts[::step][:count]
    ]
    return [Request(p, max_tokens=MAX_TOKENS, top_logprobs=ALTERNATIVES) for p in prompts]


def llama_cpp(asked):
    """Name and answers of each way; the first is the one that the others are compared with."""
    for slots in (1, 4, 8):
        engine = load_engine("smollm2-135m", parallel=slots, context_length=512)
        yield f"{slots} at once", list(engine.generate(asked))
        if slots == 1:
            yield "again", list(engine.generate(asked))
            yield "streamed", [last(engine, request) for request in asked]
        engine.close()


def transformers(asked, folder):
    longest = None
    for rows in (1, 8, 32):
        engine = load_engine(f"hf:{folder}", dtype="fp32")
        longest = longest or max(engine.count_tokens(request.prompt) for request in asked)
        engine._batch_tokens = rows * (longest + MAX_TOKENS)
        yield f"{rows} at once", list(engine.generate(asked))
        if rows == 1:
            yield "streamed", [last(engine, request) for request in asked]
        engine.close()


def last(engine, request):
    *_, final = engine.stream(request)
    return final.generation


def compare(asked, ways):
    load = os.getloadavg()
    scored, texts = {}, {}
    for name, generations in ways(asked):
        kept = [g.error is None and g.token_logprobs is not None for g in generations]
        answers = [answer_of(g, r) for g, r in zip(generations, asked, strict=True)]
        scored[name] = (np.array(kept), answers)
        texts[name] = [generation.text for generation in generations]
        print(name, f"{sum(kept)} of {len(kept)} with log-probabilities", file=sys.stderr)
    usable = np.logical_and.reduce([kept for kept, _ in scored.values()])
    index = np.flatnonzero(usable)
    even, odd = index[::2], index[1::2]
    first, *others = scored
    result = {"questions": len(asked), "usable": len(index), "load": load, "ways": {}}
    result["early"] = early([scored[first][1][i] for i in index], even.tolist())
    for name in others:
        same = np.mean([texts[name][i] == texts[first][i] for i in index])
        row = {"same text": float(same), "scores": {}}
        for score in map(Score.parse, SCORES):
            reference = score_answers(score, scored[first][1])
            now = score_answers(score, scored[name][1])
            apart = np.abs(reference - now)[index]
            spread = float(np.std(reference[index]))
            flips = {}
            for budget in BUDGETS:
                threshold = threshold_of(reference[even], budget)
                flips[f"{budget:.0%}"] = int(
                    ((reference < threshold) != (now < threshold))[odd].sum()
                )
            row["scores"][str(score)] = {
                "flips": flips,
                "of": len(odd),
                "median difference / spread": float(np.median(apart)) / spread,
                "largest difference / spread": float(apart.max()) / spread,
            }
        result["ways"][name] = row
    return result


def threshold_of(scores, budget):
    """What defers this share of `scores`, halfway between two of them."""
    ordered = np.sort(scores)
    at = round(budget * len(ordered))
    return float(ordered[at - 1] + ordered[at]) / 2


def early(answers, even):
    """Of the answers that a budget defers: tokens written, and tokens when it was decided."""
    rows = {}
    for score in map(Score.parse, SCORES):
        values = score_answers(score, answers)
        rows[str(score)] = {}
        for budget in BUDGETS:
            threshold = Threshold(threshold_of(values, budget))
            stage = StageRule("", "gguf", {}, None, MAX_TOKENS, score=score, threshold=threshold)
            stage = replace(stage, top_logprobs=alternatives(score))
            deferred = [a for a, v in zip(answers, values, strict=True) if v < threshold.value]
            written = sum(a.completion_tokens for a in deferred)
            stops = [decided_at(stage, a, "", MAX_TOKENS) for a in deferred]
            needed = sum(
                a.completion_tokens if at is None else at
                for a, at in zip(deferred, stops, strict=True)
            )
            rows[str(score)][f"{budget:.0%}"] = {
                "deferred": len(deferred),
                "stopped early": sum(at is not None for at in stops),
                "tokens": written,
                "saved": written - needed,
            }
    return rows


def table(found) -> str:
    lines = []
    for engine, result in found.items():
        lines += [f"{engine}, {result['usable']} questions, load {result['load'][0]:.1f}", ""]
        lines += ["| against one by one | same text | flips of decisions | largest difference |"]
        lines += ["| --- | --- | --- | --- |"]
        for way, row in result["ways"].items():
            flips = sum(sum(s["flips"].values()) for s in row["scores"].values())
            of = sum(s["of"] * len(s["flips"]) for s in row["scores"].values())
            largest = max(s["largest difference / spread"] for s in row["scores"].values())
            lines.append(
                f"| {way} | {row['same text']:.0%} | {flips} of {of} ({flips / of:.2%}) | "
                f"{largest:.2g} standard deviations |"
            )
        lines += ["", "| saved by the early stop, deferring | 10 % | 30 % | 50 % |"]
        lines += ["| --- | --- | --- | --- |"]
        for score, row in result["early"].items():
            cells = [
                f"{cell['saved'] / max(1, cell['tokens']):.0%} of {cell['tokens']} tokens"
                for cell in row.values()
            ]
            lines.append(f"| {score} | {' | '.join(cells)} |")
        medians = [
            s["median difference / spread"]
            for row in result["ways"].values()
            for s in row["scores"].values()
        ]
        lines += [
            "",
            f"median difference: {statistics.median(medians):.2g} standard deviations",
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
