"""The last layer of a language model as plain tensors: logits of hidden states, and back.

A LoRA adapter on it is part of it: logits = h W^T + bias + scale (h A^T) B^T.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from featherweight.errors import TrainingError


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
        torch.mm(h, self.weight.t(), out=out)
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
            torch.mm(g, self.weight, out=out)
            if back is not None and self.lora_a is not None:
                out.addmm_(back, self.lora_a)
        if weight is not None:
            weight[:width].addmm_(g.t(), h)
        if bias is not None:
            bias[:width].add_(g.sum(0))
        if a is not None and back is not None:
            a.addmm_(back.t(), h)
        if b is not None and low is not None:
            b[:width].addmm_(g.t(), low, alpha=self.scale)


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
