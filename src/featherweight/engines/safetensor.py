"""safetensors tells a full disk in its own way."""

import contextlib
from collections.abc import Iterator

from safetensors import SafetensorError


@contextlib.contextmanager
def safetensor_errors() -> Iterator[None]:
    """What it raises when it writes becomes the `OSError` that it stands for."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(" ".join(str(error).split())[:200]) from error
