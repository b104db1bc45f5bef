"""What a teacher said about every supervised token, on disk, so that training needs no teacher.

A folder of flat files, read as memory maps:

| file | row | for |
| --- | --- | --- |
| `teacher.json` | | what made it: teacher, tokenizer, kind, k |
| `index.bin` | sha256 of an example's token ids, first row, rows | finding an example's rows |
| `correct.bin` | 1 byte | the teacher's likeliest token is the gold one (CAT's mask) |
| `ids.bin`, `logprobs.bin`, `tail.bin` | k x 4, k x 2 or 4, 4 bytes | topk: forward KL at T = 1 |
| `hidden.bin`, `head.safetensors` | Ht x 2 or 4 bytes | hidden: every divergence, exactly |

An example's rows stand for its supervised tokens in order, the first at 0. They are looked up by
the token ids themselves, never by a step or a place in the data, so that shuffling, accumulation
and changed data cannot mix them up. The index is written last: what it names is there.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from featherweight.distill.data import Sample
from featherweight.distill.head import Head
from featherweight.engines.safetensor import safetensor_errors
from featherweight.errors import OutputError, TrainingError
from featherweight.files import output_errors, write_atomic

Keep = Literal["topk", "hidden", "bits"]
HEADER, INDEX, HEAD = "teacher.json", "index.bin", "head.safetensors"
ENTRY = np.dtype([("key", "V32"), ("start", "<u8"), ("rows", "<u4")])
FLOATS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}


@dataclass(frozen=True)
class Header:
    """What made a cache. `tokens` is `tokens_digest` of the tokenizer whose ids it is about."""

    keep: Keep
    teacher: Mapping[str, Any]
    dtype: str
    tokens: str
    vocabulary: int
    k: int = 0
    width: int = 0
    store: str = "float16"

    def columns(self) -> dict[str, tuple[str, int]]:
        """File name -> numpy type and values a row."""
        found = {"correct.bin": ("u1", 1)}
        if self.keep == "topk":
            found |= {
                "ids.bin": ("<u4", self.k),
                "logprobs.bin": (FLOATS[self.store], self.k),
                "tail.bin": ("<f4", 1),
            }
        if self.keep == "hidden":
            found["hidden.bin"] = (FLOATS[self.store], self.width)
        return found


def tokens_digest(tokenizer: Any) -> str:
    """What decides which ids a text becomes: vocabulary, cutting, template. Not file layout."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [
        orjson.dumps(sorted(tokenizer.get_vocab().items())),
        (backend.to_str() if backend is not None else repr(type(tokenizer))).encode(),
        str(tokenizer.chat_template or "").encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


class CacheWriter:
    """Adds examples to a cache; one that was stopped goes on. Use inside `tasks.store.locked`."""

    def __init__(self, folder: Path, header: Header, head: Head | None = None) -> None:
        """Raises `OutputError` where the folder holds another cache or something else."""
        self.folder, self.header = folder, header
        path = folder / HEADER
        now = orjson.loads(orjson.dumps(asdict(header)))
        if path.exists():
            before = _read_header(folder)
            differs = sorted(k for k in now if asdict(before).get(k) != now[k])
            if differs:
                raise OutputError(
                    f"{folder} holds another teacher's cache ({', '.join(differs)} differ); choose "
                    "another output folder, or remove it."
                )
        else:
            # the head is written before the header: a stopped call may have left it
            others = [p.name for p in folder.iterdir() if p.name not in (".lock", HEAD)]
            if others:
                raise OutputError(
                    f"{folder} holds other work ({others[0]}); choose another output folder."
                )
            if head is not None:
                with output_errors(folder), safetensor_errors():
                    save_file({"weight": head.weight.detach().cpu().contiguous()}, folder / HEAD)
            write_atomic(path, orjson.dumps(now, option=orjson.OPT_INDENT_2) + b"\n")
        index = _index(folder)
        self.keys = {key.tobytes() for key in index["key"]}
        self.rows = int(index["rows"].sum())
        self._files = {}
        for name, (kind, values) in header.columns().items():
            # beyond what the index names may lie the beginning of an example that was cut off
            self._files[name] = _open(folder / name, self.rows * np.dtype(kind).itemsize * values)
        self._index = _open(folder / INDEX, len(index) * ENTRY.itemsize)

    def add(self, sample: Sample, columns: Mapping[str, NDArray[Any]]) -> None:
        """Rows of one example, by file name; raises `OutputError` where the disk is full."""
        rows = len(sample.target)
        with output_errors(self.folder):
            for name, (kind, values) in self.header.columns().items():
                data = np.ascontiguousarray(columns[name], dtype=kind)
                if data.size != rows * values:
                    raise ValueError(f"{name}: {data.size} values for {rows} rows of {values}")
                self._files[name].write(data.tobytes())
                self._files[name].flush()
            entry = np.array([(sample.key, self.rows, rows)], dtype=ENTRY)
            self._index.write(entry.tobytes())
            self._index.flush()
        self.keys.add(sample.key)
        self.rows += rows

    def close(self) -> None:
        """Let everything reach the disk; raises `OutputError` where it is full."""
        with output_errors(self.folder):
            for file in (*self._files.values(), self._index):
                file.flush()
                os.fsync(file.fileno())
                file.close()


