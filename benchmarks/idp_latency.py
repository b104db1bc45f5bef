"""What a choice among soft prompts costs: the prefill of one input, SmolLM2-135M.

usage: idp_latency.py --model DIR [--prompts 4] [--rounds 9] [--threads 1]
       idp_latency.py --table FILE

| impl | what it is |
| --- | --- |
| none | the input alone |
| single | behind one prompt of 20 tokens, its keys and values at hand |
| idp layer 0 | behind the prompt that layer-0 queries choose among m |
| idp layer 4, two passes | read behind all up to layer 4, then behind the winner |
| idp layer 4, one pass | goes on from there with the losers masked |
| batched | one batch of m rows, one behind each prompt |
| sequential | m times one after the other |
| lora | the input alone, an adapter of rank 8 beside every layer, not merged (packed weights) |

Prompts are vocabulary embeddings drawn by seed 0: time does not ask what they mean. Rounds are
interleaved; a row is a median, its quartiles, and the ratio to `single` of the same round.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from peft import LoraConfig, get_peft_model

from featherweight.engines.hf_bank import Bank, Selection, Stored
from featherweight.engines.hf_model import Model
from featherweight.engines.hf_open import choose_dtype, open_model
from featherweight.engines.hf_prompts import Encoded

RESULTS = Path(__file__).parent / "results"
TOKENS = 20
LENGTHS = (64, 256, 512, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", type=Path, help="print a results file as a table")
    args = parser.parse_args()
    if args.table:
        table(json.loads(args.table.read_text()))
        return
    torch.set_num_threads(args.threads)
    dtype, reason = choose_dtype("auto", "cpu")
    model, _ = open_model(str(args.model), dtype, "cpu")
    rows: list[dict[str, object]] = [
        measure.machine(prompts=args.prompts, tokens=TOKENS, rounds=args.rounds, dtype=str(dtype),
                        reason=reason, threads=args.threads)
    ]  # fmt: skip
    for length in LENGTHS:
        rows += measured(model, args.prompts, length, args.rounds)
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"idp_latency_{args.prompts}.json"
    target.write_text(json.dumps(rows, indent=1) + "\n")
    table(rows)


def measured(model: object, m: int, length: int, rounds: int) -> list[dict[str, object]]:
    torch.manual_seed(0)
    embeddings = model.get_input_embeddings().weight
    drawn = embeddings[torch.randint(len(embeddings), (m, TOKENS))].detach().float()
    text = Encoded(torch.randint(100, 4000, (length,)).tolist(), [])

    def behind(selection: Selection, prompts: torch.Tensor) -> Bank:
        return Bank(model, Stored("", None, selection, {"prompts": prompts}), "a bank")

    def prefill(bank: Bank | None, rows: int = 1) -> Callable[[], None]:
        model.prompt_bank = bank
        found = Model(model, "the model")
        return lambda: found.prefill([text] * rows)

    every = [behind(Selection(), drawn[i : i + 1]) for i in range(m)]
    singles = [prefill(bank) for bank in every]

    def batched() -> None:
        ids = torch.tensor([text.ids] * m)
        ones = torch.ones_like(ids)
        whole = torch.cat([ones.new_ones(m, TOKENS), ones], 1)
        places = (ones.cumsum(-1) - 1) + TOKENS
        found = Model(model, "the model")
        found.forward(ids, whole, places, everything.cache(torch.arange(m)), keep=1)

    everything = behind(Selection(), drawn)
    adapted = copy.deepcopy(model)
    adapted.prompt_bank = None
    adapted = get_peft_model(adapted, LoraConfig(r=8, target_modules="all-linear")).eval()
    with_adapter = Model(adapted, "the model")
    jobs = {
        "none": prefill(None),
        "single": singles[0],
        "idp layer 0": prefill(everything),
        "idp layer 4, two passes": prefill(behind(Selection(layer=4), drawn)),
        "idp layer 4, one pass": prefill(behind(Selection(layer=4, passes=1), drawn)),
        "batched": batched,
        "sequential": lambda: [one() for one in singles],
        "lora": lambda: with_adapter.prefill([text]),
    }
    seconds: dict[str, list[float]] = {impl: [] for impl in jobs}
    for number in range(rounds + 1):
        for impl, job in jobs.items():
            began = time.perf_counter()
            job()
            if number:  # the first warms up
                seconds[impl].append(time.perf_counter() - began)
    found = []
    for impl, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds["single"], strict=True)]
        quartiles = statistics.quantiles(times, n=4)
        found.append(
            {
                "case": f"{length} tokens",
                "impl": impl,
                "wall_seconds": quartiles[1],
                "quartiles": [quartiles[0], quartiles[2]],
                "ratio_to_single": statistics.median(ratios),
            }
        )
    return found


def table(rows: list[dict[str, object]]) -> None:
    print("| input | impl | ms | ratio to single |\n| --- | --- | --- | --- |")
    for row in rows[1:]:
        ms = row["wall_seconds"] * 1e3
        print(f"| {row['case']} | {row['impl']} | {ms:.1f} | {row['ratio_to_single']:.3f} |")


if __name__ == "__main__":
    main()
