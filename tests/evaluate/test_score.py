"""Scores and comparisons of files: the same figures as by hand, and every count kept."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import DataError
from featherweight.evaluate.predictions import Reference
from featherweight.evaluate.score import METRICS, Cap, compare, measure, score
from featherweight.evaluate.statistics import Estimate, Seeds, holm, over_seeds, sign_flip

pytest.importorskip("rouge_score_rs")
google = pytest.importorskip("rouge_score.rouge_scorer")

WORDS = (
    "we agreed to ship the remote in march because titanium costs less than rubber and voice "
    "recognition needs more time before anybody can decide on its price"
).split()


def text(rng: random.Random, size: int) -> str:
    return " ".join(rng.choices(WORDS, k=size)) + "."


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Files:
    """References of 12 meetings with 1 to 5 questions, and systems of several qualities."""

    def __init__(self, folder: Path) -> None:
        rng = random.Random(1)
        self.folder = folder
        self.texts: dict[str, str] = {}
        rows = []
        for meeting in range(12):
            for question in range(1 + meeting % 5):
                name = f"m{meeting}-q{question}"
                self.texts[name] = " ".join(text(rng, rng.randint(4, 12)) for _ in range(3))
                rows.append({
                    "query_id": name, "meeting_id": f"m{meeting}", "reference": self.texts[name],
                    "general": question == 0,
                })  # fmt: skip
        self.references = write(folder / "references.jsonl", rows)

    def system(self, name: str, kept: float, seed: int = 0, more: str = "") -> Path:
        """Answers that keep a share of the reference's words."""
        rng = random.Random(f"{seed}")
        rows = []
        for query, reference in self.texts.items():
            words = [w if rng.random() < kept else rng.choice(WORDS) for w in reference.split()]
            rows.append({"query_id": query, "prediction": " ".join(words) + more})
        return write(self.folder / name, rows)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# ---- the word limit


def test_cap_is_read() -> None:
    assert Cap.parse("60") == Cap(60, 60)
    assert Cap.parse("60:110") == Cap(60, 110)
    assert Cap.parse("1:1") == Cap(1, 1)


@pytest.mark.parametrize(
    "written",
    ["", "0", "-1", "+5", "60:", ":60", ":", "60:0", "0:60", "x", "x:y", "60:y", "6.5", "1e3",
     "1_0", " 60", "60\n", "60:110:5", "٣", "²", "9" * 5_000, "0x10", "None"],
)  # fmt: skip
def test_cap_that_is_none(written: str) -> None:
    with pytest.raises(DataError, match=re.escape("write N or N:M, such as 60 or 60:110.")):
        Cap.parse(written)


@given(st.text("ab \n\u00a0.", max_size=40), st.integers(1, 9), st.booleans())
def test_cap_keeps_the_first_words(text: str, limit: int, general: bool) -> None:
    cap = Cap(99, limit) if general else Cap(limit, 99)
    found = cap(text, general)
    assert found.split() == text.split()[:limit]
    assert found == text or len(text.split()) > limit
    assert cap(text, not general) == text
    assert cap(found, general) == found


# ---- what is measured


def reference(text: str) -> Reference:
    return Reference(text, "m", False, "", "here")


def test_measure_is_google_and_a_count_of_words() -> None:
    scorer = google.RougeScorer(list(METRICS[:4]), use_stemmer=True)
    found = measure(["They ship it  in\nMarch.", ""], [reference("It ships in March.")] * 2)
    scored = scorer.score("It ships in March.", "They ship it in March.")
    assert found[0].tolist() == [*(100 * scored[name].fmeasure for name in METRICS[:4]), 5]
    assert found[1].tolist() == [0, 0, 0, 0, 0]
    assert METRICS == ("rouge1", "rouge2", "rougeL", "rougeLsum", "words")


def test_texts_that_do_not_pair() -> None:
    with pytest.raises(ValueError):
        measure(["one", "two"], [reference("one")])


# ---- score


def test_a_perfect_answer_scores_100(files: Files) -> None:
    found = score([files.system("a", 1.0)], files.references)
    assert (found.n, found.groups, found.missing, found.empty, found.runs) == (33, 12, 0, 0, 1)
    for name in METRICS[:4]:
        assert found.metrics[name] == Estimate(pytest.approx(100), pytest.approx((100, 100)))


