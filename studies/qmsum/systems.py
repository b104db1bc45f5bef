"""The 16 released systems on QMSum's 281 official test queries, and what was published of them.

Predictions: ErtasAI/qmsum-locate-then-summarize at 973968e (Apache-2.0; the Socratic file BSD-3),
`results/preds`. Published figures: that repository's tables, R1 / R2 / RL / RLsum, None where it
prints none.
"""

from typing import NamedTuple


class System(NamedTuple):
    file: str
    name: str
    large: bool  # a hosted large model, zero-shot over the full transcript
    published: tuple[float | None, float | None, float | None, float | None]


SYSTEMS = (
    System("row-socratic-segenc", "Socratic SegEnc 406M", False, (38.60, 13.91, 24.98, 33.71)),
    System("segenc-c8cont-e4", "SegEnc 406M, span-trained", False, (36.33, 12.72, 23.69, 32.17)),
    System("loc-w375-l12-b2000", "LFM2.5-1.2B LoRA, located", False, (35.41, 12.28, 24.63, 31.36)),
    System("baseline-gpt-5.6-luna", "GPT-5.6 Luna", True, (32.43, 7.89, 19.05, 27.49)),
    System("baseline-gpt-5.6-sol", "GPT-5.6 Sol", True, (30.92, 6.94, 18.33, 26.10)),
    System(
        "zeroshot-lfm25-spans", "LFM2.5-1.2B 0-shot, located", False, (30.12, 6.70, 19.29, 25.04)
    ),
    System("baseline-claude-opus-5", "Claude Opus 5", True, (28.87, 8.43, None, 25.01)),
    System("baseline-claude-haiku-4-5", "Claude Haiku 4.5", True, (28.66, 8.42, None, 24.19)),
    System("row-distilbart", "DistilBART-QMSum 306M", False, (28.65, 6.54, 17.92, 25.50)),
    System("zeroshot-lfm25-trunc", "LFM2.5-1.2B 0-shot, cut", False, (28.57, 5.55, 17.79, 24.55)),
    System("baseline-claude-sonnet-5", "Claude Sonnet 5", True, (27.89, 7.53, None, 23.98)),
    System("row-bart-large-cnn", "BART-large-CNN-QMSum", False, (27.32, 5.65, 17.41, 24.08)),
    System("segenc-port-full", "SegEnc, ported", False, (None, None, None, None)),
    System("m3-fusion-lfm2.5-1.2b", "LFM2.5-1.2B fusion", False, (None, None, None, None)),
    System("row-pegasus", "PEGASUS-QMSum", False, (None, None, None, None)),
    System("row-led-base", "LED-base-QMSum", False, (None, None, None, None)),
)
CAP = "60:110"
