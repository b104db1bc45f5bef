"""A bank against what it means: plain forwards on [prompt; input], scores from the definition."""

import copy
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_banks import (  # noqa: E402
    LAYERS,
    WHOLE,
    WIDTH,
    M,
    N,
    random_prompts,
    save_tiny_bank,
    save_tiny_whole,
    tiny_whole,
)
from tiny_llama import save_tiny_llama  # noqa: E402
from tiny_stacks import save_tiny, tiny  # noqa: E402

from featherweight.distill.settings import Settings  # noqa: E402
from featherweight.distill.train import train  # noqa: E402
from featherweight.engines import load_engine  # noqa: E402
from featherweight.engines.hf_bank import KNOWN, Bank, Selection, Stored, read_bank  # noqa: E402
from featherweight.engines.hf_model import Model, pad  # noqa: E402
from featherweight.engines.hf_prompts import Encoded  # noqa: E402
from featherweight.engines.identity import identity  # noqa: E402
from featherweight.engines.transformers import TransformersEngine  # noqa: E402
from featherweight.engines.types import Request  # noqa: E402
from featherweight.errors import ContextLengthError, EngineError, TrainingError  # noqa: E402
from featherweight.tasks import Example, Task  # noqa: E402

pytestmark = pytest.mark.model

ROWS = [
    torch.randint(2, 360, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (5, 1, 12, 3, 8, 2, 9)
]
"""Very unequal, so that most are padded."""
DEEP = 2


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: tiny_whole(kind) for kind in WHOLE}


def bank_of(model: Any, prompts: Any = None, **selection: Any) -> Bank:
    tensors = {"prompts": random_prompts() if prompts is None else prompts}
    return Bank(model, Stored("base", None, Selection(**selection), tensors), "bank")


def behind(raw: Any, bank: Bank | None) -> Model:
    """The forwards of a model with this bank in front; the module itself stays as it is."""
    found = Model(raw, "the model")
    found.bank = bank
    return found


def encoded(rows: Any = ROWS) -> list[Encoded]:
    return [Encoded(list(row), []) for row in rows]


def winners(bank: Bank, rows: Any = ROWS) -> list[int]:
    found: list[int] = bank.choose(*pad(rows, left=True, device="cpu")).tolist()
    return found


@torch.no_grad()
def plain(raw: Any, prompt: Any, ids: list[int]) -> Any:
    """Logits [T, V] of `ids` behind a prompt's embeddings, in one forward without a cache."""
    read = raw.get_input_embeddings()(torch.tensor(ids))
    embeds = torch.cat([prompt.to(read.dtype), read])[None]
    return raw(inputs_embeds=embeds, use_cache=False).logits[0, len(prompt) :]


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a.float(), b.float(), rtol=1e-4, atol=1e-4)


# -- the oracle: q and k as the model's own code turns them, prompts blind to each other


@contextmanager
def turned(raw: Any) -> Iterator[list[tuple[Any, Any]]]:
    """Queries [1, H, S, d] and keys [1, KV, S, d] of every layer, behind the model's rotation."""
    module = sys.modules[type(raw).__module__]
    rotate, seen = module.apply_rotary_pos_emb, []

    def note(*args: Any, **kwargs: Any) -> Any:
        found = rotate(*args, **kwargs)
        seen.append(found)
        return found

    module.apply_rotary_pos_emb = note
    try:
        yield seen
    finally:
        module.apply_rotary_pos_emb = rotate


def eager(raw: Any) -> Any:
    """A copy in float64 whose attention is written out."""
    found = copy.deepcopy(raw).double()
    found.set_attn_implementation("eager")
    return found


