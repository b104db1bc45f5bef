"""What each recipe does to the layers of a block that read the same inputs."""

from collections.abc import Iterable, Mapping

from torch import Tensor, cat, float64

from featherweight.compress import grid, masks
from featherweight.compress.recipe import Recipe
from featherweight.compress.solve import (
    Factor,
    Swept,
    inverse_factor,
    order,
    output_change,
    sweep,
)
from featherweight.compress.statistics import Statistics
from featherweight.errors import CompressError

SWEPT = ("gptq", "sparsegpt", "joint")


class Inputs:
    """What layers that read the same know together; what is dear is made once for all recipes."""

    def __init__(self, statistics: Statistics, name: str) -> None:
        self.statistics, self._name = statistics, name
        self._factors: dict[bool, Factor] = {}
        self._changes: dict[tuple[object, ...], float] = {}

    def factor(self, actorder: bool) -> Factor:
        """H's inverse factor, its columns in `order` where `actorder` is set; one is held."""
        if actorder not in self._factors:
            self._factors.clear()
            hessian = self.statistics.hessian
            by = order(hessian) if actorder else None
            self._factors[actorder] = inverse_factor(hessian, self._name, by)
        return self._factors[actorder]

    def errors(
        self, recipe: Recipe, name: str, weight: Tensor, found: Swept
    ) -> tuple[float, float] | tuple[None, None]:
        """The outputs' change relative to themselves: as found, and after the plain way instead.

        The plain way rounds to nearest and drops the smallest, without statistics. `None` for a
        layer whose outputs are 0 on these texts.
        """
        own = self._change((name,), weight)
        if own == 0:
            return None, None
        how = (recipe.bits, recipe.group, recipe.symmetric, recipe.sparsity, recipe.pattern)
        plain = (name, *how)
        if plain not in self._changes:
            self._change(plain, weight - _plain(recipe, weight, None).weight)
        difference = weight - found.weight
        if found.losses is None:
            change = output_change(difference, self.statistics.hessian)
        else:  # the sweep knows it already, but for the damping
            damped = self.factor(recipe.actorder).damped
            if recipe.actorder:
                difference = difference[:, order(self.statistics.hessian)]
            change = float(found.losses.sum() - (difference.square() * damped).sum(dtype=float64))
        return max(change, 0.0) / own, self._changes[plain] / own

    def _change(self, key: tuple[object, ...], difference: Tensor) -> float:
        if key not in self._changes:
            self._changes[key] = output_change(difference, self.statistics.hessian)
        return max(self._changes[key], 0.0)


def solve(
    recipe: Recipe, weights: Mapping[str, Tensor], inputs: Inputs | None
) -> tuple[dict[str, Swept], float | None]:
    """`weights` [R, C], float32, as `recipe` leaves them, and the damping where there was one.

    Rows are rounded independently, so what is only rounded goes through one sweep; masks are chosen
    in each matrix by itself. Raises `CompressError` where a recipe must know the inputs and they
    are `None`.
    """
    if inputs is None and recipe.reads:
        raise CompressError(
            f"{next(iter(weights))}: nothing is known of its inputs, which {recipe.text} needs; "
            "this is a fault of featherweight's, please report it."
        )
    if inputs is None or recipe.kind not in SWEPT:
        statistics = None if inputs is None else inputs.statistics
        return {name: _plain(recipe, one, statistics) for name, one in weights.items()}, None
    factor, hessian = inputs.factor(recipe.actorder), inputs.statistics.hessian

    def swept(weight: Tensor) -> Swept:
        return sweep(
            weight,
            hessian,
            factor.upper,
            bits=recipe.bits,
            group=recipe.group,
            symmetric=recipe.symmetric,
            actorder=recipe.actorder,
            sparsity=recipe.sparsity,
            pattern=recipe.pattern,
        )

    if recipe.sparse:
        return {name: swept(weight) for name, weight in weights.items()}, factor.damping
    return _split(swept(cat(list(weights.values()))), weights), factor.damping


def _split(swept: Swept, weights: Mapping[str, Tensor]) -> dict[str, Swept]:
    rows = [len(weight) for weight in weights.values()]

    def parts(found: Tensor | None) -> Iterable[Tensor | None]:
        return [None] * len(rows) if found is None else found.split(rows)

    fields = zip(*(parts(found) for found in vars(swept).values()), strict=True)
    return {name: Swept(*of) for name, of in zip(weights, fields, strict=True)}


def _plain(recipe: Recipe, weight: Tensor, statistics: Statistics | None) -> Swept:
    """The recipes without a sweep; `joint` here is its own baseline without statistics."""
    mask = None
    if recipe.sparse:
        if recipe.kind in ("wanda", "dsnot") and statistics is not None:
            mask = masks.wanda(weight, statistics.square, recipe.sparsity, recipe.pattern)
            if recipe.kind == "dsnot":
                mask = masks.dsnot(weight, statistics.square, statistics.mean, mask)
        else:
            mask = masks.choose(weight.abs(), recipe.sparsity, recipe.pattern)
    kept = weight if mask is None else weight * mask
    if recipe.bits is None:
        return Swept(kept, mask=mask)
    assert recipe.group is not None
    codes, scales, zeros = grid.rtn(kept, recipe.bits, recipe.group, recipe.symmetric)
    grouped = codes.view(*scales.shape, -1)
    rounded = ((grouped - zeros[..., None]) * scales[..., None]).view(weight.shape)
    if mask is not None:
        rounded = rounded * mask
    return Swept(rounded, codes, scales, zeros, mask)


def check_mask(recipe: Recipe, name: str, found: Swept) -> None:
    """Raise `CompressError` unless exactly as many weights went as the recipe says."""
    if found.mask is None:
        return
    total = found.mask.numel()
    gone = total - int(found.mask.count_nonzero())
    if recipe.pattern is not None:
        zeros, of = recipe.pattern
        exact = bool((found.mask.view(-1, of).count_nonzero(1) == of - zeros).all())
        wanted = total // of * zeros
    else:
        assert recipe.sparsity is not None
        wanted = masks.count(total, recipe.sparsity)
        exact = gone == wanted
    if not exact or bool(((found.weight != 0) & ~found.mask).any()):
        raise CompressError(
            f"{name}: {recipe.text} left {gone} zeros where {wanted} belong; "
            "this is a fault of featherweight's, please report it."
        )
