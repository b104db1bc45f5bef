"""A byte-level BPE tokenizer as GGUF fields, refused unless llama.cpp reads text as it does.

llama.cpp does not read the pattern that cuts text into words before merging; it has a list of them
and a name for each. Its converter finds the name by a hash over the token ids of one text, which
only fits a known vocabulary. Here the cuts themselves are compared, on a text that tells the known
patterns apart, so that a vocabulary of one's own is recognised too.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featherweight.engines.gguf_cuts import known_cuts
from featherweight.engines.gguf_write import Field, field, fields_of
from featherweight.errors import EngineError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's token types

PROBE = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \r\n\r\n 🚀 (normal) 😶‍🌫️ ✅ 🦙🦙 3 33 333 3333 33333 333333 "
    "3.3 3..3 3...3 1,234,567.89 v2.0 x86_64 ½ ² Ⅷ ⅷⅷ ٣٤ ३४ កាន់តែពិសេស 諸橋漢和2024年 ไทย "
    "Größe naïve café e\u0301 ------======= нещо на Български ''''''``````\"\"\"\"......!!!!!!???? "
    "I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, I'D like SOME tea, We'Ve "
    "a'lL don'T __init__(self, *args): return {k: v for k in xs}\t# snake_case CamelCase CAPS "
    "O'Dea Jo'Sam d'REst l'VEry a'LLo m'Me x'Tom end.\n\nNext;\r\n(x)\n "
    "http://a.b/c?d=e&f=%20 a\u00a0b\u3000c \u200b end  \n\n\tlast   "
)


def tokenizer_fields(
    name: str, tokenizer: Any, rows: int, other_ends: Sequence[int] = ()
) -> dict[str, Field]:
    """`tokenizer.*` fields of a transformers tokenizer, for embeddings of `rows` rows.

    `other_ends` are ids that end an answer beside the tokenizer's own end token. Raises
    `EngineError` for every kind of tokenizer that llama.cpp would not read alike.
    """
    state = _byte_level_bpe(name, tokenizer)
    tokens, types = _tokens(name, tokenizer, state, rows)
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in state["model"]["merges"]
    ]
    found: dict[str, Any] = {
        "model": "gpt2",
        "pre": pre_tokenizer_name(name, tokenizer, state),
        "tokens": tokens,
        "token_type": types,
        "merges": merges,
        "add_space_prefix": False,
        **_specials(name, tokenizer, other_ends),
    }
    fields = {f"tokenizer.ggml.{key}": field(value) for key, value in found.items()}
    return fields | _templates(tokenizer)


def like_fields(like: Path, rows: int) -> dict[str, Field]:
    """The tokenizer and general metadata of another GGUF file, for embeddings of `rows` rows.

    Raises `EngineError` where it is no whole GGUF file or has another number of tokens.
    """
    import gguf

    from featherweight.engines.llama_cpp import check_gguf

    check_gguf(like)
    try:
        found = fields_of(gguf.GGUFReader(like))
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise EngineError(f"{like} is a damaged GGUF file ({error}); get it again.") from None
    tokens = found.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise EngineError(f"{like} has no tokenizer; give a GGUF file of a whole model to --like.")
    if len(tokens.value) != rows:
        raise EngineError(
            f"{like} has {len(tokens.value)} tokens, the model {rows} rows of embeddings; "
            "give a GGUF file of the same model to --like."
        )
    own = ("general.type", "general.alignment")
    return {
        key: one
        for key, one in found.items()
        if key.startswith(("tokenizer.", "general.")) and key not in own
    }


def pre_tokenizer_name(name: str, tokenizer: Any, state: dict[str, Any]) -> str:
    """llama.cpp's name for how the tokenizer cuts text into words: smollm, llama-bpe or gpt-2."""
    cuts = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(PROBE)
    merges_first = not state["model"].get("ignore_merges", False)
    for known, (pattern, known_merges_first) in known_cuts().items():
        if pattern.pre_tokenize_str(PROBE) == cuts and merges_first == known_merges_first:
            return known
    raise EngineError(
        f"{name} cuts text into words in a way that is none of {', '.join(known_cuts())}, the ones "
        "known here; give a GGUF file of the same model with --like FILE.gguf."
    )


