"""The private way into llama.cpp's server in this process: a unix socket and a random key.

The socket lies in a folder that only this user may enter, and goes with it. Here go the small
questions that the in-process API cannot answer: the tokenizer and the chat template.
"""

import http.client
import os
import secrets
import socket
import tempfile
import threading
from typing import Any

import orjson

from featherweight.errors import EngineError


class PrivateSocket:
    """Where the server listens (`path`) and what it lets in (`key`); one question at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        # mode 0700; a socket's path may have about 100 bytes, which a long TMPDIR exceeds
        short = None if len(os.fsencode(tempfile.gettempdir())) < 70 else "/tmp"
        self._folder = tempfile.TemporaryDirectory(prefix="featherweight-", dir=short)
        self.path = f"{self._folder.name}/s.sock"
        self.key = secrets.token_urlsafe(24)
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer to a GET, or to a POST of `body`; an error of the server is raised."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else orjson.dumps(body)
        with self._lock:
            for last_try in (False, True):  # the server may have closed an idle connection
                if self._connection is None:
                    self._connection = _UnixConnection(self.path)
                try:
                    method = "GET" if data is None else "POST"
                    self._connection.request(method, path, data, headers)
                    reply = orjson.loads(self._connection.getresponse().read())
                    break
                except (OSError, http.client.HTTPException) as error:
                    self._connection.close()
                    self._connection = None
                    if last_try:
                        raise EngineError(
                            f"{self._name}: the llama.cpp server in this process stopped "
                            f"answering ({error}); start again."
                        ) from None
        if "error" in reply:
            reason = str(reply["error"].get("message", reply["error"])).rstrip(".")
            raise EngineError(f"{self._name}: {reason}.")
        return reply

    def close(self) -> None:
        """Close the connection and remove the folder; safe to call twice."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        self._folder.cleanup()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, kept alive."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
