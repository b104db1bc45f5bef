"""One block at a time: what it reads is kept, its layers are measured, then what it writes.

*sequential*: a block is changed before it writes, so the next reads what the compressed model will
read. *shared*: blocks stay as they are, so one pass serves many recipes. Only one block's
statistics are held, and what each text is at one place and is told beside it, in memory or (above
512 MB in all) in files. B rows, T tokens, H width.
"""

import copy
import inspect
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.compress.calibrate import Sample
from featherweight.compress.statistics import Collector, Enough, Statistics, check_found
from featherweight.compress.structure import DECODER, ENCODER, stacks
from featherweight.engines.hf_model import pad
from featherweight.errors import CompressError
from featherweight.files import output_errors

IN_MEMORY = 512 * 2**20
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
"""Told a block's layers by their whole names and what is known (`None`: nothing was needed, or it
was done before). Returns new weights; in *shared* mode an empty dict."""
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
    progress: Progress | None = None,
) -> None:
    """Lead `batches` through the model and call `solve` at every block; without any, only that.

    The model keeps its own precision; forwards are computed in `dtype`. `before` says that a block
    needs no statistics. In sequential mode the weights that `solve` returns replace the model's.
    Raises `CompressError` for a structure that is not known.
    """
    every = places(model)
    if not batches:
        for number, (place, block) in enumerate(every, 1):
            _replace(block, place, solve(place, linears(block, place.prefix), None))
            if progress:
                progress(number, len(every))
        return
    model.eval()
    encoded: list[Tensor] | None = None
    number = 0
    with tempfile.TemporaryDirectory(prefix="featherweight-", ignore_cleanup_errors=True) as folder:
        for stack in dict.fromkeys(place.stack for place, _ in every):
            owner = stacks(model)[stack].owner
            space = _Space(dtype, Path(folder))
            inputs = _capture(model, stack, batches, encoded, space)
            for place, block in [one for one in every if one[0].stack == stack]:
                _pass(place, block, inputs, solve, sequential, dtype, before(place))
                number += 1
                if progress:
                    progress(number, len(every))
            if stack == ENCODER:
                norm, space = owner.final_layer_norm, _Space(torch.float32, Path(folder))
                encoded = [space.put(norm(call.hidden.to(norm.weight))) for call in inputs]


@dataclass
class _Call:
    """What one batch hands to the blocks: `hidden` [B, T, H] changes, the rest is each block's."""

    hidden: Tensor
    extras: list[dict[str, Any]]
    real: Tensor | None  # [B, T] bool
    memory: Tensor | None  # [B, S] bool, of what a decoder is told of an encoder


def _pass(
    place: Place,
    block: Any,
    inputs: list[_Call],
    solve: Solve,
    sequential: bool,
    dtype: torch.dtype,
    known: bool,
) -> None:
    """Measure one block, let it be solved, and put what it writes where it read."""
    layers = linears(block, place.prefix)
    working = copy.deepcopy(block).to(dtype)
    found: Found | None = None
    if not known:
        with closing(Collector(linears(working, place.prefix))) as collector:
            for number, call in enumerate(inputs):
                collector.real = call.real
                # in sequential mode what the block writes now is thrown away
                collector.hurried = sequential and number > 0
                told = _told(working, call, place.index)
                if call.memory is not None:
                    collector.memory = (told["encoder_hidden_states"], call.memory)
                with suppress(Enough):
                    written = _forward(working, call, told)
                    if not sequential:
                        call.hidden.copy_(written)
                collector.forget()
            found = collector.found()
        check_found(layers, found)
    weights = solve(place, layers, found)
    if sequential:
        _replace(block, place, weights)
        _replace(working, place, weights)
    if sequential or known:
        for call in inputs:
            call.hidden.copy_(_forward(working, call, _told(working, call, place.index)))


