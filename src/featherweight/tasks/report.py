"""One run from beginning to end: answer, score, count the cost, write it down."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featherweight.engines.identity import identity
from featherweight.engines.types import Engine
from featherweight.evaluate.cost import Cost, Price, Usage, as_json, cost, peak_rss, peak_vram
from featherweight.tasks.results import Results, results
from featherweight.tasks.run import Progress, prompts_sha256, run_task, versions
from featherweight.tasks.store import Store, locked
from featherweight.tasks.types import Task


@dataclass(frozen=True, slots=True)
class Report:
    """A run's figures and cost; `failed` examples, by id with the reason, are in neither."""

    results: Results
    cost: Cost
    failed: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data: n, groups, missing, metrics, cost."""
        return {**self.results.to_json(), "cost": as_json(self.cost)}


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
) -> Report:
    """Run `engine`, opened from `spec`, over `task` in `folder`; what is there already is kept.

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
        "model": {**identity(spec), "dtype": getattr(engine, "dtype", None)},
    }
    with locked(folder):
        store = Store(folder, run)
        try:
            outcome = run_task(task, engine, store, progress)
        finally:
            store.close()
        rows = list(outcome.rows.values())
        found = results(task, outcome, seed)
        spent = cost(
            [_usage(row) for row in rows],
            seconds_total=sum(row["wall"] for row in rows),
            params=engine.params,
            attention_width=engine.attention_width,
            price=price,
            usd_per_hour=usd_per_hour,
            peak_rss_bytes=peak_rss(),
            peak_vram_bytes=peak_vram(),
        )
        report = Report(found, spent, outcome.failed)
        store.write_manifest(
            {
                "run": run,
                "versions": versions(),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seed": seed,
                **report.to_json(),
            }
        )
    return report


def _usage(row: Mapping[str, Any]) -> Usage:
    """An item's tokens; where a server tells none they are 0, which is no measurement."""
    return Usage(
        row.get("prompt_tokens") or None,
        row.get("completion_tokens", 0) if row.get("prompt_tokens") else None,
        row.get("seconds"),
    )
