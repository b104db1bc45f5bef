"""Costs against sums by hand, counted operations and the kernel's own figures."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import DataError
from featherweight.evaluate.cost import (
    NOT_MEASURED,
    Flops,
    Price,
    Usage,
    as_json,
    cost,
    described,
    flops,
    peak_rss,
    peak_vram,
    read_prices,
)
from featherweight.evaluate.statistics import estimates

PRICE = Price(0.5, 2.0, "2026-01-31")
SMALL = st.integers(0, 40)
TABLE: dict[str, Any] = {
    "date": "2026-01-31",
    "currency": "USD",
    "source": "the seller's page",
    "per_million_tokens": {
        "m": {"prompt": 0.5, "completion": 2},
        "free": dict.fromkeys(("prompt", "completion"), 0),
    },
}


# ---- operations


@given(st.integers(1, 10**12), SMALL, SMALL, st.integers(0, 10**6))
def test_flops_are_the_sum_over_tokens(params: int, prompt: int, completion: int, w: int) -> None:
    by_token = 0
    for position in range(prompt + completion):
        by_token += 2 * params
        for _seen in range(position + 1):
            by_token += 2 * w  # query with key
            by_token += 2 * w  # weight with value
    found = flops(params, prompt, completion, w)
    assert found is not None and found.attention
    assert math.isclose(found.total, by_token, rel_tol=1e-12)


def test_flops_without_what_they_need() -> None:
    assert flops(None, 10, 10, 64) is None
    found = flops(100, 10, 5, None)
    assert found is not None and not found.attention and found.total == 2 * 100 * 15


@pytest.mark.model
def test_flops_are_what_torch_counts() -> None:
    """Reading token by token, as a cache does; norms and the like are what may differ."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    from featherweight.engines.attention import width_of_config

    config = transformers.Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    model = transformers.Qwen3ForCausalLM(config).eval()
    length, cache = 20, None
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for token in range(length):
            out = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2)  # norms multiply no matrix
    assert flops(weights, 12, 8, width_of_config(config)) == Flops(counter.get_total_flops(), True)


