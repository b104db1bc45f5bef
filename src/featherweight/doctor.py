"""What works on this machine, what is missing, how to get it."""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from featherweight.engines import embedded
from featherweight.engines.llama_cpp import usable_cores
from featherweight.errors import EngineError


@dataclass(frozen=True, slots=True)
class Check:
    """`good` is None where the thing is optional and missing."""

    name: str
    good: bool | None
    found: str
    remedy: str = ""


def checks() -> list[Check]:
    """Look, without loading a model or touching the network."""
    version = ".".join(map(str, sys.version_info[:3]))
    return [
        Check("Python", sys.version_info >= (3, 11), version, "use Python 3.11 or newer"),
        _package("llama.cpp (runs GGUF models)", "xllamacpp", "local", needed=True),
        _embedded(),
        _fast_copy(),
        _package("transformers (hf: models)", "transformers", "train", needed=False),
        _package("PyTorch (hf: models)", "torch", "train", needed=False),
        Check("Cores", True, f"{usable_cores()} usable"),
        _memory(),
    ]


def ready(found: list[Check]) -> bool:
    """Whether `featherweight summarize` works with the embedded model."""
    return all(check.good is not False for check in found)


def _package(name: str, package: str, extra: str, needed: bool) -> Check:
    if importlib.util.find_spec(package) is None:
        remedy = f"pip install 'featherweight[{extra}]' -c constraints.txt"
        return Check(name, False if needed else None, "not installed", remedy)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return Check(name, True, f"{package} {importlib.metadata.version(package)}")
    return Check(name, True, f"{package}, of unknown version")


def _embedded() -> Check:
    name = f"Model {embedded.EMBEDDED}"
    try:
        intact = embedded.shipped_is_intact()
    except EngineError:
        return Check(name, False, "not installed", embedded.INSTALL_HINT)
    if not embedded.meetings_adapter().is_file():
        return Check(name, False, "its adapter is missing", "install featherweight again")
    if not intact:
        return Check(name, False, "damaged or of another version", embedded.INSTALL_HINT)
    return Check(name, True, "installed, intact")


def _fast_copy() -> Check:
    name = "Fast copy of the model"
    try:
        copy = embedded.fast_copy(embedded.shipped_model())
    except EngineError:
        return Check(name, None, "no model to copy")
    if copy.exists():
        return Check(name, True, f"{copy}")
    folder = embedded.cache_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        remedy = "set FEATHERWEIGHT_CACHE to a folder that you may write to"
        return Check(name, None, "the cache folder cannot be written: reading is slower", remedy)
    return Check(name, None, "made at the first use (a few seconds, 145 MB)")


def _memory() -> Check:
    try:
        # What programs can have, caches that give way included: "free" alone is nearly always low.
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    if found is None:
        return Check("Memory", True, "unknown")
    free = int(found[1]) / 2**20
    return Check("Memory", free > 1.0, f"{free:.1f} GiB free", "free at least 1 GiB")
