"""From a model's directory to packed ones: read, measure, solve, write, prove.

Every block's result is written when it is there, beside the output's place; a run that was stopped
goes on behind the last of them. The directory is opened again before it gets its name, and must
hold, to the last bit, the weights that were computed.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import orjson
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from featherweight.compress.calibrate import Sample, logits, texts_sha256
from featherweight.compress.layerwise import Found, Place, linears, places, walk
from featherweight.compress.masks import count
from featherweight.compress.packing import bytes_theory, pack
from featherweight.compress.prune import CARRIED, MANIFEST, check_cut, made_with, prune
from featherweight.compress.recipe import Recipe
from featherweight.compress.sequences import calibration, check_length
from featherweight.compress.solvers import Inputs, check_mask, solve
from featherweight.compress.store import JOB, Result, Store, forget, partial
from featherweight.compress.structure import check_finite
from featherweight.engines.dequantised import dequantised
from featherweight.engines.hf_bank import is_bank
from featherweight.engines.hf_open import (
    choose_dtype,
    is_adapter,
    load_config,
    load_tokenizer,
    model_folder,
    open_model,
    opening,
)
from featherweight.engines.identity import identity
from featherweight.engines.load import parse
from featherweight.engines.packed import FILE, Packed, packing
from featherweight.engines.safetensor import safetensor_errors
from featherweight.errors import CompressError
from featherweight.files import check_new_folder, sweep_up, write_folder
from featherweight.tasks import Task

Mode = Literal["sequential", "shared"]
Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""
TOKENS = 65_536
COPIED = (*CARRIED, "generation_config.json")
DTYPES = (torch.float32, torch.bfloat16)
PROVED = 64  # tokens that the directory must answer as the model in memory does


@dataclass(frozen=True)
class _Proof:
    """What the directory must hold: digests of all that is not packed, by name, and the logits."""

    rest: dict[str, str]
    answered: Tensor


@dataclass(frozen=True)
class Made:
    """A compressed model: where it is, and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]


def compress(
    spec: str,
    recipes: Sequence[Recipe],
    output: Path,
    texts: Task | None = None,
    *,
    mode: Mode | None = None,
    tokens: int = TOKENS,
    length: int | None = None,
    dtype: str = "auto",
    device: str | None = None,
    progress: Progress | None = None,
) -> list[Made]:
    """Write `spec` (hf:, gguf: or the embedded model) packed after each recipe.

    One recipe goes to `output`, several to `output`/TEXT each. `mode` is sequential for one and
    shared for several unless it is given. About `tokens` of `texts` are read in sequences of
    `length` (as `calibration` takes it), in `dtype` (auto, fp32, bf16). Stopped runs go on when
    called again in the same way.

    Raises `CompressError` for a recipe that does not fit the model and for a model that cannot be
    compressed, `EngineError` for one that cannot be opened, `DataError` for texts that do not do,
    `OutputError` where `output` is in use.
    """
    _check_call(recipes, mode, tokens, length)
    output = Path(os.path.abspath(output))  # noqa: PTH100  (resolve would follow a link)
    source = _source(spec)
    mode = mode or ("sequential" if len(recipes) == 1 else "shared")
    if texts is None and (reading := [r.text for r in recipes if r.reads]):
        raise CompressError(f"{reading[0]} must read texts; give some (--calibrate).")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    job = {
        "source": identity(f"hf:{source}") | {"spec": spec},
        "mode": mode,
        "texts": texts and {"name": texts.name, "sha256": texts_sha256(texts.examples)},
        "tokens": tokens,
        "length": length,
        "dtype": str(choose_dtype(dtype, device)[0]),
        "versions": made_with(),
    }
    folders = [output / recipe.text if len(recipes) > 1 else output for recipe in recipes]
    if dtype == "auto":  # is measured, and may be measured otherwise the next time
        job["dtype"] = _begun_in(job, folders) or job["dtype"]
    every = list(zip(recipes, folders, strict=True))
    left = [(recipe, folder) for recipe, folder in every if not _made(folder, recipe, job)]
    if left:  # what cannot be is said before the first one is made
        _check(source, spec, [recipe for recipe, _ in left], texts, tokens, length)
    for _, folder in left:
        check_new_folder(folder)
    packed = [one for one in every if not one[0].structured]
    groups = [[one] for one in every if one[0].structured]
    groups += [[one] for one in packed] if mode == "sequential" else [packed] if packed else []
    for group in groups:
        unfinished = _unfinished(group[0][1], shared=len(group) > 1)
        names = [recipe.text for recipe, _ in group]
        if all(_made(folder, recipe, job) for recipe, folder in group):
            forget(unfinished, job, names)
            continue
        with partial(unfinished, job, names) as store:
            for _, folder in group:
                sweep_up(folder)
            recipe, folder = group[0]
            if recipe.structured:
                assert texts is not None
                _prune(source, recipe, folder, texts, job, device, progress)
            else:
                _compress(source, group, texts, job, device, store, progress)
    return [Made(folder, json.loads((folder / MANIFEST).read_bytes())) for folder in folders]


