"""Does the file answer as the model does? llama.cpp's log-probabilities against transformers'.

Fixed texts are cut after every few words; each piece is given to llama.cpp, which tells its
likeliest next tokens, and the log-probabilities of the same tokens are read from transformers'
float32 forward of the whole text. Wrongly permuted rows differ by whole units, what the number type
rounds away by hundredths. llama.cpp keeps keys and values as F16 and rounds activations to the
weights' type, so no type gives zero.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from featherweight.distill.merge import PROBE, logits_of
from featherweight.engines import Message, Request, load_engine
from featherweight.engines.llama_cpp import LlamaCppEngine
from featherweight.errors import EngineError

TEXTS = (
    PROBE,
    "Meeting notes\n\n1. Budget: $1,250,000 (up 3.5%).\n2. Hiring - two engineers, one designer.\n"
    "3. Next steps:\n\t* Maria writes the plan by 09:30 on Friday.\n\t* John calls the supplier.",
    "def total(items):\n    return sum(item['price'] * item[\"count\"] for item in items)\n",
    "I'VE seen it, they'll SAY so: we're done   here ... ½ of 2² is 2; 🚀 ok? नमस्ते दुनिया.",
)
MESSAGES = (Message(role="user", content="What was decided about the 2 remote controls?"),)
EVERY = 4  # pieces end before every fourth space
TOP = 10  # tokens compared after each piece
MEAN_ALLOWED = {"F32": 0.02, "F16": 0.02, "BF16": 0.1, "Q8_0": 0.3, "Q4_1": 0.3}
"""Mean difference of a log-probability that is let through; docs/export.md tells what is usual."""


@dataclass(frozen=True)
class Check:
    """Differences of natural-log probabilities over `compared` tokens after `places` pieces.

    `same_first` of the places have the same likeliest token. `notes` are what differs besides, in
    words for people.
    """

    mean: float
    maximum: float
    compared: int
    places: int
    same_first: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def can_check() -> bool:
    """Whether llama.cpp is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


def check_gguf_against(
    path: Path,
    model: Any,
    tokenizer: Any,
    *,
    kind: str,
    adapter: Path | None = None,
    own_tokenizer: bool = True,
) -> Check:
    """Open `path` (and `adapter` over it) in llama.cpp and compare it with a transformers model.

    `kind` is the file's type: F32, F16, BF16, Q8_0, Q4_1. With `own_tokenizer` the texts must be
    read as the same tokens; without (the tokenizer came from another file) those that are not are
    left out and noted. Raises `EngineError` where llama.cpp cannot open the file, reads other
    tokens, or the mean difference is above `MEAN_ALLOWED`.
    """
    spec = f"gguf:{path}" if adapter is None else f"gguf:{path}+{adapter}"
    engine = load_engine(spec, parallel=1, context_length=1024)
    assert isinstance(engine, LlamaCppEngine)
    try:
        notes = []
        texts = [(text, tuple(tokenizer(text)["input_ids"])) for text in TEXTS]
        alike = [(text, ids) for text, ids in texts if engine.tokens(text) == ids]
        if len(alike) < len(texts):
            other = f"{len(texts) - len(alike)} of {len(texts)} texts"
            if own_tokenizer:
                raise EngineError(
                    f"llama.cpp reads {other} as other tokens than the model's own tokenizer; "
                    "give a GGUF file of the same model with --like FILE.gguf."
                )
            notes.append(f"the tokenizer of --like reads {other} as other tokens than the model's")
        notes += _template_note(engine, tokenizer)
        found = [one for text, ids in alike for one in _places(engine, model, tokenizer, text, ids)]
    finally:
        engine.close()
    differences = torch.cat([places for places, _ in found]) if found else torch.zeros(0)
    if not differences.numel():
        raise EngineError(
            "llama.cpp and the model have no text in common to compare; "
            "give a GGUF file of the same model with --like FILE.gguf."
        )
    mean = float(differences.mean())
    if not mean <= MEAN_ALLOWED[kind]:
        raise EngineError(
            f"llama.cpp's log-probabilities differ from the model's by {mean:.3g} on average, more "
            f"than {MEAN_ALLOWED[kind]:g} for {kind}, so nothing was written; "
            "try another --type, or report it with the model's config.json."
        )
    return Check(
        mean=mean,
        maximum=float(differences.max()),
        compared=differences.numel(),
        places=len(found),
        same_first=sum(same for _, same in found),
        notes=tuple(notes),
    )


def _places(
    engine: LlamaCppEngine, model: Any, tokenizer: Any, text: str, ids: Sequence[int]
) -> list[tuple[torch.Tensor, bool]]:
    """After each piece: differences of the likeliest tokens, and whether the first is the same."""
    room = engine.context_length - 1
    logprobs = logits_of(model, ids).log_softmax(-1)
    spaces = [at for at, letter in enumerate(text) if letter == " "][EVERY - 1 :: EVERY]
    requests, rows = [], []
    for piece in (*(text[:at] for at in spaces), text):
        start = tuple(tokenizer(piece)["input_ids"])
        # cut inside what is one token of the whole text, the piece would be another text
        if start == tuple(ids[: len(start)]) and 0 < len(start) <= room:
            requests.append(Request(piece, max_tokens=1, top_logprobs=TOP))
            rows.append(len(start) - 1)
    found = []
    for row, answer in zip(rows, engine.generate(requests), strict=True):
        if answer.error is not None:
            raise EngineError(answer.error)
        if not answer.top_logprobs:  # the token is a part of a character: llama.cpp tells nothing
            continue
        top = [(one.id, one.logprob) for one in answer.top_logprobs[0] if one.id is not None]
        theirs = torch.tensor([logprob for _, logprob in top])
        ours = logprobs[row, torch.tensor([number for number, _ in top])]
        found.append(((ours - theirs).abs(), int(logprobs[row].argmax()) == top[0][0]))
    return found


def _template_note(engine: LlamaCppEngine, tokenizer: Any) -> list[str]:
    """A note where the chat template in the file gives other tokens than the model's own."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    ids = tokenizer.apply_chat_template(list(MESSAGES), add_generation_prompt=True)["input_ids"]
    try:
        same = engine.tokens(MESSAGES) == tuple(ids)
    except EngineError as error:
        return [f"llama.cpp cannot fill in the chat template: {error}"]
    return [] if same else ["llama.cpp reads a chat as other tokens than the model's own template"]
