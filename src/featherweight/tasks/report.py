"""One run from beginning to end: answer, score, count the cost, write it down."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from featherweight.engines.identity import identity
from featherweight.engines.types import Engine
from featherweight.evaluate.cost import Cost, Price, Usage, as_json, cost, peak_rss, peak_vram
from featherweight.evaluate.statistics import Estimate, estimates
from featherweight.tasks.results import Results, results
from featherweight.tasks.run import Outcome, Progress, prompts_sha256, run_task, versions
from featherweight.tasks.store import Store, locked
from featherweight.tasks.types import Task

USAGE = ("prompt_tokens", "completion_tokens", "seconds")


@dataclass(frozen=True, slots=True)
class Report:
    """A run's figures and cost; `failed` examples, by id with the reason, are in neither.

    `per_item` is what an item costs on average, in seconds, flops and usd as far as measured;
    `lost` is what each that failed in this part of the run took all the same.
    """

    results: Results
    cost: Cost
    per_item: Mapping[str, Estimate]
    failed: Mapping[str, str]
    lost: Mapping[str, Cost] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data: n, groups, missing, metrics, cost."""
        per_item = {k: {"mean": v.mean, "ci95": list(v.ci95)} for k, v in self.per_item.items()}
        return {
            **self.results.to_json(),
            "cost": as_json(self.cost),
            "cost_per_item": per_item,
        }


def evaluate(
    task: Task,
    engine: Engine,
    spec: str,
    folder: Path,
    *,
    price: Price | None = None,
    usd_per_hour: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    identify: Callable[[str], dict[str, Any]] = identity,
    top_logprobs: int = 0,
    no_repeat: int = 0,
) -> Report:
    """Run `engine`, opened from `spec`, over `task` in `folder`; what is there already is kept.

    `identify` says what `spec` stands for, in words that tell two runs apart. Rows keep
    `top_logprobs` alternatives' log-probabilities beside the tokens' own. `no_repeat` is that of
    the requests, which not every engine takes.

    Raises `OutputError` where another run holds the folder, or it holds another run, and
    `DataError` where nothing could be answered.
    """
    run = {
        "command": "eval",
        "task": task.name,
        "settings": dict(task.settings),
        "examples": len(task.examples),
        "max_tokens": task.max_tokens,
        "prompts_sha256": prompts_sha256(task),
        "model": {**identify(spec), "dtype": getattr(engine, "dtype", None)},
        **({"top_logprobs": top_logprobs} if top_logprobs else {}),
        **({"no_repeat": no_repeat} if no_repeat else {}),
    }
    with locked(folder):
        store = Store(folder, run)
        before = len(store.rows)
        try:
            outcome = run_task(task, engine, store, progress, top_logprobs, no_repeat)
        finally:
            store.close()
        rows = list(outcome.rows.values())
        found = results(task, outcome, seed)
        counted = partial(
            cost,
            params=engine.params,
            attention_width=engine.attention_width,
            price=price,
            usd_per_hour=usd_per_hour,
        )
        spent = counted(
            [_usage(row) for row in rows],
            seconds_total=sum(row["wall"] for row in rows),
            peak_rss_bytes=_peak(store, "peak_rss_bytes", peak_rss()),
            peak_vram_bytes=_peak(store, "peak_vram_bytes", peak_vram()),
        )
        lost = {
            # of what failed nobody counts more tokens than those told, which may be none
            id: counted([Usage(*(row[k] for k in USAGE))], seconds_total=row["wall"])
            for id, row in outcome.lost.items()
        }
        per_item = _per_item(task, outcome, spent, seed)
        report = Report(found, spent, per_item, outcome.failed, lost)
        # a run may be made in several parts, by several versions
        parts = list(store.manifest.get("parts", []))
        if answered := len(outcome.rows) - before:
            ended = datetime.now(UTC).isoformat(timespec="seconds")
            parts.append({"answered": answered, "ended": ended, "versions": versions()})
        store.write_manifest({"run": run, "parts": parts, "seed": seed, **report.to_json()})
    return report


def _per_item(task: Task, outcome: Outcome, spent: Cost, seed: int) -> dict[str, Estimate]:
    """Mean cost of an item with its interval, groups drawn whole as for quality."""
    group = {example.id: example.group or example.id for example in task.examples}
    groups = [group.get(name, name) for name in outcome.rows]
    columns = {"seconds": spent.items.wall, "flops": spent.items.flops, "usd": spent.items.usd}
    return {
        name: estimates(column[:, None], groups, seed=seed)[0]
        for name, column in columns.items()
        if column is not None
    }


def _peak(store: Store, name: str, now: int | None) -> int | None:
    """The highest over the parts of a run."""
    earlier = store.manifest.get("cost", {}).get(name)
    return max(filter(None, (earlier, now)), default=None)


def _usage(row: Mapping[str, Any]) -> Usage:
    """An item's tokens; where a server tells none they are 0, which is no measurement."""
    return Usage(
        row.get("prompt_tokens") or None,
        row.get("completion_tokens", 0) if row.get("prompt_tokens") else None,
        row.get("seconds"),
    )
