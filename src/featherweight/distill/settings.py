"""The dials of a training, and what is derived from them: all of it is printed before work starts.

| method | tuned | kd_weight | mask |
| --- | --- | --- | --- |
| sft | full | 0 | all |
| lora | LoRA | 0 | all |
| kd | full | 0.5 | all |
| neo | LoRA | 0.5 | all |
| cat-xent | LoRA or full | 0 | either model predicts the gold token |
| cat-dist | LoRA or full | 0.5 | the same |
| gatekeeper | LoRA or full | 0 | wrong tokens are pushed to uniform; a second stage |

sft and kd tune all weights, or a soft prompt or prefix before frozen ones, or what a pruned model
kept (spp).
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from featherweight.distill.divergence import DIVERGENCES, Divergence
from featherweight.distill.objective import Mask, Objective
from featherweight.distill.soft import SOFT_KINDS
from featherweight.distill.spp import SPP_RANK
from featherweight.distill.student import LORA_KINDS, LoraKind, alpha_of
from featherweight.errors import TrainingError

Method = Literal["sft", "lora", "kd", "neo", "cat-xent", "cat-dist", "gatekeeper"]
METHODS: tuple[str, ...] = get_args(Method)
Tune = Literal["full", "lora", "prompt", "prefix", "spp"]
LOSSES, SCORES = ("loss", "ce"), ("right", "rouge1", "rouge2", "rougeL", "rougeLsum")
SOFT_LR, SPP_LR = 1e-2, 3e-2
LARGE = 1_000_000_000  # parameters from which the published rank and rates are taken as they are


@dataclass(frozen=True)
class Settings:
    """What a user chooses. None is derived by `derive`; `batch` counts examples of one step."""

    method: Method | None = None
    tune: Tune | None = None
    kd_weight: float | None = None
    divergence: Divergence = "forward_kl"
    mix: float | None = None
    temperature: float = 1.0
    mask: Mask | None = None
    gate: float | None = None
    lora: LoraKind = "lora"
    rank: int | None = None
    dropout: float = 0.0
    targets: str = "all-linear"
    prompt_tokens: int = 20
    lr: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    optimiser: str = "adamw_torch_fused"
    epochs: float = 1.0
    steps: int | None = None
    batch: int = 8
    micro_batch: int = 1
    max_length: int | None = None
    gradient_checkpointing: bool = False
    dtype: str = "auto"
    seed: int = 0
    eval_every: int | None = None
    eval_texts: int = 0
    save_every: int | None = None
    stop_on: str | None = None
    patience: int | None = None
    report_to: str = "none"

    def __post_init__(self) -> None:
        positive = {
            "rank",
            "prompt_tokens",
            "lr",
            "epochs",
            "steps",
            "batch",
            "micro_batch",
            "max_length",
        }
        positive |= {"eval_every", "save_every", "patience", "temperature"}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in positive and value is not None and not value > 0:
                raise TrainingError(f"{field.name} is {value}; it must be above 0.")
        for name, allowed in (
            ("method", METHODS),
            ("tune", get_args(Tune)),
            ("divergence", DIVERGENCES),
            ("mask", get_args(Mask)),
            ("lora", LORA_KINDS),
        ):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise TrainingError(f"{name} is {value!r}; choose one of {', '.join(allowed)}.")
        for name in ("kd_weight", "gate", "dropout", "warmup"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise TrainingError(f"{name} is {value}; it must lie between 0 and 1.")
        for name in ("clip", "weight_decay"):
            if getattr(self, name) < 0:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must not be below 0.")
        if not 0 <= self.seed < 2**32:
            raise TrainingError(f"seed is {self.seed}; it must lie between 0 and 2**32 - 1.")
        if self.stop_on not in (None, *LOSSES, *SCORES):
            raise TrainingError(
                f"stop_on is {self.stop_on!r}; choose one of {', '.join((*LOSSES, *SCORES))}."
            )
        if (self.stop_on or "").startswith("rouge") and not self.eval_texts:
            raise TrainingError(f"stop_on {self.stop_on} needs texts; set eval_texts above 0.")
        if self.mix is not None and not 0 < self.mix < 1:
            raise TrainingError(f"mix is {self.mix}; it must lie between 0 and 1, both excluded.")
        if self.batch % self.micro_batch:
            raise TrainingError(
                f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}; change one."
            )


@dataclass(frozen=True)
class Plan:
    """Everything that is decided, with the reason where it was not the user's choice."""

    method: Method
    tune: Tune
    objective: Objective
    rank: int | None
    alpha: float | None
    lora: LoraKind
    targets: str
    dropout: float
    places: int  # of a soft prompt or prefix
    lr: float
    stop_on: str
    reasons: dict[str, str]


