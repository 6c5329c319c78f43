"""Amounts with units, as people write them: `16GiB`, `2.5GB/s`."""

import re

from schedules.errors import BadInput

UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", start=1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}
MOST_BYTES = 2**60  # an EiB; memory and links have less, and such an amount is a slip of the key
_AMOUNT = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>[A-Za-z]+)", re.ASCII)


def parse_bytes(text: str, option: str) -> int:
    """Bytes of an amount with a unit, decimal (`MB`) or binary (`MiB`), in capitals or not.

    Raises `BadInput` for anything else: `16` alone might mean bytes or GiB.

    >>> parse_bytes("16GiB", "--gpu-memory"), parse_bytes("1.5 mb", "--gpu-memory")
    (17179869184, 1500000)
    """
    return round(_amount(text, f"{option} {text}", "", "bytes with a unit, such as 16GiB or 500MB"))


def parse_rate(text: str, option: str) -> float:
    """Bytes per second of an amount such as `2.5GB/s`. Raises `BadInput` for anything else.

    >>> parse_rate("2.5GB/s", "--link-bandwidth")
    2500000000.0
    """
    return _amount(text, f"{option} {text}", "/s", "bytes per second, such as 2.5GB/s")


def _amount(text: str, where: str, suffix: str, right: str) -> float:
    known = {name.lower(): size for name, size in UNITS.items()}
    found = _AMOUNT.fullmatch(text.strip().removesuffix(suffix))
    if not text.strip().endswith(suffix) or found is None or found["unit"].lower() not in known:
        raise BadInput(f"{where}: give {right}")
    amount = float(found["number"]) * known[found["unit"].lower()]
    if not 1 <= amount <= MOST_BYTES:
        raise BadInput(f"{where}: it must be from 1 to 2^60 bytes{suffix}")
    return amount
