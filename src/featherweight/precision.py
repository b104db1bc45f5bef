"""Whether a device multiplies bfloat16 faster than float32: told by GPUs, measured on CPUs.

A CPU's flags do not say: with avx512_bf16 AMD's Zen 4 is two to three times as fast in bfloat16,
and an Intel Xeon whose AMX is hidden by its virtual machine half as fast as in float32.
"""

import time
from functools import cache

import torch

SHAPE = 512, 576, 1536  # tokens, and a projection of SmolLM2-135M
ROUNDS = 5
FASTER = 1.2
"""From so many times the speed of float32 on, bfloat16 is worth its rounding."""


@cache
def bf16_pays(device: str) -> tuple[bool, str]:
    """Whether to compute in bfloat16 on `device`, and why, in a few words."""
    if device.startswith("cuda"):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return True, "this GPU computes bf16"
        return False, "this GPU does not compute bf16"
    if device != "cpu":
        return False, f"the safe choice on {device}"
    ratio = speed(torch.float32, torch.bfloat16)
    return ratio >= FASTER, f"this CPU multiplies bf16 {ratio:.1f} times as fast as fp32"


def speed(one: torch.dtype, other: torch.dtype) -> float:
    """How many times as fast as `one` this CPU multiplies `other`: the best of interleaved rounds.

    A tenth of a second; the first round, which sets up, is not counted.
    """
    n, width, out = SHAPE
    pairs = [(torch.ones(n, width, dtype=d), torch.ones(out, width, dtype=d)) for d in (one, other)]
    best = [float("inf")] * 2
    for turn in range(ROUNDS + 1):
        for at, (x, weight) in enumerate(pairs):
            started = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            if turn:
                best[at] = min(best[at], time.perf_counter() - started)
    return best[0] / best[1]
