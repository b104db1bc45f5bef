"""How a bank chooses, decided from losses that were measured once for each prompt."""

import itertools
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_banks import M, random_prompts, save_tiny_bank, save_tiny_whole, tiny_whole  # noqa: E402

from featherweight.distill.data import Sample  # noqa: E402
from featherweight.engines import load_engine  # noqa: E402
from featherweight.engines.hf_bank import Bank, Selection, Stored  # noqa: E402
from featherweight.engines.hf_model import Model, pad  # noqa: E402
from featherweight.engines.hf_prompts import Encoded  # noqa: E402
from featherweight.engines.hf_score import Pair, score  # noqa: E402
from featherweight.engines.transformers import TransformersEngine  # noqa: E402
from featherweight.repair import choose, combine, losses, usual  # noqa: E402
from featherweight.repair.choose import PREFIX, Context, Losses, contexts, scores  # noqa: E402

pytestmark = pytest.mark.model


def drawn(count: int, seed: int) -> list[Context]:
    """Prompts and targets of unequal length."""
    generator = torch.Generator().manual_seed(seed)

    def ids(most: int) -> list[int]:
        length = int(torch.randint(1, most, (1,), generator=generator))
        return torch.randint(2, 360, (length,), generator=generator).tolist()  # type: ignore[no-any-return]

    return [(ids(12), ids(8)) for _ in range(count)]


PAIRS, LEARNT = drawn(19, 1), drawn(11, 2)  # of both more than are read at once


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_whole("llama")


def stored(prompts: Any, **selection: Any) -> Stored:
    return Stored("base", None, Selection(**selection), {"prompts": prompts})


def apart() -> list[Stored]:
    return [stored(prompt[None]) for prompt in random_prompts()]


# -- what is read before a choice


def test_the_prefix_of_running_text_is_not_scored() -> None:
    ids = tuple(range(2, 202))
    [(prompt, target)] = contexts([Sample("a", (0,), ids)], running=True)
    assert prompt == [0, *ids[: PREFIX - 1]] and len(prompt) == PREFIX
    assert target == list(ids[PREFIX - 1 :])


def test_an_example_is_chosen_for_by_its_prompt() -> None:
    found = contexts([Sample("a", (5, 6), (7,)), Sample("b", (8,), tuple(range(300)))], False)
    assert found == [([5, 6], [7]), ([8], list(range(300)))]


def test_text_that_is_too_short_to_choose_on() -> None:
    long, short = Sample("a", (0,), (3,) * PREFIX), Sample("b", (0,), (3,) * (PREFIX - 1))
    assert contexts([short, long], running=True) == [([0] + [3] * (PREFIX - 1), [3])]
    assert contexts([short], running=True) == []


# -- losses


def test_a_mean_is_over_tokens_and_an_oracle_is_the_least() -> None:
    nats = torch.tensor([[1.0, 4.0], [9.0, 2.0], [6.0, 6.5]])
    found = Losses(nats, torch.tensor([1, 2, 5]), torch.tensor([8.0, 8.0, 8.0]))
    assert found.singles() == [pytest.approx(16 / 8), pytest.approx(12.5 / 8)]
    assert found.mean(torch.tensor([0, 1, 1])) == pytest.approx((1 + 2 + 6.5) / 8)
    assert found.mean(nats.argmin(1)) == pytest.approx((1 + 2 + 6) / 8)


