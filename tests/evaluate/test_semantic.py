"""Compression, BERTScore and faithfulness beside ROUGE; what is not measured is never a number."""

import json
from pathlib import Path

import pytest

from featherweight.errors import DataError
from featherweight.evaluate.score import score
from featherweight.evaluate.semantic import Semantic, read_sources

ANSWERS = {"1": "The team met. They agreed.", "2": "Nothing was decided."}
SOURCE = "We met on Monday. We agreed on the price. " * 5


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    predictions = [{"id": k, "prediction": v} for k, v in ANSWERS.items()]
    references = [{"id": k, "reference": "The team met.", "group": f"m{k}"} for k in ANSWERS]
    return write(tmp_path / "p.jsonl", predictions), write(tmp_path / "r.jsonl", references)


def test_nothing_named_is_listed_as_not_measured(files: tuple[Path, Path]) -> None:
    found = score([files[0]], files[1])
    assert set(found.not_measured) == {"compression", "bertscore", "faithfulness"}
    assert not set(found.not_measured) & set(found.metrics)
    assert found.to_json()["not_measured"]["bertscore"] == "no --encoder"


def test_compression_is_source_words_for_each_word(files: tuple[Path, Path]) -> None:
    sources = write(
        files[0].parent / "s.jsonl", [{"group": f"m{k}", "source": SOURCE} for k in "12"]
    )
    found = score([files[0]], files[1], wanted=Semantic(sources=sources))
    words = len(SOURCE.split())
    assert found.metrics["compression"].mean == pytest.approx((words / 5 + words / 3) / 2)
    assert "faithfulness" in found.not_measured and "compression" not in found.not_measured


def test_a_source_by_id_comes_before_one_by_group(files: tuple[Path, Path]) -> None:
    rows = [{"id": "1", "source": "a b c d e"}, {"id": "m1", "source": "no"}]
    rows += [{"group": "m2", "source": "a b c"}]
    sources = write(files[0].parent / "s.jsonl", rows)
    found = score([files[0]], files[1], wanted=Semantic(sources=sources))
    assert found.metrics["compression"].mean == pytest.approx(1.0)


def test_an_empty_answer_has_no_compression_and_the_count_says_so(tmp_path: Path) -> None:
    predictions = write(
        tmp_path / "p.jsonl", [{"id": "1", "prediction": "one two"}, {"id": "2", "prediction": ""}]
    )
    references = write(tmp_path / "r.jsonl", [{"id": k, "reference": "x"} for k in "12"])
    sources = write(tmp_path / "s.jsonl", [{"id": k, "source": "a b c d"} for k in "12"])
    found = score([predictions], references, None, True, wanted=Semantic(sources=sources))
    assert found.metrics["compression"].mean == 2
    assert found.measured == {"compression": 1}
    assert found.to_json()["metrics"]["compression"]["n"] == 1


def test_a_missing_source_names_the_reference(files: tuple[Path, Path]) -> None:
    sources = write(files[0].parent / "s.jsonl", [{"group": "m1", "source": "a"}])
    with pytest.raises(DataError, match=r"r\.jsonl line 2.*'m2'"):
        score([files[0]], files[1], wanted=Semantic(sources=sources))


def test_a_source_that_stands_twice_is_refused(tmp_path: Path) -> None:
    rows = [{"group": "m1", "source": "a"}, {"group": "m1", "source": "b"}]
    with pytest.raises(DataError, match="line 2"):
        read_sources(write(tmp_path / "s.jsonl", rows))


@pytest.mark.model
def test_encoders_are_used_and_their_signatures_are_told(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    import tiny_encoders

    encoder = tiny_encoders.bert(tmp_path / "encoder")
    nli = tiny_encoders.nli(tmp_path / "nli", ["contradiction", "neutral", "entailment"])
    sources = write(tmp_path / "s.jsonl", [{"group": f"m{k}", "source": SOURCE} for k in "12"])
    wanted = Semantic(encoder=str(encoder), nli=str(nli), sources=sources)
    found = score([files[0]], files[1], wanted=wanted)
    assert 0 < found.metrics["faithfulness"].mean < 100
    assert found.metrics["bertscore"].mean <= 100 and not found.not_measured
    assert any("sha256" in note for note in found.notes)
