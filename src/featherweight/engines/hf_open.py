"""From a name to a model and its tokenizer: what is read, what is refused, in which precision.

Only safetensors are read, nothing is downloaded, and no code that comes with a model is run.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers.utils import logging as hub_logging

from featherweight.engines.hf_bank import BANK, Bank, Stored, is_bank, read_bank
from featherweight.engines.packed import dense_state, is_packed
from featherweight.errors import EngineError
from featherweight.files import digest
from featherweight.precision import bf16_pays

WEIGHTS, ADAPTER_WEIGHTS = "*.safetensors", "adapter_model*.safetensors"


def choose_dtype(dtype: str, device: str) -> tuple[torch.dtype, str]:
    """The weights' type and why: auto is bf16 where the hardware is faster in it, else fp32."""
    if dtype in ("fp32", "float32"):
        return torch.float32, "asked for"
    if dtype in ("bf16", "bfloat16"):
        return torch.bfloat16, "asked for"
    if dtype != "auto":
        raise EngineError(f"dtype {dtype!r} is not known; choose auto, fp32 or bf16.")
    pays, why = bf16_pays(device)
    return torch.bfloat16 if pays else torch.float32, why


def open_model(name: str, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """Model and tokenizer of a directory or a cached name; an adapter comes with its base."""
    folder = model_folder(name)
    if is_adapter(folder):
        return _load_adapter(name, folder, dtype, device)
    if is_bank(folder):
        return _load_bank(name, folder, dtype, device)
    return _load_model(name, folder, dtype, device), load_tokenizer(name, folder)


@contextlib.contextmanager
def opening(name: str) -> Iterator[None]:
    """What the loader raises becomes an `EngineError`; its bars and reports are not shown.

    A command line has a bar of its own, and what the report tells is checked in `load_weights`.
    """
    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise EngineError(f"{name} cannot be opened: {why}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bars and no reports of transformers, as it reads or writes a model."""
    bars, level = hub_logging.is_progress_bar_enabled(), hub_logging.get_verbosity()
    hub_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if bars:
            hub_logging.enable_progress_bar()


def is_adapter(folder: Path) -> bool:
    """Whether a directory holds a PEFT adapter, which needs its base."""
    return (folder / "adapter_config.json").is_file()


def model_folder(name: str) -> Path:
    """The directory of a local path or of a name in the local cache."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise EngineError(f"{name} is a file; give the model's directory (for GGUF use gguf:PATH).")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise EngineError(f"{name} is not a directory; give a model's DIR or OWNER/NAME.")
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
    check_weights(name, folder, "model", WEIGHTS)
    config = load_config(folder)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return load_weights(auto, name, folder, config, dtype, "language model").to(device)


def load_config(folder: Path, **changes: Any) -> Any:
    """The model's config; `changes` replace what the file says."""
    return AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, **changes
    )


def load_weights(
    auto: Any,
    name: str,
    folder: Path,
    config: Any,
    dtype: torch.dtype,
    what: str,
    harmless: Callable[[str], bool] = lambda key: False,
) -> Any:
    """A whole model of the class that `auto` chooses; `harmless` names tensors that may be missing.

    Raises `EngineError` where others are, since transformers would fill them with random numbers
    and go on with a warning.
    """
    source: dict[str, Any] = {"pretrained_model_name_or_path": folder}
    if is_packed(folder):
        # with tensors in hand transformers reads no folder, and wants the class itself
        source = {"pretrained_model_name_or_path": None, "state_dict": dense_state(name, folder)}
        auto = auto._model_mapping[type(config)]
        del config.quantization_config  # what it says is undone here
    model, info = auto.from_pretrained(
        **source,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # told in `info`, hence refused below
        output_loading_info=True,
    )
    wrong = sorted(key for key in info["missing_keys"] if not harmless(key))
    wrong += sorted(str(key) for key, *_ in info["mismatched_keys"])
    if wrong:
        raise EngineError(
            f"{name} is not a whole {what}: {len(wrong)} tensors are missing or of the wrong shape "
            f"({wrong[0]}); check that the directory is complete and holds a {what}."
        )
    return model


def check_weights(name: str, folder: Path, what: str, pattern: str) -> None:
    """Raise `EngineError` unless `folder` has safetensors that match `pattern`."""
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
    check_weights(name, folder, "adapter", ADAPTER_WEIGHTS)
    base, base_folder = adapter_base(name, folder)
    model = PeftModel.from_pretrained(
        _load_model(base, base_folder, dtype, device), folder, is_trainable=False
    )
    return model.to(device), load_tokenizer(name, tokenizer_folder(folder, base_folder))


def _load_bank(name: str, folder: Path, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """The base model of a prompt bank, the bank beside it as `prompt_bank`."""
    stored = read_bank(name, folder)
    base, base_folder = bank_base(folder, stored)
    if stored.weights is not None and digest(base_folder.glob(WEIGHTS)) != stored.weights:
        raise EngineError(
            f"{name} was made for other weights than {base} holds; make it again for these."
        )
    model = _load_model(base, base_folder, dtype, device)
    model.prompt_bank = Bank(model, stored, name)
    return model, load_tokenizer(name, base_folder)


def bank_base(folder: Path, stored: Stored) -> tuple[str, Path]:
    """The base model that a bank names, and its directory."""
    near = folder / stored.base
    try:
        return stored.base, near if near.is_dir() else model_folder(stored.base)
    except EngineError as error:
        raise EngineError(
            f"the model of the prompt bank {folder} is not found ({str(error).rstrip('.')}); put "
            f"it back, or correct 'base' in {folder / BANK}."
        ) from None


def adapter_base(name: str, folder: Path) -> tuple[str, Path]:
    """The base model that an adapter names, and its directory; raises `EngineError` for neither."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    base = settings.get("base_model_name_or_path")
    if not base:
        raise EngineError(f"{name} names no base model in adapter_config.json; add it there.")
    if settings.get("peft_type", "") in ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"):
        raise EngineError(f"{name} is a prompt adapter, which hf: does not read; use a LoRA one.")
    return base, folder / base if (folder / base).is_dir() else model_folder(base)


def tokenizer_folder(adapter: Path, base: Path) -> Path:
    """Which of the two directories an adapter's tokenizer is read from."""
    return adapter if (adapter / "tokenizer_config.json").is_file() else base


def load_tokenizer(name: str, folder: Path) -> Any:
    """The tokenizer that lies beside the weights; raises `EngineError` where there is none."""
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    # Without its files transformers makes one of special tokens alone: every word is unknown.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise EngineError(
            f"{name} has no tokenizer with words in it; copy the model's tokenizer files there."
        )
    return tokenizer
