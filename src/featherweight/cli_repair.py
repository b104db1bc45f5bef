"""The command repair: arguments, a library call, print."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli_io import STOPPED, console, fail, print_json, run_errors, usage_errors
from featherweight.errors import DataError, RepairError, TrainingError


class Method(StrEnum):
    prompts = "prompts"
    idp = "idp"
    prefix = "prefix"
    lora = "lora"
    neo = "neo"
    spp = "spp"


def repair(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The compressed model: hf:DIR.")],
    method: Annotated[Method, typer.Option(help="What learns; docs/repair.md.")],
    data: Annotated[str, typer.Option(help="What it learns: a task, or a file of rows.")],
    output: Annotated[Path, typer.Option(help="Where the repair goes; a stopped run goes on.")],
    data_dir: Annotated[Path | None, typer.Option(help="Where the tasks' data lie.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a task: which part is learnt; train.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    val: Annotated[
        str | None, typer.Option(help="What prompts are chosen on: a split, or a file of rows.")
    ] = None,
    val_limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="SPEC", help="The uncompressed model, or its cache.")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="prompts and idp: how many learn; 4.")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a prompt or prefix; 20.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="lora, neo and spp: theirs.")] = None,
    lr: Annotated[float | None, typer.Option(help="By method and size.")] = None,
    epochs: Annotated[float, typer.Option()] = 1.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of epochs.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples of one step.")] = 8,
    micro_batch: Annotated[int, typer.Option(min=1, help="Of them at once.")] = 1,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens of an example, or piece of running text.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="The first prompt's; the others' follow.")] = 0,
    save_every: Annotated[int | None, typer.Option(min=1, help="Steps.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Bring a compressed model back: soft prompts chosen for each input, LoRA, or SPP."""
    try:
        from featherweight.compress import read_texts
        from featherweight.distill import Settings
        from featherweight.repair import repair as run
        from featherweight.show_repair import print_repaired, repair_progress
        from featherweight.show_train import TrainView
    except ImportError as error:
        hint = "run `pip install 'featherweight[train]'`"
        fail(TrainingError(f"repairing needs {error.name}, which is not installed; {hint}."))
    with usage_errors():
        _check(method, prompts=prompts, prompt_tokens=prompt_tokens, rank=rank)
        settings = Settings(
            prompt_tokens=prompt_tokens or 20,
            rank=rank,
            lr=lr,
            epochs=epochs,
            steps=steps,
            batch=batch,
            micro_batch=micro_batch,
            max_length=max_length,
            dtype=dtype,
            seed=seed,
            save_every=save_every,
        )
        learnt = read_texts(data, data_dir, split or ("train" if data_dir else None), limit)
        tests = None
        if val is not None and (Path(val).suffix or Path(val).is_file()):
            tests = read_texts(val, limit=val_limit)
        elif val is not None and data_dir is None:
            raise DataError(
                f"{data} is a file and has no part {val!r}; give --val a file of other rows."
            )
        elif val is not None:
            tests = read_texts(data, data_dir, val, val_limit)
    with run_errors(STOPPED), TrainView(console()) as view, repair_progress() as progress:
        found = run(
            model,
            method.value,
            learnt,
            output,
            val=tests,
            teacher=teacher,
            count=prompts or 4,
            settings=settings,
            tell=view,
            progress=progress,
        )
    if json:
        print_json(dict(found.manifest))
    else:
        print_repaired(console(), found)


def _check(method: Method, **given: int | None) -> None:
    """Raise `RepairError` for an option that the method does not read."""
    read = {
        "prompts": ("prompts", "idp"),
        "prompt_tokens": ("prompts", "idp", "prefix"),
        "rank": ("lora", "neo", "spp"),
    }
    for name, value in given.items():
        if value is not None and method.value not in read[name]:
            raise RepairError(
                f"--{name.replace('_', '-')} is for {' and '.join(read[name])}, not for "
                f"{method.value}; leave it out."
            )
