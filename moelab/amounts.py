"""Amounts with units, as people write them: `16GiB`, `2.5GB/s`."""

import re

from schedules.errors import BadInput

UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", start=1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}
_AMOUNT = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>[A-Za-z]*)")


def parse_bytes(text: str, option: str) -> int:
    """Bytes of an amount. Raises `BadInput` for anything else.

    >>> parse_bytes("16GiB", "--gpu-memory"), parse_bytes("1.5 MB", "--gpu-memory")
    (17179869184, 1500000)
    """
    found = _AMOUNT.fullmatch(text.strip())
    unit = found["unit"] if found else ""
    known = {name.lower(): size for name, size in UNITS.items()}
    if found is None or unit.lower() not in known:
        raise BadInput(f"{option} {text}: give bytes with a unit, such as 16GiB or 500MB")
    size = round(float(found["number"]) * known[unit.lower()])
    if size <= 0:
        raise BadInput(f"{option} {text}: it must be more than 0")
    return size


def parse_rate(text: str, option: str) -> float:
    """Bytes per second of an amount such as `2.5GB/s`."""
    if not text.endswith("/s"):
        raise BadInput(f"{option} {text}: give bytes per second, such as 2.5GB/s")
    return float(parse_bytes(text.removesuffix("/s"), option))
