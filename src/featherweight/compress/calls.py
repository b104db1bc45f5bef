"""What reaches a stack's blocks: held in memory, above 512 MB in files.

B rows, T tokens, H width.
"""

import inspect
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.compress.calibrate import Sample
from featherweight.compress.structure import DECODER, ENCODER, stacks
from featherweight.engines.hf_model import pad
from featherweight.errors import OutputError

IN_MEMORY = 512 * 2**20


@dataclass
class Call:
    """What one batch hands to the blocks: `hidden` [B, T, H] changes, the rest is each block's."""

    hidden: Tensor
    extras: list[dict[str, Any]]
    real: Tensor | None  # [B, T] bool
    memory: Tensor | None  # [B, S] bool, of what a decoder is told of an encoder


def told(block: Any, call: Call, index: int) -> dict[str, Any]:
    """What the block is told beside `call.hidden`, where it computes."""
    device = next(block.parameters()).device

    def moved(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(moved(one) for one in value)
        return value.to(device) if isinstance(value, Tensor) else value

    return {name: moved(value) for name, value in call.extras[index].items()}


def run(block: Any, call: Call, beside: dict[str, Any]) -> Tensor:
    """What the block writes [B, T, H]."""
    device = next(block.parameters()).device
    out = block(call.hidden.to(device), **beside)
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found


class _Recorder(nn.Module):  # type: ignore[misc]
    """In a block's place: notes what it is given and hands its input on unchanged.

    Where `beside` is empty its block runs all the same, and what that wrote beside its states goes
    there: T5's first block makes the position bias that the others get.
    """

    def __init__(self, block: Any, notes: list[dict[str, Any]], beside: list[Any]) -> None:
        super().__init__()
        self._block = [block]  # not a submodule
        self._notes, self._beside = notes, beside
        self._names = list(inspect.signature(block.forward).parameters)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._notes.append(dict(zip(self._names, args, strict=False)) | kwargs)
        if not self._beside:
            out = self._block[0](*args, **kwargs)
            self._beside.append(out[1:] if isinstance(out, tuple) else None)
        hidden = self._notes[-1]["hidden_states"]
        return hidden if self._beside[0] is None else (hidden, *self._beside[0])


def capture(
    model: Any,
    stack: str,
    batches: Sequence[Sequence[Sample]],
    encoded: Sequence[Tensor] | None,
    space: "Space",
) -> list[Call]:
    """What the first block of a stack reads, and what all its blocks are told beside it."""
    found = stacks(model)[stack]
    blocks = found.blocks
    calls: list[Call] = []
    beside: list[Any] = []
    try:
        for number, batch in enumerate(batches):
            notes: list[dict[str, Any]] = []
            recorders = [_Recorder(block, notes, beside) for block in blocks]
            setattr(found.owner, found.name, nn.ModuleList(recorders))
            masks = _read(model, stack, batch, encoded[number] if encoded else None)
            hidden = space.put(notes[0]["hidden_states"])
            calls.append(Call(hidden, _extras(notes, space), *masks))
            if beside[0] and any(one is not None for one in beside[0]):
                beside.clear()  # another batch's is another
    finally:
        setattr(found.owner, found.name, blocks)
    return calls


def _extras(notes: list[dict[str, Any]], space: "Space") -> list[dict[str, Any]]:
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
        {name: cast(value) for name, value in note.items() if name != "hidden_states"}
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


class Space:
    """Room for what texts are: in memory, or mapped from files where it is much."""

    def __init__(self, dtype: torch.dtype, folder: Path) -> None:
        self.dtype, self._folder = dtype, folder
        self._used = 0
        self._free: dict[torch.Size, list[Tensor]] = {}

    def give_back(self, room: Tensor) -> None:
        """What was `put` is needed no more: the next of its shape takes its room."""
        self._free.setdefault(room.shape, []).append(room)

    def put(self, values: Tensor) -> Tensor:
        """A copy of `values` in the room and its dtype, on the CPU; it may be written again."""
        if self._free.get(values.shape):
            return self._free[values.shape].pop().copy_(values)
        size = values.numel() * self.dtype.itemsize
        self._used += size
        if self._used <= IN_MEMORY:
            return values.to("cpu", self.dtype, copy=True)
        file = self._folder / secrets.token_hex(8)
        try:
            with file.open("wb") as handle:
                # taken at once: a mapped file that finds no room later kills the process
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle.fileno(), 0, size)
                else:
                    handle.truncate(size)
        except OSError as error:
            raise OutputError(
                f"no room for {size / 2**20:,.0f} MiB of activations in {self._folder.parent} "
                f"({error.strerror or error}); set TMPDIR to a folder that has room."
            ) from None
        room = torch.from_file(str(file), shared=True, size=values.numel(), dtype=self.dtype)
        with suppress(OSError):  # mapped, it needs no name, and a killed run leaves none
            file.unlink()
        return room.view(values.shape).copy_(values)
