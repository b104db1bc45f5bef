"""Which part of a long text matters for a query."""

from .bm25 import BM25

__all__ = ["BM25"]
