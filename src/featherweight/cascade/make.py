"""From logs to a rule: read them, score their answers, put together what is known."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.cascade.budget import for_budget, for_cost
from featherweight.cascade.calibrate import for_quality
from featherweight.cascade.calibration import Calibration, without_idle
from featherweight.cascade.curve import curve
from featherweight.cascade.fit import Kind, fit_rule
from featherweight.cascade.learned import Learned, Target
from featherweight.cascade.log import read_log
from featherweight.cascade.open import RULE
from featherweight.cascade.reader import Reader
from featherweight.cascade.rule import DeferralRule, StageRule, alternatives
from featherweight.cascade.rule_file import EQUAL, STAGE, read_stage, write_rule
from featherweight.cascade.sample import Cost, Sample, sample
from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.types import Log, Split
from featherweight.errors import CascadeError
from featherweight.files import sha256
from featherweight.tasks.run import versions
from featherweight.tasks.store import write_manifest

AGAIN = "make the log with `featherweight cascade log`"

LEARNED: Mapping[str, tuple[Kind, Target]] = {
    "boosting": ("boosting", "gain"),
    "linear": ("linear", "gain"),
    "boosting-right": ("boosting", "right"),
    "linear-right": ("linear", "right"),
}
"""Rules that are learned on the fit split; `right` is the control that looks at one model only."""
MORE = ("no-end", "isotonic")
"""What may follow a learned rule's name: the end token left out, isotonic knots."""


def read_logs(paths: Sequence[Path]) -> Log:
    """One log of several files about the same stages; raises `CascadeError` where they differ."""
    logs = [read_log(path) for path in paths]
    first = logs[0]
    seen: dict[str, tuple[Path, Log]] = {}
    for path, log in zip(paths, logs, strict=True):
        if (log.metric, log.models, _facts(log)) != (first.metric, first.models, _facts(first)):
            raise CascadeError(
                f"{path} and {paths[0]} are not about the same stages and metric; join logs of "
                "one cascade only."
            )
        for row in log.rows:
            if row.id in seen:
                other, theirs = seen[row.id]
                advice = (
                    "name each log once"
                    if theirs.sha256 == log.sha256
                    else "give the questions of different logs different ids"
                )
                raise CascadeError(
                    f"the question {row.id!r} is in {path} and in {other}; {advice}."
                )
            seen[row.id] = path, log
    splits: dict[str, str] = {}
    for log in logs:
        for row in log.rows:
            if splits.setdefault(row.group, row.split) != row.split:
                raise CascadeError(
                    f"the group {row.group!r} is in two splits, {splits[row.group]!r} and "
                    f"{row.split!r}, of these logs; put all of a group's rows into one."
                )
    digest = first.sha256 if len(logs) == 1 else sha256_of([log.sha256 for log in logs])
    extra = dict(first.extra)
    for log in logs:
        if log.extra.get("online", False) is not False:
            extra["online"] = True
    if len(logs) > 1:
        extra["joined"] = [
            {key: log.extra.get(key) for key in ("task", "settings")} for log in logs
        ]
    rows = tuple(row for log in logs for row in log.rows)
    return Log(first.metric, first.models, rows, digest, extra)


def shared_prompts(log: Log) -> int:
    """How many prompts stand in more than one split, under different groups."""
    splits: dict[str, set[str]] = {}
    for row in log.rows:
        if row.prompt_sha256 is not None:
            splits.setdefault(row.prompt_sha256, set()).add(row.split)
    return sum(len(found) > 1 for found in splits.values())


