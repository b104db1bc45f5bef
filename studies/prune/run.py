"""Which blocks and neurons can go: perplexity of cut models before any training.

    python studies/prune/run.py --model DIR --data examples/data

measures influence and activations on the QMSum sample, cuts by several rules, and reads the first
384 tokens of each WikiText-2 article of the sample. So few tokens tell rules apart that differ by
factors, nothing finer. Writes results.json beside this file and prints a table.
"""

import argparse
import json
import math
from pathlib import Path

import torch

from featherweight.compress import (
    Sample,
    block_influence,
    choose_layers,
    choose_neurons,
    cut_neurons,
    drop_layers,
    encode,
    neuron_importance,
    read_texts,
)
from featherweight.compress.calibrate import logits
from featherweight.engines.hf_open import open_model, opening

TOKENS = 384
HERE = Path(__file__).parent


def perplexity(model, samples):
    """Over all tokens but the first of each sample."""
    loss = count = 0
    for sample in samples:
        targets = torch.tensor(sample.ids[1:])
        found = logits(model, sample)[0, :-1].float()
        loss += float(torch.nn.functional.cross_entropy(found, targets, reduction="sum"))
        count += len(targets)
    return math.exp(loss / count)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    with opening(options.model):
        model, tokenizer = open_model(options.model, torch.float32, "cpu")
    texts = encode(read_texts("qmsum", options.data).examples, model, tokenizer, "model")
    articles = read_texts("wikitext2", options.data).examples
    test = [Sample(s.ids[:TOKENS], []) for s in encode(articles, model, tokenizer, "model")]
    influence = block_influence(model, texts)["decoder"]
    layers = len(influence)

    rows = []

    def add(what, cut):
        rows.append({"cut": what, "perplexity": round(perplexity(cut, test), 2)})
        print(f"{rows[-1]['perplexity']:>16.2f}  {what}", flush=True)

    def without(gone):
        return drop_layers(model, {"decoder": [i for i in range(layers) if i not in gone]})

    add("nothing", model)
    for layer in (0, 1, layers // 2, layers - 2, layers - 1):
        add(f"layer {layer} alone, influence {influence[layer]:.4f}", without({layer}))
    for share in (5 / 6, 2 / 3):
        keep = round(layers * share)
        kept = choose_layers(influence, keep)
        gone = sorted(set(range(layers)) - set(kept))
        add(f"{layers - keep} layers of least influence: {gone}", without(gone))
        free = sorted(sorted(range(layers), key=lambda i: influence[i])[: layers - keep])
        if free != gone:
            add(f"{layers - keep} of least influence, first and last not kept", without(free))
        even = {round(i * (layers - 1) / (keep - 1)) for i in range(keep)}
        add(f"{layers - keep} at even distances", without(set(range(layers)) - even))
        add(f"the {layers - keep} before the last", without(range(keep - 1, layers - 1)))

    active = neuron_importance(model, texts)
    columns = [block.mlp.down_proj.weight.detach().norm(dim=0) for block in model.model.layers]
    weighed = {
        "decoder": [one * column for one, column in zip(active["decoder"], columns, strict=True)]
    }
    for share in (0.75, 0.5):
        size = round(model.config.intermediate_size * share)
        for name, rule in (("activation", active), ("activation x column length", weighed)):
            add(f"neurons to {share} by {name}", cut_neurons(model, choose_neurons(rule, size)))
    data = {"influence": [round(one, 4) for one in influence], "rows": rows}
    (HERE / "results.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
