"""The commands that make models smaller: compress. Arguments, a library call, print."""

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli_io import STOPPED, console, fail, print_json, run_errors, usage_errors
from featherweight.errors import CompressError

RECIPES = (
    "What to do, as gptq:bits=3,group=64; several make one folder each. Kinds: rtn, gptq, "
    "magnitude, wanda, sparsegpt, dsnot, joint, depth, width (docs/compress.md); symmetric=true "
    "with 4 or 8 bits can be exported to compressed-tensors."
)


def compress(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="hf:DIR, gguf:FILE, smollm2-135m.")],
    recipe: Annotated[list[str], typer.Option(help=RECIPES)],
    output: Annotated[Path, typer.Option(help="The new model's folder; of several, around them.")],
    calibrate: Annotated[
        str | None,
        typer.Option(help="Texts to read: a file of rows, or a task's name with --data."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where a task's data lie.")] = None,
    split: Annotated[str | None, typer.Option(help="A task's: train, val or test; val.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many texts.")] = None,
    sequential: Annotated[
        bool | None,
        typer.Option(
            "--sequential/--shared",
            help="Each layer reads what the compressed ones before it write (default for one "
            "recipe, better), or one pass serves all recipes.",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="About so many tokens are read.")] = 65_536,
    length: Annotated[
        int | None,
        typer.Option(min=8, help="In sequences of so many: 1,024, or what the model holds."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="It reads in auto, fp32 or bf16.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the manifests.")] = False,
) -> None:
    """Make smaller copies of a model: quantised, sparse, or with parts cut out."""
    from featherweight.engines.load import missing

    try:
        from featherweight.compress import compress as run
        from featherweight.compress import parse_recipe, read_texts
        from featherweight.show_compress import print_made, work_progress
    except ImportError as error:
        fail(missing(error, "train"))
    with usage_errors():
        recipes = [parse_recipe(text) for text in recipe]
        if all(one.structured for one in recipes):
            if length is not None:
                raise CompressError("depth and width read whole texts; leave --length out.")
            if sequential is not None:
                raise CompressError(
                    "depth and width read the whole model; leave --sequential and --shared out."
                )
        if length is not None and calibrate is None:
            raise CompressError("--length is of texts; add --calibrate, or leave it out.")
        texts = None if calibrate is None else read_texts(calibrate, data, split, limit)
    mode = None if sequential is None else "sequential" if sequential else "shared"
    with run_errors(STOPPED), work_progress() as progress:
        made = run(
            model,
            recipes,
            output,
            texts,
            mode=mode,  # type: ignore[arg-type]
            tokens=tokens,
            length=length,
            dtype=dtype,
            progress=progress,
        )
    if json:
        print_json([one.manifest for one in made])
    else:
        print_made(console(), made)
