"""From a locator's name to the locator."""

from pathlib import Path

from featherweight.errors import DataError

from .encoder import open_encoder
from .fitted import FittedLocator
from .windows import BM25Locator, Locator


def open_locator(name: str | None = None) -> Locator:
    """`fitted` (the default), `bm25`, or the directory of a trained encoder.

    Raises `DataError` for another name and `EngineError` for a directory that is no locator.
    """
    if name is None or name == "fitted":
        return FittedLocator()
    if name == "bm25":
        return BM25Locator()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{name!r} is no locator; choose fitted, bm25 or a trained one's directory."
        )
    return open_encoder(folder)
