"""The NLI model against plain forwards, on a tiny random classifier made here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoders

from featherweight.errors import EngineError
from featherweight.evaluate.entailment import faithfulness
from featherweight.evaluate.nli import Nli, entailment_label, open_nli
from featherweight.evaluate.text import sentences

PREMISES = [
    "The marketing team asked for a remote control.",
    "Nobody objected.",
    "Größe, naïve, café 🎉",
    "",
]
HYPOTHESES = ["We decided to postpone.", "The team asked.", "The budget is new."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    labels = ["contradiction", "ENTAILMENT", "neutral"]
    return tiny_encoders.nli(tmp_path_factory.mktemp("nli"), labels)


@pytest.fixture(scope="module")
def nli(folder: Path) -> Nli:
    return open_nli(str(folder), device="cpu")


def plain(nli: Nli, premise: str, hypothesis: str) -> float:
    """One pair in one forward."""
    import torch

    inputs = nli.encoder.tokenizer(premise, hypothesis, return_tensors="pt")
    assert inputs["input_ids"].shape[1] <= nli.encoder.limit
    with torch.inference_mode():
        return float(nli.encoder.model(**inputs).logits.softmax(-1)[0, 1])


def crossed() -> tuple[list[str], list[str]]:
    pairs = [(p, h) for p in PREMISES for h in HYPOTHESES]
    return [p for p, _ in pairs], [h for _, h in pairs]


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        (["entailment", "neutral", "contradiction"], 0),
        (["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], 2),
        (["not_entailment", "entailment"], 1),
        (["entailment", "not-entailment"], 0),
        (["Non Entailment", "Entailment"], 1),
        (["SUPPORTS", "REFUTES", "NOT ENOUGH INFO"], 0),
        (["unsupported", "supported"], 1),
    ],
)
def test_the_label_of_entailment(labels: list[str], place: int) -> None:
    assert entailment_label(dict(enumerate(labels)), "model") == place


@pytest.mark.parametrize(
    "labels",
    [
        ["LABEL_0", "LABEL_1", "LABEL_2"],
        ["LABEL_0", "LABEL_1"],
        ["NEGATIVE", "POSITIVE"],
        ["entailment"],
        ["entailment", "strong entailment"],
        ["not_entailment", "neutral"],
        [],
    ],
)
def test_labels_that_do_not_tell(labels: list[str]) -> None:
    with pytest.raises(EngineError, match="id2label") as error:
        entailment_label(dict(enumerate(labels)), "tiny")
    assert "tiny" in str(error.value)
    assert all(label in str(error.value) for label in labels)


@pytest.mark.model
def test_equals_plain_forwards(nli: Nli) -> None:
    premises, hypotheses = crossed()
    expected = [plain(nli, p, h) for p, h in zip(premises, hypotheses, strict=True)]
    np.testing.assert_allclose(nli(premises, hypotheses), expected, atol=1e-6)
    assert np.ptp(expected) > 0.05  # else nothing was compared
    alone = Nli(nli.encoder, nli.label, batch_tokens=1)
    np.testing.assert_allclose(alone(premises, hypotheses), expected, atol=1e-6)


@pytest.mark.model
def test_equal_pairs_are_asked_once(nli: Nli, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 0
    forward = nli.encoder.model.forward

    def counted(*args: Any, **inputs: Any) -> Any:
        nonlocal rows
        rows += len(inputs["input_ids"])
        return forward(*args, **inputs)

    monkeypatch.setattr(nli.encoder.model, "forward", counted)
    premises, hypotheses = crossed()
    once = nli(premises, hypotheses)
    assert rows == len(premises)
    thrice = nli(premises * 3, [f" {one}\n" for one in hypotheses * 3])
    assert rows == 2 * len(premises)
    np.testing.assert_allclose(thrice, np.tile(once, 3), atol=1e-6)


@pytest.mark.model
def test_a_long_premise_is_halved_and_its_best_part_counts(nli: Nli) -> None:
    claim = "Nobody objected."
    parts = [f"The team asked {word}." for word in ("marketing", "remote", "control", "budget")]
    two = [" ".join(parts[:2] * 3), " ".join(parts[2:] * 3)]
    both = " ".join(two)
    inputs = nli.encoder.tokenizer(both, claim, verbose=False)
    assert len(inputs["input_ids"]) > nli.encoder.limit
    expected = max(plain(nli, part, claim) for part in two)
    assert nli([both], [claim])[0] == pytest.approx(expected, abs=1e-6)
    assert plain(nli, two[0], claim) != pytest.approx(plain(nli, two[1], claim), abs=1e-4)


@pytest.mark.model
@pytest.mark.parametrize("long", ["budget " * 500, "x" * 3000, "Yes. " * 300, "a🎉" * 400])
def test_nothing_is_too_long(nli: Nli, long: str) -> None:
    """Sentences, words and letters without end, on either side, and never over the limit."""
    answers = nli([long, "The team.", long], ["The team.", long, long])
    assert ((answers > 0) & (answers < 1)).all()


@pytest.mark.model
def test_a_long_hypothesis_is_the_mean_of_its_parts(nli: Nli) -> None:
    words = ["marketing", "remote"] * 9  # 18 words, at most 22 fit
    half = " ".join(words)
    expected = plain(nli, "The team.", half)
    assert nli(["The team."], [f"{half} {half}"])[0] == pytest.approx(expected, abs=1e-6)
    mixed = nli(["The team."], [f"{half} {' '.join(['budget'] * 18)}"])[0]
    other = plain(nli, "The team.", " ".join(["budget"] * 18))
    assert mixed == pytest.approx((expected + other) / 2, abs=1e-6)
    assert other != pytest.approx(expected, abs=1e-4)


@pytest.mark.model
def test_it_drives_faithfulness(nli: Nli) -> None:
    source = " ".join(PREMISES)
    summary = "The team asked. The budget is new."
    (score,) = faithfulness([source], [summary], nli)
    expected = np.mean(
        [max(plain(nli, p, c) for p in sentences(source)) for c in sentences(summary)]
    )
    assert score == pytest.approx(expected, abs=1e-6)


@pytest.mark.model
def test_lists_of_unequal_length(nli: Nli) -> None:
    with pytest.raises(ValueError):
        nli(["a"], ["b", "c"])
    assert nli([], []).shape == (0,)


@pytest.mark.model
def test_the_signature(nli: Nli, folder: Path) -> None:
    assert nli.signature == f"{folder.name}_float32_sha256:{nli.encoder.weights}"


@pytest.mark.model
def test_models_that_are_no_nli_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not a whole classification model"):
        open_nli(str(tiny_encoders.bert(tmp_path / "masked")), device="cpu")
    unnamed = tiny_encoders.nli(tmp_path / "unnamed", ["LABEL_0", "LABEL_1"])
    with pytest.raises(EngineError, match="LABEL_0, 1: LABEL_1"):
        open_nli(str(unnamed), device="cpu")
    # a head of another size than the labels say
    relabelled = tiny_encoders.nli(tmp_path / "relabelled", ["entailment", "neutral", "no"])
    tiny_encoders.change_config(
        relabelled,
        id2label={"0": "entailment", "1": "not_entailment"},
        label2id={"entailment": 0, "not_entailment": 1},
    )
    with pytest.raises(EngineError, match=r"wrong shape \(classifier"):
        open_nli(str(relabelled), device="cpu")
