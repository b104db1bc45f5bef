"""What recipes say, and the sentence for each that says nothing."""

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from featherweight.compress import Recipe, parse_recipe
from featherweight.compress.recipe import KINDS, SETTINGS
from featherweight.errors import CompressError


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("rtn:bits=4", "rtn", {"bits": 4, "group": 64}),
        ("rtn:group=32,bits=8", "rtn", {"bits": 8, "group": 32}),
        ("gptq:bits=2,group=128", "gptq", {"bits": 2, "group": 128}),
        ("gptq:bits=3,actorder=true", "gptq", {"bits": 3, "group": 64, "actorder": True}),
        ("gptq:bits=3,actorder=False", "gptq", {"bits": 3, "group": 64}),
        ("magnitude:sparsity=0.5", "magnitude", {"sparsity": 0.5}),
        ("magnitude:pattern=4:8", "magnitude", {"pattern": (4, 8)}),
        ("wanda:sparsity=6e-1", "wanda", {"sparsity": 0.6}),
        ("wanda:pattern=2:4", "wanda", {"pattern": (2, 4)}),
        ("sparsegpt:sparsity=0.99", "sparsegpt", {"sparsity": 0.99}),
        ("sparsegpt:pattern=2:4", "sparsegpt", {"pattern": (2, 4)}),
        ("dsnot:sparsity=0.7", "dsnot", {"sparsity": 0.7}),
        ("joint:sparsity=0.5,bits=4", "joint", {"sparsity": 0.5, "bits": 4, "group": 64}),
        ("joint:bits=3,pattern=2:4,group=16", "joint", {"pattern": (2, 4), "bits": 3, "group": 16}),
        ("depth:layers=15", "depth", {"layers": 15}),
        ("width:kv=2", "width", {"kv": 2}),
        ("width:ffn=1024", "width", {"ffn": 1024}),
        ("width:kv=2,ffn=1024", "width", {"kv": 2, "ffn": 1024}),
    ],
)
def test_what_a_recipe_says(text: str, kind: Any, found: dict[str, Any]) -> None:
    recipe = parse_recipe(text)
    assert recipe == Recipe(text, kind, **found)
    assert recipe.structured == (kind in ("depth", "width"))
    assert recipe.sparse == bool({"sparsity", "pattern"} & found.keys())
    assert recipe.reads == (kind not in ("rtn", "magnitude"))


def test_every_kind_has_settings_that_it_names() -> None:
    assert set(SETTINGS) == set(KINDS)
    for kind, names in SETTINGS.items():
        with pytest.raises(CompressError) as error:
            parse_recipe(f"{kind}:colour=red")
        assert str(error.value) == (
            f"recipe '{kind}:colour=red': {kind} has no setting 'colour'; it has "
            f"{', '.join(names)}."
        )


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "'' is not known; choose rtn, gptq, magnitude, "),
        ("awq:bits=4", "'awq' is not known; choose rtn, gptq, magnitude, "),
        ("GPTQ:bits=4", "'GPTQ' is not known"),
        (
            "rtn:actorder=true,bits=4",
            "rtn has no setting 'actorder'; it has bits, group, symmetric.",
        ),
        ("dsnot:pattern=2:4", "dsnot has no setting 'pattern'; it has sparsity."),
        ("rtn:bits=4,bits=4", "write each setting once, as bits=VALUE."),
        ("rtn:bits", "write each setting once, as bits=VALUE."),
        ("rtn", "does not say how many bits; add bits=4."),
        ("gptq:group=64", "does not say how many bits; add bits=4."),
        ("joint:sparsity=0.5", "does not say how many bits; add bits=4."),
        ("joint:bits=4", "needs one of sparsity=0.5 or pattern=2:4."),
        ("wanda", "needs one of sparsity=0.5 or pattern=2:4."),
        ("sparsegpt:sparsity=0.5,pattern=2:4", "needs one of sparsity=0.5 or pattern=2:4."),
        ("dsnot", "needs one of sparsity=0.5."),
        ("depth", "does not say how many layers stay; add layers=15."),
        ("width", "cuts nothing; add kv=2, ffn=1024 or both."),
    ],
)
def test_recipes_that_say_nothing_or_too_much(text: str, wrong: str) -> None:
    with pytest.raises(CompressError) as error:
        parse_recipe(text)
    message = str(error.value)
    assert message.startswith(f"recipe {text!r}") and wrong in message and message.endswith(".")


@pytest.mark.parametrize(
    ("kind", "setting", "fits"),
    [
        ("gptq", "bits=5", "it is 2, 3, 4 or 8"),
        ("gptq", "bits=1", "it is 2, 3, 4 or 8"),
        ("gptq", "bits=four", "it is 2, 3, 4 or 8"),
        ("gptq", "bits=", "it is 2, 3, 4 or 8"),
        ("gptq", "group=0", "the number of neighbours that share a scale"),
        ("gptq", "group=-64", "the number of neighbours that share a scale"),
        ("gptq", "group=6.4", "the number of neighbours that share a scale"),
        ("gptq", "actorder=yes", "it is true or false"),
        ("wanda", "sparsity=0", "above 0 and below 1"),
        ("wanda", "sparsity=1", "above 0 and below 1"),
        ("wanda", "sparsity=nan", "above 0 and below 1"),
        ("wanda", "sparsity=inf", "above 0 and below 1"),
        ("wanda", "sparsity=-0.5", "above 0 and below 1"),
        ("wanda", "sparsity=50%", "above 0 and below 1"),
        ("wanda", "pattern=1:4", "it is 2:4 or 4:8"),
        ("wanda", "pattern=2", "it is 2:4 or 4:8"),
        ("wanda", "pattern=2:4:8", "it is 2:4 or 4:8"),
        ("depth", "layers=0", "it is how many layers stay"),
        ("width", "kv=0", "it is how many key-value groups stay"),
        ("width", "ffn=0", "it is how many neurons of each MLP stay"),
    ],
)
def test_values_that_do_not_fit(kind: str, setting: str, fits: str) -> None:
    with pytest.raises(CompressError) as error:
        parse_recipe(f"{kind}:{setting}")
    message = str(error.value)
    assert message.startswith(f"recipe '{kind}:{setting}': {setting} does not fit; ")
    assert fits in message
