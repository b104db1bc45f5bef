"""SPP: the formula and its gradient, the mask that stays, what is saved, what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainings import setting
from typer.testing import CliRunner

from featherweight.cli import app
from featherweight.compress import compress, parse_recipe
from featherweight.distill import Settings, train
from featherweight.distill.settings import derive
from featherweight.distill.spp import SCALE, Multiplier, _rounded, multiply
from featherweight.distill.student import open_base, save_student, trainable
from featherweight.distill.trainer import ObjectiveTrainer
from featherweight.engines.packed import FILE, read_packed
from featherweight.errors import TrainingError
from featherweight.tasks import Task, load_task

pytestmark = pytest.mark.model
RANK = 4
FAST = Settings(
    tune="spp", rank=RANK, steps=8, batch=4, micro_batch=4, lr=0.05, dtype="fp32", save_every=2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = setting(tmp_path_factory.mktemp("spp"))
    compress(
        f"hf:{found / 'model'}",
        [parse_recipe("magnitude:sparsity=0.5")],
        found / "pruned",
        dtype="fp32",
    )
    return found


@pytest.fixture(scope="module")
def data(folder: Path) -> Task:
    return load_task(str(folder / "rows.jsonl"))


@pytest.fixture(scope="module")
def trained(folder: Path, data: Task) -> Path:
    train(f"hf:{folder / 'pruned'}", data, folder / "out", settings=FAST)
    return folder / "out"


def plain(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The paper's formula, every factor written out."""
    repeated = a.repeat_interleave(len(weight) // len(a), 0)
    return weight * (1 + SCALE * repeated * b[:, None])


def test_the_product_and_its_gradient_are_the_formulas() -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 5, dtype=torch.float64)
    weight[torch.rand_like(weight) < 0.5] = 0.0
    multiplier = Multiplier("w", weight, 3).double()
    multiplier.b.data.normal_()
    upstream = torch.randn_like(weight)
    got = weight + multiplier(weight)
    want = plain(weight, multiplier.a, multiplier.b)
    torch.testing.assert_close(got, want)
    learnt = (multiplier.a, multiplier.b)
    for one, other in zip(
        torch.autograd.grad(got, learnt, upstream),
        torch.autograd.grad(want, learnt, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    assert torch.equal(got == 0, weight == 0)


def test_at_the_start_it_is_the_pruned_model(folder: Path) -> None:
    before, _, base = open_base(f"hf:{folder / 'pruned'}", torch.float32, "cpu")
    after, _, _ = open_base(f"hf:{folder / 'pruned'}", torch.float32, "cpu")
    after = multiply(after, base, RANK)
    ids = torch.tensor([[5, 9, 200, 17]])
    assert torch.equal(before(ids).logits, after(ids).logits)
    names = list(trainable(after))
    assert names and all(".spp." in name for name in names)


def test_a_small_change_is_not_rounded_away() -> None:
    """In bfloat16 W (1 + 0.001) is W, and the first steps of a training would change nothing."""
    torch.manual_seed(0)
    weight = torch.randn(8, 16).bfloat16()
    multiplier = Multiplier("w", weight, 4)
    multiplier.a.data.fill_(1.0)
    multiplier.b.data.fill_(0.0005)
    assert torch.equal((weight * 1.001).bfloat16(), weight)
    want = (weight.double() * 0.001).float()
    torch.testing.assert_close(multiplier(weight).float(), want, rtol=0.005, atol=0)


def test_zeros_stay_and_the_rest_learns(folder: Path, trained: Path, data: Task) -> None:
    """The saved model is as large, has the same mask, and is the better one."""
    dense, before = read_packed("before", folder / "pruned")
    kept, after = read_packed("after", trained)
    assert before.keys() == after.keys() and dense.keys() == kept.keys()
    assert all(torch.equal(dense[name], kept[name]) for name in dense)
    for name, one in before.items():
        assert one.mask is not None and torch.equal(one.mask, after[name].mask)
        assert not torch.equal(one.values, after[name].values)
    sizes = [(path / FILE).stat().st_size for path in (folder / "pruned", trained)]
    assert sizes[0] == sizes[1]
    losses = []
    for path in (folder / "pruned", trained):
        result = train(
            f"hf:{path}",
            data,
            folder / f"again-{path.name}",
            val=data,
            settings=replace(FAST, steps=1, lr=1e-9, save_every=None, eval_every=1),
        )
        losses.append(result.result["best_metric"])
    assert losses[1] < losses[0] - 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_saved_is_right_on_average(dtype: torch.dtype) -> None:
    """A change smaller than a step of 16 bits is in as many values as make it up."""
    torch.manual_seed(0)
    before = torch.randn(200_000).to(dtype).float()
    for share in (1.0007, 0.9993, 1.3, 1.0):
        saved = _rounded(before * share, dtype, torch.Generator().manual_seed(0))
        near = (before * share).to(dtype)
        steps = (saved.view(torch.int16).int() - near.view(torch.int16).int()).abs()
        assert saved.dtype == dtype and steps.max() <= 1
        assert float((saved.float() / before).double().mean()) == pytest.approx(share, abs=1e-4)
    assert torch.equal(saved, near)  # what needs no rounding is kept


def test_what_is_saved_is_what_learnt(folder: Path, tmp_path: Path) -> None:
    """The formula on the packed values, with the learnt A and b, gives the values on disk."""
    model, tokenizer, base = open_base(f"hf:{folder / 'pruned'}", torch.float32, "cpu")
    model = multiply(model, base, RANK)
    torch.manual_seed(1)
    for parameter in trainable(model).values():
        parameter.data.normal_(std=0.3)
    save_student(model, tokenizer, tmp_path, torch.float32)
    _, before = read_packed("before", folder / "pruned")
    _, after = read_packed("after", tmp_path)
    for name, one in before.items():
        learnt = model.get_submodule(name.removesuffix(".weight")).spp
        want = plain(one.dense(), learnt.a.detach(), learnt.b.detach())
        step = 2**-7 if after[name].values.dtype == torch.bfloat16 else 2**-10
        torch.testing.assert_close(after[name].dense(), want, rtol=step, atol=1e-9)
    reopened, _, _ = open_base(f"hf:{tmp_path}", torch.float32, "cpu")
    changed, _, _ = open_base(f"hf:{folder / 'pruned'}", torch.float32, "cpu")
    for name, one in after.items():
        changed.get_parameter(name).data.copy_(one.dense())
    ids = torch.tensor([[5, 9, 200, 17]])
    assert torch.equal(reopened(ids).logits, changed(ids).logits)


def test_a_stopped_one_ends_where_it_would_have(
    folder: Path, trained: Path, data: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ObjectiveTrainer.training_step
    seen = []

    def failing(self: ObjectiveTrainer, *args: object, **more: object) -> object:
        seen.append(self.state.global_step)
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args, **more)

    output = folder / "stopped"
    monkeypatch.setattr(ObjectiveTrainer, "training_step", failing)
    with pytest.raises(KeyboardInterrupt):
        train(f"hf:{folder / 'pruned'}", data, output, settings=FAST)
    monkeypatch.setattr(ObjectiveTrainer, "training_step", step)
    found = train(f"hf:{folder / 'pruned'}", data, output, settings=FAST)
    assert found.result["resumed_after"] == 4
    whole, resumed = load_file(trained / FILE), load_file(output / FILE)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    arguments = ["repair", f"hf:{folder / 'pruned'}", "--method", "spp", "--rank", "4"]
    arguments += ["--data", str(folder / "rows.jsonl"), "--output", str(tmp_path / "out")]
    arguments += ["--steps", "2", "--dtype", "fp32"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert (tmp_path / "out" / FILE).is_file()


def test_refusals(folder: Path, data: Task, tmp_path: Path) -> None:
    dense = f"hf:{folder / 'model'}"
    with pytest.raises(TrainingError, match="holds no weights that"):
        train(dense, data, tmp_path / "a", settings=FAST)
    with pytest.raises(TrainingError, match="rank 5 does not divide"):
        train(f"hf:{folder / 'pruned'}", data, tmp_path / "b", settings=replace(FAST, rank=5))
    compress(dense, [parse_recipe("rtn:bits=4,group=16")], tmp_path / "rtn", dtype="fp32")
    with pytest.raises(TrainingError, match="holds no weights that"):
        train(f"hf:{tmp_path / 'rtn'}", data, tmp_path / "c", settings=FAST)
    with pytest.raises(TrainingError, match="say --method sft"):
        derive(replace(FAST, method="lora"), 1, False)


def test_a_joint_recipe_is_refused(folder: Path, data: Task, tmp_path: Path) -> None:
    texts = load_task(str(folder / "rows.jsonl"))
    compress(
        f"hf:{folder / 'model'}",
        [parse_recipe("joint:sparsity=0.5,bits=4,group=16")],
        tmp_path / "joint",
        texts,
        dtype="fp32",
    )
    with pytest.raises(TrainingError, match="pruned and quantised"):
        train(f"hf:{tmp_path / 'joint'}", data, tmp_path / "d", settings=FAST)


def test_defaults_are_told() -> None:
    plan = derive(Settings(tune="spp"), 1, False)
    assert (plan.method, plan.rank, plan.alpha, plan.lr) == ("sft", 16, None, 0.03)
    assert derive(Settings(tune="spp"), 1, True).method == "kd"
