"""The commands of a cascade: log, calibrate, curve, run. Arguments, a library call, print."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli_eval import Input, priced
from featherweight.cli_io import console, fail, print_json, say, usage_errors
from featherweight.errors import CascadeError, FeatherweightError, UnknownModelError

if TYPE_CHECKING:
    from featherweight.cascade.trace import Trace
    from featherweight.engines import Generation, Request

app = typer.Typer(
    help="When to trust the small model: log, calibrate, curve, run.", no_args_is_help=True
)


class Part(StrEnum):
    fit = "fit"
    calibrate = "calibrate"
    test = "test"


class Axis(StrEnum):
    deferral = "deferral"
    seconds = "seconds"
    flops = "flops"
    usd = "usd"


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Logs = Annotated[
    list[Path], typer.Option("--log", metavar="FILE", help="A log; again for each further one.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of splits, ties and resampling.")]


@app.command()
def log(
    task: Annotated[str, typer.Option(help="A task's name, or a file of your own rows.")],
    stage: Annotated[
        list[str], typer.Option(metavar="SPEC", help="A model; again for the next, dearer one.")
    ],
    output: Annotated[Path, typer.Option(help="Folder; a stopped one goes on.")],
    data: Annotated[Path | None, typer.Option(help="Where the tasks' data lie.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test; val unless given.")] = None,
    input: Annotated[Input | None, typer.Option(help="QMSum: as in eval.")] = None,
    words: Annotated[int | None, typer.Option(min=1, help="QMSum: as in eval.")] = None,
    locator: Annotated[str | None, typer.Option(metavar="DIR", help="QMSum: as in eval.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that an answer may have.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Quality: accuracy of choices; rougeLsum, rouge1 ... .")
    ] = None,
    part: Annotated[
        Part | None, typer.Option(help="Where all rows go; dealt out by group unless given.")
    ] = None,
    margins: Annotated[
        bool, typer.Option("--margins", help="Keep what margin and entropy scores read.")
    ] = False,
    prices: Annotated[
        Path | None, typer.Option(help="Dollars for tokens: a dated price table in JSON.")
    ] = None,
    usd_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Dollars for the machine, by measured seconds.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Have every stage answer the same questions; judge them."""
    from dataclasses import replace

    from numpy import nanmean

    from featherweight.cascade.answers import ALTERNATIVES
    from featherweight.cascade.record import LOG, record
    from featherweight.show_cascade import log_progress, print_log
    from featherweight.tasks import load_task
    from featherweight.tasks.choice import SETS

    with usage_errors():
        paid = {spec: price for spec in stage if (price := priced(prices, spec, usd_per_hour))}
        asked = load_task(
            task,
            data,
            split=split,
            input=input.value if input else None,
            words=words,
            locator=locator,
            how="generation" if task in SETS else None,
            limit=limit,
        )
        if max_tokens is not None:
            asked = replace(asked, max_tokens=max_tokens)
    try:
        with log_progress() as progress:
            found = record(
                asked,
                stage,
                output,
                metric=metric,
                part=part.value if part else None,
                seed=seed,
                top_logprobs=ALTERNATIVES if margins else 0,
                prices=paid,
                usd_per_hour=usd_per_hour,
                progress=progress,
            )
    except UnknownModelError as error:
        fail(error, code=2)
    except FeatherweightError as error:
        fail(error)
    except KeyboardInterrupt:
        say(f"stopped; what was answered is in {output}, the same command goes on from there.")
        raise typer.Exit(130) from None
    failed = sum(any(answer.error for answer in row.stages) for row in found.rows)
    if json:
        quality = [None if isnan(x) else x for x in nanmean(found.quality(), axis=0).tolist()]
        print_json(
            {
                "log": str(output / LOG),
                "n": len(found.rows),
                "groups": len(set(found.groups())),
                "failed": failed,
                "metric": found.metric.name,
                "quality": dict(zip(found.models, quality, strict=True)),
            }
        )
    else:
        print_log(console(), found, output / LOG)
    if failed:
        say(f"{failed} questions failed in some stage; run again to retry them.")
        raise typer.Exit(1)