def _unfinished(folder: Path, *, shared: bool) -> Path:
    """Where the finished blocks of `folder`, or of it and its neighbours, are kept."""
    return folder.parent / f".{'shared' if shared else folder.name}.partial"


def _begun_in(job: Mapping[str, Any], folders: Sequence[Path]) -> str | None:
    """The precision in which an earlier call of this job, stopped or not, computed."""
    for folder in folders:
        unfinished = [_unfinished(folder, shared=shared) / JOB for shared in (False, True)]
        for file in (folder / MANIFEST, *unfinished):
            try:
                found = json.loads(file.read_bytes())["job"]
                same = found | {"dtype": job["dtype"]} == job
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if same and found["dtype"] in map(str, DTYPES):
                return str(found["dtype"])
    return None


def _check_call(
    recipes: Sequence[Recipe], mode: str | None, tokens: int, length: int | None
) -> None:
    """Raise `CompressError` for arguments that mean nothing."""
    names = [recipe.text for recipe in recipes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise CompressError(f"{twice[0]} is named twice; name each recipe once.")
    if mode not in (None, *get_args(Mode)):
        raise CompressError(f"no mode is called {mode!r}; choose {', '.join(get_args(Mode))}.")
    for what, value in (("tokens", tokens), ("length", length)):
        if value is not None and value < 1:
            raise CompressError(f"{what} is {value}; give 1 or more.")


def _source(spec: str) -> Path:
    """The directory that holds the model; refuses what is no plain whole model."""
    kind, rest = parse(spec)
    if kind == "openai":
        raise CompressError(f"{spec} is a server, whose weights are not here; name hf:DIR.")
    folder = model_folder(rest) if kind == "hf" else dequantised(spec)
    if is_adapter(folder):
        raise CompressError(
            f"{spec} is an adapter; merge it first with `featherweight export {rest} --output DIR`."
        )
    if is_bank(folder):
        raise CompressError(f"{spec} is a prompt bank, not a whole model; name its base.")
    with opening(spec):
        config = load_config(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise CompressError(f"{spec} is compressed already; compress what it was made from.")
    return folder


def _prune(
    source: Path,
    recipe: Recipe,
    folder: Path,
    texts: Task,
    job: dict[str, Any],
    device: str,
    progress: Progress | None,
) -> None:
    """Whole layers, neurons or key-value groups go: an ordinary smaller model."""
    prune(
        f"hf:{source}",
        folder,
        texts,
        depth=recipe.layers,
        ffn=recipe.ffn,
        kv=recipe.kv,
        tokens=job["tokens"],
        facts={"command": "compress", "recipe": recipe.text, "mode": None, "job": job},
        device=device,
        progress=progress and (lambda done, of: progress("texts", done, of)),
    )


def _made(folder: Path, recipe: Recipe, job: dict[str, Any]) -> bool:
    """Whether an earlier, stopped call made this very directory."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    if not any(folder.glob("*.safetensors")):
        return False
    return bool(manifest.get("recipe") == recipe.text and manifest.get("job") == job)


def _compress(
    source: Path,
    made: Sequence[tuple[Recipe, Path]],
    texts: Task | None,
    job: dict[str, Any],
    device: str,
    store: Store,
    progress: Progress | None,
) -> None:
    """One pass over the model for all of `made`."""
    recipes = [recipe for recipe, _ in made]
    began = perf_counter()
    with opening(job["source"]["spec"]):
        model, tokenizer = open_model(str(source), torch.float32, device)
        stored = load_config(source).dtype or torch.float32
    check_finite(model)
    _check_names(source, model)
    batches: list[list[Sample]] = []
    if texts is not None:
        batches = calibration(texts, model, tokenizer, source.name, job["tokens"], job["length"])
    values = stored if stored in (torch.float16, torch.bfloat16) else torch.bfloat16
    solved: float | None = 0.0
    block: list[Result] = [{} for _ in recipes]  # as far as it is solved
    broken: dict[int, CompressError] = {}  # what one recipe cannot, others may

    def at(place: Place, layers: dict[str, Any], found: Found | None) -> dict[str, Tensor]:
        known = store.has(place)
        if not known:
            new = _layers(recipes, layers, found, values, broken)
            if len(broken) == len(recipes):
                raise next(iter(broken.values()))
            for result, more in zip(block, new, strict=True):
                result |= more
        if job["mode"] == "shared":
            return {}
        weights = store.weights(0, place) if known else {n: one for n, (one, _) in new[0].items()}
        return {name: one.dense().to(device) for name, one in weights.items()}

    def keep(place: Place) -> None:
        nonlocal solved
        if store.has(place):
            solved = None  # an earlier session's part of the time is not known
        else:
            for number in broken:
                block[number].clear()
            store.put(place, block)
        for result in block:
            result.clear()

    def tell(done: int, of: int) -> None:
        nonlocal solved
        if solved is not None:
            solved = perf_counter() - began
        if progress:
            progress("blocks", done, of)

    walk(
        model,
        batches,
        at,
        sequential=job["mode"] == "sequential",
        dtype=getattr(torch, job["dtype"].removeprefix("torch.")),
        before=store.has,
        after=keep,
        progress=tell,
    )
    read = sum(len(s.ids) + len(s.target) for batch in batches for s in batch)
    blocks = [place for place, _ in places(model)]
    left = [
        (number, recipe, folder)
        for number, (recipe, folder) in enumerate(made)
        if not _made(folder, recipe, job)
    ]
    model.cpu()
    proofs: dict[int, _Proof] = {}
    for number, recipe, _ in left:
        try:
            if number not in broken:
                proofs[number] = _proof(model, tokenizer, store, number, blocks, recipe)
        except CompressError as error:
            broken[number] = error
    del model  # a copy that is opened again takes as much
    for number, recipe, folder in left:
        if number in broken:
            continue
        facts = {
            "command": "compress",
            "recipe": recipe.text,
            "mode": job["mode"],
            "seconds": {"solve": solved},
            "calibration_tokens": read,
            "job": job,
        }
        _write(source, folder, store, number, blocks, facts, proofs[number])
        if progress:
            progress("directories", number + 1, len(made))
    for failed in broken.values():
        some = f" {len(made) - len(broken)} of {len(made)} recipes were made."
        raise CompressError(f"{failed}{some if len(made) > 1 else ''}")


def _write(
    source: Path,
    folder: Path,
    store: Store,
    number: int,
    blocks: Sequence[Place],
    facts: dict[str, Any],
    proof: _Proof,
) -> None:
    """One recipe's directory, opened again and compared before it gets its name."""
    began = perf_counter()
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(source):
        tensors |= load_file(file)
    dense_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    layers: list[dict[str, Any]] = []
    packed: dict[str, Any] = {}
    for place in blocks:
        for one in store.facts(number, place):
            weight = f"{one['name']}.weight"
            del tensors[weight]
            packed[weight] = one.pop("packed")
            layers.append(one)
        tensors |= store.tensors(number, place)
    digests = {f"{one['name']}.weight": one.pop("sha256") for one in layers}
    changed = [one.pop("changed") for one in layers]
    manifest = facts | {
        "changed": sum(changed),
        "of": len(layers),
        "bytes": sum(one["bytes"] for one in layers),
        "bytes_theory": sum(one["bytes_theory"] for one in layers),
        "bytes_model": sum(t.numel() * t.element_size() for t in tensors.values()),
        "bytes_dense": dense_bytes,
        "layers": layers,
    }
    config = json.loads((source / "config.json").read_bytes())
    config["quantization_config"] = packing(packed)
    with write_folder(folder) as temporary, safetensor_errors():
        save_file(tensors, temporary / FILE, {"format": "pt"})
        (temporary / "config.json").write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
        for path in {path for pattern in COPIED for path in source.glob(pattern)}:
            if path.is_file():
                shutil.copyfile(path, temporary / path.name)
        del tensors
        _prove(temporary, digests, proof)
        manifest["seconds"]["pack"] = perf_counter() - began
        (temporary / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))


def _answer(model: Any, tokenizer: Any) -> Tensor:
    """The model's logits [1, PROVED, V] for a text of its own."""
    ids = tokenizer("The quick brown fox jumps over the lazy dog. " * 9).input_ids[:PROVED]
    for parameter in model.parameters():
        # a tensor that begins elsewhere, as in a mapped file, can be summed in another order
        parameter.data = parameter.data.clone()
    return logits(model, Sample(ids, ids))


def _proof(
    model: Any,
    tokenizer: Any,
    store: Store,
    number: int,
    blocks: Sequence[Place],
    recipe: Recipe,
) -> _Proof:
    """What `model`, given a recipe's weights, is and says."""
    own = dict(model.named_parameters())
    for place in blocks:
        found = store.weights(number, place)
        if not found:
            raise CompressError(
                f"{recipe.text} failed in {place.name} before the run was stopped; run it again "
                "to see why."
            )
        for name, one in found.items():
            own.pop(f"{name}.weight").data.copy_(one.dense())
    rest = {name: digest_of(parameter.data) for name, parameter in own.items()}
    answered = _answer(model, tokenizer)
    if not answered.isfinite().all():
        raise CompressError(
            f"{recipe.text}: the compressed model's logits hold NaN or infinity; look for weights "
            "that are too large, or choose another recipe."
        )
    return _Proof(rest, answered)


def _prove(folder: Path, digests: dict[str, str], proof: _Proof) -> None:
    """Raise `CompressError` unless the directory opens as what was computed."""
    with opening("the compressed copy"):
        opened, tokenizer = open_model(str(folder), torch.float32, "cpu")
    found = dict(opened.named_parameters())
    for name, digest in (digests | proof.rest).items():
        if name not in found or digest_of(found[name].data) != digest:
            raise CompressError(f"{name}: {_OTHERWISE}")
    if not torch.equal(_answer(opened, tokenizer), proof.answered):
        raise CompressError(f"logits: {_OTHERWISE}")


_OTHERWISE = (
    "the packed copy is not what was computed; this is a fault of featherweight's, please report "
    "it."
)


def _weight_files(source: Path) -> list[Path]:
    """The files that transformers reads: others may lie beside them."""
    if (source / SAFE_WEIGHTS_NAME).is_file():
        return [source / SAFE_WEIGHTS_NAME]
    index = json.loads((source / SAFE_WEIGHTS_INDEX_NAME).read_bytes())
    return [source / name for name in sorted(set(index["weight_map"].values()))]


def _check(
    source: Path,
    spec: str,
    recipes: Sequence[Recipe],
    texts: Task | None,
    tokens: int,
    length: int | None,
) -> None:
    """Raise where a recipe, `texts` or `length` do not fit; reads no weights."""
    with opening(spec):
        config = load_config(source)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with torch.device("meta"):
            model = kind.from_config(config)
        tokenizer = load_tokenizer(spec, source)
    check_length(model, tokenizer, source.name, length)
    for recipe in recipes:
        if recipe.structured:
            check_cut(model, recipe.layers, recipe.ffn, recipe.kv)
    packed = [recipe for recipe in recipes if not recipe.structured]
    if packed:
        _check_fit(model, packed)
    if texts is not None and 0 < len(packed) < len(recipes):  # read again after all others
        calibration(texts, model, tokenizer, source.name, tokens, length)


def _check_names(source: Path, model: Any) -> None:
    """Raise `CompressError` where the files call a layer otherwise than the model does."""
    stored: set[str] = set()
    with opening(source.name):
        for path in _weight_files(source):
            with safe_open(path, "pt") as file:
                stored |= set(file.keys())
    for place, block in places(model):
        for name in linears(block, place.prefix):
            if f"{name}.weight" not in stored:
                raise CompressError(
                    f"{source.name} keeps {name}.weight under another name in its files, so it "
                    "cannot be packed; open the model with transformers and save it again."
                )


def _check_fit(model: Any, recipes: Sequence[Recipe]) -> None:
    """Raise `CompressError` where a group or pattern does not divide a layer's inputs."""
    shapes = {
        name: (linear.out_features, linear.in_features)
        for place, block in places(model)
        for name, linear in linears(block, place.prefix).items()
    }
    for recipe in recipes:
        for name, (rows, columns) in shapes.items():
            if recipe.group and columns % recipe.group:
                common = math.gcd(*(inputs for _, inputs in shapes.values()))
                fits = [g for g in (16, 32, 48, 64, 80, 96, 128, 256) if common % g == 0]
                raise CompressError(
                    f"{recipe.text} does not fit {name}: {columns} inputs are no multiple of "
                    f"{recipe.group}; groups that fit every layer are "
                    f"{', '.join(map(str, fits or [common]))}."
                )
            if recipe.sparsity and not count(rows * columns, recipe.sparsity):
                raise CompressError(
                    f"{recipe.text} prunes none of the {rows * columns:,} weights of {name}; raise "
                    "the sparsity."
                )
            if recipe.pattern and columns % recipe.pattern[1]:
                raise CompressError(
                    f"{recipe.text} does not fit {name}: {columns} inputs are no multiple of "
                    f"{recipe.pattern[1]}; give a sparsity instead of the pattern."
                )


def _layers(
    recipes: Sequence[Recipe],
    layers: dict[str, Any],
    found: Found | None,
    values: torch.dtype,
    broken: dict[int, CompressError],
) -> list[Result]:
    """Layers after each recipe, with what the manifest says of each; empties `found` on the way.

    A recipe that fails, by its number, is noted in `broken` and gets no more layers.
    """
    known: list[tuple[list[str], Any]] = [([name], None) for name in layers]
    known = known if found is None else found
    results: list[Result] = [{} for _ in recipes]
    # one factor is held: first those that share it, then those with another order
    order = sorted(range(len(recipes)), key=lambda number: recipes[number].actorder)
    while known:
        names, statistics = known.pop(0)  # what was used takes no more room
        weights = {name: layers[name].weight.data.float() for name in names}
        inputs = None if statistics is None else Inputs(statistics, names[0])
        for number in order:
            if number in broken:
                continue
            try:
                results[number] |= _solved(recipes[number], weights, inputs, values)
            except CompressError as error:
                broken[number] = error
                results[number].clear()
    return results


def _solved(
    recipe: Recipe, weights: dict[str, Tensor], inputs: Inputs | None, values: torch.dtype
) -> Result:
    """Layers that read the same after one recipe, packed."""
    result: Result = {}
    swept, damping = solve(recipe, weights, inputs)
    for name, one in swept.items():
        check_mask(recipe, name, one)
        packed = pack(one, recipe.bits, recipe.group, values)
        dense = packed.dense().to(one.weight.device)
        ends = (*one.weight.aminmax(), *dense.aminmax())  # NaN where there is one
        if not all(end.isfinite() for end in ends):
            raise CompressError(
                f"{name}: {recipe.text} leaves the range of its numbers; look for weights or "
                "inputs that are too large."
            )
        wanted = one.weight if recipe.bits else one.weight.to(values).float()
        if not torch.equal(dense, wanted):
            raise CompressError(
                f"{name}: packed and unpacked it is not the weight that was computed; "
                "this is a fault of featherweight's, please report it."
            )
        facts = _facts(recipe, name, packed, dense)
        before = weights[name] if recipe.bits else weights[name].to(values).float()
        facts["changed"] = not torch.equal(dense, before)
        if inputs is not None:
            error, naive = inputs.errors(recipe, name, weights[name], one)
            facts |= {"error_rtn": naive, "error": error, "damping": damping}
        result[name] = (packed, facts)
    return result


def _facts(recipe: Recipe, name: str, packed: Packed, dense: Tensor) -> dict[str, Any]:
    rows, columns = packed.shape
    kept = packed.kept() if packed.mask is not None else None
    return {
        "name": name,
        "bits": recipe.bits,
        "sparsity": None if kept is None else 1 - kept / (rows * columns),
        "error_rtn": None,
        "error": None,
        "damping": None,
        "bytes": packed.nbytes(),
        "bytes_theory": bytes_theory(rows, columns, recipe.bits, recipe.group, kept),
        "sha256": digest_of(dense),
    }


def digest_of(weight: Tensor) -> str:
    return hashlib.sha256(weight.float().cpu().contiguous().numpy().tobytes()).hexdigest()