def _replace(block: Any, place: Place, weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        own = block.get_submodule(name.removeprefix(f"{place.prefix}.")).weight
        own.data.copy_(weight)


def _told(block: Any, call: _Call, index: int) -> dict[str, Any]:
    """What the block is told beside `call.hidden`, where it computes."""
    device = next(block.parameters()).device

    def moved(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(moved(one) for one in value)
        return value.to(device) if isinstance(value, Tensor) else value

    return {name: moved(value) for name, value in call.extras[index].items()}


def _forward(block: Any, call: _Call, told: dict[str, Any]) -> Tensor:
    device = next(block.parameters()).device
    out = block(call.hidden.to(device), **told)
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found


class _Recorder(nn.Module):  # type: ignore[misc]
    """In a block's place: notes what it is given and hands its input on unchanged.

    The first runs its block all the same, since T5's makes the position bias that the others get.
    """

    def __init__(self, block: Any, first: bool, calls: list[dict[str, Any]]) -> None:
        super().__init__()
        self._block = [block]  # not a submodule
        self._first = first
        self._calls = calls
        self._names = list(inspect.signature(block.forward).parameters)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(self._names, args, strict=False)) | kwargs
        hidden = given.pop("hidden_states")
        self._calls.append({"hidden": hidden} | given)
        if self._first:
            out = self._block[0](*args, **kwargs)
            self._calls[0]["out"] = out
        else:
            out = self._calls[0]["out"]
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden


def _capture(
    model: Any,
    stack: str,
    batches: Sequence[Sequence[Sample]],
    encoded: Sequence[Tensor] | None,
    space: "_Space",
) -> list[_Call]:
    """What the first block of a stack reads, and what all its blocks are told beside it."""
    found = stacks(model)[stack]
    blocks = found.blocks
    calls: list[_Call] = []
    try:
        for number, batch in enumerate(batches):
            notes: list[dict[str, Any]] = []
            recorders = [_Recorder(block, i == 0, notes) for i, block in enumerate(blocks)]
            setattr(found.owner, found.name, nn.ModuleList(recorders))
            masks = _read(model, stack, batch, encoded[number] if encoded else None)
            notes[0].pop("out")
            calls.append(_Call(space.put(notes[0]["hidden"]), _extras(notes, space), *masks))
    finally:
        setattr(found.owner, found.name, blocks)
    return calls


def _extras(notes: list[dict[str, Any]], space: "_Space") -> list[dict[str, Any]]:
    """Each block's other arguments, floats in `space`; what blocks share stays one tensor."""
    made: dict[int, Any] = {}

    def cast(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(cast(one) for one in value)
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        if id(value) not in made:
            # a mask's "never" must not become infinity
            made[id(value)] = space.put(value.clamp(min=torch.finfo(space.dtype).min))
        return made[id(value)]

    return [
        {name: cast(value) for name, value in note.items() if name != "hidden"}
        | {"past_key_values": None}
        for note in notes
    ]


def _read(
    model: Any, stack: str, batch: Sequence[Sample], encoded: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Lead a batch to the stack; returns which tokens are real, there and in an encoder's memory.

    `None` stands for all, and for no memory.
    """
    device = model.device
    ids, mask = pad([s.ids for s in batch], left=False, device=device)
    if not model.config.is_encoder_decoder:
        full = bool(mask.all())
        stacks(model)[DECODER].owner(
            input_ids=ids, attention_mask=None if full else mask, use_cache=False
        )
        return None if full else mask.bool(), None
    if stack == ENCODER:
        model.encoder(input_ids=ids, attention_mask=mask)
        return mask.bool(), None
    target, target_mask = pad([s.target for s in batch], left=False, device=device)
    model.decoder(
        input_ids=target,
        attention_mask=target_mask,
        encoder_hidden_states=None if encoded is None else encoded.to(device),
        encoder_attention_mask=mask,
        use_cache=False,
    )
    return target_mask.bool(), mask.bool()


class _Space:
    """Room for what texts are: in memory, or mapped from files where it is much."""

    def __init__(self, dtype: torch.dtype, folder: Path) -> None:
        self.dtype, self._folder = dtype, folder
        self._used = 0

    def put(self, values: Tensor) -> Tensor:
        """A copy of `values` in the room and its dtype, on the CPU; it may be written again."""
        size = values.numel() * self.dtype.itemsize
        self._used += size
        if self._used <= IN_MEMORY:
            return values.to("cpu", self.dtype, copy=True)
        file = self._folder / secrets.token_hex(8)
        with output_errors(file), file.open("wb") as handle:
            # taken at once: a mapped file that finds no room later kills the process
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle.fileno(), 0, size)
            else:
                handle.truncate(size)
        room = torch.from_file(str(file), shared=True, size=values.numel(), dtype=self.dtype)
        with suppress(OSError):  # mapped, it needs no name, and a killed run leaves none
            file.unlink()
        return room.view(values.shape).copy_(values)