@app.command()
def calibrate(
    logs: Logs,
    output: Annotated[Path, typer.Option(help="Folder for the cascade.")],
    score: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="mean, sum, min, quantile:0.1, margin, entropy, length, or learned: boosting, "
            "linear (boosting-right: the control; boosting,isotonic: calibrated); one for all "
            "stages, or one each.",
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(metavar="EPSILON", help="At most so much worse than the last stage."),
    ] = None,
    delta: Annotated[float, typer.Option(help="Risk of breaking that promise.")] = 0.05,
    budget: Annotated[
        list[float] | None,
        typer.Option(metavar="SHARE", help="At most this share passed on; one for each stage."),
    ] = None,
    usd: Annotated[float | None, typer.Option(help="At most so many dollars a question.")] = None,
    seconds: Annotated[float | None, typer.Option(help="At most so many seconds.")] = None,
    flops: Annotated[float | None, typer.Option(help="At most so many operations.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Set thresholds that keep a promise, and write the rule."""
    from featherweight.cascade.calibrate import check_delta
    from featherweight.cascade.guarantee import supported
    from featherweight.cascade.make import calibrate as calibrated
    from featherweight.cascade.make import read_logs, shared_prompts, write_cascade
    from featherweight.files import check_new_folder
    from featherweight.show_cascade import print_calibration

    costs = [("usd", usd), ("seconds", seconds), ("flops", flops)]
    cost = [(kind, most) for kind, most in costs if most is not None]
    with usage_errors():
        if (quality is not None) + bool(budget) + len(cost) != 1:
            raise CascadeError(
                "name one target: --quality EPSILON, --budget SHARE, or a mean cost (--usd, "
                "--seconds, --flops)."
            )
        check_delta(delta)
        for kind, most in costs:
            if most is not None and not 0 < most < inf:
                raise CascadeError(f"--{kind} {most:g} is no cost; give a number above 0.")
        check_new_folder(output)
    try:
        found = read_logs(logs)
        if shared := shared_prompts(found):
            say(
                f"prompts that are in more than one split: {shared}; where these are one question "
                "and not two requests alike, put them into one group."
            )
        if quality is not None:
            groups, fits = (len(set(found.part(p).groups())) for p in ("calibrate", "fit"))
            metric = found.metric
            if groups:
                say(f"{supported(groups, fits, delta, metric.high - metric.low, metric.name)}.")
        names = score or ["mean"]
        rule, calibration = calibrated(
            found,
            names,
            quality=quality,
            delta=delta,
            budget=budget or None,
            cost=cost[0] if cost else None,  # type: ignore[arg-type]
            seed=seed,
        )
        write_cascade(output, found, names, rule, calibration)
    except FeatherweightError as error:
        fail(error)
    if json:
        print_json(calibration.to_json())
    else:
        print_calibration(console(), rule, calibration, output)


@app.command()
def curve(
    logs: Logs,
    score: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="As in calibrate; each is a curve.")
    ] = None,
    part: Annotated[Part, typer.Option(help="Whose rows.")] = Part.test,
    axis: Annotated[Axis, typer.Option(help="What quality is drawn over.")] = Axis.deferral,
    at: Annotated[
        float | None, typer.Option(metavar="COST", help="Quality at this mean cost (or share).")
    ] = None,
    reaching: Annotated[
        float | None, typer.Option(metavar="QUALITY", help="Cost at which it is reached.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it too, as .png or .svg.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print all points as CSV.")] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Quality against share passed on or cost, for each score."""
    from featherweight.cascade.curve_plot import csv_text
    from featherweight.cascade.curve_plot import plot as draw
    from featherweight.cascade.judge import judged
    from featherweight.cascade.make import read_logs
    from featherweight.show_cascade import print_curves

    try:
        found = judged(
            read_logs(logs), score or ["mean"], part.value, axis.value, at, reaching, seed
        )
        if plot is not None:
            draw(found.curves, plot, axis=axis.value)
            say(f"wrote {plot}")
    except FeatherweightError as error:
        fail(error)
    if csv:
        print(csv_text(found.curves), end="")
    elif json:
        print_json(found.to_json())
    else:
        print_curves(console(), found)


@app.command()
def run(
    cascade: Annotated[Path, typer.Argument(metavar="DIR", help="What calibrate wrote.")],
    questions: Annotated[
        Path, typer.Option(metavar="FILE", help="Rows with id and prompt (text or messages).")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Answers; a stopped one goes on.")],
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer; the last stage's in the rule.")
    ] = None,
    learn: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Learn from the last stage's answers; the state."),
    ] = None,
    price: Annotated[
        float, typer.Option(help="With --learn: an answer of the last stage, in wrong answers.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="With --learn: of what is explored.")] = 0,
    json: Json = False,
) -> None:
    """Answer questions by a cascade; say which stage did."""
    from featherweight.cascade.batch import answer_file, read_questions
    from featherweight.cascade.learning import learn_requests, learner_for
    from featherweight.cascade.online import Settings
    from featherweight.cascade.open import open_cascade, rule_path
    from featherweight.files import sha256
    from featherweight.show_cascade import faults, print_run, run_json
    from featherweight.show_eval import eval_progress

    with usage_errors():
        settings = Settings(price, seed=seed)
        if learn is not None and learn.resolve() == output.resolve():
            raise CascadeError(f"--learn and --output are both {output}; name two files.")
        if questions.resolve() == output.resolve():
            raise CascadeError(f"--questions and --output are both {output}; name two files.")
    try:
        asked = read_questions(questions)
        opened = open_cascade(cascade)
    except FeatherweightError as error:
        fail(error)

    def answer(requests: "Iterable[Request]") -> "Iterator[tuple[Generation, Trace]]":
        if learn is None:
            return opened.generate_traced(requests)
        return (passed[:2] for passed in learn_requests(opened, requests, learn, settings))

    try:
        with eval_progress(opened.name) as progress:
            if learn is not None:
                learner_for(opened.rule, settings, learn)  # refused before the output is made
            limit = max_tokens or opened.rule.stages[-1].max_tokens
            by = {"cascade": opened.name, "rule": sha256(rule_path(cascade)), "max_tokens": limit}
            rows = answer_file(
                {**by, "learns": learn is not None},
                answer,
                asked,
                output,
                limit,
                progress,
            )
        audit = learner_for(opened.rule, settings, learn).audit if learn is not None else None
    except FeatherweightError as error:
        fail(error)
    except KeyboardInterrupt:
        say(f"stopped; what was answered is in {output}, the same command goes on from there.")
        raise typer.Exit(130) from None
    finally:
        opened.close()
    if json:
        print_json(run_json(rows, audit))
    else:
        print_run(console(), rows, [stage.model for stage in opened.rule.stages], output, audit)
    for stage, said in faults(rows).items():
        say(f"{opened.rule.stages[stage].model} gave no answer, so the next was asked: {said}")
    failed = [row for row in rows if row["error"] is not None and row["id"] in asked]
    if failed:
        say(f"{len(failed)} failed ({failed[0]['error']}); run again to retry them.")
        raise typer.Exit(1)
