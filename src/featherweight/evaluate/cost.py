"""How dear: tokens, seconds, memory, operations and dollars of one run, measured or "not measured".

Nothing is guessed. A count that an engine does not tell stays `None` and is printed as "not
measured"; dollars come from a price table that carries its date, or from what the machine costs an
hour and the seconds that it ran. No prices are shipped: they would be wrong before long.

Every sum is also kept item by item, so that the bootstrap over groups (`statistics.estimates`) puts
an interval on cost as it does on quality.
"""

import contextlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.errors import DataError
from featherweight.evaluate.statistics import Floats

NOT_MEASURED = "not measured"


# ---- one item


@dataclass(frozen=True, slots=True)
class Usage:
    """What one item took. Tokens are `None` where nobody counted them; 0 means none at all.

    `seconds` are `None` where items are only timed together, as the texts of one batch are that an
    engine scores.
    """

    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None


# ---- operations


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating point operations; without `attention` that term is left out, as its width is not
    known, and the total is too low (by a tenth at 4,000 tokens for a model of 1B)."""

    total: float
    attention: bool


def flops(
    params: int | None,
    prompt_tokens: int,
    completion_tokens: int,
    attention_width: int | None,
) -> Flops | None:
    """Operations to read a prompt and write an answer; `None` where `params` is unknown.

    2 x parameters for each token (a multiplication and an addition for each weight: Kaplan et al.
    2020, "Scaling Laws for Neural Language Models", section 2.1), and for the token at position t
    4 x `attention_width` x (t + 1): query with key and weight with value, over what it can see
    (Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", appendix F, here
    causal). Keys and values are kept, so each of the n = prompt + completion tokens is read once:
    4 x width x n(n + 1)/2. `attention_width` is the engine's: sum over layers of heads x head size.

    As in Hoffmann et al., embeddings are counted with the parameters: right for the output matrix
    and for tied ones, too high by an untied input table, which is only looked up. Too high as well
    for a mixture of experts (all are counted) and for an encoder-decoder (a token passes one of
    the two stacks: up to twice). Softmax, norms and activations are left out, below a percent.
    """
    if params is None:
        return None
    n = prompt_tokens + completion_tokens
    dense = 2.0 * params * n
    if attention_width is None:
        return Flops(dense, False)
    return Flops(dense + 4.0 * attention_width * (n * (n + 1) // 2), True)


# ---- dollars


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens of one model, and the day when they were read."""

    prompt: float
    completion: float
    date: str


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by model name, as one source gave them on one day; `path` is where they were read."""

    date: str
    source: str
    models: Mapping[str, tuple[float, float]]
    path: Path

    def price(self, model: str) -> Price:
        """The price of `model`; raises `DataError`, naming what the table has, where it has none.

        Names are compared as they are: another version of a model has another price.
        """
        if model not in self.models:
            raise DataError(
                f"{self.path}: it has no price for {model!r}, only for "
                f"{', '.join(map(repr, self.models))}; add it under 'per_million_tokens'."
            )
        return Price(*self.models[model], self.date)


def read_prices(path: Path) -> PriceTable:
    """Read a price table from JSON:

        {"date": "2026-01-31", "currency": "USD", "source": "where the prices were read",
         "per_million_tokens": {"MODEL": {"prompt": 0.15, "completion": 0.6}}}

    Raises `DataError`, naming file and key, for anything missing, unknown or not sensible: a
    misread price would be silently wrong in every figure made from it.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot read {path}: {reason}; check the path.") from None
    except ValueError as error:
        raise DataError(f"{path}: no price table in JSON ({error}); correct the file.") from None
    keys = ("date", "currency", "source", "per_million_tokens")
    _check_keys(path, "the table", table, keys)
    day, currency, source, models = (table[key] for key in keys)
    try:
        if not (isinstance(day, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", day)):
            raise ValueError
        date.fromisoformat(day)
    except ValueError:
        raise DataError(f"{path}: 'date' is {day!r}, not a day as YYYY-MM-DD.") from None
    if currency != "USD":
        raise DataError(f"{path}: 'currency' is {currency!r}; only 'USD' is read, convert it.")
    if not isinstance(source, str) or not source.strip():
        raise DataError(f"{path}: 'source' is {source!r}; say where the prices were read.")
    if not isinstance(models, dict) or not models:
        raise DataError(f"{path}: 'per_million_tokens' holds no models; add MODEL: prices.")
    return PriceTable(day, source, {n: _prices(path, n, p) for n, p in models.items()}, path)


def _prices(path: Path, model: str, prices: Any) -> tuple[float, float]:
    where = f"'per_million_tokens' {model!r}"
    keys = ("prompt", "completion")
    _check_keys(path, where, prices, keys)
    for key in keys:
        value = prices[key]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise DataError(f"{path}: {where} {key!r} is {value!r}, not dollars; give a number.")
    return float(prices["prompt"]), float(prices["completion"])


def _check_keys(path: Path, where: str, found: Any, keys: Sequence[str]) -> None:
    if not isinstance(found, dict):
        raise DataError(f"{path}: {where} is no JSON object; give it {', '.join(map(repr, keys))}.")
    if missing := [key for key in keys if key not in found]:
        raise DataError(f"{path}: {where} has no {missing[0]!r}; add it.")
    if unknown := [key for key in found if key not in keys]:
        raise DataError(f"{path}: {where} has {unknown[0]!r}, which is not read; take it out.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} stands twice")
        found[key] = value
    return found


# ---- a run


@dataclass(frozen=True, slots=True)
class Items:
    """The same costs item by item, [n] each; `None` where any item's is not known.

    `seconds` is each item's own wall time (a latency), `wall` its share of the run's: where an
    engine batches, items overlap and the first adds up to more than the second.
    """

    seconds: Floats | None
    wall: Floats
    flops: Floats | None
    usd: Floats | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run of `n` items took. `None` is "not measured", never zero.

    `seconds_total` is the wall time of the run, `seconds_p50` and `seconds_p95` are over items.
    Without `flops_attention` the attention term is left out of `flops`. `usd_basis` says what the
    dollars rest on, date or rate included, and is always printed beside them.
    """

    n: int
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds_total: float
    seconds_p50: float | None
    seconds_p95: float | None
    peak_rss_bytes: int | None
    peak_vram_bytes: int | None
    params: int | None
    flops: float | None
    flops_attention: bool
    usd: float | None
    usd_basis: str | None
    items: Items = field(repr=False, compare=False)


def cost(
    usages: Iterable[Usage],
    *,
    seconds_total: float,
    params: int | None = None,
    attention_width: int | None = None,
    price: Price | None = None,
    usd_per_hour: float | None = None,
    peak_rss_bytes: int | None = None,
    peak_vram_bytes: int | None = None,
) -> Cost:
    """Add up a run; `seconds_total` is its wall time, model loading left out.

    With a `price` dollars are paid for tokens. With `usd_per_hour` the machine is paid for as long
    as the run took: `seconds_total` x rate / 3600, shared out to the items in proportion to their
    own seconds, or to their tokens where they were timed together. Their own seconds are not paid
    themselves, since a batching engine answers several items in the same second: their sum is up to
    batch-size times the wall time. Raises `ValueError` for no items, for both ways to pay at once,
    and for times that are no times.
    """
    found = list(usages)
    if not found:
        raise ValueError("a run without items has no cost")
    if price is not None and usd_per_hour is not None:
        raise ValueError("dollars come from a price or from an hourly rate, not from both")
    seconds = _column([item.seconds for item in found])
    times = np.array([seconds_total, *([] if seconds is None else seconds)])
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError("seconds are finite and not negative")
    if usd_per_hour is not None and not 0 <= usd_per_hour < math.inf:
        raise ValueError("dollars an hour are finite and not negative")
    prompts = _column([item.prompt_tokens for item in found])
    completions = _column([item.completion_tokens for item in found])
    weights = seconds
    if weights is None and prompts is not None and completions is not None:
        weights = prompts + completions
    if weights is None or not weights.sum():
        weights = np.ones(len(found))
    wall = seconds_total * weights / weights.sum()
    operations: Floats | None = None
    usd: Floats | None = None
    basis: str | None = None
    if prompts is not None and completions is not None:
        if params is not None:
            pairs = zip(prompts.tolist(), completions.tolist(), strict=True)
            each = (flops(params, int(p), int(c), attention_width) for p, c in pairs)
            operations = np.array([one.total for one in each if one is not None])
        if price is not None:
            usd = (prompts * price.prompt + completions * price.completion) / 1e6
            basis = f"prices of {price.date}"
    if usd_per_hour is not None:
        usd, basis = wall * usd_per_hour / 3600, f"${usd_per_hour:g} an hour x measured seconds"
    p50, p95 = (None, None) if seconds is None else map(float, np.percentile(seconds, [50, 95]))
    return Cost(
        n=len(found),
        prompt_tokens=None if prompts is None else int(prompts.sum()),
        completion_tokens=None if completions is None else int(completions.sum()),
        seconds_total=float(seconds_total),
        seconds_p50=p50,
        seconds_p95=p95,
        peak_rss_bytes=peak_rss_bytes,
        peak_vram_bytes=peak_vram_bytes,
        params=params,
        flops=None if operations is None else float(operations.sum()),
        flops_attention=operations is not None and attention_width is not None,
        usd=None if usd is None else float(usd.sum()),
        usd_basis=basis,
        items=Items(seconds, wall, operations, usd),
    )


def _column(counts: Sequence[float | None]) -> Floats | None:
    """Counts as an array, or `None` where one is missing: a sum of the rest would be too low."""
    known = [count for count in counts if count is not None]
    return np.array(known, dtype=np.float64) if len(known) == len(counts) else None


def as_json(cost: Cost) -> dict[str, Any]:
    """A run's cost for manifests: plain numbers, null where it was not measured, no items."""
    return {f.name: getattr(cost, f.name) for f in fields(cost) if f.name != "items"}


def described(cost: Cost) -> dict[str, str]:
    """A run's cost for people, label and text, dollars never without what they rest on."""
    operations = _text(cost.flops, lambda x: f"{x:.3g}")
    if cost.flops is not None and not cost.flops_attention:
        operations += " (attention left out: its width is not known)"
    return {
        "Items": f"{cost.n:,}",
        "Prompt tokens": _text(cost.prompt_tokens, "{:,}".format),
        "Completion tokens": _text(cost.completion_tokens, "{:,}".format),
        "Seconds, the run": f"{cost.seconds_total:,.1f}",
        "Latency in the batch, median s": _text(cost.seconds_p50, "{:.3g}".format),
        "Latency in the batch, 95 % s": _text(cost.seconds_p95, "{:.3g}".format),
        "Peak memory": _text(cost.peak_rss_bytes, _mebibytes),
        "Peak GPU memory": _text(cost.peak_vram_bytes, _mebibytes),
        "Parameters": _text(cost.params, "{:,}".format),
        "Operations (FLOPs)": operations,
        "US dollars": _text(cost.usd, lambda x: f"{x:.4g} ({cost.usd_basis})"),
    }


def _text(value: Any, form: Callable[[Any], str]) -> str:
    return NOT_MEASURED if value is None else form(value)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


# ---- memory


def peak_rss() -> int | None:
    """The most memory that this process held at once so far, in bytes; `None` on Windows.

    Model files that llama.cpp maps count as far as they were read. Other processes (a server) do
    not. Linux tells it as VmHWM; `ru_maxrss` is second choice, since there a child starts with the
    peak of the parent that made it. Its unit is KiB, on macOS bytes.
    """
    with contextlib.suppress(OSError):
        if told := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M):
            return int(told[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_vram() -> int | None:
    """The most GPU memory that torch's tensors took in this process, over all GPUs, in bytes.

    `None` where torch is not in use or has no GPU; torch is not imported for this. The context
    (some 500 MB a GPU) and what the allocator holds in reserve are not counted.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return sum(int(torch.cuda.max_memory_allocated(i)) for i in range(torch.cuda.device_count()))
