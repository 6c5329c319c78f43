"""What streams share, from two or more of them at work at once."""

from collections.abc import Sequence

from sim.calibration.points import Point, chosen, rate


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
