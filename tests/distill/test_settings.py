"""What is derived from few dials, and which dials contradict each other."""

import pytest

from featherweight.distill.settings import METHODS, Settings, derive, described
from featherweight.errors import TrainingError

TABLE = {  # DESIGN.md, "The objective": tuned, weight above 0, mask
    "sft": ("full", False, "all"),
    "lora": ("lora", False, "all"),
    "kd": ("full", True, "all"),
    "neo": ("lora", True, "all"),
    "cat-xent": ("lora", False, "either"),
    "cat-dist": ("lora", True, "either"),
    "gatekeeper": ("lora", False, "all"),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_a_row_of_the_table(method: str) -> None:
    tune, distils, mask = TABLE[method]
    told = distils or mask != "all"
    plan = derive(Settings(method=method), 10**8, has_teacher=told)  # type: ignore[arg-type]
    assert (plan.tune, plan.objective.kd_weight > 0, plan.objective.mask) == (tune, distils, mask)
    assert (plan.objective.gate is not None) == (method == "gatekeeper")
    assert {name for name, _, _ in described(plan)} >= {"method", "tune", "lr"}


def test_gatekeeper_says_that_it_comes_second() -> None:
    plan = derive(Settings(method="gatekeeper"), 10**8, has_teacher=False)
    reasons = {name: reason for name, _, reason in described(plan)}
    assert "should have learnt this data before" in reasons["method"]


def test_defaults_follow_size_and_teacher() -> None:
    small, large = (derive(Settings(), size, True) for size in (135_000_000, 1_240_000_000))
    assert (small.method, small.rank, large.rank) == ("neo", 16, 64)
    assert large.alpha == 128 and large.lr == pytest.approx(2e-4)
    assert derive(Settings(method="kd"), 2 * 10**9, True).lr == pytest.approx(2e-5)
    assert derive(Settings(), 10**8, False).method == "lora"
    assert derive(Settings(lora="rslora"), 10**8, False).alpha == pytest.approx(8)


def test_what_a_mask_hides_does_not_choose_the_best() -> None:
    assert derive(Settings(method="cat-xent"), 1, True).stop_on == "ce"
    assert derive(Settings(method="neo"), 1, True).stop_on == "loss"
    assert derive(Settings(method="neo", stop_on="right"), 1, True).stop_on == "right"


@pytest.mark.parametrize(
    ("settings", "teacher", "words"),
    [
        ({"method": "lora"}, True, "choose neo"),
        ({"method": "neo"}, False, "neo learns from a teacher"),
        ({"method": "cat-xent"}, False, "must know where the large model is right"),
        ({"method": "sft", "tune": "lora"}, False, "say --method lora"),
        ({"method": "neo", "tune": "full"}, True, "say --method kd"),
        ({"method": "sft", "kd_weight": 0.5}, True, "sft has no kd_weight"),
        ({"method": "kd", "mask": "either"}, True, "kd has no mask"),
        ({"method": "kd", "gate": 0.5}, True, "kd has no gate"),
    ],
)
def test_contradictions(settings: dict, teacher: bool, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        derive(Settings(**settings), 1, teacher)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0}, "lr is 0; it must be above 0"),
        ({"kd_weight": 1.5}, "between 0 and 1"),
        ({"mix": 1.0}, "mix is 1.0"),
        ({"clip": -1}, "clip is -1"),
        ({"stop_on": "eval_loss"}, "stop_on is 'eval_loss'; choose one of loss, ce"),
        ({"stop_on": "rouge1"}, "set eval_texts above 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"method": "best"}, "method is 'best'; choose one of sft"),
        ({"lora": "vera"}, "lora is 'vera'"),
        ({"batch": 8, "micro_batch": 3}, "no multiple of micro_batch 3"),
    ],
)
def test_bad_dials(settings: dict, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        Settings(**settings)


def test_a_weight_of_zero_needs_no_teacher() -> None:
    assert derive(Settings(method="kd", kd_weight=0.0), 1, False).objective.needs_teacher is False
