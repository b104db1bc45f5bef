"""Which part of a long text matters for a query.

Works on plain lists of texts: cut them to `windows`, score the windows with a `Locator` (the
embedded fitted one, BM25, or a trained encoder), `pack` the best into a budget.
"""

from .bm25 import BM25
from .fitted import FittedLocator
from .load import open_locator
from .windows import BM25Locator, Locator, pack, windows

__all__ = ["BM25", "BM25Locator", "FittedLocator", "Locator", "open_locator", "pack", "windows"]
