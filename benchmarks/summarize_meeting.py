"""How fast is a meeting read and summarised, beside the peers, on this machine?

    python benchmarks/summarize_meeting.py --peers PYTHON [--repeats 3] [--output FILE.json]

`--peers` is the Python of an environment with `llama-cpp-python`, `transformers` and `torch` (the
project's own environment does for the last two). The same requests go to every contestant, each in
its own process, in turn (A B C A B C ...), because shared machines drift: compare ratios of one
round, not seconds of two. What is timed:

- `command`: the whole `featherweight summarize` process, from exec to exit.
- `ours`: our llama.cpp engine on the requests that the command makes (8 slots, batched).
- `llama-cpp-python`: its own high-level API, one request after another, prompt cache on.
- `transformers`: the same weights, `generate`, one request after another, key-value cache reused
  for the requests that share an excerpt.

Each of the middle two runs with the same file (the shipped Q4_1), then with its own best file.
Weights for transformers are dequantised from the shipped file, bf16 where the processor has it.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEETING = ROOT / "examples/meetings/education-committee.txt"


# -- workers: each prints one JSON object --------------------------------------------------------


def figures(started: float, loaded: float, first: float, prompt: int, written: int) -> None:
    ended = time.perf_counter()
    own = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "load_seconds": loaded - started,
                "first_token_seconds": first - started,
                "seconds": ended - loaded,
                "prompt_tokens_read": prompt,
                "tokens_written": written,
                "tokens_per_second": (prompt + written) / (ended - loaded),
                "cpu_seconds": own.ru_utime + own.ru_stime,
                "peak_mib": peak_mib(),
            }
        ),
        flush=True,
    )
    os._exit(0)


def peak_mib() -> float:
    """From the kernel's own mark, since ru_maxrss starts at what the parent held when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1]) / 1024


def work_ours(file: str, requests: list[dict[str, Any]]) -> None:
    started = time.perf_counter()
    from featherweight.engines.llama_cpp import LlamaCppEngine
    from featherweight.engines.types import Request

    engine = LlamaCppEngine(Path(file), name="bench", parallel=8, context_length=2048)
    loaded = time.perf_counter()
    first, read, written, last = 0.0, 0, 0, -1
    asked = [
        Request(r["prompt"], max_tokens=r["max_tokens"], stop=tuple(r["stop"])) for r in requests
    ]
    for item, answer in zip(requests, engine.generate(asked), strict=True):
        first = first or time.perf_counter()
        assert not answer.error, answer.error
        # An excerpt is read once; its further questions only add their own words.
        read += answer.prompt_tokens if item["part"] != last else 0
        last = item["part"]
        written += answer.completion_tokens
    figures(started, loaded, first, read, written)


def work_llama_cpp_python(file: str, requests: list[dict[str, Any]]) -> None:
    started = time.perf_counter()
    from llama_cpp import Llama

    model = Llama(file, n_ctx=4096, n_threads=cores(), n_threads_batch=cores(), verbose=False)
    loaded = time.perf_counter()
    first, read, written, last = 0.0, 0, 0, -1
    for item in requests:
        answer = model.create_completion(
            item["prompt"], max_tokens=item["max_tokens"], stop=item["stop"], temperature=0.0
        )
        first = first or time.perf_counter()
        read += answer["usage"]["prompt_tokens"] if item["part"] != last else 0
        last = item["part"]
        written += answer["usage"]["completion_tokens"]
    figures(started, loaded, first, read, written)


def work_transformers(folder: str, requests: list[dict[str, Any]]) -> None:
    started = time.perf_counter()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

    bf16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16 if bf16 else torch.float32
    ).eval()
    loaded = time.perf_counter()
    first, read, written, last = 0.0, 0, 0, -1
    cache, seen = DynamicCache(), torch.zeros(0, dtype=torch.long)
    for item in requests:
        tokens = tokenizer(item["prompt"], return_tensors="pt", add_special_tokens=False).input_ids
        if item["part"] != last:
            cache = DynamicCache()
        else:
            same = int((tokens[0, : len(seen)] == seen[: tokens.shape[1]]).long().cumprod(0).sum())
            cache.crop(same - cache.get_seq_length())
        with torch.inference_mode():
            answer = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                past_key_values=cache,
                max_new_tokens=item["max_tokens"],
                do_sample=False,
                stop_strings=item["stop"],
                tokenizer=tokenizer,
            )
        first = first or time.perf_counter()
        read += tokens.shape[1] if item["part"] != last else 0
        last, seen = item["part"], tokens[0]
        written += answer.shape[1] - tokens.shape[1]
    figures(started, loaded, first, read, written)


def work_first_token(file: str) -> None:
    """From the start of the process to the first token of a short streamed answer."""
    from featherweight.engines import Message, Request, load_engine

    engine = load_engine(file)
    request = Request([Message(role="user", content="Say hello.")], max_tokens=4)
    next(iter(engine.stream(request)))
    print(json.dumps({"ready": time.time()}), flush=True)
    engine.close()


WORKERS = {
    "ours": work_ours,
    "llama-cpp-python": work_llama_cpp_python,
    "transformers": work_transformers,
}


# -- driver ----------------------------------------------------------------------------------------


def cores() -> int:
    return len(os.sched_getaffinity(0))


