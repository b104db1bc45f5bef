"""One decision, three ways to come to it: of a whole answer, while it arrives, and in hindsight.

All three end in the same numbers: a score has the same bits token by token and all at once, and an
answer is stopped early only where no ending could have been trusted.
"""

from featherweight.cascade.answers import features
from featherweight.cascade.rule import StageRule, alternatives
from featherweight.cascade.running import Running
from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.tokens import PLAIN
from featherweight.cascade.types import Answer
from featherweight.engines.types import Delta
from featherweight.errors import CascadeError, EngineError


def confidence(stage: StageRule, answer: Answer) -> float:
    """The score of a whole answer of a stage that has one.

    Raises `EngineError`, with the engine's name, where the answer lacks the numbers it is made of:
    that is neither a good answer nor a bad one.
    """
    assert stage.score is not None
    stream = stage.score.stream if isinstance(stage.score, Score) else "token_logprobs"
    if not getattr(answer, stream):
        raise EngineError(
            f"{answer.model}: it gave no {PLAIN[stream][0]} for every token of its answer, and the "
            "cascade's score needs them; use an engine that gives them, or a rule without it."
        )
    try:
        return float(score_answers(stage.score, [answer])[0])
    except CascadeError as error:
        raise EngineError(str(error)) from None


def nothing(model: str) -> str:
    """Why an answer that has no error failed all the same (`Answer.failed`)."""
    return f"{model}: it wrote nothing to be sure of."


class Watch:
    """One stage's answer while it arrives: whether it can still become one that is trusted.

    `key` is the question's, for ties; `n_max` the most tokens that the answer can have.
    """

    def __init__(self, stage: StageRule, key: str, n_max: int, model: str) -> None:
        assert stage.score is not None and stage.threshold is not None
        self._threshold, self._key = stage.threshold, key
        self._k = stage.top_logprobs if alternatives(stage.score) else 0
        self._running: Running | None = Running(stage.score, n_max, model)
        self.tokens = 0
        self.bound = float("inf")
        self.stopped = False

    def sees(self, delta: Delta) -> bool:
        """Take a piece in; true from the token on after which no ending could be trusted.

        Where numbers are missing or impossible, only the whole answer tells.
        """
        tokens = delta.token_logprobs
        pairs = None
        if self._k and tokens is not None:
            pairs = features(delta.top_logprobs or (), self._k)
            if pairs is None or len(pairs) != len(tokens):
                tokens = None
        if tokens is None:
            self._running = None
        for number, logprob in enumerate(tokens or ()):
            if self.token(logprob, *(pairs[number] if pairs else (None, None))):
                self.stopped = True
                break
        return self.stopped

    def token(self, logprob: float, margin: float | None, entropy: float | None) -> bool:
        """Take one token in; true as `sees`."""
        self.tokens += 1
        if self._running is None:
            return False
        try:
            self._running.push(logprob, margin, entropy)
            self.bound = self._running.bound()
        except CascadeError:
            self._running = None
            return False
        return self._threshold.defers(self.bound, self._key)


def decided_at(stage: StageRule, answer: Answer, key: str, n_max: int) -> int | None:
    """After how many tokens of a whole answer it was sure to be deferred; `None`: only at its end.

    Replays a log, or tells what a batch that is not stopped could have saved.
    """
    watch = Watch(stage, key, n_max, answer.model)
    missing = (None,) * len(answer.token_logprobs or ())
    streams = (answer.token_logprobs or (), answer.margins or missing, answer.entropies or missing)
    for logprob, margin, entropy in zip(*streams, strict=True):
        if watch.token(logprob, margin, entropy):
            return watch.tokens
    return None
