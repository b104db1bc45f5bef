"""Models without some of their key-value groups, against ones in which nobody listens to these."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_llama import TEXTS  # noqa: E402
from tiny_stacks import LAYERS, MORE, SIZES, save_tiny, tiny  # noqa: E402

from featherweight.compress import choose_neurons, cut_groups, prune  # noqa: E402
from featherweight.compress.calibrate import Sample, logits, read  # noqa: E402
from featherweight.compress.heads import GroupMeter, check_groups  # noqa: E402
from featherweight.errors import CompressError  # noqa: E402
from featherweight.tasks import Example, Task  # noqa: E402

pytestmark = pytest.mark.model

KNOWN = [kind for kind in MORE if kind not in ("phi3", "olmo2")]
SAMPLES = [Sample([5, 6, 7, 8, 30, 31, 32, 33, 34, 35], []), Sample([9], []), Sample([11, 12], [])]
HEADS, SIZE = 2, 8  # query heads of a group, numbers of a head


def deaf(model: Any, keep: list[Any]) -> Any:
    """A copy that has all groups, but reads those in `keep` only."""
    other = copy.deepcopy(model)
    for layer, groups in zip(other.model.layers, keep, strict=True):
        for group in range(model.config.num_key_value_heads):
            if group not in groups.tolist():
                first = group * HEADS * SIZE
                layer.self_attn.o_proj.weight.data[:, first : first + HEADS * SIZE] = 0
    return other


@pytest.mark.parametrize("kind", KNOWN)
def test_groups_that_nobody_reads_are_not_missed(kind: str) -> None:
    model = tiny(kind)
    before = copy.deepcopy(model.state_dict())
    keep = [torch.tensor([layer % 2]) for layer in range(LAYERS)]
    cut, expected = cut_groups(model, {"decoder": keep}), deaf(model, keep)
    config = cut.config
    assert (config.num_key_value_heads, config.num_attention_heads) == (1, HEADS)
    assert config.head_dim == SIZE and config.hidden_size == 32
    assert [layer.self_attn.k_proj.out_features for layer in cut.model.layers] == [SIZE] * LAYERS
    for sample in SAMPLES:
        found = logits(cut, sample)
        torch.testing.assert_close(found, logits(expected, sample))
        assert not torch.allclose(found, logits(model, sample), atol=1e-2)
    for name, weight in model.state_dict().items():
        assert weight.equal(before[name])


@pytest.mark.parametrize("kind", KNOWN)
def test_its_config_and_weights_alone_make_it(kind: str, tmp_path: Path) -> None:
    cut = cut_groups(tiny(kind), {"decoder": [torch.tensor([1])] * LAYERS})
    cut.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["head_dim"] == SIZE
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for name, weight in cut.state_dict().items():
        assert again.state_dict()[name].equal(weight)
    for sample in SAMPLES:
        torch.testing.assert_close(logits(again, sample), logits(cut, sample))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_a_size_of_heads_that_no_config_told_is_told_then(kind: str, tmp_path: Path) -> None:
    """Else it would be the width by the number of heads, which are fewer now."""
    settings = {name: value for name, value in SIZES.items() if name != "head_dim"}
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    keep = [torch.tensor([layer % 2]) for layer in range(LAYERS)]
    cut_groups(model, {"decoder": keep}).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["head_dim"] == SIZE
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for sample in SAMPLES:
        torch.testing.assert_close(logits(again, sample), logits(deaf(model, keep), sample))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2"])
def test_what_prune_writes_opens_in_plain_transformers(kind: str, tmp_path: Path) -> None:
    source = save_tiny(kind, tmp_path / "source")
    texts = Task("texts", "text", tuple(Example(str(i), text) for i, text in enumerate(TEXTS[:3])))
    found = prune(f"hf:{source}", tmp_path / "cut", texts, kv=1, device="cpu")
    assert found.widths == {"kv": {"before": 2, "after": 1}}
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()
    assert again.model.layers[0].self_attn.q_proj.out_features == HEADS * SIZE
    model = tiny(kind)
    [groups] = {
        tuple(tuple(int(i) for i in one) for one in groups)
        for groups in [choose_neurons(importance(model, texts, source), 1)["decoder"]]
    }
    expected = deaf(model, [torch.tensor(one) for one in groups])
    for sample in SAMPLES:
        torch.testing.assert_close(logits(again, sample), logits(expected, sample))


def importance(model: Any, texts: Task, source: Path) -> dict[str, list[Any]]:
    from featherweight.compress import encode

    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    return measured(model, encode(texts.examples, model, tokenizer, "m"))


def measured(model: Any, samples: list[Sample]) -> dict[str, list[Any]]:
    masks: dict[str, Any] = {}
    meter = GroupMeter(model, masks)
    read(model, samples, masks)
    meter.close()
    return meter.importance()


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_importance_is_the_length_of_what_heads_write(kind: str) -> None:
    model = tiny(kind)
    found = measured(model, SAMPLES)
    assert not any(part._forward_pre_hooks for part in model.modules())
    model = model.double()
    for index, layer in enumerate(model.model.layers):
        seen: list[Any] = []
        hook = layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _m, args, seen=seen: seen.extend(args[0][0])
        )
        for sample in SAMPLES:  # one at a time: nothing is padded
            logits(model, sample)
        hook.remove()
        expected = [0.0, 0.0]
        for token in seen:
            for head in range(4):
                part = token[head * SIZE : (head + 1) * SIZE]
                expected[head // HEADS] += sum(float(x) ** 2 for x in part) ** 0.5
        assert found["decoder"][index].tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("hidden", "heads", "have", "kv", "nearest"),
    [
        (32, 4, 2, 0, 1),
        (32, 4, 2, 3, 1),
        (32, 4, 2, -1, 1),
        (72, 9, 3, 4, 2),
        (64, 8, 8, 3, 2),  # 64 by 3 heads does not go; of 2 and 4 the smaller
        (64, 8, 8, 7, 4),
        (96, 12, 4, 9, 2),
    ],
)
def test_groups_that_cannot_stay_are_refused_with_the_nearest_that_can(
    hidden: int, heads: int, have: int, kv: int, nearest: int
) -> None:
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=hidden, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=heads, num_key_value_heads=have,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with pytest.raises(CompressError, match=rf"^kv={kv} does not fit: .* is kv={nearest}\.$"):
        check_groups(model, kv)
    check_groups(model, nearest)


def test_where_none_can_go_no_other_number_is_advised() -> None:
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=28, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    with pytest.raises(CompressError, match=r"kv=2 does not fit: .*; none can go; leave kv out\.$"):
        check_groups(transformers.LlamaForCausalLM(config), 2)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("t5", "share one position bias by head"),
        ("phi3", "its attention is not known here"),
        ("olmo2", "its attention is not known here"),  # its norms go over all heads at once
    ],
)
def test_attention_that_cannot_be_cut_is_refused(kind: str, why: str) -> None:
    with pytest.raises(CompressError, match=rf"{why}.*\.$"):
        check_groups(tiny(kind), 1)
