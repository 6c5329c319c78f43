"""Models by name or file: the published ones, and any Hugging Face config of a known family."""

import os
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from schedules.errors import BadInput, suggest
from schedules.hf_config import from_hf_config
from schedules.model import ModelSpec
from schedules.validated import validated


def model_names() -> list[str]:
    """Names of the published models, in alphabetical order.

    >>> model_names()[:3]
    ['dbrx', 'deepseek-v2-lite', 'mixtral-8x22b']
    """
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir())


def load_model(name_or_path: str | Path) -> ModelSpec:
    """The model of this name, or that of a Hugging Face `config.json` or a folder with one.

    Raises `BadInput` for an unknown name, a missing file or a malformed config; see
    `hf_config.from_hf_config`.

    >>> load_model("mixtral-8x7b").parameters
    46702792704
    """
    name = str(name_or_path)
    if name in model_names():
        return _preset(name)
    if os.path.exists(name):
        return from_hf_config(name)
    known = suggest(Path(name).name, model_names())
    if os.sep in name or "/" in name or name.endswith(".json"):
        raise BadInput(f"there is no file or folder '{name}'; give a config.json or a name{known}")
    raise BadInput(f"no model is named '{name}'{known}")


@cache
def _preset(name: str) -> ModelSpec:
    text = (_folder() / f"{name}.toml").read_text(encoding="utf-8")
    return validated(ModelSpec, tomllib.loads(text), f"model {name}")


def _folder() -> Any:
    return resources.files("schedules") / "presets" / "models"
