"""A cascade directory: its rule, and the models that the rule names."""

from pathlib import Path
from typing import Any

from featherweight.cascade.cascade import Cascade
from featherweight.cascade.rule_file import read_rule
from featherweight.cascade.stages import check_identity
from featherweight.engines.identity import identity
from featherweight.engines.load import load_engine
from featherweight.engines.types import Engine
from featherweight.errors import CascadeError
from featherweight.files import sha256

RULE = "rule.json"


def open_cascade(folder: Path, *, hold: bool = True) -> Cascade:
    """The cascade in `folder`: engines opened as its rule says, each checked to be the rule's.

    `hold`: see `Cascade`. Raises `CascadeError` where the folder holds no rule, or a stage is
    another model by now, `EngineError` where one cannot be opened.
    """
    rule = read_rule(rule_path(folder))
    for number, stage in enumerate(rule.stages):
        check_identity(number, stage, identity(stage.model))  # before anything large is loaded
    engines: list[Engine] = []
    try:
        for stage in rule.stages:
            settings = {} if stage.dtype is None else {"dtype": stage.dtype}
            engines.append(load_engine(stage.model, **settings))
        return Cascade(engines, rule, name=f"cascade:{folder}", hold=hold)
    except BaseException:
        for engine in engines:
            engine.close()
        raise


def cascade_identity(folder: Path) -> dict[str, Any]:
    """What a cascade stands for, as `engines.identity` says it of one model.

    `rule` is the file's sha256, `stages` are the models as they are on this machine now. Raises as
    `open_cascade` does.
    """
    path = rule_path(folder)
    rule = read_rule(path)
    stages = [identity(stage.model) for stage in rule.stages]
    return {"spec": f"cascade:{folder}", "rule": sha256(path), "stages": stages}


def rule_path(folder: Path) -> Path:
    """Where the rule of a cascade directory is; raises `CascadeError` where there is none."""
    folder = folder.expanduser()
    if folder.is_file():
        raise CascadeError(f"cascade:{folder}: a file; name its folder, {folder.parent}.")
    if not folder.is_dir():
        raise CascadeError(
            f"cascade:{folder}: there is no such folder; make one with "
            "`featherweight cascade calibrate`."
        )
    if not (folder / RULE).is_file():
        raise CascadeError(
            f"cascade:{folder}: no {RULE} in it; name a folder that "
            "`featherweight cascade calibrate` made."
        )
    return folder / RULE
