"""One loss for SFT, LoRA, KD, NEO, CAT and Gatekeeper, over the supervised rows of a batch.

Per supervised token i, with student p, teacher q, gold token y (w = `kd_weight`, T = temperature):

    L = 1/Z * sum_i m_i [ (1-w) CE(y_i, p_i) + w T^2 D(q_i, p_i) ]

What is special: the loss is the last operation of a forward, so its gradient is formed there too,
while a chunk's logits are hot. Nothing is computed twice and [N, V] never exists, of neither
model: `chunk` rows at a time are projected into two buffers, and the rest is done on a few rows
that fit the processor's cache. Backward multiplies by a number. Work: 2s + t with a teacher in
memory or its hidden states, 2s with its top-k (s and t: one projection of the rows by student
and teacher), half of the student's share where no gradient is asked.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from featherweight.distill.divergence import Divergence, divergence, to_uniform, top_k_kl
from featherweight.distill.head import Head

Mask = Literal["all", "either", "student", "teacher", "random"]
# both buffers of a chunk together: 96 rows of 151,936 tokens; with 40 a row takes a fifth longer
CHUNK_BYTES = 112 << 20
BLOCK_BYTES = 2 << 20  # rows worked on at once on a CPU: about its second-level cache


@dataclass(frozen=True)
class Objective:
    """The settings of one loss.

    `mask` is CAT's: `either` keeps the tokens that student or large model predicts (argmax,
    teacher forced); `student`, `teacher` and `random` are its controls, the last being `either`
    shuffled among the rows of a call (more exactly, of a chunk): the same rate at every step.
    `gate` g makes it Gatekeeper instead: g r CE + (1-g)(1-r) KL(p || uniform), r = student right.
    `mix` is b of jsd (default 0.5) and l of the skewed divergences (default 0.1).
    """

    kd_weight: float = 0.0
    divergence: Divergence = "forward_kl"
    mix: float | None = None
    temperature: float = 1.0
    mask: Mask = "all"
    gate: float | None = None

    @property
    def mixed(self) -> float:
        if self.mix is not None:
            return self.mix
        return 0.5 if self.divergence == "jsd" else 0.1

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher's distribution is read."""
        return self.gate is None and self.kd_weight > 0

    @property
    def needs_correctness(self) -> bool:
        """Whether one must know where the large model is right."""
        return self.gate is None and self.mask in ("either", "teacher", "random")


class TopK(NamedTuple):
    """A teacher's likeliest tokens for n rows: ids [n, k] int64, log-probabilities, tail [n]."""

    ids: Tensor
    logprobs: Tensor
    tail: Tensor


class Hidden(NamedTuple):
    """A teacher's final hidden states [n, Ht] and the head that makes logits of them."""

    states: Tensor
    head: Head


class Sums(NamedTuple):
    """Sums over the rows, float32 scalars on the rows' device; only `loss` has a gradient.

    `ce` and `kd` are unweighted and before the mask, `kept` counts rows that the mask leaves,
    `right` rows whose gold token the student predicts.
    """

    loss: Tensor
    ce: Tensor
    kd: Tensor
    kept: Tensor
    right: Tensor


def rows_loss(
    objective: Objective,
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    scale: Tensor | float,
    teacher: TopK | Hidden | None = None,
    correct: Tensor | None = None,
    vocabulary: int | None = None,
    chunk: int | None = None,
) -> Sums:
    """The loss of n supervised rows, times `scale` (1/Z).

    `hidden` [n, H] are the student's final states where a token is to be predicted, `labels` [n]
    int64 those tokens, `correct` [n] bool where the large model predicts them (made here where
    `teacher` is `Hidden`). `vocabulary` cuts both heads to the tokens they share, before the
    product. `chunk` rows are projected at once, else as many as CHUNK_BYTES hold. n may be 0.
    """
    if objective.needs_teacher and teacher is None:
        raise ValueError("kd_weight is above 0 and there is no teacher")
    if objective.needs_correctness and correct is None and not isinstance(teacher, Hidden):
        raise ValueError("the mask needs `correct`, or a teacher's hidden states")
    if correct is not None and not objective.needs_teacher:
        teacher = None  # its logits would be made for nothing
    tensors = (hidden, head.weight, head.bias, head.lora_a, head.lora_b)
    job = _Job(objective, head, labels, teacher, correct, vocabulary, chunk)
    scale = torch.as_tensor(scale, dtype=torch.float32, device=hidden.device)
    return Sums(*_RowsLoss.apply(job, scale, torch.is_grad_enabled(), *tensors))


