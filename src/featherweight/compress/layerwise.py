"""One block at a time: what it reads is kept, its layers are measured, then what it writes.

*sequential*: a layer is changed before the next is measured, so that one reads what the compressed
model will read (`stages`). *shared*: blocks stay as they are, so one pass serves many recipes.
Only one block's statistics are held, and what each text is at one place and is told beside it.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.compress.calibrate import Sample
from featherweight.compress.calls import Call, Space, capture, run, told
from featherweight.compress.stages import Stage, find_stages, in_turn
from featherweight.compress.statistics import Collector, Statistics, check_found
from featherweight.compress.structure import ENCODER, stacks
from featherweight.errors import CompressError

Found = list[tuple[list[str], Statistics]]


@dataclass(frozen=True)
class Place:
    """A block: of which stack ("decoder", "encoder"), its number, how its layers' names begin."""

    stack: str
    index: int
    prefix: str

    @property
    def name(self) -> str:
        return f"{self.stack}-{self.index:03}"


Solve = Callable[[Place, dict[str, nn.Linear], Found | None], dict[str, Tensor]]
"""Told layers of a block by their whole names and what is known (`None`: nothing was needed, or it
was done before): in *shared* mode all at once, in *sequential* mode stage by stage. Returns new
weights; in *shared* mode an empty dict."""
Progress = Callable[[int, int], None]


def linears(block: Any, prefix: str) -> dict[str, nn.Linear]:
    """A block's linear layers by their whole names.

    Raises `CompressError` where it has weights of another kind, which would stay as they are
    without a word.
    """
    found = {
        f"{prefix}.{name}": part for name, part in block.named_modules() if type(part) is nn.Linear
    }
    known = {id(parameter) for part in found.values() for parameter in part.parameters()}
    for name, parameter in block.named_parameters():
        # T5's position bias is a table that is looked up
        if parameter.ndim >= 2 and id(parameter) not in known and "bias" not in name:
            raise CompressError(
                f"{prefix}.{name} is not of a linear layer, the one kind that is known here; this "
                "architecture cannot be compressed."
            )
    return found


def places(model: Any) -> list[tuple[Place, Any]]:
    """Every block, in the order in which a text passes them."""
    names = {id(part): name for name, part in model.named_modules()}
    return [
        (Place(stack, index, names[id(block)]), block)
        for stack, found in stacks(model).items()
        for index, block in enumerate(found.blocks)
    ]


@torch.no_grad()  # type: ignore[untyped-decorator]
def walk(
    model: Any,
    batches: Sequence[Sequence[Sample]],
    solve: Solve,
    *,
    sequential: bool,
    dtype: torch.dtype,
    before: Callable[[Place], bool] = lambda place: False,
    after: Callable[[Place], None] = lambda place: None,
    progress: Progress | None = None,
) -> None:
    """Lead `batches` through the model and call `solve` at every block; without any, only that.

    The model keeps its own precision; forwards are computed in `dtype`. `before` says that a block
    needs no statistics, `after` is told when all of it is solved. In sequential mode the weights
    that `solve` returns replace the model's. Raises `CompressError` for a structure that is not
    known.
    """
    every = places(model)
    if not batches:
        for number, (place, block) in enumerate(every, 1):
            _replace(block, place, solve(place, linears(block, place.prefix), None))
            after(place)
            if progress:
                progress(number, len(every))
        return
    model.eval()
    encoded: list[Tensor] | None = None
    number = 0
    with tempfile.TemporaryDirectory(prefix="featherweight-", ignore_cleanup_errors=True) as folder:
        for stack in dict.fromkeys(place.stack for place, _ in every):
            owner = stacks(model)[stack].owner
            space = Space(dtype, Path(folder))
            inputs = capture(model, stack, batches, encoded, space)
            order: dict[tuple[str, ...], list[Stage]] = {}
            for place, block in [one for one in every if one[0].stack == stack]:
                working = copy.deepcopy(block).to(dtype)
                if before(place):
                    _known(place, block, working, inputs, solve)
                elif sequential:
                    _sequential(place, block, working, inputs, solve, space, order)
                else:
                    _shared(place, block, working, inputs, solve)
                after(place)
                number += 1
                if progress:
                    progress(number, len(every))
            if stack == ENCODER:
                norm, space = owner.final_layer_norm, Space(torch.float32, Path(folder))
                encoded = [space.put(norm(call.hidden.to(norm.weight))) for call in inputs]


def _known(place: Place, block: Any, working: Any, inputs: Sequence[Call], solve: Solve) -> None:
    """Put what a block that was solved before writes where it read."""
    weights = solve(place, linears(block, place.prefix), None)
    _replace(block, place, weights)
    _replace(working, place, weights)
    for call in inputs:
        call.hidden.copy_(run(working, call, told(working, call, place.index)))


def _shared(place: Place, block: Any, working: Any, inputs: Sequence[Call], solve: Solve) -> None:
    """Measure a block as it is, in the forward that says what it writes."""
    layers = linears(block, place.prefix)
    with closing(Collector(linears(working, place.prefix))) as collector:
        for call in inputs:
            beside = told(working, call, place.index)
            collector.real = call.real
            if call.memory is not None:
                collector.memory = (beside["encoder_hidden_states"], call.memory)
            call.hidden.copy_(run(working, call, beside))
            collector.forget()
        found = collector.found()
    check_found(layers, found)
    solve(place, layers, found)


def _sequential(
    place: Place,
    block: Any,
    working: Any,
    inputs: Sequence[Call],
    solve: Solve,
    space: Space,
    order: dict[tuple[str, ...], list[Stage]],
) -> None:
    """Measure and change a block's layers in turn; `order` has the stages of blocks like it."""
    own = linears(block, place.prefix)
    names = tuple(name.removeprefix(f"{place.prefix}.") for name in own)
    if names not in order:
        order[names] = find_stages(working, place.prefix, inputs[0], place.index)

    def change(layers: dict[str, nn.Linear], found: Found) -> None:
        weights = solve(place, {name: own[name] for name in layers}, found)
        _replace(block, place, weights)
        _replace(working, place, weights)

    in_turn(working, place.prefix, place.index, order[names], inputs, space, change)


def _replace(block: Any, place: Place, weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        own = block.get_submodule(name.removeprefix(f"{place.prefix}.")).weight
        own.data.copy_(weight)
