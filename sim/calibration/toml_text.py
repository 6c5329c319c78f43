"""Plain values as TOML: tables of tables of texts, numbers and truth values."""

import json
import math
from collections.abc import Mapping
from typing import Any

from schedules.errors import BadInput


def toml_text(values: Mapping[str, Any], comment: str = "") -> str:
    """The text of a file; `comment` comes first, each of its lines behind a hash.

    >>> print(toml_text({"name": "lab", "gpu": {"count": 1}}), end="")
    name = "lab"
    <BLANKLINE>
    [gpu]
    count = 1

    Raises `BadInput` for a value that is none of these.
    """
    head = [f"# {line}".rstrip() for line in comment.splitlines()]
    return "\n".join(head + _table(values, ())) + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
    lines = [f"{_key(k)} = {_value(k, v)}" for k, v in plain.items()]
    if path and plain:
        lines = ["", f"[{'.'.join(map(_key, path))}]", *lines]
    for key, inner in values.items():
        if isinstance(inner, Mapping):
            lines += _table(inner, (*path, key))
    return lines


def _key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isalnum() and bare.isascii() else _quoted(key)


def _quoted(text: str) -> str:
    """JSON's escapes are TOML's, but not of characters beyond 16 bits, nor is a bare DEL one."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        text = f"{value:.6g}"
        return text if {".", "e"} & set(text) else f"{text}.0"  # without a point it is an integer
    raise BadInput(f"{key} is {value!r}, which a TOML file cannot say")
