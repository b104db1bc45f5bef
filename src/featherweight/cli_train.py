"""The commands that make a model: train, teach. Arguments, a library call, print."""

from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featherweight.cli_eval import How, Input, Json, priced
from featherweight.cli_io import STOPPED, console, fail, print_json, run_errors, usage_errors
from featherweight.errors import DataError, TrainingError

if TYPE_CHECKING:
    from featherweight.tasks import Task


SPLITS = ("train", "val", "test")


class Method(StrEnum):
    sft = "sft"
    lora = "lora"
    kd = "kd"
    neo = "neo"
    cat_xent = "cat-xent"
    cat_dist = "cat-dist"
    gatekeeper = "gatekeeper"


class Tune(StrEnum):
    full = "full"
    lora = "lora"
    prompt = "prompt"
    prefix = "prefix"
    spp = "spp"


class Divergence(StrEnum):
    forward_kl = "forward_kl"
    reverse_kl = "reverse_kl"
    jsd = "jsd"
    skew_kl = "skew_kl"
    skew_reverse_kl = "skew_reverse_kl"


class Lora(StrEnum):
    lora = "lora"
    rslora = "rslora"
    dora = "dora"
    pissa = "pissa"
    moslora = "moslora"


class Keep(StrEnum):
    topk = "topk"
    hidden = "hidden"
    bits = "bits"
    text = "text"


class Mask(StrEnum):
    all = "all"
    either = "either"
    student = "student"
    teacher = "teacher"
    random = "random"


def _config(context: typer.Context, path: Path | None) -> Path | None:
    """A YAML file's entries become defaults: what is said on the command line wins."""
    if path is not None:
        with usage_errors():
            context.default_map = _entries(path, {p.name or "" for p in context.command.params})
    return path


def _entries(path: Path, known: set[str]) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a list of entries; write lines like `student: smollm2-135m`.")
    entries = {str(key).replace("-", "_"): value for key, value in found.items()}
    if unknown := sorted(entries.keys() - (known - {"config"})):
        raise DataError(
            f"{path}: {unknown[0]!r} is no option of train; see `featherweight train --help`."
        )
    return entries


def train(
    student: Annotated[
        str, typer.Option(metavar="SPEC", help="The model that learns: hf:DIR, or smollm2-135m.")
    ],
    data: Annotated[
        str, typer.Option(metavar="TASK", help="What it learns: a task, or a file of your rows.")
    ],
    output: Annotated[Path, typer.Option(help="Where the model goes; a stopped run goes on.")],
    config: Annotated[
        Path | None,
        typer.Option(help="These options from a YAML file.", callback=_config, is_eager=True),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the tasks' data lie.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a task: which part is learnt; train.")
    ] = None,
    input: Annotated[Input | None, typer.Option(help="QMSum: what is read of a meeting.")] = None,
    words: Annotated[int | None, typer.Option(min=1, help="QMSum: at most so many words.")] = None,
    how: Annotated[How | None, typer.Option(help="Choices: text or letter.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    val: Annotated[
        str | None, typer.Option(help="Evaluate on this split on the way, or on a file of rows.")
    ] = None,
    val_limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="SPEC", help="hf:DIR, or a cache written by teach.")
    ] = None,
    method: Annotated[Method | None, typer.Option(help="neo with a teacher, else lora.")] = None,
    tune: Annotated[Tune | None, typer.Option(help="What learns.")] = None,
    kd_weight: Annotated[float | None, typer.Option(help="Of the teacher; 0.5.")] = None,
    divergence: Annotated[Divergence, typer.Option()] = Divergence.forward_kl,
    mix: Annotated[
        float | None, typer.Option(help="beta of jsd (0.5), lambda of the skewed (0.1).")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Inside the divergence only.")] = 1.0,
    mask: Annotated[Mask | None, typer.Option(help="CAT and its controls; either.")] = None,
    gate: Annotated[float | None, typer.Option(help="Gatekeeper: weight of right tokens.")] = None,
    lora: Annotated[Lora, typer.Option(help="Which LoRA.")] = Lora.lora,
    rank: Annotated[int | None, typer.Option(min=1, help="64 from 1B on, 16 below.")] = None,
    dropout: Annotated[float, typer.Option(help="Of LoRA.")] = 0.0,
    targets: Annotated[str, typer.Option(help="Layers with LoRA.")] = "all-linear",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of a prompt or prefix.")] = 20,
    lr: Annotated[float | None, typer.Option(help="Times 10 for LoRA, by size.")] = None,
    schedule: Annotated[str, typer.Option(help="As transformers names them.")] = "cosine",
    warmup: Annotated[float, typer.Option(help="Share of the steps.")] = 0.1,
    weight_decay: Annotated[float, typer.Option()] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of a gradient.")] = 1.0,
    optimiser: Annotated[str, typer.Option(help="As transformers names them.")] = "adamw_torch",
    epochs: Annotated[float, typer.Option()] = 1.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of epochs.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples of one step.")] = 8,
    micro_batch: Annotated[int, typer.Option(min=1, help="Of them at once.")] = 1,
    max_length: Annotated[int | None, typer.Option(min=2, help="Tokens; the context.")] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Less memory, a third more time.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    eval_every: Annotated[int | None, typer.Option(min=1, help="Steps; a tenth of all.")] = None,
    eval_texts: Annotated[
        int, typer.Option(min=0, help="Answer so many of --val each time, and score them.")
    ] = 0,
    save_every: Annotated[int | None, typer.Option(min=1, help="Steps; a tenth of all.")] = None,
    stop_on: Annotated[str | None, typer.Option(help="loss, ce, rouge1, ...: the best.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many evaluations without a better one.")
    ] = None,
    report_to: Annotated[str, typer.Option(help="tensorboard, wandb, ...")] = "none",
    json: Json = False,
) -> None:
    """Make a compact model do a task: SFT, LoRA, distillation, or both (NEO)."""
    chosen = {key: value for key, value in locals().items() if key != "config"}
    try:
        from featherweight.distill.folder import main_process
        from featherweight.distill.settings import Settings
        from featherweight.distill.train import train as run
    except ImportError as error:
        hint = "run `pip install 'featherweight[train]'`"
        fail(TrainingError(f"training needs {error.name}, which is not installed; {hint}."))
    from featherweight.show_train import TrainView

    with usage_errors():
        settings = Settings(
            **{f.name: _plain(chosen[f.name]) for f in fields(Settings) if f.name in chosen}
        )
        learnt = _task(data, data_dir, split, input, words, how, limit)
        tests = None
        if val is not None:
            if _is_file(val):
                tests = _task(val, None, None, None, None, how, val_limit)
            elif _is_file(data):
                raise DataError(
                    f"{data} is a file and has no part {val!r}; give --val a file of other rows."
                )
            else:
                tests = _task(data, data_dir, val, input, words, how, val_limit)
        elif eval_texts or patience:
            raise DataError("--eval-texts and --patience need --val.")
    with run_errors(STOPPED), TrainView(console()) as view:
        trained = run(
            student, learnt, output, val=tests, teacher=teacher, settings=settings, tell=view
        )
    if not main_process():
        return  # under torchrun one process speaks
    if json:
        print_json(dict(trained.result))
    else:
        view.done(trained)


