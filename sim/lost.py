"""What tasks lose to sharing channels: how much longer they take than alone, and by which channel.

While a task runs, its speed changes whenever another starts or ends (`sim.sharing`). In a stretch
of dt seconds at speed v it loses (1 - v) dt, and it loses them to the channel that was full and so
kept it from going faster. What a task loses in all is its actual length minus its length alone.

In such a stretch the channel alone sets the pace: the rate that the task has when it runs alone
plays no role. So the whole stretch, not only what is lost, is due to the channel.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from schedules.graph import FloatArray, TaskGraph
from sim.engines import engine
from sim.sharing import Sharing


@dataclass(frozen=True, eq=False, slots=True)
class Lost:
    """What the tasks of a phase lose.

    Parameters
    ----------
    names: of the channels. end_s: when each task really ends, shape (n,).
    seconds: lost by each task to each channel, shape (n, c).
    bound_s: in which each channel binds each task, shape (n, c).
    own: part of each task's work that it does at its full speed, shape (n,).
    """

    names: tuple[str, ...]
    end_s: FloatArray
    seconds: FloatArray
    bound_s: FloatArray
    own: FloatArray


def lost(
    graph: TaskGraph,
    duration_s: FloatArray,
    issue_s: FloatArray,
    sync_s: float,
    sharing: Sharing | None,
) -> Lost | None:
    """Run a phase and see what its tasks lose; None where each takes as long as it does alone.

    Parameters
    ----------
    duration_s, issue_s: seconds of each task alone, and of issuing it, shape (n,).
    sync_s: seconds of each wait. sharing: what the tasks demand of the channels.
    """
    if sharing is None:
        return None
    run = engine("compiled").run(graph, duration_s, issue_s, sync_s, sharing)
    if (run.end_s == run.start_s + duration_s).all():
        return None
    bound_s, seconds = np.zeros_like(sharing.demand), np.zeros_like(sharing.demand)
    dominant = (sharing.demand / sharing.capacity).max(axis=1)
    using = np.flatnonzero((dominant > 0) & (run.end_s > run.start_s))
    kernels().add_lost(
        run.start_s,
        run.end_s,
        using[np.argsort(run.start_s[using], kind="stable")],
        using[np.argsort(run.end_s[using], kind="stable")],
        len(graph.streams),
        np.ascontiguousarray(sharing.demand),
        dominant,
        sharing.capacity,
        bound_s,
        seconds,
    )
    slow_s = (bound_s - seconds).sum(axis=1)  # of the work, as if alone
    own = 1.0 - np.divide(slow_s, duration_s, out=np.zeros_like(slow_s), where=slow_s > 0)
    return Lost(sharing.names, run.end_s, seconds, bound_s, own.clip(0.0, 1.0))


def resource_of(channel: str) -> str:
    """The path in a hardware file of what a channel carries: each GPU's memory has the same.

    >>> resource_of("cpu"), resource_of("gpu1")
    ('channels.cpu', 'channels.gpu')
    """
    return f"channels.{'gpu' if channel.startswith('gpu') else channel}"


@lru_cache(maxsize=1)
def kernels() -> Any:
    """The compiled loops; numba takes a third of a second to import."""
    from sim import kernels_lost

    return kernels_lost
