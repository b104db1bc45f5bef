"""Opening encoders: what is read, what is refused, and the limit that counts."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_encoders

from featherweight.errors import EngineError
from featherweight.evaluate.encoder import open_encoder, token_limit, weights_hash


@pytest.fixture(scope="module")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return tiny_encoders.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def copy(bert_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert_dir, tmp_path / "copy"))


def refused(name: object, message: str, **settings: Any) -> None:
    with pytest.raises(EngineError, match=message) as error:
        open_encoder(str(name), device="cpu", **settings)
    assert "\n" not in str(error.value)


@pytest.mark.model
def test_what_is_no_encoder_directory(bert_dir: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "not a directory")
    refused("featherweight/no-such-encoder", "hf download")
    refused(bert_dir / "config.json", "is a file")
    refused(tmp_path, "no encoder weights")
    refused(bert_dir, "auto, fp32 or bf16", dtype="int3")
    refused(bert_dir, "layers 1 to 3; layer 4", layer=4)
    refused(bert_dir, "layers 1 to 3; layer 0", layer=0)


@pytest.mark.model
def test_pickles_are_never_opened(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(copy, "pickled")


@pytest.mark.model
def test_code_of_its_own_is_never_run(copy: Path) -> None:
    (copy / "own.py").write_text("raise SystemExit('code was run')")
    tiny_encoders.change_config(
        copy, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    )
    refused(copy, "cannot be opened")


@pytest.mark.model
def test_missing_weights_are_an_error_but_for_the_pooler(copy: Path, bert_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(bert_dir / "model.safetensors")
    assert not any("pooler" in key for key in weights)
    assert open_encoder(str(bert_dir), device="cpu").layer == 3
    gone = "bert.encoder.layer.1.output.dense.weight"
    save_file({k: v for k, v in weights.items() if k != gone}, copy / "model.safetensors")
    refused(copy, r"not a whole encoder: 1 tensors .*layer\.1\.output\.dense\.weight")
    assert open_encoder(str(copy), layer=1, device="cpu").layer == 1  # it is above


@pytest.mark.model
def test_broken_files(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:1000])
    refused(copy, "cannot be opened")
    (copy / "model.safetensors").write_bytes(whole)
    (copy / "config.json").write_text("{")
    refused(copy, "cannot be opened")


@pytest.mark.model
def test_the_tokenizer_must_be_there_and_fit(copy: Path) -> None:
    tiny_encoders.byte_level(copy)  # a larger vocabulary than the model's
    refused(copy, "tokens but the model only 200")
    for file in copy.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    # transformers makes one that knows no word
    refused(copy, "no tokenizer with words")


@pytest.mark.model
def test_a_layer_is_what_the_whole_model_has_there(bert_dir: Path) -> None:
    import torch

    ids = torch.tensor([[2, 30, 40, 50, 3]])
    with torch.inference_mode():
        whole = open_encoder(str(bert_dir), device="cpu").model(ids, output_hidden_states=True)
        for layer in (1, 2, 3):
            cut = open_encoder(str(bert_dir), layer=layer, device="cpu")
            torch.testing.assert_close(cut.model(ids)[0], whole.hidden_states[layer])
            assert len(cut.model.encoder.layer) == layer


@pytest.mark.model
def test_precision_and_name(bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_encoder(str(bert_dir), device="cpu").dtype == "float32"
    half = open_encoder(str(bert_dir), dtype="bf16", device="cpu")
    assert half.dtype == "bfloat16" == str(half.model.dtype).removeprefix("torch.")
    monkeypatch.chdir(bert_dir)
    assert open_encoder(".", device="cpu").name == bert_dir.name


@pytest.mark.model
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_limit_is_what_the_model_can_take(kind: str, tmp_path: Path) -> None:
    import torch

    encoder = open_encoder(str(getattr(tiny_encoders, kind)(tmp_path)), device="cpu")
    assert encoder.tokenizer.model_max_length > 10**20  # the trap
    with torch.inference_mode():
        encoder.model(torch.full((1, encoder.limit), 7))
        with pytest.raises((IndexError, RuntimeError)):
            encoder.model(torch.full((1, encoder.limit + 1), 7))


@pytest.mark.model
def test_the_limit_of_relative_positions(tmp_path: Path) -> None:
    """DeBERTa has no position table, and under transformers 5 a tokenizer without a limit."""
    transformers = pytest.importorskip("transformers")
    tiny_encoders.word_piece(tmp_path)
    config = transformers.DebertaV2Config(
        vocab_size=200,
        **tiny_encoders.SHAPE,
        relative_attention=True,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
        type_vocab_size=0,
    )
    transformers.DebertaV2Model(config).save_pretrained(tmp_path)
    assert open_encoder(str(tmp_path), device="cpu").limit == 48


@pytest.mark.parametrize(
    ("stated", "rows", "padding", "expected"),
    [
        (10**30, 512, None, 512),
        (10**30, 514, 1, 512),  # RoBERTa
        (512, 514, 1, 512),
        (128, 512, None, 128),  # sentence encoders state less than they could
        (1024, 512, None, 512),
        (10**30, None, None, 512),
        (10**30, -1, None, 512),  # XLNet
    ],
)
def test_limits(stated: int, rows: int | None, padding: int | None, expected: int) -> None:
    table = SimpleNamespace(num_embeddings=rows, padding_idx=padding)
    model = SimpleNamespace(
        config=SimpleNamespace(max_position_embeddings=rows),
        named_modules=lambda: [("embeddings.position_embeddings", table)],
    )
    assert token_limit(model, SimpleNamespace(model_max_length=stated)) == expected


def test_the_hash_of_shards(tmp_path: Path) -> None:
    first, second = (
        tmp_path / "model-00001-of-2.safetensors",
        tmp_path / "model-00002-of-2.safetensors",
    )
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    before = weights_hash(tmp_path)
    assert len(before) == 12
    second.write_bytes(b"2")
    assert weights_hash(tmp_path) != before
    (tmp_path / "model.safetensors").write_bytes(b"abc")  # the one that is read
    assert weights_hash(tmp_path) == "ba7816bf8f01"


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "model.safetensors").touch()
    refused(tmp_path, "encoder-decoder")


@pytest.mark.parametrize("module", ["torch", "transformers"])
def test_without_torch(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # makes the import fail
    refused(tmp_path, r"pip install 'featherweight\[train\]'")


def test_importing_loads_no_torch() -> None:
    import subprocess

    code = (
        "import sys, featherweight.evaluate.bertscore, featherweight.evaluate.nli;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
