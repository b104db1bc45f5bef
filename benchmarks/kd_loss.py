"""One forward and backward of the distillation loss beside the peers': seconds and peak memory.

usage: kd_loss.py [--quick] [--json] [--rounds 3] [--only TEXT] [--bf16] [--table FILE]

The loss alone: final hidden states of student and teacher in, gradient of the student's out. The
student's head is frozen, as in NEO (LoRA). The same numbers go to everybody, and loss and |grad|
must come out alike (1e-4 in float32, 2e-2 in bfloat16), or the script stops.

| impl | what it is |
| --- | --- |
| naive | log-softmax of all positions' logits in autograd, masked afterwards: most trainers |
| trl | TRL's chunked divergence, the loss of its DistillationTrainer |
| liger | Liger's chunked JSD loss (beta 0 is forward KL), not compiled on a CPU |
| featherweight | `rows_loss` with the teacher's hidden states |
| featherweight-cached64 | `rows_loss` with the teacher's top 64 and tail: another loss, unchecked |

`half` and `eighth` of the positions are supervised, at random places. Every (case, impl) is a
process of its own, warmed up on a tiny problem; rounds alternate; medians. float32 on a CPU unless
`--bf16` (a LoRA's base is often stored so), bfloat16 on CUDA. The header's `gemm_floor` is the time
of the products that no exact method can do without: each student logit, each teacher logit, and
the gradient back, of supervised rows. `--quick` measures one case once, without that floor, and
writes no file.
"""

import argparse
import functools
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import measure
import torch
import torch.nn.functional as F
from torch import Tensor

SELF = Path(__file__)
RESULTS = SELF.parent / "results"
CHECKED = ("naive", "trl", "liger", "featherweight")
IMPLS = (*CHECKED, "featherweight-cached64")
FLOOR = "gemm_floor"
NEEDS = {"trl": "trl", "liger": "liger_kernel"}
MODULES = {"trl": "trl.trainer.distillation_trainer", "liger": "liger_kernel.chunked_loss"}
SHARES = {"all": 1.0, "half": 0.5, "eighth": 0.125}
SIZES = {49152: (576, 960, 512), 151936: (896, 1536, 256)}  # Hs, Ht, positions on a CPU
ON_CUDA = 2048  # positions there
REPEATS = 20  # of a call on CUDA, where one is milliseconds
BETA = {"forward_kl": 0.0, "jsd": 0.5}


@dataclass(frozen=True)
class Case:
    vocabulary: int
    divergence: str
    share: str

    @classmethod
    def of(cls, name: str) -> "Case":
        vocabulary, divergence, share = name.split()
        return cls(int(vocabulary[1:]), divergence, share)

    def __str__(self) -> str:
        return f"v{self.vocabulary} {self.divergence} {self.share}"


@dataclass
class Inputs:
    """`hidden` [N, Hs] wants a gradient; `labels` [N] are -100 where nothing is supervised."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor
    beta: float


CASES = [Case(v, d, share) for v in SIZES for d in BETA for share in SHARES]
QUICK = [Case(49152, "forward_kl", "half")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 inputs on a CPU too")
    parser.add_argument("--table", type=Path, help="print tables of a result and stop")
    args = parser.parse_args()
    if args.table:
        print(tables(json.loads(args.table.read_text())))
        return
    cases = [case for case in (QUICK if args.quick else CASES) if args.only in str(case)]
    narrow = args.bf16 or measure.device() == "cuda"
    rounds = 1 if args.quick else args.rounds
    rows = benchmark(cases, rounds, "bfloat16" if narrow else "float32", floors=not args.quick)
    if not args.quick and not args.only:
        kind = "_cuda" if measure.device() == "cuda" else "_bf16" if narrow else ""
        measure.write(rows, RESULTS / f"kd_loss{kind}.json")
    print(json.dumps(rows, indent=1) if args.json else tables(rows))


def benchmark(cases: list[Case], rounds: int, dtype: str, floors: bool) -> list[dict]:
    """The machine's row, then one of each case and implementation."""
    here = [impl for impl in IMPLS if impl not in NEEDS or measure.installed(NEEDS[impl])]
    for impl in set(IMPLS) - set(here):
        print(f"{impl} is left out: {NEEDS[impl]} is not installed", file=sys.stderr)
    jobs = []
    for case in cases:
        fits = [i for i in here if i in CHECKED or case.divergence == "forward_kl"]
        jobs += [(str(case), impl) for impl in fits]
    if floors:  # the same for every divergence
        jobs += [(str(case), FLOOR) for case in cases if case.divergence == cases[0].divergence]
    preload = ["featherweight.distill.objective", *(MODULES[i] for i in here if i in NEEDS)]
    found = measure.rounds_of(jobs, rounds, functools.partial(run, dtype), preload)
    rows = [row for row in found if row["impl"] != FLOOR]
    check(rows, 1e-4 if dtype == "float32" else 2e-2)
    clock = ("cpu_seconds", "wall_seconds")
    floor = {
        " ".join(row["case"].split()[::2]): {key: row[key] for key in clock}
        for row in found
        if row["impl"] == FLOOR
    }
    sizes = {
        f"v{v}": {"Hs": hs, "Ht": ht, "positions": positions(v)} for v, (hs, ht, _) in SIZES.items()
    }
    header = measure.machine(rounds=rounds, dtype=dtype, sizes=sizes, gemm_floor=floor)
    return [header, *rows]


