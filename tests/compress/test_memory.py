"""How much memory a run takes: the model once, a block's statistics, one place's activations.

Measured as the process's resident size, in a process of its own, above what its imports and a
first small run take.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_llama import TEXTS, tiny_tokenizer  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak"),
]
HIDDEN, NEURONS, TOKENS = 128, 4096, 512
STATISTICS = 4 * NEURONS**2  # X^T X of the largest layer, float32
SLACK = 48 << 20  # texts, a block and its activations; less than the statistics once more

RUN = """
import ctypes, gc, json, sys
from pathlib import Path
from featherweight.compress import compress, parse_recipe
from featherweight.tasks import Example, Task

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

def run(model, recipes, output, tokens):
    texts = Task("rows", "text", (Example("0", "", sys.argv[4] * 30),))
    compress("hf:" + model, [parse_recipe(one) for one in recipes], Path(output), texts,
             mode="shared", tokens=tokens, length=128, dtype="fp32")

first, second, output, _, *recipes = sys.argv[1:]
run(first, recipes, output + "-first", 256)
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
run(second, recipes, output, TOKENS)
print(status("VmHWM") - before)
""".replace("TOKENS", str(TOKENS))


def save(folder: Path, layers: int, neurons: int) -> int:
    """A Llama with so many blocks; its size in memory, in bytes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=HIDDEN,
        intermediate_size=neurons,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return sum(4 * parameter.numel() for parameter in model.parameters())


def peak(folder: Path, layers: int, recipes: list[str]) -> tuple[int, int]:
    """Bytes above the start, and those of the model."""
    name = f"{layers}-{len(recipes)}"
    save(folder / f"small-{name}", 1, 64)
    model = save(folder / f"model-{name}", layers, NEURONS)
    paths = [folder / f"small-{name}", folder / f"model-{name}", folder / f"out-{name}"]
    command = [sys.executable, "-c", RUN, *map(str, paths), " ".join(TEXTS), *recipes]
    # what is freed goes back at once, or holes between blocks would be counted
    own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=own)
    return int(done.stdout.splitlines()[-1]), model


ONE = ["gptq:bits=4,group=64"]
FOUR = [*ONE, "gptq:bits=3,group=64,actorder=true", "sparsegpt:sparsity=0.5", "wanda:sparsity=0.5"]


def test_neither_depth_nor_recipes_take_more(tmp_path: Path) -> None:
    """The model, and three times the statistics: they, and in float64 what their factor is."""
    for layers, recipes in ((2, ONE), (5, ONE), (2, FOUR)):
        found, model = peak(tmp_path, layers, recipes)
        assert found < model + 3 * STATISTICS + SLACK
