"""Bring a compressed model back: soft prompts that are chosen for each input, and their rivals.

A bank's prompts are learnt one by one on a frozen model by `distill`; here they are put together,
and how they are chosen is decided on val. LoRA and NEO repair by the same call.
"""

from featherweight.repair.bank import combine, read_prompts
from featherweight.repair.choose import Chosen, Losses, choose, losses, usual
from featherweight.repair.repair import METHODS, Repaired, repair
from featherweight.repair.similarity import Similarity, similarity

__all__ = [
    "METHODS",
    "Chosen",
    "Losses",
    "Repaired",
    "Similarity",
    "choose",
    "combine",
    "losses",
    "read_prompts",
    "repair",
    "similarity",
    "usual",
]
