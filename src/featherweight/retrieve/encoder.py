"""A trained locator: a small encoder knows windows that mean what the query asks.

Query and windows are embedded apart (mean of the last layer, length 1), so that a meeting's windows
are embedded once for all its questions. A directory holds the encoder (safetensors), its tokenizer
and `locator.json`:

    windows     [size, stride] in words, as in training
    max_tokens  of one text; what is longer is cut
    first, second  weights of two logistic models over what the encoder says (`meaning`), what the
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

from .columns import Array, Columns, context, smooth
from .fitted import FittedLocator, staged

SETTINGS, WEIGHTS = "locator.json", "model.safetensors"
FILES = (SETTINGS, WEIGHTS, "config.json", "tokenizer.json")
BATCH = 16  # texts; on CPUs more is no faster


class EncoderLocator:
    """Scores are log-odds that a window belongs to the answer's place."""

    def __init__(
        self, model: Any, tokenizer: Any, settings: Mapping[str, Any], name: str = "encoder"
    ) -> None:
        self.name = name
        self.window, self.stride = settings["windows"]
        self._model, self._tokenizer = model, tokenizer
        self._settings = settings
        self._lexical = FittedLocator()
        self._last: tuple[tuple[str, ...], NDArray[np.float32]] | None = None

    def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts)], higher is better."""
        if not texts:
            return np.zeros(0, np.float32)
        found = columns(self.meaning(query, texts), self._lexical.scores(query, texts))
        return staged(found, self._settings["first"], self._settings["second"]).astype(np.float32)

    def meaning(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts)], cosines of the query with each text."""
        key = tuple(texts)
        # Questions about one meeting come one after the other.
        if self._last is None or self._last[0] != key:
            self._last = key, self.embedded(texts)
        return np.asarray(self._last[1] @ self.embedded([query])[0])

    def embedded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts), width], rows of length 1."""
        import torch

        found: list[tuple[list[int], Any]] = []
        rows = encoded(self._tokenizer, texts, int(self._settings["max_tokens"]))
        with torch.inference_mode():
            for at, inputs in batches(self._tokenizer, rows):
                vectors = pooled(self._model, inputs.to(self._model.device))
                found.append((at, vectors.cpu().numpy()))
        whole = np.zeros((len(texts), found[0][1].shape[1]), np.float32)
        for at, vectors in found:
            whole[at] = vectors
        return whole


def columns(meaning: NDArray[np.float32], lexical: NDArray[np.float32]) -> Columns:
    """What the first model reads: cosines against those of the whole text, also of neighbours."""
    above: Array = meaning.astype(np.float64) - meaning.mean()
    above /= max(above.std(), 1e-6)
    around = {f"meaning {sigma}": smooth(above, sigma) for sigma in (1, 2, 4)}
    return {"meaning": above, "lexical": lexical.astype(np.float64)} | around


def pooled(model: Any, inputs: Any) -> Any:
    """[texts, width] float32: the mean of the last layer over each text's tokens, length 1."""
    import torch

    states = model(**inputs).last_hidden_state.float()  # [texts, tokens, width]
    there = inputs["attention_mask"][..., None].float()
    return torch.nn.functional.normalize((states * there).sum(1) / there.sum(1), dim=1)


def encoded(tokenizer: Any, texts: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """Token ids of each text, cut to `limit`, not padded."""
    found = tokenizer(list(texts), truncation=True, max_length=limit)
    return [{key: found[key][row] for key in found} for row in range(len(texts))]


def batches(
    tokenizer: Any, rows: Sequence[dict[str, Any]], size: int = BATCH
) -> Iterator[tuple[list[int], Any]]:
    """Places of rows of like length, and their padded tensors."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
    for first in range(0, len(order), size):
        at = order[first : first + size]
        yield at, tokenizer.pad([rows[row] for row in at], return_tensors="pt")


def open_encoder(folder: Path) -> EncoderLocator:
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
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        from featherweight.precision import bf16_pays
    except ImportError:
        raise EngineError(
            "a trained locator needs torch and transformers; install featherweight[train], or use "
            "the embedded one."
        ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pays, _ = bf16_pays(device)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would tell is checked below
    try:
        model, info = AutoModel.from_pretrained(
            folder,
            dtype=torch.bfloat16 if pays else torch.float32,
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
    # nothing here reads a pooler
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
    if wrong := sorted({*missing, *(key for key, *_ in info["mismatched_keys"])}):
        raise EngineError(
            f"{folder} is no whole locator: {len(wrong)} tensors are missing or of the wrong shape "
            f"({wrong[0]}); copy the directory again."
        )
    model = model.eval().to(device)
    both = sha256(folder / WEIGHTS) + sha256(folder / SETTINGS)
    name = f"encoder:{hashlib.sha256(both.encode()).hexdigest()}"
    return EncoderLocator(model, tokenizer, settings, name)


def read_settings(path: Path) -> dict[str, Any]:
    """`locator.json`, checked."""
    known = {"", *columns(np.zeros(1, np.float32), np.zeros(1, np.float32))}
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
