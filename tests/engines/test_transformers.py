"""The transformers engine against plain forwards, on tiny random models made here."""

import asyncio
import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_t5 import unigram  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402

from featherweight.engines import hf_score  # noqa: E402
from featherweight.engines.openai import OpenAIEngine  # noqa: E402
from featherweight.engines.transformers import TransformersEngine, choose_dtype  # noqa: E402
from featherweight.engines.types import Message, Prompt, Request  # noqa: E402
from featherweight.errors import ContextLengthError, EngineError  # noqa: E402

pytestmark = pytest.mark.model

TEXTS = [
    "The marketing team asked for a remote control that is easy to use.",
    "Größe, naïve, café: the summary keeps every letter 🎉🇫🇷 as it was.",
    "We decided to postpone the meeting; nobody objected to the new budget.",
] * 5
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT: list[Message] = [{"role": "user", "content": "What was decided?"}]


def byte_level(folder: Path) -> None:
    """A byte-level BPE tokenizer with BOS and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = "<s>" + TEMPLATE
    fast.save_pretrained(folder)


def sentence_piece(folder: Path) -> None:
    """A unigram tokenizer as T5 has it."""
    tokenizer = unigram(TEXTS, 200)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    byte_level(folder)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
        initializer_range=0.4,
    )
    model = transformers.LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [1, 2]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def t5_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    sentence_piece(folder)
    torch.manual_seed(2)
    config = transformers.T5Config(
        vocab_size=200,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        initializer_factor=1.0,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(llama_dir: Path) -> TransformersEngine:
    return TransformersEngine.open(str(llama_dir), dtype="fp32", device="cpu")


@pytest.fixture(scope="session")
def t5(t5_dir: Path) -> TransformersEngine:
    return TransformersEngine.open(str(t5_dir), dtype="fp32", device="cpu")


@pytest.fixture(params=["llama", "t5"])
def engine(request: pytest.FixtureRequest) -> TransformersEngine:
    found: TransformersEngine = request.getfixturevalue(request.param)
    return found


MIXED = [
    Request("The team", max_tokens=12, top_logprobs=3),
    Request("We decided to postpone the meeting; nobody objected", max_tokens=5),
    Request(CHAT, max_tokens=30, temperature=1.0, seed=3),
    Request(CHAT, max_tokens=30, temperature=1.0, seed=4),
    Request("a", max_tokens=20, stop=("e", "an"), temperature=0.8, seed=5),
    Request("The marketing team asked for a remote control", max_tokens=1),
]


def oracle(engine: TransformersEngine, prompt: list[int], ids: list[int]) -> list[float]:
    """Log-probabilities of `ids` after `prompt` by one plain forward without cache or padding."""
    model = engine._model.raw
    with torch.no_grad():
        if engine._seq2seq:
            decoder = torch.tensor([[0, *ids[:-1]]])
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder).logits[0]
        else:
            logits = model(input_ids=torch.tensor([prompt + ids[:-1]])).logits[0, len(prompt) - 1 :]
    rows = torch.log_softmax(logits.float(), -1)
    return [rows[i, token].item() for i, token in enumerate(ids)]


def close(a: Any, b: Any) -> bool:
    """Equal but for float32 rounding, which differs with the shapes of a batch."""
    pairs = zip(a, b, strict=True)
    return all(math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-4) for x, y in pairs)


def test_a_batch_answers_as_one_by_one(engine: TransformersEngine) -> None:
    together = list(engine.generate(MIXED))
    alone = [next(engine.generate([request])) for request in MIXED]
    for request, a, b in zip(MIXED, together, alone, strict=True):
        assert a.error is None and a.token_ids == b.token_ids and a.text == b.text
        assert a.finish_reason == b.finish_reason and a.completion_tokens == b.completion_tokens
        assert a.prompt_tokens == engine.count_tokens(request.prompt)
        assert a.token_logprobs is not None and b.token_logprobs is not None
        assert close(a.token_logprobs, b.token_logprobs)
        assert a.completion_tokens <= request.max_tokens
    assert together[2].token_ids != together[3].token_ids  # other seed, other answer


@pytest.mark.parametrize("budget", [1, 60, 100_000])
def test_the_batch_size_does_not_matter(llama_dir: Path, llama: Any, budget: int) -> None:
    small = TransformersEngine(
        llama._model.raw, llama._prompts._tokenizer, name="small", batch_tokens=budget
    )
    for a, b in zip(small.generate(MIXED), llama.generate(MIXED), strict=True):
        assert a.token_ids == b.token_ids


def test_logprobs_are_the_models_own(engine: TransformersEngine) -> None:
    for request, answer in zip(MIXED, engine.generate(MIXED), strict=True):
        assert answer.token_ids is not None and answer.token_logprobs is not None
        if answer.token_ids:
            plain = oracle(
                engine, engine._prompts.encode(request.prompt).ids, list(answer.token_ids)
            )
            assert close(answer.token_logprobs, plain)
    top = next(engine.generate(MIXED[:1])).top_logprobs
    assert top is not None and all(len(alternatives) == 3 for alternatives in top)
    assert all(a[0].logprob >= a[1].logprob >= a[2].logprob for a in top)


def test_greedy_tokens_equal_generate(engine: TransformersEngine) -> None:
    for text in ("The team", "We decided to postpone the meeting"):
        answer = next(engine.generate([Request(text, max_tokens=24)]))
        ids = engine._prompts.encode(text).ids
        expected = engine._model.raw.generate(
            torch.tensor([ids]), max_new_tokens=24, do_sample=False
        )[0].tolist()
        expected = expected[1:] if engine._seq2seq else expected[len(ids) :]
        assert list(answer.token_ids or ()) == expected


class OfTheAnswer(transformers.NoRepeatNGramLogitsProcessor):  # type: ignore[misc]
    """transformers' own, which counts a decoder-only model's prompt too, without the prompt."""

    def __init__(self, n: int, prompt: int) -> None:
        super().__init__(n)
        self._prompt = prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = super().__call__(input_ids[:, self._prompt :], scores)
        return found


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_answer_does_not_repeat_itself(engine: TransformersEngine, n: int) -> None:
    texts = ("The team", "We decided to postpone the meeting", "a a a a")
    free = [Request(text, max_tokens=60) for text in texts]
    blocked = [replace(request, no_repeat=n) for request in free]
    changed = 0
    for plain, request, answer in zip(
        engine.generate(free), blocked, engine.generate([*blocked, *MIXED]), strict=False
    ):
        ids = list(answer.token_ids or ())
        grams = [tuple(ids[at : at + n]) for at in range(len(ids) - n + 1)]
        assert len(set(grams)) == len(grams)
        prompt = engine._prompts.encode(request.prompt).ids
        given = 1 if engine._seq2seq else len(prompt)  # T5's start token is no part of the answer
        expected = engine._model.raw.generate(
            torch.tensor([prompt]),
            max_new_tokens=60,
            do_sample=False,
            logits_processor=transformers.LogitsProcessorList([OfTheAnswer(n, given)]),
        )[0].tolist()
        assert ids == expected[given:]
        assert close(answer.token_logprobs, oracle(engine, prompt, ids))  # the model's own
        changed += ids != list(plain.token_ids or ())
    assert changed


def test_sampling_does_not_repeat_either(llama: TransformersEngine) -> None:
    request = Request("The team", max_tokens=100, temperature=0.3, no_repeat=2)
    for answer in llama.generate([replace(request, seed=seed) for seed in range(4)]):
        ids = answer.token_ids or ()
        assert len(set(pairwise(ids))) == len(ids) - 1


SHAPE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
BART = {
    "vocab_size": 400,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 256,
    "init_std": 0.3,
    "pad_token_id": 2,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
}
KINDS = {
    "a sliding window and capped logits": ("Gemma2Config", SHAPE | {"sliding_window": 8}),
    "learned positions": ("GPT2Config", SHAPE | {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "no positions": ("BloomConfig", SHAPE | {"n_layer": 2, "n_head": 4}),
    "a forced first token": ("BartConfig", BART),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_other_kinds_of_models(kind: str, llama: TransformersEngine) -> None:
    name, settings = KINDS[kind]
    config = getattr(transformers, name)(**settings)
    torch.manual_seed(4)
    auto = transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        auto = transformers.AutoModelForSeq2SeqLM
    model = auto.from_config(config)
    if config.is_encoder_decoder:
        model.generation_config.forced_bos_token_id = 0
        model.generation_config.forced_eos_token_id = None
    engine = TransformersEngine(model, llama._prompts._tokenizer, name=kind)
    together = list(engine.generate(MIXED))
    for a, b in zip(together, (next(engine.generate([r])) for r in MIXED), strict=True):
        assert a.error is None and a.token_ids == b.token_ids
        assert close(a.token_logprobs, b.token_logprobs)
    ids = engine._prompts.encode("We decided").ids
    expected = model.generate(
        torch.tensor([ids]), max_new_tokens=13, do_sample=False, pad_token_id=2
    )[0].tolist()
    own = next(engine.generate([Request("We decided", max_tokens=12)])).token_ids
    start = len(ids) if not config.is_encoder_decoder else 2  # start token and the forced one
    assert list(own or ()) == expected[start : start + 12]
    pairs: list[tuple[Prompt, str]] = [("The team", " asked for a remote"), ("We decided", " x")]
    for pair, found in zip(pairs, engine.score(pairs), strict=True):
        assert close(found, next(engine.score([pair])))


def test_models_without_a_cache_are_refused(llama: TransformersEngine) -> None:
    config = transformers.MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2)
    model = transformers.AutoModelForCausalLM.from_config(config)
    engine = TransformersEngine(model, llama._prompts._tokenizer, name="mamba")
    with pytest.raises(EngineError, match=r"mamba: .*cache"):
        next(engine.generate(MIXED))


def test_every_end_token_of_the_model_ends_and_is_scored(llama: TransformersEngine) -> None:
    for end in (1, 2):
        bias = torch.zeros(400)
        bias[end] = 1e4
        head = llama._model.raw.lm_head
        handle = head.register_forward_hook(lambda *args, bias=bias: args[2] + bias)
        try:
            answer = next(llama.generate([Request("The team", max_tokens=9)]))
        finally:
            handle.remove()
        assert answer.token_ids == (end,) and answer.finish_reason == "stop"
        assert answer.text == "" and answer.completion_tokens == 1
        assert answer.token_logprobs == (0.0,)


def test_a_stop_string_cuts_text_and_tokens(engine: TransformersEngine) -> None:
    request = Request("The team", max_tokens=24, temperature=3.0)
    whole = next(engine.generate([request]))
    stop = next(c for c in whole.text[1:] if c.isascii() and c not in whole.text[:1])
    cut = next(engine.generate([replace(request, stop=(stop,))]))
    assert cut.finish_reason == "stop" and cut.text == whole.text.split(stop)[0]
    assert cut.token_ids is not None and whole.token_ids is not None
    kept = len(cut.token_ids)
    assert kept < len(whole.token_ids) and cut.token_ids == whole.token_ids[:kept]
    assert cut.token_logprobs is not None and len(cut.token_logprobs) == kept
    assert cut.completion_tokens >= kept


def test_a_stream_gives_what_generate_gives(engine: TransformersEngine) -> None:
    for request in MIXED:
        deltas = list(engine.stream(request))
        answer = next(engine.generate([request]))
        assert "".join(delta.text for delta in deltas) == answer.text
        assert all(delta.generation is None for delta in deltas[:-1])
        streamed = deltas[-1].generation
        assert streamed is not None and streamed.token_ids == answer.token_ids
        logprobs = [x for delta in deltas for x in delta.token_logprobs or ()]
        assert answer.token_logprobs is not None and close(logprobs, answer.token_logprobs)
        assert (streamed.top_logprobs is None) == (request.top_logprobs == 0)
        tops = tuple(top for delta in deltas for top in delta.top_logprobs or ())
        assert tops == (streamed.top_logprobs or ())
        for delta in deltas:
            delta.text.encode()  # no half surrogates


def test_an_asynchronous_stream(llama: TransformersEngine) -> None:
    async def read() -> str:
        return "".join([delta.text async for delta in llama.astream(MIXED[0])])

    assert asyncio.run(read()) == next(llama.generate(MIXED[:1])).text


def test_token_bytes_join_to_the_text(engine: TransformersEngine) -> None:
    for text in TEXTS[:3]:
        ids = engine._prompts._tokenizer(text, add_special_tokens=False).input_ids
        joined = b"".join(map(engine._vocabulary.bytes_of, ids)).decode()
        plain = engine._prompts._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert joined.removeprefix(" ") == plain.removeprefix(" ")


@pytest.mark.parametrize("rows", [1, 3, 512])
def test_scores_equal_a_plain_forward(
    engine: TransformersEngine, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_score, "SCORE_ROWS", rows)
    pairs: list[tuple[Prompt, str]] = [
        ("The team", " asked for a remote control that is easy to use."),
        ("We decided to post", "pone"),
        (CHAT, "nobody objected"),
        ("The marketing team asked for a remote control", " x"),
        ("We", ""),
        ("", "The meeting"),
    ]
    scores = list(engine.score(pairs))
    for (prompt, text), found in zip(pairs, scores, strict=True):
        (before, _), target = engine._prompts.split(prompt, text)
        assert len(found) == len(target)
        if target:
            assert close(found, oracle(engine, before, target))
        assert close(found, next(engine.score([(prompt, text)])))


def test_a_token_across_the_boundary_is_scored(llama: TransformersEngine) -> None:
    whole = llama._prompts._tokenizer("The team").input_ids
    (before, _), target = llama._prompts.split("The te", "am")
    assert before + target == whole
    assert "".join(llama._vocabulary.bytes_of(t).decode() for t in target).endswith("am")
    assert len("".join(llama._vocabulary.bytes_of(t).decode() for t in target)) >= 2
    assert before[0] == 0  # BOS is read, never scored


def test_tokens_are_counted_with_template_and_bos(llama: Any, t5: Any) -> None:
    assert llama.count_tokens("The team") == len(llama._prompts._tokenizer("The team").input_ids)
    chat = llama._prompts._tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, return_dict=True
    )
    assert llama.count_tokens(CHAT) == len(chat["input_ids"])
    assert llama.count_tokens("") == 1
    two: list[Message] = [{"role": "system", "content": "Be brief."}, *CHAT]
    assert t5.count_tokens(two) == t5.count_tokens("Be brief.\n\nWhat was decided?")
    assert llama.counts_tokens and llama.params < t5.params
    # layers x heads x size; an encoder looks both ways, so its layers count twice
    assert llama.attention_width == 2 * 4 * 8 and t5.attention_width == 2 * 2 * 4 * 8


def test_a_server_counts_with_a_local_tokenizer(llama_dir: Path, t5_dir: Path, llama: Any) -> None:
    remote = OpenAIEngine("http://127.0.0.1:9", "m", tokenizer=str(llama_dir))
    for prompt in (CHAT, "The team"):
        assert remote.count_tokens(prompt) == llama.count_tokens(prompt)
    assert remote.counts_tokens
    remote.close()
    without = OpenAIEngine("http://127.0.0.1:9", "m", tokenizer=str(t5_dir))
    assert without.count_tokens("The team") > 1
    with pytest.raises(EngineError, match="chat template"):
        without.count_tokens(CHAT)
    without.close()


def test_a_request_that_fails_does_not_stop_the_rest(llama: TransformersEngine) -> None:
    requests = [
        Request("The team", max_tokens=2),
        Request("The team", max_tokens=300),
        Request([{"role": "tool", "content": "x"}]),
        Request("x", max_tokens=0),
        Request("The team", max_tokens=2, top_logprobs=401),
        Request("The team", max_tokens=2),
    ]
    answers = list(llama.generate(requests))
    assert [a.finish_reason for a in answers] == ["length", *["error"] * 4, "length"]
    assert "300" in str(answers[1].error) and "256" in str(answers[1].error)
    assert "chat template" in str(answers[2].error) and "no tools" in str(answers[2].error)
    with pytest.raises(ContextLengthError):
        list(llama.stream(requests[1]))
    with pytest.raises(ContextLengthError):
        list(llama.score([("The team " * 300, "x")]))
    with pytest.raises(EngineError, match="cut in half"):
        list(llama.score([("The team", "\ud83d")]))
    assert list(llama.generate([])) == [] and list(llama.score([])) == []


def test_weights_that_give_no_numbers_are_named(llama_dir: Path) -> None:
    broken = TransformersEngine.open(str(llama_dir), dtype="fp32", device="cpu")
    broken._model.raw.model.norm.weight.data.fill_(math.nan)
    answer = next(broken.generate([Request("The team", max_tokens=9)]))
    assert answer.finish_reason == "error" and "not a number" in str(answer.error)
    broken.close()
    broken.close()
    with pytest.raises(EngineError, match="closed"):
        next(broken.generate([Request("The team", max_tokens=9)]))


def test_what_cannot_be_opened(llama_dir: Path, tmp_path: Path) -> None:
    def refused(name: str, message: str, **settings: Any) -> None:
        with pytest.raises(EngineError, match=message):
            TransformersEngine.open(name, device="cpu", **settings)

    refused(str(tmp_path / "nowhere"), "not a directory")
    refused("featherweight/no-such-model", "hf download")
    refused(str(llama_dir), "auto, fp32 or bf16", dtype="int3")
    refused(str(llama_dir / "config.json"), "is a file")
    refused(str(tmp_path), "no model weights")
    pickled = tmp_path / "pickled"
    shutil.copytree(llama_dir, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(str(pickled), "pickled")
    foreign = tmp_path / "foreign"
    shutil.copytree(llama_dir, foreign)
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    refused(str(foreign), "not a whole language model")
    (foreign / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}})
    )
    refused(str(foreign), "cannot be opened")
    (foreign / "config.json").write_text("{")
    refused(str(foreign), "cannot be opened")


def test_an_adapter_over_its_base(llama: Any, llama_dir: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(llama_dir)
    torch.manual_seed(3)
    tuned = peft.get_peft_model(
        base, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    tuned.save_pretrained(tmp_path)
    engine = TransformersEngine.open(str(tmp_path), dtype="fp32", device="cpu")
    assert engine.params == llama.params + 2 * 2 * (32 + 32)
    assert engine.attention_width == llama.attention_width
    assert engine.context_length == 256
    pairs = [("The team", " asked for a remote control")]
    assert not close(next(engine.score(pairs)), next(llama.score(pairs)))
    answer = next(engine.generate([Request("The team", max_tokens=8)]))
    assert answer.token_ids is not None and answer.token_logprobs is not None
    assert close(
        answer.token_logprobs,
        oracle(engine, engine._prompts.encode("The team").ids, list(answer.token_ids)),
    )
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(EngineError, match="pickled"):
        TransformersEngine.open(str(tmp_path), device="cpu")


def test_the_dtype_and_its_reason_can_be_read(llama: Any, t5: Any, llama_dir: Path) -> None:
    assert (llama.dtype, llama.dtype_reason) == ("float32", "asked for")
    auto = TransformersEngine.open(str(llama_dir), device="cpu")
    chosen, reason = choose_dtype("auto", "cpu")
    assert auto.dtype == str(chosen).removeprefix("torch.") and auto.dtype_reason == reason
    assert next(auto.generate([Request("The team", max_tokens=3)])).error is None
    assert (llama.context_length, t5.context_length) == (256, 4096)
    given = TransformersEngine.open(str(llama_dir), device="cpu", context_length=20)
    assert given.context_length == 20


# ---- beginnings to continue, and text that stays text


def begun(beginning: str) -> list[Message]:
    return [*CHAT, {"role": "assistant", "content": beginning}]


@pytest.mark.parametrize("beginning", ["The team ", "  s", "e", "</s> and <end>", "user>"])
def test_a_beginning_is_continued(llama: TransformersEngine, beginning: str) -> None:
    """The ids end with the beginning, neither closed nor opened again; only what follows counts."""
    tokenizer, prompts = llama._prompts._tokenizer, llama._prompts
    ids = prompts.encode(begun(beginning)).ids
    said = prompts.harmless(beginning)
    assert tokenizer.decode(ids) == f"<s><user>What was decided?\n<assistant>{said}"
    answer = next(llama.generate([Request(begun(beginning), max_tokens=9)]))
    assert answer.prompt_tokens == len(ids) == llama.count_tokens(begun(beginning))
    assert answer.token_ids is not None and answer.token_logprobs is not None
    assert close(answer.token_logprobs, oracle(llama, ids, list(answer.token_ids)))
    (again,) = llama.score([(begun(beginning), " objected")])
    before, target = prompts.split(begun(beginning), " objected")
    assert close(again, oracle(llama, before.ids, target))


def test_a_decoder_goes_on_from_its_beginning(t5: TransformersEngine) -> None:
    """The encoder-decoder reads the beginning in its decoder; batched with others or alone."""
    tokenizer = t5._prompts._tokenizer
    asked = t5._prompts.encode(CHAT).ids
    texts = ["The team", "We decided to postpone", "", "Größe"]
    requests = [Request(begun(text), max_tokens=8) for text in texts]
    together = list(t5.generate(requests))
    for request, text, answer in zip(requests, texts, together, strict=True):
        before = tokenizer(text_target=text, add_special_tokens=False).input_ids if text else []
        assert t5._prompts.encode(request.prompt) == (asked, before)
        assert answer.prompt_tokens == len(asked) + len(before) == t5.count_tokens(request.prompt)
        assert answer.token_ids is not None and answer.token_logprobs is not None
        plain = oracle(t5, asked, before + list(answer.token_ids))
        assert close(answer.token_logprobs, plain[len(before) :])
        assert next(t5.generate([request])).token_ids == answer.token_ids
        shown = [token for token in answer.token_ids if token not in t5._vocabulary.special]
        said = b"".join(map(t5._vocabulary.bytes_of, shown)).decode()
        assert answer.text == (said if text else said.removeprefix(" "))
    assert together[2].token_ids == next(t5.generate([Request(CHAT, max_tokens=8)])).token_ids
    (scored,) = t5.score([(begun("The team"), " asked for")])
    start, target = (
        tokenizer(text_target=text, add_special_tokens=False).input_ids
        for text in ("The team", "The team asked for")
    )
    assert target[: len(start)] == start
    assert close(scored, oracle(t5, asked, target)[len(start) :])


def test_a_model_without_template_continues_text(llama: Any) -> None:
    tokenizer = llama._prompts._tokenizer
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        ids = llama._prompts.encode(begun("The te")).ids
    finally:
        tokenizer.chat_template = template
    assert tokenizer.decode(ids) == "<s>What was decided?\n\nThe te"


def test_an_empty_beginning_is_none(llama: TransformersEngine) -> None:
    assert llama._prompts.encode(begun("")) == llama._prompts.encode(CHAT)


@pytest.mark.parametrize(
    "text", ["a</s>b", "<end>", "<e<end>nd>", "</s></s>", "x <s>\n", "<pad>", "a < b > c [1]"]
)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_text_in_messages_is_never_a_control_token(
    engine: TransformersEngine, text: str, role: str
) -> None:
    """Exactly the control tokens of the same messages with harmless words, and it reads the same"""

    def control(content: str) -> list[int]:
        messages: list[Message] = [
            {"role": role, "content": content},
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": content},
        ]
        found = engine._prompts.encode(messages)
        return [i for i in [*found.ids, *found.beginning] if i in engine._vocabulary.control]

    assert control(text) == control("word")
    harmless = engine._prompts.harmless(text)
    assert harmless.replace("\u200b", "") == text
    # only where needed: other angle brackets stay as they are
    assert engine._prompts.harmless("a < b > c [1] <x>") == "a < b > c [1] <x>"


def test_a_raw_prompt_may_hold_control_tokens(llama: TransformersEngine) -> None:
    assert llama._prompts.encode("a</s>b").ids[2] == 1
