"""From a name to a model and its tokenizer: what is read, what is refused, in which precision.

Only safetensors are read, nothing is downloaded, and no code that comes with a model is run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers.utils import logging as hub_logging

from featherweight.errors import EngineError

WEIGHTS, ADAPTER_WEIGHTS = "*.safetensors", "adapter_model*.safetensors"


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


def open_model(name: str, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """Model and tokenizer of a directory or a cached name; an adapter comes with its base."""
    folder = model_folder(name)
    bars = hub_logging.is_progress_bar_enabled()
    hub_logging.disable_progress_bar()  # one bar per load; a command line has its own
    try:
        if is_adapter(folder):
            return _load_adapter(name, folder, dtype, device)
        return _load_model(name, folder, dtype, device), _load_tokenizer(folder)
    finally:
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
    check_weights(name, folder, "model", WEIGHTS)
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


def check_weights(name: str, folder: Path, what: str, pattern: str) -> None:
    """Raise `EngineError` unless `folder` holds weights that are read; say what it has instead."""
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
    return model.to(device), _load_tokenizer(tokenizer_folder(folder, base_folder))


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


def _load_tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