def test_means_are_over_items_and_intervals_around_them(files: Files) -> None:
    path = files.system("a", 0.6)
    found = score([path], files.references)
    answers = [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
    table = measure(answers, [reference(text) for text in files.texts.values()])
    assert tuple(found.metrics) == METRICS
    for column, one in zip(table.T, found.metrics.values(), strict=True):
        assert one.mean == pytest.approx(column.mean())
        assert column.min() < one.ci95[0] < one.mean < one.ci95[1] < column.max()


def test_the_order_of_rows_does_not_matter(files: Files) -> None:
    path = files.system("a", 0.6)
    expected = score([path], files.references)
    lines = path.read_text().splitlines()
    random.Random(1).shuffle(lines)
    path.write_text("\n".join(lines))
    assert score([path], files.references) == expected
    # the references' order names the groups, so the draws are others; no more than that
    rows = files.references.read_text().splitlines()
    files.references.write_text("\n".join(rows[::-1]))
    found = score([path], files.references)
    for name in METRICS:
        assert found.metrics[name].mean == pytest.approx(expected.metrics[name].mean)
        assert found.metrics[name].ci95 == pytest.approx(expected.metrics[name].ci95, rel=0.02)


def test_line_breaks_do_not_matter(files: Files) -> None:
    plain, broken = files.system("a", 0.6), files.folder / "b"
    rows = [json.loads(line) for line in plain.read_text().splitlines()]
    rows = [{**row, "prediction": row["prediction"].replace(" ", "\n")} for row in rows]
    assert score([write(broken, rows)], files.references) == score([plain], files.references)


def test_the_limit_makes_lengths_equal(files: Files) -> None:
    long = files.system("a", 0.6, more=" and so on" * 40)
    free, cut = (score([long], files.references, cap) for cap in (None, Cap(5, 8)))
    assert free.metrics["words"].mean > 120
    assert cut.metrics["words"].mean == pytest.approx((21 * 5 + 12 * 8) / 33)


def test_general_questions_may_be_answered_at_length(tmp_path: Path) -> None:
    text = "one two three four five"
    rows = [{"id": 1, "reference": text}, {"id": 2, "reference": text, "general": True}]
    references = write(tmp_path / "r", rows)
    path = write(tmp_path / "p", [{"id": n, "prediction": text} for n in (1, 2)])
    found = score([path], references, Cap(2, 4)).metrics
    assert found["words"].ci95 == (2, 4)
    assert found["rouge1"].ci95 == pytest.approx((100 * 2 * 2 / 7, 100 * 2 * 4 / 9))
    assert score([path], references).metrics["words"].ci95 == (5, 5)


def test_an_empty_answer_scores_0_and_is_counted(tmp_path: Path) -> None:
    references = write(tmp_path / "r", [{"id": n, "reference": "yes we do"} for n in range(4)])
    answers = ["yes we do", "", " \n", "yes we do"]
    path = write(tmp_path / "p", [{"id": n, "prediction": a} for n, a in enumerate(answers)])
    with pytest.raises(DataError, match="line 2: 'prediction' is empty"):
        score([path], references)
    found = score([path], references, allow_missing=True)
    assert (found.n, found.groups, found.missing, found.empty) == (4, 4, 0, 2)
    assert found.metrics["rougeLsum"].mean == pytest.approx(50)
    assert found.metrics["words"].mean == 1.5
    assert found.to_json()["empty"] == 2


def test_what_is_missing_is_left_out_and_counted(files: Files) -> None:
    path = files.system("a", 1.0)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[3:]))
    with pytest.raises(DataError, match=r"references\.jsonl line 1: 'm0-q0' has no prediction in"):
        score([path], files.references)
    found = score([path], files.references, allow_missing=True)
    assert (found.n, found.groups, found.missing) == (30, 10, 3)  # m0 and m1 are gone
    assert found.metrics["rouge1"].mean == pytest.approx(100)  # not counted as 0
    assert found.to_json()["missing"] == 3


