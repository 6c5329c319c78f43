"""Routing by name, file or formula."""

import re
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from schedules.errors import BadInput, suggest
from schedules.routing import Routing
from schedules.routing_recorded import file_hash, recording
from schedules.validated import validated

_ENDINGS = (".toml", ".parquet")


def routing_names() -> tuple[str, ...]:
    """Names of the presets, in alphabetical order.

    >>> routing_names()
    ('switch-base-128', 'switch-large-128', 'uniform')
    """
    files = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def load_routing(name_or_path: str | Path, seed: int = 0) -> Routing:
    """The routing of this name, in this file, or by this formula.

    A name is one of `routing_names()` or `zipf:S` with the exponent S. A file is a `.toml` with the
    fields of `Routing`, or a `.parquet` of recorded routing.

    Raises `BadInput` for an unknown name, a missing or malformed file, or an impossible value.

    >>> load_routing("zipf:1.2", seed=3)
    Routing(kind='zipf', seed=3, exponent=1.2, ...)
    """
    if seed < 0:
        raise BadInput(f"seed is {seed}; it must be >= 0")
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in routing_names():
        return _preset(name).model_copy(update={"seed": seed})
    if isinstance(name_or_path, str) and name.partition(":")[0] == "zipf":
        return _from_formula(name, seed)
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or len(path.parts) > 1 or path.suffix in _ENDINGS:
        return _from_file(path, seed)
    known = suggest(name, [*routing_names(), "zipf:1.2"])
    raise BadInput(f"no routing is named '{name}'{known}")


def _folder() -> Any:
    return resources.files("schedules") / "presets" / "routing"


@cache
def _preset(name: str) -> Routing:
    return _from_toml((_folder() / f"{name}.toml").read_text(encoding="utf-8"), f"routing {name}")


def _from_formula(name: str, seed: int) -> Routing:
    match = re.fullmatch(r"zipf:([0-9]{1,9}(?:\.[0-9]{1,9})?)", name)
    if match is None:
        raise BadInput(f"'{name}' is no routing; write Zipf's law with its exponent as 'zipf:1.2'")
    values = {"kind": "zipf", "exponent": float(match[1]), "seed": seed}
    return validated(Routing, values, f"routing {name}")


def _from_file(path: Path, seed: int) -> Routing:
    if path.suffix == ".parquet":
        recording(str(path))  # says what is wrong with it
        found = file_hash(str(path), path.stat().st_mtime_ns)
        return Routing(kind="recorded", path=str(path), sha256=found, seed=seed)
    if path.suffix != ".toml":
        raise BadInput(f"'{path}': a routing file must end in {' or '.join(_ENDINGS)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise BadInput(f"the routing file '{path}' cannot be read: {reason}") from None
    return _from_toml(text, f"routing {path}").model_copy(update={"seed": seed})


def _from_toml(text: str, where: str) -> Routing:
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not TOML: {error}") from None
    if "seed" in values:
        raise BadInput(f"{where} has a seed; it is given with the question, as --seed")
    return validated(Routing, values, where)
