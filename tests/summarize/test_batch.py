"""Which files a batch takes, and what their outputs are called."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import FeatherweightError
from featherweight.summarize.batch import Manifest, input_hash, inputs, output_names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.vtt", "a.txt", "sub/c.SRT", "notes.pdf", ".hidden.txt", ".git/x.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("Ann: Hello.")
    for agent in "AB":
        (tmp_path / f"ES1.{agent}.words.xml").write_text("<x/>")
    return tmp_path


def names(folder: Path, *arguments: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in inputs(arguments)]


def test_folders_globs_and_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ["ES1.A.words.xml", "a.txt", "b.vtt", "sub/c.SRT"]
    assert names(folder, str(folder)) == everything
    assert names(folder, f"{folder}/*.txt") == [".hidden.txt", "a.txt"]
    assert names(folder, f"{folder}/**/*.SRT") == ["sub/c.SRT"]
    assert names(folder, f"{folder}/notes.pdf", f"{folder}/gone.vtt") == ["notes.pdf", "gone.vtt"]
    assert names(folder, f"{folder}/b.vtt", str(folder))[0] == "b.vtt"
    monkeypatch.chdir(folder)
    assert inputs(["a.txt", f"{folder}/a.txt", "./sub/../a.txt"]) == [Path("a.txt")]


def test_brackets_in_a_name_are_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("Ann: Hi.")
    assert len(inputs([f"{tmp_path}/a[1].txt"])) == 1
    with pytest.raises(FeatherweightError, match="no file matches"):
        inputs([f"{tmp_path}/b[1].txt"])


parts = st.sampled_from(["a", "A", "b", "a-b", "x" * 250, "caf\udce9", "caf\udcea", "日" * 80])
files = st.lists(
    st.builds(lambda *p: Path("/", *p[:-1], f"{p[-1]}.txt"), parts, parts, parts),
    max_size=8,
    unique=True,
)


@given(files)
def test_names_differ_and_fit(paths: list[Path]) -> None:
    found = output_names(paths, ".html")
    assert len({name.casefold() for name in found}) == len(found) == len(paths)
    for name in found:
        assert len(name.encode()) <= 220 and "/" not in name and name.endswith(".html")


def test_names_say_no_more_than_they_must() -> None:
    assert output_names([Path("/a/x.vtt"), Path("/b/y.vtt")], ".md") == ["x.md", "y.md"]
    paths = [Path("/m/x.vtt"), Path("/t/x.vtt"), Path("/t/y.vtt"), Path("/t/y.txt")]
    assert output_names(paths, ".md") == ["m-x.vtt.md", "t-x.vtt.md", "y.vtt.md", "y.txt.md"]
    assert output_names([], ".md") == []
    assert len(output_names([Path(f"/{a}/{b}.t") for a, b in product("ab", "xy")], "")) == 4


def test_an_output_belongs_to_its_meeting(tmp_path: Path) -> None:
    monday, tuesday = tmp_path / "mon" / "standup.vtt", tmp_path / "tue" / "standup.vtt"
    manifest = Manifest(tmp_path / "out", {})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "standup.md").write_text("Monday")
    manifest.record("standup.md", str(monday), "hash", {})
    again = Manifest(tmp_path / "out", {})
    assert again.other_input("standup.md", str(monday)) is None
    assert again.other_input("standup.md", str(tuesday)) == f"the summary of {monday}"
    (tmp_path / "out" / "mine.md").write_text("mine")
    assert again.other_input("mine.md", str(tuesday)) == "something else"
    (tmp_path / "out" / "standup.md").unlink()
    assert again.other_input("standup.md", str(tuesday)) is None


def test_all_files_of_an_nxt_meeting_count(tmp_path: Path) -> None:
    first, second = tmp_path / "ES1.A.words.xml", tmp_path / "ES1.B.words.xml"
    first.write_text("<a/>")
    second.write_text("<b/>")
    before = input_hash(first)
    second.write_text("<c/>")
    assert before and input_hash(first) != before
    assert input_hash(tmp_path / "missing.vtt") == ""
