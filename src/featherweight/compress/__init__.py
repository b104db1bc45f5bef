"""Calibrate once, compress many; here the structured cuts, depth and width.

A cut copy of a teacher is an ordinary model directory: whole blocks or whole neurons are gone, so
every runtime is faster by what was removed, and training (`NEO`) starts from the teacher's weights.
"""

from featherweight.compress.calibrate import Sample, encode, read_texts
from featherweight.compress.depth import block_influence, choose_layers, drop_layers
from featherweight.compress.prune import Pruned, prune
from featherweight.compress.width import choose_neurons, cut_neurons, neuron_importance

__all__ = [
    "Pruned",
    "Sample",
    "block_influence",
    "choose_layers",
    "choose_neurons",
    "cut_neurons",
    "drop_layers",
    "encode",
    "neuron_importance",
    "prune",
    "read_texts",
]
