"""Finished runs as points of quality against cost, with intervals on both axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from featherweight.errors import DataError
from featherweight.evaluate.tradeoff import System
from featherweight.tasks.store import MANIFEST

LESS_IS_BETTER = frozenset(
    {"words", "compression", "unparsed", "word_perplexity", "byte_perplexity", "bits_per_byte"}
    | {"token_perplexity"}
)
"""Metrics that are no quality as they stand: more is not better."""


@dataclass(frozen=True, slots=True)
class Systems:
    """Runs of one task on the same data: `n` examples in `groups`, and how many each run misses."""

    systems: list[System]
    n: int
    groups: int
    missing: list[int]


def systems(runs: Sequence[Path], quality: str, cost: str) -> Systems:
    """The runs in the folders `runs`: their metric `quality` against their `cost` for an item.

    `cost` is seconds (the item's share of the wall time), flops or usd; a run that did not measure
    it has none. Raises `DataError` for a folder that is no finished run, a metric that it lacks or
    of which less is better, and for runs of different tasks, splits or data.
    """
    if quality in LESS_IS_BETTER:
        raise DataError(f"of {quality} more is not better; choose another metric with --quality.")
    manifests = [_manifest(run) for run in runs]
    asked = [_asked(manifest) for manifest in manifests]
    for run, other in zip(runs, asked, strict=True):
        if other != asked[0]:
            raise DataError(
                f"{run} and {runs[0]} are not runs of one task on the same data; compare like "
                "with like."
            )
    paths = [run.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise DataError("one run stands twice; name each folder once.")
    names = [path.name for path in paths]
    for depth in range(2, max(len(path.parts) for path in paths) + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(path.parts[-depth:]) for path in paths]
    found = [
        _system(name, run, manifest, quality, cost)
        for name, run, manifest in zip(names, runs, manifests, strict=True)
    ]
    return Systems(
        found,
        max(manifest["n"] for manifest in manifests),
        max(manifest["groups"] for manifest in manifests),
        [manifest["missing"] for manifest in manifests],
    )


def _manifest(run: Path) -> Mapping[str, Any]:
    path = run / MANIFEST
    try:
        manifest = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}); name a folder of eval.") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("run"), dict):
        raise DataError(f"{path} is no manifest of eval; name a folder of eval.")
    if not all(isinstance(manifest.get(key), dict) for key in ("metrics", "cost_per_item")):
        raise DataError(f"{path}: the run is not finished; finish it with eval.")
    return manifest


def _asked(manifest: Mapping[str, Any]) -> list[Any]:
    """What makes two runs comparable: the same questions, whatever was read to answer them."""
    run = manifest["run"]
    settings = run.get("settings", {})
    data = settings.get("data_sha256", settings.get("sha256"))
    return [run.get("task"), run.get("examples"), settings.get("split"), data]


def _system(name: str, run: Path, manifest: Mapping[str, Any], quality: str, cost: str) -> System:
    metrics = manifest["metrics"]
    if quality not in metrics:
        raise DataError(
            f"{run}: it has no metric {quality!r}; choose {', '.join(metrics)} with --quality."
        )
    found, spent = metrics[quality], manifest["cost_per_item"].get(cost)
    sure = manifest["groups"] > 1  # over one group there is no interval
    return System(
        name=name,
        quality=found["mean"],
        quality_ci95=(found["ci95"][0], found["ci95"][1]) if sure else None,
        cost=None if spent is None else spent["mean"],
        cost_ci95=None if spent is None or not sure else (spent["ci95"][0], spent["ci95"][1]),
    )
