"""From a teacher's directory to a smaller student's: read, measure, cut, save, prove.

The teacher is read in float32 whatever it is stored in (the measure is exact, and going back to
bf16 or fp16 changes no kept weight). The result is opened again before it gets its name: what its
config says must answer as what was cut in memory does.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file

from featherweight.compress.calibrate import (
    Masks,
    Progress,
    Sample,
    encode,
    logits,
    read,
    spread,
    texts_sha256,
)
from featherweight.compress.depth import Influence, InfluenceMeter, choose_layers, drop_layers
from featherweight.compress.heads import GroupMeter, check_groups, cut_groups
from featherweight.compress.sequences import check_length
from featherweight.compress.structure import DECODER, check_finite, mlp, parameters, stacks
from featherweight.compress.width import (
    Importance,
    ImportanceMeter,
    check_neurons,
    choose_neurons,
    cut_neurons,
)
from featherweight.engines.hf_open import (
    WEIGHTS,
    is_adapter,
    load_config,
    model_folder,
    open_model,
    opening,
    quiet,
)
from featherweight.engines.identity import TOKENIZER, identity
from featherweight.engines.load import parse
from featherweight.engines.safetensor import safetensor_errors
from featherweight.errors import CompressError
from featherweight.files import check_new_folder, write_folder
from featherweight.tasks import Task
from featherweight.tasks.run import versions

CARRIED = (*TOKENIZER, "LICENSE*", "NOTICE*")
"""Copied as they are: the tokenizer keeps the teacher's hash, and the licence goes along."""
PROVED = 64  # tokens of the text that both copies must answer alike
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Pruned:
    """What was made, and from what. By stack: "decoder", of T5 "encoder" too.

    `kept` are the teacher's layers that stayed, `influence` is every teacher layer's. `widths`
    (of what was cut: neurons of an MLP "ffn", key-value groups "kv") and `parameters` are before
    and after.
    """

    folder: Path
    kept: dict[str, tuple[int, ...]]
    influence: Influence
    widths: dict[str, dict[str, int]]
    parameters: tuple[int, int]
    manifest: dict[str, Any]


