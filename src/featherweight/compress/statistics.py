"""What is known of a layer's inputs x: the means of x x^T and of x. C inputs.

Layers that read the very same tensor (q, k and v; gate and up) share one, found by the tensor's
identity as the model runs, not by names.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featherweight.errors import CompressError

PARTS = 8  # row blocks of the upper triangle; each is one product


@dataclass(frozen=True)
class Statistics:
    """Means over `tokens` inputs of a layer, in float32."""

    tokens: int
    mean: Tensor  # [C]
    hessian: Tensor  # [C, C], of x x^T

    @property
    def square(self) -> Tensor:
        """[C], of x^2."""
        return self.hessian.diagonal()


class Collector:
    """Sums over everything that a block's linear layers read, added up by hooks.

    Set before each forward: `real`, the tokens that count, [B, T] bool or `None` for all; and
    `memory`, what a decoder is told of an encoder [B, S, C], with the tokens of it that are real.
    """

    def __init__(self, linears: Mapping[str, Any]) -> None:
        self._sums: dict[str, _Sums] = {}
        self._owner: dict[str, str] = {}  # by layer, whose sums are its own
        self._last: tuple[Any, str] | None = None
        self.real: Tensor | None = None
        self.memory: tuple[Tensor, Tensor] | None = None
        self._hooks = [
            linear.register_forward_pre_hook(self._hook(name)) for name, linear in linears.items()
        ]

    def _hook(self, name: str) -> Any:
        def hook(_linear: Any, args: Any) -> None:
            if self._last is not None and args[0] is self._last[0]:
                self._owner[name] = self._last[1]
                return
            self._last = (args[0], name)
            self._owner[name] = name
            if name not in self._sums:
                width = args[0].shape[-1]
                self._sums[name] = _Sums(width, args[0].device)
            self._sums[name].add(self._counted(args[0]))

        return hook

    def _counted(self, inputs: Tensor) -> Tensor:
        # told apart by identity: both may be of one length
        other = self.memory is not None and inputs is self.memory[0]
        real = self.memory[1] if self.memory is not None and other else self.real
        return inputs.flatten(0, -2) if real is None else inputs[real]

    def forget(self) -> None:
        """After each forward: a new tensor can have a dead one's identity."""
        self._last = None

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def found(self) -> list[tuple[list[str], Statistics]]:
        """Layers that share inputs, and what is known of these; frees each sum as it is read."""
        groups: dict[str, list[str]] = {}
        for name, owner in self._owner.items():
            groups.setdefault(owner, []).append(name)
        return [(names, self._sums.pop(owner).means()) for owner, names in groups.items()]


class _Sums:
    def __init__(self, width: int, device: Any) -> None:
        self._tokens = 0
        self._sum = torch.zeros(width, dtype=torch.float64, device=device)
        self._upper = torch.zeros(width, width, device=device)

    def add(self, inputs: Tensor) -> None:
        """Inputs [N, C]; products in float32: bf16 ones left some not positive definite."""
        x = inputs.float()
        self._tokens += len(x)
        self._sum += x.sum(0)
        width = x.shape[1]
        step = -(-width // PARTS)
        for first in range(0, width, step):
            last = first + step
            self._upper[first:last, first:].addmm_(x[:, first:last].t(), x[:, first:])

    def means(self) -> Statistics:
        count = max(self._tokens, 1)
        hessian = self._upper.triu_().div_(count)
        hessian += hessian.triu(1).t()
        return Statistics(self._tokens, (self._sum / count).float(), hessian)


def check_found(linears: Mapping[str, Any], found: list[tuple[list[str], Statistics]]) -> None:
    """Raise `CompressError` unless every layer read something, and numbers only."""
    check_read(linears, {name for names, _ in found for name in names})
    for names, statistics in found:
        if not finite(statistics.hessian):
            raise CompressError(
                f"{names[0]}: what it reads holds NaN or infinity; look for broken weights."
            )


def finite(values: Tensor) -> bool:
    """Whether all are numbers; `isfinite` takes twice the room of `values`."""
    return all(math.isfinite(edge) for edge in torch.aminmax(values))


def check_read(names: Collection[str], seen: Collection[str]) -> None:
    """Raise `CompressError` where a layer read nothing."""
    if missing := sorted({*names} - {*seen}):
        more = f" and {len(missing) - 1} more layers" if len(missing) > 1 else ""
        raise CompressError(
            f"{missing[0]}{more} read nothing while the texts were read, so nothing is known of "
            "that; this architecture cannot be compressed here."
        )
