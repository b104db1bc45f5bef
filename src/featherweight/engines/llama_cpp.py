"""llama.cpp in this process, through xllamacpp: the fast way to run a small model without a GPU.

The native server batches: requests are decoded together in `parallel` slots, and a slot keeps the
prompt it read last, so an instruction that many chunks share is read once per slot. It also wants
to listen somewhere; it gets a unix socket that nobody else can use (`llama_socket`).
"""

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from featherweight.engines.attention import gguf_fields, width_of_gguf
from featherweight.engines.llama_answer import Answer
from featherweight.engines.llama_socket import PrivateSocket
from featherweight.engines.text import (
    ZERO_WIDTH_SPACE,
    check_context,
    check_prompt,
    check_request,
    split_beginning,
)
from featherweight.engines.threads import in_thread
from featherweight.engines.types import Delta, Generation, Message, Prompt, Request, Watcher, failed
from featherweight.engines.waiting import next_of, result_of
from featherweight.errors import EngineError

DEFAULT_CONTEXT = 4096
"""Tokens a slot holds unless the model was trained on fewer: enough for chunks, small in memory."""

GROUP = 16
"""Requests that share a beginning and are answered in one slot before another slot may help."""


class _Asked(NamedTuple):
    """A request with its prompt's token ids, or with what is wrong with it, and who watches it."""

    request: Request
    tokens: list[int] | EngineError
    watch: Watcher | None


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
        library = _library(name)
        self._socket = PrivateSocket(name)
        self._server: Any = None
        try:
            self._server = self._start(library, context_length or DEFAULT_CONTEXT, adapter)
            # answered by the server's loop: a server that is closed before its loop began to run
            # would wait for that loop for ever
            self._ask("/slots")
            meta = self._ask("/v1/models")["data"][0]["meta"]
        except BaseException:
            self.close()
            raise
        self.params: int | None = meta["n_params"]
        self.counts_tokens = True
        self.trained_context: int = meta["n_ctx_train"]
        self.context_length: int = min(meta["n_ctx"], self.trained_context)

    def _start(self, library: Any, context_length: int, adapter: Path | None) -> Any:
        params = library.CommonParams()
        params.model.path = str(self.path)
        if adapter is not None:
            params.lora_adapters = [library.CommonAdapterLoraInfo(str(adapter), 1.0)]
        params.n_parallel = self.parallel
        params.n_ctx = context_length * self.parallel  # the library divides it among the slots
        threads = usable_cores()
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = 0  # default: up to 8 GB of old prompts
        params.fit_params = False
        params.warmup = False
        params.verbosity = -1
        params.hostnames = [self._socket.path]
        params.api_keys = [self._socket.key]
        params.cors_origins = ""
        try:
            return library.Server(params)
        except RuntimeError:
            what = self.path if adapter is None else f"{self.path} with {adapter}"
            raise EngineError(
                f"llama.cpp cannot open {what}: the file may be damaged, of an architecture "
                "that this version does not know, or too large for the free memory; "
                "try the file with another llama.cpp program or get it again."
            ) from None

    # -- the contract -----------------------------------------------------------------------

    @cached_property
    def attention_width(self) -> int | None:
        """Sum over layers of query heads x head size, by the file's header (0.03 s, read once)."""
        try:
            return width_of_gguf(gguf_fields(self.path))
        except (OSError, ValueError):  # moved away meanwhile, or a header that only llama.cpp knows
            return None

    @cached_property
    def chat_template(self) -> str:
        """The template that messages go through, as the file holds it."""
        return str(self._ask("/props").get("chat_template") or "")

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """Answer in order; up to `parallel` requests are decoded together.

        Neighbours whose prompts mostly begin alike are answered one after another in one slot,
        so what they share is read once.
        """
        yield from self._generate((request, None) for request in requests)

    def generate_watched(
        self, requests: Sequence[Request], watches: Sequence[Watcher | None]
    ) -> Iterator[Generation]:
        """`generate`, where an answer that its watch stops frees its slot; see `Watched`.

        Watches are called in other threads, each in one.
        """
        yield from self._generate(zip(requests, watches, strict=True))

    def _generate(self, asked: Iterable[tuple[Request, Watcher | None]]) -> Iterator[Generation]:
        self._opened()
        stop = threading.Event()
        with ThreadPoolExecutor(self.parallel) as pool:
            window: deque[Future[list[Generation]]] = deque()
            try:
                for group in self._groups(asked):
                    window.append(pool.submit(self._answer, group, stop))
                    if len(window) > 2 * self.parallel:
                        yield from result_of(window.popleft())
                while window:
                    yield from result_of(window.popleft())
            finally:
                stop.set()
                for future in window:
                    future.cancel()

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Answer piece by piece; leaving the iterator early stops the model."""
        tokens = self._checked_tokens(request)
        pieces: queue.Queue[Delta | Exception] = queue.Queue()
        stop = threading.Event()

        def work() -> None:
            try:
                pieces.put(self._run(request, tokens, stop, on_delta=pieces.put))
            except Exception as error:
                pieces.put(error)

        # no daemon: one that is called back while the interpreter ends aborts the program
        thread = threading.Thread(target=work)
        thread.start()
        try:
            while True:
                piece = next_of(pieces)
                if isinstance(piece, Exception):
                    raise piece
                if piece.generation is not None and piece.generation.error is not None:
                    raise EngineError(piece.generation.error)
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

    def encode(self, text: str) -> tuple[int, ...]:
        """Not offered: only `hf:` models score running text."""
        raise self._no_running_text()

    def score_tokens(
        self, rows: Iterable[Sequence[int]], start: bool = False, known: int = 1
    ) -> Iterator[tuple[float, ...]]:
        """Not offered: only `hf:` models score running text."""
        raise self._no_running_text()

    def _no_running_text(self) -> EngineError:
        return EngineError(
            f"{self.name}: llama.cpp gives no log-probabilities of running text; "
            "score with the same model opened as hf:DIR."
        )

    def count_tokens(self, prompt: Prompt) -> int:
        """Exact count, with chat template and BOS."""
        return len(self.tokens(prompt))

    def tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """The ids that the model reads for `prompt`, with chat template and BOS."""
        check_prompt(self.name, prompt)
        return tuple(self._tokens(prompt))

    def close(self) -> None:
        """Stop the server thread, free the model, remove the socket."""
        server, self._server = self._server, None
        self._socket.close()  # first: the server waits for connections that are open
        del server  # its destructor stops the loop and waits for it

    # -- one request ------------------------------------------------------------------------

    def _groups(self, asked: Iterable[tuple[Request, Watcher | None]]) -> Iterator[list[_Asked]]:
        group: list[_Asked] = []
        for request, watch in asked:
            item = self._tokenised(request, watch)
            if group and (len(group) == GROUP or not _shares(group[0], item)):
                yield group
                group = []
            group.append(item)
        if group:
            yield group

    def _tokenised(self, request: Request, watch: Watcher | None) -> _Asked:
        try:
            return _Asked(request, self._checked_tokens(request), watch)
        except EngineError as error:
            return _Asked(request, error, watch)

    def _answer(self, group: list[_Asked], stop: threading.Event) -> list[Generation]:
        answers = []
        for request, tokens, watch in group:
            if isinstance(tokens, EngineError):
                answers.append(failed(self.name, str(tokens)))
                continue
            generation = self._run(request, tokens, stop, watch).generation
            assert generation is not None  # the last delta has it
            answers.append(generation)
        return answers

    def _checked_tokens(self, request: Request) -> list[int]:
        """The prompt as token ids; raises `ContextLengthError` where the answer would not fit."""
        check_request(self.name, request, blocks=True)
        tokens = self._tokens(request.prompt)
        check_context(self.name, len(tokens), request.max_tokens, self.context_length)
        return tokens

    def _run(
        self,
        request: Request,
        tokens: list[int],
        stop: threading.Event,
        watch: Watcher | None = None,
        on_delta: Callable[[Delta], None] = lambda delta: None,
    ) -> Delta:
        """Run one request in this thread; `on_delta` gets every piece, the last is returned.

        `watch` may end it before. Always through the completions call: the chat call leaves out
        the end token's log-probability when it streams.
        """
        server = self._opened()
        started = time.perf_counter()
        answer = Answer(request, stop, on_delta, watch)
        while True:
            answer.ask()
            written = answer.ids
            server.handle_completions(
                {
                    "prompt": tokens + written,
                    "max_tokens": request.max_tokens - len(written),
                    "temperature": request.temperature,
                    "seed": request.seed + len(written),
                    "top_k": 0,
                    "top_p": 1.0,
                    "min_p": 0.0,
                    "logit_bias": [[token, False] for token in sorted(answer.banned)],
                    "logprobs": max(1, request.top_logprobs),
                    "stream": True,
                    "timings_per_token": True,  # the only count of tokens that covers every chunk
                },
                answer,
            )
            if not answer.rest or stop.is_set():  # the rest is asked for after a repetition
                break
        return answer.last(self.name, len(tokens), time.perf_counter() - started)

    # -- text to tokens ---------------------------------------------------------------------

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            text = prompt
        else:
            messages = self._harmless_messages(prompt)
            text = self._ask("/apply-template", {"messages": messages})["prompt"]
        return self._ids(text, control=True, start=True)

    def _ids(self, text: str, control: bool, start: bool = False) -> list[int]:
        body = {"content": text, "parse_special": control, "add_special": start}
        ids: list[int] = self._ask("/tokenize", body)["tokens"]
        return ids

    def _harmless_messages(self, prompt: Iterable[Message]) -> list[Message]:
        """Messages whose text cannot pass for control tokens, without an empty beginning."""
        messages = [Message(role=m["role"], content=self._harmless(m["content"])) for m in prompt]
        messages, beginning = split_beginning(messages)
        return [*messages, Message(role="assistant", content=beginning)] if beginning else messages

    def _harmless(self, text: str) -> str:
        """`text` so that no part of it is read as a control token; most texts as they are.

        llama.cpp tokenises the filled-in template as a whole, so a transcript that contains
        `<|im_end|>` would end its own message. Such a text tokenises differently with control
        tokens on and off; a zero-width space after the first character of each makes it harmless,
        still readable.
        """
        while self._ids(text, control=True) != self._ids(text, control=False):
            body = {"content": text, "parse_special": True, "with_pieces": True}
            tokens = self._ask("/tokenize", body)["tokens"]
            # part of a character comes as a list of bytes, which no control token does
            pieces = {token["piece"] for token in tokens if isinstance(token["piece"], str)}
            safe = text
            for piece in pieces:
                if self._ids(piece, control=True) != self._ids(piece, control=False):
                    safe = safe.replace(piece, piece[0] + ZERO_WIDTH_SPACE + piece[1:])
            if safe == text:
                raise EngineError(
                    f"{self.name}: a message holds text that the tokenizer reads as a control "
                    "token; take it out."
                )
            text = safe
        return text

    def _opened(self) -> Any:
        if self._server is None:
            raise EngineError(f"{self.name} is closed; open it again with load_engine.")
        return self._server

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        self._opened()
        return self._socket.ask(path, body)


def _library(name: str) -> Any:
    # GNU OpenMP spins while it waits: on a busy machine two spinning threads starve each other. A
    # short spin costs nothing when alone (543 tokens/s against 540) and less beside another program
    # (207 against 184). Read once, when the library loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        import xllamacpp
    except ImportError:
        raise EngineError(
            f"{name} needs the llama.cpp library; "
            "install it with `pip install 'featherweight[local]' -c constraints.txt`."
        ) from None
    return xllamacpp


def _shares(one: _Asked, other: _Asked) -> bool:
    """Whether two prompts have more than half of the shorter one's tokens as a common beginning."""
    a, b = one.tokens, other.tokens
    if isinstance(a, EngineError) or isinstance(b, EngineError):
        return False
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    return 2 * common > min(len(a), len(b))


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
