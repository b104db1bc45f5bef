"""How far a student's distribution is from a teacher's, with the gradient in closed form.

Every function takes natural-log probabilities of the same rows, [n, V] float32 or float64: `s` of
the student, `t` of the teacher. It returns the divergence of each row [n] and its gradient with
respect to the student's logits [n, V]. Both inputs are spent: their memory may be written over.

| name | D(t, s) | source |
| --- | --- | --- |
| forward_kl | KL(t \\|\\| s) | Hinton et al. 2015; LLM-NEO, arXiv 2411.06839 |
| reverse_kl | KL(s \\|\\| t) | MiniLLM, arXiv 2306.08543, its single-step term |
| jsd | b KL(t \\|\\| m) + (1-b) KL(s \\|\\| m), m = b t + (1-b) s | GKD, arXiv 2306.13649 |
| skew_kl | KL(t \\|\\| l t + (1-l) s) | DistiLLM, arXiv 2402.03898 |
| skew_reverse_kl | KL(s \\|\\| l s + (1-l) t) | the same |
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Divergence = Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"]
DIVERGENCES: tuple[str, ...] = get_args(Divergence)
Rows = tuple[Tensor, Tensor]


def divergence(name: str, s: Tensor, t: Tensor, mix: float) -> Rows:
    """The divergence `name`; `mix` is b of jsd and l of the skewed ones, else unused."""
    if name == "forward_kl":
        return forward_kl(s, t)
    if name == "reverse_kl":
        return reverse_kl(s, t)
    if name == "jsd":
        return jsd(s, t, mix)
    if name == "skew_kl":
        return skew_kl(s, t, mix)
    if name == "skew_reverse_kl":
        return skew_reverse_kl(s, t, mix)
    raise ValueError(f"no divergence {name!r}; choose one of {', '.join(DIVERGENCES)}")


def forward_kl(s: Tensor, t: Tensor) -> Rows:
    """KL(t || s); gradient p_s - p_t."""
    p = t.exp()
    value = dot(p, t.sub_(s))
    return value, s.exp_().sub_(p)


def reverse_kl(s: Tensor, t: Tensor) -> Rows:
    """KL(s || t); gradient p_s (log p_s / p_t - KL)."""
    ratio = t.neg_().add_(s)
    p = s.exp_()
    value = dot(p, ratio)
    return value, ratio.sub_(value[:, None]).mul_(p)


def jsd(s: Tensor, t: Tensor, b: float) -> Rows:
    """Generalised Jensen-Shannon, 0 < b < 1; gradient (1-b) p_s (log p_s / m - KL(s || m))."""
    m = torch.logaddexp(s + math.log1p(-b), t + math.log(b))
    of_teacher = dot(t.exp(), t.sub_(m))
    ratio = m.neg_().add_(s)
    p = s.exp_()
    of_student = dot(p, ratio)
    gradient = ratio.sub_(of_student[:, None]).mul_(p).mul_(1 - b)
    return b * of_teacher + (1 - b) * of_student, gradient


def skew_kl(s: Tensor, t: Tensor, skew: float) -> Rows:
    """KL(t || m), m = l t + (1-l) s; gradient -(1-l) p_s (r - sum p_s r), r = p_t / m."""
    m = torch.logaddexp(t + math.log(skew), s + math.log1p(-skew))
    value = dot(t.exp(), t - m)
    r = t.sub_(m).exp_()
    p = s.exp_()
    return value, r.sub_(dot(p, r)[:, None]).mul_(p).mul_(skew - 1)


def skew_reverse_kl(s: Tensor, t: Tensor, skew: float) -> Rows:
    """KL(s || m), m = l s + (1-l) t; gradient p_s (r - sum p_s r), r = log(p_s/m) - l p_s/m."""
    ratio = torch.logaddexp(s + math.log(skew), t + math.log1p(-skew)).neg_().add_(s)
    p = s.exp_()
    value = dot(p, ratio)
    r = ratio - ratio.exp().mul_(skew)  # p_s / m is at most 1 / l: no overflow
    return value, r.sub_(dot(p, r)[:, None]).mul_(p)


def to_uniform(s: Tensor) -> Rows:
    """KL(s || uniform), for Gatekeeper (arXiv 2502.19335); gradient p_s (log p_s + entropy)."""
    p = s.exp()
    negative_entropy = dot(p, s)
    gradient = s.sub_(negative_entropy[:, None]).mul_(p)
    return negative_entropy + math.log(s.shape[1]), gradient


def top_k_kl(s: Tensor, ids: Tensor, t: Tensor, tail: Tensor) -> Rows:
    """KL(t || s) over k named tokens and one bucket for all others.

    `ids` [n, k] int64 name the teacher's likeliest tokens, `t` [n, k] their log-probabilities,
    `tail` [n] is the mass that the teacher gives to all others. The gradient is p_s - p_t on the
    support and p_s (1 - tail_t / tail_s) off it. With k = V this is `forward_kl`; with less it is
    coarser, hence never above it.
    """
    on = s.gather(1, ids)
    p = t.exp()
    value = dot(p, t - on)
    gradient = s.exp_()
    support = gradient.gather(1, ids).sub_(p)
    gradient.scatter_(1, ids, 0.0)
    # summed, not 1 - the rest: a sure student's tail would be rounding noise
    tail_s = gradient.sum(1).clamp_min_(torch.finfo(s.dtype).tiny)
    value += torch.xlogy(tail, tail / tail_s)
    gradient.mul_((1 - tail / tail_s).clamp_min_(-1e30)[:, None])
    return value, gradient.scatter_(1, ids, support)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row inner product, [n]."""
    return torch.linalg.vecdot(a, b)
