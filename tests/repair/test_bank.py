"""Prompts that were learnt one by one, put into one bank."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_banks import M, N, random_prompts, save_tiny_bank, save_tiny_whole  # noqa: E402

from featherweight.distill.soft import save_bank  # noqa: E402
from featherweight.engines import load_engine  # noqa: E402
from featherweight.engines.hf_bank import Selection, Stored  # noqa: E402
from featherweight.errors import EngineError, RepairError  # noqa: E402
from featherweight.repair import combine, read_prompts  # noqa: E402

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_whole(tmp_path_factory.mktemp("base"))


def singles(folder: Path, base: Path) -> list[Path]:
    prompts = random_prompts()
    return [save_tiny_bank(folder / f"{k}", base, prompts[k : k + 1]) for k in range(M)]


def test_prompts_become_a_bank_in_their_order(base: Path, tmp_path: Path) -> None:
    folders = singles(tmp_path, base)
    found = read_prompts(folders)
    assert [(one.m, one.n) for one in found] == [(1, N)] * M
    bank = combine(found)
    assert (bank.m, bank.n, bank.base) == (M, N, found[0].base)
    assert bank.weights == found[0].weights and bank.selection == Selection()
    torch.testing.assert_close(bank.tensors["prompts"], random_prompts(), rtol=0, atol=0)
    turned = combine([found[2], found[0]], Selection(layer=1, usual=(1.0, 2.0)))
    assert turned.selection == Selection(layer=1, usual=(1.0, 2.0))
    torch.testing.assert_close(turned.tensors["prompts"], random_prompts()[[2, 0]])
    (tmp_path / "all").mkdir()
    save_bank(bank, tmp_path / "all")
    load_engine(f"hf:{tmp_path / 'all'}", dtype="fp32").close()


def test_banks_of_several_are_joined_too(base: Path, tmp_path: Path) -> None:
    prompts = random_prompts()
    folders = [
        save_tiny_bank(tmp_path / "two", base, prompts[:2]),
        save_tiny_bank(tmp_path / "one", base, prompts[2:]),
    ]
    torch.testing.assert_close(combine(read_prompts(folders)).tensors["prompts"], prompts)


def test_keys_and_values_are_joined_each(base: Path) -> None:
    sides = torch.randn(2, 2, 1, 4, 2, N, 8)
    found = combine(
        [Stored("b", "w", Selection(), {"keys": keys, "values": values}) for keys, values in sides]
    )
    assert torch.equal(found.tensors["keys"], sides[:, 0, 0])
    assert torch.equal(found.tensors["values"], sides[:, 1, 0])


def test_prompts_that_are_not_alike(base: Path, tmp_path: Path) -> None:
    first, second, _ = singles(tmp_path, base)
    longer = save_tiny_bank(tmp_path / "longer", base, random_prompts(1, N + 1))
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    [stored] = read_prompts([first])
    side = torch.zeros(1, 4, 2, N, 8)
    save_bank(replace(stored, tensors={"keys": side, "values": side.clone()}), prefix)
    other = tmp_path / "other"
    other.mkdir()
    save_bank(replace(stored, weights="0" * 64), other)
    for wrong in (longer, prefix, other):
        with pytest.raises(RepairError, match=f"{wrong} holds prompts of another .* than {first}"):
            read_prompts([first, second, wrong])
    with pytest.raises(RepairError, match="name at least one folder"):
        read_prompts([])
    with pytest.raises(EngineError, match="no whole prompt bank"):
        read_prompts([first, base])
