"""How much memory a run takes: the model once, a block's statistics, one place's activations.

Measured as the process's resident size, in a process of its own, above what its imports and a
first small run take.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_llama import TEXTS, tiny_tokenizer  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak"),
]
TOKENS = 512
SLACK = 32 << 20  # activations and texts, and what allocators keep

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
             mode=sys.argv[5], tokens=tokens, length=128, dtype="fp32")

first, second, output, _, mode, *recipes = sys.argv[1:]
run(first, recipes, output + "-first", 256)
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
run(second, recipes, output, TOKENS)
print(status("VmHWM") - before)
""".replace("TOKENS", str(TOKENS))


class Shape(NamedTuple):
    """A Llama's blocks; sizes are those of float32, in bytes."""

    hidden: int
    neurons: int
    layers: int

    @property
    def statistics(self) -> int:
        """X^T X of the layer that reads most."""
        return 4 * self.neurons**2

    @property
    def together(self) -> int:
        """The layers that read the same and are the largest: gate and up."""
        return 4 * 2 * self.hidden * self.neurons

    def save(self, folder: Path) -> int:
        """A model's directory; its size in memory."""
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=384,
            hidden_size=self.hidden,
            intermediate_size=self.neurons,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        )
        model = LlamaForCausalLM(config)
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return sum(4 * parameter.numel() for parameter in model.parameters())


def peak(folder: Path, shape: Shape, mode: str, recipes: list[str]) -> tuple[int, int]:
    """Bytes above the start, and those of the model."""
    Shape(shape.hidden, 64, 1).save(folder / "small")
    model = shape.save(folder / "model")
    paths = [folder / "small", folder / "model", folder / "out"]
    command = [sys.executable, "-c", RUN, *map(str, paths), " ".join(TEXTS), mode, *recipes]
    # what is freed goes back at once, or holes between blocks would be counted
    own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=own)
    return int(done.stdout.splitlines()[-1]), model


ONE = ["gptq:bits=4,group=64"]
FOUR = [
    *ONE,
    "gptq:bits=3,group=64,actorder=true",
    "sparsegpt:sparsity=0.5",
    "wanda:sparsity=0.5",
]


@pytest.mark.parametrize(
    ("shape", "mode", "recipes"),
    [
        (Shape(128, 4096, 2), "sequential", ONE),
        (Shape(128, 4096, 8), "shared", ONE),
        (Shape(128, 4096, 2), "shared", FOUR),
        (Shape(768, 2048, 2), "sequential", ONE),
    ],
    ids=["wide", "deep", "many recipes", "as models are"],
)
def test_neither_depth_nor_recipes_take_more(
    shape: Shape, mode: str, recipes: list[str], tmp_path: Path
) -> None:
    """The model, three times the statistics (they, and in float64 what their factor is), and copies
    of the layers that are solved together."""
    found, model = peak(tmp_path, shape, mode, recipes)
    assert found < model + 3 * shape.statistics + 8 * shape.together + SLACK
