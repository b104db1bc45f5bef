"""A transformers model in this process: decoder-only or encoder-decoder, batched, exact.

A request's answer does not depend on its batch mates beyond rounding. The parts are `hf_open`
(files), `hf_prompts` and `hf_vocabulary` (text and tokens), `hf_model` (forwards), `hf_decode`
and `hf_score`; here they are put together as an engine.
"""

from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

import torch

from featherweight.engines.attention import width_of_config
from featherweight.engines.batches import batches
from featherweight.engines.hf_decode import Row, decode
from featherweight.engines.hf_model import Model
from featherweight.engines.hf_open import choose_dtype, open_model, opening
from featherweight.engines.hf_prompts import Encoded, Prompts
from featherweight.engines.hf_score import Pair, score, score_batches
from featherweight.engines.hf_vocabulary import Vocabulary
from featherweight.engines.text import check_context, check_request, split_beginning
from featherweight.engines.threads import in_thread
from featherweight.engines.types import Delta, Generation, Prompt, Request, Watcher, failed
from featherweight.errors import EngineError

WINDOW, SCORED = 256, 1024  # answers, scores sorted by length together; results keep coming


class TransformersEngine:
    """Answers with a transformers model that is already in memory; `open` loads one from disk.

    `context_length` is the model's position table. T5 and its kin have none: 4096 then, unless
    given. `batch_tokens` bounds rows x (longest prompt + longest answer) of one batch, which is
    what the cache takes. Messages go through the tokenizer's chat template; a model without one
    (T5, base models) reads their contents joined by blank lines, roles left out. A beginning of
    the answer is read by an encoder-decoder's decoder. The model's `generation_config` is
    honoured for end tokens and decoder start only: sampling settings come from the request alone.
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
        found = Model(model, name)
        self._model: Model | None = found
        self._name = name
        self._seq2seq = found.seq2seq
        self._vocab_size = found.config.vocab_size
        self._context = context_length or found.context_length(tokenizer)
        self._width = width_of_config(found.config)
        self._batch_tokens = batch_tokens
        self._vocabulary = Vocabulary(tokenizer, found.end_ids(tokenizer), name)
        self._prompts = Prompts(tokenizer, self._vocabulary, found.seq2seq, name)
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
        with opening(f"hf:{name}"):
            model, tokenizer = open_model(name, chosen, device)
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
        """Number of parameters, tied ones once, an adapter's or prompt bank's included."""
        model = self._opened()
        own: int = sum(p.numel() for p in model.raw.parameters())
        return own + (model.bank.parameters if model.bank else 0)

    @property
    def attention_width(self) -> int | None:
        """Sum over layers of query heads x head size, by the config; see `engines.attention`."""
        return self._width

    @property
    def chat_template(self) -> str:
        """The template that messages go through; empty where their contents are joined."""
        return self._prompts.template

    @property
    def counts_tokens(self) -> bool:
        """Always: the tokenizer is here."""
        return True

    def count_tokens(self, prompt: Prompt) -> int:
        """Exact number of tokens that the model reads, template and special tokens included."""
        return len(self._prompts.encode(prompt))

    def close(self) -> None:
        """Free the model; the engine answers no more."""
        self._model = None

    def generate(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """Answer in batches of like length, results in the order given."""
        self._opened()
        iterator = iter(requests)
        while window := list(islice(iterator, WINDOW)):
            yield from self._generate_window([(request, None) for request in window])

    def generate_watched(
        self, requests: Sequence[Request], watches: Sequence[Watcher | None]
    ) -> Iterator[Generation]:
        """`generate`, where an answer that its watch stops leaves the batch; see `Watched`."""
        self._opened()
        iterator = iter(zip(requests, watches, strict=True))
        while window := list(islice(iterator, WINDOW)):
            yield from self._generate_window(window)

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Answer piece by piece; raises `EngineError` where `generate` would report."""
        model, row = self._opened(), self._row(0, request)
        for _ in decode(model, self._vocabulary, [row]):
            if (piece := row.piece()) is not None:
                yield piece
        if row.error is not None:
            raise EngineError(f"{self._name}: {row.error}")
        yield replace(row.delta(len(row.logprobs)), generation=self._generation(row))

    def astream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """`stream` for an event loop; cancelling it stops after the token being computed."""
        return in_thread(self.stream(request))

    def score(self, pairs: Iterable[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        """Natural-log probability of each token of every continuation, in batches.

        Decoder-only: prompt and continuation are tokenised joined and cut at the boundary; a token
        that straddles it counts with the continuation. An empty prompt without BOS is given the
        BOS or end token to start from. Encoder-decoder: the encoder reads the prompt, the decoder
        is scored on the continuation's own tokens, after a beginning if there is one. No end token
        is scored.
        """
        self._opened()
        iterator = iter(pairs)
        while window := list(islice(iterator, SCORED)):
            yield from self._score_window(window)

    def encode(self, text: str) -> tuple[int, ...]:
        """The token ids of plain text, without special tokens."""
        return tuple(self._prompts.plain(text))

    def score_tokens(
        self, rows: Iterable[Sequence[int]], start: bool = False, known: int = 1
    ) -> Iterator[tuple[float, ...]]:
        """Natural-log probability of every token of each row but the first `known`, the start token
        among them; decoder-only models.
        """
        self._opened()
        if self._seq2seq:
            raise EngineError(
                f"{self._name} is an encoder-decoder, which gives running text no probability; "
                "name a decoder-only model."
            )
        first = self._prompts.start_id if start else None
        iterator = iter(rows)
        while window := list(islice(iterator, SCORED)):
            yield from self._score_pairs(
                [self._row_pair(i, ids, first, known) for i, ids in enumerate(window)]
            )

    def _row_pair(self, index: int, ids: Sequence[int], first: int | None, known: int) -> Pair:
        row = list(ids) if first is None else [first, *ids]
        if not row:
            raise EngineError(f"{self._name}: a row has no tokens; leave it out.")
        check_context(self._name, 1, len(row) - 1, self._context)
        return Pair(index, Encoded(row[:known], []), row[known:])

    def _opened(self) -> Model:
        if self._model is None:
            raise EngineError(f"{self._name} is closed; open it again.")
        return self._model

    def _generate_window(
        self, window: Sequence[tuple[Request, Watcher | None]]
    ) -> Iterator[Generation]:
        done: dict[int, Generation] = {}
        rows = []
        for index, (request, watch) in enumerate(window):
            try:
                rows.append(self._row(index, request, watch))
            except EngineError as error:
                done[index] = failed(self._name, str(error))
        given = 0
        for batch in self._batches(rows):
            for _ in decode(self._opened(), self._vocabulary, batch):
                for row in batch:
                    row.watched()
            done.update((row.index, self._generation(row)) for row in batch)
            while given in done:
                yield done.pop(given)
                given += 1
        while given in done:
            yield done.pop(given)
            given += 1

    def _batches(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """Batches of like length; within one, decoders begin with equally many tokens."""

        def begun(row: Row) -> int:
            return len(row.prompt.beginning)

        for _, alike in groupby(sorted(rows, key=begun), begun):
            yield from batches(
                list(alike), lambda r: (len(r.prompt), r.request.max_tokens), self._batch_tokens
            )

    def _row(self, index: int, request: Request, watch: Watcher | None = None) -> Row:
        check_request(self._name, request, blocks=True)
        prompt = self._prompts.encode(request.prompt)
        if not prompt.ids:
            raise EngineError(f"{self._name}: the prompt is empty; give it at least one token.")
        check_context(self._name, len(prompt), request.max_tokens, self._context)
        if request.top_logprobs > self._vocab_size:
            raise EngineError(
                f"{self._name}: top_logprobs is {request.top_logprobs}, but the vocabulary has "
                f"{self._vocab_size} tokens; ask for fewer."
            )
        # a text that goes on after other text keeps the space that its first word comes with
        if isinstance(request.prompt, str):
            starts = self._seq2seq
        else:
            starts = not split_beginning(request.prompt)[1]
        strip = self._vocabulary.words_begin_with_space and starts
        return Row(index, request, prompt, strip, watch)

    def _generation(self, row: Row) -> Generation:
        if row.error is not None:
            return failed(self._name, f"{self._name}: {row.error}", row.seconds, len(row.prompt))
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

    def _score_window(self, window: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[float, ...]]:
        yield from self._score_pairs(
            [self._pair(i, prompt, text) for i, (prompt, text) in enumerate(window)]
        )

    def _score_pairs(self, pairs: Sequence[Pair]) -> Iterator[tuple[float, ...]]:
        """Scores in the order given, each batch as soon as it and those before it are done."""
        done: dict[int, tuple[float, ...]] = {p.index: () for p in pairs if not p.target}
        given = 0
        for batch in score_batches([p for p in pairs if p.target], self._batch_tokens):
            scored = score(self._opened(), batch)
            done.update(zip((p.index for p in batch), scored, strict=True))
            while given in done:
                yield done.pop(given)
                given += 1
        while given in done:
            yield done.pop(given)
            given += 1

    def _pair(self, index: int, prompt: Prompt, continuation: str) -> Pair:
        found, target = self._prompts.split(prompt, continuation)
        check_context(self._name, len(found), len(target), self._context)
        return Pair(index, found, target)
