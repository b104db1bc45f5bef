"""Which weights answered: digests for manifests, by the same paths that `load_engine` opens.

Several files make one digest: the sha256 of what `sha256sum` prints for them, in order of their
names, so `sha256sum *.safetensors | sha256sum` (with LC_ALL=C) in a model's directory gives it too.
Nothing is loaded; a gigabyte takes a second or two.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featherweight.engines.embedded import MEETINGS, fast_copy, meetings_adapter, shipped_model
from featherweight.engines.load import gguf_paths, load_engine, missing, parse
from featherweight.errors import EngineError
from featherweight.files import digest, sha256

CONFIG = ("config.json", "generation_config.json")
TOKENIZER = (  # what a tokenizer and its chat template are read from, old and new forms
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "*.model",
)


def identity(engine_spec: str) -> dict[str, Any]:
    """What `engine_spec` stands for on this machine, to be written beside what it answered.

    `spec` and `weights` always: the sha256 of a GGUF file (of all parts of a split one) or of a
    directory's safetensors, always of the base where there is an adapter. Where it applies also
    `adapter` (digest of its weights), `adapter_config`, `bank` (of a prompt bank's files), `base`
    (the name that either gives), `config`
    and `tokenizer` (of what hf: reads beside the weights), `note`. A server tells no weights:
    `None`. Raises `UnknownModelError` and `EngineError` as
    `load_engine` does.
    """
    spec = engine_spec.strip()
    kind, rest = parse(spec)
    if kind == "embedded":
        return _embedded(spec)
    if kind == "gguf":
        return _gguf(spec, rest)
    if kind == "hf":
        try:
            return _hf(spec, rest)
        except (OSError, ValueError) as error:
            raise EngineError(f"{spec} cannot be read: {error}; check the directory.") from error
    engine = load_engine(spec)  # connects to nothing yet; its name is the address without extras
    name = engine.name
    engine.close()
    return {"spec": name, "weights": None, "note": "a remote server: known by URL and name"}


def _embedded(spec: str) -> dict[str, Any]:
    shipped = shipped_model()
    found: dict[str, Any] = {"spec": spec, "weights": sha256(shipped)}
    if spec == MEETINGS:
        found["adapter"] = sha256(meetings_adapter())
    if fast_copy(shipped).exists():
        found["note"] = "the shipped file's weights; its Q8_0 copy is read"
    return found


def _gguf(spec: str, rest: str) -> dict[str, Any]:
    try:
        from featherweight.engines.llama_cpp import check_gguf
    except ImportError as error:
        raise missing(error, "local") from None
    path, adapter = gguf_paths(rest)
    for file in filter(None, (path, adapter)):
        check_gguf(file)
    parts = gguf_parts(path)
    try:
        weights = sha256(path) if len(parts) == 1 else digest(parts)
    except OSError as error:
        raise EngineError(
            f"cannot read {error.filename}, a part of {path.name}; put all parts into one folder."
        ) from None
    found: dict[str, Any] = {"spec": spec, "weights": weights}
    return found if adapter is None else found | {"adapter": sha256(adapter)}


def gguf_parts(path: Path) -> list[Path]:
    """All files of a model split as `NAME-00001-of-00003.gguf`; the file itself otherwise."""
    name = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.gguf", path.name)
    if not name:
        return [path]
    count = range(1, int(name[2]) + 1)
    return [path.with_name(f"{name[1]}-{number:05}-of-{name[2]}.gguf") for number in count]


def _hf(spec: str, rest: str) -> dict[str, Any]:
    try:
        from featherweight.engines import hf_open
        from featherweight.engines.hf_bank import BANK, TENSORS, is_bank, read_bank
    except ImportError as error:
        raise missing(error, "train") from None
    name, folder = rest, hf_open.model_folder(rest)
    own: dict[str, Any] = {}
    tokenizer = folder
    if hf_open.is_adapter(folder):
        adapter = folder
        hf_open.check_weights(name, adapter, "adapter", hf_open.ADAPTER_WEIGHTS)
        own["adapter"] = digest(adapter.glob(hf_open.ADAPTER_WEIGHTS))
        own["adapter_config"] = digest([adapter / "adapter_config.json"])
        name, folder = hf_open.adapter_base(name, adapter)
        own["base"] = name
        tokenizer = hf_open.tokenizer_folder(adapter, folder)
    elif is_bank(folder):
        own["bank"] = digest([folder / BANK, folder / TENSORS])
        name, folder = hf_open.bank_base(folder, read_bank(name, folder))
        own["base"], tokenizer = name, folder
    hf_open.check_weights(name, folder, "model", hf_open.WEIGHTS)
    return {
        "spec": spec,
        "weights": digest(folder.glob(hf_open.WEIGHTS)),
        "config": digest(_matching(folder, CONFIG)),
        "tokenizer": digest(_matching(tokenizer, TOKENIZER)),
    } | own


def _matching(folder: Path, patterns: Iterable[str]) -> set[Path]:
    return {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
