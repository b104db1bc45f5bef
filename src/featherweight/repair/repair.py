"""One call repairs a compressed model by any method and leaves what `load_engine` opens.

| method | what learns | what OUTPUT is |
| --- | --- | --- |
| prompts | `count` soft prompts, one by one | the one that is best on val |
| idp | the same | a bank of all, the prompt chosen for each input |
| prefix | keys and values in every layer | a bank of one |
| lora | LoRA on the answers or the text | an adapter |
| neo | LoRA with the uncompressed model as teacher | an adapter |
| spp | what a pruned model kept | a packed model with the same mask |
"""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import orjson
import torch

from featherweight.distill import Settings, train
from featherweight.distill.data import Reader, samples
from featherweight.distill.folder import alone, described
from featherweight.distill.soft import save_bank
from featherweight.distill.student import open_base
from featherweight.distill.watch import Tell
from featherweight.engines.hf_bank import BANK, TENSORS, Stored, read_bank
from featherweight.engines.hf_open import choose_dtype
from featherweight.engines.safetensor import safetensor_errors
from featherweight.errors import OutputError, RepairError
from featherweight.files import output_errors, write_atomic
from featherweight.repair.bank import combine, read_prompts
from featherweight.repair.choose import (
    PREFIX,
    Context,
    choose,
    contexts,
    in_one_pass,
    losses,
)
from featherweight.tasks import Example, Task
from featherweight.tasks.run import versions

Method = Literal["prompts", "idp", "prefix", "lora", "neo", "spp"]
METHODS: tuple[str, ...] = get_args(Method)
PARTS, MANIFEST = "prompts", "manifest.json"
USUAL = 256  # learnt samples that the prompts' usual scores are taken from
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Repaired:
    """Where it lies, and what its manifest says."""

    folder: Path
    manifest: Mapping[str, Any]


def repair(
    spec: str,
    method: Method,
    data: Task,
    output: Path,
    *,
    val: Task | None = None,
    teacher: str | None = None,
    count: int = 4,
    settings: Settings | None = None,
    tell: Tell = lambda kind, facts: None,
    progress: Progress | None = None,
) -> Repaired:
    """Repair `spec` (hf:DIR) with what it learns from `data`; the same call goes on when stopped.

    Of `prompts` and `idp`, prompt k of `count` learns the k-th part of the examples with seed
    `settings.seed` + k, in OUTPUT/prompts/K; `val` decides among them and how they are chosen.
    Rows of `val` that are learnt are left out of it.
    `teacher`, where it is given, is distilled from (neo needs one). Raises `RepairError` for
    what does not fit together, and what `train` raises.
    """
    if method not in METHODS:
        raise RepairError(f"no repair is called {method!r}; choose {', '.join(METHODS)}.")
    if method == "neo" and teacher is None:
        raise RepairError("neo learns from the uncompressed model; name it with --teacher.")
    if method == "lora" and teacher is not None:
        raise RepairError("lora learns from no teacher; leave --teacher out, or choose neo.")
    settings = settings or Settings()
    val = val and _unlearnt(val, data)
    if method in ("lora", "neo", "prefix", "spp"):
        if method == "prefix" or method == "spp":
            own = replace(settings, tune=method)
        else:
            own = replace(settings, method=method)
        trained = train(spec, data, output, val=val, teacher=teacher, settings=own, tell=tell)
        manifest = orjson.loads((output / MANIFEST).read_bytes()) | {"method": method}
        if method == "prefix":
            manifest |= _told(read_bank(str(output), output))
        raw = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
        write_atomic(output / MANIFEST, raw + b"\n")
        return Repaired(trained.folder, manifest)
    if count < 1 or (method == "idp" and count < 2):
        raise RepairError(f"{method} cannot choose among {count} prompts; give it 2 or more.")
    if val is None and count > 1:
        raise RepairError(f"{method} chooses among {count} prompts on val; name one with --val.")
    if settings.seed + count > 2**32:
        raise RepairError(
            f"prompt {count - 1} would learn with seed {settings.seed + count - 1}, and seeds are "
            "below 2**32; give a lower --seed."
        )
    return _prompts(spec, method, data, output, val, teacher, count, settings, tell, progress)


def _unlearnt(val: Task, data: Task) -> Task:
    """`val` without what is learnt: there the best would be who knows it by heart.

    Raises `RepairError` where nothing is left.
    """
    learnt = {orjson.dumps([one.prompt, one.target]) for one in data.examples}
    kept = [one for one in val.examples if orjson.dumps([one.prompt, one.target]) not in learnt]
    if val.examples and not kept:
        raise RepairError(
            f"all rows of --val ({val.name}) are learnt, where the best is who knows them by "
            "heart; name other rows."
        )
    return replace(val, examples=tuple(kept))


def _prompts(
    spec: str,
    method: Method,
    data: Task,
    output: Path,
    val: Task | None,
    teacher: str | None,
    count: int,
    settings: Settings,
    tell: Tell,
    progress: Progress | None,
) -> Repaired:
    parts = [_slice(data.examples, number, count) for number in range(count)]
    run = described(spec, teacher, data, val, settings)
    run |= {"command": "repair", "method": method, "count": count}
    with alone(output):
        if (done := _begin(output, run)) is not None:
            return done
        if val is not None:  # too short texts are told before anything is learnt from them
            _asked(spec, method, data, val, settings, settings.prompt_tokens)
        folders = []
        for number, examples in enumerate(parts):
            tell("prompt", {"number": number, "of": count})
            own = replace(settings, tune="prompt", seed=settings.seed + number)
            part = replace(data, examples=examples)
            folder = output / PARTS / str(number)
            trained = train(spec, part, folder, teacher=teacher, settings=own, tell=tell)
            folders.append(trained.folder)
        prompts = read_prompts(folders)
        bank = prompts[0]
        facts: dict[str, Any] = {}
        if val is not None:
            bank, facts = _decided(spec, method, prompts, data, val, settings, progress)
        return _publish(output, run, bank, facts)