def _byte_level_bpe(name: str, tokenizer: Any) -> dict[str, Any]:
    """What the tokenizer is made of; raises `EngineError` unless it is byte-level BPE."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused(name, f"a {type(tokenizer).__name__}, which is SentencePiece or Python code")
    state: dict[str, Any] = json.loads(backend.to_str())
    model = state["model"]
    if model["type"] != "BPE":
        raise _refused(name, f"a {model['type']} model")
    before = json.dumps([state["normalizer"], state["pre_tokenizer"]], ensure_ascii=False)
    if model.get("byte_fallback") or "Metaspace" in before or "▁" in before:
        raise _refused(name, "SentencePiece in BPE form")
    if state["normalizer"] is not None:
        raise _refused(name, f"one that changes text first ({state['normalizer']['type']})")
    if state["pre_tokenizer"] is None or "ByteLevel" not in before:
        raise _refused(name, "BPE, but not byte-level")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _refused(name, "BPE with marks inside or at the end of words")
    return state


def _refused(name: str, what: str) -> EngineError:
    return EngineError(
        f"{name} has a tokenizer that is {what}, and only byte-level BPE is written to GGUF here; "
        "give a GGUF file of the same model with --like FILE.gguf."
    )


def _tokens(
    name: str, tokenizer: Any, state: dict[str, Any], rows: int
) -> tuple[list[str], list[int]]:
    """Text and type of each of the `rows` ids; an id without a token is a placeholder."""
    by_id = {number: text for text, number in tokenizer.get_vocab().items()}
    if by_id and max(by_id) >= rows:
        raise EngineError(
            f"{name} has a token {by_id[max(by_id)]!r} with id {max(by_id)}, but only {rows} rows "
            "of embeddings; resize the model's embeddings first."
        )
    added = {}
    for one in state["added_tokens"]:
        if one["lstrip"] or one["rstrip"] or one["single_word"]:
            raise EngineError(
                f"{name} has an added token {one['content']!r} that takes spaces or whole words "
                "only, which GGUF cannot say; give a GGUF file of the same model with "
                "--like FILE.gguf."
            )
        added[one["id"]] = CONTROL if one["special"] else USER_DEFINED
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(rows)]
    types = [added.get(number, NORMAL if number in by_id else UNUSED) for number in range(rows)]
    return tokens, types


def _specials(name: str, tokenizer: Any, other_ends: Sequence[int]) -> dict[str, int | bool]:
    """Ids of special tokens, and whether texts get a beginning and an end, by trying it."""
    end = tokenizer.eos_token_id
    if end is None:
        # without one llama.cpp takes token 11 of GPT-2's vocabulary
        raise EngineError(
            f"{name} has a tokenizer without an end token, so that nothing would end an answer; "
            "set eos_token in tokenizer_config.json."
        )
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end,
        "unknown_token_id": tokenizer.unk_token_id,
        "padding_token_id": tokenizer.pad_token_id,
    }
    others = [number for number in other_ends if number != end]
    if len(others) > 2:
        raise EngineError(
            f"{name} has {1 + len(others)} end tokens in generation_config.json, and GGUF has room "
            "for 3; leave out those that the model never writes."
        )
    ids |= dict(zip(("eot_token_id", "eom_token_id"), others, strict=False))
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    first, last = [tokenizer.bos_token_id], [end]
    for begins, ends in ((False, False), (True, False), (False, True), (True, True)):
        if full == first * begins + bare + last * ends:
            break
    else:
        raise EngineError(
            f"{name} has a tokenizer that adds other tokens to a text than a beginning and an end, "
            "which GGUF cannot say; give a GGUF file of the same model with --like FILE.gguf."
        )
    found: dict[str, int | bool] = {key: int(one) for key, one in ids.items() if one is not None}
    return found | {"add_bos_token": begins, "add_eos_token": ends}


def _templates(tokenizer: Any) -> dict[str, Field]:
    """The chat template under its name; where there are several, each."""
    templates = getattr(tokenizer, "chat_template", None) or {}
    if isinstance(templates, str):
        templates = {"default": templates}
    found = {
        f"tokenizer.chat_template{'' if key == 'default' else '.' + key}": field(text)
        for key, text in templates.items()
    }
    named = sorted(key for key in templates if key != "default")
    return found | ({"tokenizer.chat_templates": field(named)} if named else {})
