"""Make a log: every stage answers the same questions, and each answer is judged.

A stage's answers are a run of eval in FOLDER/stage-0, FOLDER/stage-1 and so on, so what was stopped
goes on; FOLDER/log.jsonl, and what it is in manifest.json, are written when all have answered.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from featherweight.cascade.answers import answer_of
from featherweight.cascade.asking import prompt_key
from featherweight.cascade.log import read_log, write_log
from featherweight.cascade.rule import Decoding
from featherweight.cascade.stages import facts
from featherweight.cascade.types import SPLITS, Answer, Log, Metric, Row, Split
from featherweight.engines import Generation, Request, TopLogprob, load_engine
from featherweight.engines.identity import identity
from featherweight.errors import CascadeError
from featherweight.evaluate.cost import Cost, Price
from featherweight.evaluate.predictions import Reference
from featherweight.evaluate.score import METRICS, measure
from featherweight.files import sha256
from featherweight.tasks import Example, Report, Task, evaluate
from featherweight.tasks.run import Progress, versions
from featherweight.tasks.store import PREDICTIONS, check_owner, write_manifest

LOG, COMMAND = "log.jsonl", "cascade log"
SHARES = (0.25, 0.5, 0.25)  # of the groups: fit, calibrate, test
QUALITIES = tuple(name for name in METRICS if name.startswith("rouge"))


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's answers by example id, and what the log's header says of it."""

    about: Mapping[str, Any]
    answers: Mapping[str, Answer]


def record(
    task: Task,
    specs: Sequence[str],
    folder: Path,
    *,
    metric: str | None = None,
    part: Split | None = None,
    seed: int = 0,
    top_logprobs: int = 0,
    prices: Mapping[str, Price] | None = None,
    usd_per_hour: float | None = None,
    progress: Callable[[str], Progress | None] = lambda spec: None,
) -> Log:
    """Have the models `specs`, cheapest first, answer `task`; write and return the log.

    `metric` is what quality is: accuracy of choices, one of `QUALITIES` of texts (rougeLsum). All
    rows go to the split `part`; without it whole groups are dealt out, a quarter to fit, half to
    calibrate, a quarter to test, by `seed`; a log that is there is not dealt anew. With
    `top_logprobs` margins and entropies are there. `prices` are dollars for tokens by spec. Raises
    `CascadeError` for a task that cannot be logged, `OutputError` for a folder of another command,
    and all that `load_engine` and `evaluate` raise.
    """
    check_owner(folder, COMMAND)
    measured = _metric(task, metric)
    dealing = {"metric": measured.name, "part": part, "seed": None if part else seed}
    _check_dealing(folder / LOG, dealing)
    if len(specs) < 2:
        raise CascadeError("a cascade has two models or more; name the large one too.")
    twice = next((spec for spec in specs if list(specs).count(spec) > 1), None)
    if twice is not None:
        raise CascadeError(f"{twice} is named twice; name each stage's model once.")
    splits = _splits(task, part, seed)
    for spec in specs:  # before any of them works for hours
        identity(spec)
    stages = []
    for number, spec in enumerate(specs):
        engine = load_engine(spec)
        try:
            report = evaluate(
                task,
                engine,
                spec,
                folder / f"stage-{number}",
                price=(prices or {}).get(spec),
                usd_per_hour=usd_per_hour,
                seed=seed,
                progress=progress(spec),
                top_logprobs=top_logprobs,
            )
            about = {
                **facts(engine),
                "decoding": asdict(Decoding()),
                "max_tokens": task.max_tokens,
                "top_logprobs": top_logprobs,
                "usd_basis": report.cost.usd_basis,
            }
        finally:
            engine.close()
        output = folder / f"stage-{number}"
        answers = answers_of_run(task, spec, output, report, measured.name, top_logprobs)
        stages.append(Stage(about, answers))
    log = joined(task, stages, measured, splits)
    log = replace(log, extra={**log.extra, "dealing": dealing})
    write_log(log, folder / LOG)
    write_manifest(folder, _manifest(log, sha256(folder / LOG)))
    return log


def _manifest(log: Log, digest: str) -> dict[str, Any]:
    stages = [{key: stage[key] for key in ("model", "identity")} for stage in log.extra["stages"]]
    described = {key: log.extra[key] for key in ("task", "settings", "dealing")}
    table = log.quality()  # NaN where an answer failed
    judged = [column[~np.isnan(column)] for column in table.T]
    return {
        "run": {"command": COMMAND, "stages": stages, **described},
        "result": {
            "log": digest,
            "n": len(log.rows),
            "groups": len(set(log.groups())),
            "metric": log.metric.name,
            "quality": [float(column.mean()) if len(column) else None for column in judged],
            "failed": [len(table) - len(column) for column in judged],
            "versions": versions(),
        },
    }


def joined(task: Task, stages: Sequence[Stage], metric: Metric, splits: Mapping[str, Split]) -> Log:
    """One row for each example, with all stages' answers; `splits` by group."""
    rows = tuple(
        Row(
            example.id,
            group,
            splits[group],
            tuple(s.answers[example.id] for s in stages),
            prompt_key(example.prompt),
        )
        for example, group in zip(task.examples, _groups(task), strict=True)
    )
    extra = {
        "task": task.name,
        "settings": dict(task.settings),
        "stages": [dict(stage.about) for stage in stages],
    }
    return Log(metric, tuple(str(s.about["model"]) for s in stages), rows, extra=extra)


