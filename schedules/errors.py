"""The exceptions of moelab: one root, one class per kind of failure.

The command line turns `BadInput` and `Infeasible` into one sentence and exit code 2, any other
`MoelabError` into one sentence and exit code 1.
"""

import difflib
from collections.abc import Iterable


class MoelabError(Exception):
    """Root of all errors that moelab raises on purpose; its text is one clear sentence."""


class BadInput(MoelabError):
    """What the user asked for is wrong: an unknown name, a malformed file, an impossible value."""


class Infeasible(MoelabError):
    """What the user asked for is meaningful but needs more memory than there is."""


def suggest(name: str, known: Iterable[str]) -> str:
    """A clause that names the nearest known names, or all of them when none is near.

    >>> suggest("cgopip", ["cgopipe", "flexgen"])
    ", did you mean 'cgopipe'?"
    >>> suggest("x", ["cgopipe", "flexgen"])
    '; known: cgopipe, flexgen'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if near:
        return ", did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    return "; known: " + ", ".join(names)


def in_gb(size_bytes: float) -> str:
    """Bytes as GB with two decimals, or as MB with three where GB would show too few digits.

    >>> in_gb(90_194_313_216), in_gb(0), in_gb(2_500_000)
    ('90.19 GB', '0.00 GB', '2.500 MB')
    """
    small = 0 < size_bytes < 1e8
    return f"{size_bytes / 1e6:.3f} MB" if small else f"{size_bytes / 1e9:.2f} GB"
