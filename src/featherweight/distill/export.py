"""The way out of the house: merged safetensors, a GGUF model or adapter, packed weights; checked.

Everything cheap is refused before weights are read. The result is written under a temporary name
beside its place, opened again and compared with the model in memory, and only then renamed: a file
that is there answers as the model does.
"""

import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from featherweight.compress import compressed_tensors, gguf_blocks
from featherweight.distill import gguf_adapter, gguf_model, gguf_tokenizer
from featherweight.distill.gguf_check import Check, can_check, check_gguf_against
from featherweight.distill.merge import (
    Opened,
    Place,
    load_adapter,
    load_base,
    load_config,
    load_tokenizer,
    locate,
    max_difference,
    open_merged,
    probe_logits,
    stored_dtype,
)
from featherweight.engines import hf_open
from featherweight.engines.gguf_write import Field, field, write_gguf
from featherweight.engines.identity import TOKENIZER, identity
from featherweight.engines.load import missing
from featherweight.engines.packed import Packed, is_packed, read_packed
from featherweight.engines.safetensor import safetensor_errors
from featherweight.errors import EngineError, OutputError
from featherweight.files import output_errors, whole

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
KINDS = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
PACKED_GGUF = "packed"  # each weight as blocks that hold the same numbers
TYPES = {  # what each format is written in, the default first; "" is as it is stored
    "safetensors": ("", "f16", "bf16"),
    "gguf": ("f16", "bf16", "q8_0", PACKED_GGUF),
    "gguf-adapter": ("f32", "f16", "bf16"),
    "compressed-tensors": ("",),
}
NOT_CHECKED = (
    "not checked in llama.cpp, which is not installed (pip install 'featherweight[local]')"
)
CAST_TOLERANCE = 0.1  # of the largest logit: bfloat16 takes some hundredths


@dataclass(frozen=True)
class Exported:
    """What was written. Differences are absolute, of logits of a fixed text unless said otherwise.

    `merge_difference`: merged in float32 against adapter beside base. `written_difference`: the
    written safetensors, opened again, against the model before any merge or cast. `check`: the
    GGUF file in llama.cpp against the model, by log-probabilities; `None` where it was not made.
    """

    path: Path
    format: str
    type: str
    bytes: int
    merge_difference: float | None = None
    written_difference: float | None = None
    check: Check | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"path": str(self.path)}


