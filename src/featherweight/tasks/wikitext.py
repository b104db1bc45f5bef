"""WikiText-2 (Merity et al. 2016): running text for perplexity.

Two numbers go by that name, and they are not comparable, so they are two tasks:

- `wikitext2`: word-level, as lm-evaluation-harness counts it: each article is detokenised and
  scored whole, the sum of log-probabilities is divided by the words of the original text (pieces
  between white space; the empty ones at both ends of an article count too, two in about 3,600);
- `wikitext2-tokens`: token-level, as the compression papers count it: the whole file in chunks of
  2,048 tokens, the first token of a chunk not scored, what is left over at the end dropped.

Both the harness and those papers read the raw release. In the files of `SOURCE` rare words are
`<unk>`, so figures from them compare with each other only; the raw file under the same name gives
the published ones.
"""

import gzip
import re
import zlib
from itertools import pairwise
from pathlib import Path

from featherweight.errors import DataError
from featherweight.files import sha256
from featherweight.tasks.types import Example, Task

SOURCE = (
    "WikiText-2 is at github.com/pytorch/examples, word_language_model/data/wikitext-2 "
    "(text CC BY-SA): put valid.txt and test.txt into DIR/wikitext2"
)
_TITLE = re.compile(r"^ ?= [^=\n]+ = ?$", re.MULTILINE)
# in the harness's order: a rule may undo what one before it made
_BEFORE = (
    ("s '", "s'"),
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
)
_PAIRS = (
    (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
)
_AFTER = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def wikitext(
    name: str,
    data: Path,
    split: str = "val",
    limit: int | None = None,
    prefix: int | None = None,
) -> Task:
    """The articles of `split` as examples, or the whole file as one for token-level perplexity.

    `target` is the text to score, `meta["words"]` and `meta["bytes"]` count the original. `limit`
    takes the first articles, or the first chunks. `prefix` tokens of each chunk are read and not
    scored. Raises `DataError` where the file is missing and says where it comes from.
    """
    path = _file(data, split)
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}); get the file again.") from None
    found = [text] if name == "wikitext2-tokens" else articles(text)
    pages = [page for page in found if page.strip()]
    examples = [
        Example(
            id=f"{split}/{number}",
            prompt="",
            target=page if name == "wikitext2-tokens" else detokenised(page),
            meta={"words": len(re.split(r"\s+", page)), "bytes": len(page.encode())},
        )
        for number, page in enumerate(pages[:limit])
    ]
    if not examples:
        raise DataError(f"{path}: no text of WikiText in it; get the file again.")
    return Task(
        name=name,
        kind="text",
        examples=tuple(examples),
        settings={
            "split": split,
            "limit": limit,
            **({} if prefix is None else {"prefix": prefix}),
            "data_sha256": sha256(path),
        },
    )


def _file(data: Path, split: str) -> Path:
    stem = "valid" if split == "val" else split
    for name in (f"{stem}.txt.gz", f"{stem}.txt"):
        if (path := data / "wikitext2" / name).is_file():
            return path
    raise DataError(f"{data / 'wikitext2'} holds no {stem}.txt or {stem}.txt.gz; {SOURCE}.")


def articles(text: str) -> list[str]:
    """The file cut before each title of the first level (` = Title = `)."""
    starts = [found.start() for found in _TITLE.finditer(text)]
    return [text[a:b] for a, b in pairwise([*starts, len(text)])]


def detokenised(text: str) -> str:
    """The text as it was before WikiText's tokeniser, by the harness's rules: headings keep `=`."""
    for old, new in _BEFORE:
        text = text.replace(old, new)
    for pattern, new in _PAIRS:
        text = re.sub(pattern, new, text)
    for old, new in _AFTER:
        text = text.replace(old, new)
    return text