class TeacherCache:
    """A cache that is read; `batch` gives what `Learner.forward` takes."""

    def __init__(self, folder: Path) -> None:
        """Raises `TrainingError` where files are missing or shorter than the index says."""
        self.folder = folder
        self.header = _read_header(folder)
        index = _index(folder)
        self._places = {
            entry["key"].tobytes(): (int(entry["start"]), int(entry["rows"])) for entry in index
        }
        rows = int(index["rows"].sum())
        self._columns: dict[str, NDArray[Any]] = {}
        for name, (kind, values) in self.header.columns().items():
            path = folder / name
            needed = rows * np.dtype(kind).itemsize * values
            if not path.is_file() or path.stat().st_size < needed:
                raise TrainingError(f"{path} is missing or too short; make the cache again.")
            if rows:
                self._columns[name] = np.memmap(path, kind, "r", shape=(rows, values))

    @property
    def keep(self) -> Keep:
        return self.header.keep

    def head(self, dtype: torch.dtype, device: str) -> Head | None:
        """The teacher's head, of a cache of hidden states."""
        if self.keep != "hidden":
            return None
        return Head(load_file(self.folder / HEAD)["weight"].to(device, dtype))

    def check(self, samples: Sequence[Sample], tokenizer: Any) -> None:
        """Raise `TrainingError` unless every sample is in it, tokenised as the student does."""
        if self.header.tokens != tokens_digest(tokenizer):
            raise TrainingError(
                f"{self.folder} was made with another tokenizer or chat template than the "
                "student's; make it again with `featherweight teach --student` naming this one."
            )
        missing = [s for s in samples if s.key not in self._places]
        if missing:
            raise TrainingError(
                f"{self.folder} has nothing for {len(missing)} of {len(samples)} examples "
                f"(first {missing[0].id}): it was made from other data; make it again with "
                "`featherweight teach` and the same --data, --input, --words and --limit."
            )

    def covers(self, samples: Sequence[Sample]) -> bool:
        """Whether every sample is in it."""
        return all(sample.key in self._places for sample in samples)

    def batch(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """The rows of `samples`, one after another, as tensors."""
        found: dict[str, Tensor] = {}
        names = {
            "correct.bin": "teacher_correct",
            "ids.bin": "teacher_ids",
            "logprobs.bin": "teacher_logprobs",
            "tail.bin": "teacher_tail",
            "hidden.bin": "teacher_hidden",
        }
        places = [self._places[s.key] for s in samples if s.target]
        for name, (kind, values) in self.header.columns().items():
            parts = [self._columns[name][start : start + rows] for start, rows in places]
            data = np.concatenate(parts) if parts else np.empty((0, values), kind)
            found[names[name]] = self._tensor(name, data)
        return found

    def _tensor(self, name: str, data: NDArray[Any]) -> Tensor:
        if name == "correct.bin":
            return torch.from_numpy(data[:, 0].astype(bool))
        if name == "ids.bin":
            return torch.from_numpy(data.astype(np.int64))
        if name == "tail.bin":
            return torch.from_numpy(data[:, 0].astype(np.float32))
        if self.header.store == "bfloat16":
            return torch.from_numpy(data.astype(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(np.array(data))


def cache_path(spec: str) -> Path:
    """The folder that a teacher's spec would name."""
    return Path(spec).expanduser()


def is_cache(spec: str) -> bool:
    """Whether a teacher's spec names a cache."""
    return (cache_path(spec) / HEADER).is_file()


def _read_header(folder: Path) -> Header:
    try:
        return Header(**orjson.loads((folder / HEADER).read_bytes()))
    except (OSError, orjson.JSONDecodeError, TypeError) as error:
        raise TrainingError(
            f"{folder} is no teacher's cache ({' '.join(str(error).split())[:120]}); make one with "
            "`featherweight teach`."
        ) from None


def _index(folder: Path) -> NDArray[Any]:
    path = folder / INDEX
    raw = path.read_bytes() if path.exists() else b""
    return np.frombuffer(raw[: len(raw) - len(raw) % ENTRY.itemsize], dtype=ENTRY)


def _open(path: Path, size: int) -> Any:
    file = path.open("ab")
    if file.tell() > size:
        file.truncate(size)
    return file