@torch.no_grad()
def read_all(raw: Any, prompts: Any, ids: list[int], seen: dict[int, list[int]], given: int) -> Any:
    """One forward over all prompts and then `ids`, each prompt at positions 0 to n.

    Layer i's tokens see the prompts `seen[i]`; tokens from number `given` on see the last layer's
    everywhere. Logits [T, V], and queries and keys of every layer.
    """
    m, n = prompts.shape[:2]
    every, length = m * n, len(ids)
    read = raw.get_input_embeddings()(torch.tensor(ids))
    embeds = torch.cat([prompts.flatten(0, 1).to(read.dtype), read])[None]
    places = torch.tensor([[*range(n)] * m + [*range(n, n + length)]])
    masks = []
    for layer in sorted(seen):
        mask = torch.zeros(every + length, every + length, dtype=torch.bool)
        for k in range(m):
            own = slice(k * n, k * n + n)
            mask[own, own] = torch.ones(n, n).tril().bool()
        for row in range(length):
            for k in seen[layer] if row < given else seen[max(seen)]:
                mask[every + row, k * n : k * n + n] = True
            mask[every + row, every : every + row + 1] = True
        never = torch.finfo(embeds.dtype).min
        masks.append(torch.zeros(mask.shape, dtype=embeds.dtype).masked_fill(~mask, never)[None])

    def hook(number: int) -> Any:
        def put(_block: Any, args: Any, kwargs: Any) -> Any:
            return args, kwargs | {"attention_mask": masks[number][None]}

        return put

    hooks = [
        block.register_forward_pre_hook(hook(number), with_kwargs=True)
        for number, block in enumerate(raw.model.layers)
    ]
    with turned(raw) as found:
        out = raw(inputs_embeds=embeds, position_ids=places, use_cache=False)
    for one in hooks:
        one.remove()
    return out.logits[0, every:], found


def all_seen(m: int = M) -> dict[int, list[int]]:
    return {layer: list(range(m)) for layer in range(LAYERS)}


