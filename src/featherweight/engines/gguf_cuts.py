"""How byte-level tokenizers cut text into words before they merge, by llama.cpp's names."""

from typing import Any

from tokenizers import Regex, pre_tokenizers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def known_cuts() -> dict[str, tuple[Any, bool]]:
    """Pre-tokenizers by llama.cpp's names, and whether merges go before whole words."""
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    llama3 = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    return {
        "smollm": (pre_tokenizers.Sequence([digits, gpt2]), True),
        "llama-bpe": (pre_tokenizers.Sequence([llama3, bytes_only]), False),
        "gpt-2": (gpt2, True),
    }
