"""Lower bounds of a generation, and what each is due to.

* `stream`: the total work of a stream, the thread's issuing included. No order can beat it.
* `chain`: the longest chain of dependencies of every phase, with the buffers used as they are. What
  a stream's order implies is not recorded as a dependency, so a chain leaves that out.
* `issued chain`: the same, with issuing in this order and the threads' waits: a machine whose
  streams take any number of tasks at once.
* `resource`: the hierarchical roofline (HRM) of the whole generation (MoE-Lightning, arXiv
  2411.11217, section 3): all flops of a processor, all bytes of a memory or a link, at its
  sustained rate, without fixed costs, whatever streams they are on.
* `channel`: all that tasks demand of a channel that they share, at its rate (`sim.channels`).

All but `resource` hold in every simulation. That one is about the machine: where copies and
computations use a memory at the same time, and it is no channel (`sim.sharing`), a simulated
makespan can be below it, and is then too good by that much.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from schedules.graph import TaskGraph
from sim.causes import times_of
from sim.events import Events, events_of, kernels
from sim.resources import Alike, Seconds, add


@dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound of the makespan.

    Parameters
    ----------
    kind: `stream`, `chain`, `issued chain`, `resource` or `channel`. what: which of them.
    bound_s: seconds. ratio: makespan / bound, which says how tight it is.
    """

    kind: str
    what: str
    bound_s: float
    ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Chains:
    """The longest chains of all phases, added up."""

    def __init__(self) -> None:
        self.dependencies_s = 0.0
        self.issued_s = 0.0

    def add(self, phases: Alike, step: int, unordered: Events) -> None:
        """Add those of a phase; `unordered` is its network without the streams' order."""
        steps, graph = phases.steps, phases.steps.graph
        duration_s = steps.duration_s(step)
        self.dependencies_s += kernels().chain(graph.offsets, graph.dependencies, duration_s)
        times = times_of(unordered, duration_s, steps.issue_s, phases.cost.sync_s)
        self.issued_s += times.makespan_s


def without_order(graph: TaskGraph) -> Events:
    """The network of a graph whose streams take any number of tasks at once."""
    return events_of(graph, fifo=False)


def resource_s(phases: Alike, step: int) -> Seconds:
    """Seconds for which each device, memory and link must work in a phase, by `NAME` or `NAME#GPU`.

    Parts of a device (`Work.share`) count as such parts.
    """
    graph = phases.steps.graph
    share = np.array([work.share for work in graph.works])[graph.work]
    found: Seconds = {}
    arithmetic = phases.arithmetic_s(step) * share[:, None]
    for place, name in enumerate(phases.arithmetic):
        device, compute, _ = name.partition(".compute")
        add(found, _by_gpu(device + compute, graph, arithmetic[:, place]))
    limits = phases.steps.limits(step) * share[:, None]
    for place, name in enumerate(phases.limit_names):
        if name != "compute":
            add(found, _by_gpu(name, graph, limits[:, place]))
    return found


def channel_s(phases: Alike, step: int) -> Seconds:
    """Seconds for which each channel must work in a phase, by name; nothing without channels."""
    sharing = phases.steps.sharing(step)
    if sharing is None:
        return {}
    seconds = phases.steps.duration_s(step) @ sharing.demand / sharing.capacity
    return dict(zip(sharing.names, seconds.tolist(), strict=True))


def _by_gpu(name: str, graph: TaskGraph, seconds: np.ndarray) -> Seconds:
    """The seconds, apart for each GPU's own streams where that has the resource to itself."""
    numbers = [re.search(r"\d*$", stream) for stream in graph.streams]
    by_stream = np.bincount(graph.stream, seconds, minlength=len(graph.streams))
    found: Seconds = {}
    for number, value in zip(numbers, by_stream.tolist(), strict=True):
        digits = "" if number is None or name.startswith("cpu.") else number[0]
        add(found, {f"{name}#{digits}" if digits else name: value})
    return {key: value for key, value in found.items() if value > 0}


def bounds(
    busy_s: Seconds, chains: Chains, resources: Seconds, channels: Seconds, makespan_s: float
) -> tuple[Bound, ...]:
    """All bounds that are above zero, the largest first."""
    parts = [
        *(("stream", name, seconds) for name, seconds in busy_s.items()),
        ("chain", "dependencies", chains.dependencies_s),
        ("issued chain", "dependencies, issuing and waits", chains.issued_s),
        *(("resource", name, seconds) for name, seconds in resources.items()),
        *(("channel", name, seconds) for name, seconds in channels.items()),
    ]
    found = [Bound(*part, makespan_s / part[2]) for part in parts if part[2] > 0]
    return tuple(sorted(found, key=lambda bound: -bound.bound_s))
