"""Calibrate once, compress many: prune and quantise a model's layers, or cut whole ones out.

`compress` writes a model after each of several recipes, packed on disk; `prune` cuts layers,
neurons and key-value groups, which leaves an ordinary smaller model, to be trained as a student.
"""

from featherweight.compress.calibrate import Sample, encode, read_texts
from featherweight.compress.compress import Made, compress
from featherweight.compress.depth import block_influence, choose_layers, drop_layers
from featherweight.compress.heads import cut_groups
from featherweight.compress.prune import Pruned, prune
from featherweight.compress.recipe import Recipe, parse_recipe
from featherweight.compress.statistics import Statistics
from featherweight.compress.width import choose_neurons, cut_neurons, neuron_importance

__all__ = [
    "Made",
    "Pruned",
    "Recipe",
    "Sample",
    "Statistics",
    "block_influence",
    "choose_layers",
    "choose_neurons",
    "compress",
    "cut_groups",
    "cut_neurons",
    "drop_layers",
    "encode",
    "neuron_importance",
    "parse_recipe",
    "prune",
    "read_texts",
]
