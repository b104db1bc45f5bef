"""llama.cpp in this process, through xllamacpp: the fast way to run a small model without a GPU.

The native server batches: requests are decoded together in `parallel` slots, and a slot keeps the
prompt it read last, so an instruction that many chunks share is read once per slot. It also wants
to listen somewhere; it gets a unix socket in a folder that only this user may enter, and a random
key. That socket serves what the in-process API lacks: the tokenizer and the chat template.
"""

import contextlib
import http.client
import os
import queue
import secrets
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from featherweight.engines.text import check_context, check_request
from featherweight.engines.threads import in_thread
from featherweight.engines.types import (
    Delta,
    Generation,
    Message,
    Prompt,
    Request,
    TopLogprob,
    failed,
)
from featherweight.errors import EngineError

DEFAULT_CONTEXT = 4096
"""Tokens a slot holds unless the model was trained on fewer: enough for chunks, small in memory."""


_Tokenised = tuple[Request, list[int] | EngineError]
"""A request with its prompt's token ids, or with what is wrong with it."""


class LlamaCppEngine:
    """One GGUF model. `context_length` tokens in each of `parallel` slots that decode together.

    Raises `EngineError` where the file is no GGUF, the library is missing or memory runs out.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        adapter: Path | None = None,
        context_length: int | None = None,
        parallel: int = 4,
    ) -> None:
        for file in filter(None, (path, adapter)):
            check_gguf(file)
        self.name = name
        self.path = path
        self.parallel = parallel
        self._folder = tempfile.TemporaryDirectory(prefix="featherweight-")  # mode 0700
        self._socket = f"{self._folder.name}/s.sock"
        self._key = secrets.token_urlsafe(24)
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        wanted = context_length or DEFAULT_CONTEXT
        self._server: Any = self._start(wanted, adapter)
        meta = self._call("GET", "/v1/models")["data"][0]["meta"]
        self.params: int | None = meta["n_params"]
        self.counts_tokens = True
        self.trained_context: int = meta["n_ctx_train"]
        self.context_length: int = meta["n_ctx"]
        if self.trained_context < self.context_length:
            self.context_length = self.trained_context

    def _start(self, context_length: int, adapter: Path | None) -> Any:
        # GNU OpenMP spins while it waits: on a busy machine two spinning threads starve each
        # other (2.6 times slower in our runs). Read once, when the library loads.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            import xllamacpp
        except ImportError:
            raise EngineError(
                f"{self.name} needs the llama.cpp library; "
                "install it with `pip install 'featherweight[local]' -c constraints.txt`."
            ) from None
        params = xllamacpp.CommonParams()
        params.model.path = str(self.path)
        if adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        params.n_parallel = self.parallel
        params.n_ctx = context_length * self.parallel  # the library divides it among the slots
        threads = usable_cores()
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = 0  # default: up to 8 GB of old prompts
        params.fit_params = False
        params.warmup = False
        params.verbosity = -1
        params.hostnames = [self._socket]
        params.api_keys = [self._key]
        params.cors_origins = ""
        try:
            return xllamacpp.Server(params)
        except RuntimeError:
            self._folder.cleanup()
            raise EngineError(
                f"llama.cpp cannot open {self.path}: the file may be damaged, of an architecture "
                "that this version does not know, or too large for the free memory; "
                "try the file with another llama.cpp program or get it again."
            ) from None

    # -- the contract -----------------------------------------------------------------------

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """Answer in order; up to `parallel` requests are decoded together.

        Neighbours whose prompts mostly begin alike are answered one after another in one slot,
        so what they share is read once.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(self.parallel) as pool:
            window: deque[Future[list[Generation]]] = deque()
            try:
                for group in self._groups(requests):
                    window.append(pool.submit(self._answer, group, stop))
                    if len(window) > 2 * self.parallel:
                        yield from window.popleft().result()
                while window:
                    yield from window.popleft().result()
            finally:
                stop.set()
                for future in window:
                    future.cancel()

    def _groups(self, requests: Iterable[Request]) -> Iterator[list[_Tokenised]]:
        group: list[_Tokenised] = []
        for request in requests:
            item = self._tokenised(request)
            if group and not _shares(group[0], item):
                yield group
                group = []
            group.append(item)
        if group:
            yield group

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Answer piece by piece; leaving the iterator early stops the model."""
        tokens = self._checked_tokens(request)
        pieces: queue.Queue[Delta | Exception] = queue.Queue()
        stop = threading.Event()

        def work() -> None:
            try:
                result = self._run(request, tokens, stop, pieces.put)
                pieces.put(Delta("", None, result))
            except Exception as error:
                pieces.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while True:
                piece = pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.generation is not None:
                    return
        finally:
            stop.set()
            thread.join()

    def astream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """`stream` for an event loop; closing or cancelling it stops the model."""
        return in_thread(self.stream(request))

    def score(self, pairs: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        """llama.cpp's server tells no log-probabilities of given text."""
        raise EngineError(
            f"{self.name}: llama.cpp gives no log-probabilities of a given text; "
            "score with the same model opened as hf:DIR."
        )

    def count_tokens(self, prompt: Prompt) -> int:
        """Exact count, with chat template and BOS."""
        return len(self._tokens(prompt))

    def close(self) -> None:
        """Stop the server thread, free the model, remove the socket."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._server = None  # its destructor stops the loop and waits for it
        self._folder.cleanup()

    # -- one request ------------------------------------------------------------------------

    def _tokenised(self, request: Request) -> _Tokenised:
        try:
            return request, self._checked_tokens(request)
        except EngineError as error:
            return request, error

    def _answer(self, group: list[_Tokenised], stop: threading.Event) -> list[Generation]:
        return [
            failed(self.name, str(tokens))
            if isinstance(tokens, EngineError)
            else self._run(request, tokens, stop, lambda delta: None)
            for request, tokens in group
        ]

    def _checked_tokens(self, request: Request) -> list[int]:
        """The prompt as token ids; raises `ContextLengthError` where the answer would not fit."""
        check_request(self.name, request)
        tokens = self._tokens(request.prompt)
        check_context(self.name, len(tokens), request.max_tokens, self.context_length)
        return tokens

    def _tokens(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            prompt = self._call("POST", "/apply-template", {"messages": self._plain(prompt)})[
                "prompt"
            ]
        body = {"content": prompt, "add_special": True, "parse_special": True}
        tokens: list[int] = self._call("POST", "/tokenize", body)["tokens"]
        return tokens

    def _run(
        self,
        request: Request,
        tokens: list[int],
        stop: threading.Event,
        on_delta: Callable[[Delta], None],
    ) -> Generation:
        """Run one request in this thread; `on_delta` is called from it for every piece.

        Always through the completions call: the chat call leaves out the end token's
        log-probability when it streams.
        """
        server = self._server
        if server is None:
            raise EngineError(f"{self.name} is closed; open it again with load_engine.")
        started = time.perf_counter()
        answer = _Answer(request, stop, on_delta)
        server.handle_completions(
            {
                "prompt": tokens,
                "max_tokens": request.max_tokens,
                "temperature": request.temperature,
                "seed": request.seed,
                "top_k": 0,
                "top_p": 1.0,
                "min_p": 0.0,
                "logprobs": max(1, request.top_logprobs),
                "stream": True,
                "timings_per_token": True,  # the only count of tokens that covers every chunk
            },
            answer,
        )
        return answer.generation(self.name, len(tokens), time.perf_counter() - started)

    def _plain(self, messages: Sequence[Message]) -> list[Message]:
        """Messages whose text cannot pass for the model's control tokens.

        llama.cpp tokenises the filled-in template as a whole, so a transcript that contains
        `<|im_end|>` would end its own message. Such a text tokenises differently with control
        tokens on and off; a zero-width space after each bracket makes it harmless, still readable.
        """
        return [Message(role=m["role"], content=self._harmless(m["content"])) for m in messages]

    def _harmless(self, text: str) -> str:
        if "<" not in text and "[" not in text:
            return text
        body = {"content": text, "add_special": False}
        parsed, plain = (
            self._call("POST", "/tokenize", body | {"parse_special": special})["tokens"]
            for special in (True, False)
        )
        if parsed == plain:
            return text
        return text.replace("<", "<\u200b").replace("[", "[\u200b")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request over the private socket; serialised, since it carries only small work."""
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        with self._lock:
            if self._server is None:
                raise EngineError(f"{self.name} is closed; open it again with load_engine.")
            for last_try in (False, True):  # the server may have closed an idle connection
                if self._connection is None:
                    self._connection = _UnixConnection(self._socket)
                try:
                    data = None if body is None else orjson.dumps(body)
                    self._connection.request(method, path, data, headers)
                    response = self._connection.getresponse()
                    reply = orjson.loads(response.read())
                    break
                except (OSError, http.client.HTTPException) as error:
                    self._connection.close()
                    self._connection = None
                    if last_try:
                        raise EngineError(
                            f"{self.name}: the llama.cpp server in this process stopped "
                            f"answering ({error}); start again."
                        ) from None
        if "error" in reply:
            raise EngineError(f"{self.name}: {reply['error'].get('message', reply['error'])}.")
        return reply


