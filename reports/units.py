"""Numbers as people read them: three significant digits and a unit."""

import html
import math
from collections.abc import Mapping

TIMES = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"

_SMALL = ((1.0, "s"), (1e-3, "ms"), (1e-6, "\N{MICRO SIGN}s"), (1e-9, "ns"))
_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def significant(value: float, digits: int = 3) -> str:
    """`value` with that many significant digits, whole digits kept and grouped in thousands.

    >>> [significant(x) for x in (0, 0.012345, 1.5, 38.246, 1234.5)]
    ['0', '0.0123', '1.50', '38.2', '1,234']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def seconds(value: float) -> str:
    """A duration in the unit that suits it.

    >>> [seconds(x) for x in (0, 75.3, 0.0123, 4.2e-6)]
    ['0 s', '75.3 s', '12.3 ms', '4.20 µs']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g} s"
    scale, unit = next((pair for pair in _SMALL if abs(value) >= pair[0] * 0.9995), _SMALL[-1])
    return f"{significant(value / scale)} {unit}"


def amount(value: float, unit: str) -> str:
    """Bytes, flops or a rate of them, with a decimal prefix (GB is 10^9 bytes).

    >>> amount(14.2e9, "B"), amount(0, "B"), amount(65e12, "flop/s")
    ('14.2 GB', '0 B', '65.0 Tflop/s')
    """
    scale, prefix = next((pair for pair in _LARGE if abs(value) >= pair[0] * 0.9995), (1.0, ""))
    digits = str(round(value)) if scale == 1.0 else significant(value / scale)
    return f"{digits} {prefix}{unit}"


def percent(share: float) -> str:
    """A share as per cent; one decimal where whole per cents would hide the difference.

    >>> percent(0.634), percent(0.042), percent(0.996), percent(1.0)
    ('63 %', '4.2 %', '99.6 %', '100 %')
    """
    value = 100 * share
    fine = 0 < value < 9.95 or 99 < value < 99.95
    return f"{value:.1f} %" if fine else f"{value:.0f} %"


def ratio(value: float) -> str:
    """A factor, finer when it is near one.

    >>> ratio(1.043), ratio(2.44), ratio(17.2)
    ('1.04×', '2.4×', '17×')
    """
    digits = 2 if value < 1.995 else 1 if value < 9.95 else 0
    return f"{value:,.{digits}f}{TIMES}"


def batch_size(policy: Mapping[str, object]) -> str:
    """Batch and micro-batch size in sequences, as N / mu.

    >>> batch_size({"N": 504, "mu": 36}), batch_size({})
    ('504 / 36', '–')
    """
    if "N" not in policy or "mu" not in policy:
        return DASH
    return f"{policy['N']} / {policy['mu']}"


def settings(values: Mapping[str, object]) -> str:
    """A policy or presets as `key=value` words, without what was left open.

    >>> settings({"N": 504, "r_w": 0.05, "pinned": None, "routing": {"kind": "uniform"}})
    'N=504 r_w=0.05 routing.kind=uniform'
    """
    flat = flatten(values).items()
    return " ".join(f"{key}={v:g}" if isinstance(v, float) else f"{key}={v}" for key, v in flat)


def flatten(values: Mapping[str, object]) -> dict[str, object]:
    """Nested values under dotted keys, without those that are None."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in flatten(value).items()}
        elif value is not None:
            flat[key] = value
    return flat


def plain(name: str) -> str:
    """A name that plotly shows as it is: without markup and without hover placeholders.

    >>> plain("a<b>%{x}")
    'a&lt;b&gt;%&#123;x}'
    """
    return html.escape(name, quote=False).replace("{", "&#123;")
