"""Scores of many continuations at once equal scores one by one and plain forwards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_llama import save_tiny_llama  # noqa: E402

from featherweight.engines import batches, hf_score  # noqa: E402
from featherweight.engines.transformers import TransformersEngine  # noqa: E402
from featherweight.engines.types import Prompt  # noqa: E402
from featherweight.errors import EngineError  # noqa: E402
from featherweight.tasks import Example, Task, evaluate  # noqa: E402

pytestmark = pytest.mark.model

LONG = " asked for a remote control that is easy to use, and nobody objected" * 2
QUESTION = "Question: is the following claim true?\nAnswer:"
ONE: list[tuple[Prompt, str]] = [(QUESTION, text) for text in (" yes", " no", LONG, " maybe not")]
MIXED: list[tuple[Prompt, str]] = [
    *ONE[:2],
    ("The team", LONG),
    ("The team", " x"),
    (QUESTION, ONE[2][1]),
    ("", "The meeting"),
    ("", "nobody"),
    ("The team", ""),
    ("A prompt of its own, and a good deal longer than the others are", " yes"),
    (QUESTION, " yes"),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    folder = save_tiny_llama(tmp_path_factory.mktemp("llama"))
    return TransformersEngine.open(str(folder), dtype="fp32", device="cpu")


@pytest.fixture
def forwards(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of what each forward reads."""
    shapes: list[tuple[int, ...]] = []
    before: Callable[..., Any] = engine._model.forward  # type: ignore[union-attr]

    def forward(ids: Any, *rest: Any, **more: Any) -> Any:
        shapes.append(tuple(ids.shape))
        return before(ids, *rest, **more)

    monkeypatch.setattr(engine._model, "forward", forward)
    return shapes


def plain(engine: TransformersEngine, prompt: Prompt, text: str) -> list[float]:
    (ids, _), target = engine._prompts.split(prompt, text)
    model = engine._model.raw  # type: ignore[union-attr]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids + target])).logits[0]
    table = torch.log_softmax(logits.double(), -1)
    return [table[len(ids) - 1 + i, token].item() for i, token in enumerate(target)]


def test_a_batch_is_given_before_the_next_is_read(
    engine: TransformersEngine,
    forwards: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "_batch_tokens", 1)  # one row a batch
    rows = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 8], [5, 6]]
    scores = engine.score_tokens(rows)
    seen = [(len(next(scores)), len(forwards)) for _ in rows]
    assert [length for length, _ in seen] == [5, 3, 1]
    assert seen[0][1] < seen[1][1] < seen[2][1]


@pytest.mark.parametrize("rows", [1, 5, 512])
@pytest.mark.parametrize("pairs", [ONE, MIXED, [*MIXED, *ONE][::-1]], ids=["one", "mixed", "more"])
def test_together_as_one_by_one(
    engine: TransformersEngine,
    pairs: list[tuple[Prompt, str]],
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hf_score, "SCORE_ROWS", rows)
    together = list(engine.score(pairs))
    for pair, found in zip(pairs, together, strict=True):
        assert found == pytest.approx(plain(engine, *pair), abs=1e-4)
        assert found == pytest.approx(next(engine.score([pair])), abs=1e-4)


def test_a_prompt_is_read_once(engine: TransformersEngine, forwards: list[tuple[int, ...]]) -> None:
    size = len(engine._prompts.encode(QUESTION).ids)
    list(engine.score(ONE))
    longest = max(len(engine._prompts.split(*pair)[1]) for pair in ONE)
    assert forwards == [(1, size), (4, longest - 1)]
    forwards.clear()
    list(engine.score([("The team", " x"), (QUESTION, " yes"), ("The team", " yes")]))
    assert forwards[0] == (2, size)


def test_short_choices_are_not_padded_to_a_long_one(
    engine: TransformersEngine, forwards: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "ENOUGH", 16)
    whole = [ONE[2], *ONE[:2], *((QUESTION, f" {word}") for word in "abcdef")]
    together = list(engine.score(whole))
    sizes = [len(engine._prompts.split(*pair)[1]) - 1 for pair in whole]
    read = sum(rows * width for rows, width in forwards[1:])
    assert sum(sizes) <= read < len(whole) * max(sizes) / 2
    for pair, found in zip(whole, together, strict=True):
        assert found == pytest.approx(plain(engine, *pair), abs=1e-4)


def test_prompts_of_like_length_are_read_together(
    engine: TransformersEngine, forwards: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "ENOUGH", 16)
    pairs = [(f"{'word ' * n}Answer:", f" {c}") for c in "abc" for n in (40, 1, 39, 2)]
    together = list(engine.score(pairs))
    prompts = [shape for shape in forwards if shape[1] > 30 or shape[0] == 2]
    assert [rows for rows, _ in prompts] == [2, 2]  # two long, two short, each with its choices
    for pair, found in zip(pairs, together, strict=True):
        assert found == pytest.approx(plain(engine, *pair), abs=1e-4)


def test_a_long_text_is_read_in_pieces(
    engine: TransformersEngine, forwards: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_score, "SCORE_ROWS", 12)
    list(engine.score(ONE))
    assert all(rows * width <= 12 for rows, width in forwards[1:]) and len(forwards) > 3
    longest = max(len(engine._prompts.split(*pair)[1]) for pair in ONE)
    assert sum(width for _, width in forwards[1:]) == longest - 1


def test_small_batches_share_too(engine: TransformersEngine) -> None:
    small = TransformersEngine(
        engine._model.raw,  # type: ignore[union-attr]
        engine._prompts._tokenizer,
        name="small",
        batch_tokens=60,
    )
    for a, b in zip(small.score(MIXED), engine.score(MIXED), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.parametrize("kind", ["Gemma2Config", "GPT2Config", "BloomConfig"])
def test_other_kinds_of_models_share_prompts(engine: TransformersEngine, kind: str) -> None:
    """Sliding windows, learned positions, no positions."""
    settings = {
        "vocab_size": 360,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "pad_token_id": 1,
    }
    if kind == "Gemma2Config":
        settings["sliding_window"] = 8
    torch.manual_seed(6)
    config = getattr(transformers, kind)(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config)
    other = TransformersEngine(model, engine._prompts._tokenizer, name=kind)
    for pair, found in zip(MIXED, other.score(MIXED), strict=True):
        assert found == pytest.approx(plain(other, *pair), abs=1e-4)


def test_the_folder_is_what_hf_opens(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path, context=64)
    assert TransformersEngine.open(str(folder), device="cpu").context_length == 64


def test_a_model_that_gives_no_numbers_scores_nothing(tmp_path: Path) -> None:
    """Not NaN: the first of many choices would be taken for the best."""
    folder = save_tiny_llama(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    broken = TransformersEngine.open(str(folder), dtype="fp32", device="cpu")
    with pytest.raises(
        EngineError, match=r"the model's output is not a number; .* try dtype fp32\.$"
    ):
        list(broken.score(ONE))
    with pytest.raises(EngineError, match="is not a number"):
        list(broken.score_tokens([[3, 4, 5, 6]]))
    task = Task("t", "choice", (Example("1", QUESTION, "yes", choices=("yes", "no")),))
    with pytest.raises(EngineError, match=r"is not a number; .* try dtype fp32\.$"):
        evaluate(task, broken, f"hf:{folder}", tmp_path / "run")
