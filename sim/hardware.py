"""Hardware by name or file: devices, memories and links, each with a peak and a sustained rate.

Presets are the TOML files in `presets/hardware`. Calibrations of machines lie in a folder
`calibrations`, each as `HOST/HOST.toml`, and are known by their names as well: in the current
folder, or where the variable `MOELAB_CALIBRATIONS` says. A file may be based on one of these, as
`based_on = "gcp-t4-24c"`, and give only what differs: tables are merged key by key, but a table
that has a `source` (a rate, an amount) is replaced as a whole, so that no number keeps the source
of another.
"""

import os
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schedules.errors import BadInput, suggest
from schedules.length_files import read_text
from sim.hardware_model import Hardware
from sim.hardware_parts import Amount, Cpu, Flag, Gpu, Host, Rate, first_of

CALIBRATIONS = "MOELAB_CALIBRATIONS"
"""A variable: the folder of calibrated machines, in place of `calibrations`."""

__all__ = [
    "CALIBRATIONS",
    "Amount",
    "Cpu",
    "Flag",
    "Gpu",
    "Hardware",
    "Host",
    "Rate",
    "hardware_names",
    "load_hardware",
]


def hardware_names() -> tuple[str, ...]:
    """Names of the presets and of calibrated machines, in alphabetical order."""
    return tuple(sorted({*_presets(), *_calibrations()}))


def _presets() -> tuple[str, ...]:
    names = (entry.name for entry in _folder().iterdir())
    return tuple(name[:-5] for name in names if name.endswith(".toml"))


def _calibrations() -> dict[str, Path]:
    """Files of calibrated machines, by name."""
    root = Path(os.environ.get(CALIBRATIONS) or "calibrations")
    return {
        path.parent.name: path for path in root.glob("*/*.toml") if path.stem == path.parent.name
    }


def load_hardware(name_or_path: str | Path) -> Hardware:
    """The preset of this name, or the hardware described in this TOML file.

    Raises `BadInput`, with file, key, value and what would be right, for an unknown name, a missing
    file, malformed TOML or an impossible value.

    >>> load_hardware("gcp-t4")
    Traceback (most recent call last):
    ...
    schedules.errors.BadInput: no hardware is named 'gcp-t4', did you mean ...?
    """
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in hardware_names():
        fields = _named(name)
    elif isinstance(name_or_path, Path) or name.endswith(".toml") or len(Path(name).parts) > 1:
        fields = _complete(_parsed(read_text(Path(name)), name), name)
    else:
        raise BadInput(f"no hardware is named '{name}'{suggest(name, hardware_names())}")
    try:
        return Hardware.model_validate(fields)
    except ValidationError as error:
        raise BadInput(f"hardware {name}: {first_of(error)}") from None


def _folder() -> Any:
    return resources.files("sim") / "presets" / "hardware"


def _named(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a preset or, where none has the name, of a calibrated machine."""
    if name in _presets():
        text = (_folder() / f"{name}.toml").read_text(encoding="utf-8")
    else:
        text = read_text(_calibrations()[name])
    return _complete(_parsed(text, name), name, (*above, name))


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"hardware {where} is not TOML: {error}") from None


def _complete(fields: dict[str, Any], where: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a file on top of those of the machine it is based on; its name is its own.

    `above`: the machines that are based on this one.
    """
    if "based_on" not in fields:
        return fields
    base, known = fields.pop("based_on"), hardware_names()
    if base not in known:
        raise BadInput(
            f"hardware {where}: based_on is '{base}', which is no preset{suggest(str(base), known)}"
        )
    if base in above:
        raise BadInput(f"hardware {where}: based_on is '{base}', which is based on {where} itself")
    inherited = _named(base, above)
    del inherited["name"], inherited["description"]
    return _merged(inherited, fields)


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, new in change.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and "source" not in {**old, **new}:
            merged[key] = _merged(old, new)
        else:
            merged[key] = new
    return merged