def sha256_of(digests: Sequence[str]) -> str:
    """One hash for several files, whatever their order."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _facts(log: Log) -> list[dict[str, Any]] | None:
    """Of each stage what decides about its answers; what they cost may differ between logs.

    `None` where the header names no stages. Raises `CascadeError` where they are no objects, one
    for each stage.
    """
    about = log.extra.get("stages")
    if about is None:
        return None
    objects = isinstance(about, list) and all(isinstance(one, dict) for one in about)
    if not objects or len(about) != len(log.models):
        raise CascadeError(
            f"the log's header does not say in 'stages' which models its {len(log.models)} stages "
            f"are; write one object for each (docs/cascade-log.md), or {AGAIN}."
        )
    return [{k: v for k, v in stage.items() if k != "usd_basis"} for stage in about]


def _stages(log: Log) -> list[StageRule]:
    """The stages of the log's header, without score and threshold.

    Raises `CascadeError` where it does not say who they are (docs/cascade-log.md).
    """
    facts = _facts(log)
    if facts is None:
        raise CascadeError(
            "the log's header does not say which models its stages are, so no rule could be kept "
            f"to them; {AGAIN}."
        )
    found: list[StageRule] = []
    for number, (one, model) in enumerate(zip(facts, log.models, strict=True)):
        where = f"the log's header: stages[{number}]"
        if one.get("model", model) != model:
            raise CascadeError(
                f"{where} is of {one['model']!r}, and models[{number}] is {model!r}; write both in "
                f"the order in which stages are asked, or {AGAIN}."
            )
        told = {"dtype": None, **{key: one[key] for key in STAGE if key in one}}
        try:
            stage = read_stage(Reader(told | {"score": None, "threshold": None}, where), last=True)
        except CascadeError as error:
            place = str(error).partition("; ")[0]
            raise CascadeError(
                f"{place}; write it as docs/cascade-log.md says, or {AGAIN}."
            ) from None
        for what in ("decoding", "max_tokens"):
            if found and getattr(stage, what) != getattr(found[0], what):
                raise CascadeError(f"{where}.{what} differs from stage 0's; {EQUAL}, or {AGAIN}.")
        found.append(stage)
    return found


def part_of(log: Log, split: Split) -> Log:
    """The rows of a split; raises `CascadeError` where there are none."""
    rows = log.part(split)
    if not rows.rows:
        raise CascadeError(
            f"the log has no rows in the split {split!r}, which this needs; log some, or name a "
            "log that has them too."
        )
    return rows


def chosen(log: Log, names: Sequence[str]) -> list[Score | Learned]:
    """A score for every stage but the last, by name: one for all, or one each.

    Names are those of `Score.parse`, and of `LEARNED` with `MORE` behind commas. Raises
    `CascadeError` as those do.
    """
    number = len(log.models) - 1
    if len(names) not in (1, number):
        raise CascadeError(
            f"--score is given {len(names)} times and stages that may pass on are {number}; give "
            "one for all, or one each."
        )
    wanted = list(names) * number if len(names) == 1 else list(names)
    found: list[Score | Learned] = []
    for stage, name in enumerate(wanted):
        if is_learned(name):
            kind, *more = name.split(",")
            found.append(
                fit_rule(
                    part_of(log, "fit"),
                    stage,
                    *LEARNED[kind],
                    end="no-end" not in more,
                    calibrate="isotonic" in more,
                )
            )
        else:
            found.append(_plain(name))
    return found


def is_learned(name: str) -> bool:
    """Whether the score of this name is learned on the fit split."""
    kind, *more = name.split(",")
    return kind in LEARNED and sorted(set(more) & set(MORE)) == sorted(more)


def _plain(name: str) -> Score:
    try:
        return Score.parse(name)
    except CascadeError as error:
        learned, more = ", ".join(LEARNED), " or ".join(f",{one}" for one in MORE)
        raise CascadeError(
            f"{str(error)[:-1]}; or one that is learned: {learned}, each with {more} behind it."
        ) from None


def scored(log: Log, scores: Sequence[Score | Learned]) -> Sample:
    """The rows of `log` with the score of every answer but the last stage's."""
    ids = [row.id for row in log.rows]
    columns = [
        score_answers(score, [row.stages[stage] for row in log.rows], ids)
        for stage, score in enumerate(scores)
    ]
    return sample(log, np.column_stack(columns))


