"""What a learner observed since its state was written, a line a request: a killed run forgets none.

The file lies beside the state, as STATE.journal. Its first line names the state by its bytes. The
lines below another state's name are in the state already, which was written after them.
"""

from pathlib import Path

from featherweight.errors import CascadeError
from featherweight.files import output_errors


def journal_of(state: Path) -> Path:
    """Where the journal of the state at `state` is."""
    return state.with_name(f"{state.name}.journal")


def read_journal(state: Path, digest: str) -> list[bytes]:
    """The lines that came after the state with this sha256; one that was cut off is none."""
    path = journal_of(state)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CascadeError(
            f"cannot read {path}: {error.strerror or error}; make it readable, or remove it and "
            "with it the last answers' lessons."
        ) from None
    first, *lines = raw.split(b"\n")
    return lines[:-1] if first == digest.encode() else []


class Journal:
    """The open journal of the state at `state`, which has this sha256.

    A line is with the system when `add` returns, so that it outlives the process. Raises
    `OutputError` where it cannot be written, as its methods do.
    """

    def __init__(self, state: Path, digest: str) -> None:
        self._path = journal_of(state)
        with output_errors(self._path):
            self._file = self._path.open("wb")
        self.add(digest.encode())

    def add(self, line: bytes) -> None:
        """One line more, given without its end."""
        with output_errors(self._path):
            self._file.write(line + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