def prune(
    spec: str,
    output: Path,
    texts: Task,
    *,
    depth: int | None = None,
    ffn: int | None = None,
    kv: int | None = None,
    tokens: int | None = None,
    facts: Mapping[str, Any] | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Write a copy of `spec` (an hf: model) with fewer layers, narrower ones, or both to `output`.

    `depth` layers stay in each stack, chosen by `choose_layers`; `ffn` neurons of every MLP and
    `kv` key-value groups of every attention, the most important of each (`choose_neurons`). All is
    measured on the uncut teacher in one pass over `texts`, or those at even distances that make up
    about `tokens`, a whole sequence at the least. `facts` are written into the manifest;
    `progress` is told texts read and texts in all.

    Raises `CompressError` for a cut that the model does not allow, `EngineError` for a model that
    cannot be opened, `DataError` for texts that it cannot read, and `OutputError` where `output`
    is there and not empty. Nothing is left behind then.
    """
    name, folder = _teacher(spec)
    if depth is None and ffn is None and kv is None:
        raise CompressError("nothing is to be cut; say how many layers, neurons or groups stay.")
    check_new_folder(output)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with opening(spec):
        stored = load_config(folder).dtype or torch.float32
        model, tokenizer = open_model(name, torch.float32, device)
    check_finite(model)
    whole = {
        stack: [_shapes(block) for block in found.blocks] for stack, found in stacks(model).items()
    }
    check_cut(model, depth, ffn, kv)  # what cannot be is said before the long reading
    least = 1 if tokens is None else check_length(model, tokenizer, spec, None)
    samples = encode(texts.examples, model, tokenizer, spec)
    samples = spread(samples, tokens, least, texts.name)
    before = parameters(model)
    measured = _measure(model, samples, ffn is not None, kv is not None, progress)
    influence = measured.influence

    kept = {stack: _kept(found, depth) for stack, found in influence.items()}
    student = drop_layers(model, kept)
    del model
    widths: dict[str, dict[str, int]] = {}
    for what, importance, size, cut in (
        ("ffn", measured.neurons, ffn, cut_neurons),
        ("kv", measured.groups, kv, cut_groups),
    ):
        if size is not None:
            stay = {stack: [importance[stack][layer] for layer in kept[stack]] for stack in kept}
            widths[what] = {"before": len(importance[DECODER][0]), "after": size}
            student = cut(student, choose_neurons(stay, size))
    sizes = (before, parameters(student))
    layers = sum(len(shapes) for blocks in whole.values() for shapes in blocks)
    same = sum(
        whole[stack][layer].get(name) == shape
        for stack, found in stacks(student).items()
        for layer, block in zip(kept[stack], found.blocks, strict=True)
        for name, shape in _shapes(block).items()
    )

    manifest = {
        "command": "prune",
        **(facts or {}),
        "changed": layers - same,
        "of": layers,
        "bytes": None,  # known when it is written
        "bytes_theory": sizes[1] * stored.itemsize,
        "settings": {"layers": depth, "ffn": ffn, "kv": kv},
        "teacher": identity(spec),
        "texts": {
            "name": texts.name,
            **texts.settings,
            "count": len(samples),
            "tokens": sum(len(s.ids) + len(s.target) for s in samples),
            "texts_sha256": texts_sha256(texts.examples),
        },
        "layers": {
            stack: {"of": len(whole[stack]), "kept": kept[stack], "influence": influence[stack]}
            for stack in kept
        },
        "widths": widths,
        "parameters": {"before": sizes[0], "after": sizes[1]},
        "dtype": str(stored).removeprefix("torch."),
        "versions": made_with(),
    }
    proof = Sample(samples[0].ids[:PROVED], samples[0].target[:PROVED])
    with write_folder(output) as temporary, safetensor_errors():
        _save(student, stored, folder, temporary, manifest, proof)
    return Pruned(output, kept, influence, widths, sizes, manifest)


def _shapes(block: Any) -> dict[str, tuple[int, ...]]:
    """Of a block's linear layers."""
    return {
        name: tuple(part.weight.shape)
        for name, part in block.named_modules()
        if isinstance(part, torch.nn.Linear)
    }


def check_cut(model: Any, depth: int | None, ffn: int | None, kv: int | None) -> None:
    """Raise `CompressError` for a cut that the model does not allow."""
    for found in stacks(model).values():
        _kept([0.0] * len(found.blocks), depth)
    if ffn is not None:
        check_neurons(model, ffn)
    if kv is not None:
        check_groups(model, kv)
    _check_less(model, depth, ffn, kv)


def _check_less(model: Any, depth: int | None, ffn: int | None, kv: int | None) -> None:
    """Raise `CompressError` for a cut that leaves the model as it is."""
    blocks = [block for found in stacks(model).values() for block in found.blocks]
    less = (
        depth is not None and any(depth < len(one.blocks) for one in stacks(model).values()),
        ffn is not None and ffn < mlp(model, blocks[0]).output.in_features,
        kv is not None and kv < model.config.num_key_value_heads,
    )
    if not any(less):
        raise CompressError(
            "this cuts nothing: the model has no more layers, neurons or groups than are to stay; "
            "lower a number."
        )


def _teacher(spec: str) -> tuple[str, Path]:
    """Name and directory of an hf: model that is whole in itself."""
    kind, name = parse(spec)
    if kind != "hf":
        raise CompressError(
            f"{spec} cannot be pruned, only transformers models can; name one as hf:DIR."
        )
    folder = model_folder(name)
    if is_adapter(folder):
        raise CompressError(
            f"{spec} is an adapter, whose weights are another model's; merge the two first, or "
            "prune the base."
        )
    return name, folder


def _kept(influence: Sequence[float], depth: int | None) -> tuple[int, ...]:
    """The layers of one stack that stay: all where only the width is cut."""
    return tuple(range(len(influence))) if depth is None else choose_layers(influence, depth)


class _Measured(NamedTuple):
    influence: Influence
    neurons: Importance
    groups: Importance


def _measure(
    model: Any, samples: Sequence[Sample], ffn: bool, kv: bool, progress: Progress | None
) -> _Measured:
    """All measures in one pass; those of widths only where they are asked for."""
    masks: Masks = {}
    with ExitStack() as stack:  # hooks left on would be copied into the student
        blocks = stack.enter_context(closing(InfluenceMeter(model, masks)))
        neurons = stack.enter_context(closing(ImportanceMeter(model, masks))) if ffn else None
        groups = stack.enter_context(closing(GroupMeter(model, masks))) if kv else None
        read(model, samples, masks, progress)
    return _Measured(
        blocks.influence(),
        neurons.importance() if neurons else {},
        groups.importance() if groups else {},
    )


def _save(
    student: Any, stored: Any, teacher: Path, output: Path, manifest: dict[str, Any], proof: Sample
) -> None:
    """Fill `output`; raises `CompressError` where it does not answer as `student` does."""
    kind, device = student.config.model_type, student.device
    try:
        expected = logits(student, proof)
    except RuntimeError as error:  # of shapes: a size that its own code keeps elsewhere
        raise CompressError(
            f"{kind}: the cut model does not run ({' '.join(str(error).split())[:200]}), so its "
            "code knows a size that is not known here; this architecture cannot be cut so."
        ) from error
    if not expected.isfinite().all():
        raise CompressError(
            f"{kind}: the cut model's logits hold NaN or infinity; look for weights that are too "
            "large."
        )
    try:
        with quiet():
            student.to(stored).save_pretrained(output)
    except (StrictDataclassError, ValueError) as error:  # of config or generation config
        why = " ".join(str(error).split())[:300]
        raise CompressError(
            f"{kind}: transformers does not save this cut ({why}); correct the teacher's config "
            "files, or choose another architecture."
        ) from error
    manifest["bytes"] = sum(
        tensor.numel() * tensor.element_size()
        for path in output.glob(WEIGHTS)
        for tensor in load_file(path).values()
    )
    for pattern in CARRIED:
        for path in filter(Path.is_file, teacher.glob(pattern)):
            shutil.copyfile(path, output / path.name)
    (output / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
    # float32 again: `to` also rounds tables that are no weights, and that a loader makes anew
    with opening(f"the pruned copy of {manifest['teacher']['spec']}"):
        opened, _ = open_model(str(output), torch.float32, str(device))
    found = logits(opened, proof)
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
        raise CompressError(
            f"{kind}: the saved copy answers otherwise than the cut model, so its config holds "
            "something about layers that is not known here; this architecture cannot be pruned."
        )


def made_with() -> dict[str, str]:
    """The versions that a manifest names."""
    return versions() | {name: metadata.version(name) for name in ("torch", "transformers")}
