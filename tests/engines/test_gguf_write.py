"""GGUF files: every type read back, nothing that does not fit."""

from pathlib import Path
from typing import Any

import pytest

gguf = pytest.importorskip("gguf")
np = pytest.importorskip("numpy")

from featherweight.engines.gguf_write import (  # noqa: E402
    Field,
    Tensor,
    check_values,
    field,
    fields_of,
    kind_of,
    write_gguf,
)

WEIGHTS = np.random.default_rng(1).normal(size=(48, 64)).astype(np.float32)


def written(path: Path, kind: str, fields: dict[str, Field] | None = None) -> Any:
    tensors = [
        Tensor("matrix", (48, 64), kind_of((48, 64), kind), lambda: WEIGHTS),
        Tensor("turned", (64, 48), kind_of((64, 48), kind), lambda: WEIGHTS.T),
        Tensor("vector", (64,), kind_of((64,), kind), lambda: WEIGHTS[0]),
    ]
    write_gguf(path, "llama", fields or {}, tensors, kind)
    return gguf.GGUFReader(path)


@pytest.mark.parametrize(
    ("kind", "error", "file_type"),
    [("F32", 0, 0), ("F16", 2**-11, 1), ("BF16", 2**-8, 32), ("Q8_0", 4 / 254, 7)],
)
def test_every_type(tmp_path: Path, kind: str, error: float, file_type: int) -> None:
    reader = written(tmp_path / "a.gguf", kind)
    found = {one.name: one for one in reader.tensors}
    turned = "F16" if kind == "Q8_0" else kind  # rows of 48 are no whole blocks of 32
    kinds = {name: one.tensor_type.name for name, one in found.items()}
    assert kinds == {"matrix": kind, "turned": turned, "vector": "F32"}
    for name, wanted in (("matrix", WEIGHTS), ("turned", WEIGHTS.T), ("vector", WEIGHTS[0])):
        values = gguf.quants.dequantize(found[name].data, found[name].tensor_type)
        assert values.shape == wanted.shape
        assert np.abs(values - wanted).max() <= error * max(1, np.abs(wanted).max())
    assert reader.fields["general.file_type"].contents() == file_type


def test_fields_come_back_as_they_went_in(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "a.flag": True,
        "a.count": 7,
        "a.share": 0.5,
        "a.text": "é\n",
        "a.texts": ["a", "Ġb", "🎉"],
        "a.numbers": [1, -2, 3],
    }
    fields = {name: field(value) for name, value in values.items()}
    reader = written(tmp_path / "a.gguf", "F16", fields)
    again = fields_of(reader)
    assert {name: one.value for name, one in again.items()} == values
    assert {name: (one.kind, one.of) for name, one in again.items()} == {
        name: (one.kind, one.of) for name, one in fields.items()
    }
    assert reader.fields["general.architecture"].contents() == "llama"


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("F16", 65520.0, "too large for F16"),
        ("F16", -1e6, "too large for F16"),
        ("Q8_0", 1e7, "too large for Q8_0"),
        ("BF16", np.nan, "not finite"),
        ("F32", -np.inf, "not finite"),
    ],
)
def test_numbers_that_do_not_fit(kind: str, value: float, message: str) -> None:
    values = np.array([[0.0, value]], dtype=np.float32)
    with pytest.raises(ValueError, match=f"x holds .*{message}"):
        check_values("x", values, kind)
    check_values("x", np.array([65504.0]), kind)
    check_values("x", np.zeros((0, 4)), kind)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        written(Path("/dev/full"), "F16")
