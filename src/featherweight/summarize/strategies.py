"""What the model reads, and how: each strategy gives the points written about each part read.

No strategy here loses text in silence: chunks cover every turn they were given, a request that
fails is made once more, and what still fails is counted and named.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from featherweight.engines.embedded import MEETINGS
from featherweight.engines.types import Engine, Generation, Message, Prompt, Request
from featherweight.retrieve import BM25Locator, Locator, pack, windows
from featherweight.summarize import prompts
from featherweight.summarize.chunks import Chunk, Piece, cut, render
from featherweight.summarize.cues import weight
from featherweight.summarize.points import distinct, finished_sentence, listed_points
from featherweight.summarize.types import Focus, Length, Strategy
from featherweight.tasks.qmsum import MAX_TOKENS, located, prompt, turn_lines
from featherweight.transcript import Transcript

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and of how much."""

SMALL = 500_000_000
"""Models with fewer parameters finish sentences instead of writing lists (see `prompts`)."""

SMALL_CHUNK = 520
"""Tokens of transcript that a small model reads at once, at most."""

LEAST_CHUNK = 128
"""A short meeting is cut finer, so that there is a part for every point, but not below this."""

ANSWER = {"short": 160, "medium": 320, "long": 640}
"""Tokens that a list of points may take."""

SENTENCE = 56
"""Tokens that one finished sentence may take."""

SENTENCE_ENDS = ("\n", ". ", "? ", "! ")
"""Where a small model is stopped: only its first sentence is of use."""

LOCATED_CHUNKS = 6
"""Chunks that a small model reads for a question."""

TUNED_WORDS = 600
"""Words of a meeting that the tuned model was shown with each question (studies/tiny_titans)."""

PART = 96
"""Tokens that it may write about a part where there is no question: a few sentences."""

Asking = Callable[[Chunk], list[tuple[Request, str | None]]]
"""The requests for one chunk, each with the beginning that the answer continues."""

Ask = Callable[[str, str | None, Focus | None, int], list[Message]]
"""A prompt of `prompts`: notes, query, focus, number of points."""


