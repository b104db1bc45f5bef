"""The last layer of a language model as plain tensors: logits of hidden states, and back.

A LoRA adapter on it is part of it: logits = h W^T + bias + scale (h A^T) B^T.

Logits are float32 at least, weights often bfloat16: those are widened a tile at a time, in the
processor's cache, since a whole copy takes as long as projecting a hundred rows, and twice the
weights' memory. Where rows are bfloat16 too, a CPU that multiplies that type does so: products of
bfloat16 numbers added up in float32 lose nothing, at twice the speed and more. On the way back
the logits' gradient is rounded to bfloat16 for it, as the rows' gradient is in the end.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from featherweight.errors import TrainingError

TILE_BYTES = 4 << 20  # of weights projected at once on a CPU


@dataclass(frozen=True)
class Head:
    """`weight` [V, H], `bias` [V] or None, `lora_a` [r, H] and `lora_b` [V, r] or None."""

    weight: Tensor
    bias: Tensor | None = None
    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    scale: float = 1.0

    def map(self, change: Any) -> "Head":
        """`change` applied to every tensor."""

        def changed(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return Head(
            change(self.weight),
            changed(self.bias),
            changed(self.lora_a),
            changed(self.lora_b),
            self.scale,
        )

    def detached(self) -> "Head":
        """The same numbers without a graph."""
        return self.map(Tensor.detach)

    def to(self, dtype: torch.dtype) -> "Head":
        return self.map(lambda tensor: tensor.to(dtype))

    def adapter_to(self, dtype: torch.dtype) -> "Head":
        """Bias and adapter in `dtype`; the weight stays, and is widened where it is used."""

        def changed(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(dtype)

        return replace(
            self,
            bias=changed(self.bias),
            lora_a=changed(self.lora_a),
            lora_b=changed(self.lora_b),
        )

    def cut(self, vocabulary: int | None) -> "Head":
        """The first `vocabulary` rows, as views; all for None."""
        if vocabulary is None or vocabulary == len(self.weight):
            return self
        return replace(
            self,
            weight=self.weight[:vocabulary],
            bias=None if self.bias is None else self.bias[:vocabulary],
            lora_b=None if self.lora_b is None else self.lora_b[:vocabulary],
        )

    def project(self, h: Tensor, out: Tensor) -> Tensor | None:
        """Logits of `h` [n, H] into `out` [n, V]; h A^T [n, r] where there is an adapter."""
        with self._products(h):
            h = h.to(out.dtype)
            # of few rows by a large matrix; by a tile they cost up to a fifth less
            for tile, of in self._tiles(out.dtype, whole=not self.weight.is_cpu):
                torch.mm(h, of.t(), out=out[:, tile])
        if self.bias is not None:
            out.add_(self.bias)
        if self.lora_a is None or self.lora_b is None:
            return None
        low = h @ self.lora_a.t()
        out.addmm_(low, self.lora_b.t(), alpha=self.scale)
        return low

    def backward(
        self, g: Tensor, h: Tensor, low: Tensor | None, grads: list[Tensor | None], rows: slice
    ) -> None:
        """Add what the logits' gradient `g` [n, V] gives to those of hidden, W, bias, A and B.

        `grads` holds a float tensor of each one's full shape, or None where none is wanted;
        hidden's is written at `rows`.
        """
        hidden, weight, bias, a, b = grads
        width = g.shape[1]
        back = None if low is None or self.lora_b is None else (g @ self.lora_b).mul_(self.scale)
        if hidden is not None:
            out = hidden[rows]
            with self._products(h):
                for tile, of in self._tiles(g.dtype, whole=self.weight.dtype == g.dtype):
                    out.addmm_(g[:, tile], of, beta=1 if tile.start else 0)
            if back is not None and self.lora_a is not None:
                out.addmm_(back, self.lora_a)
        if weight is not None:
            weight[:width].addmm_(g.t(), h.to(g.dtype))
        if bias is not None:
            bias[:width].add_(g.sum(0))
        if a is not None and back is not None:
            a.addmm_(back.t(), h.to(g.dtype))
        if b is not None and low is not None:
            b[:width].addmm_(g.t(), low, alpha=self.scale)

    def _tiles(self, dtype: torch.dtype, whole: bool) -> Iterator[tuple[slice, Tensor]]:
        """The weight in `dtype`, `whole` or some rows at a time."""
        count, width = self.weight.shape
        step = count if whole else max(1, TILE_BYTES // (width * dtype.itemsize))
        for start in range(0, count, step):
            tile = slice(start, min(start + step, count))
            yield tile, self.weight[tile].to(dtype)

    def _products(self, h: Tensor) -> AbstractContextManager[None]:
        exact = h.dtype == self.weight.dtype == torch.bfloat16
        known = hasattr(torch.backends.mkldnn, "matmul")  # since torch 2.9
        return _multiplied_in_bf16() if exact and known else nullcontext()


@contextmanager
def _multiplied_in_bf16() -> Iterator[None]:
    """Float32 products on a CPU take bfloat16 factors, where it multiplies those."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def head_of(model: Any, name: str) -> Head:
    """The head of a transformers model, with PEFT's LoRA on it if there is one.

    Raises `TrainingError` for a head that is no linear layer, or DoRA on it.
    """
    module = model.get_output_embeddings()
    if module is None:
        raise TrainingError(f"{name} has no output layer; name a language model.")
    if hasattr(module, "modules_to_save"):  # PEFT trains a whole copy of it
        module = module.modules_to_save[module.active_adapters[0]]
    bias = getattr(module, "bias", None)
    base = module.base_layer if hasattr(module, "base_layer") else module
    if not isinstance(base, torch.nn.Linear):
        raise TrainingError(f"{name}: its output layer is a {type(base).__name__}, not linear.")
    if base is module or not getattr(module, "lora_A", None):
        return Head(base.weight, bias)
    (adapter,) = module.active_adapters
    if getattr(module, "use_dora", {}).get(adapter):
        raise TrainingError(f"{name}: DoRA on the output layer is not supported; leave it out.")
    return Head(
        base.weight,
        base.bias,
        module.lora_A[adapter].weight,
        module.lora_B[adapter].weight,
        float(module.scaling[adapter]),
    )
