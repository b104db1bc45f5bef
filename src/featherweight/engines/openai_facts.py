"""What a server knows besides answers: its context length, token counts, scores.

There is no common API for these: vLLM, SGLang, llama-server and Ollama are asked in their own
ways. What is found is remembered; what is not stays unknown, never guessed.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from featherweight.engines.openai_http import Http, read_json
from featherweight.engines.text import check_context
from featherweight.engines.types import Prompt, Request
from featherweight.engines.wire import WireError, chat_fields
from featherweight.errors import EngineError

OLLAMA_CONTEXT = 4096
SMALLEST_CONTEXT = 2048  # every server in use has this much; below it nothing is asked


class Facts:
    """Asks one server about one model; `counts` is whether it counts tokens, `None`: not asked."""

    def __init__(
        self, http: Http, model: str, context_length: int | None, tokenizer: str | None
    ) -> None:
        self._http = http
        self._model = model
        self._known_context = context_length
        self._asked_context = False
        self._tokenizer = _open_tokenizer(tokenizer) if tokenizer else None
        self.counts: bool | None = True if self._tokenizer else None

    async def context(self) -> int | None:
        """The context length where it is known, else `None`; a server is asked once."""
        async with self._http.client().asking:
            if self._known_context is None and not self._asked_context:
                status, models = await self._http.ask("GET", self._http.base + "/models")
                self._known_context = await self._stated_context(models)
                if status != 0 and self._known_context is None:
                    self._asked_context = True
        return self._known_context

    async def _stated_context(self, models: Any) -> int | None:
        entry = _entry_of(models, self._model)
        if entry.get("owned_by") == "llamacpp":  # the slot's size, not the size trained at
            _, props = await self._http.ask("GET", self._http.root + "/props")
            if size := _positive(_dig(props, "default_generation_settings", "n_ctx")):
                return size
        for key in ("max_model_len", "context_length", "context_window", "max_context_length"):
            if size := _positive(entry.get(key)):
                return size
        return _positive(_dig(entry, "meta", "n_ctx_train")) or await self._ollama_context()

    async def _ollama_context(self) -> int | None:
        """Ollama cuts long prompts without a word, so its real setting matters.

        That is num_ctx of the model, else what it is loaded with now, else 4096.
        """
        _, shown = await self._http.ask(
            "POST", self._http.root + "/api/show", {"model": self._model}
        )
        info = _dig(shown, "model_info")
        if not isinstance(info, dict):
            return None
        parameters = str(_dig(shown, "parameters") or "")
        if found := re.search(r"^\s*num_ctx\s+(\d+)", parameters, re.MULTILINE):
            return int(found[1])
        _, loaded = await self._http.ask("GET", self._http.root + "/api/ps")
        for model in _dig(loaded, "models") or []:
            if _dig(model, "name") == self._model and _positive(_dig(model, "context_length")):
                return int(model["context_length"])
        trained = next((v for k, v in info.items() if k.endswith(".context_length")), None)
        return min(_positive(trained) or OLLAMA_CONTEXT, OLLAMA_CONTEXT)

    async def check_context(self, request: Request) -> None:
        """Raise `ContextLengthError` before sending, where the server lets us know.

        A text has at most as many tokens as bytes (plus what the template adds), so most requests
        need no question at all.
        """
        texts = [request.prompt] if isinstance(request.prompt, str) else _contents(request.prompt)
        most = sum(len(text.encode("utf-8", "replace")) + 32 for text in texts) + 64
        if most + request.max_tokens <= SMALLEST_CONTEXT:
            return
        context = await self.context()
        if context is None or most + request.max_tokens <= context or self.counts is False:
            return
        try:
            count = await self.count(request.prompt)
        except EngineError:
            return  # the server judges for itself
        check_context(self._http.name, count, request.max_tokens, context)

    async def count(self, prompt: Prompt) -> int:
        if self._tokenizer is not None:
            return _count_locally(self._tokenizer, prompt)
        url = self._http.root + "/tokenize"
        if isinstance(prompt, str):
            status, body = await self._http.ask("POST", url, self._question(prompt))
        else:
            fields = chat_fields(prompt)
            question = {"model": self._model, "add_generation_prompt": True} | fields
            status, body = await self._http.ask("POST", url, question)
            if isinstance(_dig(body, "tokens"), list) and "count" not in body:  # llama-server
                _, filled = await self._http.ask(
                    "POST", self._http.root + "/apply-template", {"messages": fields["messages"]}
                )
                text = _dig(filled, "prompt")
                body = None
                if isinstance(text, str):
                    status, body = await self._http.ask("POST", url, self._question(text))
        count = _dig(body, "count")
        tokens = _dig(body, "tokens")
        if not isinstance(count, int) and isinstance(tokens, list):
            count = len(tokens)
        if isinstance(count, int):
            self.counts = True
            return count
        if status == 0:
            raise EngineError(
                f"{self._http.base} cannot be reached to count tokens; check that the server runs."
            )
        self.counts = False
        raise EngineError(
            f"{self._http.name} gives no token counts; name the model's own tokenizer directory "
            "(tokenizer=DIR), or split by an estimate."
        )

    def _question(self, text: str) -> dict[str, Any]:
        """One body for both kinds of /tokenize: vLLM reads `prompt`, llama-server `content`."""
        return {
            "model": self._model,
            "prompt": text,
            "content": text,
            "add_special": True,
            "parse_special": True,
        }

    async def score(self, prompt: Prompt, continuation: str) -> tuple[float, ...]:
        if not isinstance(prompt, str):
            raise EngineError(
                f"{self._http.name} cannot score an answer to chat messages; score raw text, or "
                "open the model with hf: or gguf:."
            )
        if not continuation:
            return ()
        joined = prompt + continuation
        body = {
            "model": self._model,
            "prompt": joined,
            "echo": True,
            "max_tokens": 0,
            "logprobs": 1,
            "temperature": 0,
        }
        status, found = await self._ask_score(body)
        logprobs = _dig((_dig(found, "choices") or [None])[0], "logprobs")
        tokens, values = _dig(logprobs, "tokens"), _dig(logprobs, "token_logprobs")
        if status == 200 and isinstance(tokens, list) and isinstance(values, list):
            scored = _last_tokens(tokens, values, continuation)
            if scored is not None:
                return scored
        why = f"answered {status}" if status > 0 and status != 200 else "gave none"
        raise EngineError(
            f"{self._http.name} cannot score: its /completions must echo the prompt with its "
            f"log-probabilities (vLLM does) and {why}; open the model with hf: or gguf:."
        )

    async def _ask_score(self, body: Any) -> tuple[int, Any]:
        try:
            response = await self._http.request("POST", self._http.base + "/completions", body)
            try:
                return response.status, read_json(await response.read())
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(self._http.unreachable(error)) from None
        except WireError:
            return -1, None


def _contents(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


def _dig(body: Any, *keys: str) -> Any:
    """`body[key][key]...`, or `None` where a step is missing."""
    for key in keys:
        body = body.get(key) if isinstance(body, dict) else None
    return body


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _entry_of(models: Any, model: str) -> dict[str, Any]:
    """The model's entry in /v1/models; of a server with one model, that one."""
    data = _dig(models, "data")
    entries = [e for e in data if isinstance(e, dict)] if isinstance(data, list) else []
    for entry in entries:
        if entry.get("id") == model:
            return entry
    return entries[0] if len(entries) == 1 else {}


def _last_tokens(
    tokens: list[Any], values: list[Any], continuation: str
) -> tuple[float, ...] | None:
    """Log-probabilities of the last tokens that cover `continuation`; `None` if they do not."""
    covered = ""
    for i in range(len(tokens) - 1, -1, -1):
        if len(covered) >= len(continuation):
            break
        covered = str(tokens[i]) + covered
        last = i
    if not covered.endswith(continuation) or len(tokens) != len(values):
        return None
    found = values[last:]
    return tuple(map(float, found)) if all(isinstance(v, int | float) for v in found) else None


def _open_tokenizer(folder: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise EngineError(
            "counting tokens with a tokenizer directory needs transformers; install "
            "featherweight[train]."
        ) from None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EngineError(f"{folder} holds no tokenizer that can be opened: {reason}") from None


def _count_locally(tokenizer: Any, prompt: Prompt) -> int:
    from featherweight.engines.hf_prompts import chat_text

    if isinstance(prompt, str):
        return len(tokenizer(prompt, verbose=False).input_ids)
    text = chat_text(tokenizer, chat_fields(prompt)["messages"], tokenizer.name_or_path)
    return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
