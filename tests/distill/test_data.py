"""From examples to labels: read as the engine reads, shifted once, ended, never cut."""

import pytest
import torch
from tiny_llama import EOS, save_tiny_llama
from tiny_t5 import save_tiny_t5

from featherweight.distill.data import BLANK, Reader, Sample, collate, samples
from featherweight.distill.student import open_base
from featherweight.engines.types import Message
from featherweight.errors import TrainingError
from featherweight.tasks import Example, Task

pytestmark = pytest.mark.model
CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% if m.role == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = save_tiny_llama(tmp_path_factory.mktemp("m") / "m")
    model, tokenizer, _ = open_base(f"hf:{folder}", torch.float32, "cpu")
    return Reader(model, tokenizer, "tiny")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = save_tiny_t5(tmp_path_factory.mktemp("m") / "t5")
    model, tokenizer, _ = open_base(f"hf:{folder}", torch.float32, "cpu")
    return Reader(model, tokenizer, "t5")


def task(*examples: Example, kind: str = "summary") -> Task:
    return Task("own", kind, examples)  # type: ignore[arg-type]


def test_the_prompt_is_what_the_engine_reads(reader: Reader) -> None:
    example = Example("a", "The marketing team", " asked for a remote")
    (found,) = samples(task(example), reader, 100)
    assert list(found.prompt) == reader.prompts.encode(example.prompt).ids
    assert reader.tokenizer.decode(found.target[:-1]) == " asked for a remote"
    assert found.target[-1] == EOS


def test_a_chat_ends_with_what_ends_a_turn(reader: Reader) -> None:
    reader.tokenizer.chat_template = CHAT
    try:
        asked = [Message(role="user", content="The team?")]
        (found,) = samples(task(Example("a", asked, "yes")), reader, 100)
        assert list(found.prompt) == reader.prompts.encode(asked).ids
        assert found.target[-1] == EOS and len(found.target) > 1
    finally:
        reader.tokenizer.chat_template = None


def test_labels_are_shifted_once(reader: Reader) -> None:
    """Position t holds the token after t: the first answer token counts, what follows EOS not."""
    batch = collate(
        [Sample("a", (5, 6, 7), (8, 9, 1)), Sample("b", (2,), (3, 1)), BLANK],
        seq2seq=False,
        start=[],
        pad=0,
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [2, 3, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [
        [-100, -100, 8, 9, 1],
        [3, 1, -100, -100, -100],
        [-100] * 5,
    ]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_an_encoder_decoder_reads_and_writes_apart(t5: Reader) -> None:
    batch = collate([Sample("a", (5, 6, 7), (8, 9, 1)), BLANK], seq2seq=True, start=t5.start, pad=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 0]]
    assert batch["decoder_input_ids"].tolist() == [[0, 8, 9], [0, 0, 0]]
    assert batch["labels"].tolist() == [[8, 9, 1], [-100] * 3]
    (found,) = samples(task(Example("a", "The team", "asked for a remote")), t5, 100)
    assert list(found.prompt) == t5.prompts.encode("The team").ids
    assert found.target[-1] == 1 and found.target.count(1) == 1


def test_running_text_comes_in_pieces(reader: Reader) -> None:
    text = "The marketing team asked for a remote control that is easy to use. " * 5
    found = samples(task(Example("a", "", text), kind="text"), reader, 16)
    ids = [token for piece in found for token in piece.target]
    assert ids == reader.prompts.plain(text) and len(found) > 2
    assert all(len(piece) <= 16 and piece.prompt == (reader.prompts.start_id,) for piece in found)


def test_a_choice_is_learnt_as_it_is_scored(reader: Reader) -> None:
    example = Example("q", "Question: is it?\nAnswer:", "yes", choices=("yes", "no"))
    (found,) = samples(task(example, kind="choice"), reader, 100)
    want = reader.prompts.split(example.prompt, " yes")
    assert (list(found.prompt), list(found.target[:-1])) == (want[0].ids, want[1])


def test_too_long_is_said_not_cut(reader: Reader) -> None:
    examples = [Example("short", "a", "b"), Example("long", "word " * 50, "b")]
    with pytest.raises(TrainingError, match=r"1 of 2 examples .*long has .*--max-length"):
        samples(task(*examples), reader, 20)


def test_nothing_to_learn(reader: Reader, t5: Reader) -> None:
    with pytest.raises(TrainingError, match=r"none of its 2 examples has a target"):
        samples(task(Example("a", "b"), Example("c", "d")), reader, 20)
    with pytest.raises(TrainingError, match="encoder-decoder"):
        samples(task(Example("a", "", "text"), kind="text"), t5, 20)


def test_a_model_without_an_end_token(reader: Reader) -> None:
    end = reader.tokenizer.eos_token
    reader.tokenizer.eos_token = None
    try:
        with pytest.raises(TrainingError, match="no end token"):
            samples(task(Example("a", "b", "c")), reader, 20)
    finally:
        reader.tokenizer.eos_token = end


def test_a_key_is_of_tokens_and_of_where_the_answer_begins() -> None:
    keys = {
        Sample("a", (1, 2), (3,)).key,
        Sample("b", (1,), (2, 3)).key,
        Sample("c", (1, 2), (4,)).key,
    }
    assert len(keys) == 3
    assert Sample("a", (1, 2), (3,)).key == Sample("other id", (1, 2), (3,)).key


def test_few_shapes_for_many_lengths() -> None:
    """Every new width costs memory: from 32 on there are few, and padding has no label."""
    widths = set()
    for length in range(2, 200):
        sample = Sample("a", tuple(range(length)), (7, 8))
        batch = collate([sample], seq2seq=False, start=[], pad=0)
        found = batch["input_ids"].shape[1]
        assert found >= length + 1 and batch["labels"].shape == batch["attention_mask"].shape
        assert int((batch["labels"] != -100).sum()) == 2
        assert int(batch["attention_mask"].sum()) == length + 1
        widths.add(found)
    assert len([width for width in widths if width > 31]) == 7
