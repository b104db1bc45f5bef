"""From a spec, the short form that people type, to an engine; only that engine is imported."""

import contextlib
import difflib
from pathlib import Path
from typing import Any, Literal

from featherweight.engines import embedded
from featherweight.engines.embedded import EMBEDDED, EMBEDDED_NAMES, MEETINGS
from featherweight.engines.types import Engine
from featherweight.errors import EngineError, UnknownModelError

Kind = Literal["embedded", "gguf", "hf", "openai"]
KINDS: tuple[Kind, ...] = ("gguf", "hf", "openai")  # the ones that a spec says before its colon
FORMS = (
    f"{', '.join(EMBEDDED_NAMES)}, gguf:PATH or gguf:PATH+ADAPTER, hf:DIR or hf:OWNER/NAME, "
    "openai:URL#MODEL"
)


def load_engine(spec: str = EMBEDDED, **settings: Any) -> Engine:
    """Open the engine that `spec` names; `settings` go to its constructor as they are.

    Without one it is the untuned embedded model; `featherweight summarize` takes
    smollm2-135m-meetings.

    Raises `UnknownModelError` for a spec that means nothing, `EngineError` for a model that cannot
    be opened and for a package that is not installed.
    """
    kind, rest = parse(spec)
    if kind == "embedded":
        return _embedded(rest, settings)
    if kind == "gguf":
        return _gguf(rest, settings)
    if kind == "hf":
        return _transformers(rest, settings)
    from featherweight.engines.openai import OpenAIEngine

    url, _, model = rest.partition("#")
    return OpenAIEngine(url, model, **settings)


def parse(spec: str) -> tuple[Kind, str]:
    """What kind of engine `spec` names, and what of it; raises `UnknownModelError` for neither."""
    spec = spec.strip()
    if spec in EMBEDDED_NAMES:
        return "embedded", spec
    for kind in KINDS:
        if spec.startswith(f"{kind}:"):
            if rest := spec.removeprefix(f"{kind}:"):
                return kind, rest
            raise UnknownModelError(f"{spec} names no model; the forms are {FORMS}.")
    raise UnknownModelError(f"{spec!r} is no engine;{_hint(spec)} the forms are {FORMS}.")


def gguf_paths(rest: str) -> tuple[Path, Path | None]:
    """Model and adapter of `PATH` or `PATH+ADAPTER`; plus signs may be in the files' own names."""
    if Path(rest).expanduser().exists():
        return Path(rest).expanduser(), None
    pluses = [at for at, letter in enumerate(rest) if letter == "+"] or [len(rest)]
    at = next((at for at in pluses if Path(rest[:at]).expanduser().is_file()), pluses[0])
    path, adapter = rest[:at], rest[at + 1 :]
    return Path(path).expanduser(), Path(adapter).expanduser() if adapter else None


def _hint(spec: str) -> str:
    """What the spec was probably meant to be."""
    path = Path(spec)
    with contextlib.suppress(RuntimeError):  # ~nobody
        path = path.expanduser()
    if spec.lower().endswith(".gguf"):
        return f" did you mean gguf:{spec}?"
    if spec and path.is_dir():
        return f" did you mean hf:{spec}?"
    if spec.startswith(("http://", "https://")):
        return f" did you mean openai:{spec}{'' if '#' in spec else '#MODEL'}?"
    kind, colon, rest = spec.partition(":")
    if colon and (near := difflib.get_close_matches(kind.lower(), KINDS, 1, 0.5)):
        return f" did you mean {near[0]}:{rest}?"
    if near := difflib.get_close_matches(spec.lower(), EMBEDDED_NAMES, 1, 0.6):
        return f" did you mean {near[0]}?"
    if spec.count("/") == 1 and not colon:
        return f" did you mean hf:{spec}?"
    return ""


def _embedded(name: str, settings: dict[str, Any]) -> Engine:
    # It is given short texts, many at once: more slots, each with a smaller context.
    settings = {"parallel": 8, "context_length": 2048, **settings}
    engine = _llama_cpp()
    adapter = embedded.meetings_adapter() if name == MEETINGS else None
    return engine(  # type: ignore[no-any-return]
        embedded.embedded_model(), name=name, adapter=adapter, **settings
    )


def _gguf(rest: str, settings: dict[str, Any]) -> Engine:
    path, adapter = gguf_paths(rest)
    engine = _llama_cpp()
    return engine(path, name=f"gguf:{rest}", adapter=adapter, **settings)  # type: ignore[no-any-return]


def _llama_cpp() -> Any:
    try:
        from featherweight.engines.llama_cpp import LlamaCppEngine
    except ImportError as error:
        raise missing(error, "local") from None
    return LlamaCppEngine


def _transformers(rest: str, settings: dict[str, Any]) -> Engine:
    try:
        from featherweight.engines.transformers import TransformersEngine
    except ImportError as error:
        raise missing(error, "train") from None
    return TransformersEngine.open(rest, **settings)


def missing(error: ImportError, extra: str) -> EngineError:
    """What to run where a package of an extra is not installed."""
    return EngineError(
        f"this engine needs a package that is not installed ({error.name or error}); "
        f"run `pip install 'featherweight[{extra}]'`."
    )
