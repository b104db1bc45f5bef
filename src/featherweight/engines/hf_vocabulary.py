"""What a tokenizer's ids mean: the bytes of each token, which ones end an answer, which control.

Decoding token by token is wrong where a character is split, so the two vocabularies in use are
read directly: byte-level BPE, and SentencePiece with its byte fallback.
"""

import json
from collections.abc import Callable
from typing import Any

from featherweight.errors import EngineError


class Vocabulary:
    """The ids of one tokenizer. `end` are the tokens that end an answer of this model.

    `words_begin_with_space` is true of SentencePiece, whose first word carries a space that is
    not text. `control` are the tokens that a template writes and a text must not contain; the
    unknown token is none, since any strange character is read as it.
    """

    def __init__(self, tokenizer: Any, end: frozenset[int], name: str) -> None:
        added = tokenizer.added_tokens_decoder
        self.end = end
        self.special = end.union(
            tokenizer.all_special_ids, (i for i, token in added.items() if token.special)
        )
        self.control: dict[int, str] = {
            i: token.content
            for i, token in added.items()
            if i != tokenizer.unk_token_id
            and (i in self.special or (token.content[:1], token.content[-1:]) == ("<", ">"))
        }
        self._tokenizer = tokenizer
        self._added: dict[int, str] = {i: token.content for i, token in added.items()}
        kinds = _decoders(tokenizer)
        self._bytes_of_piece: Callable[[str], bytes]
        if "ByteLevel" in kinds:
            self._bytes_of_piece = _byte_level
        elif kinds & {"Metaspace", "ByteFallback", "Replace"}:
            self._bytes_of_piece = _sentence_piece
        else:
            raise EngineError(
                f"{name}: its tokenizer is neither byte-level BPE nor SentencePiece, so the bytes "
                "of a token are not known; save the model with a fast tokenizer (tokenizer.json)."
            )
        self.words_begin_with_space = "ByteLevel" not in kinds

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token stands for, of a control token its name."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        # ids beyond the vocabulary are padding of the model's table
        return b"" if piece is None else self._bytes_of_piece(piece)


def _decoders(tokenizer: Any) -> set[str]:
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    return {part["type"] for part in state.get("decoders", [state])}


def _byte_level_table() -> dict[str, bytes]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): bytes([byte]) for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return table | {chr(256 + i): bytes([byte]) for i, byte in enumerate(others)}


BYTE_LEVEL = _byte_level_table()


def _byte_level(piece: str) -> bytes:
    return b"".join(BYTE_LEVEL.get(char) or char.encode() for char in piece)


def _sentence_piece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:5])
    return piece.replace("\u2581", " ").encode()