def export_safetensors(model: str, output: Path, type: str | None = None) -> Exported:
    """Write `model` as one transformers directory, a LoRA merged in, `type` f16, bf16 or as stored.

    Raises `EngineError` for a model that cannot be opened or that merging or casting would change,
    `OutputError` where `output` cannot be written or has something in it.
    """
    chosen = chosen_type("safetensors", type)
    output = check_free(output)
    place = locate(model)
    load_config(place)
    dtype = DTYPES[chosen] if chosen else stored_dtype(place.base)
    chosen = next(name for name, one in DTYPES.items() if one == dtype)
    opened = open_merged(place)
    cast(opened, dtype)
    with _writing(output) as temporary:
        _save(opened, temporary)
        again = written_difference(opened, temporary)
        manifest = {
            "command": "export",
            "model": identity(f"hf:{model}"),
            "format": "safetensors",
            "type": chosen,
            "versions": _versions(),
            "merge_difference": opened.merge_difference,
            "written_difference": again,
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        size = sum(path.stat().st_size for path in temporary.iterdir())
    return Exported(output, "safetensors", chosen, size, opened.merge_difference, again)


def export_gguf(
    model: str, output: Path, type: str | None = None, like: Path | None = None
) -> Exported:
    """Write `model`, a LoRA merged in, as a GGUF file of `type` f16 (the default), bf16 or q8_0.

    A compressed model of 4 or 8 bits in groups that 32 divides is written as it is packed (type
    packed: Q4_1 or Q8_0, other tensors F16); other compressed ones are written whole, with a note.
    `like` is a GGUF file whose tokenizer and general metadata are taken instead of the model's own
    tokenizer. Raises `EngineError` for a model that would be written wrongly or that llama.cpp
    answers otherwise for, `OutputError` where `output` cannot be written or is there already.
    """
    output = check_free(output, directory=False)
    place = locate(model)
    packed = _packed(place)
    blocks = {gguf_blocks.kind_of(one) for one in packed.values()}
    exact = len(blocks) == 1 and None not in blocks
    chosen = PACKED_GGUF if exact and type is None else chosen_type("gguf", type)
    if chosen == PACKED_GGUF and not exact:
        raise EngineError(
            f"{model} is not packed in 4 or 8 bits, without a mask, in groups that 32 divides, so "
            "GGUF has no blocks for it; leave --type out to write it whole."
        )
    fields = _model_fields(place, like)
    opened = open_merged(place)
    fields |= gguf_model.model_fields(opened.model.config)
    if chosen == PACKED_GGUF:
        kind = next(filter(None, blocks))
        tensors = gguf_model.model_tensors(model, opened.model, "F16", packed)
    else:
        kind = KINDS[chosen]
        tensors = gguf_model.model_tensors(model, opened.model, kind)
    with _writing(output) as temporary:
        with _numbers(model):
            write_gguf(temporary, gguf_model.ARCHITECTURE, fields, tensors, kind)
        check = None
        if can_check():
            check = check_gguf_against(
                temporary,
                opened.model,
                opened.tokenizer,
                kind=kind,
                own_tokenizer=like is None,
            )
        size = temporary.stat().st_size
    notes = _notes(check)
    if packed and not exact:
        notes += ("GGUF has no blocks for these packed weights, so they were written whole",)
    odd = [one.name for one in tensors if len(one.shape) > 1 and one.kind != kind]
    if odd and chosen != PACKED_GGUF:
        notes += (f"{len(odd)} matrices are F16, their rows are no multiple of 32 ({odd[0]})",)
    return Exported(output, "gguf", chosen, size, opened.merge_difference, check=check, notes=notes)


def export_compressed_tensors(model: str, output: Path) -> Exported:
    """Write a packed `model` of 4 or 8 bits as compressed-tensors, for transformers and vLLM.

    Where the compressed-tensors package is installed the directory is opened by plain transformers
    and must give the same logits, to the bit. Raises `EngineError` and `CompressError` for a model
    that is not packed so, `OutputError` as the others do.
    """
    output = check_free(output)
    place = locate(model)
    packed = _packed(place)
    if not packed:
        raise EngineError(
            f"{model} is not packed; make it with `featherweight compress`, or export safetensors."
        )
    bits, group = compressed_tensors.scheme(model, packed)
    config = json.loads((place.base / "config.json").read_text())
    dtype = load_config(place).dtype or torch.float32
    dense, _ = read_packed(model, place.base)
    for weight, one in packed.items():
        dense |= compressed_tensors.tensors(weight, one, dtype)
    config["quantization_config"] = compressed_tensors.quantization_config(bits, group, ["lm_head"])
    notes: tuple[str, ...] = ()
    difference = None
    with _writing(output) as temporary:
        temporary.mkdir()
        save_file(dense, temporary / "model.safetensors", {"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for pattern in (*TOKENIZER, "generation_config.json", "LICENSE*", "NOTICE*"):
            for path in filter(Path.is_file, place.base.glob(pattern)):
                (temporary / path.name).write_bytes(path.read_bytes())
        if importlib.util.find_spec("compressed_tensors") is None:
            notes = ("not opened again: compressed-tensors is not installed",)
        else:
            difference = _same_logits(model, place, temporary, dtype)
        size = sum(path.stat().st_size for path in temporary.iterdir())
    kind = f"int{bits}, groups of {group}"
    return Exported(
        output, "compressed-tensors", kind, size, written_difference=difference, notes=notes
    )


def _same_logits(model: str, place: Place, written: Path, dtype: torch.dtype) -> float:
    """0.0, or `EngineError`: plain transformers' logits of what was written, in `dtype`."""
    from transformers import AutoModelForCausalLM

    with hf_open.opening(model):
        ours, tokenizer = hf_open.open_model(str(place.base), dtype, "cpu")
        theirs = AutoModelForCausalLM.from_pretrained(written, dtype=dtype, local_files_only=True)
    found = max_difference(probe_logits(ours, tokenizer), probe_logits(theirs.eval(), tokenizer))
    if found:
        raise EngineError(
            f"{model} as compressed-tensors gives other logits (by {found:.3g}), so nothing was "
            "written; this is a fault of featherweight's, please report it."
        )
    return found


def _packed(place: Place) -> dict[str, Packed]:
    """A directory's packed weights; none of an adapter, which is merged, nor of a plain one."""
    if place.adapter or not is_packed(place.base):
        return {}
    return read_packed(place.name, place.base)[1]


def export_adapter(
    model: str, output: Path, type: str | None = None, like: Path | None = None
) -> Exported:
    """Write the LoRA adapter `model` as a GGUF adapter of `type` f32 (the default), f16 or bf16.

    It goes over any GGUF file of the same base. The check writes such a file for the time that it
    takes, with the tokenizer of `like` where that is given. Raises as `export_gguf` does, and
    `EngineError` for what llama.cpp's adapters cannot hold.
    """
    chosen = chosen_type("gguf-adapter", type)
    output = check_free(output, directory=False)
    place = locate(model)
    if not place.adapter:
        raise EngineError(
            f"{model} is a whole model, not a LoRA adapter; leave --adapter out to write it whole."
        )
    config = load_config(place)
    gguf_model.check_llama(place.base_name, config)
    gguf_adapter.check_plain_lora(model, place.folder, bool(config.tie_word_embeddings))
    checked = can_check()
    fields = _model_fields(place, like) if checked else {}
    tokenizer = load_tokenizer(place)
    base = load_base(place)
    kind = KINDS[chosen]
    check = None
    with (
        _writing(output) as temporary,
        tempfile.TemporaryDirectory(prefix=f".{output.name[:80]}.", dir=output.parent) as folder,
    ):
        whole_base = Path(folder) / "base.gguf"
        if checked:  # before peft wraps the base's modules
            write_gguf(
                whole_base,
                gguf_model.ARCHITECTURE,
                fields | gguf_model.model_fields(config),
                gguf_model.model_tensors(place.base_name, base, "F32"),
                "F32",
            )
        tuned = load_adapter(place, base)
        alpha, tensors = gguf_adapter.adapter_tensors(model, tuned, kind)
        with _numbers(model):
            write_gguf(
                temporary,
                gguf_model.ARCHITECTURE,
                gguf_adapter.adapter_fields(_title(place), alpha),
                tensors,
                kind,
            )
        if checked:
            check = check_gguf_against(
                whole_base,
                tuned,
                tokenizer,
                kind=kind,
                adapter=temporary,
                own_tokenizer=like is None,
            )
        size = temporary.stat().st_size
    return Exported(output, "gguf-adapter", chosen, size, check=check, notes=_notes(check))


def chosen_type(format: str, type: str | None) -> str:
    """The type that `format` is written in; raises `EngineError` for one that it is not."""
    types = TYPES[format]
    if type is None:
        return types[0]
    if type not in types:
        raise EngineError(
            f"{format} is not written as {type}; "
            f"{'choose ' + ', '.join(filter(None, types)) if any(types) else 'leave --type out'}."
        )
    return type


def check_free(output: Path, directory: bool = True) -> Path:
    """`output` in full; raises `OutputError` unless it is not there yet or an empty directory."""
    output = Path(os.path.abspath(output))  # noqa: PTH100  (resolve would follow a link)
    with output_errors(output):
        if not output.exists() and not output.is_symlink():
            return output
        if directory and output.is_dir() and not any(output.iterdir()):
            return output
    raise OutputError(f"{output} is there already; remove it or choose another --output.")


def cast(opened: Opened, dtype: torch.dtype) -> None:
    """The model's parameters to `dtype`, in place; raises `EngineError` where they do not fit."""
    for key, parameter in opened.model.named_parameters():
        parameter.data = parameter.data.to(dtype)
        if not torch.isfinite(parameter.data).all():
            raise EngineError(
                f"{opened.place.name} has numbers in {key} that are not finite as {dtype}; "
                "choose --type bf16, or check the model."
            )


def written_difference(opened: Opened, folder: Path) -> float:
    """The largest difference of a logit: the written model, opened again, against the first."""
    with hf_open.opening(str(folder)):
        written, tokenizer = hf_open.open_model(str(folder), torch.float32, "cpu")
    difference = max_difference(opened.logits, probe_logits(written.eval(), tokenizer))
    allowed = CAST_TOLERANCE * max(1.0, float(opened.logits.abs().max()))
    if not difference <= allowed:
        raise EngineError(
            f"{opened.place.name} as written differs by {difference:.3g} in its logits, more than "
            f"{allowed:.3g}, so nothing was written; choose another --type."
        )
    return difference


def _save(opened: Opened, folder: Path) -> None:
    """Weights, config and the tokenizer's files as they are, so that its hash stays the same."""
    try:
        with hf_open.opening(opened.place.name):
            opened.model.save_pretrained(folder)
    except EngineError as error:
        # the disk's own error arrives as what the loader raises
        cause = error.__cause__
        if isinstance(cause, OSError | SafetensorError):
            raise OSError(str(cause)) from None
        raise
    for pattern in TOKENIZER:
        for path in sorted(opened.place.tokenizer.glob(pattern)):
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
    mode = 0o666 & folder.stat().st_mode  # safetensors' own files are the user's alone
    for path in folder.iterdir():
        path.chmod(mode)


def _model_fields(place: Place, like: Path | None) -> dict[str, Field]:
    """Tokenizer and general fields, with every refusal that needs no weights."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise missing(error, "local") from None
    config = load_config(place)
    gguf_model.check_llama(place.base_name, config)
    tokenizer = load_tokenizer(place)
    if like is not None:
        fields = gguf_tokenizer.like_fields(like, config.vocab_size)
    else:
        ends = _ends(place)
        fields = gguf_tokenizer.tokenizer_fields(place.name, tokenizer, config.vocab_size, ends)
        fields["general.name"] = field(_title(place))
    return {"general.type": field("model"), **fields}


def _ends(place: Place) -> list[int]:
    """Ids that end an answer by the base's generation config."""
    from transformers import GenerationConfig

    if not (place.base / "generation_config.json").is_file():
        return []
    with hf_open.opening(place.base_name):
        found = GenerationConfig.from_pretrained(place.base, local_files_only=True).eos_token_id
    return list(found) if isinstance(found, list | tuple) else [] if found is None else [found]


def _title(place: Place) -> str:
    return place.folder.resolve().name


def _notes(check: Check | None) -> tuple[str, ...]:
    return (NOT_CHECKED,) if check is None else check.notes


def _versions() -> dict[str, str]:
    names = ("featherweight", "torch", "transformers", "safetensors")
    return {name: metadata.version(name) for name in names}


@contextmanager
def _writing(output: Path) -> Iterator[Path]:
    """A temporary path that becomes `output`; what the disk refuses becomes an `OutputError`."""
    with output_errors(output), safetensor_errors():
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole(output) as temporary:
            yield temporary
            check_free(output, temporary.is_dir())  # it took minutes: another may have been faster


@contextmanager
def _numbers(name: str) -> Iterator[None]:
    """A number that the tensor's type cannot hold becomes an `EngineError`."""
    try:
        yield
    except ValueError as error:
        raise EngineError(
            f"{name}: {error}; choose --type bf16, or check the model's weights."
        ) from None
