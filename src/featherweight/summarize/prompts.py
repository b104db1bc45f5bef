"""Every word that featherweight says to a model, in one place.

Two manners. A *capable* model is asked for a list of points. A model under half a billion
parameters does not keep to a list: it repeats itself or copies the transcript. It does finish a
sentence that somebody begins, so it is given several beginnings after the excerpt, and code keeps
the endings that the transcript supports. A last message by the assistant is continued, not
answered; see `Request`.
"""

from featherweight.engines.types import Message
from featherweight.summarize.types import Focus, Length

POINTS: dict[Length, int] = {"short": 3, "medium": 6, "long": 12}
"""How many points a summary has at most."""

SYSTEM = "You summarize meetings. You report only what the transcript says."

QUESTIONS: dict[Focus | None, str] = {
    None: "What did the group discuss?",  # of a part; "the whole meeting" makes it copy turns
    "decisions": "What was decided?",
    "actions": "Who agreed to do what?",
}
"""What a model tuned on QMSum is asked where there is no question: as its annotators ask."""

_OPENERS: dict[Focus | None, tuple[tuple[str, str], ...]] = {
    None: (
        (
            "What did the group talk about? Answer in one sentence with the specific details.",
            "The group discussed",
        ),
        ("Summarize the transcript in one sentence.", "The participants discussed"),
    ),
    "decisions": (
        ("What was decided?", "They decided"),
        ("What did they agree on? Answer in one sentence.", "They agreed"),
        ("Which option did they choose? Answer in one sentence.", "The group chose"),
    ),
    "actions": (
        ("What has to be done next? Answer in one sentence.", "They agreed to"),
        ("Who promised to do what? Answer in one sentence.", "The next step is to"),
    ),
}


def beginnings(
    excerpt: str, query: str | None, focus: Focus | None
) -> list[tuple[list[Message], str]]:
    """For a small model: (messages, the beginning to be finished) for one excerpt.

    The excerpt comes first, so that all of them share its tokens.
    """
    if query is not None:
        questions: tuple[tuple[str, str], ...] = (
            (f"{query} Answer in one sentence.", "According to the transcript,"),
            (f"{query} Answer in one sentence with the specific details.", "The group discussed"),
            (query, "They said that"),
        )
    else:
        questions = _OPENERS[focus]
    return [
        (
            [
                Message(role="system", content=SYSTEM),
                Message(role="user", content=f"Meeting transcript:\n\n{excerpt}\n\n{question}"),
                Message(role="assistant", content=beginning),
            ],
            beginning,
        )
        for question, beginning in questions
    ]


def listing(excerpt: str, query: str | None, focus: Focus | None, most: int) -> list[Message]:
    """For a capable model: ask for up to `most` points about an excerpt."""
    return _ask(_task(query, focus, most), "Transcript", excerpt)


def merging(notes: str, query: str | None, focus: Focus | None, most: int) -> list[Message]:
    """For a capable model: make one list out of the notes on several parts."""
    task = (
        f"The notes below are on successive parts of one meeting. {_task(query, focus, most)} "
        "Join what belongs together and leave out what matters least."
    )
    return _ask(task, "Notes", notes)


def rewriting(notes: str, query: str | None, focus: Focus | None, most: int) -> list[Message]:
    """For a capable model: the same content in better words."""
    task = (
        "Rewrite the notes below as one coherent list of points. Keep every fact, name, number "
        f"and date as it is; add nothing. {_task(query, focus, most)}"
    )
    return _ask(task, "Notes", notes)


def _ask(task: str, label: str, text: str) -> list[Message]:
    return [
        Message(role="system", content=SYSTEM),
        Message(role="user", content=f"{task}\n\n{label}:\n{text}"),
    ]


def _task(query: str | None, focus: Focus | None, most: int) -> str:
    form = (
        f"Write at most {most} points, each a full sentence on a line of its own that starts "
        "with '- '. Keep names, numbers and dates exact. Write nothing else."
    )
    if query is not None:
        only = {
            None: "",
            "actions": "Give action items only. ",
            "decisions": "Give decisions only. ",
        }
        return f"Answer this about the meeting: {query} {only[focus]}{form}"
    if focus == "actions":
        return (
            "List the action items: who does what, and by when if that was said. Start each with "
            f"the person's name where the transcript states it. {form}"
        )
    if focus == "decisions":
        return f"List the decisions that were made. {form}"
    return f"Summarize the meeting: topics, results and open questions. {form}"
