"""Rates of links and the fixed cost of a copy, from copies of many sizes."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from schedules.errors import BadInput
from schedules.sample import Sample
from sim.calibration.devices import medians
from sim.calibration.least_squares import Fit, fit
from sim.calibration.points import Point, chosen

CALLS = "calls"
LARGE_BYTES = 1 << 20


def link_fit(points: Sequence[Point], samples: Iterable[Sample]) -> Fit:
    """Seconds a byte of each link, by its name, and of a copy call (`calls`).

    From copies alone (benches `copy` and `pin`; of `pin_parallel` those with the most threads) and
    those of operations. What a call costs shows in small copies, and where there are operations,
    in theirs: a copy right after the other wakes nobody. Raises `BadInput` where there are too few.
    """
    copies = [s for s in samples if s.work.device == "link" and s.work.calls and s.work.link_bytes]
    least = LARGE_BYTES if copies else 0
    rows = [
        ({str(point.params["link"]): point.amount["bytes"]}, 1.0, float(np.median(point.seconds)))
        for point in copied(points)
        if point.amount["bytes"] >= least
    ]
    for sample, seconds in zip(copies, medians(copies), strict=True):
        rows.append((dict(sample.work.link_bytes), float(sample.work.calls), float(seconds)))
    if not rows:
        raise BadInput("no copy was measured")
    names = sorted({link for moved, _, _ in rows for link in moved})
    amounts = {name: np.array([moved.get(name, 0.0) for moved, _, _ in rows]) for name in names}
    amounts[CALLS] = np.array([calls for _, calls, _ in rows])
    return fit(amounts, np.array([seconds for _, _, seconds in rows]))


def copied(points: Sequence[Point]) -> list[Point]:
    """Copies that ran alone: of those to pinned memory, by one thread and by the most."""
    pins = chosen(points, "pin")
    most = max((int(point.params["threads"]) for point in pins), default=0)
    ends = [point for point in pins if point.params["threads"] in (1, most)]
    return [*chosen(points, "copy"), *ends]


def copy_s(fit: Fit, moved: Mapping[str, float], calls: int) -> float:
    """Seconds of a copy as fitted: bytes by link, and calls."""
    amounts = {**moved, CALLS: float(calls)}
    return sum(n * float(fit.costs[name].value) for name, n in amounts.items() if name in fit.costs)
