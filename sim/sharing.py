"""Contention: tasks that run at the same time share named channels.

A channel is something that several streams use at once: the host's DRAM under CPU attention,
pinning copies and DMA; a PCIe switch under several GPUs; the GPU's memory under kernels and copies.
A task that runs alone uses it at a rate, its demand in bytes/s; all demands of a moment may be more
than the channel has.

Speeds are max-min fair. All running tasks are sped up together, from zero, in proportion: each by
the inverse of its dominant share, the largest part of a channel that it would use alone (Ghodsi et
al., Dominant Resource Fairness, NSDI 2011). A task stops at its own full speed, 1, or when a
channel that it uses is full. On a single channel everybody gets the same bytes/s unless it needs
less.

By hand: a channel of 100, tasks that demand 90, 60 and 10. Equal rates fill it at 45, 45 and 10:
speeds 0.5, 0.75 and 1.
"""

from dataclasses import dataclass

import numpy as np

from schedules.errors import BadInput
from schedules.graph import FloatArray


@dataclass(frozen=True, eq=False, slots=True)
class Sharing:
    """Channels, and what each task demands of them.

    Parameters
    ----------
    names: of the channels. capacity: bytes/s of each, shape (c,).
    demand: bytes/s of each task when it runs alone, shape (n, c).

    Raises `BadInput` for shapes that do not fit, amounts that are negative or not finite, and a
    channel of no capacity.
    """

    names: tuple[str, ...]
    capacity: FloatArray
    demand: FloatArray

    def __post_init__(self) -> None:
        channels = len(self.names)
        if self.capacity.shape != (channels,) or self.demand.shape[1:] != (channels,):
            raise BadInput(
                f"{channels} channels, but capacities of shape {self.capacity.shape} and demands "
                f"of shape {self.demand.shape}"
            )
        if not (np.isfinite(self.capacity) & (self.capacity > 0)).all():
            raise BadInput("the capacity of every channel must be a finite number above 0")
        if not (np.isfinite(self.demand) & (self.demand >= 0)).all():
            raise BadInput("the demands of tasks must be finite numbers >= 0")


def speeds(demand: FloatArray, capacity: FloatArray) -> list[float]:
    """Max-min fair speeds, 0 to 1, of tasks that run at the same time; see above.

    Parameters
    ----------
    demand: shape (r, c), of the running tasks at full speed. capacity: shape (c,).

    >>> speeds(np.array([[90.0], [60.0], [10.0]]), np.array([100.0]))
    [0.5, 0.75, 1.0]
    """
    tasks, channels = range(len(demand)), range(len(capacity))
    share = [max((demand[i, c] / capacity[c] for c in channels), default=0.0) for i in tasks]
    found = [1.0] * len(demand)
    rising = [i for i in tasks if share[i] > 0]
    left = [float(value) for value in capacity]
    level = 0.0
    while rising:
        growth = [sum(demand[i, c] / share[i] for i in rising) for c in channels]
        levels = [left[c] / growth[c] if growth[c] > 0 else np.inf for c in channels]
        lowest, full = min(levels), min(share[i] for i in rising)
        level = max(level, lowest)  # what is left may be rounded to nothing
        if full <= level:
            stops = [i for i in rising if share[i] <= full]
        else:
            tight = levels.index(lowest)
            stops = [i for i in rising if demand[i, tight] > 0]
        for i in stops:
            found[i] = float(min(1.0, min(level, full) / share[i]))
            for c in channels:
                left[c] = max(0.0, left[c] - found[i] * demand[i, c])
        rising = [i for i in rising if i not in stops]
    return found
