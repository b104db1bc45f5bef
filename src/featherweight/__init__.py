"""featherweight: compact language models that do a large model's work, and the proof.

The names below are the public interface. Each is imported when it is first used, so importing the
package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featherweight.engines import Engine, Generation, Message, Request, load_engine
    from featherweight.errors import (
        CompressError,
        ContextLengthError,
        DataError,
        EngineError,
        FeatherweightError,
        OutputError,
        TranscriptError,
        UnknownModelError,
    )
    from featherweight.retrieve import BM25Locator, Locator, open_locator
    from featherweight.summarize import (
        Evidence,
        EvidenceFinder,
        Point,
        Summary,
        summarize_transcript,
    )
    from featherweight.tasks import Example, Task, load_task
    from featherweight.transcript import (
        Transcript,
        Turn,
        clean,
        parse_transcript,
        read_transcript,
    )

__version__ = "0.1.0"

__all__ = [
    "BM25Locator",
    "CompressError",
    "ContextLengthError",
    "DataError",
    "Engine",
    "EngineError",
    "Evidence",
    "EvidenceFinder",
    "Example",
    "FeatherweightError",
    "Generation",
    "Locator",
    "Message",
    "OutputError",
    "Point",
    "Request",
    "Summary",
    "Task",
    "Transcript",
    "TranscriptError",
    "Turn",
    "UnknownModelError",
    "__version__",
    "clean",
    "load_engine",
    "load_task",
    "open_locator",
    "parse_transcript",
    "read_transcript",
    "summarize_transcript",
]

# the light ones first
_ROOMS = ("errors", "transcript", "engines", "retrieve", "tasks", "summarize")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for room in _ROOMS:
            found = getattr(import_module(f"{__name__}.{room}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
