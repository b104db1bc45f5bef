"""A run's finished blocks, so that a stopped one goes on; removed when all is written."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from featherweight.compress.layerwise import Place
from featherweight.engines.packed import PARTS, Packed
from featherweight.engines.safetensor import safetensor_errors
from featherweight.errors import CompressError, OutputError
from featherweight.files import check_writable, locked, output_errors, whole, write_atomic

JOB = "job.json"
Result = dict[str, tuple[Packed, dict[str, Any]]]
"""A block after a recipe: by layer, its weight and what the manifest says of it."""


class Store:
    """Finished blocks of a run, each a file a recipe, whole or not there."""

    def __init__(self, folder: Path, recipes: int) -> None:
        self._folder, self._recipes = folder, recipes

    def _file(self, recipe: int, place: Place) -> Path:
        return self._folder / f"{recipe}-{place.name}.safetensors"

    def has(self, place: Place) -> bool:
        return all(self._file(recipe, place).is_file() for recipe in range(self._recipes))

    def put(self, place: Place, results: Sequence[Result]) -> None:
        for recipe, result in enumerate(results):
            tensors = {
                f"{name}.weight.{part}": tensor
                for name, (packed, _) in result.items()
                for part, tensor in packed.parts().items()
            }
            facts = [{"packed": packed.facts()} | facts for packed, facts in result.values()]
            target = self._file(recipe, place)
            with output_errors(target), safetensor_errors(), whole(target) as temporary:
                save_file(tensors, temporary, {"layers": orjson.dumps(facts).decode()})

    def facts(self, recipe: int, place: Place) -> list[dict[str, Any]]:
        with safe_open(self._file(recipe, place), "pt") as file:
            found: list[dict[str, Any]] = json.loads(file.metadata()["layers"])
        return found

    def tensors(self, recipe: int, place: Place) -> dict[str, Tensor]:
        return dict(load_file(self._file(recipe, place)))

    def weights(self, recipe: int, place: Place) -> dict[str, Packed]:
        """A block's packed weights by their layers' names."""
        tensors = self.tensors(recipe, place)
        return {
            fact["name"]: _packed(fact["packed"], tensors, f"{fact['name']}.weight")
            for fact in self.facts(recipe, place)
        }


def _packed(facts: dict[str, Any], tensors: dict[str, Tensor], name: str) -> Packed:
    parts = {part: tensors.get(f"{name}.{part}") for part in PARTS}
    return Packed(tuple(facts["shape"]), facts["bits"], facts["group"], **parts)


@contextlib.contextmanager
def partial(folder: Path, job: dict[str, Any], recipes: Sequence[str]) -> Iterator[Store]:
    """The store in `folder`, for this very job; the folder goes when the block ends well.

    It stays when the block is stopped and something is in the store; what cannot be compressed
    (`CompressError`) could not be the next time. Raises `OutputError` where another
    job's unfinished work lies there, or another process is at it.
    """
    check_writable(folder)
    busy = f"{folder}: another run is writing there; wait for it or choose another output folder."
    with locked(folder / ".lock", busy):
        if _finished(folder) and not _its(folder, job, recipes):
            raise OutputError(
                f"{folder} holds the unfinished work of another run (other recipes, texts, model "
                "or versions); finish that run, or remove the folder."
            )
        key = {"job": job, "recipes": list(recipes)}
        try:
            write_atomic(folder / JOB, orjson.dumps(key, option=orjson.OPT_INDENT_2))
            yield Store(folder, len(recipes))
        except BaseException as error:
            if isinstance(error, CompressError) or not _finished(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def forget(folder: Path, job: dict[str, Any], recipes: Sequence[str]) -> None:
    """Remove the store of a job that was stopped when all was written."""
    if _its(folder, job, recipes):
        shutil.rmtree(folder, ignore_errors=True)


def _its(folder: Path, job: dict[str, Any], recipes: Sequence[str]) -> bool:
    """Whether the store in `folder` is of this very job."""
    try:
        found = json.loads((folder / JOB).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(found == {"job": job, "recipes": list(recipes)})


def _finished(folder: Path) -> bool:
    """Whether there is a block; a folder without any is nobody's work."""
    return any(folder.glob("*.safetensors"))