def _shares(one: _Tokenised, other: _Tokenised) -> bool:
    """Whether two prompts have more than half of the shorter one's tokens as a common beginning."""
    a, b = one[1], other[1]
    if isinstance(a, EngineError) or isinstance(b, EngineError):
        return False
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    return 2 * common > min(len(a), len(b))


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, kept alive."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Answer:
    """Collects the chunks of one streamed answer; called by the server for each of them.

    Stop strings are handled here, not by the server: the server reports a cut-off token with empty
    bytes, which cannot be told from the end token. A character that takes several tokens (emoji,
    some scripts) comes with the log-probability of the last of them only; the answer's
    log-probabilities are then `None`, since a list with holes would be taken for the whole.
    """

    def __init__(
        self, request: Request, stop: threading.Event, on_delta: Callable[[Delta], None]
    ) -> None:
        self.request = request
        self.stop = stop
        self.on_delta = on_delta
        self.text = ""
        self.shown = 0  # characters handed on; what may begin a stop string is held back
        self.tokens: list[dict[str, Any]] = []
        self.ends: list[int] = []  # characters of text after each token
        self.finish: str | None = None
        self.error: str | None = None
        self.pending: list[float] = []
        self.written = 0  # tokens that the model wrote, those without log-probability included
        self.complete = True

    def __call__(self, chunk: dict[str, Any]) -> bool:
        """Take one chunk; True tells the server to stop."""
        if "error" in chunk:
            self.error = str(chunk["error"].get("message", chunk["error"]))
            return True
        for choice in chunk["choices"]:
            self._take(choice, (chunk.get("timings") or {}).get("predicted_n"))
        return self.stop.is_set() or self.finish == "stop-string"

    def _take(self, choice: dict[str, Any], written: int | None) -> None:
        self.text += choice.get("text") or ""
        for token in (choice.get("logprobs") or {}).get("content") or []:
            self.tokens.append(token)
            self.ends.append(len(self.text))
            self.pending.append(token["logprob"])
        if written is not None:
            self.written = written
            self.complete = self.complete and len(self.tokens) == written
        if cut := self._stop_at():
            self.text = self.text[: cut - 1]
            self.finish = "stop-string"
            kept = sum(1 for end in [0, *self.ends[:-1]] if end < len(self.text))
            self.tokens, self.ends = self.tokens[:kept], self.ends[:kept]
        elif choice.get("finish_reason"):
            self.finish = choice["finish_reason"]
        self._show()

    def _stop_at(self) -> int:
        """1 + where the first stop string begins, or 0."""
        found = [self.text.find(s) for s in self.request.stop if s]
        return 1 + min((f for f in found if f >= 0), default=-1)

    def _show(self) -> None:
        end = len(self.text)
        if self.finish is None:
            end -= held_back(self.text, self.request.stop)
        if end > self.shown:
            logprobs = tuple(self.pending) if self.complete else None
            self.on_delta(Delta(self.text[self.shown : end], logprobs))
            self.shown, self.pending = end, []

    def generation(self, model: str, prompt_tokens: int, seconds: float) -> Generation:
        """The whole answer; an error or a cancellation gives a failed one."""
        if self.error is not None or self.finish is None:
            reason = self.error or "stopped before the end"
            return failed(model, f"{model}: {reason}.", seconds, prompt_tokens)
        top = None
        if self.request.top_logprobs and self.complete:
            top = tuple(
                tuple(
                    TopLogprob(t["id"], bytes(t["bytes"]), t["logprob"])
                    for t in token["top_logprobs"][: self.request.top_logprobs]
                )
                for token in self.tokens
            )
        return Generation(
            text=self.text,
            token_ids=tuple(t["id"] for t in self.tokens) if self.complete else None,
            token_logprobs=tuple(t["logprob"] for t in self.tokens) if self.complete else None,
            top_logprobs=top,
            finish_reason="length" if self.finish == "length" else "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=self.written,
            seconds=seconds,
            model=model,
        )


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins a stop string."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if stop.startswith(text[-size:]):
                longest = size
                break
    return longest


def check_gguf(path: Path) -> None:
    """Raise `EngineError` unless `path` is a readable file that begins as GGUF files do."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EngineError(f"cannot read the model {path}: {reason}; check the path.") from None
    if magic != b"GGUF":
        raise EngineError(
            f"{path} is not a GGUF file; give a file for llama.cpp, or open a folder with "
            "safetensors as hf:DIR."
        )


def usable_cores() -> int:
    """Cores that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
