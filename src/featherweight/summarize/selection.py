"""Which of the points that were written are shown: those the transcript supports, first."""

from collections.abc import Iterable

from featherweight.retrieve.terms import terms
from featherweight.summarize.actions import stated_only
from featherweight.summarize.evidence import EvidenceFinder
from featherweight.summarize.points import dangling, shortenings
from featherweight.summarize.strategies import Job, Read
from featherweight.summarize.types import Point

DETAILED = 8
"""Different content words from which a point counts as detailed."""

DANGLING = 0.5
"""What a sentence is worth less that a reader of it alone cannot place: as much as all detail."""

UNSURE = 3
"""Points shown, marked, where none is supported."""


def select(job: Job, reads: list[Read]) -> tuple[list[Point], int]:
    """The points to show, in the order of the meeting, and how many checked ones are not shown.

    A capable model was asked for the points it thinks best, and one tuned on questions answers in
    sentences that follow one another: all are shown, up to the number wanted where one text was
    read at once, and the check marks what it cannot support. Otherwise there are more sentences
    than are wanted, most of a small model's poor: each stretch of the meeting gives its best, then
    the best of all fill up. Unsupported sentences of a small model are shown only where there is
    nothing better.
    """
    finder = EvidenceFinder(job.transcript)
    checked: list[tuple[float, int, Point]] = []  # in the order of the meeting
    total = sum(len(read.points) for read in reads)
    for order, read in enumerate(reads):
        for text in read.points:
            value, point = _checked(job, finder, text)
            checked.append((value, order, point))
            job.progress("checking", len(checked), total)
    if not job.doubted and len(reads) == 1:
        shown = [point for _, _, point in checked[: job.most]]
        return shown, len(checked) - len(shown)
    wanted = job.most
    if job.doubted:
        supported = [item for item in checked if item[2].supported]
        wanted = wanted if supported else UNSURE
        candidates = supported or checked
    else:
        candidates = checked
    ranked = sorted(candidates, key=lambda item: (-item[2].supported, -item[0]))
    chosen: list[Point] = []

    def best_new(items: Iterable[tuple[float, int, Point]]) -> None:
        """The first of `items` that says something else than those chosen before."""
        for _, _, point in items:
            if not any(_alike(point, other) for other in chosen):
                chosen.append(point)
                return

    for stretch in range(wanted):
        best_new(item for item in ranked if item[1] * wanted // len(reads) == stretch)
    for _ in range(wanted - len(chosen)):
        best_new(ranked)
    shown = [point for _, _, point in checked if any(point is other for other in chosen)]
    return shown, len(checked) - len(shown)


def _checked(job: Job, finder: EvidenceFinder, text: str) -> tuple[float, Point]:
    """What a point is worth, and the point with its evidence and the verdict.

    Of a doubted sentence the longest beginning that is supported nearly as well as the best one
    stands for the whole. Worth is support and detail ("they discussed the design" is true of every
    meeting), and that it stands alone.
    """
    found = []
    for version in shortenings(text) if job.doubted else [text]:
        evidence = finder.find(version)
        support = finder.check(version, evidence)
        found.append((support, Point(version, support.supported, evidence, support.reasons)))
    best = max(support.score for support, _ in found)
    good = [item for item in found if item[0].supported and item[0].score > 0.9 * best]
    support, point = good[0] if good else found[0]
    if job.focus == "actions" and job.query is None:
        point = stated_only(point, job.transcript)
    detail = min(1.0, len(set(terms(point.text))) / DETAILED)
    return support.score + 0.5 * detail - DANGLING * dangling(point.text), point


def _alike(one: Point, other: Point) -> bool:
    """Whether two points say the same: more than half of the shorter one's words are shared."""
    a, b = set(terms(one.text)), set(terms(other.text))
    return 2 * len(a & b) > min(len(a), len(b))
