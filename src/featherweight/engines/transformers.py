"""A transformers model in this process: decoder-only or encoder-decoder, batched, exact.

The decode loop is our own, because three promises are hard to keep through `generate`: each
request has its own length, stop strings, temperature and seed inside one batch; log-probabilities
are the model's own, before any temperature; and a row that is done leaves the batch. A request's
answer does not depend on its batch mates beyond rounding.

Only safetensors are read, nothing is downloaded, and no code that comes with a model is run.
"""

import inspect
import json
import random
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import logging as hub_logging

from featherweight.engines.text import TextHolder, check_context, check_prompt, check_request
from featherweight.engines.threads import in_thread
from featherweight.engines.types import (
    Delta,
    FinishReason,
    Generation,
    Prompt,
    Request,
    TopLogprob,
    failed,
)
from featherweight.errors import EngineError

WINDOW = 256  # requests sorted by length together; bounds memory and keeps results coming
SCORE_ROWS = 512  # rows of logits held at once while scoring
RELATIVE_CONTEXT = 4096  # for models without a position table (T5): no hard limit, memory decides


class TransformersEngine:
    """Answers with a transformers model that is already in memory; `open` loads one from disk.

    `context_length` is the model's position table. T5 and its kin have none: 4096 then, unless
    given. `batch_tokens` bounds rows x (longest prompt + longest answer) of one batch, which is
    what the cache takes. Messages go through the tokenizer's chat template; a model without one
    (T5, base models) reads their contents joined by blank lines, roles left out. The model's
    `generation_config` is honoured for end tokens and decoder start only: sampling settings come
    from the request alone.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        dtype_reason: str = "as loaded",
        context_length: int | None = None,
        batch_tokens: int = 16384,
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._name = name
        self._config = model.config.get_text_config()
        self._seq2seq = bool(model.config.is_encoder_decoder)
        self._context = context_length or _context_length(self._config, tokenizer)
        self._batch_tokens = batch_tokens
        self._accepts = set(inspect.signature(_bare(model).forward).parameters)
        self._end_ids = _end_ids(model, tokenizer)
        added = tokenizer.added_tokens_decoder.items()
        self._special_ids = self._end_ids.union(
            tokenizer.all_special_ids, (token_id for token_id, token in added if token.special)
        )
        self._adds_end = tokenizer("a", verbose=False).input_ids[-1] in self._end_ids
        self._token_bytes, self._leading_space = _token_bytes(tokenizer, name)
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.dtype_reason = dtype_reason

    @classmethod
    def open(
        cls,
        name: str,
        *,
        dtype: str = "auto",
        device: str | None = None,
        context_length: int | None = None,
        batch_tokens: int = 16384,
    ) -> "TransformersEngine":
        """Load a directory, or a name from the local Hugging Face cache; PEFT adapters too.

        `dtype` is auto, fp32 or bf16; the engine's `dtype` and `dtype_reason` tell what was
        chosen and why. Raises `EngineError` where the model is not here or cannot be read.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        chosen, reason = choose_dtype(dtype, device)
        try:
            model, tokenizer = _load(name, chosen, device)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise EngineError(f"hf:{name} cannot be opened: {_one_line(error)}") from error
        return cls(
            model,
            tokenizer,
            name=f"hf:{name}",
            dtype_reason=reason,
            context_length=context_length,
            batch_tokens=batch_tokens,
        )

    @property
    def name(self) -> str:
        """The spec, `hf:NAME-or-DIR`."""
        return self._name

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may take together."""
        return self._context

    @property
    def params(self) -> int:
        """Number of parameters, tied ones once, an adapter's included."""
        return sum(p.numel() for p in self._open_model().parameters())

    @property
    def counts_tokens(self) -> bool:
        """Always: the tokenizer is here."""
        return True

    def count_tokens(self, prompt: Prompt) -> int:
        """Exact number of tokens that the model reads, template and special tokens included."""
        return len(self._encode(prompt))

    def close(self) -> None:
        """Free the model; the engine answers no more."""
        self._model = None

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """Answer in batches of like length, results in the order given."""
        self._open_model()
        iterator = iter(requests)
        while window := list(islice(iterator, WINDOW)):
            yield from self._generate_window(window)

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Answer piece by piece; raises `EngineError` where `generate` would report."""
        row = self._row(0, request)
        sent = 0  # log-probabilities given out: only those of tokens that no stop string can cut
        for _ in self._decode([row]):
            if row.open and row.pending:
                certain = row.holder.tokens_shown()
                yield Delta(row.take(), tuple(row.logprobs[sent:certain]))
                sent = certain
        if row.error is not None:
            raise EngineError(row.error)
        yield Delta(row.take(), tuple(row.logprobs[sent:]), self._generation(row))

    def astream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """`stream` for an event loop; cancelling it stops after the token being computed."""
        return in_thread(self.stream(request))

    def score(self, pairs: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        """Natural-log probability of each token of every continuation, in batches.

        Decoder-only: prompt and continuation are tokenised joined and cut at the boundary; a token
        that straddles it counts with the continuation. An empty prompt without BOS is given the
        BOS or end token to start from. Encoder-decoder: the encoder reads the prompt, the decoder
        is scored on the continuation's own tokens. No end token is scored.
        """
        self._open_model()
        iterator = iter(pairs)
        while window := list(islice(iterator, WINDOW)):
            yield from self._score_window(window)

    # ---- requests to rows, rows to generations

    def _open_model(self) -> Any:
        if self._model is None:
            raise EngineError(f"{self._name} is closed; open it again.")
        return self._model

    def _generate_window(self, window: Sequence[Request]) -> Iterator[Generation]:
        done: dict[int, Generation] = {}
        rows = []
        for index, request in enumerate(window):
            try:
                rows.append(self._row(index, request))
            except EngineError as error:
                done[index] = failed(self._name, str(error))
        given = 0
        for batch in batches(rows, self._row_cost, self._batch_tokens):
            for _ in self._decode(batch):
                pass
            done.update((row.index, self._generation(row)) for row in batch)
            while given in done:
                yield done.pop(given)
                given += 1
        while given in done:
            yield done.pop(given)
            given += 1

    def _row(self, index: int, request: Request) -> "_Row":
        self._open_model()
        check_request(self._name, request)
        ids = self._encode(request.prompt)
        if not ids:
            raise EngineError(f"{self._name}: the prompt is empty; give it at least one token.")
        check_context(self._name, len(ids), request.max_tokens, self._context)
        if request.top_logprobs > self._config.vocab_size:
            raise EngineError(
                f"{self._name}: top_logprobs is {request.top_logprobs}, but the vocabulary has "
                f"{self._config.vocab_size} tokens; ask for fewer."
            )
        strip = self._leading_space and (self._seq2seq or not isinstance(request.prompt, str))
        return _Row(index, request, ids, strip)

    @staticmethod
    def _row_cost(row: "_Row") -> tuple[int, int]:
        return len(row.prompt), row.request.max_tokens

    def _generation(self, row: "_Row") -> Generation:
        if row.error is not None:
            return failed(self._name, row.error, row.seconds, len(row.prompt))
        return Generation(
            text=row.holder.text,
            token_ids=tuple(row.ids),
            token_logprobs=tuple(row.logprobs),
            top_logprobs=tuple(row.tops) if row.request.top_logprobs else None,
            finish_reason=row.finish or "error",
            prompt_tokens=len(row.prompt),
            completion_tokens=row.written,
            seconds=row.seconds,
            model=self._name,
        )

    # ---- text to tokens

    def _text(self, prompt: Prompt) -> tuple[str, bool]:
        """The prompt as one string, and whether the tokenizer adds its special tokens to it."""
        check_prompt(self._name, prompt)
        if isinstance(prompt, str):
            return prompt, True
        if not self._tokenizer.chat_template:
            return "\n\n".join(message["content"] for message in prompt), True
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in prompt], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template raises what it likes: a role it does not know, ...
            raise EngineError(
                f"{self._name}: its chat template refuses these messages ({_one_line(error)}); "
                "change their roles or order."
            ) from error
        return text, False

    def _encode(self, prompt: Prompt) -> list[int]:
        text, special = self._text(prompt)
        return self._tokenise(text, special)

    def _tokenise(self, text: str, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special, verbose=False).input_ids
        if special and not self._seq2seq and len(ids) > 1 and self._adds_end:
            ids.pop()  # a prompt that already ended would get no answer
        return ids

    # ---- decoding

    def _decode(self, rows: "list[_Row]") -> Iterator[None]:
        """Decode one batch to its end; each step fills `rows` by one token and then yields."""
        started = time.perf_counter()
        try:
            batch, logits = self._prefill(rows)
            while True:
                tokens = self._choose(batch.rows, logits)
                now = time.perf_counter() - started
                for row in batch.rows:
                    row.seconds = now
                yield
                live = [i for i, row in enumerate(batch.rows) if row.open]
                if not live:
                    return
                batch.keep(live)
                logits = self._advance(batch, [tokens[i] for i in live])
        except (torch.OutOfMemoryError, MemoryError):
            for row in rows:
                if row.open:
                    row.error = (
                        f"{self._name}: out of memory with {len(rows)} requests at once; "
                        "lower batch_tokens or shorten the prompts."
                    )

    def _prefill(self, rows: "list[_Row]") -> "tuple[_Batch, torch.Tensor]":
        """Read the prompts: the batch, and the next token's logits [B, V]."""
        model = self._open_model()
        ids, mask = _pad([row.prompt for row in rows], left=not self._seq2seq, device=model.device)
        if self._seq2seq:
            encoded = self._call(model.get_encoder(), input_ids=ids, attention_mask=mask)
            start = self._decoder_start()
            decoder = torch.tensor([start] * len(rows), device=model.device)
            out = self._call(
                model,
                encoder_outputs=encoded,
                attention_mask=mask,
                decoder_input_ids=decoder,
                use_cache=True,
            )
            batch = _Batch(list(rows), self._cache(out), mask, None, encoded.last_hidden_state)
            return batch, out.logits[:, -1].float()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self._forward(ids, mask, positions, None, keep=1)
        batch = _Batch(list(rows), self._cache(out), mask, positions[:, -1:] + 1, None)
        return batch, out.logits[:, -1].float()

    def _advance(self, batch: "_Batch", tokens: list[int]) -> torch.Tensor:
        """One more token for every row; the next logits [B, V]."""
        model = self._open_model()
        column = torch.tensor(tokens, device=model.device)[:, None]
        if batch.encoded is not None:
            out = self._call(
                model,
                encoder_outputs=(batch.encoded,),
                attention_mask=batch.mask,
                decoder_input_ids=column,
                past_key_values=batch.cache,
                use_cache=True,
            )
        else:
            batch.mask = torch.cat([batch.mask, torch.ones_like(column)], dim=1)
            out = self._forward(column, batch.mask, batch.positions, batch.cache, keep=1)
            batch.positions += 1
        batch.cache = out.past_key_values
        return out.logits[:, -1].float()

    @staticmethod
    def _call(module: Any, **inputs: Any) -> Any:
        """A forward without gradients; never held open across a `yield`, where it would leak."""
        with torch.inference_mode():
            return module(**inputs)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: Any, cache: Any, keep: int
    ) -> Any:
        """A decoder-only forward that holds only the last `keep` rows of logits (0: all)."""
        extra: dict[str, Any] = {}
        if "position_ids" in self._accepts:
            extra["position_ids"] = positions
        if "logits_to_keep" in self._accepts:
            extra["logits_to_keep"] = keep
        return self._call(
            self._open_model(),
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **extra,
        )

    def _cache(self, out: Any) -> Any:
        """The key-value cache, if rows can be taken out of it (not of state-space layers)."""
        cache = getattr(out, "past_key_values", None)
        layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", None)
        if not layers or not all(hasattr(layer, "batch_select_indices") for layer in layers):
            raise EngineError(
                f"{self._name}: the model keeps no key-value cache that featherweight can use; "
                "choose a model whose layers are all attention."
            )
        return cache

    def _decoder_start(self) -> list[int]:
        """What the decoder reads before its first own token (BART and kin force a second one)."""
        settings = self._open_model().generation_config
        start = settings.decoder_start_token_id
        if start is None:
            start = self._config.decoder_start_token_id
        if start is None:
            raise EngineError(
                f"{self._name}: its config names no decoder_start_token_id; add it to config.json."
            )
        forced = settings.forced_bos_token_id
        return [start] if forced is None else [start, forced]

    def _choose(self, rows: "list[_Row]", logits: torch.Tensor) -> list[int]:
        """Pick the next token of every row from `logits` [B, V] and write it into the row."""
        logprobs = torch.log_softmax(logits, dim=-1)
        finite = torch.isfinite(logprobs.amax(dim=-1)).tolist()
        tokens: list[int] = logprobs.argmax(dim=-1).tolist()
        for i, row in enumerate(rows):
            if row.request.temperature > 0 and finite[i]:
                tokens[i] = _sample(logprobs[i], row.request.temperature, row.random.random())
        chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
        values = chosen.tolist()
        for i, row in enumerate(rows):
            if finite[i]:
                self._add(row, tokens[i], values[i], logprobs[i])
            else:
                row.error = (
                    f"{self._name}: the model's output is not a number; its weights are broken or "
                    f"{self.dtype} is too narrow for it, so try dtype fp32."
                )
        return tokens

    def _add(self, row: "_Row", token: int, logprob: float, logprobs: torch.Tensor) -> None:
        ended = token in self._end_ids
        row.written += 1
        row.ids.append(token)
        row.logprobs.append(logprob)
        if row.request.top_logprobs:
            row.tops.append(self._top(logprobs, row.request.top_logprobs))
        row.feed(b"" if token in self._special_ids else self._token_bytes(token))
        if row.holder.stopped:
            row.cut()
            row.finish = "stop"
        elif ended or row.written >= row.request.max_tokens:
            row.finish = "stop" if ended else "length"
            row.pending += row.holder.finish()

    def _top(self, logprobs: torch.Tensor, k: int) -> tuple[TopLogprob, ...]:
        values, ids = logprobs.topk(k)
        return tuple(
            TopLogprob(token, self._token_bytes(token), value)
            for token, value in zip(ids.tolist(), values.tolist(), strict=True)
        )

    # ---- scoring

    def _score_window(self, window: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        pairs = [_Pair(i, *self._split(prompt, text)) for i, (prompt, text) in enumerate(window)]
        done: dict[int, tuple[float, ...]] = {p.index: () for p in pairs if not p.target}
        for batch in batches(
            [p for p in pairs if p.target],
            lambda p: (len(p.prompt), len(p.target)),
            self._batch_tokens,
        ):
            scored = self._score_seq2seq(batch) if self._seq2seq else self._score_decoder(batch)
            done.update(zip((p.index for p in batch), scored, strict=True))
        for index in range(len(window)):
            yield done[index]

    def _split(self, prompt: Prompt, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of the continuation."""
        check_prompt(self._name, continuation)
        if self._seq2seq:
            ids, target = self._encode(prompt), self._continuation_ids(continuation)
        else:
            ids, target = self._split_joined(prompt, continuation)
        check_context(self._name, len(ids), len(target), self._context)
        return ids, target

    def _continuation_ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(
            text_target=text, add_special_tokens=False, verbose=False
        ).input_ids
        return ids

    def _split_joined(self, prompt: Prompt, continuation: str) -> tuple[list[int], list[int]]:
        if not self._tokenizer.is_fast:
            raise EngineError(
                f"{self._name}: its tokenizer does not tell which characters a token covers, so "
                "nothing can be scored; save the model with a fast tokenizer (tokenizer.json)."
            )
        text, special = self._text(prompt)
        encoded = self._tokenizer(
            text + continuation,
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_special_tokens_mask=special,
            verbose=False,
        )
        ids, ends = encoded.input_ids, [end for _, end in encoded.offset_mapping]
        while special and ids and encoded.special_tokens_mask[len(ids) - 1] and self._adds_end:
            ids.pop()
            ends.pop()
        cut = next((i for i, end in enumerate(ends) if end > len(text)), len(ids))
        before = ids[:cut]
        if not before and ids:
            start = self._tokenizer.bos_token_id
            before = [min(self._end_ids) if start is None else start]
        return before, ids[cut:]

    def _score_decoder(self, pairs: "Sequence[_Pair]") -> list[tuple[float, ...]]:
        """Read left-padded prompt + continuation; hold logits for continuation rows only.

        The prompt part is read first and its cache kept, then the rest in pieces of SCORE_ROWS
        logit rows, so that [T, V] never exists for a long continuation.
        """
        device = self._open_model().device
        ids, mask = _pad([p.prompt + p.target for p in pairs], left=True, device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        width, longest = ids.shape[1], max(len(p.target) for p in pairs)
        step = max(1, SCORE_ROWS // len(pairs))
        cuts = [width - longest, *range(width - longest + step, width - 1, step), width - 1]
        pieces, start, cache = [], 0, None
        for end in dict.fromkeys(cuts):
            keep = 1 if start == 0 else end - start
            out = self._forward(
                ids[:, start:end], mask[:, :end], positions[:, start:end], cache, keep
            )
            cache, start = out.past_key_values, end
            rows = torch.log_softmax(out.logits[:, -keep:].float(), dim=-1)
            targets = ids[:, end - keep + 1 : end + 1]
            pieces.append(rows.gather(2, targets[..., None])[..., 0])
        scores = torch.cat(pieces, dim=1).tolist()  # [B, longest], right-aligned
        return [tuple(row[longest - len(p.target) :]) for p, row in zip(pairs, scores, strict=True)]

    def _score_seq2seq(self, pairs: "Sequence[_Pair]") -> list[tuple[float, ...]]:
        model = self._open_model()
        ids, mask = _pad([p.prompt for p in pairs], left=False, device=model.device)
        targets, _ = _pad([p.target for p in pairs], left=False, device=model.device)
        start = torch.tensor([self._decoder_start()] * len(pairs), device=model.device)
        out = self._call(
            model,
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=torch.cat([start, targets[:, :-1]], dim=1),
            use_cache=False,
        )
        rows = torch.log_softmax(out.logits[:, start.shape[1] - 1 :].float(), dim=-1)
        scores = rows.gather(2, targets[..., None])[..., 0].tolist()
        return [tuple(row[: len(p.target)]) for p, row in zip(pairs, scores, strict=True)]


@dataclass(eq=False)
class _Row:
    """One request while it is being answered."""

    index: int
    request: Request
    prompt: list[int]
    strip_space: bool  # drop the space that SentencePiece puts before the first word
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[tuple[TopLogprob, ...]] = field(default_factory=list)
    written: int = 0
    pending: str = ""
    finish: FinishReason | None = None
    error: str | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.holder = TextHolder(self.request.stop)
        self.random = random.Random(self.request.seed)

    @property
    def open(self) -> bool:
        return self.finish is None and self.error is None

    def feed(self, piece: bytes) -> None:
        if self.strip_space and piece:
            piece = piece.removeprefix(b" ")
            self.strip_space = False
        self.pending += self.holder.feed(piece)

    def cut(self) -> None:
        """Drop the tokens that a stop string cut off."""
        kept = self.holder.tokens_kept()
        del self.ids[kept:], self.logprobs[kept:], self.tops[kept:]

    def take(self) -> str:
        text, self.pending = self.pending, ""
        return text


@dataclass
class _Batch:
    """Rows still open, with their cache; B rows, T tokens read so far."""

    rows: list[_Row]
    cache: Any
    mask: torch.Tensor  # [B, T], the encoder's for an encoder-decoder
    positions: Any  # [B, 1] of the next token; None for an encoder-decoder
    encoded: torch.Tensor | None  # [B, T, H], the encoder's output

    def keep(self, live: list[int]) -> None:
        """Drop every row that is not in `live`."""
        if len(live) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in live]
        index = torch.tensor(live, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]
        if self.positions is not None:
            self.positions = self.positions[index]
        if self.encoded is not None:
            self.encoded = self.encoded[index]


@dataclass
class _Pair:
    index: int
    prompt: list[int]
    target: list[int]


T = TypeVar("T")


def batches(
    items: Sequence[T], cost: Callable[[T], tuple[int, int]], budget: int
) -> Iterator[list[T]]:
    """Sort by length and cut so that rows x (longest first + longest second part) <= budget.

    Longest first, so that a batch too large for memory fails at once. A single item may exceed
    the budget.
    """
    batch: list[T] = []
    first = second = 0
    for item in sorted(items, key=lambda item: sum(cost(item)), reverse=True):
        a, b = cost(item)
        if batch and (len(batch) + 1) * (max(first, a) + max(second, b)) > budget:
            yield batch
            batch, first, second = [], 0, 0
        batch.append(item)
        first, second = max(first, a), max(second, b)
    if batch:
        yield batch


def choose_dtype(dtype: str, device: str) -> tuple[torch.dtype, str]:
    """The weights' type and why: auto is bf16 where the hardware multiplies it, else fp32."""
    if dtype in ("fp32", "float32"):
        return torch.float32, "asked for"
    if dtype in ("bf16", "bfloat16"):
        return torch.bfloat16, "asked for"
    if dtype != "auto":
        raise EngineError(f"dtype {dtype!r} is not known; choose auto, fp32 or bf16.")
    if device.startswith("cuda"):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU computes bf16"
        return torch.float32, "this GPU does not compute bf16"
    if device == "cpu":
        # older torch does not tell
        able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        for feature in ("amx_bf16", "avx512_bf16"):
            if able.get(feature):
                return torch.bfloat16, f"this CPU has {feature}"
        return torch.float32, "no avx512_bf16 or amx_bf16 seen on this CPU"
    return torch.float32, f"the safe choice on {device}"


def _load(name: str, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    folder = _folder(name)
    bars = hub_logging.is_progress_bar_enabled()
    hub_logging.disable_progress_bar()  # one bar per load; a command line has its own
    try:
        if (folder / "adapter_config.json").is_file():
            return _load_adapter(name, folder, dtype, device)
        return _load_model(name, folder, dtype, device), _load_tokenizer(folder)
    finally:
        if bars:
            hub_logging.enable_progress_bar()


def _folder(name: str) -> Path:
    """The directory of a local path or of a name in the local cache."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise EngineError(
            f"{name} is a file; hf: takes a model directory (for GGUF use gguf:PATH)."
        )
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise EngineError(f"{name} is not a directory; give hf:DIR or hf:OWNER/NAME.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise EngineError(
            f"{name} is neither a directory nor in the local Hugging Face cache; get it once with "
            f"`hf download {name}`, nothing is downloaded by itself."
        ) from None


def _load_model(name: str, folder: Path, dtype: torch.dtype, device: str) -> Any:
    _check_weights(name, folder, "model", "*.safetensors")
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model, info = auto.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    # transformers fills what is missing with random numbers and a warning
    if missing := sorted(info["missing_keys"]) or sorted(info["mismatched_keys"]):
        raise EngineError(
            f"{name} is not a whole language model: {len(missing)} tensors are missing or of the "
            f"wrong shape ({missing[0]}); check that the directory is complete and generates text."
        )
    return model.to(device)


def _check_weights(name: str, folder: Path, what: str, pattern: str) -> None:
    if any(folder.glob(pattern)):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise EngineError(
            f"{name} has pickled weights only, which can run code when opened; convert them to "
            "safetensors first."
        )
    if gguf := next(folder.glob("*.gguf"), None):
        raise EngineError(f"{name} holds a GGUF file; open it with gguf:{gguf}.")
    raise EngineError(f"{name} holds no {what} weights ({pattern}); check the directory.")


def _load_adapter(name: str, folder: Path, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """A PEFT adapter over its base, which is looked up beside the adapter, then as any name."""
    try:
        from peft import PeftModel
    except ImportError:
        raise EngineError(
            f"{name} is an adapter and needs peft; install featherweight[train]."
        ) from None
    _check_weights(name, folder, "adapter", "adapter_model*.safetensors")
    settings = json.loads((folder / "adapter_config.json").read_text())
    base = settings.get("base_model_name_or_path")
    if not base:
        raise EngineError(f"{name} names no base model in adapter_config.json; add it there.")
    if settings.get("peft_type", "") in ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"):
        raise EngineError(f"{name} is a prompt adapter, which hf: does not read; use a LoRA one.")
    base_folder = folder / base if (folder / base).is_dir() else _folder(base)
    model = PeftModel.from_pretrained(
        _load_model(base, base_folder, dtype, device), folder, is_trainable=False
    )
    own = (folder / "tokenizer_config.json").is_file()
    return model.to(device), _load_tokenizer(folder if own else base_folder)


def _load_tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _bare(model: Any) -> Any:
    """The model below a PEFT wrapper, whose `forward` tells what it accepts."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _context_length(config: Any, tokenizer: Any) -> int:
    for key in ("max_position_embeddings", "n_positions"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0 and not _relative(config):
            return value
    limit = tokenizer.model_max_length
    return RELATIVE_CONTEXT if _relative(config) or limit > 10**9 else int(limit)


def _relative(config: Any) -> bool:
    return hasattr(config, "relative_attention_num_buckets")


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the model's own list, and the tokenizer's end token."""
    settings: GenerationConfig = model.generation_config
    ids: set[int] = set()
    for value in (settings.eos_token_id, tokenizer.eos_token_id):
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


def _pad(rows: Sequence[list[int]], left: bool, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both [B, T] int64, padded with token 0 on one side."""
    width = max(map(len, rows))
    gaps = [[0] * (width - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]
    sides = [(gap, ids, one) for gap, ids, one in zip(gaps, rows, ones, strict=True)]
    ids = [gap + row if left else row + gap for gap, row, _ in sides]
    mask = [gap + one if left else one + gap for gap, _, one in sides]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _sample(logprobs: torch.Tensor, temperature: float, uniform: float) -> int:
    """Inverse of the cumulative distribution at `uniform`, in float64 on `logprobs` [V]."""
    weights = torch.softmax(logprobs.double() / temperature, dim=-1).cumsum(-1)
    at = torch.searchsorted(weights, weights[-1] * uniform, right=True)
    return min(int(at), len(weights) - 1)


def _token_bytes(tokenizer: Any, name: str) -> tuple[Callable[[int], bytes], bool]:
    """A function from token id to the bytes it stands for, and whether words begin with a space.

    Decoding token by token is wrong where a character is split, so the two vocabularies in use
    are read directly: byte-level BPE, and SentencePiece with its byte fallback.
    """
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    kinds = set()
    if decoder is not None:
        state = json.loads(decoder.__getstate__())
        kinds = {part["type"] for part in state.get("decoders", [state])}
    added: dict[int, str] = {
        token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()
    }
    if "ByteLevel" in kinds:
        table = _byte_level()

        def from_piece(piece: str) -> bytes:
            return b"".join(table.get(char) or char.encode() for char in piece)

    elif kinds & {"Metaspace", "ByteFallback", "Replace"}:

        def from_piece(piece: str) -> bytes:
            if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                return bytes.fromhex(piece[3:5])
            return piece.replace("\u2581", " ").encode()

    else:
        raise EngineError(
            f"{name}: its tokenizer is neither byte-level BPE nor SentencePiece, so the bytes of a "
            "token are not known; save the model with a fast tokenizer (tokenizer.json)."
        )

    def token_bytes(token: int) -> bytes:
        if token in added:
            return added[token].encode()
        piece = tokenizer.convert_ids_to_tokens(token)
        return b"" if piece is None else from_piece(piece)  # ids beyond the vocabulary: padding

    return token_bytes, "ByteLevel" not in kinds


def _byte_level() -> dict[str, bytes]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): bytes([byte]) for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return table | {chr(256 + i): bytes([byte]) for i, byte in enumerate(others)}


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
