"""What a recipe leaves of layers that read the same, and what is said of its error."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from featherweight.compress import Recipe, Statistics, grid, masks, parse_recipe  # noqa: E402
from featherweight.compress import solvers as solvers_module  # noqa: E402
from featherweight.compress.solve import Swept, inverse_factor  # noqa: E402
from featherweight.compress.solvers import Inputs, check_mask, solve  # noqa: E402
from featherweight.engines.packed import on_grid  # noqa: E402
from featherweight.errors import CompressError  # noqa: E402

RECIPES = [
    "rtn:bits=4,group=16",
    "gptq:bits=3,group=16",
    "gptq:bits=3,group=16,actorder=true",
    "magnitude:sparsity=0.5",
    "magnitude:pattern=2:4",
    "wanda:sparsity=0.6",
    "wanda:pattern=2:4",
    "sparsegpt:sparsity=0.55",
    "sparsegpt:pattern=4:8",
    "dsnot:sparsity=0.5",
    "joint:sparsity=0.5,bits=4,group=16",
    "joint:pattern=2:4,bits=3,group=32",
]
COLUMNS = 96


@pytest.fixture(scope="module")
def statistics() -> Statistics:
    torch.manual_seed(2)
    inputs = torch.randn(400, COLUMNS) @ torch.randn(COLUMNS, COLUMNS) / 10 + torch.randn(COLUMNS)
    return Statistics(400, inputs.mean(0), inputs.t() @ inputs / 400)


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    torch.manual_seed(3)
    q, k = torch.randn(40, COLUMNS), torch.randn(12, COLUMNS)
    k[:, ::3] = k[:, 1::3].sign()  # ties
    return {"q": q * 0.2, "k": k}


def plain(recipe: Recipe, weight: Any) -> Any:
    """The smallest go, the rest is rounded; nothing is known of the inputs."""
    if recipe.sparse:
        weight = weight * masks.choose(weight.abs(), recipe.sparsity, recipe.pattern)
    if recipe.bits is None:
        return weight
    assert recipe.group is not None
    codes, scales, zeros = grid.rtn(weight, recipe.bits, recipe.group)
    return on_grid(codes, scales, zeros) * ((weight != 0) if recipe.sparse else 1)


@pytest.mark.parametrize("text", RECIPES)
def test_errors_are_the_outputs_relative_change(
    text: str, statistics: Statistics, weights: dict[str, Any]
) -> None:
    recipe = parse_recipe(text)
    inputs = Inputs(statistics, "q")
    found, damping = solve(recipe, weights, inputs)
    assert damping == (0.01 if recipe.kind in ("gptq", "sparsegpt", "joint") else None)
    hessian = statistics.hessian.double()
    for name, weight in weights.items():

        def change(other: Any, weight: Any = weight) -> float:
            off = weight.double() - other.double()
            return float(((off @ hessian) * off).sum())

        own = change(torch.zeros_like(weight))
        error, naive = inputs.errors(recipe, name, weight, found[name])
        assert error == pytest.approx(change(found[name].weight) / own, rel=1e-3)
        assert naive == pytest.approx(change(plain(recipe, weight)) / own, rel=1e-3)
        if recipe.kind in ("rtn", "magnitude"):
            assert error == naive
        elif recipe.kind != "dsnot":  # which looks at means alone
            assert error < naive


@pytest.mark.parametrize("text", RECIPES)
def test_layers_do_not_change_one_another(
    text: str, statistics: Statistics, weights: dict[str, Any]
) -> None:
    recipe = parse_recipe(text)
    together, _ = solve(recipe, weights, Inputs(statistics, "q"))
    assert list(together) == ["q", "k"]
    for name, weight in weights.items():
        alone, _ = solve(recipe, {name: weight}, Inputs(statistics, "q"))
        assert together[name].weight.shape == weight.shape
        for part, found in vars(alone[name]).items():
            other = getattr(together[name], part)
            assert (found is None) == (other is None)
            if found is not None and part != "losses":
                assert other.equal(found)


@pytest.mark.parametrize(
    "text", [text for text in RECIPES if "bits" not in text or "joint" in text]
)
def test_masks_are_exact_in_each_matrix(
    text: str, statistics: Statistics, weights: dict[str, Any]
) -> None:
    recipe = parse_recipe(text)
    for name, found in solve(recipe, weights, Inputs(statistics, "q"))[0].items():
        assert found.mask is not None
        if recipe.sparsity:
            zeros = round(weights[name].numel() * recipe.sparsity)
            assert int((~found.mask).sum()) == zeros
        else:
            assert recipe.pattern is not None
            assert ((~found.mask).view(-1, recipe.pattern[1]).sum(1) == recipe.pattern[0]).all()
        assert not found.weight[~found.mask].any()
        check_mask(recipe, name, found)


@pytest.mark.parametrize(
    "text", ["magnitude:sparsity=0.5", "wanda:sparsity=0.5", "dsnot:sparsity=0.5"]
)
def test_what_is_kept_without_a_sweep_stays_as_it_was(
    text: str, statistics: Statistics, weights: dict[str, Any]
) -> None:
    for name, found in solve(parse_recipe(text), weights, Inputs(statistics, "q"))[0].items():
        assert found.weight[found.mask].equal(weights[name][found.mask])


def test_dsnot_begins_with_wandas_mask(statistics: Statistics, weights: dict[str, Any]) -> None:
    inputs = Inputs(statistics, "q")
    wanda, _ = solve(parse_recipe("wanda:sparsity=0.5"), weights, inputs)
    dsnot, _ = solve(parse_recipe("dsnot:sparsity=0.5"), weights, inputs)
    for name, weight in weights.items():
        before, after = wanda[name].mask, dsnot[name].mask
        assert before is not None and after is not None
        assert after.equal(masks.dsnot(weight, statistics.square, statistics.mean, before))
        assert not after.equal(before)


def test_what_layers_share_is_inverted_once(
    statistics: Statistics, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(hessian: Any, name: str, by: Any) -> Any:
        calls.append(name)
        return inverse_factor(hessian, name, by)

    monkeypatch.setattr(solvers_module, "inverse_factor", counted)
    inputs = Inputs(statistics, "q_proj")
    for recipe in sorted(map(parse_recipe, RECIPES), key=lambda recipe: recipe.actorder):
        solve(recipe, weights, inputs)
    assert calls == ["q_proj", "q_proj"]  # in its own order, and in act-order


@pytest.mark.parametrize("text", ["gptq:bits=4,group=16", "sparsegpt:sparsity=0.5"])
def test_nothing_is_rounded_plainly_instead(text: str, weights: dict[str, Any]) -> None:
    with pytest.raises(CompressError, match="nothing is known of its inputs"):
        solve(parse_recipe(text), weights, None)


@pytest.mark.parametrize("kind", ["wanda", "dsnot", "sparsegpt"])
def test_a_mask_that_is_off_by_one_is_a_fault(kind: str) -> None:
    weight = torch.arange(1.0, 17).view(2, 8)
    mask = weight > 8
    check_mask(parse_recipe(f"{kind}:sparsity=0.5"), "q", Swept(weight * mask, mask=mask))
    more = weight > 7
    with pytest.raises(CompressError, match=r"^q: .* left 7 zeros where 8 belong; .*\.$"):
        check_mask(parse_recipe(f"{kind}:sparsity=0.5"), "q", Swept(weight * more, mask=more))
    with pytest.raises(CompressError, match=r"^q: "):  # the mask is right, the weight is not
        check_mask(parse_recipe(f"{kind}:sparsity=0.5"), "q", Swept(weight, mask=mask))


def test_a_pattern_that_is_broken_in_one_place_is_a_fault() -> None:
    recipe = parse_recipe("sparsegpt:pattern=2:4")
    mask = torch.tensor([[True, True, False, False, True, False, False, True]])
    check_mask(recipe, "q", Swept(mask.float(), mask=mask))
    moved = torch.tensor([[True, True, True, False, True, False, False, False]])
    with pytest.raises(CompressError, match=r"^q: .*fault"):
        check_mask(recipe, "q", Swept(moved.float(), mask=moved))
