"""The command that takes a trained model out: export. Arguments, a library call, print."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli_io import fail, print_json, say, usage_errors
from featherweight.errors import EngineError, FeatherweightError

if TYPE_CHECKING:
    from featherweight.distill import Exported


class Format(StrEnum):
    safetensors = "safetensors"
    gguf = "gguf"
    compressed_tensors = "compressed-tensors"


class Type(StrEnum):
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"
    packed = "packed"


def export(
    model: Annotated[
        str, typer.Argument(metavar="DIR", help="A transformers model, or a LoRA over one.")
    ],
    output: Annotated[Path, typer.Option(help="What to write: a folder, or a .gguf file.")],
    format: Annotated[Format, typer.Option(help="For transformers, llama.cpp, or vLLM.")] = (
        Format.safetensors
    ),
    type: Annotated[
        Type | None, typer.Option(help="Of the numbers; as stored or packed, else f16 in GGUF.")
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Write the LoRA alone, as a GGUF adapter.")
    ] = False,
    like: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take the tokenizer from this GGUF of the same model."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Write a trained or compressed model for other programs, and check what was written."""
    with usage_errors():
        if format is not Format.gguf and (adapter or like):
            raise EngineError("--adapter and --like belong to --format gguf; add it.")
    try:
        from featherweight.distill import export as exporting
    except ImportError as error:
        from featherweight.engines.load import missing

        fail(missing(error, "train"))
    kind = None if type is None else type.value
    with usage_errors():
        exporting.chosen_type("gguf-adapter" if adapter else format.value, kind)
    try:
        if format is Format.safetensors:
            found = exporting.export_safetensors(model, output, kind)
        elif format is Format.compressed_tensors:
            found = exporting.export_compressed_tensors(model, output)
        else:
            write = exporting.export_adapter if adapter else exporting.export_gguf
            found = write(model, output, kind, like)
    except FeatherweightError as error:
        fail(error)
    except KeyboardInterrupt:
        say("stopped; nothing was written.")
        raise typer.Exit(130) from None
    if json:
        print_json(found.to_json())
    else:
        print(_text(found))


def _text(found: "Exported") -> str:
    lines = [f"{found.path}: {found.format}, {found.type}, {found.bytes / 1e6:,.1f} MB"]
    if found.merge_difference is not None:
        lines.append(
            f"merged in float32: logits differ by at most {found.merge_difference:.2g} from the "
            "adapter's"
        )
    if found.written_difference is not None:
        lines.append(
            f"opened again: logits differ by at most {found.written_difference:.2g} from before"
        )
    if found.check is not None:
        check = found.check
        lines.append(
            f"in llama.cpp: log-probabilities differ by {check.mean:.2g} on average, "
            f"{check.maximum:.2g} at most; the same likeliest token at {check.same_first} of "
            f"{check.places} places"
        )
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])
