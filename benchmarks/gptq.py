"""GPTQ beside its peers: seconds, layer error, perplexity; the same model, tokens and groups.

usage: gptq.py --model DIR --data DIR --peer llm-compressor=PYTHON --peer gptqmodel=PYTHON
               [--tokens 65536] [--rounds 3] [--threads 1] [--cases sequential shared]
               [--dtype fp32|bf16]
       gptq.py --table FILE

`--peer` names the Python of an environment with llmcompressor 0.14 or GPTQModel 7.7, whose pins do
not go with ours: python -m venv peer; peer/bin/pip install llmcompressor==0.14.0.1 (torch held at
ours), and gptqmodel==7.7.0 --no-deps in another one beside the same.

| case | ours | llm-compressor | gptqmodel |
| --- | --- | --- | --- |
| sequential | `compress` of one recipe | its default: error is propagated | its default: so it is |
| shared | `--shared` | propagate_error off | - |

4 bits, groups of 64, asymmetric, no act-order, damping of 1 % on all sides; forwards in `--dtype`
on all sides (bf16 where this processor is faster in it); the calibration is made once and given to
all as token ids (WikiText-2, val, sequences of 512). A contestant runs in a process of its own,
start and imports not counted; rounds are interleaved, each calibrates on other articles. All
results are scored by the same code:
perplexity on `--eval` tokens of WikiText-2's test text, and the mean over layers of
||X(W - Q)||^2 / ||XW||^2 with X the original's activations.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featherweight.tasks import Task

HERE = Path(__file__).absolute().parent
LENGTH, GROUP = 512, 64
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
RECIPE = f"gptq:bits=4,group={GROUP}"
CASES = ("sequential", "shared")
PEERS = ("llm-compressor", "gptqmodel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peer", action="append", default=[], help="NAME=PYTHON")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--eval", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        table(json.loads(args.table.read_text()))
    elif args.one:
        impl, case, ids, output = args.one
        run = {"featherweight": ours, "llm-compressor": theirs, "gptqmodel": gptqmodel}[impl]
        run(args, case, Path(ids), Path(output))
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    import measure
    import torch

    torch.set_num_threads(args.threads)
    rows: list[dict] = []
    peers = {
        name: str(Path(python).absolute()) for name, python in (p.split("=", 1) for p in args.peer)
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        times: dict[tuple[str, str], list[dict]] = {}
        scores: dict[tuple[str, str], list[dict]] = {}
        dense = scored(args, args.model)["perplexity"]
        for number in range(args.rounds):
            args.round = number
            ids = calibration(args, folder / f"ids-{number}.json")
            for case in args.cases:
                for impl, python in [("featherweight", sys.executable), *peers.items()]:
                    if impl == "gptqmodel" and case == "shared":
                        continue
                    output = folder / f"{impl}-{case}-{number}"
                    command = [python, str(HERE / "gptq.py"), "--threads", str(args.threads)]
                    command += ["--model", str(args.model.absolute())]
                    command += ["--data", str(args.data.absolute())]
                    command += ["--tokens", str(args.tokens), "--dtype", args.dtype]
                    command += ["--rounds", str(args.rounds), "--round", str(number)]
                    command += ["--one", impl, case]
                    command += [str(ids), str(output)]
                    # peers write logs where they run
                    done = subprocess.run(
                        command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder
                    )
                    found = next(
                        json.loads(line)
                        for line in done.stdout.splitlines()
                        if line.startswith('{"wall_seconds"')
                    )
                    times.setdefault((case, impl), []).append(found)
                    scores.setdefault((case, impl), []).append(scored(args, output))
                    print(case, impl, found, scores[case, impl][-1], flush=True)
    known = ("llmcompressor", "GPTQModel", "compressed-tensors", "torch", "transformers")
    versions = {}
    for impl, python in peers.items():
        listing = [python, "-m", "pip", "list", "--format", "json"]
        listed = json.loads(subprocess.run(listing, check=True, capture_output=True).stdout)
        versions[impl] = {one["name"]: one["version"] for one in listed if one["name"] in known}
    rows.append(measure.machine(peer=versions, tokens=args.tokens, length=LENGTH, group=GROUP,
                                eval_tokens=args.eval, rounds=args.rounds,
                                dtype=args.dtype,
                                dense=dense))  # fmt: skip
    for (case, impl), found in times.items():
        row = {"case": f"gptq 4 bits, {case}", "impl": impl}
        for what in ("perplexity", "layer_error"):
            row[what] = [one[what] for one in scores[case, impl]]
        for what in ("wall_seconds", "cpu_seconds"):
            row[what] = statistics.median(one[what] for one in found)
        own = times[case, "featherweight"]
        ratios = [b["cpu_seconds"] / a["cpu_seconds"] for a, b in zip(own, found, strict=True)]
        row["peer_over_this"] = statistics.median(ratios)
        rows.append(row)
    (HERE / "results" / "gptq.json").write_text(json.dumps(rows, indent=1) + "\n")
    table(rows)


def read(args: argparse.Namespace) -> "Task":
    """What a round calibrates on: other articles than the other rounds."""
    from featherweight.compress import read_texts

    texts = read_texts("wikitext2", args.data, "val")
    return replace(texts, examples=texts.examples[args.round :: args.rounds])


def calibration(args: argparse.Namespace, target: Path) -> Path:
    """Token ids [N, LENGTH] as JSON, for the peers."""
    import torch

    from featherweight.compress.sequences import calibration as sequences
    from featherweight.engines.hf_open import open_model

    opened, tokenizer = open_model(str(args.model), torch.float32, "cpu")
    batches = sequences(read(args), opened, tokenizer, "the model", args.tokens, LENGTH)
    target.write_text(json.dumps([sample.ids for batch in batches for sample in batch]))
    return target


def ours(args: argparse.Namespace, case: str, _ids: Path, output: Path) -> None:
    """The same texts by the same call make the same ids; packing and its proof are in the time."""
    import transformers.models.llama.modeling_llama  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    import featherweight.compress.compress  # noqa: F401
    from featherweight.compress import compress, parse_recipe

    texts = read(args)
    with clock():
        compress(f"hf:{args.model}", [parse_recipe(RECIPE)], output, texts, mode=case,
                 tokens=args.tokens, length=LENGTH, dtype=args.dtype)  # fmt: skip


@contextmanager
def clock() -> Iterator[None]:
    """Prints what the block took, for the process that waits."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    print("\n" + json.dumps({"wall_seconds": wall, "cpu_seconds": used}), flush=True)


