"""Reading plain JSON data of unknown origin, each value with the place it stands at."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from featherweight.errors import CascadeError


class Reader:
    """One JSON object and its place, such as `rule.json: stages[0].learned.model`.

    Every method raises `CascadeError` with that place where the value is not what it should be.
    """

    def __init__(self, data: object, where: str) -> None:
        self.where = where
        if not isinstance(data, dict):
            raise CascadeError(f"{where} is {_what(data)}, no object; {AGAIN}.")
        self.data: dict[str, Any] = data

    def wrong(self, name: str, what: str, advice: str) -> CascadeError:
        return CascadeError(f"{self.where}.{name} {what}; {advice}, or fit the rule again.")

    def keys(self, *names: str) -> None:
        """Exactly these keys."""
        for name in names:
            if name not in self.data:
                raise CascadeError(f"{self.where} has no {name!r}; {AGAIN}.")
        for name in self.data:
            if name not in names:
                raise CascadeError(
                    f"{self.where} has an unknown {name!r}, known are {', '.join(names)}; {AGAIN}."
                )

    def part(self, name: str) -> "Reader":
        return Reader(self.data[name], f"{self.where}.{name}")

    def parts(self, name: str) -> Iterator["Reader"]:
        for number, item in enumerate(self._list(name, None)):
            yield Reader(item, f"{self.where}.{name}[{number}]")

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        value = self.data.get(name)
        if value not in choices:
            raise self.wrong(name, f"is {_what(value)}", f"write {' or '.join(choices)}")
        return str(value)

    def flag(self, name: str) -> bool:
        value = self.data[name]
        if not isinstance(value, bool):
            raise self.wrong(name, f"is {_what(value)}", "write true or false")
        return value

    def same(self, name: str, wanted: object) -> None:
        if self.data[name] != wanted:
            raise self.wrong(name, "is another list than this version's", "use the version it had")

    def number(self, name: str) -> float:
        return self._number(name, self.data[name])

    def numbers(self, name: str, size: int | None) -> tuple[float, ...]:
        """A list of `size` finite numbers."""
        items = self._list(name, size)
        return tuple(self._number(f"{name}[{i}]", item) for i, item in enumerate(items))

    def integers(self, name: str, size: int, least: int, most: int) -> tuple[int, ...]:
        """A list of `size` whole numbers from `least` to `most`."""
        items = self._list(name, size)
        for i, item in enumerate(items):
            if isinstance(item, bool) or not isinstance(item, int) or not least <= item <= most:
                raise self.wrong(
                    f"{name}[{i}]",
                    f"is {_what(item)}",
                    f"write a whole number from {least} to {most}",
                )
        return tuple(items)

    def rising(self, name: str, values: Sequence[float], strictly: bool) -> None:
        for i, (a, b) in enumerate(pairwise(values), 1):
            if b < a or (strictly and b == a):
                raise self.wrong(f"{name}[{i}]", f"is {b:g} after {a:g}", "sort the knots")

    def _list(self, name: str, size: int | None) -> list[Any]:
        value = self.data[name]
        if not isinstance(value, list):
            raise self.wrong(name, f"is {_what(value)}", "write a list")
        if size is not None and len(value) != size:
            raise self.wrong(name, f"has {len(value)} items", f"write {size}")
        return value

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                found = float(value)
            except OverflowError:
                found = math.inf
            if math.isfinite(found):
                return found
        raise self.wrong(name, f"is {_what(value)}", "write a finite number")


AGAIN = "correct the file or fit the rule again"


def _what(value: object) -> str:
    """A value as the file has it, if short, else its kind."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 64:
        return "a huge number"  # too long a one cannot even be written
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
