"""Which resource of the machine each second of a task is due to.

A task takes as long as the slowest of the resources that it uses, and fixed costs beside
(`sim.cost.Roofline`). The slowest one is what binds: a little more of another changes nothing.
Where two are exactly as slow, the first in the roofline's order is named. Resources are named by
their paths in a hardware file: `links.h2d`, `gpu.compute.float16.experts`, `host.issue_s`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from schedules.graph import FloatArray, IntArray, TaskGraph
from schedules.task import Work
from sim.cost import Roofline
from sim.decoding import Steps, steps_between
from sim.hardware_parts import LINKS

Seconds = dict[str, float]
"""Seconds by resource."""

ISSUE, SYNC = "host.issue_s", "host.sync_s"
LIMITS = {"gpu": "gpu.memory_bandwidth", "cpu": "cpu.memory_bandwidth"} | {
    link: f"links.{link}" for link in LINKS
}
"""The resource of each limit but arithmetic, each of whose kernel classes has a rate of its own."""
CALLS = {
    "gpu": "gpu.call_s",
    "cpu": "cpu.call_s",
    "link": "link_call_s",
    "host": "host.ffn_s",
    "none": "link_call_s",  # that has no calls
}


@dataclass(frozen=True, eq=False)
class Alike:
    """Phases that differ in amounts of work alone: prefill, all decode steps, or one of them.

    Parameters
    ----------
    steps: their graph and what each resource needs.
    arithmetic: kernel classes in use, as paths; low, high: seconds of each of them for each task of
        the first and the last phase, shape (n, classes).
    calls: the resource of each task's fixed costs, shape (n,), as an index of `call_names`.
    """

    cost: Roofline
    steps: Steps
    arithmetic: tuple[str, ...]
    low: FloatArray
    high: FloatArray
    calls: IntArray
    call_names: tuple[str, ...]

    @cached_property
    def limit_names(self) -> tuple[str, ...]:
        """The resource of each limit; arithmetic as a whole is `compute`."""
        return tuple(LIMITS.get(name, name) for name in self.cost.limit_names)

    def arithmetic_s(self, step: int) -> FloatArray:
        """Seconds of each kernel class for each task of a step, shape (n, classes)."""
        return self.low + (self.high - self.low) * self.steps.share(step)

    def with_rates(self, resources: Iterable[str], factor: float) -> tuple[Steps, float]:
        """Steps, and seconds of a wait, with some resources `factor` times as fast."""
        change = 1 / factor - 1
        low, high = self.steps.low.copy(), self.steps.high.copy()
        fixed, issue, sync = self.steps.fixed_s.copy(), self.steps.issue_s, self.cost.sync_s
        compute = self.limit_names.index("compute")
        for name in resources:
            if name in self.limit_names:
                place = self.limit_names.index(name)
                low[:, place] += change * self.steps.low[:, place]
                high[:, place] += change * self.steps.high[:, place]
            if name in self.arithmetic:
                place = self.arithmetic.index(name)
                low[:, compute] += change * self.low[:, place]
                high[:, compute] += change * self.high[:, place]
            if name in self.call_names:
                own = self.calls == self.call_names.index(name)
                fixed[own] += change * self.steps.fixed_s[own]
            issue = issue / factor if name == ISSUE else issue
            sync = sync / factor if name == SYNC else sync
        return replace(self.steps, low=low, high=high, fixed_s=fixed, issue_s=issue), sync

    def names(self) -> set[str]:
        """All resources that could play a role."""
        most = np.maximum(self.steps.low, self.steps.high).max(axis=0, initial=0.0).tolist()
        limits = {name for name, used in zip(self.limit_names, most, strict=True) if used}
        return {*self.arithmetic, *limits, *self.call_names, ISSUE, SYNC} - {"compute"}

    def due_to(self, step: int, tasks: IntArray) -> Seconds:
        """What the durations of some tasks of a step are due to; it adds up to their sum."""
        found: Seconds = {}
        limits = self.steps.limits(step)[tasks]
        binding = limits.argmax(axis=1)  # the first of equals
        for place, name in enumerate(self.limit_names):
            chosen = binding == place
            if name == "compute":
                parts = self.arithmetic_s(step)[tasks[chosen]].sum(axis=0)
                found |= dict(zip(self.arithmetic, parts.tolist(), strict=True))
            else:
                found[name] = float(limits[chosen, place].sum())
        fixed = np.bincount(
            self.calls[tasks], self.steps.fixed_s[tasks], minlength=len(self.call_names)
        )
        for name, seconds in zip(self.call_names, fixed.tolist(), strict=True):
            found[name] = found.get(name, 0.0) + seconds
        return {name: seconds for name, seconds in found.items() if seconds > 0}


def alike(first: TaskGraph, last: TaskGraph, numbers: tuple[int, int], cost: Roofline) -> Alike:
    """Phases of these numbers, from two of the same structure."""
    names = sorted({path for graph in (first, last) for work in graph.works for path in _of(work)})
    fixed = [_call(work, cost) for work in first.works]
    call_names = tuple(sorted(set(fixed)))
    index = np.array([call_names.index(name) for name in fixed], dtype=np.int64)
    return Alike(
        cost=cost,
        steps=steps_between(first, last, numbers, cost),
        arithmetic=tuple(names),
        low=_arithmetic(first, names, cost),
        high=_arithmetic(last, names, cost),
        calls=index[first.work],
        call_names=call_names,
    )


def add(total: Seconds, more: Seconds) -> None:
    """Add seconds by resource to others."""
    for name, seconds in more.items():
        total[name] = total.get(name, 0.0) + seconds


def _of(work: Work) -> dict[str, str]:
    """The kernel class of each path of the arithmetic of a task."""
    return {
        f"{work.device}.compute.{work.dtype}.{kernel}": kernel
        for kernel, flops in work.flops.items()
        if flops
    }


def _arithmetic(graph: TaskGraph, names: list[str], cost: Roofline) -> FloatArray:
    seconds = np.zeros((len(graph.works), len(names)))
    for row, work in enumerate(graph.works):
        for path, kernel in _of(work).items():
            rate = cost.hardware.compute_rate(work.device, kernel, work.dtype).sustained
            seconds[row, names.index(path)] = work.flops[kernel] / rate / work.share
    return np.asarray(seconds[graph.work])


def _call(work: Work, cost: Roofline) -> str:
    if "peer" in work.link_bytes:
        return "peer_call_s" if cost.hardware.peer_call_s else "link_call_s"
    return CALLS[work.device]
