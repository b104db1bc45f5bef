"""A block's layers in turn: each is measured behind the changed ones before it, in its block too.

Layers that read the same are a stage. A forward ends where the layers of its stage read; what a
module's last layer read is kept, so that the module need not run again: what it writes is what
that layer, changed by then, makes of it. In all, a block runs once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from featherweight.compress.calls import Call, Space, run, told
from featherweight.compress.statistics import Collector, Statistics, check_found, check_read
from featherweight.errors import CompressError


@dataclass(frozen=True)
class Stage:
    """Layers, by their names in the block, that read the same.

    `module` is set where the only layer of the stage makes what this module writes, and the block
    needs nothing else of it: `beside` is how many things stand beside it in a tuple, `None` where
    the module writes that tensor alone.
    """

    names: tuple[str, ...]
    module: str | None = None
    beside: int | None = None


def find_stages(block: Any, prefix: str, call: Call, index: int) -> list[Stage]:
    """The stages of a block in the order in which they run, seen in one forward, tried in another.

    Raises `CompressError` where a layer does not run, or runs more than once.
    """
    layers = {name: part for name, part in block.named_modules() if type(part) is nn.Linear}
    around = {name.rpartition(".")[0] for name in layers} - {""}
    seen: list[tuple[str, Any, Any]] = []  # inputs stay alive: a dead one's identity comes again

    def hook(name: str) -> Any:
        return lambda _module, args, out: seen.append((name, args[0] if args else None, out))

    hooks = [
        block.get_submodule(one).register_forward_hook(hook(one)) for one in (*layers, *around)
    ]
    try:
        written = run(block, call, told(block, call, index))
    finally:
        for one in hooks:
            one.remove()
    ran = [(name, read, wrote) for name, read, wrote in seen if name in layers]
    names = [name for name, *_ in ran]
    check_read([f"{prefix}.{name}" for name in layers], {f"{prefix}.{name}" for name in names})
    if twice := [name for name in layers if names.count(name) > 1]:
        raise CompressError(
            f"{prefix}.{twice[0]} runs more than once in its block, so no other layer is clearly "
            "before it; compress this model with --shared."
        )
    groups: list[list[tuple[str, Any, Any]]] = []
    for one in ran:
        if groups and groups[-1][0][1] is one[1]:
            groups[-1].append(one)
        else:
            groups.append([one])
    modules = [(name, wrote) for name, _, wrote in seen if name in around]
    found = [_stage(group, modules) for group in groups]
    wrote = {name: out for name, _, out in ran}
    if not _same(block, call, index, found, wrote, written):
        found = [stage if not stage.beside else Stage(stage.names) for stage in found]
    return found


def _stage(group: Sequence[tuple[str, Any, Any]], modules: Sequence[tuple[str, Any]]) -> Stage:
    names = tuple(name for name, *_ in group)
    module = names[0].rpartition(".")[0]
    runs = [wrote for name, wrote in modules if name == module]
    if len(group) == 1 and len(runs) == 1:
        own = group[0][2]
        if runs[0] is own:
            return Stage(names, module)
        if isinstance(runs[0], tuple) and runs[0][0] is own:
            return Stage(names, module, len(runs[0]) - 1)
    return Stage(names)


def _same(
    block: Any,
    call: Call,
    index: int,
    stages: Sequence[Stage],
    wrote: Mapping[str, Tensor],
    written: Tensor,
) -> bool:
    """Whether a block writes the same without what its modules tell beside their output."""
    ending = [(block.get_submodule(stage.module), stage) for stage in stages if stage.module]
    for module, stage in ending:
        value = _told(wrote[stage.names[0]], stage.beside)
        module.forward = lambda *_args, value=value, **_kwargs: value
    try:
        return bool(run(block, call, told(block, call, index)).equal(written))
    except Exception:  # whatever a block does where it needs what is not there
        return False
    finally:
        for module, _ in ending:
            del module.forward


def _told(value: Tensor, beside: int | None) -> Any:
    return value if beside is None else (value, *[None] * beside)


def in_turn(
    block: Any,
    prefix: str,
    index: int,
    stages: Sequence[Stage],
    inputs: Sequence[Call],
    space: Space,
    solve: Callable[[dict[str, nn.Linear], list[tuple[list[str], Statistics]]], None],
) -> None:
    """Measure each stage, let `solve` change its layers, and put what the block writes in `inputs`.

    `solve` is told the layers by their whole names, and changes their weights.
    """
    kept: list[_Kept] = []
    for stage in stages:
        layers = {f"{prefix}.{name}": block.get_submodule(name) for name in stage.names}
        first = next(iter(layers))
        keeping = None
        if stage.module is not None:
            module = block.get_submodule(stage.module)
            keeping = _Kept(module, layers[first], stage.beside, space)
        with (
            closing(Collector({first: layers[first]})) as collector,
            _ending(layers[first], keeping),
        ):
            for number, call in enumerate(inputs):
                beside = told(block, call, index)
                collector.real = call.real
                if call.memory is not None:
                    collector.memory = (beside["encoder_hidden_states"], call.memory)
                with _standing_in(kept, number, keep=True):
                    try:
                        run(block, call, beside)
                    except _There:
                        pass
                    else:
                        check_read(layers, ())
                collector.forget()
            [(_, statistics)] = collector.found()
        found = [(list(layers), statistics)]
        check_found(layers, found)
        solve(layers, found)
        if keeping is not None:
            kept.append(keeping)
    for number, call in enumerate(inputs):
        with _standing_in(kept, number, keep=False):
            call.hidden.copy_(run(block, call, told(block, call, index)))
    for one in kept:
        one.give_back()


class _There(Exception):
    """A forward has come to the layers that it is for."""


class _Kept:
    """A module of which is kept, for each batch, what its last layer read, then what it wrote."""

    def __init__(self, module: Any, layer: nn.Linear, beside: int | None, space: Space) -> None:
        self.module = module
        self._layer, self._beside, self._space = layer, beside, space
        self._rooms: list[Tensor] = []
        self._written: set[int] = set()

    def note(self, read: Tensor) -> None:
        self._rooms.append(self._space.put(read))

    def stand_in(self, number: int, keep: bool) -> Callable[..., Any]:
        """The module's forward for one batch; `keep` where it will be asked for again."""

        def forward(*_args: Any, **_kwargs: Any) -> Any:
            value = self._rooms[number].to(self._layer.weight.device)
            if number not in self._written:
                value = self._layer(value)
                if keep:
                    self._space.give_back(self._rooms[number])
                    self._rooms[number] = self._space.put(value)
                    self._written.add(number)
            return _told(value, self._beside)

        return forward

    def give_back(self) -> None:
        for room in self._rooms:
            self._space.give_back(room)


@contextmanager
def _ending(layer: nn.Linear, keeping: _Kept | None) -> Iterator[None]:
    """Forwards end where `layer` reads, after the hooks that it has."""

    def hook(_layer: Any, args: Any) -> None:
        if keeping is not None:
            keeping.note(args[0])
        raise _There

    handle = layer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _standing_in(kept: Sequence[_Kept], number: int, keep: bool) -> Iterator[None]:
    for one in kept:
        one.module.forward = one.stand_in(number, keep)
    try:
        yield
    finally:
        for one in kept:
            del one.module.forward