def theirs(args: argparse.Namespace, case: str, ids: Path, output: Path) -> None:
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    rows = json.loads(ids.read_text())
    data = {"input_ids": rows, "attention_mask": [[1] * LENGTH] * len(rows)}
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group",
               "group_size": GROUP}  # fmt: skip
    scheme = {"group_0": {"targets": ["Linear"], "weights": weights}}
    recipe = GPTQModifier(config_groups=scheme, ignore=["lm_head"], actorder=None)
    extra = {} if case == "sequential" else {"propagate_error": False}
    with clock():
        opened = AutoModelForCausalLM.from_pretrained(
            args.model, dtype=getattr(torch, DTYPES[args.dtype])
        )
        oneshot(
            model=opened,
            tokenizer=AutoTokenizer.from_pretrained(args.model),
            dataset=Dataset.from_dict(data),
            recipe=recipe,
            max_seq_length=LENGTH,
            num_calibration_samples=len(rows),
            **extra,
        )
    plain(opened, args.model, output)


def gptqmodel(args: argparse.Namespace, _case: str, ids: Path, output: Path) -> None:
    """Packed by them too; act_group_aware, their own order of columns, is off."""
    import os

    os.environ["GPTQMODEL_CPU_WORKERS"] = "2"  # with fewer it does not start
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401
    from gptqmodel import GPTQModel, QuantizeConfig

    torch.set_num_threads(args.threads)
    rows = json.loads(ids.read_text())
    config = QuantizeConfig(bits=4, group_size=GROUP, desc_act=False, sym=False, device="cpu",
                            act_group_aware=False, damp_percent=0.01)  # fmt: skip
    with clock():
        opened = GPTQModel.load(str(args.model), config, dtype=getattr(torch, DTYPES[args.dtype]))
        data = [{"input_ids": row, "attention_mask": [1] * LENGTH} for row in rows]
        opened.quantize(data, batch_size=2048 // LENGTH)
        opened.save(f"{output}-packed")
    unpacked(Path(f"{output}-packed"), args.model, output)


def unpacked(packed: Path, model: Path, output: Path) -> None:
    """GPTQ's files (int32 of eight codes, zeros one too low) as an ordinary directory."""
    import torch
    from safetensors.torch import load_file

    def codes(words: torch.Tensor) -> torch.Tensor:
        return torch.stack([(words >> shift) & 15 for shift in range(0, 32, 4)], -1)

    found = load_file(packed / "model.safetensors")
    changed = {}
    for key in [key for key in found if key.endswith(".qweight")]:
        name = key.removesuffix(".qweight")
        written = codes(found[key]).transpose(1, 2).flatten(0, 1)  # [in, out]
        zeros = codes(found[f"{name}.qzeros"]).flatten(1) + 1  # [groups, out]
        group = found[f"{name}.g_idx"].long()
        weight = (written - zeros[group]) * found[f"{name}.scales"].float()[group]
        changed[f"{name}.weight"] = weight.T.contiguous()
    directory(changed, model, output)


def plain(opened: object, model: Path, output: Path) -> None:
    """Their weights as an ordinary directory: both are opened and scored by the same code."""
    import torch
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize

    changed = {}
    for name, part in opened.named_modules():
        scheme = getattr(part, "quantization_scheme", None)
        if scheme is not None and hasattr(part, "weight_scale"):
            with torch.no_grad():
                zero = getattr(part, "weight_zero_point", None)
                made = fake_quantize(part.weight, part.weight_scale, zero, scheme.weights)
            changed[f"{name}.weight"] = made.contiguous()
    directory(changed, model, output)


def directory(changed: dict, model: Path, output: Path) -> None:
    """`model` with other weights."""
    import shutil

    from safetensors.torch import load_file, save_file

    tensors: dict = {}
    for file in model.glob("*.safetensors"):
        tensors |= load_file(file)
    assert changed.keys() <= tensors.keys()
    tensors |= changed
    output.mkdir()
    save_file(tensors, output / "model.safetensors", {"format": "pt"})
    for file in model.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and file.is_file():
            shutil.copyfile(file, output / file.name)


def scored(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Perplexity, and the error of layers on the original's activations."""
    import math

    import torch

    from featherweight.compress.layerwise import walk
    from featherweight.compress.solve import output_change
    from featherweight.engines.hf_open import open_model
    from featherweight.tasks import load_task

    model, tokenizer = open_model(str(folder), torch.float32, "cpu")
    text = load_task("wikitext2-tokens", args.data, split="test").examples[0].target
    ids = torch.tensor(tokenizer(text, verbose=False).input_ids[: args.eval]).view(-1, LENGTH)
    total = 0.0
    with torch.no_grad():
        for row in ids:
            loss = model(input_ids=row[None], labels=row[None]).loss
            total += float(loss) * (LENGTH - 1)
    perplexity = math.exp(total / (len(ids) * (LENGTH - 1)))
    if folder == args.model:
        return {"perplexity": perplexity, "layer_error": 0.0}
    dense, _ = open_model(str(args.model), torch.float32, "cpu")
    found = dict(model.named_parameters())
    errors = []

    def compare_block(place: object, layers: dict, known: list) -> dict:
        for names, means in known:
            for name in names:
                weight = layers[name].weight.data
                change = output_change(weight - found[f"{name}.weight"].data, means.hessian)
                errors.append(change / output_change(weight, means.hessian))
        return {}

    from featherweight.compress.calibrate import Sample

    walk(dense, [[Sample(row.tolist(), [])] for row in ids[:16]], compare_block,
         sequential=False, dtype=torch.float32)  # fmt: skip
    return {"perplexity": perplexity, "layer_error": statistics.mean(errors)}


def table(rows: list[dict]) -> None:
    print(f"perplexity of the dense model: {rows[0]['dense']:.2f}\n")
    print("| case | impl | wall s | CPU s | times ours | perplexity | layer error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows[1:]:
        perplexities = ", ".join(f"{one:.2f}" for one in row["perplexity"])
        errors = ", ".join(f"{one:.5f}" for one in row["layer_error"])
        print(
            f"| {row['case']} | {row['impl']} | {row['wall_seconds']:.1f} | "
            f"{row['cpu_seconds']:.1f} | {row['peer_over_this']:.2f} | {perplexities} | {errors} |"
        )


if __name__ == "__main__":
    main()