def collect_requests() -> list[dict[str, Any]]:
    """The requests that the command makes for the meeting, as raw prompts, numbered by part."""
    from featherweight.engines import load_engine
    from featherweight.retrieve import BM25Locator
    from featherweight.summarize import strategies
    from featherweight.summarize.chunks import cut
    from featherweight.transcript import clean, read_transcript

    engine: Any = load_engine()
    job = strategies.Job(
        transcript=clean(read_transcript(MEETING)),
        engine=engine,
        query=None,
        length="medium",
        focus=None,
        progress=lambda *_: None,
        locator=BM25Locator(),
    )
    found = []
    for part, chunk in enumerate(cut(job.transcript, strategies._fits(job), by_topic=True)):
        for request, _ in strategies._ask(job, chunk):
            body = {"messages": request.prompt}
            prompt = engine._ask("/apply-template", body)["prompt"]
            found.append(
                {
                    "part": part,
                    "prompt": prompt,
                    "max_tokens": request.max_tokens,
                    "stop": list(request.stop),
                }
            )
    engine.close()
    return found


def run(python: str, worker: str, file: str, requests: Path) -> dict[str, Any]:
    command = [python, __file__, "--worker", worker, "--file", file, "--requests", str(requests)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, env=env)
    if done.returncode:
        sys.exit(f"{worker} failed:\n{done.stderr.decode()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_command() -> dict[str, Any]:
    command = [sys.executable, "-m", "featherweight.cli", "summarize", str(MEETING)]
    command += ["--model", "smollm2-135m"]  # the requests that the others get
    started = time.perf_counter()
    with subprocess.Popen([*command, "--format", "json"], stdout=subprocess.PIPE) as process:
        assert process.stdout
        summary = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "peak_mib": usage.ru_maxrss / 1024,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "supported_points": sum(point["supported"] for point in summary["points"]),
        "points": len(summary["points"]),
    }


def run_first_token() -> dict[str, Any]:
    started = time.time()
    command = [sys.executable, __file__, "--worker", "first-token", "--file", "smollm2-135m"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return {"seconds": json.loads(done.stdout.splitlines()[-1])["ready"] - started}


def run_help() -> dict[str, Any]:
    started = time.perf_counter()
    command = [sys.executable, "-m", "featherweight.cli", "--help"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return {"seconds": time.perf_counter() - started}


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text()
    model = next(line.split(":")[1].strip() for line in info.splitlines() if "model name" in line)
    flags = next(line for line in info.splitlines() if line.startswith("flags"))
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
    return {
        "processor": model,
        "cores": cores(),
        "flags": [flag for flag in wanted if flag in flags.split()],
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def versions(peers: str) -> dict[str, str]:
    names = ["xllamacpp", "llama_cpp_python", "transformers", "torch"]
    code = (
        "import importlib.metadata as m, json\n"
        "def version(name):\n"
        "    try: return m.version(name)\n"
        "    except m.PackageNotFoundError: return 'not installed'\n"
        f"print(json.dumps({{name: version(name) for name in {names!r}}}))"
    )
    theirs = json.loads(subprocess.run([peers, "-c", code], stdout=subprocess.PIPE).stdout)
    ours = json.loads(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout)
    return {name: ours[name] if name == "xllamacpp" else theirs[name] for name in names}


def median_of(rounds: list[dict[str, Any]]) -> dict[str, float]:
    return {key: round(statistics.median(r[key] for r in rounds), 3) for key in rounds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="Python with the peers installed")
    parser.add_argument(
        "--best",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a contestant's own best file, e.g. llama-cpp-python=model-bf16.gguf",
    )
    parser.add_argument("--transformers", metavar="DIR", help="the weights as safetensors")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker == "first-token":
        work_first_token(args.file)
        return
    if args.worker:
        WORKERS[args.worker](args.file, json.loads(args.requests.read_text()))
        return

    from featherweight.engines.embedded import embedded_model, shipped_model

    shipped, fast = str(shipped_model()), str(embedded_model())
    best = dict(item.split("=", 1) for item in args.best)
    contestants = [
        ("ours, same file", sys.executable, "ours", shipped),
        ("llama-cpp-python, same file", args.peers, "llama-cpp-python", shipped),
        ("ours, best file", sys.executable, "ours", best.get("ours", fast)),
    ]
    if "llama-cpp-python" in best:
        contestants.append(
            (
                "llama-cpp-python, best file",
                args.peers,
                "llama-cpp-python",
                best["llama-cpp-python"],
            )
        )
    if args.transformers:
        contestants.append(("transformers", args.peers, "transformers", args.transformers))
    rounds: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        requests = Path(folder) / "requests.json"
        requests.write_text(json.dumps(collect_requests()))
        for number in range(args.repeats):
            plan = [(name, lambda c=c: run(c[0], c[1], c[2], requests)) for name, *c in contestants]
            plan += [("command", run_command), ("first token", run_first_token), ("help", run_help)]
            for name, step in plan:
                load = os.getloadavg()[0]
                result = {**step(), "load_before": load}
                rounds.setdefault(name, []).append(result)
                print(f"{number + 1}/{args.repeats} {name}: {result['seconds']:.2f} s", flush=True)
    ratios = {}
    for name, other in (
        ("llama-cpp-python, same file", "ours, same file"),
        ("llama-cpp-python, same file", "ours, best file"),
        ("llama-cpp-python, best file", "ours, best file"),
        ("transformers", "ours, best file"),
    ):
        if name in rounds:
            pairs = zip(rounds[name], rounds[other], strict=True)
            each = [round(a["seconds"] / b["seconds"], 3) for a, b in pairs]
            ratios[f"{name} / {other}"] = {"median": statistics.median(each), "rounds": each}
    report = {
        "meeting": {"file": MEETING.name, "words": len(MEETING.read_text().split())},
        "machine": machine(),
        "versions": versions(args.peers),
        "files": {name: Path(file).name for name, _, _, file in contestants},
        "medians": {name: median_of(found) for name, found in rounds.items()},
        "ratios_of_seconds": ratios,
        "rounds": rounds,
    }
    print(json.dumps({k: report[k] for k in ("medians", "ratios_of_seconds")}, indent=1))
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
