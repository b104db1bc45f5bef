"""Errors a person can act on.

Every message is one sentence: what is wrong, where, and what to do next. The command line prints
the message alone; anything that is not a `FeatherweightError` is a bug and keeps its traceback.
"""


class FeatherweightError(Exception):
    """Base of every error that the user's input or surroundings can cause."""


class TranscriptError(FeatherweightError):
    """A file that is not a transcript we can read, or holds no speech."""


class DataError(FeatherweightError):
    """A file of rows (task data, predictions, references) that is not what it should be."""


class EngineError(FeatherweightError):
    """A model that cannot be opened, or an engine that cannot do what is asked."""


class UnknownModelError(EngineError):
    """A model spec that names no kind of engine: wrong usage, not a failure."""


class ContextLengthError(EngineError):
    """Prompt and answer do not fit the model's context; the message names both numbers."""

    def __init__(
        self, model: str, prompt_tokens: int, max_tokens: int, context_length: int
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.context_length = context_length
        super().__init__(
            f"{model}: the prompt has {prompt_tokens} tokens and the answer may take {max_tokens} "
            f"more, but the model's context holds {context_length}; shorten the prompt or split it."
        )


class CompressError(FeatherweightError):
    """A cut that a model does not allow: a structure we do not know, more layers than it has."""


class RepairError(FeatherweightError):
    """Prompts that do not fit together, or a repair that lacks what it needs."""


class TrainingError(FeatherweightError):
    """A training that cannot begin or go on: its settings, data, teacher or loss."""


class CascadeError(FeatherweightError):
    """A cascade that cannot be calibrated or run: its log, its rule, or what a stage tells."""


class OutputError(FeatherweightError):
    """A result that cannot be written where it was asked for."""
