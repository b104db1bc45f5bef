"""BERTScore against the bert-score library, on tiny random encoders made here."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoders
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from featherweight.evaluate.bertscore import bertscore, greedy
from featherweight.evaluate.encoder import Encoder, open_encoder

CANDIDATES = [
    "The team asked for a remote control.",
    "Nobody objected",
    "Größe, naïve: café 🎉🇫🇷 every letter",
    "日本語 zzz ??",
    "a",
    "We decided to postpone the meeting; nobody objected to the new budget.",
]
REFERENCES = [
    "The marketing team asked for a remote control that is easy to use.",
    "We decided to postpone the meeting; nobody objected.",
    "the summary keeps every letter as it was.",
    "We decided",
    "the budget of the team",
    "We decided to postpone the meeting; nobody objected to the new budget.",
]


@pytest.fixture(scope="module")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return tiny_encoders.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def roberta_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return tiny_encoders.roberta(tmp_path_factory.mktemp("robert"))


@pytest.fixture(scope="module")
def bert(bert_dir: Path) -> Encoder:
    return open_encoder(str(bert_dir), device="cpu")


def library(
    folder: Path, layer: int, limit: int, candidates: list[str], references: list[str], **told: Any
) -> Any:
    """P, R, F1 [n] from bert-score; a pair at a time, so that padding is never matched.

    It crashes where the tokenizer states no limit (bert_score#205), so a copy states one. It takes
    any path with "t5" in it for a T5, so the copy's name is not left to chance.
    """
    bert_score = pytest.importorskip("bert_score")
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": limit} | told))
    scores = bert_score.score(
        candidates, references, model_type=str(copy), num_layers=layer, batch_size=1, device="cpu"
    )
    return [part.numpy() for part in scores]


def assert_equal(ours: Any, theirs: Any) -> None:
    for mine, other in zip((ours.precision, ours.recall, ours.f1), theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    assert len(set(np.round(ours.f1, 4))) > 1  # a constant would be no comparison


@pytest.mark.model
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_equals_the_library_on_bert(bert_dir: Path, layer: int) -> None:
    encoder = open_encoder(str(bert_dir), layer=layer, device="cpu")
    ours = bertscore(encoder, CANDIDATES, REFERENCES)
    assert_equal(ours, library(bert_dir, layer, 48, CANDIDATES, REFERENCES))
    assert ours.f1[-1] == pytest.approx(1, abs=1e-5)  # the same text


@pytest.mark.model
@pytest.mark.parametrize("layer", [2, 3])
def test_equals_the_library_on_roberta(roberta_dir: Path, layer: int) -> None:
    """The library asks for a space before the first word, which transformers 5 does not hear: its
    tokenizer is told so here; ours asks by itself."""
    encoder = open_encoder(str(roberta_dir), layer=layer, device="cpu")
    ours = bertscore(encoder, CANDIDATES, REFERENCES)
    told = library(roberta_dir, layer, 46, CANDIDATES, REFERENCES, add_prefix_space=True)
    assert_equal(ours, told)
    untold = library(roberta_dir, layer, 46, CANDIDATES, REFERENCES)
    assert np.abs(ours.f1 - untold[2]).max() > 1e-3  # once equal, transformers listens again


@pytest.mark.model
@pytest.mark.parametrize(("directory", "limit"), [("bert_dir", 48), ("roberta_dir", 46)])
def test_cut_as_in_the_library_but_counted(
    directory: str, limit: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(directory)
    encoder = open_encoder(str(folder), device="cpu")
    assert encoder.limit == limit
    fits = "the " * (limit - 2)
    candidates = [fits, fits + "budget", " ".join(REFERENCES * 2), "the"]
    references = ["We decided", "We decided", "the " * 200, "the " * 200]
    ours = bertscore(encoder, candidates, references)
    assert ours.truncated == 4
    assert ours.f1[0] == pytest.approx(ours.f1[1], abs=1e-6)
    collapsed = [" ".join(text.split()) for text in candidates + references]
    assert_equal(
        ours, library(folder, 3, limit, collapsed[:4], collapsed[4:], add_prefix_space=True)
    )


@pytest.mark.model
def test_the_last_layer_is_the_default(bert_dir: Path, bert: Encoder) -> None:
    given_layer = open_encoder(str(bert_dir), layer=3, device="cpu")
    np.testing.assert_array_equal(
        bertscore(bert, CANDIDATES, REFERENCES).f1,
        bertscore(given_layer, CANDIDATES, REFERENCES).f1,
    )
    assert bert.layer == 3


@pytest.mark.model
def test_an_empty_text_scores_nothing(bert: Encoder) -> None:
    ours = bertscore(bert, ["", " \n", "the team", "\x07"], ["the team", "", "", "the team"])
    assert not ours.precision.any() and not ours.recall.any() and not ours.f1.any()
    assert ours.empty == 5 and ours.truncated == 0


@pytest.mark.model
def test_white_space_does_not_matter(bert: Encoder) -> None:
    ours = bertscore(bert, [" The team\n asked\t"] * 2, ["for  a\nremote", "for a remote"])
    assert ours.f1[0] == ours.f1[1] == bertscore(bert, ["The team asked"], ["for a remote"]).f1[0]


@pytest.mark.model
def test_no_score_depends_on_its_batch(bert: Encoder) -> None:
    """Any order, any batch, pairs repeated over more than one window: the same numbers."""
    number = 70
    candidates = [CANDIDATES[i % 6] for i in range(number)]
    references = [REFERENCES[(i * i) % 6] for i in range(number)]
    seen: list[tuple[int, int]] = []
    many = bertscore(bert, candidates, references, progress=lambda *done: seen.append(done))
    assert seen == [(64, 70), (70, 70)]
    single = bertscore(bert, candidates, references, batch_tokens=1)
    np.testing.assert_allclose(many.f1, single.f1, atol=1e-6)
    backwards = bertscore(bert, candidates[::-1], references[::-1])
    np.testing.assert_allclose(many.f1, backwards.f1[::-1], atol=1e-6)


@pytest.mark.model
def test_swapping_the_texts_swaps_precision_and_recall(bert: Encoder) -> None:
    there, back = bertscore(bert, CANDIDATES, REFERENCES), bertscore(bert, REFERENCES, CANDIDATES)
    np.testing.assert_allclose(there.precision, back.recall, atol=1e-6)
    np.testing.assert_allclose(there.f1, back.f1, atol=1e-6)


@pytest.mark.model
def test_the_signature_tells_what_a_score_depends_on(bert_dir: Path, bert: Encoder) -> None:
    import hashlib

    weights = hashlib.sha256((bert_dir / "model.safetensors").read_bytes()).hexdigest()[:12]
    scores = bertscore(bert, ["a"], ["b"])
    assert scores.signature == f"{bert_dir.name}_L3_no-idf_float32_sha256:{weights}"
    half = open_encoder(str(bert_dir), layer=1, dtype="bf16", device="cpu")
    other = bertscore(half, CANDIDATES, REFERENCES)
    assert other.signature == f"{bert_dir.name}_L1_no-idf_bfloat16_sha256:{weights}"
    exact = bertscore(open_encoder(str(bert_dir), layer=1, device="cpu"), CANDIDATES, REFERENCES)
    np.testing.assert_allclose(other.f1, exact.f1, atol=0.05)
    assert (other.f1 != exact.f1).any()


@pytest.mark.model
def test_nothing_to_score(bert: Encoder) -> None:
    assert bertscore(bert, [], []).f1.shape == (0,)
    with pytest.raises(ValueError, match="1 candidates and 2 references"):
        bertscore(bert, ["a"], ["a", "b"])


def test_greedy_by_hand() -> None:
    candidate = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    reference = np.array([[1.0, 0.0], [0.0, 1.0]])
    # similarities: [[1, 0], [.6, .8], [0, 1]]; the first token of each is special
    precision, recall, f1 = greedy(candidate, np.array([0, 1, 1]), reference, np.array([0, 1]))
    assert (precision, recall) == (pytest.approx(0.9), pytest.approx(1.0))
    assert f1 == pytest.approx(2 * 0.9 / 1.9)
    assert greedy(candidate, np.zeros(3), reference, np.ones(2)) == (0, 0, 0)
    assert greedy(candidate, np.ones(3), reference, np.zeros(2)) == (0, 0, 0)


def test_negative_similarities_are_not_lifted_to_zero() -> None:
    one, other = np.array([[1.0, 0.0]]), np.array([[-0.6, 0.8]])
    precision, recall, f1 = greedy(one, np.ones(1), other, np.ones(1))
    assert (precision, recall, f1) == (pytest.approx(-0.6),) * 3


@given(
    arrays.arrays(np.float64, (4, 3), elements=st.floats(-1, 1)),
    arrays.arrays(np.float64, (5, 3), elements=st.floats(-1, 1)),
    st.permutations(range(5)),
)
def test_the_order_of_tokens_does_not_matter(a: Any, b: Any, order: list[int]) -> None:
    ones = np.ones(4), np.ones(5)
    assert greedy(a, ones[0], b, ones[1]) == pytest.approx(
        greedy(a, ones[0], b[order], ones[1]), abs=1e-9
    )
