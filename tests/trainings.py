"""Small trainings through the command line, and what they leave behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny_llama import save_tiny_llama
from torch import Tensor
from transformers import AutoModelForCausalLM

WORDS = (
    "team asked remote control that is easy summary keeps every letter claim true yes no".split()
)


def setting(folder: Path, rows: int = 20) -> Path:
    """A model in `folder/model`, rows of very unequal length in `folder/rows.jsonl`."""
    save_tiny_llama(folder / "model", context=128)
    lines = [
        {
            "id": f"r{i}",
            "prompt": " ".join(WORDS[: 1 + i % 5]),
            "target": " " + " ".join(WORDS[j % len(WORDS)] for j in range(i, i + 1 + (i * 7) % 13)),
        }
        for i in range(rows)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def arguments(folder: Path, out: str, **options: Any) -> list[str]:
    given = {
        "student": f"hf:{folder / 'model'}",
        "data": folder / "rows.jsonl",
        "output": folder / out,
        "method": "sft",
        "batch": 8,
        "micro-batch": 8,
        "epochs": 2,
        "optimiser": "sgd",  # Adam would hide a loss that is scaled wrongly
        "schedule": "constant",
        "warmup": 0,
        "lr": 0.05,
        "clip": 100,
        "dtype": "fp32",
        **options,
    }
    found = ["train"]
    for key, value in given.items():
        found += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    return found


def environment() -> dict[str, str]:
    # one thread: the order in which floats are added up is part of a trajectory
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def train(folder: Path, out: str, processes: int = 1, **options: Any) -> Path:
    """Run the command to its end; raises where it fails."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "featherweight"]
    done = subprocess.run(
        command + arguments(folder, out, **options),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / out


def weights(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def losses(folder: Path) -> dict[int, float]:
    """Training loss by step."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def other_weights(model: Path, folder: Path) -> str:
    """The spec of a model with other weights and the same tokens, saved to `folder`."""
    made = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for parameter in made.parameters():
        parameter.data.mul_(1.2)
    made.save_pretrained(folder)
    for file in model.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return f"hf:{folder}"
