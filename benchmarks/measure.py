"""What the distillation benchmarks share: seconds, peak memory, the machine's row, rounds."""

import ctypes
import datetime
import gc
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

import torch

PEERS = ("trl", "liger_kernel", "transformers", "peft")
FIGURES = ("cpu_seconds", "wall_seconds", "peak_bytes", "tokens_per_second")


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class Meter:
    """Seconds inside `with`, and how far memory grew above what it was when this was made.

    On a CPU memory is the process's resident size (Linux keeps its high-water mark, which
    `reset` lowers to what is held now); on CUDA it is what torch has allocated.
    """

    def __init__(self) -> None:
        _tidy()
        self._base = torch.cuda.memory_allocated() if device() == "cuda" else _status("VmRSS")

    def reset(self) -> None:
        """Forget the peak so far: loading a model may take more than using it."""
        _tidy()
        if device() == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def __enter__(self) -> "Meter":
        _wait()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        _wait()
        self.wall = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu

    @property
    def peak(self) -> int:
        top = torch.cuda.max_memory_allocated() if device() == "cuda" else _status("VmHWM")
        return max(0, top - self._base)


def _tidy() -> None:
    """Give back what is free, or what is taken next hides in it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _wait() -> None:
    if device() == "cuda":
        torch.cuda.synchronize()


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def machine(**more: object) -> dict:
    """The first row of a result: what it was measured on, and when."""
    cores = len(os.sched_getaffinity(0))
    row = {
        "machine": torch.cuda.get_device_name() if device() == "cuda" else _processor(),
        "cuda": device() == "cuda",
        "cores_used": cores,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in PEERS:
        row[name] = installed(name)
    row["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    row["load"] = round(os.getloadavg()[0], 1)
    return row | more


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "?")
    flags = next((x.split(":")[1].split() for x in lines if x.startswith("flags")), [])
    wide = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    return f"{name} ({', '.join(wide)})"


def rounds_of(
    jobs: Sequence[tuple[str, str]],
    rounds: int,
    run: Callable[[str, str], dict],
    preload: Sequence[str],
) -> list[dict]:
    """`run` of every job once a round, each in a process of its own; the median of each figure.

    Processes are forked from one that has imported the modules `preload`, and nothing else done.
    The order turns round every time, so that a machine that slows down is fair to all.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    found: dict[tuple[str, str], list[dict]] = {job: [] for job in jobs}
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for number in range(rounds):
            for job in jobs if number % 2 == 0 else list(reversed(jobs)):
                row = pool.submit(run, *job).result()
                found[job].append(row)
                told = f"{row['cpu_seconds']:.2f} s, {row['peak_bytes'] / 2**20:.0f} MiB"
                name = f"round {number + 1}, {job[0]}, {job[1]}"
                print(f"{name}: {told}", file=sys.stderr, flush=True)
    rows = []
    for (case, impl), runs in found.items():
        row = {"case": case, "impl": impl} | runs[0]
        for key in FIGURES:
            if key in row:
                middle = statistics.median(run[key] for run in runs)
                row[key] = int(middle) if key == "peak_bytes" else round(middle, 4)
        rows.append(row)
    return rows


def write(rows: Sequence[dict], path: Path) -> None:
    """One row a line."""
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(" " + json.dumps(row) for row in rows)
    path.write_text(f"[\n{lines}\n]\n")
