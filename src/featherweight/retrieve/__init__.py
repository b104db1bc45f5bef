"""Which part of a long text matters for a query.

Works on plain lists of texts: cut them to `windows`, score the windows with a `Locator` (BM25 by
default; a trained one fits the same call), `pack` the best into a budget.
"""

from .bm25 import BM25
from .windows import BM25Locator, Locator, pack, windows

__all__ = ["BM25", "BM25Locator", "Locator", "pack", "windows"]
