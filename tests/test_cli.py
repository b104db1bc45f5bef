"""The commands: exit codes, streams, files. A person sees sentences, never a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from jsonschema import validate
from scripted import ScriptedEngine, text_of
from typer.testing import CliRunner, Result

from featherweight.cli import app
from featherweight.engines.types import failed
from featherweight.errors import EngineError, UnknownModelError
from featherweight.transcript import clean, read_transcript

TALK = "Ann: The price is 19 euros a year.\nBob: I'll put it into the store page tomorrow.\n"
FORMATS = {"text": ".txt", "md": ".md", "html": ".html", "json": ".json"}


class Opened:
    """Stands in for `load_engine`; keeps the engines that it gave."""

    def __init__(self) -> None:
        self.answer: Any = "- The price is 19 euros a year."
        self.engines: list[ScriptedEngine] = []

    def __call__(self, spec: str) -> ScriptedEngine:
        if spec == "nonsense":
            raise UnknownModelError("'nonsense' is no engine; the forms are ...")
        if spec == "broken":
            raise EngineError("broken: the file is damaged; get it again.")
        self.engines.append(ScriptedEngine(self.answer, name=spec))
        return self.engines[-1]

    @property
    def asked(self) -> int:
        return sum(len(engine.asked) for engine in self.engines)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    found = Opened()
    monkeypatch.setattr("featherweight.engines.load_engine", found)
    return found


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.txt"
    path.write_text(TALK)
    return path


def call(*arguments: object, stdin: bytes | str | None = None) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result


def refused(code: int, *arguments: object, stdin: bytes | str | None = None) -> str:
    """The one sentence on standard error; standard output stays clean."""
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(".")
    return line


# -- printing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_printing(opened: Opened, talk: Path, format: str) -> None:
    result = call("summarize", talk, "--format", format)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "The price is 19 euros a year." in result.stdout
    assert "\x1b" not in result.stdout
    assert not any(line.endswith(" ") for line in result.stdout.splitlines())
    assert opened.engines[0].closed


def test_several_files(opened: Opened, talk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Zoe: The map loads slowly.\n")
    result = call("summarize", talk, other)
    assert result.exit_code == 0 and "talk.txt" in result.stdout and "other.txt" in result.stdout
    assert "add --output-dir" in refused(2, "summarize", talk, other, "--format", "html")
    result = call("summarize", talk, talk, tmp_path / "." / "talk.txt")
    assert result.stdout.count("talk.txt") == 1  # the same file is summarised once


def test_options_reach_the_model(opened: Opened, talk: Path) -> None:
    call("summarize", talk, "--query", "What does a year cost?", "--strategy", "truncate")
    call("summarize", talk, "--focus", "decisions", "--length", "short", "--model", "mine")
    first, second = (text_of(engine.asked[0]) for engine in opened.engines)
    assert "What does a year cost?" in first
    assert "decisions" in second and "at most 3" in second
    assert opened.engines[1].name == "mine"


def test_stdin(opened: Opened) -> None:
    result = call("summarize", "-", "--format", "json", stdin=TALK)
    assert json.loads(result.stdout)["source"] == "standard input"
    assert (
        json.loads(call("read", "-", "--json", stdin=TALK).stdout)["turns"][1]["speaker"] == "Bob"
    )
    assert "standard input" in call("read", "-", stdin=TALK).stdout


def test_one_bad_file_does_not_stop_the_others(opened: Opened, talk: Path, tmp_path: Path) -> None:
    result = call("summarize", tmp_path / "missing.vtt", talk)
    assert result.exit_code == 1
    assert "The price is 19 euros" in result.stdout
    assert re.fullmatch(r"error: .*missing.vtt: there is no such file; .*\.\n", result.stderr)


def test_failed_parts_are_exit_code_1(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n".join(f"Ann: item{n} is {'very ' * 20} late.\n" for n in range(400)))
    opened.answer = lambda request, before: (
        failed("s", "No.") if "item7 " in text_of(request) else "- The items are late."
    )
    result = call("summarize", path, "--strategy", "chapters")
    assert result.exit_code == 1
    assert "parts failed" in result.stdout and "The items are late." in result.stdout


# -- wrong usage, bad input ------------------------------------------------------------------------


def test_wrong_usage(opened: Opened, talk: Path, tmp_path: Path) -> None:
    assert "query is empty" in refused(2, "summarize", talk, "--query", " ")
    assert "nonsense" in refused(2, "summarize", talk, "--model", "nonsense")
    assert "damaged" in refused(1, "summarize", talk, "--model", "broken")
    assert "only FILE" in refused(2, "summarize", "-", talk)
    assert "no file matches" in refused(2, "summarize", tmp_path / "*.vtt")
    (tmp_path / "empty").mkdir()
    assert "no transcript in this folder" in refused(2, "summarize", tmp_path / "empty")
    assert "query or a focus" in refused(1, "summarize", talk, "--strategy", "locate")
    assert opened.asked == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["summarize"],
        ["summarize", "a.txt", "--nonsense"],
        ["summarize", "a.txt", "--length", "huge"],
        ["summarize", "a.txt", "--focus", ""],
        ["summarize", "a.txt", "--format", "pdf"],
        ["summarize", "a.txt", "--strategy", "magic"],
        ["read"],
        ["nonsense"],
        [],
    ],
)
def test_options_that_mean_nothing(opened: Opened, arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    if arguments:
        assert result.stdout == "" and "Error: " in result.stderr


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100_000_001)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.vtt": (lambda path: None, "no such file"),
    "empty.vtt": (lambda path: path.write_bytes(b""), "empty"),
    "binary.vtt": (lambda path: path.write_bytes(bytes(range(256)) * 9), "binary"),
    "locked.docx": (
        lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)),
        "",
    ),
    "huge.txt": (sparse, "100,000,001 bytes"),
    "silent.vtt": (lambda path: path.write_text("WEBVTT\n\n"), "no speech"),
    "page.html": (lambda path: path.write_text("<!doctype html><p>Hi</p>"), "web page"),
    "broken.json": (lambda path: path.write_text('{"segments": ['), "broken JSON"),
    "folder.vtt": (lambda path: path.mkdir(), ""),
    "caf\udce9\x1b[31m.vtt": (lambda path: path.write_bytes(b""), "empty"),
}


@pytest.mark.parametrize("name", BAD, ids=[ascii(name) for name in BAD])
def test_bad_input(opened: Opened, tmp_path: Path, name: str) -> None:
    make, says = BAD[name]
    path = tmp_path / name
    make(path)
    for arguments in (["read", path], ["read", path, "--json"], ["summarize", path]):
        folder = path.is_dir() and arguments[0] == "summarize"
        line = refused(2 if folder else 1, *arguments)
        assert says in line and line.isprintable()
    assert opened.asked == 0


def test_empty_stdin(opened: Opened) -> None:
    for command in ("read", "summarize"):
        assert "standard input" in refused(1, command, "-", stdin=b"")


def test_real_engines_that_cannot_be_opened(talk: Path, tmp_path: Path) -> None:
    assert "magic:thing" in refused(2, "summarize", talk, "--model", "magic:thing")
    assert "missing.gguf" in refused(
        1, "summarize", talk, "--model", f"gguf:{tmp_path}/missing.gguf"
    )
    assert "nowhere" in refused(1, "summarize", talk, "--model", f"hf:{tmp_path}/nowhere")
    line = refused(1, "summarize", talk, "--model", "openai:http://127.0.0.1:9#m")
    assert "127.0.0.1:9" in line


# -- other commands --------------------------------------------------------------------------------


def test_read(talk: Path) -> None:
    result = call("read", talk)
    assert result.exit_code == 0
    assert "2 turns · 2 speakers" in result.stdout and "I'll put it" in result.stdout
    data = json.loads(call("read", talk, "--json").stdout)
    assert data["format"] == "text"
    assert data["turns"][0] == {
        "speaker": "Ann", "text": "The price is 19 euros a year.", "start": None, "end": None,
    }  # fmt: skip


def test_version_models_and_doctor() -> None:
    assert call("--version").stdout == "featherweight 0.1.0\n"
    assert "openai:URL#MODEL" in call("models").stdout
    result = call("doctor")
    assert result.exit_code in (0, 1) and "Model smollm2-135m" in result.stdout
    for command in ([], ["summarize"], ["read"], ["models"], ["doctor"]):
        assert call(*command, "--help").exit_code == 0


# -- a folder of outputs ---------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "suffix"), FORMATS.items())
def test_writing(opened: Opened, talk: Path, tmp_path: Path, format: str, suffix: str) -> None:
    out = tmp_path / "new" / "out"
    result = call("summarize", talk, "--format", format, "--output-dir", out)
    assert result.exit_code == 0 and result.stdout == ""
    assert sorted(path.name for path in out.iterdir()) == sorted(["manifest.json", f"talk{suffix}"])
    assert "19 euros" in (out / f"talk{suffix}").read_text()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["command"] == "summarize"
    assert manifest["outputs"][f"talk{suffix}"]["model"] == "smollm2-135m-meetings"


def test_resuming(opened: Opened, talk: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other.txt", tmp_path / "out"
    other.write_text("Zoe: The map loads slowly.\n")

    def run(*more: object) -> int:
        before = opened.asked
        assert call("summarize", talk, other, "--output-dir", out, *more).exit_code == 0
        return opened.asked - before

    assert run() == 2
    written = (out / "talk.txt").stat().st_mtime_ns
    assert run() == 0
    assert (out / "talk.txt").stat().st_mtime_ns == written
    other.write_text("Zoe: The map loads fast.\n")
    assert run() == 1
    (out / "talk.txt").unlink()
    assert run() == 1
    assert run("--length", "short") == 2
    assert run("--length", "short") == 0
    assert run("--model", "another") == 2
    assert run("--query", "Why?") == 2


def test_a_summary_with_failed_parts_is_made_again(opened: Opened, tmp_path: Path) -> None:
    path, out = tmp_path / "long.txt", tmp_path / "out"
    path.write_text("\n".join(f"Ann: item{n} is {'very ' * 20} late.\n" for n in range(400)))
    good = "- The items are late."
    opened.answer = lambda request, before: (
        failed("s", "No.") if "item7 " in text_of(request) else good
    )
    arguments = ("summarize", path, "--strategy", "chapters", "--output-dir", out)
    result = call(*arguments)
    assert result.exit_code == 1 and "run again" in result.stderr
    assert "parts failed" in (out / "long.txt").read_text()
    opened.answer = good
    assert call(*arguments).exit_code == 0
    assert "parts failed" not in (out / "long.txt").read_text()
    before = opened.asked
    assert call(*arguments).exit_code == 0
    assert opened.asked == before


def test_what_fails_leaves_the_rest(opened: Opened, talk: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call("summarize", tmp_path / "missing.vtt", talk, "--output-dir", out)
    assert result.exit_code == 1
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "talk.txt"]


def test_folders_that_cannot_be_written(opened: Opened, talk: Path, tmp_path: Path) -> None:
    for folder in (talk, talk / "below", Path("/proc/nowhere")):
        assert "cannot write to" in refused(2, "summarize", talk, "--output-dir", folder)
    assert opened.engines == []  # known before the model is opened


@pytest.mark.parametrize("content", ['{"command": "train"}', "{", "[]", '"x"', "\xff"])
def test_a_manifest_of_something_else(
    opened: Opened, talk: Path, tmp_path: Path, content: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_bytes(content.encode("latin-1"))
    assert "manifest.json" in refused(2, "summarize", talk, "--output-dir", out)
    assert (out / "manifest.json").read_bytes() == content.encode("latin-1")


def test_a_transcript_is_never_overwritten(opened: Opened, talk: Path, tmp_path: Path) -> None:
    assert "would be overwritten" in refused(2, "summarize", talk, "--output-dir", tmp_path)
    assert talk.read_text() == TALK


def test_summaries_beside_the_transcripts_are_not_summarised(
    opened: Opened, tmp_path: Path
) -> None:
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nThe map loads slowly.\n")
    for _ in range(2):
        for source in (tmp_path, tmp_path / "*"):
            result = call("summarize", source, "--output-dir", tmp_path, "--format", "md")
            assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.md", "a.vtt", "manifest.json"]
    assert opened.asked == 1


def test_stems_that_are_the_same(opened: Opened, tmp_path: Path) -> None:
    for folder in ("mon", "tue"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sync.txt").write_text(f"Ann: It is {folder}.\n")
    (tmp_path / "mon" / "Sync.txt").write_text("Ann: Upper case.\n")
    out = tmp_path / "out"
    result = call("summarize", tmp_path / "mon", tmp_path / "tue", "--output-dir", out)
    assert result.exit_code == 0
    assert len(list(out.glob("*.txt"))) == 3
    assert len({path.name.casefold() for path in out.iterdir()}) == 4


def test_names_that_are_not_utf8(opened: Opened, tmp_path: Path) -> None:
    for name in ("caf\udce9.txt", "caf\udcea.txt"):
        (tmp_path / name).write_text(TALK)
    out = tmp_path / "out"
    for asked in (2, 2):
        result = call("summarize", tmp_path / "*.txt", "--output-dir", out, "--format", "json")
        assert result.exit_code == 0, result.stderr
        assert opened.asked == asked
    assert len(list(out.glob("caf*.json"))) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_once(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(TALK,), daemon=True)
    writer.start()
    assert call("summarize", path, "--output-dir", tmp_path / "out").exit_code == 0
    writer.join(5)


# -- processes -------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    source = str(Path(__file__).parent.parent / "src")
    return os.environ | {"PYTHONPATH": source} | more


def process(
    *arguments: object, timeout: float = 60, **more: str
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "featherweight", *map(str, arguments)],
        capture_output=True,
        timeout=timeout,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
    )


def loaded(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has imported after `code`."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment()
    )
    return set(found.stdout.decode().splitlines()[-1].split())


HEAVY = {"numpy", "torch", "transformers", "aiohttp", "rich", "xllamacpp", "orjson"}


@pytest.mark.e2e
def test_help_imports_little() -> None:
    code = "import featherweight.cli as c\ntry: c.app(['--help'])\nexcept SystemExit: pass"
    assert not loaded(code) & HEAVY
    assert not loaded(code.replace("'--help'", "'summarize', '--help'")) & HEAVY
    assert not loaded("import featherweight") & {*HEAVY, "typer"}


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server that answers after `seconds`."""

    daemon_threads = True
    seconds = 0.0
    asked = 0

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("/chat/completions"):
            self.send_error(404)
            return
        self.server.asked += 1
        time.sleep(self.server.seconds if self.server.asked > 1 else 0)
        message = {"role": "assistant", "content": "- The price is 19 euros a year."}
        self.reply(
            {
                "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59},
            }
        )

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "m", "object": "model"}]})

    def reply(self, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def spec(server: Server) -> str:
    return f"openai:http://127.0.0.1:{server.server_port}/v1#m"


@pytest.mark.e2e
def test_interrupting_a_batch(server: Server, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"talk{number}.txt").write_text(f"{TALK}Ann: Number {number}.\n")
    server.seconds = 30
    out = tmp_path / "out"
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "featherweight", "summarize", str(tmp_path)),
            *("--model", spec(server), "--output-dir", str(out)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    deadline = time.monotonic() + 30
    while server.asked < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=20)
    assert running.returncode == 130
    assert stdout == b"" and b"Traceback" not in stderr and b"stopped" in stderr
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "talk0.txt"]
    server.seconds = 0
    again = process("summarize", tmp_path, "--model", spec(server), "--output-dir", out)
    assert again.returncode == 0 and again.stderr.count(b"unchanged") == 1
    assert len(list(out.glob("*.txt"))) == 5


