"""A recipe: what to do to every linear layer, written `gptq:bits=3,group=64`.

| kind | settings | what it is |
| --- | --- | --- |
| rtn | bits, group, symmetric | rounded to the nearest point of each group's grid |
| gptq | bits, group, symmetric, actorder | errors pushed into what is to come (arXiv 2210.17323) |
| magnitude | sparsity or pattern | the smallest go |
| wanda | sparsity or pattern | the smallest |w| * |x| of each row go (arXiv 2306.11695) |
| sparsegpt | sparsity or pattern | pruned as GPTQ rounds (arXiv 2301.00774) |
| dsnot | sparsity | Wanda's mask, improved by swaps (arXiv 2310.08915) |
| joint | sparsity or pattern, bits, group | pruned and rounded in one sweep |
| depth | layers | whole blocks go, see `depth.py` |
| width | kv, ffn | key-value groups and neurons go, see `width.py` |
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from featherweight.errors import CompressError

Kind = Literal["rtn", "gptq", "magnitude", "wanda", "sparsegpt", "dsnot", "joint", "depth", "width"]
KINDS: tuple[str, ...] = get_args(Kind)
BITS = (2, 3, 4, 8)
GROUP = 64
_SPARSE = ("sparsity", "pattern")
SETTINGS: dict[str, tuple[str, ...]] = {
    "rtn": ("bits", "group", "symmetric"),
    "gptq": ("bits", "group", "symmetric", "actorder"),
    "magnitude": _SPARSE,
    "wanda": _SPARSE,
    "sparsegpt": _SPARSE,
    "dsnot": ("sparsity",),
    "joint": (*_SPARSE, "bits", "group"),
    "depth": ("layers",),
    "width": ("kv", "ffn"),
}


@dataclass(frozen=True)
class Recipe:
    """A recipe as `parse_recipe` reads it; what it does not set is `None`.

    `pattern` (2, 4) prunes two of every four neighbours.
    """

    text: str
    kind: Kind
    bits: int | None = None
    group: int | None = None
    symmetric: bool = False
    actorder: bool = False
    sparsity: float | None = None
    pattern: tuple[int, int] | None = None
    layers: int | None = None
    kv: int | None = None
    ffn: int | None = None

    @property
    def structured(self) -> bool:
        """Whether it makes a smaller dense model instead of packed weights."""
        return self.kind in ("depth", "width")

    @property
    def sparse(self) -> bool:
        return self.sparsity is not None or self.pattern is not None

    @property
    def reads(self) -> bool:
        """Whether it must know what the layers read."""
        return self.kind not in ("rtn", "magnitude")


def parse_recipe(text: str) -> Recipe:
    """Read `KIND:NAME=VALUE,...`; raises `CompressError` that says what is wrong and what fits."""
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise CompressError(f"recipe {text!r}: {kind!r} is not known; choose {', '.join(KINDS)}.")
    found: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if name not in SETTINGS[kind]:
            raise CompressError(
                f"recipe {text!r}: {kind} has no setting {name!r}; it has "
                f"{', '.join(SETTINGS[kind])}."
            )
        if not equals or name in found:
            raise CompressError(f"recipe {text!r}: write each setting once, as {name}=VALUE.")
        found[name] = _value(text, name, value)
    recipe = Recipe(text, kind, **found)  # type: ignore[arg-type]
    return _complete(recipe)


def _value(text: str, name: str, value: str) -> Any:
    try:
        if name in ("symmetric", "actorder"):
            return {"true": True, "false": False}[value.lower()]
        if name == "sparsity":
            number = float(value)
            if not 0 < number < 1:
                raise ValueError
            return number
        if name == "pattern":
            zeros, of = (int(part) for part in value.split(":"))
            if (zeros, of) not in ((2, 4), (4, 8)):
                raise ValueError
            return zeros, of
        whole = int(value)
        if whole < 1 or (name == "bits" and whole not in BITS):
            raise ValueError
        return whole
    except (ValueError, KeyError):
        raise CompressError(
            f"recipe {text!r}: {name}={value} does not fit; {_FITS[name]}."
        ) from None


_FITS = {
    "symmetric": "it is true or false (8 bits always are)",
    "actorder": "it is true or false",
    "sparsity": "it is the share of zeros, above 0 and below 1, as 0.5",
    "pattern": "it is 2:4 or 4:8 (zeros of neighbours)",
    "bits": "it is 2, 3, 4 or 8",
    "group": "it is the number of neighbours that share a scale, as 64",
    "layers": "it is how many layers stay",
    "kv": "it is how many key-value groups stay",
    "ffn": "it is how many neurons of each MLP stay",
}


def _complete(recipe: Recipe) -> Recipe:
    names, text = SETTINGS[recipe.kind], recipe.text
    if "bits" in names:
        if recipe.bits is None:
            raise CompressError(f"recipe {text!r} does not say how many bits; add bits=4.")
        if recipe.group is None:
            recipe = Recipe(**vars(recipe) | {"group": GROUP})
    if "sparsity" in names and (recipe.sparsity is None) == (recipe.pattern is None):
        what = "sparsity=0.5 or pattern=2:4" if "pattern" in names else "sparsity=0.5"
        raise CompressError(f"recipe {text!r} needs one of {what}.")
    if recipe.kind == "depth" and recipe.layers is None:
        raise CompressError(f"recipe {text!r} does not say how many layers stay; add layers=15.")
    if recipe.kind == "width" and recipe.kv is None and recipe.ffn is None:
        raise CompressError(f"recipe {text!r} cuts nothing; add kv=2, ffn=1024 or both.")
    return recipe