class _Job(NamedTuple):
    objective: Objective
    head: Head
    labels: Tensor
    teacher: TopK | Hidden | None
    correct: Tensor | None
    vocabulary: int | None
    chunk: int | None


class _RowsLoss(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, job: _Job, scale: Tensor, wanted: bool, *tensors: Tensor | None) -> Any:
        needs = [wanted and t is not None and t.requires_grad for t in tensors]
        with torch.autocast(tensors[0].device.type, enabled=False):  # type: ignore[union-attr]
            sums, gradients = _run(job, tensors, needs)
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(scale)
        ctx.gradients = gradients
        loss = sums[0] * scale
        ctx.mark_non_differentiable(*sums[1:])
        return loss, *sums[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        gradients = ctx.gradients
        if gradients is None:
            raise RuntimeError("rows_loss keeps no graph; call backward once")
        ctx.gradients = None  # spent: they are scaled in place
        return None, None, None, *(None if g is None else g.mul_(grad) for g in gradients)


def _run(
    job: _Job, tensors: tuple[Tensor | None, ...], needs: list[bool]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Sums (loss, ce, kd, kept, right), and the gradients of hidden, weight, bias, A and B."""
    hidden, head = tensors[0], job.head.detached().cut(job.vocabulary)
    assert hidden is not None
    hidden = hidden.detach()
    device, dtype = hidden.device, _computed(hidden.dtype)
    teacher = job.teacher
    if isinstance(teacher, Hidden):
        theirs = teacher.head.detached().cut(job.vocabulary)
        teacher = Hidden(teacher.states, _computing(theirs, dtype, device))
    grads: list[Tensor | None] = [
        torch.zeros_like(t, dtype=dtype) if t is not None and needed else None
        for t, needed in zip(tensors, needs, strict=True)
    ]
    head = _computing(head, dtype, device)
    rows, width = len(job.labels), len(head.weight)
    sums = [torch.zeros((), dtype=dtype, device=device) for _ in range(5)]
    held = isinstance(teacher, Hidden)
    step = job.chunk or max(1, CHUNK_BYTES // (width * dtype.itemsize * (2 if held else 1)))
    step = max(1, math.ceil(rows / max(1, math.ceil(rows / step))))  # equal chunks, no short last
    student = torch.empty(step, width, dtype=dtype, device=device)
    other = torch.empty_like(student) if held else None
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        h, z = hidden[part], student[: part.stop - start]
        low = head.project(h, out=z)
        if isinstance(teacher, Hidden):
            assert other is not None
            q: Tensor | None = other[: len(z)]
            teacher.head.project(teacher.states[part], out=q)
        else:
            q = None
        correct = None if job.correct is None else job.correct[part]
        if job.objective.mask == "random":
            correct = _shuffled(z, q if correct is None else correct, job.labels[part])
        for block in _blocks(len(z), width * dtype.itemsize, device):
            row = slice(start + block.start, start + block.stop)
            found = block_loss(
                job.objective,
                z[block],
                None if q is None else q[block],
                job.labels[row],
                TopK(*(t[row] for t in teacher)) if isinstance(teacher, TopK) else None,
                None if correct is None else correct[block],
                gradient=any(needs),
            )
            for total, value in zip(sums, found, strict=True):
                total += value.sum()
        if any(needs):
            head.backward(z, h, low, grads, part)
    return sums, [
        None if g is None or t is None else g.to(t.dtype)
        for g, t in zip(grads, tensors, strict=True)
    ]


def _computed(dtype: torch.dtype) -> torch.dtype:
    """Logits are float32 at least: bf16 has 8 bits, and a logit of 20 would be off by 0.06."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _computing(head: Head, dtype: torch.dtype, device: torch.device) -> Head:
    """Tiles of weights are widened in a CPU's cache; a GPU has one copy made."""
    return head.adapter_to(dtype) if device.type == "cpu" else head.to(dtype)


def _blocks(rows: int, row_bytes: int, device: torch.device) -> list[slice]:
    step = rows if device.type != "cpu" else max(1, BLOCK_BYTES // row_bytes)
    return [slice(a, min(a + step, rows)) for a in range(0, rows, step)]


def block_loss(
    objective: Objective,
    z: Tensor,
    q: Tensor | None,
    labels: Tensor,
    top: TopK | None,
    correct: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, CE, KD, kept, right of n rows [n]; `z` [n, V] becomes the loss's gradient.

    `z` and `q` are logits of student and teacher; both are spent.
    """
    w, temperature = objective.kd_weight, objective.temperature
    at = labels[:, None]
    right = z.argmax(1) == labels
    if objective.needs_correctness and correct is None:
        assert q is not None
        correct = q.argmax(1) == labels
    m = _kept(objective, right, correct).to(z.dtype)
    if objective.gate is not None:
        return _gatekeeper(objective.gate, z, at, right)
    teaches = objective.needs_teacher
    if teaches and temperature != 1:
        tempered = (z / temperature).log_softmax(1)
    z.sub_(z.logsumexp(1, keepdim=True))
    ce = z.gather(1, at)[:, 0].neg_()
    if not teaches:
        if gradient:
            z.exp_().scatter_add_(1, at, torch.full_like(ce, -1.0)[:, None])
            if objective.mask != "all":
                z.mul_(m[:, None])
        return m * ce, ce, torch.zeros_like(ce), m, right
    if temperature == 1:
        tempered = z if w == 1 else z.clone()
    if top is not None:
        t = top.logprobs.to(z.dtype)
        kd, kd_gradient = top_k_kl(tempered, top.ids, t, top.tail.to(z.dtype))
    else:
        assert q is not None
        t = q.div_(temperature)
        t.sub_(t.logsumexp(1, keepdim=True))
        kd, kd_gradient = divergence(objective.divergence, tempered, t, objective.mixed)
    loss = m * ((1 - w) * ce + w * temperature**2 * kd)
    if gradient:
        if w < 1:
            z.exp_().mul_(1 - w)
            z.scatter_add_(1, at, torch.full_like(ce, w - 1)[:, None])
            z.add_(kd_gradient, alpha=w * temperature)  # T^2, and 1/T of the inner derivative
        else:
            torch.mul(kd_gradient, temperature, out=z)
        if objective.mask != "all":
            z.mul_(m[:, None])
    return loss, ce, kd, m, right


def _kept(objective: Objective, right: Tensor, correct: Tensor | None) -> Tensor:
    if objective.mask == "all":
        return torch.ones_like(right)
    if objective.mask == "student":
        return right
    assert correct is not None  # of a random mask the mask itself, made for the whole chunk
    return right | correct if objective.mask == "either" else correct


def _shuffled(z: Tensor, theirs: Tensor | None, labels: Tensor) -> Tensor:
    """The mask `either` of a chunk in another order, always the same one for the same labels.

    `theirs` are the teacher's logits [n, V], or where it is right [n] bool.
    """
    assert theirs is not None
    correct = theirs if theirs.dtype == torch.bool else theirs.argmax(1) == labels
    either = (z.argmax(1) == labels) | correct
    order = torch.Generator().manual_seed(int(labels.sum()))
    return either[torch.randperm(len(either), generator=order).to(either.device)]


def _gatekeeper(
    gate: float, z: Tensor, at: Tensor, right: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Learn what is right already, be unsure of the rest (Gatekeeper, arXiv 2502.19335)."""
    z.sub_(z.logsumexp(1, keepdim=True))
    ce = z.gather(1, at)[:, 0].neg_()
    r = right.to(z.dtype)
    unsure, unsure_gradient = to_uniform(z.clone())
    loss = gate * r * ce + (1 - gate) * (1 - r) * unsure
    z.exp_().scatter_add_(1, at, torch.full_like(ce, -1.0)[:, None])
    z.mul_((gate * r)[:, None]).addcmul_(unsure_gradient, ((1 - gate) * (1 - r))[:, None])
    return loss, ce, unsure, r, right
