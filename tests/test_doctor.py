"""What is missing is named, with what to do."""

from pathlib import Path

import pytest

from featherweight import doctor
from featherweight.errors import EngineError


def found() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.checks()}


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    checks = found()
    assert checks["llama.cpp (runs GGUF models)"].good is False
    assert "featherweight[local]" in checks["llama.cpp (runs GGUF models)"].remedy
    assert checks["PyTorch (hf: models)"].good is None
    assert not doctor.ready(list(checks.values()))


def test_a_package_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("featherweight.engines.embedded.shipped_model", no_model)
    assert found()["PyTorch (hf: models)"].found == "torch, of unknown version"


def no_model() -> Path:
    raise EngineError("missing")


def test_a_missing_and_a_damaged_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("featherweight.engines.embedded.shipped_model", no_model)
    checks = found()
    assert checks["Model smollm2-135m"].found == "not installed"
    assert "pip install" in checks["Model smollm2-135m"].remedy
    damaged = tmp_path / "m.gguf"
    damaged.write_bytes(b"GGUF")
    monkeypatch.setattr("featherweight.engines.embedded.shipped_model", lambda: damaged)
    assert found()["Model smollm2-135m"].found.startswith("damaged")


def test_memory_counts_what_caches_would_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, good, says in (
        ("MemFree: 10 kB\nMemAvailable:    4194304 kB\n", True, "4.0 GiB free"),
        ("MemFree: 9999999 kB\nMemAvailable: 524288 kB\n", False, "0.5 GiB free"),
        ("", True, "unknown"),
    ):
        monkeypatch.setattr(Path, "read_text", lambda self, text=text: text)
        check = doctor._memory()
        assert (check.good, check.found) == (good, says)


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    monkeypatch.setattr("featherweight.engines.embedded.shipped_model", lambda: model)
    monkeypatch.setenv("FEATHERWEIGHT_CACHE", "/proc/nowhere")
    monkeypatch.setattr("os.access", lambda *_: False)
    check = found()["Fast copy of the model"]
    assert check.good is None and "FEATHERWEIGHT_CACHE" in check.remedy
