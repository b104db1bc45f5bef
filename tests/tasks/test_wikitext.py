"""WikiText-2: articles, and the text as it was before the tokeniser."""

import gzip
from pathlib import Path

import pytest

from featherweight.errors import DataError
from featherweight.files import sha256
from featherweight.tasks.wikitext import articles, detokenised, wikitext

TEXT = (
    " \n = One = \n \n It is 1 @,@ 000 m . \n \n = = Part = = \n \n More ( a lot ) . \n"
    " \n = Two = \n \n = = = Deep = = = \n \n End . \n"
)


def put(folder: Path, raw: bytes, name: str = "valid.txt") -> Path:
    path = folder / "wikitext2" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def test_articles_begin_at_titles_of_the_first_level() -> None:
    first, second = articles(TEXT)
    assert first == TEXT[TEXT.index(" = One") : TEXT.index(" = Two")]
    assert second == TEXT[TEXT.index(" = Two") :]
    assert articles("no title at all\n") == []
    assert len(articles(" = A = \n = B = \n")) == 2
    assert articles("x = y = z\n = = A = = \n") == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a @-@ b 1 @,@ 000 2 @.@ 5", "a-b 1,000 2.5"),
        (
            "one , two ; three : four . Five ! Six ? Seven",
            "one, two; three: four. Five! Six? Seven",
        ),
        ("It ended . \n", "It ended.\n"),
        ("at the end .", "at the end ."),  # nothing follows: the harness leaves it
        ("( a lot ) and [ b ] and { c }", "(a lot) and [b] and {c}"),
        ('said " yes " and " no "', 'said "yes" and "no"'),
        ("the ' best ' one", "the 'best' one"),
        ("the dogs ' tails", "the dogs' tails"),
        ("Ann 's map", "Ann's map"),
        ("does n't", "does n't"),  # the harness has no rule for it
        ("20 ° C", "20°C"),
        (" = A = \n \n text \n", " = A =\n\ntext\n"),
        (" = = B = = \n", " == B ==\n"),
        (" = = = C = = = \n", " === C ===\n"),
        (" = = = = D = = = = \n", " ==== D ====\n"),
        ("page N of", "page 1 of"),
        ("costs @,@", "costs @,@"),
    ],
)
def test_the_rules_of_the_harness(before: str, after: str) -> None:
    assert detokenised(before) == after


def test_a_whole_article() -> None:
    first, _ = articles(TEXT)
    assert detokenised(first) == " = One =\n\nIt is 1,000 m.\n\n== Part ==\n\nMore (a lot).\n\n"


def test_the_word_level_task(tmp_path: Path) -> None:
    path = put(tmp_path, TEXT.encode())
    task = wikitext("wikitext2", tmp_path)
    assert [example.id for example in task.examples] == ["val/0", "val/1"]
    for example, page in zip(task.examples, articles(TEXT), strict=True):
        assert example.target == detokenised(page) and example.prompt == ""
        # as the harness counts: of the original, with the empty pieces at both ends
        assert example.meta["words"] == len(page.split()) + 2
        assert example.meta["bytes"] == len(page.encode())
    assert (task.name, task.kind, task.max_tokens) == ("wikitext2", "text", 0)
    assert task.settings == {"split": "val", "limit": None, "data_sha256": sha256(path)}
    (first,) = wikitext("wikitext2", tmp_path, limit=1).examples
    assert first == task.examples[0]


def test_the_token_level_task_is_the_whole_file_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, TEXT.encode())
    for limit in (None, 3):
        task = wikitext("wikitext2-tokens", tmp_path, limit=limit)
        (example,) = task.examples
        assert (example.id, example.target) == ("val/0", TEXT)
        assert task.settings["limit"] == limit


def test_bytes_are_bytes(tmp_path: Path) -> None:
    put(tmp_path, " = É = \n".encode())
    (example,) = wikitext("wikitext2", tmp_path).examples
    assert example.meta["bytes"] == len(" = É = \n") + 1


def test_packed_or_not_and_splits(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    put(plain, TEXT.encode())
    put(packed, gzip.compress(TEXT.encode()), "valid.txt.gz")
    one, two = (wikitext("wikitext2", folder) for folder in (plain, packed))
    assert one.examples == two.examples
    put(plain, TEXT.encode(), "test.txt")
    assert wikitext("wikitext2", plain, "test").examples[0].id == "test/0"
    with pytest.raises(DataError, match=r"holds no train\.txt"):
        wikitext("wikitext2", plain, "train")


def test_the_samples(root: Path) -> None:
    task = wikitext("wikitext2", root / "examples" / "data")
    titles = [(example.target or "").split("\n")[0] for example in task.examples]
    assert titles == [" = Homarus gammarus =", " = Frank <unk> =", " = M-82 (Michigan highway) ="]
    assert all(" , " not in (e.target or "") and "@" not in (e.target or "") for e in task.examples)


def test_missing_data_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"github\.com/pytorch/examples") as error:
        wikitext("wikitext2", tmp_path)
    assert str(tmp_path / "wikitext2") in str(error.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no text"),
        (b"just text\n", "no text"),
        (b"\xff\xfe", "cannot read"),
        (b"\x1f\x8b broken", "cannot read"),
        (gzip.compress(TEXT.encode())[:40], "cannot read"),
    ],
)
def test_files_that_are_broken(tmp_path: Path, raw: bytes, message: str) -> None:
    path = put(tmp_path, raw)
    with pytest.raises(DataError, match=message) as error:
        wikitext("wikitext2", tmp_path)
    assert str(path) in str(error.value)


def test_a_broken_packed_file(tmp_path: Path) -> None:
    raw = bytearray(gzip.compress(TEXT.encode()))
    raw[20] ^= 0xFF
    put(tmp_path, bytes(raw))
    with pytest.raises(DataError, match="cannot read"):
        wikitext("wikitext2", tmp_path)


def test_an_empty_file_has_no_tokens_either(tmp_path: Path) -> None:
    put(tmp_path, b"")
    with pytest.raises(DataError, match="no text"):
        wikitext("wikitext2-tokens", tmp_path)
