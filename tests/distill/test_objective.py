"""The loss against plain float64 autograd: every divergence, mask, method, dtype and head."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featherweight.distill.divergence import DIVERGENCES
from featherweight.distill.head import Head
from featherweight.distill.objective import Hidden, Objective, Sums, TopK, rows_loss

N, V, H, HT, R = 13, 29, 6, 7, 3


def plain_divergence(name: str, ls: torch.Tensor, lt: torch.Tensor, mix: float) -> torch.Tensor:
    p, q = ls.exp(), lt.exp()

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a.log() - b.log())).sum(1)

    if name == "forward_kl":
        return kl(q, p)
    if name == "reverse_kl":
        return kl(p, q)
    if name == "jsd":
        m = mix * q + (1 - mix) * p
        return mix * kl(q, m) + (1 - mix) * kl(p, m)
    if name == "skew_kl":
        return kl(q, mix * q + (1 - mix) * p)
    return kl(p, mix * p + (1 - mix) * q)


def plain(
    objective: Objective,
    h: torch.Tensor,
    head: Head,
    y: torch.Tensor,
    scale: float,
    teacher: Hidden | None,
    correct: torch.Tensor | None,
    vocabulary: int,
) -> torch.Tensor:
    """The formula of the docstring, [N, V] and all."""
    z = h @ head.weight.t()
    if head.bias is not None:
        z = z + head.bias
    if head.lora_a is not None:
        z = z + head.scale * (h @ head.lora_a.t()) @ head.lora_b.t()
    z = z[:, :vocabulary]
    ls = F.log_softmax(z, 1)
    ce = F.cross_entropy(z, y, reduction="none")
    right = z.detach().argmax(1) == y
    if objective.gate is not None:
        r, g = right.double(), objective.gate
        uniform = (ls.exp() * (ls + math.log(z.shape[1]))).sum(1)
        return scale * (g * r * ce + (1 - g) * (1 - r) * uniform).sum()
    kd = torch.zeros_like(ce)
    if teacher is not None:
        q = (teacher.states @ teacher.head.weight.t())[:, :vocabulary]
        t = objective.temperature
        kd = plain_divergence(
            objective.divergence,
            F.log_softmax(z / t, 1),
            F.log_softmax(q / t, 1),
            objective.mixed,
        )
        if correct is None:
            correct = q.argmax(1) == y
    m = {"all": torch.ones_like(right), "student": right, "teacher": correct}.get(objective.mask)
    if objective.mask == "either":
        m = right | correct
    w = objective.kd_weight
    return scale * (m * ((1 - w) * ce + w * objective.temperature**2 * kd)).sum()


def made(
    seed: int = 0, dtype: torch.dtype = torch.float64, n: int = N, extra: int = 0
) -> tuple[torch.Tensor, Head, torch.Tensor, Hidden]:
    """Hidden states, a head with everything on it, labels, a teacher; `extra` rows of padding."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    head = Head(
        draw(V + extra, H).requires_grad_(),
        draw(V + extra).requires_grad_(),
        draw(R, H).requires_grad_(),
        draw(V + extra, R).requires_grad_(),
        0.5,
    )
    teacher = Hidden(draw(n, HT), Head(draw(V, HT)))
    h, y = draw(n, H), torch.randint(0, V, (n,), generator=g)
    with torch.no_grad():  # a third of the tokens each is predicted by the student, the teacher
        low = (h @ head.lora_a.t()) @ head.lora_b.t()
        y[::3] = (h @ head.weight.t() + head.bias + head.scale * low)[::3, :V].argmax(1)
        y[1::3] = (teacher.states @ teacher.head.weight.t())[1::3].argmax(1)
    return h.requires_grad_(), head, y, teacher


def gradients(loss: torch.Tensor, h: torch.Tensor, head: Head) -> list[torch.Tensor]:
    leaves = [t for t in (h, head.weight, head.bias, head.lora_a, head.lora_b) if t is not None]
    return list(torch.autograd.grad(loss, leaves))


METHODS = [
    Objective(),
    *(Objective(0.5, d, temperature=t) for d in DIVERGENCES for t in (1.0, 2.0)),
    *(Objective(1.0, d) for d in DIVERGENCES),
    Objective(0.7, "jsd", mix=0.1),
    Objective(0.3, "skew_kl", mix=0.4),
    *(Objective(0.0, mask=m) for m in ("either", "student", "teacher")),
    *(Objective(0.5, d, mask=m) for d in DIVERGENCES for m in ("either", "student", "teacher")),
    Objective(gate=0.3),
    Objective(gate=1.0),
]


