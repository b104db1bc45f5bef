"""Where a server is and the key that it gets: read once, checked, in no message."""

import os
from urllib.parse import urlsplit

from featherweight.errors import EngineError

KEY_VARIABLES = ("FEATHERWEIGHT_API_KEY", "OPENAI_API_KEY")


def base_url(url: str) -> str:
    """The URL with /v1 and without a trailing slash; refuses what cannot be right."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
    except ValueError:
        raise EngineError(
            f"openai:{url} is not a web address; write openai:http://HOST:PORT#MODEL."
        ) from None
    if parts.username is not None or parts.password is not None:
        raise EngineError(
            f"openai: the URL of {parts.hostname} holds a user name or password; put the key in "
            f"{KEY_VARIABLES[0]} instead."
        )
    try:
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good:
        raise EngineError(
            f"openai:{url} is not a web address; write openai:http://HOST:PORT#MODEL."
        )
    if parts.query:
        raise EngineError(
            f"openai:{parts.scheme}://{parts.netloc}{parts.path} has a query after it, which is "
            "not supported; give the plain address of the API."
        )
    path = parts.path.rstrip("/")
    for ending in ("/chat/completions", "/completions", "/models"):
        path = path.removesuffix(ending)
    if not path:
        path = "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def read_key() -> str | None:
    for variable in KEY_VARIABLES:
        key = os.environ.get(variable, "").strip()
        if key:
            if not (key.isascii() and key.isprintable()):
                raise EngineError(f"the key in {variable} has characters no key has; set it again.")
            return key
    return None