def calibrate(
    log: Log,
    names: Sequence[str],
    *,
    quality: float | None = None,
    delta: float = 0.05,
    budget: Sequence[float] | None = None,
    cost: tuple[Cost, float] | None = None,
    seed: int = 0,
) -> tuple[DeferralRule, Calibration]:
    """The rule that keeps one target, `quality` (an epsilon), `budget` (shares) or a mean `cost`.

    Learned scores and the order of testing come from the split fit, thresholds from calibrate.
    Raises `CascadeError` where the target cannot be kept, and for what `made` refuses.
    """
    scores = chosen(log, names)
    rows = scored(part_of(log, "calibrate"), scores)
    if quality is not None:
        fit = scored(part_of(log, "fit"), scores)
        found = for_quality(fit, rows, quality, delta, seed)
    elif budget is not None:
        found = for_budget(rows, budget, seed)  # one each: one for all would skip middle stages
    elif cost is not None:
        found = for_cost(scored(part_of(log, "fit"), scores), rows, *cost, seed)
    else:
        raise ValueError("no target")
    return made(log, scores, found, _points(rows))


def write_cascade(
    folder: Path,
    log: Log,
    names: Sequence[str],
    rule: DeferralRule,
    calibration: Calibration,
) -> None:
    """Write the rule that `calibrate` made of `log`, and what it did there in manifest.json.

    Raises `OutputError` where the folder cannot be written.
    """
    write_rule(folder / RULE, rule)
    kept = ("joined",) if "joined" in log.extra else ("task", "settings")
    asked = {key: log.extra[key] for key in kept if key in log.extra}
    run = {"command": "cascade calibrate", "log": log.sha256, "scores": list(names), **asked}
    result = {"rule": sha256(folder / RULE), **calibration.to_json(), "versions": versions()}
    write_manifest(folder, {"run": run, "result": result})


def _points(rows: Sample) -> list[dict[str, float]]:
    """The deferral curve of two stages in steps of a tenth, as measured on `rows`."""
    if len(rows.log.models) > 2 or (rows.loss[:, 0] == rows.loss[0, 0]).all():
        return []
    found = curve(rows, resamples=1000)
    names = ("share", "quality", "low", "high", "random", "oracle")
    return [{name: float(getattr(found, name)[at]) for name in names} for at in range(0, 101, 10)]


def made(
    log: Log,
    scores: Sequence[Score | Learned],
    calibration: Calibration,
    points: Sequence[Mapping[str, float]] = (),
) -> tuple[DeferralRule, Calibration]:
    """The rule that `calibration` stands for, and `calibration` of the stages that are in it.

    A stage at +inf passes everything on, so leaving it out decides nothing and costs less: the
    promise names it in `left_out`. Raises `CascadeError` where the log does not say who its stages
    are, where a score reads alternatives that the log's header says were not asked for, or where
    only the last stage answers any of the questions that `calibration` saw.
    """
    about = _stages(log)
    if calibration.realised.deferral[-1].mean >= 1:
        few = len(about) == 2
        who = f"stage 0 ({log.models[0]})" if few else f"no stage but the last ({log.models[-1]})"
        raise CascadeError(
            f"{who} would answer {'none' if few else 'any'} of the {calibration.promise['n']} "
            "questions in the calibrate split under this target; choose another target or score."
        )
    stages = []
    for number, one in enumerate(about):
        last = number == len(about) - 1
        score = None if last else scores[number]
        threshold = None if last else calibration.thresholds[number]
        if threshold is not None and threshold.value == np.inf:
            continue
        k = 0 if score is None else alternatives(score)
        if one.top_logprobs < k:
            raise CascadeError(
                f"stage {number} ({log.models[number]}): the log's header says that "
                f"{one.top_logprobs} alternatives were asked for each token, and the score {score} "
                f"reads {k} or more; log with --margins, or use another score."
            )
        if isinstance(score, Score) and score.stream == "entropies":
            k = one.top_logprobs  # those in the log are made of so many
        stages.append(replace(one, top_logprobs=k, score=score, threshold=threshold))
    kept = without_idle(calibration, log.models)
    promise = kept.promise
    rule = DeferralRule(
        tuple(stages),
        log.metric,
        promise,
        promise["n"],
        promise["groups"],
        log.sha256,
        tuple(dict(point) for point in points),
    )
    return rule, kept
