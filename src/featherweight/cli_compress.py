"""The commands that make models smaller: prune. Arguments, a library call, print."""

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli_io import console, fail, print_json, say, usage_errors
from featherweight.errors import CompressError, FeatherweightError, UnknownModelError


def prune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The teacher: hf:DIR.")],
    texts: Annotated[
        str, typer.Option(help="What to measure on: a file of rows, or a task's name with --data.")
    ],
    output: Annotated[Path, typer.Option(help="The new model's folder.")],
    keep_layers: Annotated[
        int | None, typer.Option(min=2, help="So many layers stay (T5: in each stack).")
    ] = None,
    drop_layers: Annotated[int | None, typer.Option(min=1, help="So many layers go.")] = None,
    width: Annotated[
        float | None, typer.Option(help="The share of each MLP's neurons that stays, as 0.75.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where a task's data lie.")] = None,
    split: Annotated[str | None, typer.Option(help="A task's: train, val or test; val.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many texts.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Cut layers or neurons that matter least out of a model, to train the rest."""
    from featherweight.engines.load import missing
    from featherweight.show_eval import eval_progress

    with usage_errors():
        if keep_layers is not None and drop_layers is not None:
            raise CompressError("--keep-layers and --drop-layers say the same; give one of them.")
        if keep_layers is None and drop_layers is None and width is None:
            raise CompressError("nothing to cut; give --keep-layers, --drop-layers or --width.")
    try:
        from featherweight.compress import prune as cut
        from featherweight.compress import read_texts
    except ImportError as error:
        fail(missing(error, "train"))
    with usage_errors():
        task = read_texts(texts, data, split, limit)
    try:
        with eval_progress(task.name) as progress:
            found = cut(
                model,
                output,
                task,
                depth=keep_layers,
                drop=drop_layers,
                width=width,
                progress=progress,
            )
    except UnknownModelError as error:
        fail(error, code=2)
    except FeatherweightError as error:
        fail(error)
    except KeyboardInterrupt:
        say("stopped; nothing was written.")
        raise typer.Exit(130) from None
    if json:
        print_json(found.manifest)
        return
    from featherweight.show_compress import print_pruned

    print_pruned(console(), found)