def derive(settings: Settings, params: int, has_teacher: bool) -> Plan:
    """Fill in what was not chosen, for a student of `params` parameters.

    Raises `TrainingError` for settings that contradict each other.
    """
    reasons: dict[str, str] = {}
    method = settings.method
    soft = settings.tune in SOFT_KINDS
    frozen = soft or settings.tune == "spp"
    if method is None:
        method = "kd" if frozen and has_teacher else "sft" if frozen else None
        method = method or ("neo" if has_teacher else "lora")
        reasons["method"] = "a teacher is named" if has_teacher else "no teacher is named"
    tune = settings.tune
    if tune is None:
        tune = "full" if method in ("sft", "kd") else "lora"
        reasons["tune"] = f"as {method} is"
    others = {"lora": "sft", "neo": "kd"}
    if tune == "lora":
        others = {"sft": "lora", "kd": "neo"}
    elif frozen:
        others |= {"cat-xent": "sft", "cat-dist": "kd", "gatekeeper": "sft"}
    if method in others:
        raise TrainingError(
            f"{method} tunes otherwise; for --tune {tune} say --method {others[method]}."
        )
    objective = _objective(settings, method, reasons)
    if objective.needs_teacher and not has_teacher:
        raise TrainingError(f"{method} learns from a teacher; add --teacher SPEC or a cache.")
    if objective.needs_correctness and not has_teacher:
        raise TrainingError(
            f"{method} must know where the large model is right; add --teacher SPEC or a cache."
        )
    if has_teacher and settings.method in ("sft", "lora", "gatekeeper"):
        other = {"sft": "kd", "lora": "neo"}.get(settings.method, "cat-dist")
        raise TrainingError(
            f"{settings.method} learns from no teacher; leave it out, or choose {other}."
        )
    large = params >= LARGE
    rank = alpha = None
    if tune == "lora":
        rank = settings.rank or (64 if large else 16)
        alpha = alpha_of(settings.lora, rank)
        if settings.rank is None:
            reasons["rank"] = f"{params / 1e6:,.0f}M parameters"
        reasons["alpha"] = "twice the rank" if settings.lora != "rslora" else "twice its root"
    if tune == "spp":
        rank = settings.rank or SPP_RANK
        if settings.rank is None:
            reasons["rank"] = "as published"
    lr = settings.lr
    if lr is None:
        lr = (2e-5 if large else 3e-5) * (10 if tune == "lora" else 1)
        reasons["lr"] = "ten times that of full tuning" if tune == "lora" else "full tuning"
        if soft:
            lr, reasons["lr"] = SOFT_LR, "few numbers learn, far from where they start"
        if tune == "spp":
            lr, reasons["lr"] = SPP_LR, "it learns shares of the weights, which are small"
    # a mask that leaves nothing makes a perfect loss
    masked = objective.mask != "all" or objective.gate is not None
    stop_on = settings.stop_on or ("ce" if masked else "loss")
    return Plan(
        method,
        tune,
        objective,
        rank,
        alpha,
        settings.lora,
        settings.targets,
        settings.dropout,
        settings.prompt_tokens,
        lr,
        stop_on,
        reasons,
    )


def _objective(settings: Settings, method: Method, reasons: dict[str, str]) -> Objective:
    distils = method in ("kd", "neo", "cat-dist")
    weight = settings.kd_weight
    if weight is None:
        weight = 0.5 if distils else 0.0
    elif weight and not distils:
        raise TrainingError(f"{method} has no kd_weight; choose kd, neo or cat-dist.")
    mask = settings.mask
    if mask is None:
        mask = "either" if method.startswith("cat-") else "all"
    elif mask != "all" and not method.startswith("cat-"):
        raise TrainingError(f"{method} has no mask; choose cat-xent or cat-dist.")
    gate = settings.gate
    if method == "gatekeeper":
        reasons["method"] = "a second stage: the student should have learnt this data before"
        gate = 0.5 if gate is None else gate
        if settings.gate is None:
            reasons["gate"] = "right and wrong tokens weigh alike"
    elif gate is not None:
        raise TrainingError(f"{method} has no gate; choose gatekeeper.")
    return Objective(
        kd_weight=weight,
        divergence=settings.divergence,
        mix=settings.mix,
        temperature=settings.temperature,
        mask=mask,
        gate=gate,
    )


def identity_of(settings: Settings) -> dict[str, Any]:
    """The dials that decide what is learnt; how much fits the machine at once is none of them."""
    dials = asdict(settings)
    for name in ("micro_batch", "gradient_checkpointing", "report_to", "save_every"):
        del dials[name]
    return dials


def described(plan: Plan) -> list[tuple[str, str, str]]:
    """Name, value and reason of what was decided, for printing."""
    o = plan.objective
    rows: list[tuple[str, Any]] = [("method", plan.method), ("tune", plan.tune)]
    if plan.tune in SOFT_KINDS:
        rows.append(("places", plan.places))
    if plan.tune == "lora":
        drop = f", dropout {plan.dropout:g}" if plan.dropout else ""
        rows.append(("lora", f"{plan.lora} on {plan.targets}{drop}"))
    if plan.rank is not None:
        rows.append(("rank", plan.rank))
    if plan.alpha is not None:
        rows.append(("alpha", f"{plan.alpha:g}"))
    rows.append(("lr", f"{plan.lr:g}"))
    if o.gate is not None:
        rows.append(("gate", o.gate))
    else:
        rows += [("kd_weight", o.kd_weight), ("mask", o.mask)]
    if o.needs_teacher:
        rows += [("divergence", o.divergence), ("temperature", o.temperature)]
        if o.divergence not in ("forward_kl", "reverse_kl"):
            rows.append(("mix", o.mixed))
    return [(name, str(value), plan.reasons.get(name, "")) for name, value in rows]
