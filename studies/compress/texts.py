"""What compression is calibrated on and what is healed with: never a test file.

- calibrate: WikiText-2's validation articles and meetings of QMSum's train split, half and half
- val: what QMSum perplexity is measured on, meetings of the val split
"""

from pathlib import Path

from featherweight.tasks import Example, Task, load_task

CALIBRATED = 40  # of the 60 validation articles; the others choose (studies/repair)
WORDS = 500
CHARACTERS = 8000  # of a meeting of val: 35 of them are 70,000 tokens


def articles(data: Path, first: int, last: int | None) -> list[str]:
    task = load_task("wikitext2", data, split="val")
    return [example.target or "" for example in task.examples[first:last]]


def meetings(data: Path, split: str) -> list[str]:
    return list(load_task("qmsum", data, split=split, words=1).sources.values())


def calibration(data: Path) -> Task:
    """Both halves equally long: sequences taken at even distances are half and half."""
    wiki = pieces(articles(data, 0, CALIBRATED))
    said = pieces(meetings(data, "train"))[: len(wiki)]
    return _task("calibrate", [*wiki, *said])


def qmsum_val(data: Path, limit: int | None) -> Task:
    """Meetings as running text, to measure perplexity on."""
    return _task("qmsum-val", [text[:CHARACTERS] for text in meetings(data, "val")][:limit])


def pieces(texts: list[str], words: int = WORDS) -> list[str]:
    found = []
    for text in texts:
        said = text.split(" ")
        found += [" ".join(said[i : i + words]) for i in range(0, len(said) - words + 1, words)]
    return found


def _task(name: str, texts: list[str]) -> Task:
    rows = tuple(
        Example(f"{name}/{i}", "", text, group=str(i), meta=_sizes(text))
        for i, text in enumerate(texts)
    )
    return Task(name, "text", rows, settings={"study": "compress"})


def _sizes(text: str) -> dict[str, int]:
    return {"words": len(text.split()), "bytes": len(text.encode())}