@dataclass(slots=True)
class Job:
    """One summary in the making: what was asked, and what it has cost so far."""

    transcript: Transcript
    engine: Engine
    query: str | None
    length: Length
    focus: Focus | None
    progress: Progress
    locator: Locator | None
    chunks: int = 0
    failed: list[str] = field(default_factory=list)  # what failed and why, one entry a chunk
    prompt_tokens: int = 0
    completion_tokens: int = 0
    answered: Counter[str] = field(default_factory=Counter)  # answers by model: a cascade has two
    left_out: int = 0  # turns that the strategy does not read
    notes: list[str] = field(default_factory=list)
    trusted: bool = False  # a small model answers as it was tuned to

    @property
    def small(self) -> bool:
        return self.engine.params is not None and self.engine.params < SMALL

    @property
    def doubted(self) -> bool:
        """Whether what the check cannot support is cut short or left out, not only marked."""
        return self.small and not self.trusted

    @property
    def most(self) -> int:
        return prompts.POINTS[self.length]

    def spend(self, answer: Generation) -> None:
        """Add what an answer cost."""
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens

    def count(self, prompt: Prompt) -> int:
        """Tokens of a prompt; where the engine cannot count, more than it will have.

        Two bytes a token and 16 tokens a message is above what tokenizers make of the languages
        that people hold meetings in; a server that still finds it too long says so.
        """
        if self.engine.counts_tokens:
            return self.engine.count_tokens(prompt)
        texts = [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt]
        return sum(16 + len(text.encode()) // 2 for text in texts)

    def fits(self, request: Request) -> bool:
        """Whether prompt and answer can be read and written at once."""
        return self.count(request.prompt) + request.max_tokens <= self.engine.context_length


def choose(job: Job) -> Strategy:
    """The default strategy.

    A small model is not trusted to word tasks and decisions: they are quoted. One that was tuned on
    questions about meetings is asked as it was taught. What fits is read whole. A question reads
    only what matters. Longer meetings go by chapters: their points are then one level away from the
    transcript, while merging notes of notes drifts.
    """
    if job.small and job.focus and job.query is None:
        return "quotes"
    if job.engine.name == MEETINGS:
        return "answer"
    whole = [turn for turn in job.transcript.turns if turn.text]
    text = "\n".join(f"{turn.speaker}: {turn.text}" for turn in whole)
    # No tokenizer makes one token of 16 characters of speech: a long text is not even counted.
    if len(text) < 16 * job.engine.context_length and _fits(job)(text):
        return "single"
    if job.small:
        return "locate" if job.query else "chapters"
    return "locate" if job.query else "map-reduce"


# -- strategies: each gives candidate points, one list for each part that was read ---------------


@dataclass(frozen=True, slots=True)
class Read:
    """What the model wrote about one part, as separate points."""

    name: str
    points: list[str]


def _single(job: Job) -> list[Read]:
    turns = job.transcript.turns
    pieces = tuple(Piece(number, 0, len(turn.text)) for number, turn in enumerate(turns))
    return _read(job, [Chunk(pieces, render(job.transcript, pieces))])


def _truncate(job: Job) -> list[Read]:
    first, *rest = (chunk for chunk in cut(job.transcript, _fits(job)) if chunk.text)
    # A turn that the cut goes through was not read to its end: it counts too.
    job.left_out = len({turn for chunk in rest for turn in chunk.turns})
    return _read(job, [first])


def _chapters(job: Job) -> list[Read]:
    return _read(job, cut(job.transcript, _fits(job), by_topic=True))


def _map_reduce(job: Job) -> list[Read]:
    return _merge(job, _read(job, cut(job.transcript, _fits(job))), prompts.merging)


def _resummarise(job: Job) -> list[Read]:
    return _merge(job, _chapters(job), prompts.merging)


def _rewrite(job: Job) -> list[Read]:
    return _merge(job, _chapters(job), prompts.rewriting)


def _locate(job: Job) -> list[Read]:
    turns = _located(job)
    job.left_out = len(job.transcript.turns) - len(turns)
    return _read(job, cut(job.transcript, _fits(job), turns))


def _answer(job: Job) -> list[Read]:
    """Asked as training on QMSum did: a paragraph on what is found for a question, or on each part.

    Several sentences come of each part, so parts are as long as they were in training.
    """
    words, chosen = TUNED_WORDS, None
    if job.query is None:
        each = sum(len(turn.text.split()) for turn in job.transcript.turns) // job.most
        words = min(words, max(LEAST_CHUNK, each))
    else:
        turns = turn_lines(job.transcript)
        chosen = located(turns, job.query, words, locator=job.locator)
        job.left_out = len(turns) - len(chosen)
        job.trusted = True  # an answer, to be read as a whole

    def fits(text: str) -> bool:
        return len(text.split()) <= words and job.fits(_paragraph(job, text))

    chunks = cut(job.transcript, fits, chosen, by_topic=chosen is None)
    return _read(job, chunks, lambda chunk: [(_paragraph(job, chunk.text), None)])


STRATEGIES: dict[str, Callable[[Job], list[Read]]] = {
    "single": _single,
    "truncate": _truncate,
    "map-reduce": _map_reduce,
    "chapters": _chapters,
    "chapters-resummarise": _resummarise,
    "chapters-rewrite": _rewrite,
    "locate": _locate,
    "answer": _answer,
}


# -- reading ---------------------------------------------------------------------------------------


def _fits(job: Job) -> Callable[[str], bool]:
    """Whether an excerpt, with its instruction and room for the answer, can be read at once."""
    if not job.small:
        return lambda text: job.fits(_listing(job, text))
    # Several questions are asked about each excerpt. Instead of counting them all for each text
    # that is tried, the longest is counted once, with some tokens to spare where it is joined.
    asked = prompts.beginnings("", job.query, job.focus)
    around = max(job.count(messages) for messages, _ in asked) + SENTENCE + 16
    most = min(_chunk_size(job), job.engine.context_length - around)
    return lambda text: job.count(text) <= most


def _chunk_size(job: Job) -> int:
    """Tokens a small model reads at once: a short meeting is cut into a part for every point."""
    if job.query:
        return SMALL_CHUNK
    whole = job.count("\n".join(turn.text for turn in job.transcript.turns))
    return max(LEAST_CHUNK, min(SMALL_CHUNK, whole // job.most))


def _read(job: Job, chunks: list[Chunk], ask: Asking | None = None) -> list[Read]:
    """Have every chunk read, many at a time; failures are retried once, then recorded."""
    chunks = [chunk for chunk in chunks if chunk.text]  # turns of noise only leave nothing to read
    ask = ask or (lambda chunk: _ask(job, chunk))
    asked = [(number, *each) for number, chunk in enumerate(chunks) for each in ask(chunk)]
    job.chunks += len(chunks)
    answers = _generate(job, "reading", [request for _, request, _ in asked], len(chunks))
    reads = []
    for number, group in groupby(zip(asked, answers, strict=True), key=lambda pair: pair[0][0]):
        name = _name(chunks[number])
        pairs = [(beginning, answer) for (_, _, beginning), answer in group]
        points = _points(pairs, unfinished=not job.doubted)
        if errors := [answer.error for _, answer in pairs if answer.error]:
            job.failed.append(f"{name}: {errors[0]}")
        elif not any(answer.text.strip() for _, answer in pairs):
            job.failed.append(f"{name}: {job.engine.name} answered nothing.")
        reads.append(Read(name, points))
    return reads


def _ask(job: Job, chunk: Chunk) -> list[tuple[Request, str | None]]:
    """The requests for one chunk, each with the beginning that the answer continues."""
    if job.small:
        return [
            (Request(messages, max_tokens=SENTENCE, stop=SENTENCE_ENDS), beginning)
            for messages, beginning in prompts.beginnings(chunk.text, job.query, job.focus)
        ]
    return [(_listing(job, chunk.text), None)]


def _paragraph(job: Job, text: str) -> Request:
    """In the manner of training; greedy, a small model would run in circles.

    A server cannot be told to block that.
    """
    messages = prompt(text, job.query or prompts.QUESTIONS[job.focus])
    no_repeat = 0 if job.engine.params is None else 3
    return Request(messages, max_tokens=MAX_TOKENS if job.query else PART, no_repeat=no_repeat)


def _listing(job: Job, text: str) -> Request:
    messages = prompts.listing(text, job.query, job.focus, job.most)
    return Request(messages, max_tokens=ANSWER[job.length])


def _points(pairs: Sequence[tuple[str | None, Generation]], unfinished: bool = True) -> list[str]:
    found: list[str] = []
    for beginning, answer in pairs:
        cut_off = answer.finish_reason == "length"
        if answer.error:
            continue
        if beginning is None:
            found += listed_points(answer.text, cut_off, unfinished)
        elif sentence := finished_sentence(beginning, answer.text, cut_off):
            found.append(sentence)
    return distinct(found)


def _generate(job: Job, stage: str, requests: list[Request], parts: int) -> list[Generation]:
    """All answers, in order; what failed or came back empty is asked once more."""
    answers: list[Generation] = []
    job.progress(stage, 0, parts)
    for answer in job.engine.generate(requests):
        answers.append(answer)
        job.progress(stage, parts * len(answers) // len(requests), parts)
    again = [i for i, answer in enumerate(answers) if answer.error or not answer.text.strip()]
    # The same greedy request would be empty again, so an empty answer is sampled the second time.
    retries = [
        requests[i] if answers[i].error else replace(requests[i], temperature=0.7, seed=1)
        for i in again
    ]
    for i, answer in zip(again, job.engine.generate(retries) if retries else (), strict=True):
        if answer.error and not answers[i].error:
            continue  # an engine that samples nothing (a cascade) leaves an empty answer empty
        job.spend(answers[i])
        answers[i] = answer
    for answer in answers:
        job.spend(answer)
        job.answered[answer.model] += not answer.error
    _note_cut_prompts(job, requests, answers)
    return answers


def _note_cut_prompts(job: Job, requests: list[Request], answers: list[Generation]) -> None:
    """Say so where a server read fewer tokens than half the words it was sent.

    Some cut a prompt that is too long, usually its beginning, and answer as if nothing were wrong;
    only the count of prompt tokens gives them away.
    """
    cut_off = 0
    for request, answer in zip(requests, answers, strict=True):
        prompt = request.prompt
        texts = [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt]
        words = sum(len(text.split()) for text in texts)
        cut_off += 0 < 2 * answer.prompt_tokens < words
    if cut_off:
        job.notes.append(
            f"{job.engine.name} says that it read less than it was sent in {cut_off} of "
            f"{len(answers)} requests: it probably cut them; give it a longer context."
        )


def _name(chunk: Chunk) -> str:
    turns = chunk.turns
    return f"turn {turns[0]}" if len(turns) == 1 else f"turns {turns[0]} to {turns[-1]}"


def _located(job: Job) -> list[int]:
    """Turn numbers of the windows that matter most for the query or the focus, in order.

    Windows of about 150 words, packed up to a budget: what a capable model reads at once, or six
    chunks of a small one. The best window is always among them: one turn may exceed any budget.
    """
    turns = job.transcript.turns
    texts = [f"{turn.speaker or ''} {turn.text}" for turn in turns]
    lengths = [max(1, len(turn.text.split())) for turn in turns]
    spans = windows(lengths, 150, 75)
    joined = [" ".join(texts[first:end]) for first, end in spans]
    if job.query is not None:
        scores = (job.locator or BM25Locator()).scores(job.query, joined)
    else:
        assert job.focus is not None
        scores = np.asarray([weight(text, job.focus) for text in joined], np.float32)
    best = range(*spans[int(np.argmax(scores))])

    def packed(budget: int) -> list[int]:
        return sorted({*best, *pack(spans, scores, lengths, budget)})

    if job.small:
        return packed(int(LOCATED_CHUNKS * SMALL_CHUNK / 1.4))
    fits = _fits(job)
    budget = sum(lengths)
    while budget > 64:
        found = packed(budget)
        pieces = [Piece(number, 0, len(turns[number].text)) for number in found]
        if fits(render(job.transcript, pieces)):
            return found
        budget = budget * 4 // 5
    return packed(budget)


# -- merging ---------------------------------------------------------------------------------------


def _merge(job: Job, reads: list[Read], ask: Ask) -> list[Read]:
    """Notes on many parts to one list; in several rounds where they do not fit at once.

    Where a merge fails, its notes stay as they are and it counts as a failed part. Notes that are
    more than the points wanted are chosen from as chapters are: from the whole meeting, not from
    its beginning.
    """
    notes = [point for read in reads for point in read.points]
    while notes:
        groups = _groups(job, notes, ask)
        several = [group for group in groups if len(group) > 1]
        merged = iter(_merged(job, several, ask))
        # A note too long to stand beside another has nothing to be merged with.
        after = [note for group in groups for note in (next(merged) if len(group) > 1 else group)]
        shrunk = len(after) < len(notes)
        notes = after
        if len(groups) == 1 or not shrunk:
            break
    notes = distinct(notes)
    if len(notes) > job.most:
        return [Read(f"note {number}", [note]) for number, note in enumerate(notes)]
    return [Read("the whole meeting", notes)]


def _merged(job: Job, groups: list[list[str]], ask: Ask) -> list[list[str]]:
    """One shorter list for each group of notes; the group itself where that fails."""
    requests = [_merge_request(job, group, ask) for group in groups]
    answers = _generate(job, "merging", [request for request, _ in requests], len(groups))
    job.chunks += len(groups)
    merged = []
    for group, (_, beginning), answer in zip(groups, requests, answers, strict=True):
        points = _points([(beginning, answer)])
        if not points:
            reason = answer.error or f"{job.engine.name} answered nothing of use."
            job.failed.append(
                f"{len(group)} notes could not be merged and stand as they were: {reason}"
            )
        merged.append(points or group)
    return merged


def _groups(job: Job, notes: list[str], ask: Ask) -> list[list[str]]:
    """Consecutive notes that can be merged in one request."""
    groups: list[list[str]] = [[]]
    for note in notes:
        request, _ = _merge_request(job, [*groups[-1], note], ask)
        if groups[-1] and not job.fits(request):
            groups.append([])
        groups[-1].append(note)
    return groups


def _merge_request(job: Job, notes: list[str], ask: Ask) -> tuple[Request, str | None]:
    text = "\n".join(f"- {note}" for note in notes)
    if job.small:
        messages, beginning = prompts.beginnings(text, job.query, job.focus)[0]
        return Request(messages, max_tokens=SENTENCE, stop=SENTENCE_ENDS), beginning
    messages = ask(text, job.query, job.focus, job.most)
    return Request(messages, max_tokens=ANSWER[job.length]), None
