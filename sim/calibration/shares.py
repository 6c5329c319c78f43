"""What streams share, from two or more of them at work at once."""

from collections.abc import Sequence

import numpy as np

from sim.calibration.points import Point, chosen, rate
from sim.channels import OPERATION_PLACES

STREAMS = ("pin", "read")
"""What goes through memory at full speed beside the device's products: copies, and reads."""


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


def queue(points: Sequence[Point]) -> float | None:
    """Places at the memory (see `sim.channels`); None: pairs of streams were not measured.

    What a stream leaves of them is shared by an operation of the device, whose speed beside it is
    that of products of matrices, the mean beside copies and beside reads.
    """
    pairs = [speed for other in STREAMS if (speed := _beside(points, other)) is not None]
    if not pairs:
        return None
    return 1 + OPERATION_PLACES * float(np.clip(np.mean(pairs), 1 / OPERATION_PLACES, 1))


def _beside(points: Sequence[Point], other: str) -> float | None:
    """Speed of products beside a stream, 1 where it is that alone."""
    own = chosen(points, "copy_pair", pair=f"gemm+{other}", role="gemm")
    rates = {str(point.params["when"]): rate(point, "bytes") for point in own}
    return rates["together"] / rates["alone"] if len(rates) == 2 else None