def teach(
    teacher: Annotated[str, typer.Option(metavar="SPEC", help="The large model.")],
    data: Annotated[str, typer.Option(metavar="TASK", help="A task, or a file of your rows.")],
    output: Annotated[Path, typer.Option(help="A folder; a stopped run goes on.")],
    keep: Annotated[
        Keep, typer.Option(help="bits: for cat-xent. text: answers, from any model or server.")
    ] = Keep.topk,
    student: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Whose tokens, if not the teacher's.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the tasks' data lie.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a task; train.")] = None,
    input: Annotated[Input | None, typer.Option(help="QMSum: what is read of a meeting.")] = None,
    words: Annotated[int | None, typer.Option(min=1, help="QMSum: at most so many words.")] = None,
    how: Annotated[How | None, typer.Option(help="Choices: text or letter.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    k: Annotated[int, typer.Option(min=1, help="topk: so many tokens of each place.")] = 64,
    store: Annotated[
        str | None, typer.Option(help="Type on disk: float16, float32, bfloat16.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Tokens; the context.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="text: of an answer.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    prices: Annotated[Path | None, typer.Option(help="text: a dated price table.")] = None,
    usd_per_hour: Annotated[float | None, typer.Option(min=0, help="text: of the machine.")] = None,
    json: Json = False,
) -> None:
    """Let a large model read the data once, for training without it: a cache, or texts."""
    from dataclasses import asdict, replace

    try:
        from featherweight.distill.teach import teach as run
        from featherweight.distill.teach import teach_text
    except ImportError as error:
        hint = "run `pip install 'featherweight[train]'`"
        fail(TrainingError(f"teaching needs {error.name}, which is not installed; {hint}."))
    from featherweight.engines import load_engine
    from featherweight.show_eval import eval_progress, print_report

    with usage_errors():
        price = priced(prices, teacher, usd_per_hour)
        task = _task(data, data_dir, split, input, words, how, limit)
        if max_tokens is not None:
            task = replace(task, max_tokens=max_tokens)
    with run_errors(STOPPED), eval_progress(task.name) as progress:
        if keep is not Keep.text:
            taught = run(
                teacher,
                task,
                output,
                keep=keep.value,  # type: ignore[arg-type]
                student=student,
                k=k,
                store=store,
                max_length=max_length,
                dtype=dtype,
                progress=progress,
            )
        else:
            engine = load_engine(teacher)
            try:
                report, kept = teach_text(
                    engine,
                    teacher,
                    task,
                    output,
                    progress=progress,
                    price=price,
                    usd_per_hour=usd_per_hour,
                )
            finally:
                engine.close()
    if keep is Keep.text:
        if json:
            print_json(report.to_json())
        else:
            print_report(console(), report, f"{task.name}, {teacher}")
            cut = report.results.n - kept
            if cut:
                note = f"{cut} of {report.results.n} answers were cut off or empty and are left out"
                console().print(f"{note}; raise --max-tokens.", style="dim")
            console().print(f"learn from it with --data {output / 'rows.jsonl'}", style="dim")
        return
    if json:
        print_json({**asdict(taught), "folder": str(taught.folder)})
        return
    console().print(
        f"{output}: {taught.examples:,} examples, {taught.tokens:,} tokens, {taught.right:.1%} of "
        f"them predicted by the teacher, {taught.bytes / 2**20:,.1f} MiB"
    )
    console().print(f"learn from it with --teacher {output}", style="dim")


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, StrEnum) else value


def _is_file(name: str) -> bool:
    from featherweight.tasks import TASKS

    known = name in TASKS or name in SPLITS  # even where a folder is called so
    return not known and (bool(Path(name).suffix) or Path(name).exists())


def _task(
    name: str,
    data: Path | None,
    split: str | None,
    input: Input | None,
    words: int | None,
    how: How | None,
    limit: int | None,
) -> "Task":
    from featherweight.tasks import load_task

    own = _is_file(name)
    return load_task(
        name,
        data,
        split=split if own else split or "train",
        input=_plain(input),
        words=words,
        how=_plain(how),
        limit=limit,
    )
