"""A model from a Hugging Face `config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schedules.errors import BadInput, suggest
from schedules.hf_families import FAMILIES
from schedules.hf_reader import ConfigReader, as_json
from schedules.length_files import read_text
from schedules.model import ModelSpec
from schedules.validated import validated

DTYPES = ("float16", "bfloat16", "float32")


def from_hf_config(config: str | Path | Mapping[str, Any]) -> ModelSpec:
    """The model that a config describes: a `config.json`, a folder that holds one, or its values.

    Families: mixtral, dbrx, qwen3_moe, qwen2_moe, olmoe, deepseek_v2, opt, llama, mistral, qwen2,
    qwen3, switch_transformers. The dtype is that of the config; without one, float16, and float32
    for switch_transformers. Parameters are counted as transformers builds the model.

    Raises `BadInput` (file, key, value, what would be right) for anything that is not such a
    config, and for quantised weights.

    >>> from_hf_config({"model_type": "deepseek"})
    Traceback (most recent call last):
    ...
    schedules.errors.BadInput: config: model_type is "deepseek", did you mean 'deepseek_v2'?
    """
    if isinstance(config, Mapping):
        return _spec(config, "config")
    path = Path(config)
    if path.is_dir():
        path = path / "config.json"
    return _spec(_read(path), str(path))


def _read(path: Path) -> Mapping[str, Any]:
    text = read_text(path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}; it must be a config.json") from None
    if not isinstance(values, dict):
        raise BadInput(
            f"{path} holds {as_json(values)}; it must hold an object with keys and values"
        )
    return values


def _spec(values: Mapping[str, Any], where: str) -> ModelSpec:
    config = ConfigReader(values, where)
    family = _family(config)
    if values.get("quantization_config") is not None:
        raise BadInput(f"{where}: quantization_config is set; give the config of plain weights")
    fields = FAMILIES[family](config)
    default = "float32" if family == "switch_transformers" else "float16"
    key = "dtype" if "dtype" in values else "torch_dtype"
    fields |= {
        "name": _name(values, where),
        "family": family,
        "dtype": config.choice(key, DTYPES, default),
        "source": f"Hugging Face config of model_type {family}: {where}",
    }
    return validated(ModelSpec, fields, where)


def _family(config: ConfigReader) -> str:
    family = config.values.get("model_type")
    if isinstance(family, str) and family not in FAMILIES:
        given = f"{config.where}: model_type is {as_json(family)}"
        raise BadInput(f"{given}{suggest(family, FAMILIES)}")
    if not isinstance(family, str):
        raise config.error("model_type", f"one of {', '.join(FAMILIES)}")
    return family


def _name(values: Mapping[str, Any], where: str) -> str:
    """The file's own name, its folder's if it is called config.json, or what the values say."""
    path = Path(where)
    if path.suffix:
        return path.stem if path.name != "config.json" else path.resolve().parent.name or "model"
    return str(values.get("_name_or_path") or values["model_type"])
