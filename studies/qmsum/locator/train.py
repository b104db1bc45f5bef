"""Train the encoder of a locator on gold spans of QMSum's train split.

usage: train.py --data DIR --start ENCODER --out DIR [--minutes N] [--epochs N] [--seed N]

A step is one meeting: some of its windows, at most GOLD from each question's span and the rest at
random, and all its questions. Per question the loss is a softmax over these windows against their
shares of gold words, so one question's windows are the hard negatives of another. Every fifth
meeting is held out, for `fuse.py`. What a step draws depends on seed and step only, and the state
is on disk, so a stopped run goes on where it was: run the command again.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from spans import Meeting, load
from transformers import AutoModel, AutoTokenizer

from featherweight.retrieve.encoder import batches, encoded, pooled

WINDOWS = (100, 100)
MAX_TOKENS = 192
GOLD, ALL = 4, 40  # windows
SCALE = 20.0  # of cosines, before the softmax
RATE, WARMUP, DECAY = 5e-5, 0.1, 0.01
HELD = 5  # every fifth meeting
SAVE_SECONDS = 120


@dataclass
class Item:
    """A meeting: its windows' texts, its questions, and [questions, windows] shares of gold."""

    texts: list[str]
    queries: list[str]
    shares: np.ndarray


def held_out(meetings: list[Meeting]) -> list[Meeting]:
    return meetings[::HELD]


def trained_on(meetings: list[Meeting]) -> list[Meeting]:
    return [meeting for number, meeting in enumerate(meetings) if number % HELD]


def item(meeting: Meeting) -> Item:
    spans, texts = meeting.windows(*WINDOWS)
    shares = [meeting.shares(spans, gold) for _, gold in meeting.questions]
    return Item(texts, [query for query, _ in meeting.questions], np.array(shares))


def drawn(meeting: Item, rng: np.random.Generator) -> np.ndarray:
    """Places of the windows of one step."""
    gold = [rng.permutation(np.flatnonzero(row))[:GOLD] for row in meeting.shares]
    chosen = rng.permutation(np.unique(np.concatenate(gold)))[:ALL]
    rest = np.setdiff1d(np.arange(len(meeting.texts)), chosen)
    return np.concatenate([chosen, rng.permutation(rest)[: ALL - len(chosen)]])


def loss_of(model, tokenizer, meeting: Item, rng: np.random.Generator) -> torch.Tensor:
    """Mean cross-entropy over the questions that a drawn window belongs to."""
    at = drawn(meeting, rng)
    texts = [*meeting.queries, *(meeting.texts[place] for place in at)]
    places, parts = [], []
    with torch.autocast("cpu", torch.bfloat16):
        for rows, inputs in batches(tokenizer, encoded(tokenizer, texts, MAX_TOKENS)):
            places += rows
            parts.append(pooled(model, inputs))
    vectors = torch.empty(len(texts), parts[0].shape[1])
    vectors = vectors.index_put((torch.tensor(places),), torch.cat(parts))
    asked = len(meeting.queries)
    log_chance = torch.log_softmax(SCALE * vectors[:asked] @ vectors[asked:].T, dim=1)
    shares = torch.tensor(meeting.shares[:, at], dtype=torch.float32)
    total = shares.sum(dim=1, keepdim=True)
    kept = total[:, 0] > 0
    return -(shares / total.clamp_min(1e-9) * log_chance)[kept].sum(dim=1).mean()


def held_loss(model, tokenizer, held: list[Item]) -> float:
    model.eval()
    with torch.inference_mode():
        found = [
            loss_of(model, tokenizer, one, np.random.default_rng(number)).item()
            for number, one in enumerate(held)
        ]
    model.train()
    return float(np.mean(found))


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
    known = [item(meeting) for meeting in trained_on(meetings)]
    held = [item(meeting) for meeting in held_out(meetings)][::3]
    steps = args.epochs * len(known)

    tokenizer = AutoTokenizer.from_pretrained(args.start)
    model = AutoModel.from_pretrained(args.start, add_pooling_layer=False, dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    step, total = 0, 0.0

    def keep() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        save(state | {"step": step, "steps": steps, "loss": total}, kept)

    if kept.exists():
        state = torch.load(kept, weights_only=True)
        if state["steps"] != steps:
            raise SystemExit(f"{kept} is of a run with other --epochs; remove it or repeat them")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, total = state["step"], state["loss"]
        print(f"goes on at step {step} of {steps}", flush=True)
    else:
        print(f"held loss {held_loss(model, tokenizer, held):.4f}", flush=True)
    saved = time.monotonic()
    while step < steps and time.monotonic() < until:
        epoch, place = divmod(step, len(known))
        order = np.random.default_rng([args.seed, epoch]).permutation(len(known))
        torch.manual_seed(args.seed * 1_000_003 + step)  # dropout, the same after a stop
        rng = np.random.default_rng([args.seed, 1, step])
        loss = loss_of(model, tokenizer, known[order[place]], rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = (step + 1) / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(share / WARMUP, (1 - share) / (1 - WARMUP))
        optimizer.step()
        optimizer.zero_grad()
        step, total = step + 1, total + loss.item()
        if step % 10 == 0:
            print(f"step {step} of {steps}, loss {total / 10:.4f}", flush=True)
            total = 0.0
        if step % len(known) == 0:
            print(f"held loss {held_loss(model, tokenizer, held):.4f}", flush=True)
        if time.monotonic() - saved > SAVE_SECONDS:
            keep()
            saved = time.monotonic()
    keep()
    if step < steps:
        print(f"stopped at step {step} of {steps}; run again to go on")
        return
    folder = args.out / f"seed-{args.seed}"
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"wrote {folder}; next: fuse.py")


if __name__ == "__main__":
    main()