def check(rows: list[dict], tolerance: float) -> None:
    """Stop unless all implementations of a case found the same loss and gradient."""
    first: dict[str, dict] = {}
    for row in rows:
        if row["impl"] not in CHECKED:
            continue
        wanted = first.setdefault(row["case"], row)
        for key in ("loss", "grad_norm"):
            if not math.isclose(row[key], wanted[key], rel_tol=tolerance):
                raise SystemExit(
                    f"{row['case']}: {key} of {row['impl']} is {row[key]}, of {wanted['impl']} "
                    f"{wanted[key]}: they do not compute the same"
                )


# -- one process


def run(dtype: str, name: str, impl: str) -> dict:
    """Time one implementation on one case, in this process."""
    case = Case.of(name)
    hs, ht, _ = SIZES[case.vocabulary]
    if impl != FLOOR:
        small = made(64, 8, 12, 16, case, dtype)
        prepared(impl, small, case.divergence)().backward()  # threads, libraries, kernels
    inputs = made(case.vocabulary, hs, ht, positions(case.vocabulary), case, dtype)
    if impl == FLOOR:
        return floor(inputs)
    step = prepared(impl, inputs, case.divergence)
    repeats = 1 if measure.device() == "cpu" else REPEATS
    meter = measure.Meter()
    meter.reset()
    if dtype == "bfloat16":
        step().backward()  # kernels of these shapes are made and kept; this call's memory counts
    with meter:
        for _ in range(repeats):
            inputs.hidden.grad = None
            loss = step()
            loss.backward()
    return {
        "cpu_seconds": meter.cpu / repeats,
        "wall_seconds": meter.wall / repeats,
        "peak_bytes": meter.peak,
        "loss": loss.item(),
        "grad_norm": inputs.hidden.grad.float().norm().item(),
    }


def positions(vocabulary: int) -> int:
    return SIZES[vocabulary][2] if measure.device() == "cpu" else ON_CUDA


def made(v: int, hs: int, ht: int, n: int, case: Case, dtype: str) -> Inputs:
    """Random hidden states and heads of a fixed seed; logits have a deviation near 1."""
    seeded = torch.Generator().manual_seed(0)

    def random(rows: int, columns: int, deviation: float) -> Tensor:
        edge = deviation * math.sqrt(3)  # uniform: normal numbers take three times as long
        values = torch.empty(rows, columns).uniform_(-edge, edge, generator=seeded)
        return values.to(measure.device(), getattr(torch, dtype))

    hidden, teacher_hidden = random(n, hs, 0.5), random(n, ht, 0.5)
    weight, teacher_weight = random(v, hs, 0.08), random(v, ht, 0.08)
    labels = torch.randint(0, v, (n,), generator=seeded)
    labels[torch.randperm(n, generator=seeded)[: n - int(n * SHARES[case.share])]] = -100
    labels = labels.to(measure.device())
    beta = BETA[case.divergence]
    return Inputs(hidden.requires_grad_(), weight, teacher_hidden, teacher_weight, labels, beta)


def prepared(impl: str, x: Inputs, divergence: str) -> Callable[[], Tensor]:
    """The loss as a function; what a real run has beforehand (imports, the cache) is done."""
    if impl == "naive":
        return lambda: naive(x)
    if impl == "trl":
        from trl.trainer.distillation_trainer import _chunked_divergence_loss

        heads = (x.weight, x.teacher_weight)
        mask = (x.labels != -100).long()[None]
        return lambda: _chunked_divergence_loss(
            x.hidden[None], x.teacher_hidden[None], *heads, mask, x.beta
        )[0]
    if impl == "liger":
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        compiled = measure.device() == "cuda"
        loss = LigerFusedLinearJSDLoss(0.0, 1.0, beta=x.beta, compiled=compiled)
        return lambda: loss(x.hidden, x.weight, x.teacher_hidden, x.teacher_weight, x.labels)
    return ours(x, divergence, cached=impl == "featherweight-cached64")


def naive(x: Inputs) -> Tensor:
    """Generalised JSD as it is written down."""
    s = F.log_softmax((x.hidden @ x.weight.t()).float(), -1)
    with torch.no_grad():
        t = F.log_softmax((x.teacher_hidden @ x.teacher_weight.t()).float(), -1)
    if x.beta == 0:
        found = F.kl_div(s, t, reduction="none", log_target=True)
    else:
        m = torch.logaddexp(s + math.log(1 - x.beta), t + math.log(x.beta))
        found = x.beta * F.kl_div(m, t, reduction="none", log_target=True)
        found = found + (1 - x.beta) * F.kl_div(m, s, reduction="none", log_target=True)
    mask = x.labels != -100
    return found[mask].sum() / mask.sum()


