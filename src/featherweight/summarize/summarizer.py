"""The main job: a transcript of any length in, a summary whose every point is checked out.

The strategies differ in what the model reads; all of them end the same way: points are taken from
what the model wrote, evidence is found for each, and the check decides what is supported.
"""

import time

from featherweight.engines.embedded import EMBEDDED_NAMES
from featherweight.engines.types import Engine
from featherweight.errors import EngineError, FeatherweightError, TranscriptError
from featherweight.retrieve import Locator
from featherweight.summarize.cues import quoted
from featherweight.summarize.language import looks_english
from featherweight.summarize.selection import select
from featherweight.summarize.strategies import STRATEGIES, Job, Progress, choose
from featherweight.summarize.types import Focus, Length, Point, Strategy, Summary
from featherweight.transcript import Transcript, clean


def summarize_transcript(
    transcript: Transcript,
    engine: Engine,
    *,
    query: str | None = None,
    length: Length = "medium",
    focus: Focus | None = None,
    strategy: Strategy | None = None,
    locator: Locator | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Summarise a meeting, or answer `query` about it.

    `strategy` is chosen from length, context and query unless given. Raises `FeatherweightError`
    where the arguments contradict each other and `EngineError` where the model answers nothing at
    all; a part that fails twice is counted in the result and named in its notes.
    """
    started = time.perf_counter()
    if query is not None and not query.strip():
        raise FeatherweightError("the query is empty; ask something, or leave it out.")
    if strategy == "locate" and query is None and focus is None:
        raise FeatherweightError("the strategy locate needs a query or a focus; add one.")
    job = Job(
        transcript=clean(transcript),
        engine=engine,
        query=query,
        length=length,
        focus=focus,
        progress=progress or (lambda stage, done, total: None),
        locator=locator,
    )
    if not any(turn.text.strip() for turn in job.transcript.turns):
        raise TranscriptError(f"{transcript.source}: no speech in it but noise; check the file.")
    chosen = strategy or choose(job)
    if chosen == "quotes":
        if focus is None:
            raise FeatherweightError("the strategy quotes needs a focus; add actions or decisions.")
        points, rejected = quoted(job.transcript, focus, job.most), 0
    else:
        reads = STRATEGIES[chosen](job)
        if len(job.failed) == job.chunks:
            first = job.failed[0]
            raise EngineError(f"no part of {transcript.source} could be summarised; {first}")
        points, rejected = select(job, reads)
    return Summary(
        text=" ".join(point.text for point in points),
        points=tuple(points),
        strategy=chosen,
        model=engine.name,
        chunks_total=job.chunks,
        chunks_failed=len(job.failed),
        prompt_tokens=job.prompt_tokens,
        completion_tokens=job.completion_tokens,
        seconds=time.perf_counter() - started,
        source=transcript.source,
        turns=len(transcript.turns),
        query=query,
        focus=focus,
        length=length,
        notes=tuple(_notes(job, chosen, points, rejected)),
    )


def _notes(job: Job, strategy: Strategy, points: list[Point], rejected: int) -> list[str]:
    """What the reader should know before trusting the summary."""
    notes: list[str] = []
    if job.failed:
        notes.append(f"{len(job.failed)} of {job.chunks} parts failed, wholly or partly.")
        notes += job.failed[:5]
    if len(job.failed) > 5:
        notes.append(f"{len(job.failed) - 5} more parts failed.")
    notes += job.notes
    answered = {model: count for model, count in job.answered.items() if count}
    if answered.keys() - {job.engine.name}:
        told = ", ".join(f"{model} {count}" for model, count in sorted(answered.items()))
        notes.append(f"answers by model: {told}.")
    if strategy == "truncate" and job.left_out:
        notes.append(
            f"the last {job.left_out} of {len(job.transcript.turns)} turns were not read, or not "
            "to their end."
        )
    if strategy in ("locate", "answer") and job.left_out:
        read = len(job.transcript.turns) - job.left_out
        notes.append(
            f"only the {read} turns that match best were read, of {len(job.transcript.turns)}."
        )
    if not job.engine.counts_tokens:
        notes.append(
            f"{job.engine.name} cannot count tokens, so the transcript was cut by a cautious "
            "estimate."
        )
    if job.engine.name in EMBEDDED_NAMES and not looks_english(
        " ".join(turn.text for turn in job.transcript.turns)
    ):
        notes.append(
            f"this transcript does not look English, and {job.engine.name} was made for English; "
            "expect a poor summary, or choose another model with --model."
        )
    if rejected and job.small:
        notes.append(f"{rejected} more of the model's sentences were checked and left out.")
    if strategy == "quotes":
        notes.append(
            "these are the speakers' own words, found by the phrases they use; "
            f"{job.engine.name} was not asked."
        )
    if not points:
        notes.append("nothing was found." if strategy == "quotes" else "the model made no point.")
    return notes
