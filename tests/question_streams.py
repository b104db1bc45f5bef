"""Streams of made-up yes/no questions with a structure that can be learned, and their log.

Of four topics in a domain, told by their words: "yes" is right, "no" is right, or either. The small
model knows some topics and not others, and is sure when it knows; the large one is nearly always
right. With `free` the answers are sentences, which nobody can learn to say.
"""

import math

import numpy as np

from featherweight.cascade.replay import Stream, stream
from featherweight.cascade.scores import Score
from featherweight.cascade.types import Answer, Log, Metric, Row
from featherweight.tasks import Example

OTHER = {"yes": "no", "no": "yes"}
FREE = {"yes": "it holds in every known case", "no": "nothing supports such a claim"}
SMALL, LARGE = 1.0, 10.0  # costs


def made(
    n: int, seed: int = 0, domains: int = 1, free: bool = False, sure: float = 0.95
) -> tuple[Log, dict[str, Example]]:
    """`n` questions with two stages' answers; a domain's questions share no words with another's.

    `sure` is how often the small model is right on a topic that it knows (in odd domains others).
    """
    rng = np.random.default_rng(seed)
    rows, examples = [], {}
    for number in range(n):
        domain, topic = int(rng.integers(domains)), int(rng.integers(4))
        words = [f"d{domain}t{topic}w{w}" for w in rng.integers(25, size=10)]
        truth = ("yes", "no")[topic] if topic < 2 else ("yes", "no")[int(rng.integers(2))]
        known = topic in ((0, 2) if domain % 2 == 0 else (1, 3))
        large = truth if rng.uniform() < 0.97 else OTHER[truth]
        small = truth if rng.uniform() < (sure if known else 0.55) else OTHER[truth]
        confidence = float(rng.beta(9, 2) if small == truth else rng.beta(5, 4))

        def said(model: str, text: str, sure: float, cost: float, truth: str = truth) -> Answer:
            return Answer(
                model,
                FREE[text] if free else text,
                quality=100.0 * (text == truth),
                token_logprobs=(math.log(sure),),
                prompt_tokens=20,
                completion_tokens=1,
                seconds=cost / 10,
                flops=cost,
            )

        answers = (said("small", small, confidence, SMALL), said("large", large, 0.9, LARGE))
        id = f"q{number}"
        rows.append(Row(id, f"domain {domain}", "test", answers))
        meta = {"answer": ("yes", "no").index(truth)}
        choices = () if free else ("yes", "no")
        examples[id] = Example(id, " ".join(words), truth, f"domain {domain}", choices, meta)
    return Log(Metric("accuracy", 0, 100), ("small", "large"), tuple(rows)), examples


def streamed(n: int, seed: int = 0, domains: int = 1, free: bool = False) -> Stream:
    """`made` as a stream, scored by the mean log-probability, paid in operations."""
    return stream(*made(n, seed, domains, free), [Score("mean")], "flops")
