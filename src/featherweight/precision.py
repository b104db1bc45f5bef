"""Whether a device multiplies bfloat16 faster than float32: told by GPUs, measured on CPUs.

A CPU's flags do not say: with avx512_bf16 AMD's Zen 4 is two to three times as fast in bfloat16,
and an Intel Xeon whose AMX is hidden by its virtual machine half as fast as in float32.
"""

import time
from functools import cache

import torch

SHAPE = 256, 576, 576  # tokens, and a projection of SmolLM2-135M: less than a time slice
ROUNDS = 20
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
    pays = speed(torch.float32, torch.bfloat16) >= FASTER
    return pays, f"this CPU multiplies bf16 {'faster' if pays else 'no faster'} than fp32"


def speed(one: torch.dtype, other: torch.dtype) -> float:
    """How many times as fast as `one` this CPU multiplies `other`: the best of interleaved rounds.

    Of one thread, since two that wait for each other on a busy machine measure the others' work;
    the first round, which sets up, is not counted. A tenth of a second.
    """
    n, width, out = SHAPE
    pairs = [(torch.ones(n, width, dtype=d), torch.ones(out, width, dtype=d)) for d in (one, other)]
    best = [float("inf")] * 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(ROUNDS + 1):
            for at, (x, weight) in enumerate(pairs):
                started = time.perf_counter()
                torch.nn.functional.linear(x, weight)
                if turn:
                    best[at] = min(best[at], time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return best[0] / best[1]