@pytest.mark.e2e
def test_a_reader_that_has_enough(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(
        "".join(f"Ann: Word {n} {'and so on ' * 20}.\nBob: Yes.\n" for n in range(3000))
    )
    for arguments in (["read", path], ["read", path, "--json"]):
        running = subprocess.Popen(
            [sys.executable, "-m", "featherweight", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert running.stdout is not None and running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
        running.stderr.close()
        assert running.wait(30) in (0, 1)


@pytest.mark.e2e
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_pipes_are_utf8_whatever_the_locale(server: Server, talk: Path, encoding: str) -> None:
    talk.write_text("Zoë: Это стоит 19 евро.\n", encoding="utf-8")
    for arguments in (["read", talk], ["summarize", talk, "--model", spec(server)]):
        result = process(*arguments, PYTHONIOENCODING=encoding)
        assert (result.returncode, result.stderr) == (0, b"")
        assert "·" in result.stdout.decode()


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_a_narrow_terminal(server: Server, talk: Path) -> None:
    import pty

    for arguments in (["read", talk], ["summarize", talk, "--model", spec(server)], ["models"]):
        leader, follower = pty.openpty()
        running = subprocess.Popen(
            [sys.executable, "-m", "featherweight", *map(str, arguments)],
            stdout=follower,
            stderr=subprocess.PIPE,
            env=environment(COLUMNS="40", TERM="xterm"),
        )
        os.close(follower)
        data = b""
        try:
            while block := os.read(leader, 65536):
                data += block
        except OSError:  # how a pseudo terminal ends
            pass
        os.close(leader)
        assert running.wait(30) == 0
        assert running.stderr is not None
        running.stderr.close()
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode())
        assert max(map(len, plain.splitlines())) <= 40
        assert b"\x1b[" in data  # colours


@pytest.mark.e2e
def test_a_server_that_is_not_there(talk: Path) -> None:
    result = process("summarize", talk, "--model", "openai:http://127.0.0.1:9#m")
    assert result.returncode == 1 and result.stdout == b""
    assert result.stderr.startswith(b"error: ") and result.stderr.count(b"\n") == 1


# -- the embedded model ----------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize("ask", [[], ["--focus", "actions"], ["--query", "What does a year cost?"]])
def test_the_embedded_model_on_a_meeting(root: Path, sample: Path, ask: list[str]) -> None:
    pytest.importorskip("xllamacpp")
    schema = json.loads((root / "docs" / "summary.schema.json").read_text())
    turns = clean(read_transcript(sample)).turns
    result = call("summarize", sample, "--format", "json", *ask)
    assert (result.exit_code, result.stderr) == (0, "")
    data = json.loads(result.stdout)
    validate(data, schema)
    assert data["points"] and data["chunks"]["failed"] == 0
    assert data["model"] == "smollm2-135m-meetings"
    for point in data["points"]:
        assert point["evidence"] or not point["supported"]
        for item in point["evidence"]:
            turn = turns[item["turn"]]
            assert item["quote"] in turn.text
            assert (item["speaker"], item["start"]) == (turn.speaker, turn.start)


@pytest.mark.model
def test_the_embedded_model_in_every_format(talk: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    for format, suffix in FORMATS.items():
        arguments = ("summarize", talk, "--format", format, "--output-dir", tmp_path / format)
        assert call(*arguments).exit_code == 0
        written = (tmp_path / format / f"talk{suffix}").read_text()
        assert "19 euros" in written and "talk.txt" in written
