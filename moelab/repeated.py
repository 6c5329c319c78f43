"""Runs that are measured several times: how often is enough, and which time counts."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

REPEATS = 2
MOST_REPEATS = 4
AGREE = 1.05
"""Slowest over fastest of two runs that agree; on an idle machine most differ by half as much."""

Times = Mapping[str, float]
"""Seconds of a run: `makespan_s`, and others that go with it."""


def enough(seconds: Sequence[float]) -> bool:
    """Whether a run was measured often enough: two of its times agree, or it never gets steady.

    >>> enough([1.0, 1.02]), enough([1.0, 1.2]), enough([1.0, 1.2, 1.19])
    (True, False, True)
    """
    near = any(max(pair) <= AGREE * min(pair) for pair in combinations(seconds, 2))
    return near or len(seconds) == MOST_REPEATS


def middle(times: Sequence[Times]) -> dict[str, float]:
    """The run whose makespan is the median one; the mean of the middle two of an even number.

    >>> middle([{"makespan_s": 3.0}, {"makespan_s": 9.0}, {"makespan_s": 4.0}])
    {'makespan_s': 4.0}
    """
    ordered = sorted(times, key=lambda one: one["makespan_s"])
    inner = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    return {key: float(np.mean([one[key] for one in inner])) for key in inner[0]}


def makespans(times: Sequence[Times]) -> list[float]:
    """Of all measurements of a run, in seconds."""
    return [one["makespan_s"] for one in times]