def test_several_runs(files: Files) -> None:
    paths = [files.system(f"run{seed}", 0.5, seed) for seed in range(3)]
    singles = [score([path], files.references) for path in paths]
    found = score(paths, files.references, seed=5)
    assert (found.n, found.groups, found.runs) == (33, 12, 3)
    for name in METRICS[:4]:
        one = found.metrics[name]
        assert isinstance(one, Seeds)
        means = [single.metrics[name].mean for single in singles]
        assert one.runs == pytest.approx(means)
        assert one.mean == pytest.approx(np.mean(means))
        assert one.sd == pytest.approx(np.std(means, ddof=1)) and one.sd > 0
        assert one.ci95[0] < one.mean < one.ci95[1]
    tables = []
    for path in paths:
        answers = [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
        tables.append(measure(answers, [reference(text) for text in files.texts.values()])[:, 1])
    groups = [name.partition("-")[0] for name in files.texts]
    expected = over_seeds(np.transpose(tables), groups, seed=5)
    assert found.metrics["rouge2"].ci95 == pytest.approx(expected.ci95)
    data = found.to_json()["metrics"]["rouge1"]
    assert data["seed_sd"] == found.metrics["rouge1"].sd  # type: ignore[union-attr]
    assert data["runs"] == list(found.metrics["rouge1"].runs)  # type: ignore[union-attr]
    assert "seed_sd" not in singles[0].to_json()["metrics"]["rouge1"]


def test_the_seed_is_that_of_the_draws(files: Files) -> None:
    path = files.system("a", 0.6)
    one, again, other = (score([path], files.references, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one.metrics["rouge1"].mean == other.metrics["rouge1"].mean
    assert one.metrics["rouge1"].ci95 != other.metrics["rouge1"].ci95


# ---- compare


def test_the_difference_is_a_less_b(files: Files) -> None:
    better, worse = files.system("a", 0.8, 1), files.system("b", 0.3, 2, more=" so on")
    found, back = (compare(*pair, files.references) for pair in ((better, worse), (worse, better)))
    assert (found.n, found.groups, found.missing, found.empty) == (33, 12, 0, (0, 0))
    assert tuple(found.metrics) == tuple(found.p_holm) == METRICS
    for name, one in found.metrics.items():
        assert one.a == pytest.approx(score([better], files.references).metrics[name].mean)
        assert one.b == pytest.approx(score([worse], files.references).metrics[name].mean)
        assert one.diff == pytest.approx(one.a - one.b)
        other = back.metrics[name]
        assert (other.a, other.b, other.diff, other.p) == (one.b, one.a, -one.diff, one.p)
        assert other.ci95 == pytest.approx((-one.ci95[1], -one.ci95[0]))
    assert found.metrics["rouge1"].ci95[0] > 0
    assert found.metrics["rouge1"].p == 2 / 2**12  # as extreme as 12 meetings can be
    words = found.metrics["words"]
    assert (words.diff, words.ci95) == (-2, (-2, -2))


def test_p_is_adjusted_over_the_metrics(files: Files) -> None:
    found = compare(files.system("a", 0.5, 1), files.system("b", 0.42, 2), files.references)
    raw = [one.p for one in found.metrics.values()]
    assert list(found.p_holm.values()) == holm(raw).tolist()
    assert any(found.p_holm[name] > one.p for name, one in found.metrics.items())
    assert min(raw) > 0 and min(raw) < 0.5


def test_p_is_of_whole_meetings(files: Files) -> None:
    a, b = files.system("a", 0.5, 1), files.system("b", 0.42, 2)
    tables = []
    for path in (a, b):
        answers = [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
        tables.append(measure(answers, [reference(text) for text in files.texts.values()]))
    groups = [name.partition("-")[0] for name in files.texts]
    expected = sign_flip(tables[0] - tables[1], groups)
    assert [one.p for one in compare(a, b, files.references).metrics.values()] == list(expected)
    assert list(expected) != list(sign_flip(tables[0] - tables[1], list(files.texts)))


def test_a_system_is_no_different_from_itself(files: Files) -> None:
    path = files.system("a", 0.5)
    found = compare(path, path, files.references)
    for name, one in found.metrics.items():
        assert (one.diff, one.ci95, one.p, found.p_holm[name]) == (0, (0, 0), 1, 1)


def test_both_are_scored_on_what_both_answered(files: Files) -> None:
    a, b = files.system("a", 1.0), files.system("b", 0.5)
    lines = b.read_text().splitlines()
    empty = json.dumps({"query_id": list(files.texts)[-1], "prediction": ""})
    a.write_text("\n".join(a.read_text().splitlines()[1:]))
    b.write_text("\n".join([*lines[:1], *lines[2:-1], empty]))  # the second is missing
    with pytest.raises(DataError):
        compare(a, b, files.references)
    found = compare(a, b, files.references, allow_missing=True)
    assert (found.n, found.missing, found.empty) == (31, 2, (0, 1))
    assert found.groups == 11  # one meeting had one question
    assert found.metrics["rouge1"].a == pytest.approx(100)
    kept = [json.loads(line)["prediction"] for line in lines[2:-1]] + [""]
    table = measure(kept, [reference(text) for text in list(files.texts.values())[2:]])
    assert [one.b for one in found.metrics.values()] == pytest.approx(table.mean(axis=0).tolist())


def test_the_limit_holds_for_both(files: Files) -> None:
    a, b = files.system("a", 0.5, 1, more=" and so on" * 9), files.system("b", 0.5, 1)
    free, cut = (compare(a, b, files.references, cap) for cap in (None, Cap(5, 8)))
    assert free.metrics["words"].diff == 27
    assert cut.metrics["words"].a == cut.metrics["words"].b == pytest.approx((21 * 5 + 12 * 8) / 33)
    assert cut.metrics["rouge1"].diff == 0
