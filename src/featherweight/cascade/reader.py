"""Reading plain JSON data of unknown origin, each value with the place it stands at."""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from featherweight.errors import CascadeError

AGAIN = "make the rule again with `featherweight cascade calibrate`"


class Reader:
    """One JSON object and its place, such as `rule.json.stages[0].score.model`.

    Every method raises `CascadeError` with that place where the value is not what it should be;
    `again` is what to do instead of correcting it.
    """

    def __init__(self, data: object, where: str, again: str = AGAIN) -> None:
        self.where, self.again = where, again
        if not isinstance(data, dict):
            raise CascadeError(f"{where} is {_what(data)}, no object; correct the file or {again}.")
        self.data: dict[str, Any] = data

    def wrong(self, name: str, what: str, advice: str) -> CascadeError:
        return CascadeError(f"{self.where}.{name} {what}; {advice}, or {self.again}.")

    def keys(self, *names: str) -> None:
        """Exactly these keys."""
        for name in names:
            if name not in self.data:
                raise CascadeError(
                    f"{self.where} has no {name!r}; correct the file or {self.again}."
                )
        for name in self.data:
            if name not in names:
                raise CascadeError(
                    f"{self.where} has an unknown {name!r}, known are {', '.join(names)}; correct "
                    f"the file or {self.again}."
                )

    def part(self, name: str) -> "Reader":
        return Reader(self.data[name], f"{self.where}.{name}", self.again)

    def parts(self, name: str, size: int | None = None) -> Iterator["Reader"]:
        for number, item in enumerate(self.items(name, size)):
            yield Reader(item, f"{self.where}.{name}[{number}]", self.again)

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

    def text(self, name: str) -> str:
        value = self.data.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, "is no text", "write it")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.data[name]
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.wrong(name, "is no list of texts", 'write ["one"] or []')
        return tuple(value)

    def sha256(self, name: str) -> str:
        value = self.data.get(name)
        if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
            raise self.wrong(name, "is no sha256", "write its 64 hexadecimal digits")
        return value

    def count(self, name: str, least: int = 0) -> int:
        value = self.data[name]
        if type(value) is not int or value < least:
            raise self.wrong(name, f"is {value!r}", f"write a whole number from {least}")
        return value

    def within(self, name: str, low: float, high: float = math.inf) -> float:
        if name not in self.data:
            raise self.wrong(name, "is missing", "write it")
        value = self.number(name)
        if not low <= value <= high:
            raise self.wrong(name, f"is {value:g}", f"write a number from {low:g} to {high:g}")
        return value

    def number(self, name: str) -> float:
        return self.finite(name, self.data[name])

    def numbers(self, name: str, size: int | None) -> tuple[float, ...]:
        """A list of `size` finite numbers."""
        items = self.items(name, size)
        return tuple(self.finite(f"{name}[{i}]", item) for i, item in enumerate(items))

    def integers(self, name: str, size: int | None, least: int, most: int) -> tuple[int, ...]:
        """A list of `size` whole numbers from `least` to `most`."""
        items = self.items(name, size)
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
                raise self.wrong(f"{name}[{i}]", f"is {b:g} after {a:g}", "sort them")

    def items(self, name: str, size: int | None = None, most: float = math.inf) -> list[Any]:
        """A list of `size`, or of `most` at the most."""
        value = self.data[name]
        if not isinstance(value, list):
            raise self.wrong(name, f"is {_what(value)}", "write a list")
        if size is not None and len(value) != size:
            raise self.wrong(name, f"has {len(value)} items", f"write {size}")
        if len(value) > most:
            raise self.wrong(name, f"has {len(value)} items", f"write {most} at the most")
        return value

    def finite(self, name: str, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                found = float(value)
            except OverflowError:
                found = math.inf
            if math.isfinite(found):
                return found
        raise self.wrong(name, f"is {_what(value)}", "write a finite number")


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
