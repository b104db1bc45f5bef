"""A teacher reads the data once and leaves what a student learns from: numbers or texts.

`topk`, `hidden` and `bits` are caches (`cache.py`) made by a local model; `text` are answers of any
engine, a hosted one too, as rows that `--data` takes: sequence-level distillation (Kim and Rush
2016).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from featherweight.distill.cache import FLOATS, CacheWriter, Header, Keep, tokens_digest
from featherweight.distill.data import Reader, Sample, collate, samples, target_text
from featherweight.distill.head import Head, head_of
from featherweight.distill.learner import check_head, label_states
from featherweight.distill.objective import CHUNK_BYTES
from featherweight.distill.spans import byte_spans, carried
from featherweight.distill.student import open_base
from featherweight.distill.teacher import other_tokens, shared_vocabulary
from featherweight.engines.hf_open import choose_dtype
from featherweight.engines.identity import identity
from featherweight.engines.types import Engine
from featherweight.errors import TrainingError
from featherweight.files import write_atomic
from featherweight.tasks import Report, Task, evaluate
from featherweight.tasks.run import prompt_sha256
from featherweight.tasks.store import PREDICTIONS, locked

ROWS = "rows.jsonl"
BATCH_TOKENS = 4096  # of one forward of the teacher
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Taught:
    """What was written: examples, supervised tokens, the share of them the teacher predicts."""

    folder: Path
    examples: int
    tokens: int
    right: float
    bytes: int


def teach(
    teacher: str,
    data: Task,
    output: Path,
    *,
    keep: Keep = "topk",
    student: str | None = None,
    k: int = 64,
    store: str | None = None,
    max_length: int | None = None,
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Taught:
    """Write a cache of `teacher` (a local spec) over `data` to `output`; a stopped one goes on.

    `student` names the model whose tokens it is about: needed where its tokenizer or template
    differ from the teacher's; logits want one tokenizer, `bits` are carried over. `store` is the
    type on disk: float16 (top-k) and the computed one (hidden) unless given.
    Raises `TrainingError`, `EngineError`, `OutputError`.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    compute, _ = choose_dtype(dtype, device)
    model, tokenizer, _ = open_base(teacher, compute, device)
    model.eval().requires_grad_(False)
    check_head(model, teacher)
    own = Reader(model, tokenizer, teacher)
    reader, foreign = own, False
    head = head_of(model, teacher)
    vocabulary = None
    if student is not None:
        other, other_tokenizer, _ = open_base(student, torch.bfloat16, "cpu")
        reader = Reader(other, other_tokenizer, student)
        foreign = bool(other_tokens(other_tokenizer, tokenizer))
        vocabulary = shared_vocabulary(other, len(head.weight), tokenizer)
        del other
    if foreign and keep != "bits":
        raise TrainingError(
            f"{teacher} has another tokenizer than {student}, so its {keep} mean nothing to it; "
            "keep bits (for CAT) or text instead."
        )
    if keep == "hidden" and (head.bias is not None or head.lora_a is not None):
        raise TrainingError(f"{teacher}: its head has a bias or LoRA; keep topk instead.")
    if not foreign:
        head = head.cut(vocabulary)
    header = Header(
        keep=keep,
        teacher=identity(teacher),
        dtype=str(compute).removeprefix("torch."),
        tokens=tokens_digest(reader.tokenizer),
        vocabulary=len(head.weight),
        k=min(k, len(head.weight)) if keep == "topk" else 0,
        width=head.weight.shape[1] if keep == "hidden" else 0,
        store=store or (str(compute).removeprefix("torch.") if keep == "hidden" else "float16"),
    )
    if header.store not in FLOATS or (keep == "topk" and header.store == "bfloat16"):
        raise TrainingError(f"cannot store {keep} as {header.store}; choose float16 or float32.")
    longest = min(max_length or reader.context, reader.context)
    found = samples(data, reader, longest if foreign else min(longest, own.context))
    theirs: dict[str, Sample] = {}
    texts = {e.id: target_text(data, e) for e in data.examples}
    if foreign:
        if data.kind == "text":
            raise TrainingError(
                f"{data.name} is running text, over which bits are not carried from {teacher}'s "
                f"tokens to {student}'s; name a task with prompts."
            )
        theirs = {s.id: s for s in samples(data, own, own.context)}
    with locked(output):
        writer = CacheWriter(output, header, head if keep == "hidden" else None)
        todo = [s for s in found if s.key not in writer.keys]
        done, right = len(found) - len(todo), 0
        for batch in _batches(todo):
            if progress is not None:
                progress(done, len(found))
            read = [theirs[s.id] for s in batch] if foreign else batch
            for sample, seen, columns in zip(
                batch, read, _columns(model, head, own, read, header), strict=True
            ):
                if sample.key in writer.keys:
                    continue  # the same tokens stand twice in the data
                if foreign:
                    columns["correct.bin"] = _carry(
                        reader, sample, own, seen, texts[sample.id], columns["correct.bin"]
                    )
                writer.add(sample, columns)
            done += len(batch)
        if progress is not None:
            progress(done, len(found))
        writer.close()
        rows = writer.rows
        right = int(np.fromfile(output / "correct.bin", "u1").sum())
    size = sum(p.stat().st_size for p in output.iterdir())
    return Taught(output, len(found), rows, right / max(rows, 1), size)