def ours(x: Inputs, divergence: str, cached: bool) -> Callable[[], Tensor]:
    """`rows_loss`, with the choice of supervised rows that `Learner` makes before it."""
    from featherweight.distill.head import Head
    from featherweight.distill.objective import Hidden, Objective, TopK, rows_loss

    objective = Objective(kd_weight=1.0, divergence=divergence, mix=x.beta or None)
    head, theirs = Head(x.weight), Head(x.teacher_weight)
    top = TopK(*top64(x)) if cached else None
    if cached:
        theirs = x.teacher_weight = x.teacher_hidden = None  # a cache needs no teacher

    def loss() -> Tensor:
        rows = (x.labels != -100).nonzero()[:, 0]
        teacher = top or Hidden(x.teacher_hidden[rows], theirs)
        scale = 1.0 / len(rows)
        return rows_loss(objective, x.hidden[rows], head, x.labels[rows], scale, teacher).loss

    return loss


def top64(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, log-probabilities and tail of supervised rows, stored as `featherweight teach` does."""
    parts = []
    for h in x.teacher_hidden[x.labels != -100].split(32):
        values, ids = F.log_softmax((h @ x.teacher_weight.t()).float(), -1).topk(
            min(64, len(x.teacher_weight) - 1)
        )
        kept = values.half()
        parts.append((ids, kept, (1 - kept.float().exp().sum(1)).clamp(min=0)))
    ids, kept, tail = (torch.cat(column) for column in zip(*parts, strict=True))
    return ids, kept, tail


def floor(x: Inputs) -> dict:
    """Three plain products of supervised rows, in a row chunk that suits the processor."""
    rows = (x.labels != -100).nonzero()[:, 0]
    h, t = x.hidden.detach()[rows], x.teacher_hidden[rows]
    repeats = 1 if measure.device() == "cpu" else REPEATS
    step = 128 if measure.device() == "cpu" else len(rows)
    out = torch.empty(step, len(x.weight), device=h.device, dtype=h.dtype)
    torch.mm(h[:step], x.weight.t(), out=out[: len(h[:step])])
    meter = measure.Meter()
    meter.reset()
    with meter:
        for _ in range(repeats):
            for a, b in zip(h.split(step), t.split(step), strict=True):
                z = out[: len(a)]
                torch.mm(b, x.teacher_weight.t(), out=z)
                torch.mm(a, x.weight.t(), out=z)
                z @ x.weight
    seconds = (meter.cpu / repeats, meter.wall / repeats)
    return dict(zip(("cpu_seconds", "wall_seconds"), seconds, strict=True)) | {
        "peak_bytes": meter.peak
    }


# -- tables


def tables(rows: list[dict]) -> str:
    """CPU seconds (wall on CUDA) and MiB of every case, and the ratios that the aims are about."""
    header, found = rows[0], {(r["case"], r["impl"]): r for r in rows[1:]}
    clock = "wall_seconds" if header["cuda"] else "cpu_seconds"
    cases = list(dict.fromkeys(case for case, _ in found))
    impls = [impl for impl in IMPLS if any((case, impl) in found for case in cases)]
    lines = [f"| case | {' | '.join(impls)} | products alone |", "| --- " * (len(impls) + 2) + "|"]
    for case in cases:
        cells = []
        for impl in impls:
            row = found.get((case, impl))
            cells.append(f"{row[clock]:.2f} / {row['peak_bytes'] / 2**20:.0f}" if row else "-")
        floor = header["gemm_floor"].get(" ".join(case.split()[::2]))
        lines.append(
            f"| {case} | {' | '.join(cells)} | {f'{floor[clock]:.2f}' if floor else '-'} |"
        )
    lines += [
        "",
        "| case | best peer / ours, s | ours / best peer, memory | naive / ours, s |"
        " trl / ours, s | trl / cached64, s |",
        "| --- " * 6 + "|",
    ]
    for case in cases:
        ours, cached = (found.get((case, i)) for i in ("featherweight", "featherweight-cached64"))
        peers = [found[case, i] for i in ("naive", "trl", "liger") if (case, i) in found]
        trl = found.get((case, "trl"))
        ratios = [
            min(p[clock] for p in peers) / ours[clock],
            ours["peak_bytes"] / min(p["peak_bytes"] for p in peers),
            found[case, "naive"][clock] / ours[clock],
            trl[clock] / ours[clock] if trl else None,
            trl[clock] / cached[clock] if trl and cached else None,
        ]
        cells = ["-" if r is None else f"{r:.2f}" for r in ratios]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
