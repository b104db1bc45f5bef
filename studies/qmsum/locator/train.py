"""Train the cross-encoder of a locator on gold spans of QMSum's train split.

usage: train.py --data DIR --start ENCODER --out DIR [--minutes N] [--epochs N] [--seed N]

Per question a list of windows: some of the gold span, some that the embedded locator ranks high
(hard), some at random. The loss is a softmax over the list against each window's share of gold
words. Every fifth meeting is held out, for `fuse.py`. The order of questions and the lists depend
on seed and step only, and the state is on disk, so a stopped run goes on where it was: run the
command again. Writes the encoder when all epochs are done; `fuse.py` makes it a locator.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from spans import Meeting, load
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from featherweight.retrieve import FittedLocator
from featherweight.retrieve.cross import batches, encoded

WINDOWS = (100, 100)
MAX_TOKENS = 192
LIST, GOLD, HARD, AMONG = 12, 5, 4, 24  # windows a question; hard ones are of the first AMONG
QUESTIONS, PART = 4, 2  # a step, in memory at once
RATE, WARMUP, DECAY = 1e-4, 0.1, 0.01
HELD = 5  # every fifth meeting
SAVE_SECONDS = 120


@dataclass
class Item:
    query: str
    texts: list[str]
    share: np.ndarray  # [windows], in gold
    hard: np.ndarray  # windows outside gold, as the embedded locator ranks them


def held_out(meetings: list[Meeting]) -> list[Meeting]:
    return meetings[::HELD]


def trained_on(meetings: list[Meeting]) -> list[Meeting]:
    return [meeting for number, meeting in enumerate(meetings) if number % HELD]


def items(meetings: list[Meeting]) -> list[Item]:
    found, locator = [], FittedLocator()
    for meeting in meetings:
        spans, texts = meeting.windows(*WINDOWS)
        for query, gold in meeting.questions:
            share = meeting.shares(spans, gold)
            order = np.argsort(-locator.scores(query, texts), kind="stable")
            found.append(Item(query, texts, share, order[share[order] == 0]))
    return found


def listed(item: Item, rng: np.random.Generator) -> np.ndarray:
    """Windows of one list, gold ones first."""
    gold = np.flatnonzero(item.share)
    gold = rng.permutation(gold)[:GOLD]
    hard = rng.permutation(item.hard[:AMONG])[:HARD]
    rest = np.setdiff1d(item.hard, hard)
    return np.concatenate([gold, hard, rng.permutation(rest)[: LIST - len(gold) - len(hard)]])


def losses(model, tokenizer, chosen: list[Item], rng: np.random.Generator) -> torch.Tensor:
    """[questions]: cross-entropy of each list."""
    lists = [listed(item, rng) for item in chosen]
    pairs = [
        (item.query, item.texts[at]) for item, at_ in zip(chosen, lists, strict=True) for at in at_
    ]
    places, parts = [], []
    with torch.autocast("cpu", torch.bfloat16):
        for at, inputs in batches(tokenizer, encoded(tokenizer, pairs, MAX_TOKENS), LIST):
            places += at
            parts.append(model(**inputs).logits[:, 0].float())
    logits = torch.empty(len(pairs)).index_put((torch.tensor(places),), torch.cat(parts))
    found, first = [], 0
    for item, at in zip(chosen, lists, strict=True):
        share = torch.tensor(item.share[at], dtype=torch.float32)
        log_chance = torch.log_softmax(logits[first : first + len(at)], dim=0)
        found.append(-(share / share.sum() * log_chance).sum())
        first += len(at)
    return torch.stack(found)


def held_loss(model, tokenizer, held: list[Item]) -> float:
    model.eval()
    with torch.inference_mode():
        found = [
            losses(model, tokenizer, [item], np.random.default_rng(number))
            for number, item in enumerate(held)
        ]
    model.train()
    return float(torch.cat(found).mean())


def save(state: dict, path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        torch.save(state, file)
    Path(file.name).replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / f"state-{args.seed}.pt"
    meetings = load(args.data, "train")
    known, held = items(trained_on(meetings)), items(held_out(meetings))[::4]
    per_epoch = len(known) // QUESTIONS
    steps = args.epochs * per_epoch

    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.start)
    model = AutoModelForSequenceClassification.from_pretrained(args.start, num_labels=1)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    step, total = 0, 0.0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, total = state["step"], state["loss"]
        if state["steps"] != steps:
            raise SystemExit(f"{kept} is of a run with other --epochs; remove it or repeat them")
        print(f"goes on at step {step} of {steps}", flush=True)
    saved = time.monotonic()
    while step < steps and time.monotonic() < until:
        order = np.random.default_rng([args.seed, step // per_epoch]).permutation(len(known))
        first = step % per_epoch * QUESTIONS
        chosen = [known[at] for at in order[first : first + QUESTIONS]]
        torch.manual_seed(args.seed * 1_000_003 + step)  # dropout, the same after a stop
        rng = np.random.default_rng([args.seed, 1, step])
        for part in range(0, QUESTIONS, PART):
            loss = losses(model, tokenizer, chosen[part : part + PART], rng).sum() / QUESTIONS
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = (step + 1) / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(share / WARMUP, (1 - share) / (1 - WARMUP))
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 20 == 0:
            print(f"step {step} of {steps}, loss {total / 20:.4f}", flush=True)
            total = 0.0
        if step % per_epoch == 0:
            print(f"held loss {held_loss(model, tokenizer, held):.4f}", flush=True)
        if time.monotonic() - saved > SAVE_SECONDS or step == steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save(state | {"step": step, "steps": steps, "loss": total}, kept)
            saved = time.monotonic()
    if step < steps:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        save(state | {"step": step, "steps": steps, "loss": total}, kept)
        print(f"stopped at step {step} of {steps}; run again to go on")
        return
    folder = args.out / f"seed-{args.seed}"
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"wrote {folder}; next: fuse.py")


if __name__ == "__main__":
    main()
