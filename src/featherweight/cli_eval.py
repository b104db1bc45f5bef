"""The commands that prove it: eval, score, compare, tradeoff. Arguments, a library call, print."""

from contextlib import nullcontext
from enum import StrEnum
from math import isfinite
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


class Style(StrEnum):
    summac_zs = "summac-zs"
    align = "align"


class Cost(StrEnum):
    seconds = "seconds"
    flops = "flops"
    usd = "usd"


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
    split: Annotated[str | None, typer.Option(help="train, val or test; val unless given.")] = None,
    input: Annotated[
        Input | None, typer.Option(help="QMSum: what is read of a meeting; located unless given.")
    ] = None,
    words: Annotated[
        int | None, typer.Option(min=1, help="QMSum: at most so many words of it.")
    ] = None,
    locator: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="QMSum: what finds it: fitted, bm25, or a trained one."),
    ] = None,
    how: Annotated[
        How | None, typer.Option(help="Choices: how they are scored; by loglikelihood.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="QMSum-instruct: a run's predictions as references.")
    ] = None,
    prefix: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="wikitext2-tokens: N tokens of a chunk are not scored."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that an answer may have.")
    ] = None,
    no_repeat: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="No N tokens in a row twice in an answer; local models only."
        ),
    ] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many; of QMSum whole meetings.")
    ] = None,
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

    from featherweight.opening import model_identity, open_model
    from featherweight.show_eval import eval_progress, print_report
    from featherweight.tasks import evaluate, load_task

    with usage_errors():
        price = priced(prices, model, usd_per_hour)
        examples = load_task(
            task,
            data,
            split=split,
            input=input.value if input else None,
            words=words,
            locator=locator,
            how=how.value if how else None,
            references=references,
            prefix=prefix,
            limit=limit,
        )
        if max_tokens is not None:
            if not examples.max_tokens:
                raise DataError(f"{task} generates nothing; leave --max-tokens out.")
            examples = replace(examples, max_tokens=max_tokens)
    try:
        engine = open_model(model)
    except UnknownModelError as error:
        fail(error, code=2)
    except FeatherweightError as error:
        fail(error)
    try:
        with eval_progress(examples.name) as progress:
            report = evaluate(
                examples,
                engine,
                model,
                output,
                price=price,
                usd_per_hour=usd_per_hour,
                seed=seed,
                progress=progress,
                no_repeat=no_repeat,
                identify=model_identity,
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
    sources: Annotated[
        Path | None, typer.Option(help="Rows with id or group, and the source text.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(metavar="DIR", help="A local encoder: BERTScore.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=1, help="Its hidden layer; the last unless given.")
    ] = None,
    nli: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="A local NLI model: faithfulness to sources."),
    ] = None,
    style: Annotated[
        Style, typer.Option(help="Source by sentence (SummaC-ZS) or in chunks (AlignScore).")
    ] = Style.summac_zs,
    allow_missing: AllowMissing = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    json: Json = False,
) -> None:
    """Score predictions that exist: ROUGE and words, with intervals over meetings."""
    from featherweight.evaluate.score import score as score_files
    from featherweight.evaluate.semantic import Semantic
    from featherweight.show_eval import print_scores

    cap = _cap(cap_words)
    try:
        wanted = Semantic(encoder, layer, nli, style.value, sources)
        found = score_files(predictions, references, cap, allow_missing, seed, wanted)
    except FeatherweightError as error:
        fail(error)
    if json:
        print_json(found.to_json())
    else:
        print_scores(console(), found, str(predictions[0]), cap_words)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Predictions of one system.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Predictions of another.")],
    references: Annotated[
        Path | None,
        typer.Option(help="Rows with id and reference; leave out for multiple choice."),
    ] = None,
    cap_words: CapWords = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Ask this model which is better, in both orders."),
    ] = None,
    allow_missing: AllowMissing = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    json: Json = False,
) -> None:
    """Compare two systems on the same questions: A - B, paired, with p values."""
    from featherweight.evaluate.score import compare as compare_files
    from featherweight.evaluate.score import compare_scored
    from featherweight.opening import open_model
    from featherweight.show_eval import eval_progress, print_comparison

    cap = _cap(cap_words)
    if references is None:
        with usage_errors():
            if cap or judge:
                raise DataError("--cap-words and --judge need texts; add --references FILE.")
    try:
        engine = None if judge is None else open_model(judge)
    except UnknownModelError as error:
        fail(error, code=2)
    except FeatherweightError as error:
        fail(error)
    try:
        with eval_progress("judge") if engine else nullcontext() as progress:
            found = (
                compare_scored(a, b, allow_missing, seed)
                if references is None
                else compare_files(
                    a, b, references, cap, allow_missing, seed, engine=engine, progress=progress
                )
            )
    except FeatherweightError as error:
        fail(error)
    finally:
        if engine is not None:
            engine.close()
    if json:
        print_json(found.to_json())
    else:
        print_comparison(console(), found, str(a), str(b), cap_words)


def tradeoff(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of eval.")],
    quality: Annotated[
        str, typer.Option(help="A metric of the runs; more must be better.")
    ] = "rougeLsum",
    cost: Annotated[Cost, typer.Option(help="For each item.")] = Cost.seconds,
    plot: Annotated[Path | None, typer.Option(help="Draw it too, as .png or .svg.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
) -> None:
    """Quality against cost of several runs, with intervals on both."""
    from featherweight.evaluate import tradeoff as drawing
    from featherweight.show_eval import NAMES, print_tradeoff
    from featherweight.tasks.systems import systems

    names = {"seconds": "seconds", "flops": "FLOPs", "usd": "US dollars"}
    of_quality, of_cost = NAMES.get(quality, quality), f"{names[cost.value]} an item"
    try:
        found = systems(runs, quality, cost.value)
        if plot is not None:
            drawing.plot(found.systems, plot, quality_label=of_quality, cost_label=of_cost)
    except FeatherweightError as error:
        fail(error)
    if csv:
        print(drawing.csv_text(found.systems, quality_label=of_quality, cost_label=of_cost), end="")
    else:
        print_tradeoff(console(), found, of_quality, of_cost)


def _cap(text: str | None) -> "Cap | None":
    from featherweight.evaluate.score import Cap

    with usage_errors():
        return None if text is None else Cap.parse(text)
    return None


def priced(prices: Path | None, model: str, usd_per_hour: float | None) -> "Price | None":
    """A model's price from a table, if one is given."""
    from featherweight.evaluate.cost import read_prices

    if prices is not None and usd_per_hour is not None:
        raise DataError("dollars come from --prices or from --usd-per-hour; leave one out.")
    if usd_per_hour is not None and not isfinite(usd_per_hour):
        raise DataError("--usd-per-hour must be a number of dollars.")
    return None if prices is None else read_prices(prices).price(model)