def _groups(task: Task) -> list[str]:
    return [example.group or example.id for example in task.examples]


def _splits(task: Task, part: Split | None, seed: int) -> dict[str, Split]:
    groups = _groups(task)
    return dict.fromkeys(groups, part) if part else dealt(groups, seed)


def dealt(groups: Sequence[str], seed: int) -> dict[str, Split]:
    """Each group's split, drawn at random; raises `CascadeError` for fewer than three groups."""
    names = sorted(set(groups))
    if len(names) < len(SPLITS):
        raise CascadeError(
            f"{len(names)} groups cannot be dealt out to {', '.join(SPLITS)}; log more of them, or "
            "put all into one split with --part."
        )
    random.Random(seed).shuffle(names)
    fit = max(1, round(SHARES[0] * len(names)))
    test = max(1, round(SHARES[2] * len(names)))
    middle = len(names) - test
    return {
        name: "fit" if number < fit else "calibrate" if number < middle else "test"
        for number, name in enumerate(names)
    }


def _check_dealing(path: Path, dealing: Mapping[str, Any]) -> None:
    """Rows must not change sides: a rule would be tested on what it was calibrated on."""
    if not path.exists():
        return
    before = read_log(path).extra.get("dealing")
    if before != dealing:
        raise CascadeError(
            f"{path} was made with other options ({_plain(before)}, now {_plain(dealing)}); choose "
            "another output folder, or the same --metric, --part and --seed."
        )


def _plain(dealing: Any) -> str:
    if not isinstance(dealing, Mapping):
        return "unknown"
    return " ".join(f"{key} {value}" for key, value in dealing.items() if value is not None)


def _metric(task: Task, name: str | None) -> Metric:
    if task.kind == "text" or not task.max_tokens:
        how = "add --how generation" if task.kind == "choice" else "choose another task"
        raise CascadeError(f"{task.name} lets a model write no answer to be trusted; {how}.")
    allowed = ("accuracy",) if task.kind == "choice" else QUALITIES
    name = name or allowed[-1]
    if name not in allowed:
        raise CascadeError(f"{task.name} has no metric {name!r}; choose {', '.join(allowed)}.")
    missing = next((e.id for e in task.examples if e.target is None), None)
    if missing is not None:
        raise CascadeError(f"{task.name}: {missing} has no target to judge an answer by; add it.")
    return Metric(name, 0.0, 100.0)


def answers_of_run(
    task: Task, spec: str, output: Path, report: Report, metric: str, top_logprobs: int
) -> dict[str, Answer]:
    """Of every example of `task`, those that failed too, by id: from a run of eval in `output`.

    `metric` is what quality is, accuracy or a ROUGE, from 0 to 100; `top_logprobs` is what the run
    asked for: an answer with fewer has no margins and entropies.
    """
    rows = [orjson.loads(line) for line in (output / PREDICTIONS).read_bytes().splitlines()]
    by_id = {example.id: example for example in task.examples}
    quality = _qualities([by_id[row["id"]] for row in rows], rows, metric)
    items = report.cost.items
    found = {
        id: _failed(spec, report.failed.get(id, "not answered"), report.lost.get(id))
        for id in by_id
    }
    for number, row in enumerate(rows):
        found[row["id"]] = replace(
            answer_of(*_generation(task, row, top_logprobs)),
            model=spec,
            quality=quality[number],
            seconds=float(items.wall[number]),
            flops=None if items.flops is None else float(items.flops[number]),
            usd=None if items.usd is None else float(items.usd[number]),
        )
    return found


def _failed(spec: str, error: str, lost: Cost | None) -> Answer:
    """An answer that failed, with what was paid for it."""
    if lost is None:
        return Answer(spec, "", error=error)
    return Answer(
        spec,
        "",
        prompt_tokens=lost.prompt_tokens or 0,
        completion_tokens=lost.completion_tokens or 0,
        seconds=lost.seconds_total,
        flops=lost.flops,
        usd=lost.usd,
        error=error,
    )


def _qualities(examples: list[Example], rows: list[dict[str, Any]], metric: str) -> list[float]:
    if metric == "accuracy":
        return [100 * float(row["scores"]["accuracy"]) for row in rows]
    references = [
        Reference(example.target or "", "", example.meta.get("general") is True, "", "")
        for example in examples
    ]
    table = measure([row["prediction"] for row in rows], references)
    return [float(value) for value in table[:, METRICS.index(metric)]]


def _generation(
    task: Task, row: Mapping[str, Any], top_logprobs: int
) -> tuple[Generation, Request]:
    """What the engine gave, as far as a run's row keeps it."""
    tops = row.get("top_logprobs")
    logprobs = row.get("token_logprobs")
    generation = Generation(
        text=row["prediction"],
        token_ids=None,
        token_logprobs=None if logprobs is None else tuple(logprobs),
        top_logprobs=None
        if tops is None
        else tuple(tuple(TopLogprob(None, b"", one) for one in token) for token in tops),
        finish_reason=row["finish_reason"],
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        seconds=row["seconds"],
        model=row["model"],
    )
    return generation, Request(row["prediction"], task.max_tokens, top_logprobs=top_logprobs)
