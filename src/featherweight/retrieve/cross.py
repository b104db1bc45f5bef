"""A trained locator: a small cross-encoder reads the query with each window.

A directory holds the encoder (safetensors, one output), its tokenizer and `locator.json`:

    windows     [size, stride] in words, as in training
    max_tokens  of query and window together; what is longer is cut
    first, second  weights of two logistic models over what the encoder says (`cross`), what the
                   embedded locator says (`lexical`), and both about the neighbours

torch is imported when a directory is opened, not before. Made by studies/qmsum/locator.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.errors import EngineError
from featherweight.files import sha256

from .columns import context
from .fitted import FittedLocator, staged

SETTINGS, WEIGHTS = "locator.json", "model.safetensors"
FILES = (SETTINGS, WEIGHTS, "config.json", "tokenizer.json")
BATCH = 16  # windows; on CPUs more is no faster


class CrossLocator:
    """Scores are log-odds that a window belongs to the answer's place."""

    def __init__(
        self, model: Any, tokenizer: Any, settings: Mapping[str, Any], name: str = "cross"
    ) -> None:
        self.name = name
        self.window, self.stride = settings["windows"]
        self._model, self._tokenizer = model, tokenizer
        self._settings = settings
        self._lexical = FittedLocator()

    def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts)], higher is better."""
        if not texts:
            return np.zeros(0, np.float32)
        columns = {
            "cross": self.cross(query, texts).astype(np.float64),
            "lexical": self._lexical.scores(query, texts).astype(np.float64),
        }
        found = staged(columns, self._settings["first"], self._settings["second"])
        return found.astype(np.float32)

    def cross(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts)], what the encoder alone says."""
        import torch

        rows = encoded(self._tokenizer, [(query, text) for text in texts], self._limit)
        found = np.zeros(len(texts), np.float32)
        with torch.inference_mode():
            for at, inputs in batches(self._tokenizer, rows):
                logits = self._model(**inputs.to(self._model.device)).logits
                found[at] = logits[:, 0].float().cpu().numpy()
        return found

    @property
    def _limit(self) -> int:
        return int(self._settings["max_tokens"])


def encoded(tokenizer: Any, pairs: Sequence[tuple[str, str]], limit: int) -> list[dict[str, Any]]:
    """Token ids of each pair, cut to `limit`, not padded."""
    # the longer one is cut: a query of normal length stays whole
    found = tokenizer(
        [query for query, _ in pairs],
        [text for _, text in pairs],
        truncation="longest_first",
        max_length=limit,
    )
    return [{key: found[key][row] for key in found} for row in range(len(pairs))]


def batches(
    tokenizer: Any, rows: Sequence[dict[str, Any]], size: int = BATCH
) -> Iterator[tuple[list[int], Any]]:
    """Places of rows of like length, and their padded tensors."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
    for first in range(0, len(order), size):
        at = order[first : first + size]
        yield at, tokenizer.pad([rows[row] for row in at], return_tensors="pt")


def open_cross(folder: Path) -> CrossLocator:
    """Open what studies/qmsum/locator wrote; only safetensors are read, no code is run.

    Raises `EngineError` where torch is not installed or the directory is not such a locator.
    """
    for file in FILES:
        if not (folder / file).is_file():
            raise EngineError(
                f"{folder} is no trained locator: it has no {file}; give the directory that "
                "training wrote."
            )
    settings = read_settings(folder / SETTINGS)
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise EngineError(
            "a trained locator needs torch and transformers; install featherweight[train], or use "
            "the embedded one."
        ) from None
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would tell is checked below
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            dtype=_dtype(torch),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # safetensors, transformers and tokenizers each raise their own
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise EngineError(f"{folder} cannot be opened: {why}") from error
    finally:
        logging.set_verbosity(level)
    if wrong := sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}):
        raise EngineError(
            f"{folder} is no whole locator: {len(wrong)} tensors are missing or of the wrong shape "
            f"({wrong[0]}); copy the directory again."
        )
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    both = sha256(folder / WEIGHTS) + sha256(folder / SETTINGS)
    name = f"cross:{hashlib.sha256(both.encode()).hexdigest()}"
    return CrossLocator(model, tokenizer, settings, name)


def read_settings(path: Path) -> dict[str, Any]:
    """`locator.json`, checked."""
    known = {"", "cross", "lexical"}
    try:
        found = json.loads(path.read_bytes())
        size, stride = found["windows"]
        limit, first, second = found["max_tokens"], found["first"], found["second"]
        good = (
            all(isinstance(number, int) for number in (size, stride, limit))
            and 1 <= stride <= size
            and limit > 8
            and all(isinstance(w, int | float) for w in (*first.values(), *second.values()))
            and "" in first.keys() & second.keys()
            and first.keys() <= known
            and second.keys() <= known | context(np.zeros(1)).keys()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise EngineError(f"{path} is not as training writes it; copy the directory again.")
    return dict(found)


def _dtype(torch: Any) -> Any:
    """bf16 where the hardware multiplies it: 3 times as fast on CPUs with avx512_bf16."""
    if torch.cuda.is_available():
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # older torch does not tell
        told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        able = told.get("amx_bf16") or told.get("avx512_bf16")
    return torch.bfloat16 if able else torch.float32
