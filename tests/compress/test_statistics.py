"""What is known of inputs, against the inputs themselves in float64."""

from contextlib import closing
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from featherweight.compress.statistics import Collector, Statistics, check_found  # noqa: E402
from featherweight.errors import CompressError  # noqa: E402

WIDTH = 21


def linears(*names: str, width: int = WIDTH) -> dict[str, Any]:
    return {name: torch.nn.Linear(width, 3) for name in names}


def assert_known(found: Statistics, inputs: Any) -> None:
    """`inputs` [N, C]."""
    x = inputs.double()
    assert found.tokens == len(x)
    torch.testing.assert_close(found.hessian.double(), x.t() @ x / len(x), rtol=3e-5, atol=1e-6)
    torch.testing.assert_close(found.mean.double(), x.mean(0), rtol=3e-5, atol=1e-6)
    torch.testing.assert_close(found.square.double(), x.square().mean(0), rtol=3e-5, atol=1e-6)
    assert found.hessian.equal(found.hessian.t())


@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_means_over_all_that_is_read(width: int, lengths: list[int]) -> None:
    """Any width: the triangle is summed in parts."""
    torch.manual_seed(width)
    layer = linears("q", width=width)
    seen = []
    with closing(Collector(layer)) as collector:
        for length in lengths:
            seen.append(torch.randn(2, length, width) + 1)
            layer["q"](seen[-1])
            collector.forget()
        [(names, found)] = collector.found()
    assert names == ["q"]
    assert_known(found, torch.cat([one.flatten(0, 1) for one in seen]))


def test_bfloat16_inputs_are_summed_in_float32() -> None:
    layer = {"q": torch.nn.Linear(WIDTH, 3).bfloat16()}
    inputs = torch.randn(4, 500, WIDTH).bfloat16() + 4
    with closing(Collector(layer)) as collector:
        layer["q"](inputs)
        [(_, found)] = collector.found()
    assert found.hessian.dtype == torch.float32
    assert_known(found, inputs.flatten(0, 1))
    torch.linalg.cholesky(found.hessian.double())  # raises where it is not positive definite


def test_padding_does_not_count() -> None:
    layer = linears("q")
    inputs = torch.randn(3, 5, WIDTH)
    real = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    inputs[~real] = torch.nan
    with closing(Collector(layer)) as collector:
        collector.real = real
        layer["q"](inputs)
        [(_, found)] = collector.found()
    assert_known(found, inputs[real])


def test_an_encoders_padding_is_its_own() -> None:
    """Even where both are of one length."""
    layers = linears("q", "k", "v")
    hidden, memory = torch.randn(2, 4, WIDTH), torch.randn(2, 4, WIDTH)
    real = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    told = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    with closing(Collector(layers)) as collector:
        collector.real, collector.memory = real, (memory, told)
        layers["q"](hidden)
        layers["k"](memory)
        layers["v"](memory)
        found = collector.found()
    assert [names for names, _ in found] == [["q"], ["k", "v"]]
    assert_known(found[0][1], hidden[real])
    assert_known(found[1][1], memory[told])


def test_layers_share_by_the_tensor_that_they_read() -> None:
    layers = linears("q", "k", "v", "o", "gate", "up")
    with closing(Collector(layers)) as collector:
        for _ in range(3):
            one, other, same_again = torch.randn(3, 1, 6, WIDTH).unbind()
            for name in ("q", "k", "v"):
                layers[name](one)
            layers["o"](same_again)
            layers["gate"](other)
            layers["up"](other)
            collector.forget()
        found = collector.found()
    assert [names for names, _ in found] == [["q", "k", "v"], ["o"], ["gate", "up"]]
    assert {one.tokens for _, one in found} == {18}


def test_equal_numbers_are_not_the_same_tensor() -> None:
    layers = linears("q", "k")
    inputs = torch.randn(1, 6, WIDTH)
    with closing(Collector(layers)) as collector:
        layers["q"](inputs)
        layers["k"](inputs.clone())
        assert [names for names, _ in collector.found()] == [["q"], ["k"]]


def test_what_is_read_again_in_another_forward_counts_again() -> None:
    layers = linears("q", "k")
    inputs = torch.randn(1, 6, WIDTH)
    with closing(Collector(layers)) as collector:
        for _ in range(3):
            layers["q"](inputs)
            layers["k"](inputs)
            collector.forget()
        [(names, found)] = collector.found()
    assert names == ["q", "k"]
    assert_known(found, inputs[0].repeat(3, 1))


def test_hooks_go() -> None:
    layers = linears("q")
    with closing(Collector(layers)) as collector:
        layers["q"](torch.randn(1, 2, WIDTH))
    layers["q"](torch.randn(1, 2, WIDTH))
    [(_, found)] = collector.found()
    assert found.tokens == 2 and not layers["q"]._forward_pre_hooks


def test_a_layer_that_never_runs_is_named() -> None:
    layers = linears("q", "k", "expert")
    with closing(Collector(layers)) as collector:
        layers["q"](torch.randn(1, 2, WIDTH))
        found = collector.found()
    with pytest.raises(CompressError, match=r"^expert and 1 more layers read nothing .*\.$"):
        check_found(layers, found)
    with pytest.raises(CompressError, match=r"^k read nothing .*\.$"):
        check_found({"q": layers["q"], "k": layers["k"]}, found)
    check_found({"q": layers["q"]}, found)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_inputs_that_are_no_numbers_are_refused(value: float) -> None:
    layers = linears("q")
    inputs = torch.randn(1, 4, WIDTH)
    inputs[0, 2, 7] = value
    with closing(Collector(layers)) as collector:
        layers["q"](inputs)
        found = collector.found()
    with pytest.raises(CompressError, match=r"^q: what it reads holds NaN or infinity; .*\.$"):
        check_found(layers, found)