def by_definition(
    raw: Any, prompts: Any, ids: list[int], layer: int, tokens: str, first_key: bool
) -> list[float]:
    """Each prompt's mean of q.k over heads, tokens and keys, one product at a time."""
    m, n = prompts.shape[:2]
    _, found = read_all(raw, prompts, ids, all_seen(m), len(ids))
    queries, keys = (part[0] for part in found[layer])
    shared = len(queries) // len(keys)
    asking = range(m * n, m * n + len(ids)) if tokens == "all" else [m * n + len(ids) - 1]
    scores = []
    for k in range(m):
        counted = range(k * n + (0 if first_key else 1), k * n + n)
        products = [
            queries[h, t] @ keys[h // shared, j]
            for h in range(len(queries))
            for t in asking
            for j in counted
        ]
        scores.append(float(torch.stack(products).mean()))
    return scores


# -- layer 0: the output is the winner's own


@pytest.mark.parametrize("kind", KNOWN)
def test_a_batch_reads_and_writes_as_each_row_behind_its_winner(
    models: dict[str, Any], kind: str
) -> None:
    raw = models[kind]
    bank = bank_of(raw)
    model, prompts = behind(raw, bank), random_prompts()
    state, logits = model.prefill(encoded())
    assert state.chosen is not None
    chosen = state.chosen.tolist()
    assert chosen == winners(bank) and len(set(chosen)) > 1
    live, texts = list(range(len(ROWS))), [list(row) for row in ROWS]
    for step in range(6):
        want = torch.stack([plain(raw, prompts[chosen[i]], texts[i])[-1] for i in live])
        close(logits, want)
        if step == 3:  # rows that are done leave
            live = [0, 2, 3, 6]
            state.keep(live)
            logits = logits[live]
            assert state.chosen.tolist() == [chosen[i] for i in live]
        tokens = logits.argmax(-1).tolist()
        for i, token in zip(live, tokens, strict=True):
            texts[i].append(token)
        logits = model.advance(state, tokens)


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("layer", [0, DEEP])
def test_scores_are_the_definition(models: dict[str, Any], kind: str, layer: int) -> None:
    raw, prompts = models[kind], random_prompts()
    ids, mask = pad(ROWS[:4], left=True, device="cpu")
    slow = eager(raw)
    for tokens, first in itertools.product(("all", "last"), (True, False)):
        if kind != "llama" and (tokens == "last") == first:
            continue
        want = torch.tensor(
            [by_definition(slow, prompts, row, layer, tokens, first) for row in ROWS[:4]]
        )
        bank = bank_of(raw, layer=layer, tokens=tokens, first_key=first)
        got = bank.scores(ids, mask)
        close(got, want)
        assert float((want.amax(1) - want.amin(1)).min()) > 1e-2  # the tolerance tells them apart
        usual = (0.5, -2.0, 0.25)
        other = bank_of(raw, layer=layer, tokens=tokens, first_key=first, usual=usual)
        close(other.scores(ids, mask), want - torch.tensor(usual))
        assert other.choose(ids, mask).tolist() == (want - torch.tensor(usual)).argmax(1).tolist()


def test_a_prompt_of_one_place_counts_its_only_key(models: dict[str, Any]) -> None:
    prompts = random_prompts(n=1)
    ids, mask = pad(ROWS, left=True, device="cpu")
    one, other = (bank_of(models["llama"], prompts, first_key=first) for first in (True, False))
    assert one.scores(ids, mask).isfinite().all()
    torch.testing.assert_close(one.scores(ids, mask), other.scores(ids, mask), rtol=0, atol=0)


def test_keys_are_those_of_each_prompt_alone(models: dict[str, Any]) -> None:
    raw, prompts = models["qwen3"], random_prompts()
    bank = bank_of(raw)
    for k, prompt in enumerate(prompts):
        with torch.no_grad():
            cache = raw.model(inputs_embeds=prompt[None], use_cache=True).past_key_values
        for (keys, values), layer in zip(bank._pairs(), cache.layers, strict=True):
            close(keys[k], layer.keys[0])
            close(values[k], layer.values[0])


@pytest.mark.parametrize("selection", [{}, {"layer": DEEP}, {"layer": DEEP, "passes": 1}])
def test_stored_keys_are_computed_keys(models: dict[str, Any], selection: dict[str, Any]) -> None:
    """What prefix tuning stores, put where a prompt's keys would be computed."""
    raw = models["qwen2"]
    bank = bank_of(raw, **selection)
    keys, values = (
        torch.stack([pair[part].clone() for pair in bank._pairs()], 1) for part in (0, 1)
    )
    stored = Stored("base", None, Selection(**selection), {"keys": keys, "values": values})
    same = Bank(raw, stored, "bank")
    assert (same.m, same.n, stored.m, stored.n) == (M, N, M, N)
    assert same.parameters == 2 * keys.numel() and bank.parameters == M * N * WIDTH
    one, other = (behind(raw, found).prefill(encoded()) for found in (bank, same))
    torch.testing.assert_close(one[1], other[1], rtol=0, atol=0)
    assert one[0].chosen.tolist() == other[0].chosen.tolist()


@pytest.mark.parametrize("selection", [{}, {"layer": DEEP}, {"layer": DEEP, "passes": 1}])
def test_the_order_of_prompts_does_not_matter(
    models: dict[str, Any], selection: dict[str, Any]
) -> None:
    raw, order = models["llama"], [2, 0, 1]
    one = behind(raw, bank_of(raw, **selection))
    other = behind(raw, bank_of(raw, random_prompts()[order], **selection))
    (state, logits), (permuted, same) = one.prefill(encoded()), other.prefill(encoded())
    assert [order[k] for k in permuted.chosen.tolist()] == state.chosen.tolist()
    close(logits, same)
    for _ in range(4):
        tokens = logits.argmax(-1).tolist()
        logits, same = one.advance(state, tokens), other.advance(permuted, tokens)
        close(logits, same)


@pytest.mark.parametrize("selection", [{}, {"layer": DEEP}, {"layer": DEEP, "passes": 1}])
def test_one_prompt_is_prompt_tuning(
    models: dict[str, Any], selection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, prompts = models["llama"], random_prompts(1)
    model = behind(raw, bank_of(raw, prompts, **selection))
    monkeypatch.setattr(Bank, "scores", lambda *_: pytest.fail("there is nothing to choose"))
    state, logits = model.prefill(encoded())
    assert state.chosen.tolist() == [0] * len(ROWS)
    close(logits, torch.stack([plain(raw, prompts[0], row)[-1] for row in ROWS]))


@pytest.mark.parametrize("selection", [{}, {"layer": DEEP}, {"layer": DEEP, "passes": 1}])
def test_each_row_of_a_batch_chooses_by_itself(
    models: dict[str, Any], selection: dict[str, Any]
) -> None:
    raw = models["llama"]
    model = behind(raw, bank_of(raw, **selection))
    state, logits = model.prefill(encoded())
    assert len(set(state.chosen.tolist())) > 1
    for row, ids in enumerate(ROWS):
        alone, own = model.prefill(encoded([ids]))
        assert alone.chosen.tolist() == [state.chosen[row]]
        close(logits[row], own[0])


# -- deeper layers


@pytest.mark.parametrize("tokens", ["all", "last"])
def test_two_passes_end_as_the_winner_alone(models: dict[str, Any], tokens: str) -> None:
    raw, prompts = models["llama"], random_prompts()
    bank = bank_of(raw, layer=DEEP, tokens=tokens)
    state, logits = behind(raw, bank).prefill(encoded())
    chosen, slow = state.chosen.tolist(), eager(raw)
    assert len(set(chosen)) > 1
    for row, ids in enumerate(ROWS):
        scores = by_definition(slow, prompts, ids, DEEP, tokens, True)
        assert chosen[row] == max(range(M), key=lambda k: scores[k])
    for k in set(chosen):
        _, alone = behind(raw, bank_of(raw, prompts[k : k + 1])).prefill(encoded())
        rows = [row for row, one in enumerate(chosen) if one == k]
        torch.testing.assert_close(logits[rows], alone[rows], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KNOWN)
def test_one_pass_masks_the_losers_from_the_layer_on(models: dict[str, Any], kind: str) -> None:
    raw, prompts = models[kind], random_prompts()
    model = behind(raw, bank_of(raw, layer=DEEP, passes=1))
    state, logits = model.prefill(encoded())
    longest = max(map(len, ROWS))
    assert {tuple(layer.keys.shape) for layer in state.cache.layers} == {
        (len(ROWS), 2, N + longest, 8)
    }
    chosen, slow = state.chosen.tolist(), eager(raw)
    texts = [list(row) for row in ROWS]
    for _ in range(4):
        for row, ids in enumerate(texts):
            seen = all_seen() | {layer: [chosen[row]] for layer in range(DEEP, LAYERS)}
            want, _ = read_all(slow, prompts, ids, seen, len(ROWS[row]))
            close(logits[row], want[-1])
        tokens = logits.argmax(-1).tolist()
        for ids, token in zip(texts, tokens, strict=True):
            ids.append(token)
        logits = model.advance(state, tokens)
    two = behind(raw, bank_of(raw, layer=DEEP)).prefill(encoded())
    assert two[0].chosen.tolist() == chosen  # one decision, two ways to go on
    one = model.prefill(encoded())[1]
    assert not torch.allclose(one, two[1], atol=1e-3)  # approximate: lower layers saw the losers


def test_in_one_pass_layer_0_is_exact(models: dict[str, Any]) -> None:
    raw = models["llama"]
    bank = bank_of(raw, passes=1)
    _, chosen, logits = bank.read_once(*pad(ROWS, left=True, device="cpu"))
    state, exact = behind(raw, bank).prefill(encoded())
    assert chosen.tolist() == state.chosen.tolist()
    close(logits, exact)


# -- through an engine


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_whole(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bank(tmp_path_factory.mktemp("bank"), base)


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    found = load_engine(f"hf:{folder}", dtype="fp32")
    assert isinstance(found, TransformersEngine)
    return found


TEXTS = (
    "The team",
    "We decided to postpone the meeting; nobody objected",
    "a",
    "Question: is the following claim true?\nAnswer:",
    "The marketing team asked for a remote control that is easy to use, and so on",
    "42",
)


def inside(engine: TransformersEngine) -> tuple[Any, Bank]:
    model = engine._opened()
    assert model.bank is not None
    return model.raw, model.bank


def test_greedy_texts_equal_generate_on_embeddings(engine: TransformersEngine) -> None:
    raw, bank = inside(engine)
    answers = list(engine.generate(Request(text, max_tokens=24) for text in TEXTS))
    rows = [engine._prompts.encode(text).ids for text in TEXTS]
    chosen = winners(bank, rows)
    assert len(set(chosen)) > 1
    for ids, k, answer in zip(rows, chosen, answers, strict=True):
        read = raw.get_input_embeddings()(torch.tensor(ids))
        embeds = torch.cat([random_prompts()[k], read])[None]
        want = raw.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
            max_new_tokens=24,
            do_sample=False,
        )[0].tolist()
        assert answer.error is None and list(answer.token_ids or ()) == want
        assert answer.prompt_tokens == len(ids)
        known = plain(raw, random_prompts()[k], [*ids, *want[:-1]]).log_softmax(-1)
        own = known[len(ids) - 1 :].gather(1, torch.tensor(want)[:, None])[:, 0]
        close(torch.tensor(answer.token_logprobs), own)


def test_all_choices_of_a_question_stand_behind_one_prompt(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen from the question alone, though some answers would have chosen another."""
    raw, bank = inside(engine)
    choices = (" yes", " no", " maybe the remote control is easy", " 🎉 naïve café 🎉🎉🎉")
    pairs = [(text, choice) for text in TEXTS for choice in choices]
    asked: list[list[int]] = []
    choose = Bank.choose

    def spy(self: Bank, ids: Any, mask: Any) -> Any:
        asked.extend(row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True))
        return choose(self, ids, mask)

    monkeypatch.setattr(Bank, "choose", spy)
    scores = list(engine.score(pairs))
    split = [engine._prompts.split(*pair) for pair in pairs]
    assert sorted(asked) == sorted({tuple(found.ids): found.ids for found, _ in split}.values())
    monkeypatch.undo()
    own = winners(bank, [found.ids for found, _ in split])
    assert winners(bank, [found.ids + target for found, target in split]) != own
    for (found, target), k, got in zip(split, own, scores, strict=True):
        rows = plain(raw, random_prompts()[k], found.ids + target).log_softmax(-1)
        want = rows[len(found.ids) - 1 : -1].gather(1, torch.tensor(target)[:, None])[:, 0]
        close(torch.tensor(got), want)


@pytest.mark.parametrize("selection", [{}, {"layer": DEEP}, {"layer": DEEP, "passes": 1}])
def test_streams_and_batches_agree(base: Path, tmp_path: Path, selection: dict[str, Any]) -> None:
    engine = load_engine(f"hf:{save_tiny_bank(tmp_path, base, **selection)}", dtype="fp32")
    requests = [Request(text, max_tokens=16, top_logprobs=3) for text in TEXTS]
    requests += [Request(TEXTS[0], max_tokens=16, temperature=0.9, seed=seed) for seed in (1, 2)]
    free = list(engine.generate(requests))
    middle = free[1].text[4:6]
    assert middle
    requests.append(replace(requests[1], stop=(middle,)))
    for request, answer in zip(requests, engine.generate(requests), strict=True):
        *_, last = pieces = list(engine.stream(request))
        assert last.generation is not None and answer.error is None
        assert last.generation.token_ids == answer.token_ids
        assert "".join(piece.text for piece in pieces) == answer.text == last.generation.text
        told = torch.tensor(answer.token_logprobs)
        close(torch.tensor([one for piece in pieces for one in piece.token_logprobs]), told)
        if request.top_logprobs and answer.token_ids:
            tops = answer.top_logprobs
            assert tops is not None and all(len(top) == 3 for top in tops)
            close(torch.tensor([top[0].logprob for top in tops]), told)  # greedy: the likeliest
    assert answer.finish_reason == "stop" and middle not in answer.text
    assert free[1].text.startswith(answer.text)
    engine.close()


@pytest.mark.parametrize("known", [1, 3])
def test_running_text_is_scored_behind_one_prompt(engine: TransformersEngine, known: int) -> None:
    """Chosen from what is not scored: it does not look into the future."""
    raw, bank = inside(engine)
    for row, got in zip(ROWS, engine.score_tokens(ROWS, known=known), strict=True):
        assert len(got) == max(0, len(row) - known)
        if got:
            (k,) = winners(bank, [row[:known]])
            rows = plain(raw, random_prompts()[k], row[:-1]).log_softmax(-1)
            wanted = rows.gather(1, torch.tensor(row[1:])[:, None])[:, 0]
            close(torch.tensor(got), wanted[known - 1 :])


# -- opening


def test_what_an_engine_tells_of_a_bank(base: Path, engine: TransformersEngine) -> None:
    alone = load_engine(f"hf:{base}", dtype="fp32")
    assert engine.params == (alone.params or 0) + M * N * WIDTH
    assert (engine.context_length, alone.context_length) == (256 - N, 256)
    assert engine.count_tokens(TEXTS[0]) == alone.count_tokens(TEXTS[0])
    length = engine.count_tokens(TEXTS[0])
    fits = Request(TEXTS[0], max_tokens=256 - N - length)
    answer, too_long = engine.generate([fits, replace(fits, max_tokens=fits.max_tokens + 1)])
    assert answer.error is None and f"holds {256 - N}" in (too_long.error or "")
    with pytest.raises(ContextLengthError):
        list(engine.stream(replace(fits, max_tokens=fits.max_tokens + 1)))
    alone.close()


def test_an_identity_follows_the_prompts(base: Path, tmp_path: Path) -> None:
    own = save_tiny_bank(tmp_path / "own", base)
    one, plain_one = identity(f"hf:{own}"), identity(f"hf:{base}")
    assert one == plain_one | {"spec": f"hf:{own}", "bank": one["bank"], "base": str(base)}
    assert identity(f"hf:{save_tiny_bank(own, base)}") == one
    other = identity(f"hf:{save_tiny_bank(own, base, random_prompts(seed=1))}")
    chosen = identity(f"hf:{save_tiny_bank(own, base, tokens='last')}")
    assert len({one["bank"], other["bank"], chosen["bank"]}) == 3
    assert other["weights"] == one["weights"] == chosen["weights"]


def test_a_bank_whose_model_went_away_says_so(tmp_path: Path) -> None:
    base = save_tiny_whole(tmp_path / "model")
    bank = save_tiny_bank(tmp_path / "bank", base)
    base.rename(tmp_path / "moved")
    with pytest.raises(
        EngineError, match=r"^the model of the prompt bank .*; put it back, or .*'base'"
    ):
        load_engine(f"hf:{bank}")
    facts = json.loads((bank / "bank.json").read_text())
    (bank / "bank.json").write_text(json.dumps(facts | {"base": str(tmp_path / "moved")}))
    load_engine(f"hf:{bank}").close()


def test_a_bank_is_read_as_it_was_written(base: Path, tmp_path: Path) -> None:
    selection = {"layer": 1, "tokens": "last", "first_key": False, "passes": 1}
    stored = read_bank("x", save_tiny_bank(tmp_path, base, usual=(1.0, 0.1, -3.25), **selection))
    assert stored.selection == Selection(usual=(1.0, 0.1, -3.25), **selection)  # type: ignore[arg-type]
    assert (stored.m, stored.n, stored.base) == (M, N, str(base))
    torch.testing.assert_close(stored.tensors["prompts"], random_prompts(), rtol=0, atol=0)
    facts = json.loads((tmp_path / "bank.json").read_text())
    assert (facts["m"], facts["n"], facts["version"]) == (M, N, 1)


def test_a_base_beside_the_bank_is_found(tmp_path: Path) -> None:
    base = save_tiny_whole(tmp_path / "base")
    own = save_tiny_bank(tmp_path / "bank", base)
    facts = json.loads((own / "bank.json").read_text())
    (own / "bank.json").write_text(json.dumps(facts | {"base": "../base"}))
    load_engine(f"hf:{own}", dtype="fp32").close()
    assert identity(f"hf:{own}")["base"] == "../base"


def broken(own: Path, **facts: Any) -> None:
    found = json.loads((own / "bank.json").read_text())
    found["selection"] |= facts.pop("selection", {})
    (own / "bank.json").write_text(json.dumps(found | facts))


def tensors(own: Path, change: Any) -> None:
    save_file(change(load_file(own / "prompts.safetensors")), own / "prompts.safetensors")


def learnt(keys: tuple[int, ...], values: tuple[int, ...]) -> dict[str, Any]:
    return {"keys": torch.zeros(keys), "values": torch.zeros(values)}


WRONG: dict[str, tuple[Any, str]] = {
    "version": (lambda own: broken(own, version=2), "of version 2, .* reads 1; make"),
    "json": (lambda own: (own / "bank.json").write_text("{"), "no whole prompt bank"),
    "list": (lambda own: (own / "bank.json").write_text("[]"), "no whole prompt bank"),
    "facts": (lambda own: (own / "bank.json").write_text("{}"), "no whole prompt bank"),
    "no file": (lambda own: (own / "prompts.safetensors").unlink(), "no whole prompt bank"),
    "half a file": (
        lambda own: (own / "prompts.safetensors").write_bytes(b"\x10" + b"\0" * 30),
        "no whole prompt bank",
    ),
    "no tensors": (
        lambda own: tensors(own, lambda t: {"others": t["prompts"]}),
        "no whole prompt bank",
    ),
    "one number": (
        lambda own: tensors(own, lambda t: {"prompts": t["prompts"].flatten()}),
        "no whole prompt bank",
    ),
    "NaN": (
        lambda own: tensors(own, lambda t: {"prompts": t["prompts"] * torch.nan}),
        "NaN or infinity in prompts.safetensors",
    ),
    "no prompts": (
        lambda own: tensors(own, lambda t: {"prompts": t["prompts"][:0]}),
        "no whole prompt bank",
    ),
    "keys alone": (
        lambda own: tensors(own, lambda t: {"keys": t["prompts"]}),
        "no whole prompt bank",
    ),
    "width": (
        lambda own: tensors(own, lambda t: {"prompts": t["prompts"][..., :16].contiguous()}),
        "do not fit the model .*it was made for another",
    ),
    "flat": (
        lambda own: tensors(own, lambda t: {"prompts": t["prompts"][0].contiguous()}),
        "do not fit the model .*it was made for another",
    ),
    "keys": (
        lambda own: tensors(own, lambda t: learnt((2, 3, 2, 4, 8), (2, 3, 2, 4, 8))),
        r"keys of \(3, 2, 4, 8\) where \(4, 2, 4, 8\) belong",
    ),
    "values": (
        lambda own: tensors(own, lambda t: learnt((2, 4, 2, 4, 8), (1, 4, 2, 4, 8))),
        "do not fit the model",
    ),
    "too long": (
        lambda own: tensors(own, lambda t: {"prompts": torch.zeros(1, 256, WIDTH)}),
        "256 places .*the model holds 256",
    ),
    "layer": (
        lambda own: broken(own, selection={"layer": 4}),
        "at layer 4, the model has layers 0 to 3",
    ),
    "tokens": (
        lambda own: broken(own, selection={"tokens": "some"}),
        "tokens all or last",
    ),
    "usual": (
        lambda own: broken(own, selection={"usual": [0.0, 1.0]}),
        "3 prompts and the usual scores of 2",
    ),
    "usual of words": (
        lambda own: broken(own, selection={"usual": ["a", "b", "c"]}),
        "no whole prompt bank",
    ),
    "unknown way": (
        lambda own: broken(own, selection={"heads": 2}),
        "no whole prompt bank",
    ),
    "weights": (
        lambda own: broken(own, weights="0" * 64),
        "made for other weights than .* holds; make it again",
    ),
    "no base": (lambda own: broken(own, base="/nowhere"), "/nowhere is not a dir"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_bank_that_cannot_be_opened(base: Path, tmp_path: Path, what: str) -> None:
    own = save_tiny_bank(tmp_path / "bank", base)
    break_it, words = WRONG[what]
    break_it(own)
    with pytest.raises(EngineError, match=words) as told:
        load_engine(f"hf:{own}", dtype="fp32")
    assert "\n" not in str(told.value) and str(told.value).endswith(".")
    if what in ("version", "json", "list", "facts", "half a file", "no tensors"):
        with pytest.raises(EngineError, match=words):
            identity(f"hf:{own}")


@pytest.mark.parametrize("kind", ["t5", "phi3"])
def test_architectures_that_are_not_known(tmp_path: Path, kind: str) -> None:
    own = save_tiny_bank(tmp_path / "bank", save_tiny(kind, tmp_path / "base"))
    with pytest.raises(EngineError, match=f"stand before llama, .*, not before {kind}"):
        load_engine(f"hf:{own}", dtype="fp32")


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "gemma2"])
def test_layers_that_lose_sight_of_the_prompt(kind: str) -> None:
    """Where rows are padded a prompt would leave their windows even earlier: none would notice."""
    with pytest.raises(EngineError, match=r"must be seen by every token, .* the last 8 alone"):
        bank_of(tiny(kind))


def test_nothing_learns_on_a_bank(folder: Path, tmp_path: Path) -> None:
    task = Task("own", "summary", (Example("1", "a", "b"),))
    with pytest.raises(TrainingError, match="is a prompt bank, not a whole model; name its base"):
        train(f"hf:{folder}", task, tmp_path / "o", settings=Settings(dtype="fp32"))


def test_a_model_without_a_bank_is_as_before(base: Path) -> None:
    found = load_engine(f"hf:{base}", dtype="fp32")
    assert isinstance(found, TransformersEngine)
    assert found._opened().bank is None
    state, logits = found._opened().prefill(encoded())
    assert state.chosen is None
    nothing = torch.zeros(0, WIDTH)
    raw = found._opened().raw
    close(logits, torch.stack([plain(raw, nothing, row)[-1] for row in ROWS]))
    found.close()


def test_no_bank_in_half_precision_is_far_off(tmp_path: Path) -> None:
    """bfloat16: keys in the model's precision, the choice in float32."""
    base = save_tiny_llama(tmp_path / "base")
    own = save_tiny_bank(tmp_path / "bank", base)
    exact, rounded = (load_engine(f"hf:{own}", dtype=dtype) for dtype in ("fp32", "bf16"))
    pairs = [(text, " is easy to use") for text in TEXTS]
    for one, other in zip(exact.score(pairs), rounded.score(pairs), strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=0.1, atol=0.3)
