"""From what people type after --model to what answers: one model, or a cascade of several.

Imports wait until they are needed: one model must not cost the time that a cascade takes to import.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.errors import UnknownModelError

if TYPE_CHECKING:
    from featherweight.engines import Engine

CASCADE = "cascade:"


def open_model(spec: str) -> "Engine":
    """Open any spec: those of `load_engine`, and `cascade:DIR`.

    Raises as `load_engine` and `open_cascade` do.
    """
    folder = _folder(spec)
    if folder is not None:
        from featherweight.cascade.open import open_cascade

        return open_cascade(folder)
    from featherweight.engines import load_engine

    return load_engine(spec)


def model_identity(spec: str) -> dict[str, Any]:
    """What `spec` stands for on this machine, for manifests; raises as `open_model` does."""
    folder = _folder(spec)
    if folder is not None:
        from featherweight.cascade.open import cascade_identity

        return cascade_identity(folder)
    from featherweight.engines.identity import identity

    return identity(spec)


def _folder(spec: str) -> Path | None:
    """The folder of a cascade, `None` for any other spec."""
    spec = spec.strip()
    if not spec.startswith(CASCADE):
        return None
    if not spec.removeprefix(CASCADE):
        raise UnknownModelError(f"{spec} names no folder; write cascade:DIR.")
    return Path(spec.removeprefix(CASCADE))
