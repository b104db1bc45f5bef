"""Scoring: microseconds a token for whole logs at once, and for one answer while it is written.

usage: cascade_scores.py [--quick] [--json] [--rounds 5] [--table FILE]

`offline` scores 10,000 answers of 100 tokens, tuples of Python numbers as in a log that was read:
checks and making arrays are counted. `incremental` pushes each of 300 answers' tokens and asks for
the bound after every one (n_max 256), then for the final score, which must have offline's bits, or
the script stops. `features` are the 14 columns of learned rules; the learned rules are a linear one
that looks at all of them, and 100 boosted trees of 8 leaves on 300 rows. Rounds alternate over
scores; CPU time, median of rounds. `--quick` takes a hundredth of the answers, once, and writes no
file.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import measure
import numpy as np

from featherweight.cascade import Answer
from featherweight.cascade.fit import SIGNS
from featherweight.cascade.learned import Learned, Linear
from featherweight.cascade.running import Running
from featherweight.cascade.scores import Score, features, score_answers

RESULT = Path(__file__).parent / "results" / "cascade_scores.json"
ANSWERS, TOKENS, STREAMED, N_MAX = 10_000, 100, 300, 256
SCORES = "sum mean min quantile:0.1 quantile:0.1,no-end margin entropy length".split()
AIMS = {"offline": 2.0, "incremental": 10.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", type=Path, help="print the table of a result and stop")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())))
        return
    rows = benchmark(1 if args.quick else args.rounds, 100 if args.quick else 1)
    if not args.quick:
        measure.write(rows, RESULT)
    print(json.dumps(rows, indent=1) if args.json else table(rows))


def benchmark(rounds: int, fewer: int) -> list[dict]:
    """The machine's row, then one of each way and score."""
    answers = made(ANSWERS // fewer, TOKENS)
    streamed = answers[: max(2, STREAMED // fewer)]
    jobs: list[tuple[str, str, int, Callable[[], object]]] = []
    rules: dict[str, Score | Learned] = {text: Score.parse(text) for text in SCORES}
    rules |= {"learned, linear": linear(), "learned, 100 trees": boosting(varied(300))}
    for name, rule in rules.items():
        jobs.append(("offline", name, len(answers), lambda r=rule: score_answers(r, answers)))
        jobs.append(("incremental", name, len(streamed), lambda r=rule: stream(r, streamed)))
        wanted, found = score_answers(rule, streamed), stream(rule, streamed)
        if wanted.tobytes() != np.array(found).tobytes():
            raise SystemExit(f"{name}: the two ways do not give the same bits")
    jobs.append(("offline", "features", len(answers), lambda: features(answers)))
    times: dict[tuple[str, str], list[float]] = {(way, name): [] for way, name, _, _ in jobs}
    for number in range(rounds):
        for way, name, count, work in jobs if number % 2 == 0 else list(reversed(jobs)):
            started = time.process_time()
            work()
            seconds = time.process_time() - started
            times[way, name].append(1e6 * seconds / (count * TOKENS))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    header = measure.machine(
        rounds=rounds,
        answers=len(answers),
        tokens=TOKENS,
        streamed=len(streamed),
        n_max=N_MAX,
        numpy=np.__version__,
        note="one core, shared with other work while this ran; CPU time",
    )
    rows = [
        {
            "way": way,
            "score": name,
            "microseconds_per_token": round(statistics.median(found), 3),
            "rounds": [round(x, 3) for x in found],
            "aim": AIMS[way],
        }
        for (way, name), found in times.items()
    ]
    return [header, *sorted(rows, key=lambda row: row["way"], reverse=True)]


def made(number: int, tokens: int) -> list[Answer]:
    rng = np.random.default_rng(number)
    shape = (number, tokens)
    columns = (-rng.exponential(size=shape), rng.uniform(size=shape), rng.exponential(size=shape))
    return [
        Answer("small", "x", 1.0, *(tuple(column[i].tolist()) for column in columns), ended=True)
        for i in range(number)
    ]


def varied(number: int) -> list[Answer]:
    """Answers of 10 to 100 tokens."""
    whole, sizes = made(number, TOKENS), np.random.default_rng(0).integers(10, 101, size=number)
    return [
        replace(a, token_logprobs=a.token_logprobs[:n]) for a, n in zip(whole, sizes, strict=True)
    ]


def stream(rule: Score | Learned, answers: list[Answer]) -> list[float]:
    """Every token pushed, the bound asked for after each; the final scores."""
    finals = []
    for answer in answers:
        running = Running(rule, N_MAX)
        tokens = zip(answer.token_logprobs, answer.margins, answer.entropies, strict=True)
        for logprob, margin, entropy in tokens:
            running.push(logprob, margin, entropy)
            running.bound()
        finals.append(running.final(answer.ended))
    return finals


def linear() -> Learned:
    model = Linear(0.0, tuple(sign / 14 for sign in SIGNS), (-1.0,) * 14, (2.0,) * 14)
    return Learned("gain", model, SIGNS, ((-2.0, -1.0, 0.0), (-0.5, -0.2, 0.1)))


def boosting(answers: list[Answer]) -> Learned:
    """Trees that fit chose no number of: all 100."""
    from featherweight.cascade import fit

    x = features(answers)
    y = np.random.default_rng(0).normal(size=len(x)) + x[:, 1] + x[:, 11] - x[:, 13] / 30
    data = fit._Data(x, y, np.zeros(len(x), dtype=np.intp))
    model = fit._plain(fit._trees(data, np.arange(len(x)), 8, 100))
    return Learned("gain", model, SIGNS)


def table(rows: list[dict]) -> str:
    header, *rest = rows
    lines = [
        f"{header['machine']}; {header['note']}; load {header['load']}",
        "",
        "| score | offline, µs a token | incremental with bound, µs a token |",
        "| --- | --- | --- |",
    ]
    found = {(row["way"], row["score"]): row["microseconds_per_token"] for row in rest}
    for name in dict.fromkeys(row["score"] for row in rest):
        cells = [found.get((way, name)) for way in AIMS]
        lines.append(f"| {name} | {' | '.join('-' if c is None else f'{c:.2f}' for c in cells)} |")
    return "\n".join([*lines, "", "Aims: under 2 and under 10."])


if __name__ == "__main__":
    main()
