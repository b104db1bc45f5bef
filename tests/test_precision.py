"""Which precision pays on a device."""

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from featherweight import precision  # noqa: E402
from featherweight.engines.hf_open import choose_dtype  # noqa: E402


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    precision.bf16_pays.cache_clear()
    yield
    precision.bf16_pays.cache_clear()


@pytest.mark.parametrize(
    ("ratio", "dtype"), [(0.5, torch.float32), (1.0, torch.float32), (2.4, torch.bfloat16)]
)
def test_auto_is_what_is_faster(
    ratio: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "speed", lambda one, other: ratio)
    faster = "faster" if dtype == torch.bfloat16 else "no faster"
    told = f"this CPU multiplies bf16 {faster} than fp32"
    assert choose_dtype("auto", "cpu") == (dtype, told)


def test_it_is_measured_once() -> None:
    assert choose_dtype("auto", "cpu") == choose_dtype("auto", "cpu")
    assert precision.bf16_pays.cache_info().misses == 1


def test_the_best_round_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round sets up, and a busy machine slows some of the others."""
    took = [90, 90, 4, 2, 8, 1, 4, 9, 6, 2, 5, 3]  # fp32 and bf16 in turn
    ticks = iter(tick(took))
    monkeypatch.setattr(precision, "ROUNDS", 5)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(ticks))
    assert precision.speed(torch.float32, torch.bfloat16) == 4.0


def tick(took: list[int]) -> list[float]:
    """What the clock says: at each start, and at each end but the first round's."""
    found: list[float] = []
    for turn, seconds in enumerate(took):
        found.append(100.0 * turn)
        if turn >= 2:
            found.append(100.0 * turn + seconds)
    return found


def test_other_devices_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.bf16_pays("mps") == (False, "the safe choice on mps")
    for able, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        precision.bf16_pays.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able, **_: able)
        assert choose_dtype("auto", "cuda")[0] == dtype
