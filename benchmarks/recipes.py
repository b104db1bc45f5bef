"""Nine recipes from one pass beside one recipe: what the others add.

usage: recipes.py --model DIR --data DIR [--tokens 65536] [--rounds 3] [--dtype fp32|bf16]
       recipes.py --table FILE

Shared mode on WikiText-2's validation text, in sequences of 1,024, groups of 64, forwards in
`--dtype` (bf16 where this processor is faster in it). `one` is the first of the nine alone. Each
run is a process of its own, start and imports not counted; rounds are interleaved. CPU seconds;
packing (codes, checks, hashes, files, the proof by opening again) is timed apart, within a block
and at the end.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LENGTH = 1024
NINE = (
    "gptq:bits=4,group=64",
    "gptq:bits=3,group=64",
    "gptq:bits=2,group=64",
    "gptq:bits=4,group=64,actorder=true",
    "sparsegpt:sparsity=0.5",
    "sparsegpt:pattern=2:4",
    "wanda:sparsity=0.5",
    "dsnot:sparsity=0.5",
    "joint:sparsity=0.5,bits=4,group=64",
)
CASES = {"one": NINE[:1], "nine": NINE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())))
    elif args.one:
        print("\n" + json.dumps(run(args)), flush=True)
    else:
        rows = compare(args)
        (HERE / "results" / "recipes.json").write_text(json.dumps(rows, indent=1) + "\n")
        print(table(rows))


def compare(args: argparse.Namespace) -> list[dict]:
    """The machine's row, then one a case."""
    import measure

    found: dict[str, list[dict]] = {case: [] for case in CASES}
    for number in range(args.rounds):
        for case in list(CASES)[:: 1 if number % 2 == 0 else -1]:
            command = [sys.executable, __file__, "--one", case, "--model", str(args.model)]
            command += ["--data", str(args.data), "--tokens", str(args.tokens)]
            command += ["--dtype", args.dtype]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[case].append(json.loads(done.stdout.splitlines()[-1]))
            print(case, found[case][-1], flush=True)
    told = {"tokens": args.tokens, "length": LENGTH, "dtype": args.dtype, "rounds": args.rounds}
    rows = [measure.machine(**told, recipes=NINE)]
    for case, times in found.items():
        ratios = [
            ours["solve_seconds"] / one["solve_seconds"]
            for ours, one in zip(times, found["one"], strict=True)
        ]
        rows.append(
            {"case": case, "times_one": statistics.median(ratios), "ratios": ratios}
            | {key: statistics.median(one[key] for one in times) for key in times[0]}
        )
    return rows


def run(args: argparse.Namespace) -> dict[str, float]:
    """One run, in this process."""
    import importlib

    from featherweight.compress import compress, parse_recipe, read_texts

    module: Any = importlib.import_module("featherweight.compress.compress")
    packing = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **more)
            finally:
                packing[0] += time.process_time() - began

        return wrapped

    module.pack, module._facts, module._write = map(
        timed, (module.pack, module._facts, module._write)
    )
    module.Store.put, module.Packed.dense = map(timed, (module.Store.put, module.Packed.dense))
    texts = read_texts("wikitext2", args.data, "val")
    with tempfile.TemporaryDirectory() as folder:
        began, wall = time.process_time(), time.perf_counter()
        compress(f"hf:{args.model}", [parse_recipe(text) for text in CASES[args.one]],
                 Path(folder) / "out", texts, mode="shared", tokens=args.tokens,
                 length=LENGTH, dtype=args.dtype)  # fmt: skip
        used = time.process_time() - began
        return {
            "solve_seconds": used - packing[0],
            "pack_seconds": packing[0],
            "wall_seconds": time.perf_counter() - wall,
        }


def table(rows: list[dict]) -> str:
    lines = ["| recipes | CPU s | times one | packing, CPU s | wall s, all |", "| --- " * 5 + "|"]
    for row in rows[1:]:
        lines.append(
            f"| {row['case']} | {row['solve_seconds']:.1f} | {row['times_one']:.2f} | "
            f"{row['pack_seconds']:.1f} | {row['wall_seconds']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
