"""What streams share, from two or more of them at work at once."""

from collections.abc import Sequence

import numpy as np

from schedules.graph import FloatArray
from sim.calibration.least_squares import Fit
from sim.calibration.points import Point, chosen, rate
from sim.sharing import speeds

STREAMS = ("pin", "read")
"""What goes through memory at full speed beside the device's products: copies, and reads."""
NOBODY_WAITS = 3.0  # places: two of an operation that memory takes all the time of, and a stream


def cores(points: Sequence[Point]) -> float | None:
    """How many threads' worth of arithmetic the processor does at once; None: not measured.

    Threads that share a core's units, or its clock and power, do less together than as many times
    what one does alone.
    """
    by_threads = {int(p.params["threads"]): rate(p, "flops") for p in chosen(points, "cores")}
    if 1 not in by_threads:
        return None
    return max(1.0, max(by_threads.values()) / by_threads[1])


def memory(points: Sequence[Point], alone: Sequence[float] = ()) -> float | None:
    """The most bytes/s that host memory carried, by any number of threads; None: not measured.

    Nothing that runs `alone` is slowed down by a limit that it keeps by itself.
    """
    rates = [rate(point) for point in chosen(points, "memory", memory="cpu")]
    return max([*rates, *alone]) if rates else None


def queue(points: Sequence[Point], device: Fit) -> float | None:
    """Places at the memory (see `sim.channels`); None: pairs of streams were not measured.

    The number with which products of the device and a stream beside them slow each other down as
    they did, by the squares of the speeds' logarithms. `device` says which part of the products'
    time is due to memory.
    """
    from scipy.optimize import minimize_scalar

    pairs = [pair for other in STREAMS if (pair := _pair(points, other, device)) is not None]
    if not pairs:
        return None

    def missed(places: float) -> float:
        return sum(float(np.sum(np.log(beside(places, f) / got) ** 2)) for f, got in pairs)

    return float(minimize_scalar(missed, bounds=(1.0, NOBODY_WAITS), method="bounded").x)


def beside(places: float, memory_share: float) -> FloatArray:
    """Speeds of an operation of the device and of a stream that run at once, 1 where they do alone.

    >>> beside(2.0, 1.0), beside(3.0, 1.0)
    (array([0.5, 1. ]), array([1., 1.]))
    """
    demand = np.array([[min(1 + memory_share, places)], [1.0]])
    return np.array(speeds(demand, np.array([places])))


def _pair(points: Sequence[Point], other: str, device: Fit) -> tuple[float, FloatArray] | None:
    """The share of the products' time that is due to memory, and both speeds beside each other."""
    pair = f"gemm+{other}"
    found = {
        (p.params["role"], p.params["when"]): p for p in chosen(points, "copy_pair", pair=pair)
    }
    if len(found) < 4:
        return None
    amount = found["gemm", "alone"].amount
    gemm = next((cost for name, cost in device.costs.items() if name.endswith(".gemm")), None)
    memory_s = amount["bytes"] * device.costs["bytes"].value
    compute_s = amount["flops"] * gemm.value if gemm else 0.0
    whole_s = max(memory_s, compute_s) if device.overlaps else memory_s + compute_s
    got = [
        rate(found[r, "together"], "bytes") / rate(found[r, "alone"], "bytes")
        for r in ("gemm", other)
    ]
    return memory_s / whole_s, np.minimum(got, 1.0)