@pytest.mark.model
def test_an_encoder_decoders_width_stands_for_its_three_attentions() -> None:
    """Never too low, and too high by no more than the answer's share of the tokens."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    from featherweight.engines.attention import width_of_config

    config = transformers.T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    for prompt, answer in [(60, 5), (20, 20), (5, 10)]:
        cache = None
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            encoded = model.encoder(torch.ones(1, prompt, dtype=torch.long))
            for _ in range(answer):
                out = model(
                    encoder_outputs=encoded,
                    decoder_input_ids=torch.zeros(1, 1, dtype=torch.long),
                    past_key_values=cache,
                    use_cache=True,
                )
                cache = out.past_key_values
        counted = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
        width, n = width_of_config(config) or 0, prompt + answer
        ours = flops(0, prompt, answer, width)
        assert ours is not None and counted < ours.total
        # as pairs without order: the + 1 of n(n + 1) is not the answer's
        assert (ours.total - 4 * width * n) * prompt / n <= counted


# ---- usage


# ---- a run


USAGES = [Usage(100, 10, 1.0), Usage(300, 30, 3.0), Usage(200, 0, 2.0)]


def test_a_run_paid_by_the_token() -> None:
    found = cost(USAGES, seconds_total=2.5, params=1000, attention_width=8, price=PRICE)
    assert (found.n, found.prompt_tokens, found.completion_tokens) == (3, 600, 40)
    assert found.usd == pytest.approx((600 * 0.5 + 40 * 2) / 1e6)
    assert found.usd_basis == "prices of 2026-01-31"
    singles = [flops(1000, u.prompt_tokens or 0, u.completion_tokens or 0, 8) for u in USAGES]
    assert found.flops == pytest.approx(sum(one.total for one in singles if one))
    assert found.flops_attention
    assert found.items.usd is not None and found.items.flops is not None
    assert found.items.usd.tolist() == pytest.approx([70e-6, 210e-6, 100e-6])
    assert found.items.flops.sum() == pytest.approx(found.flops)
    assert found.items.seconds.tolist() == [1, 3, 2]


def test_a_run_paid_by_the_hour_pays_for_the_wall_time_once() -> None:
    # three items that took 6 s of their own were answered together in 2.5 s
    found = cost(USAGES, seconds_total=2.5, usd_per_hour=3.6)
    assert found.usd == pytest.approx(2.5 * 3.6 / 3600)
    assert found.usd_basis == "$3.6 an hour x measured seconds"
    assert found.items.usd is not None
    assert found.items.usd.tolist() == pytest.approx(np.array([1, 3, 2]) / 6 * 2.5e-3)
    assert found.items.wall.sum() == pytest.approx(2.5)
    still = cost([replace(u, seconds=0.0) for u in USAGES], seconds_total=3.0, usd_per_hour=3600)
    assert still.items.usd is not None and still.items.usd.tolist() == [1, 1, 1]


def test_seconds_are_over_items() -> None:
    found = cost([Usage(1, 1, float(s)) for s in range(101)], seconds_total=7)
    assert (found.seconds_p50, found.seconds_p95, found.seconds_total) == (50, 95, 7)


def test_what_is_not_known_stays_unknown() -> None:
    untold = cost(
        [*USAGES, Usage(None, None, 1.0)],
        seconds_total=1,
        params=1000,
        attention_width=8,
        price=PRICE,
    )
    assert untold.prompt_tokens is None and untold.completion_tokens is None
    assert untold.flops is None and not untold.flops_attention
    assert untold.usd is None and untold.usd_basis is None
    assert untold.items.flops is None and untold.items.usd is None
    texts = described(untold)
    for label in ("Prompt tokens", "Completion tokens", "Operations (FLOPs)", "US dollars"):
        assert texts[label] == NOT_MEASURED
    assert texts["Peak memory"] == texts["Peak GPU memory"] == NOT_MEASURED
    half = cost([Usage(5, None, 1.0)], seconds_total=1, params=1000, price=PRICE)
    assert half.prompt_tokens == 5 and half.completion_tokens is half.flops is half.usd is None
    # seconds are always known, so a machine by the hour always has its dollars
    assert cost([Usage(None, None, 1.0)], seconds_total=1, usd_per_hour=1).usd is not None


def test_what_people_and_manifests_read() -> None:
    found = cost(
        USAGES,
        seconds_total=2.5,
        params=135_000_000,
        price=PRICE,
        peak_rss_bytes=300 * 2**20,
        peak_vram_bytes=0,
    )
    texts = described(found)
    assert texts["US dollars"] == "0.00038 (prices of 2026-01-31)"
    assert texts["Peak memory"] == "300 MiB" and texts["Peak GPU memory"] == "0 MiB"
    assert texts["Parameters"] == "135,000,000"
    assert texts["Operations (FLOPs)"] == "1.73e+11 (attention left out: its width is not known)"
    plain = json.loads(json.dumps(as_json(found)))
    assert plain["usd"] == found.usd and plain["params"] == 135_000_000 and "items" not in plain


def test_what_cannot_be_added_up() -> None:
    with pytest.raises(ValueError, match="without items"):
        cost([], seconds_total=1)
    with pytest.raises(ValueError, match="not from both"):
        cost(USAGES, seconds_total=1, price=PRICE, usd_per_hour=1)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="seconds"):
            cost(USAGES, seconds_total=bad)
        with pytest.raises(ValueError, match="seconds"):
            cost([Usage(1, 1, bad)], seconds_total=1)
        with pytest.raises(ValueError, match="dollars an hour"):
            cost(USAGES, seconds_total=1, usd_per_hour=bad)


def test_items_carry_an_interval_by_the_bootstrap_over_groups() -> None:
    found = cost([Usage(100 * g, 10, 1.0) for g in range(1, 9)], seconds_total=8, price=PRICE)
    assert found.items.usd is not None and found.usd is not None
    (estimate,) = estimates(found.items.usd[:, None], list("aabbccdd"), 200)
    assert estimate.mean == pytest.approx(found.usd / 8)
    assert estimate.ci95[0] < estimate.mean < estimate.ci95[1]


# ---- prices


def written(tmp_path: Path, table: Any) -> Path:
    path = tmp_path / "prices.json"
    path.write_text(table if isinstance(table, str) else json.dumps(table))
    return path


def test_a_price_table(tmp_path: Path) -> None:
    table = read_prices(written(tmp_path, TABLE))
    assert table.price("m") == PRICE
    assert table.price("free") == Price(0, 0, "2026-01-31")
    assert table.source == "the seller's page" and date.fromisoformat(table.date)
    with pytest.raises(DataError, match=r"prices\.json.*no price for 'M'.*'m', 'free'"):
        table.price("M")


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in TABLE.items() if k != key}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{", "no price table in JSON"),
        ("[]", "the table is no JSON object"),
        ('{"date": "2026-01-31", "date": "2026-02-01"}', "'date' stands twice"),
        (without("date"), "the table has no 'date'"),
        (without("currency"), "the table has no 'currency'"),
        (without("source"), "the table has no 'source'"),
        (without("per_million_tokens"), "the table has no 'per_million_tokens'"),
        (TABLE | {"per_thousand": {}}, "'per_thousand', which is not read"),
        (TABLE | {"date": "31.1.2026"}, "'date' is '31.1.2026'"),
        (TABLE | {"date": "20260131"}, "'date' is '20260131'"),
        (TABLE | {"date": "2026-02-30"}, "'date' is '2026-02-30'"),
        (TABLE | {"date": 2026}, "'date' is 2026"),
        (TABLE | {"currency": "EUR"}, "'currency' is 'EUR'"),
        (TABLE | {"source": " "}, "'source' is ' '"),
        (TABLE | {"per_million_tokens": {}}, "holds no models"),
        (TABLE | {"per_million_tokens": {"m": 1}}, "'per_million_tokens' 'm' is no JSON object"),
        (TABLE | {"per_million_tokens": {"m": {"prompt": 1}}}, "'m' has no 'completion'"),
        *(
            (
                TABLE | {"per_million_tokens": {"m": {"prompt": bad, "completion": 1}}},
                "'m' 'prompt' is ",
            )
            for bad in (-1, "1", None, True, math.nan, math.inf)
        ),
        (
            TABLE | {"per_million_tokens": {"m": {"prompt": 1, "completion": 1, "cached": 1}}},
            "'m' has 'cached', which is not read",
        ),
    ],
)
def test_a_table_that_would_mislead(tmp_path: Path, table: Any, message: str) -> None:
    path = written(tmp_path, table)
    with pytest.raises(DataError) as caught:
        read_prices(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*check the path"):
        read_prices(tmp_path / "none.json")


# ---- memory


def test_peak_memory_holds_what_was_once_held() -> None:
    """In a process of its own: a fresh peak, and 64 MiB that are given back."""
    code = (
        "from featherweight.evaluate.cost import peak_rss\n"
        "before = peak_rss()\n"
        "held = bytearray(b'x') * (64 << 20)\n"
        "del held\n"
        "print(before, peak_rss())\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if "None" in told.stdout:
        pytest.skip("this system does not tell")
    before, after = map(int, told.stdout.split())
    assert 5 << 20 < before < 1 << 30
    assert 60 << 20 < after - before < 80 << 20


def test_peak_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "Name: python")
    monkeypatch.setattr(sys, "platform", "darwin")
    in_bytes = peak_rss()
    monkeypatch.setattr(sys, "platform", "linux")
    in_kibibytes = peak_rss()
    assert in_bytes is not None and in_kibibytes is not None
    assert told <= in_bytes and told * 1024 <= in_kibibytes
    assert in_kibibytes / in_bytes == pytest.approx(1024, rel=0.1)


def test_gpu_memory_only_where_torch_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert peak_vram() is None and "torch" not in sys.modules
    state = {"available": False, "initialized": False}
    cuda = SimpleNamespace(
        is_available=lambda: state["available"],
        is_initialized=lambda: state["initialized"],
        device_count=lambda: 2,
        max_memory_allocated=lambda device: (3 << 30, 1 << 30)[device],
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
    assert peak_vram() is None
    state["available"] = True
    assert peak_vram() is None
    state["initialized"] = True
    assert peak_vram() == 4 << 30