def _batches(todo: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Of like length, at most BATCH_TOKENS with padding; longest first: memory fails at once."""
    batch: list[Sample] = []
    for sample in sorted(todo, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _columns(
    model: Any, head: Head, reader: Reader, batch: Sequence[Sample], header: Header
) -> Iterator[dict[str, Any]]:
    """What the cache keeps of each sample, by file name."""
    device = head.weight.device
    tensors = collate(batch, seq2seq=reader.seq2seq, start=reader.start, pad=0)
    labels = tensors.pop("labels").flatten()
    rows = (labels != -100).nonzero()[:, 0]
    with torch.no_grad():
        states = label_states(model, {k: v.to(device) for k, v in tensors.items()}, rows.to(device))
        found = _rows(states, head, labels[rows].to(device), header)
    start = 0
    for sample in batch:
        end = start + len(sample.target)
        yield {name: _array(tensor[start:end]) for name, tensor in found.items()}
        start = end


def _rows(states: Tensor, head: Head, labels: Tensor, header: Header) -> dict[str, Tensor]:
    """The columns of n rows, logits a chunk at a time."""
    exact = head.detached().to(torch.float32)
    step = max(1, CHUNK_BYTES // (4 * len(exact.weight)))
    out = torch.empty(min(step, len(labels)), len(exact.weight), device=states.device)
    parts: dict[str, list[Tensor]] = {name: [] for name in header.columns() if name != "hidden.bin"}
    for start in range(0, len(labels), step):
        end = min(start + step, len(labels))
        z = out[: end - start]
        exact.project(states[start:end].float(), out=z)
        parts["correct.bin"].append(z.argmax(1) == labels[start:end])
        if header.keep == "topk":
            z -= z.logsumexp(1, keepdim=True)
            values, ids = z.topk(header.k)
            kept = values.to(getattr(torch, header.store))  # the tail is of what is stored
            tail = 1 - kept.float().exp().sum(1)
            if header.k == z.shape[1]:
                tail = torch.zeros_like(tail)
            parts["ids.bin"].append(ids)
            parts["logprobs.bin"].append(kept)
            parts["tail.bin"].append(tail.clamp_(min=0))
    found = {name: torch.cat(tensors) for name, tensors in parts.items()}
    if header.keep == "hidden":
        found["hidden.bin"] = states.to(getattr(torch, header.store))
    return found


def _array(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _carry(reader: Reader, sample: Sample, own: Reader, seen: Sample, text: str, bits: Any) -> Any:
    """The teacher's bits over its own tokens as bits over the student's; end maps to end."""
    of = byte_spans(own, seen.target[:-1], text)
    to = byte_spans(reader, sample.target[:-1], text)
    told = [bool(bit) for bit in bits]
    return np.array([*carried(told[:-1], of, to), told[-1]], dtype=np.uint8)


def teach_text(
    engine: Engine,
    spec: str,
    data: Task,
    output: Path,
    *,
    progress: Progress | None = None,
    **cost: Any,
) -> tuple[Report, int]:
    """Have `engine` answer `data`, as eval does, and write the answers as rows to learn from.

    `output`/rows.jsonl has id, prompt, target (the answer), group, the human reference, the
    teacher's name, prompt hash and date. An answer that failed, is empty or was cut off at
    `max_tokens` is left out: learnt, it would end where it must not. Returns eval's report and the
    number of rows.
    """
    if data.kind != "summary":
        raise TrainingError(f"{data.name} has no texts to write; keep topk, hidden or bits.")
    report = evaluate(data, engine, spec, output, progress=progress, **cost)
    answers = {}
    for line in (output / PREDICTIONS).read_bytes().splitlines():
        row = orjson.loads(line)
        answers[row["id"]] = row
    rows = []
    for example in data.examples:
        row = answers.get(example.id)
        if row is None or not row["prediction"].strip() or row["finish_reason"] == "length":
            continue
        rows.append(
            {
                "id": example.id,
                "prompt": example.prompt,
                "target": row["prediction"],
                "group": example.group or example.id,
                "human": example.target,
                "teacher": row["model"],
                "prompt_sha256": prompt_sha256(example),
                "date": row["date"],
            }
        )
    if not rows:
        raise TrainingError(
            f"{spec} ended no answer: all are empty or cut off (see {output / PREDICTIONS}); raise "
            "--max-tokens in a new --output folder."
        )
    write_atomic(output / ROWS, b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return report, len(rows)
