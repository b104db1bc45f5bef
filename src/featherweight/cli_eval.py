"""The commands that prove it: eval, score, compare, tradeoff. Arguments, a library call, print."""

from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli_io import console, fail, print_json, say, usage_errors
from featherweight.errors import DataError, FeatherweightError, UnknownModelError

if TYPE_CHECKING:
    from featherweight.evaluate.cost import Price
    from featherweight.evaluate.score import Cap


class Input(StrEnum):
    located = "located"
    gold = "gold"
    full = "full"


class How(StrEnum):
    loglikelihood = "loglikelihood"
    generation = "generation"


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
AllowMissing = Annotated[
    bool, typer.Option(help="Score what is there, and say how many are missing.")
]
CapWords = Annotated[
    str | None,
    typer.Option(
        metavar="N[:M]", help="Keep the first N words of every answer, M where `general` is true."
    ),
]


def eval(
    task: Annotated[str, typer.Option(help="A task's name, or a file of your own rows.")],
    output: Annotated[Path, typer.Option(help="The run's folder; a stopped run goes on.")],
    model: Annotated[
        str, typer.Option(metavar="SPEC", help="See `featherweight models`.")
    ] = "smollm2-135m",
    data: Annotated[Path | None, typer.Option(help="Where the tasks' data lie.")] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    input: Annotated[Input, typer.Option(help="QMSum: what is read of a meeting.")] = Input.located,
    words: Annotated[
        int | None, typer.Option(min=1, help="QMSum: at most so many words of it.")
    ] = None,
    how: Annotated[How, typer.Option(help="Choices: how they are scored.")] = How.loglikelihood,
    references: Annotated[
        Path | None, typer.Option(help="QMSum-instruct: a run's predictions as references.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that an answer may have.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    prices: Annotated[
        Path | None, typer.Option(help="Dollars for tokens: a dated price table in JSON.")
    ] = None,
    usd_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Dollars for the machine, by measured seconds.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    json: Json = False,
) -> None:
    """Run a model over a task; score it, with intervals and cost."""
    from dataclasses import replace

    from featherweight.engines import load_engine
    from featherweight.show_eval import eval_progress, print_report
    from featherweight.tasks import evaluate, load_task
    from featherweight.tasks.qmsum import WORDS

    with usage_errors():
        price = _price(prices, model, usd_per_hour)
        examples = load_task(
            task,
            data,
            split=split,
            input=input.value,
            words=words or WORDS,
            how=how.value,
            references=references,
            limit=limit,
        )
        if max_tokens is not None and examples.max_tokens:
            examples = replace(examples, max_tokens=max_tokens)
    try:
        engine = load_engine(model)
    except UnknownModelError as error:
        fail(error, code=2)
    except FeatherweightError as error:
        fail(error)
    try:
        with eval_progress(examples.name) or nullcontext() as progress:
            report = evaluate(
                examples,
                engine,
                model,
                output,
                price=price,
                usd_per_hour=usd_per_hour,
                seed=seed,
                progress=progress,
            )
    except FeatherweightError as error:
        fail(error)
    except KeyboardInterrupt:
        say(f"stopped; what was finished is in {output}, the same command goes on from there.")
        raise typer.Exit(130) from None
    finally:
        engine.close()
    if json:
        print_json(report.to_json())
    else:
        print_report(console(), report, f"{examples.name}, {model}")
    if report.failed:
        reason = next(iter(report.failed.values()))
        say(f"{len(report.failed)} failed ({reason}); run again to retry them.")
        raise typer.Exit(1)


def score(
    predictions: Annotated[
        list[Path], typer.Option(help="Rows with id and prediction; again for each further seed.")
    ],
    references: Annotated[Path, typer.Option(help="Rows with id and reference.")],
    cap_words: CapWords = None,
    allow_missing: AllowMissing = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    json: Json = False,
) -> None:
    """Score predictions that exist: ROUGE and words, with intervals over meetings."""
    from featherweight.evaluate.score import score as score_files
    from featherweight.show_eval import print_scores

    cap = _cap(cap_words)
    try:
        found = score_files(predictions, references, cap, allow_missing, seed)
    except FeatherweightError as error:
        fail(error)
    if json:
        print_json(found.to_json())
    else:
        print_scores(console(), found, predictions[0].name, cap_words)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Predictions of one system.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Predictions of another.")],
    references: Annotated[Path, typer.Option(help="Rows with id and reference.")],
    cap_words: CapWords = None,
    allow_missing: AllowMissing = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    json: Json = False,
) -> None:
    """Compare two systems on the same questions: A - B, paired, with p values."""
    from featherweight.evaluate.score import compare as compare_files
    from featherweight.show_eval import print_comparison

    cap = _cap(cap_words)
    try:
        found = compare_files(a, b, references, cap, allow_missing, seed)
    except FeatherweightError as error:
        fail(error)
    if json:
        print_json(found.to_json())
    else:
        print_comparison(console(), found, a.name, b.name, cap_words)


def _cap(text: str | None) -> "Cap | None":
    from featherweight.evaluate.score import Cap

    with usage_errors():
        return None if text is None else Cap.parse(text)
    return None


def _price(prices: Path | None, model: str, usd_per_hour: float | None) -> "Price | None":
    from featherweight.evaluate.cost import read_prices

    if prices is not None and usd_per_hour is not None:
        raise DataError("dollars come from --prices or from --usd-per-hour; leave one out.")
    return None if prices is None else read_prices(prices).price(model)
