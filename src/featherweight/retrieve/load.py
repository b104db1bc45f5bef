"""From a locator's name to the locator."""

from featherweight.errors import DataError

from .fitted import FittedLocator
from .windows import BM25Locator, Locator


def open_locator(name: str | None = None) -> Locator:
    """`fitted` (the default) or `bm25`."""
    if name is None or name == "fitted":
        return FittedLocator()
    if name == "bm25":
        return BM25Locator()
    raise DataError(f"{name!r} is no locator; choose fitted or bm25.")
