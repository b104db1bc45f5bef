"""Perplexity of running text against one plain float64 computation."""

import math
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_llama import BOS, EOS, save_tiny_llama  # noqa: E402

from featherweight.engines.transformers import TransformersEngine  # noqa: E402
from featherweight.errors import EngineError  # noqa: E402
from featherweight.evaluate.perplexity import chunks, perplexity, rolling  # noqa: E402
from featherweight.tasks import load_task  # noqa: E402
from featherweight.tasks.run import run_task  # noqa: E402
from featherweight.tasks.store import Store  # noqa: E402

pytestmark = pytest.mark.model
CONTEXT = 24
TEXT = "The marketing team asked for a remote control; naïve, café. It is easy to use. " * 3


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    folder = save_tiny_llama(tmp_path_factory.mktemp("llama"))
    return TransformersEngine.open(str(folder), dtype="fp32", device="cpu", context_length=CONTEXT)


def plain(engine: TransformersEngine, ids: list[int]) -> list[float]:
    """Log-probability of every token but the first: full logits, float64, no cache."""
    model = engine._model.raw  # type: ignore[union-attr]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    table = torch.log_softmax(logits.double(), -1)
    return [table[i, token].item() for i, token in enumerate(ids[1:])]


class Watched:
    """The engine, and what rows it was given."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine
        self.rows: list[tuple[tuple[int, ...], bool]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def score_tokens(self, rows: Any, start: bool = False) -> Any:
        kept = [tuple(row) for row in rows]
        self.rows += [(row, start) for row in kept]
        return self._engine.score_tokens(kept, start)


# ---- chunks


def test_chunks_are_consecutive_and_whole(engine: TransformersEngine) -> None:
    ids = engine.encode(TEXT)
    assert len(ids) > 3 * CONTEXT and BOS not in ids and EOS not in ids
    for size in (7, 10, CONTEXT):
        found = chunks(engine, TEXT, size)
        assert [len(chunk) for chunk in found] == [size] * (len(ids) // size)
        assert tuple(chain(*found)) == ids[: len(found) * size]
    assert chunks(engine, TEXT) == chunks(engine, TEXT, CONTEXT)  # no longer than the context
    short = engine.encode("The team")
    assert chunks(engine, "The team", len(short)) == [short]
    assert chunks(engine, "The team", len(short) + 1) == [short]  # shorter than one chunk


def test_token_perplexity_is_the_plain_one(engine: TransformersEngine, tmp_path: Path) -> None:
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "valid.txt").write_text(TEXT)
    task = load_task("wikitext2-tokens", tmp_path)
    store = Store(tmp_path / "run", {})
    rows = run_task(task, engine, store).rows
    store.close()
    ids = engine.encode(TEXT)
    parts = [ids[i : i + CONTEXT] for i in range(0, len(ids) - CONTEXT + 1, CONTEXT)]
    assert list(rows) == [f"val/0/{CONTEXT}-{n}" for n in range(len(parts))]
    expected = [plain(engine, list(part)) for part in parts]
    for row, logprobs in zip(rows.values(), expected, strict=True):
        assert row["tokens"] == CONTEXT - 1
        assert row["logprob"] == pytest.approx(sum(logprobs), rel=1e-5)
    found = perplexity(
        [row["logprob"] for row in rows.values()],
        [row["tokens"] for row in rows.values()],
        list(rows),
    )
    flat = list(chain(*expected))
    assert found.mean == pytest.approx(math.exp(-sum(flat) / len(flat)), rel=1e-5)
    assert found.ci95[0] < found.mean < found.ci95[1]


# ---- rolling


def harness_windows(ids: list[int], window: int) -> list[tuple[list[int], list[int]]]:
    """(read before, scored) as lm-evaluation-harness describes its windows: each scores the next
    `window` tokens after one token of context, the last one is moved back to be full."""
    first = min(window, len(ids))
    found = [([BOS], ids[:first])]
    done = first
    while done < len(ids):
        end = min(done + window, len(ids))
        found.append((ids[end - window - 1 : done], ids[done:end]))
        done = end
    return found


@pytest.mark.parametrize("words", [1, 9, 12, 25, 40])
def test_every_token_is_scored_once(engine: TransformersEngine, words: int) -> None:
    text = " ".join(TEXT.split()[:words])
    ids = list(engine.encode(text))
    windows = harness_windows(ids, CONTEXT - 1)
    assert list(chain(*(scored for _, scored in windows))) == ids
    expected = [plain(engine, before + scored)[-len(scored) :] for before, scored in windows]
    watched = Watched(engine)
    (found,) = rolling(watched, [text])  # type: ignore[arg-type]
    assert found.tokens == len(ids)
    assert found.logprob == pytest.approx(sum(map(sum, expected)), rel=1e-5)
    assert [start for _, start in watched.rows] == [True] + [False] * (len(windows) - 1)
    for (row, _), (before, scored) in zip(watched.rows[1:], windows[1:], strict=True):
        assert list(row) == before + scored and len(row) == CONTEXT


def test_a_text_that_fits_is_one_forward(engine: TransformersEngine) -> None:
    text = "The marketing team asked for it"
    ids = list(engine.encode(text))
    assert len(ids) < CONTEXT
    (found,) = rolling(engine, [text])
    assert found.logprob == pytest.approx(sum(plain(engine, [BOS, *ids])), rel=1e-5)
    assert found.tokens == len(ids)


def test_several_texts_are_kept_apart(engine: TransformersEngine) -> None:
    texts = [TEXT, "The team", TEXT[:90]]
    together = list(rolling(engine, texts))
    for text, found in zip(texts, together, strict=True):
        assert found == next(rolling(engine, [text]))


def test_without_bos_a_text_begins_after_the_end_token(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path, bos=False)
    engine = TransformersEngine.open(str(folder), dtype="fp32", device="cpu")
    ids = list(engine.encode("The team"))
    (found,) = rolling(engine, ["The team"])
    assert found.logprob == pytest.approx(sum(plain(engine, [EOS, *ids])), rel=1e-5)
    assert found.logprob != pytest.approx(sum(plain(engine, [BOS, *ids])), rel=1e-3)


def test_rows_of_tokens(engine: TransformersEngine) -> None:
    ids = engine.encode(TEXT)
    rows = [ids[:5], ids[3:24], ids[:1], ids[7:9]]
    found = list(engine.score_tokens(rows))
    for row, logprobs in zip(rows, found, strict=True):
        assert logprobs == pytest.approx(plain(engine, list(row)), abs=1e-4)
    assert found[2] == ()
    started = list(engine.score_tokens(rows[:1], start=True))
    assert started[0] == pytest.approx(plain(engine, [BOS, *rows[0]]), abs=1e-4)
    assert list(engine.score_tokens([()], start=True)) == [()]
    with pytest.raises(EngineError, match="a row has no tokens"):
        list(engine.score_tokens([()]))
    with pytest.raises(EngineError, match="context"):
        list(engine.score_tokens([ids[: CONTEXT + 1]]))


# ---- the figure


def test_perplexity_by_hand() -> None:
    found = perplexity([-2.0, -3.0, -7.0], [1, 2, 5], ["a", "b", "c"])
    assert found.mean == pytest.approx(math.exp(12 / 8))  # a ratio of sums, no mean of ratios
    assert math.exp(7 / 5) - 1e-9 <= found.ci95[0] <= found.mean <= found.ci95[1] <= math.exp(2)
    assert found == perplexity([-2.0, -3.0, -7.0], [1, 2, 5], ["a", "b", "c"])
    one = perplexity([-2.0, -4.0], [1, 2], ["a", "a"])
    assert one.mean == pytest.approx(math.exp(2)) and one.ci95 == pytest.approx((one.mean,) * 2)
