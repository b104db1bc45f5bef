"""Displaced or forgotten? How like the uncompressed model's each layer works, repaired or not.

usage: displaced.py --data DIR --work FOLDER [--recipes R ...] [--seed 0] [--texts 16]

For the compressed model alone, behind the best single prompt, behind the prompt that IDP chooses,
and with LoRA: the cosine with the uncompressed model of attention (on the text's own tokens) and of
activations, by layer, over val texts of three kinds (`--texts` each). A repair that brings
knowledge back brings the layers' work nearer; one that routes around the damage need not. Reads
what `run.py` trained; writes displaced.json and displaced.png/.svg beside this file, and prints the
table: means over layers, 95 % bootstrap over texts; differences are paired.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import mix
import numpy as np
import run
import torch
from numpy.typing import NDArray

from featherweight.engines.dequantised import dequantised
from featherweight.engines.hf_open import open_model
from featherweight.evaluate.statistics import estimates, paired
from featherweight.repair import similarity

HERE = Path(__file__).parent
LENGTH = 256
PARTS = ("attention", "activations")
Found = dict[str, NDArray[np.float64]]
"""By part, cosines [texts, layers]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", choices=run.RECIPES, default=run.RECIPES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=16)
    args = parser.parse_args()
    found = {recipe: arms(args, recipe) for recipe in args.recipes}
    for recipe, by_arm in found.items():
        print(f"\n{recipe}\n")
        print(table(by_arm))
    plain = {
        recipe: {
            arm: {part: cosines.mean(0).round(5).tolist() for part, cosines in of.items()}
            for arm, of in by_arm.items()
        }
        for recipe, by_arm in found.items()
    }
    (HERE / "displaced.json").write_text(json.dumps(plain, indent=1) + "\n")
    draw(found)


def arms(args: argparse.Namespace, recipe: str) -> dict[str, Found]:
    """Each arm's cosines; the texts are the same for all."""
    place = args.work / recipe
    bank = f"idp-{args.seed}"
    best = run.read(recipe, bank)["val"]["best"]
    rank = run.ranks(recipe, "lora")[-1]
    folders = {
        "compressed": run.model(args.work, recipe),
        "+ best single prompt": run.single(args.work, recipe, bank, best),
        "+ IDP": place / bank,
        f"+ LoRA, rank {rank}": place / f"lora-{rank}-{args.seed}",
    }
    reference, tokenizer = open_model(str(dequantised(run.BASE)), torch.float32, "cpu")
    kinds = zip(*[iter(mix.val(args.data).examples)] * mix.VAL_PIECES, strict=True)
    texts = [tokenizer(one.target)["input_ids"][:LENGTH] for k in kinds for one in k[: args.texts]]
    found: dict[str, Found] = {}
    for name, folder in folders.items():
        model, _ = open_model(str(folder), torch.float32, "cpu")
        measured = similarity(reference, model, texts)
        found[name] = {part: getattr(measured, part).numpy() for part in PARTS}
    return found


def table(found: dict[str, Found]) -> str:
    lines = ["| | attention | minus compressed | activations | minus compressed |"]
    lines.append("| --- " * 5 + "|")
    for name, of in found.items():
        cells = []
        for part in PARTS:
            mine, bare = of[part].mean(1), found["compressed"][part].mean(1)
            each = [str(i) for i in range(len(mine))]
            [mean], [off] = estimates(mine, each), paired(mine, bare, each)
            cells.append(f"{mean.mean:.4f} [{mean.ci95[0]:.4f}, {mean.ci95[1]:.4f}]")
            gap = f"{off.diff:+.4f} [{off.ci95[0]:+.4f}, {off.ci95[1]:+.4f}]"
            cells.append("" if name == "compressed" else gap)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, Found]]) -> None:
    figure, axes = plt.subplots(
        len(found), 2, figsize=(9, 3.2 * len(found)), squeeze=False, sharex=True
    )
    for row, (recipe, by_arm) in zip(axes, found.items(), strict=True):
        for axis, part in zip(row, PARTS, strict=True):
            for name, of in by_arm.items():
                axis.plot(of[part].mean(0), label=name, linewidth=1.4)
            axis.set_title(f"{recipe}: {part}", fontsize=10)
            axis.set_ylabel("cosine with the uncompressed", fontsize=9)
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("layer", fontsize=9)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    for suffix in (".png", ".svg"):
        figure.savefig(HERE / f"displaced{suffix}", dpi=150)


if __name__ == "__main__":
    main()
