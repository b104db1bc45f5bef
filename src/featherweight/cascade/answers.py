"""What a score reads of a generation: each token's log-probability, margin and entropy.

Margin and entropy need the likeliest alternatives. An engine gives k of them; the rest of the
vocabulary counts as one further symbol. Such an entropy is never above the true one, and it grows
with k: that is why k belongs to the rule.
"""

import math
from collections.abc import Sequence

from featherweight.cascade.types import Answer
from featherweight.engines.types import Generation, Request, TopLogprob

ALTERNATIVES = 5
"""k for entropies; the most that every server gives. Margins are the same with 2."""


def answer_of(generation: Generation, request: Request) -> Answer:
    """`generation`, made for `request`, as a stage's answer of a log; its quality is not known.

    Margins and entropies are there where the request asked for at least two alternatives and the
    engine gave as many for every token. The answer ended with the end token where the model
    stopped of itself and none of its tokens was cut off; a stop string inside the last token looks
    the same, in a log and in a cascade alike.
    """
    logprobs, tops = generation.token_logprobs, generation.top_logprobs
    pairs = None
    if logprobs is not None and tops is not None and len(tops) == len(logprobs):
        pairs = features(tops, request.top_logprobs)
    return Answer(
        model=generation.model,
        text=generation.text,
        token_logprobs=logprobs,
        margins=None if pairs is None else tuple(margin for margin, _ in pairs),
        entropies=None if pairs is None else tuple(entropy for _, entropy in pairs),
        ended=(
            logprobs is not None
            and generation.finish_reason == "stop"
            and 0 < len(logprobs) == generation.completion_tokens
        ),
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        seconds=generation.seconds,
        error=generation.error,
    )


def features(
    tops: Sequence[Sequence[TopLogprob]], k: int
) -> tuple[tuple[float, float], ...] | None:
    """Margin and entropy (nats) of each token by its `k` likeliest; `None` where any has fewer."""
    if k < 2 or any(len(alternatives) < k for alternatives in tops):
        return None
    return tuple(_features(sorted((t.logprob for t in one), reverse=True)[:k]) for one in tops)


def _features(logprobs: Sequence[float]) -> tuple[float, float]:
    chances = [math.exp(logprob) for logprob in logprobs]
    entropy = -sum(p * x for p, x in zip(chances, logprobs, strict=True) if p > 0)
    rest = 1 - sum(chances)  # a hair below 0 where rounding made it so
    if rest > 0:
        entropy -= rest * math.log(rest)
    return chances[0] - chances[1], max(entropy, 0.0)