@pytest.mark.parametrize("objective", METHODS, ids=str)
@pytest.mark.parametrize("chunk", [None, 4])
def test_equals_autograd(objective: Objective, chunk: int | None) -> None:
    h, head, y, teacher = made()
    want = plain(objective, h, head, y, 0.25, teacher, None, V)
    got = rows_loss(objective, h, head, y, 0.25, teacher, chunk=chunk)
    torch.testing.assert_close(got.loss.double(), want.detach(), rtol=1e-9, atol=1e-9)
    for a, b in zip(gradients(got.loss, h, head), gradients(want, h, head), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_lower_precision_is_near(dtype: torch.dtype, close: float, name: str) -> None:
    objective = Objective(0.5, name)  # type: ignore[arg-type]
    h, head, y, teacher = made(dtype=dtype)
    exact = h.detach().double().requires_grad_()
    exact_head = head.map(lambda t: t.detach().double().requires_grad_())
    of = Hidden(teacher.states.double(), teacher.head.to(torch.float64))
    full = plain(objective, exact, exact_head, y, 1.0, of, None, V)
    got = rows_loss(objective, h, head, y, 1.0, teacher)
    assert got.loss.dtype == torch.float32
    torch.testing.assert_close(got.loss.double(), full, rtol=close, atol=close)
    found, wanted = gradients(got.loss, h, head), gradients(full, exact, exact_head)
    assert [g.dtype for g in found] == [dtype] * 5
    for a, b in zip(found, wanted, strict=True):
        assert (a.double() - b).norm() < close * b.norm()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(METHODS),
    st.integers(1, 17),
    st.integers(1, 20),
)
def test_chunks_do_not_matter(seed: int, objective: Objective, rows: int, chunk: int) -> None:
    h, head, y, teacher = made(seed, n=rows)
    one = rows_loss(objective, h, head, y, 0.5, teacher, chunk=chunk)
    all_ = rows_loss(objective, h, head, y, 0.5, teacher, chunk=rows)
    for a, b in zip(one, all_, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(gradients(one.loss, h, head), gradients(all_.loss, h, head), strict=True):
        torch.testing.assert_close(a, b)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, forward or backward."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.numbers = max(self.numbers, *made, 0)
        return out


@pytest.mark.parametrize("objective", METHODS, ids=str)
def test_logits_of_all_rows_never_exist(
    objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither model's: chunks follow the byte budget."""
    monkeypatch.setattr("featherweight.distill.objective.CHUNK_BYTES", 8 * V * 50)
    h, head, y, teacher = made(n=1000)
    with Largest() as largest:
        gradients(rows_loss(objective, h, head, y, 1.0, teacher).loss, h, head)
    assert 1000 <= largest.numbers <= 1000 * HT < 1000 * V / 4


def test_padded_vocabulary_is_sliced() -> None:
    """Qwen's case: rows of the student's head that stand for no token get neither mass nor grad."""
    h, head, y, teacher = made(extra=5)
    objective = Objective(0.5)
    got = rows_loss(objective, h, head, y, 1.0, teacher, vocabulary=V)
    want = plain(objective, h, head, y, 1.0, teacher, None, V)
    torch.testing.assert_close(got.loss.double(), want.detach())
    found = gradients(got.loss, h, head)
    for a, b in zip(found, gradients(want, h, head), strict=True):
        torch.testing.assert_close(a, b)
    assert found[1][V:].abs().max() == 0


def top_k(teacher: Hidden, k: int) -> TopK:
    q = F.log_softmax(teacher.states @ teacher.head.weight.t(), 1)
    values, ids = q.topk(k)
    return TopK(ids, values, 1 - values.exp().sum(1) if k < V else torch.zeros(len(q)).double())


def test_all_of_the_vocabulary_cached_equals_online() -> None:
    h, head, y, teacher = made()
    for objective in (Objective(0.5), Objective(1.0), Objective(0.5, mask="student")):
        a = rows_loss(objective, h, head, y, 1.0, teacher)
        b = rows_loss(objective, h, head, y, 1.0, top_k(teacher, V))
        torch.testing.assert_close(a.loss, b.loss)
        for x, z in zip(gradients(a.loss, h, head), gradients(b.loss, h, head), strict=True):
            torch.testing.assert_close(x, z)


@pytest.mark.parametrize("k", [1, 4, V - 1])
def test_top_k_with_tail_equals_autograd(k: int) -> None:
    h, head, y, teacher = made()
    top = top_k(teacher, k)
    z = h @ head.weight.t() + head.bias + head.scale * (h @ head.lora_a.t()) @ head.lora_b.t()
    on = F.log_softmax(z, 1).gather(1, top.ids)
    tail = 1 - on.exp().sum(1)
    kl = (top.logprobs.exp() * (top.logprobs - on)).sum(1) + top.tail * (top.tail / tail).log()
    want = 0.5 * F.cross_entropy(z, y, reduction="sum") + 0.5 * kl.sum()
    got = rows_loss(Objective(0.5), h, head, y, 1.0, top)
    torch.testing.assert_close(got.loss.double(), want.detach())
    for a, b in zip(gradients(got.loss, h, head), gradients(want, h, head), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    full = rows_loss(Objective(1.0), h, head, y, 1.0, teacher).loss
    assert rows_loss(Objective(1.0), h, head, y, 1.0, top).loss <= full + 1e-9  # coarser


def test_mask_truth_table() -> None:
    """Four rows: student right and wrong, large model right and wrong."""
    weight = torch.eye(4, dtype=torch.float64)
    h = 5 * torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3]]
    y = torch.tensor([0, 1, 3, 0])  # the student is right on the first two
    correct = torch.tensor([True, False, True, False])
    kept = {}
    for mask in ("all", "student", "teacher", "either"):
        found = rows_loss(Objective(mask=mask), h, Head(weight), y, 1.0, correct=correct)  # type: ignore[arg-type]
        kept[mask] = int(found.kept)
        assert int(found.right) == 2
    assert kept == {"all": 4, "student": 2, "teacher": 2, "either": 3}


def test_all_ones_mask_is_cross_entropy() -> None:
    h, head, y, _ = made()
    everything = torch.ones(N, dtype=torch.bool)
    a = rows_loss(Objective(mask="either"), h, head, y, 1.0, correct=everything)
    b = rows_loss(Objective(), h, head, y, 1.0)
    torch.testing.assert_close(a.loss, b.loss, rtol=0, atol=0)
    for x, z in zip(gradients(a.loss, h, head), gradients(b.loss, h, head), strict=True):
        torch.testing.assert_close(x, z, rtol=0, atol=0)


def test_the_mask_has_no_gradient_of_its_own_and_keeps_z() -> None:
    h, head, y, _ = made()
    half = torch.arange(N) % 2 == 0
    found = rows_loss(Objective(mask="random"), h, head, y, 1 / N, correct=half)
    assert 0 < int(found.kept) < N
    assert found.loss < found.ce / N  # divided by all rows, not by those that are left


def test_random_mask_is_either_in_another_order() -> None:
    torch.manual_seed(0)
    h, head = torch.randn(400, 8), Head(torch.randn(9, 8))
    y, correct = torch.randint(9, (400,)), torch.rand(400) < 0.5

    def mask(name: str) -> torch.Tensor:  # with Z = 1 a row's gradient is 0 iff it is masked
        leaf = h.clone().requires_grad_()
        found = rows_loss(Objective(mask=name), leaf, head, y, 1.0, correct=correct)  # type: ignore[arg-type]
        found.loss.backward()
        assert leaf.grad is not None
        kept = leaf.grad.abs().sum(1) > 0
        assert int(kept.sum()) == int(found.kept)
        return kept

    either, random = mask("either"), mask("random")
    assert int(either.sum()) == int(random.sum())
    agree = float((either == random).float().mean())
    rate = float(either.float().mean())
    assert abs(agree - (rate**2 + (1 - rate) ** 2)) < 0.1  # as two independent ones do
    torch.manual_seed(1)
    torch.testing.assert_close(mask("random"), random)  # a resumed run draws the same


def test_random_mask_from_a_teachers_hidden_states() -> None:
    torch.manual_seed(0)
    h, head = torch.randn(60, 8), Head(torch.randn(9, 8))
    teacher = Hidden(torch.randn(60, 5), Head(torch.randn(9, 5)))
    y = torch.randint(9, (60,))
    correct = (teacher.states @ teacher.head.weight.T).argmax(1) == y
    a = rows_loss(Objective(mask="random"), h, head, y, 1.0, correct=correct)
    b = rows_loss(Objective(mask="random"), h, head, y, 1.0, teacher)
    torch.testing.assert_close(a.loss, b.loss)
    c = rows_loss(Objective(0.5, mask="random"), h, head, y, 1.0, teacher)
    assert int(c.kept) == int(a.kept) > 0


def test_identical_models_have_nothing_to_distil() -> None:
    h, _, y, _ = made()
    head = Head(torch.randn(V, H, dtype=torch.float64))
    for name, temperature in itertools.product(DIVERGENCES, (1.0, 3.0)):
        objective = Objective(1.0, name, temperature=temperature)  # type: ignore[arg-type]
        found = rows_loss(objective, h, head, y, 1.0, Hidden(h.detach(), head))
        assert abs(float(found.loss.detach())) < 1e-9
        (gradient,) = torch.autograd.grad(found.loss, [h])
        assert gradient.abs().max() < 1e-9


def test_certain_models_give_finite_numbers() -> None:
    """Logits 200 apart: probabilities underflow, nothing may become NaN or infinite."""
    h = torch.eye(4) * 200
    h.requires_grad_()
    head, teacher = Head(torch.eye(4)), Hidden(-200 * torch.eye(4), Head(torch.eye(4)))
    y = torch.tensor([1, 2, 3, 0])
    top = TopK(
        torch.tensor([[1], [2], [3], [0]]), torch.full((4, 1), -1e-4), torch.full((4,), 1e-4)
    )
    for name in DIVERGENCES:
        found = rows_loss(Objective(0.5, name), h, head, y, 1.0, teacher)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(found.loss, [h])
        assert torch.isfinite(found.loss) and torch.isfinite(gradient).all(), name
    found = rows_loss(Objective(0.5), h, head, y, 1.0, top)
    (gradient,) = torch.autograd.grad(found.loss, [h])
    assert torch.isfinite(found.loss) and torch.isfinite(gradient).all()


def test_evaluation_forms_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    h, head, y, teacher = made()
    with_gradient = rows_loss(Objective(0.5), h, head, y, 1.0, teacher)

    def refuse(*_: object) -> None:
        raise AssertionError("a gradient was formed")

    monkeypatch.setattr(Head, "backward", refuse)
    with torch.no_grad():
        found = rows_loss(Objective(0.5), h, head, y, 1.0, teacher)
    torch.testing.assert_close(found.loss, with_gradient.loss.detach())
    assert not found.loss.requires_grad
    with pytest.raises(AssertionError, match="formed"):
        rows_loss(Objective(0.5), h, head, y, 1.0, teacher)


def test_a_frozen_head_gets_no_gradient() -> None:
    h, head, y, teacher = made()
    frozen = head.detached()
    found = rows_loss(Objective(0.5), h, frozen, y, 1.0, teacher)
    found.loss.backward()
    assert h.grad is not None and frozen.weight.grad is None


def test_tied_weights_accumulate() -> None:
    """One matrix as embedding and as head: its gradient is the sum of both uses."""
    weight = torch.randn(V, H, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, V, (N,))
    y = torch.randint(0, V, (N,))
    got = rows_loss(Objective(), torch.tanh(weight[ids]), Head(weight), y, 1.0).loss
    want = F.cross_entropy(torch.tanh(weight[ids]) @ weight.t(), y, reduction="sum")
    (a,), (b,) = torch.autograd.grad(got, [weight]), torch.autograd.grad(want, [weight])
    torch.testing.assert_close(a, b)


def test_no_rows_is_zero_with_a_graph() -> None:
    """A rank whose micro-batch is all filler must still take part in the backward."""
    h = torch.zeros(0, H, requires_grad=True)
    found = rows_loss(Objective(), h, Head(torch.randn(V, H)), torch.zeros(0, dtype=torch.int64), 1)
    found.loss.backward()
    assert float(found.loss.detach()) == 0 and h.grad is not None


def test_the_sums_are_of_all_rows() -> None:
    h, head, y, teacher = made()
    found = rows_loss(Objective(0.5, mask="student"), h, head, y, 0.1, teacher)
    assert isinstance(found, Sums)
    bare = plain(Objective(), h, head, y, 1.0, None, None, V)
    torch.testing.assert_close(found.ce.double(), bare.detach())
    assert not found.ce.requires_grad


def test_a_second_backward_is_refused() -> None:
    h, head, y, _ = made()
    loss = rows_loss(Objective(), h, head, y, 1.0).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


@pytest.mark.parametrize("objective", [Objective(0.5), Objective(mask="either")])
def test_what_is_missing_is_said(objective: Objective) -> None:
    h, head, y, _ = made()
    with pytest.raises(ValueError, match=r"teacher"):
        rows_loss(objective, h, head, y, 1.0)
