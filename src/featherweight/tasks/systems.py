"""Finished runs as points of quality against cost, with intervals on both axes."""

from pathlib import Path

import orjson

from featherweight.errors import DataError
from featherweight.evaluate.tradeoff import System
from featherweight.tasks.store import MANIFEST


def system(run: Path, quality: str, cost: str) -> System:
    """The run in folder `run`: its metric `quality` against its `cost` for an item.

    `cost` is seconds (the item's share of the wall time), flops or usd; a run that did not measure
    it has none. Raises `DataError` for a folder that is no finished run, or without the metric.
    """
    path = run / MANIFEST
    try:
        manifest = orjson.loads(path.read_bytes())
        metrics, costs = manifest["metrics"], manifest["cost_per_item"]
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}); name a folder of eval.") from None
    except (KeyError, TypeError):
        raise DataError(f"{path}: the run is not finished; finish it with eval.") from None
    if quality not in metrics:
        raise DataError(
            f"{run}: it has no metric {quality!r}; choose {', '.join(metrics)} with --quality."
        )
    found, spent = metrics[quality], costs.get(cost)
    return System(
        name=run.resolve().name,
        quality=found["mean"],
        quality_ci95=(found["ci95"][0], found["ci95"][1]),
        cost=None if spent is None else spent["mean"],
        cost_ci95=None if spent is None else (spent["ci95"][0], spent["ci95"][1]),
    )