def test_losses_are_what_an_engine_scores(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    base = save_tiny_whole(tmp_path_factory.mktemp("base"))
    prompts = random_prompts()
    told: list[tuple[str, int, int]] = []
    opened = load_engine(f"hf:{base}", dtype="fp32")
    assert isinstance(opened, TransformersEngine)
    raw = opened._opened().raw
    measured = losses(raw, apart(), PAIRS, lambda *tick: told.append(tick))
    assert told == [("prompts on val", done, M + 1) for done in range(1, M + 2)]
    assert measured.nats.shape == (len(PAIRS), M)
    assert measured.tokens.tolist() == [len(target) for _, target in PAIRS]
    assert raw.prompt_bank is None  # the model is left as it was
    for k in (None, *range(M)):
        spec = base if k is None else save_tiny_bank(tmp_path / f"{k}", base, prompts[k : k + 1])
        engine = load_engine(f"hf:{spec}", dtype="fp32")
        assert isinstance(engine, TransformersEngine)
        got = measured.bare if k is None else measured.nats[:, k]
        for (prompt, target), nats in zip(PAIRS, got.tolist(), strict=True):
            [values] = score(engine._opened(), [Pair(0, Encoded(prompt, []), target)])
            assert nats == pytest.approx(-sum(values), rel=1e-4)
        engine.close()


def test_a_model_is_left_as_it_was_when_scoring_fails(model: Any) -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        losses(model, apart(), [([5], [100_000])])
    assert model.prompt_bank is None


# -- the choice


@pytest.fixture(scope="module")
def measured(model: Any) -> Losses:
    return losses(model, apart(), PAIRS)


def test_scores_are_the_banks_own(model: Any) -> None:
    bank = stored(random_prompts(), layer=2, tokens="last")
    found = scores(model, bank, PAIRS)
    assert found.shape == (len(PAIRS), M)
    for (prompt, _), row in zip(PAIRS, found, strict=True):
        (want,) = Bank(model, bank, "b").scores(*pad([prompt], left=True, device="cpu"))
        torch.testing.assert_close(row, want, rtol=1e-4, atol=1e-4)


def test_the_usual_is_each_prompts_mean_score(model: Any) -> None:
    for one in ({}, {"layer": 2, "first_key": False}):
        bank = stored(random_prompts(), **one)
        found = usual(model, bank, LEARNT)
        assert found == pytest.approx(scores(model, bank, LEARNT).mean(0).tolist(), rel=1e-5)
        # whatever was subtracted before does not count twice
        assert usual(model, stored(random_prompts(), usual=(1.0, 2.0, 3.0), **one), LEARNT) == found
        centred = scores(model, stored(random_prompts(), usual=found, **one), LEARNT)
        assert centred.mean(0).abs().max() < 1e-4


def own_bank(way: Any) -> Stored:
    return stored(random_prompts(), **vars(way.selection))


def test_all_ways_are_tried_and_the_best_comes_first(model: Any, measured: Losses) -> None:
    told: list[tuple[str, int, int]] = []
    bank = combine(apart())
    found = choose(model, bank, LEARNT, PAIRS, measured, lambda *tick: told.append(tick))
    assert told == [("ways to choose", done, 8) for done in range(1, 9)]
    tried = {
        (w.selection.layer, w.selection.tokens, w.selection.first_key, bool(w.selection.usual))
        for w in found
    }
    assert tried == set(itertools.product((0, 2), ("all", "last"), (True, False), (True, False)))
    assert len(found) == 16
    assert [way.loss for way in found] == sorted(way.loss for way in found)
    assert len({way.loss for way in found}) > 3
    for way in found:
        own = Bank(model, own_bank(way), "b")
        won = [int(own.choose(*pad([prompt], left=True, device="cpu"))[0]) for prompt, _ in PAIRS]
        nats = sum(float(measured.nats[i, k]) for i, k in enumerate(won))
        assert way.loss == pytest.approx(nats / float(measured.tokens.sum()), rel=1e-5)
        assert list(way.wins) == [won.count(k) for k in range(M)]
        assert sum(way.wins) == len(PAIRS)
        if way.selection.usual:
            assert way.selection.usual == pytest.approx(usual(model, own_bank(way), LEARNT))
    oracle = measured.mean(measured.nats.argmin(1))
    assert all(oracle <= way.loss + 1e-6 for way in found)


def test_what_was_chosen_is_what_an_engine_does(model: Any, measured: Losses) -> None:
    """The loss on paper is the loss of the bank, read and scored in batches."""
    best = choose(model, combine(apart()), LEARNT, PAIRS, measured)[0]
    found = Model(model, "the model")
    found.bank = Bank(model, own_bank(best), "b")
    asked = [Pair(i, Encoded(prompt, []), target) for i, (prompt, target) in enumerate(PAIRS)]
    values = [value for row in score(found, asked) for value in row]
    assert -sum(values) / len(values) == pytest.approx(best.loss, rel=1e-4)


def test_layers_that_the_model_does_not_have_are_not_tried() -> None:
    from featherweight.repair.choose import _ways

    for layers, most in ((1, 0), (2, 0), (3, 2), (5, 4), (30, 8)):
        assert max(way.layer for way in _ways(layers)) == most
