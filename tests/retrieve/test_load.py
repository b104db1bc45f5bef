import pytest

from featherweight.errors import DataError
from featherweight.retrieve import BM25Locator, FittedLocator, open_locator


def test_names() -> None:
    assert isinstance(open_locator(), FittedLocator)
    assert isinstance(open_locator("fitted"), FittedLocator)
    assert isinstance(open_locator("bm25"), BM25Locator)


def test_an_unknown_name() -> None:
    with pytest.raises(DataError, match="'bm52' is no locator"):
        open_locator("bm52")