def _publish(
    output: Path, run: Mapping[str, Any], bank: Stored, facts: Mapping[str, Any]
) -> Repaired:
    manifest = {"run": run, **_told(bank), **facts, "versions": versions()}
    raw = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
    with (
        output_errors(output),
        safetensor_errors(),
        tempfile.TemporaryDirectory(dir=output, prefix=".bank.") as folder,
    ):
        save_bank(bank, Path(folder))
        for name in (TENSORS, BANK):  # a directory with a bank.json is a bank
            (Path(folder) / name).replace(output / name)
    write_atomic(output / MANIFEST, raw + b"\n")
    return Repaired(output, orjson.loads(raw))


def _told(bank: Stored) -> dict[str, int]:
    size = sum(tensor.numel() for tensor in bank.tensors.values())
    return {"m": bank.m, "n": bank.n, "parameters": size}


def _slice(examples: Sequence[Example], number: int, count: int) -> tuple[Example, ...]:
    """Part `number` of `count`, in the file's order: rows sorted by subject make prompts differ."""
    if len(examples) < count:
        raise RepairError(
            f"{count} prompts cannot each learn a part of {len(examples)} rows; give more rows or "
            "fewer prompts."
        )
    first, last = (len(examples) * at // count for at in (number, number + 1))
    return tuple(examples[first:last])


def _begin(output: Path, run: Mapping[str, Any]) -> Repaired | None:
    """Make the folder this run's; what an earlier, equal call finished there.

    An unfinished one may be given another method or val: its prompts are told apart by `train`.
    Raises `OutputError` for anything else's work.
    """
    others = [path.name for path in output.iterdir() if path.name not in (PARTS, ".lock")]
    manifest: Any = None
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        manifest = orjson.loads((output / MANIFEST).read_bytes())
    before = manifest.get("run") if isinstance(manifest, dict) else None
    if others and not (isinstance(before, dict) and before.get("command") == "repair"):
        raise OutputError(f"{output} holds other work ({others[0]}); choose another output folder.")
    if before is None or "m" not in manifest:
        write_atomic(output / MANIFEST, orjson.dumps({"run": run}, option=orjson.OPT_INDENT_2))
        return None
    if differs := sorted(k for k in before.keys() | run.keys() if before.get(k) != run.get(k)):
        raise OutputError(
            f"{output} holds another repair ({', '.join(differs)} differ); choose another output "
            "folder, or remove it."
        )
    return Repaired(output, manifest)


def _decided(
    spec: str,
    method: Method,
    prompts: Sequence[Stored],
    data: Task,
    val: Task,
    settings: Settings,
    progress: Progress | None,
) -> tuple[Stored, dict[str, Any]]:
    """The best single prompt, or the bank with the best way to choose, by loss on val."""
    model, asked, learnt = _asked(spec, method, data, val, settings, prompts[0].n)
    measured = losses(model, prompts, asked, progress)
    singles = measured.singles()
    best = min(range(len(prompts)), key=lambda number: singles[number])
    facts: dict[str, Any] = {
        "val": {
            "tokens": int(measured.tokens.sum()),
            "none": float(measured.bare.sum() / measured.tokens.sum()),
            "each": singles,
            "best": best,
            "oracle": measured.mean(measured.nats.argmin(1)),
        }
    }
    if method == "prompts":
        return prompts[best], facts
    bank = combine(prompts)
    some = learnt[:: max(1, -(-len(learnt) // USUAL))]
    ways = choose(model, bank, some, asked, measured, progress)
    facts["val"]["ways"] = [asdict(way) for way in ways]
    if deep := next((way for way in ways if way.selection.layer), None):
        once = in_one_pass(model, bank, deep, asked, measured)
        facts["val"]["one_pass"] = {"selection": asdict(deep.selection), "loss": once}
    facts["chosen"] = list(ways[0].wins)
    return replace(bank, selection=ways[0].selection), facts


def _asked(
    spec: str, method: Method, data: Task, val: Task, settings: Settings, n: int
) -> tuple[Any, list[Context], list[Context]]:
    """The model, and what a choice is made on: of `val`, and for `idp` what there is of `data`.

    Raises `RepairError` where all texts of `val` are too short, beside prompts of `n` tokens, and
    where these leave no room.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer, _ = open_base(spec, choose_dtype(settings.dtype, device)[0], device)
    reader = Reader(model, tokenizer, spec)
    room = reader.context - n
    if room < 2:
        raise RepairError(
            f"--prompt-tokens {n} leaves no room in {spec}, which holds {reader.context} tokens; "
            "give fewer."
        )
    length = min(settings.max_length or room, room)

    def read(task: Task) -> list[Context]:
        return contexts(samples(task, reader, length), task.kind == "text")

    if not (chosen := read(val)):
        cut = f", cut at --max-length {length}," if length < room else ""
        raise RepairError(
            f"no text of {val.name}{cut} is longer than the {PREFIX} tokens that a prompt is "
            "chosen by; give longer ones."
        )
    return model, chosen, read(data) if method == "idp" else []
