"""A GGUF file's weights as a transformers directory, made once, in the cache.

Training needs floating-point weights; the embedded model is shipped quantised. The values are the
quantised ones exactly, rounded to bfloat16 (8 bits, where Q4 and Q8 had 4 and 8).
"""

import shutil
import tempfile
from pathlib import Path

from featherweight.engines.embedded import MEETINGS, cache_folder, meetings_adapter, shipped_model
from featherweight.engines.load import gguf_paths, missing, parse
from featherweight.errors import EngineError
from featherweight.files import check_writable, sha256


def dequantised(spec: str) -> Path:
    """The directory for `spec` (the embedded model or gguf:PATH); half a minute the first time.

    Raises `EngineError` where the file cannot be read or its architecture is not known to
    transformers, `OutputError` where the cache cannot be written.
    """
    kind, rest = parse(spec)
    path, adapter = (shipped_model(), None) if kind == "embedded" else gguf_paths(rest)
    if kind == "embedded" and rest == MEETINGS:
        adapter = meetings_adapter()
    if adapter is not None:
        raise EngineError(f"{spec}: an adapter in GGUF is not read here; name its base alone.")
    if not path.is_file():
        raise EngineError(f"{path} is not there; check the path.")
    target = cache_folder() / "models" / f"{path.stem}-{sha256(path)[:12]}-bf16"
    if (target / "config.json").is_file():
        return target
    check_writable(target.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _convert(spec, path, temporary)
        temporary.chmod(0o755)
        if not (target / "config.json").is_file():  # another process may have been quicker
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _convert(spec: str, path: Path, folder: Path) -> None:
    try:
        import gguf
    except ImportError as error:
        raise missing(error, "local") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from featherweight.engines.gguf_cuts import known_cuts
    from featherweight.engines.hf_open import opening

    with opening(spec):
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True
        )
    field = gguf.GGUFReader(path).fields.get("tokenizer.ggml.pre")
    cuts = known_cuts().get(field.contents()) if field else None
    if cuts is not None:  # transformers leaves out that SmolLM2 takes digits one by one
        tokenizer.backend_tokenizer.pre_tokenizer = cuts[0]
    # else save_pretrained refuses what it believes to be a quantised model
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
