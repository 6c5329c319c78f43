"""Which resource of the machine each second of a task is due to.

A task takes as long as the slowest of the resources that it uses, and fixed costs beside
(`sim.cost.Roofline`). The slowest one is what binds: a little more of another changes nothing.
Where two are exactly as slow, the first in the roofline's order is named. Resources are named by
their paths in a hardware file: `links.h2d`, `gpu.compute.float16.experts`, `host.issue_s`. While
a channel that it shares keeps a task from going faster (`sim.lost`), that is what binds:
`channels.cpu`.
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
from sim.lost import resource_of

Seconds = dict[str, float]
"""Seconds by resource."""

ISSUE, ISSUE_TASK, SYNC = "host.issue_s", "host.task_s", "host.sync_s"
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
    arithmetic: what adds up in a processor, as paths: kernel classes in use, and the bandwidth of a
        memory that does not overlap them; low, high: seconds of each of them for each task of the
        first and the last phase, shape (n, classes).
    calls: the resource of each task's fixed costs, shape (n,), as an index of `call_names`.
    gpus: how many are in use.
    """

    cost: Roofline
    steps: Steps
    arithmetic: tuple[str, ...]
    low: FloatArray
    high: FloatArray
    calls: IntArray
    call_names: tuple[str, ...]
    gpus: int = 1

    @cached_property
    def limit_names(self) -> tuple[str, ...]:
        """The resource of each limit; arithmetic as a whole is `compute`."""
        return tuple(LIMITS.get(name, name) for name in self.cost.limit_names)

    def arithmetic_s(self, step: int) -> FloatArray:
        """Seconds of each kernel class for each task of a step, shape (n, classes)."""
        return self.low + (self.high - self.low) * self.steps.share(step)

    def with_rates(self, resources: Iterable[str], factor: float) -> tuple[Steps, float]:
        """Steps, and seconds of a wait, with some resources `factor` times as fast.

        Where tasks share channels, their demands change as well: see `repriced`.
        """
        if self.cost.channels:
            return self.repriced(resources, factor)
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
            issue = issue / factor if name == self.issuing else issue
            sync = sync / factor if name == SYNC else sync
        return replace(self.steps, low=low, high=high, fixed_s=fixed, issue_s=issue), sync

    def repriced(self, resources: Iterable[str], factor: float) -> tuple[Steps, float]:
        """The same, by a machine that has those rates."""
        hardware = self.cost.hardware
        for name in resources:
            hardware = hardware.with_rate(name, 1 / factor if name.endswith("_s") else factor)
        cost, old = Roofline(hardware, self.gpus), self.steps
        return steps_between(old.graph, old.end, (old.first, old.last), cost), cost.sync_s

    @property
    def issuing(self) -> str:
        """The resource of issuing: seconds for each kernel or copy, or for each task."""
        return ISSUE if self.cost.hardware.host.task_s is None else ISSUE_TASK

    def channels(self) -> set[str]:
        """The resources that play a role only where tasks share channels."""
        light = self.steps.light
        found = set() if light is None else {resource_of(channel) for channel in light.names}
        threads = {"channels.cores", "channels.queue"} & found
        copies = threads and self.cost.hardware.emulated
        return found | ({"emulated.copy_rate"} if copies else set())

    def names(self) -> set[str]:
        """All resources that could play a role."""
        most = np.maximum(self.steps.low, self.steps.high).max(axis=0, initial=0.0).tolist()
        limits = {name for name, used in zip(self.limit_names, most, strict=True) if used}
        fixed = {*self.call_names, self.issuing, SYNC}
        return {*self.arithmetic, *limits, *fixed, *self.channels()} - {"compute"}

    def due_to(self, step: int, tasks: IntArray, part: FloatArray | None = None) -> Seconds:
        """What the durations of some tasks of a step are due to; it adds up to their sum.

        Parameters
        ----------
        part: of each of them, how much of it counts, 0 to 1; None: all of it.
        """
        found: Seconds = {}
        counts = np.ones(len(tasks)) if part is None else part
        limits = self.steps.limits(step)[tasks] * counts[:, None]
        binding = limits.argmax(axis=1)  # the first of equals
        for place, name in enumerate(self.limit_names):
            chosen = binding == place
            if name == "compute":
                arithmetic = self.arithmetic_s(step)[tasks[chosen]] * counts[chosen, None]
                parts = arithmetic.sum(axis=0)
                add(found, dict(zip(self.arithmetic, parts.tolist(), strict=True)))
            else:
                add(found, {name: float(limits[chosen, place].sum())})
        fixed = np.bincount(
            self.calls[tasks], self.steps.fixed_s[tasks] * counts, minlength=len(self.call_names)
        )
        for name, seconds in zip(self.call_names, fixed.tolist(), strict=True):
            found[name] = found.get(name, 0.0) + seconds
        return {name: seconds for name, seconds in found.items() if seconds > 0}


def alike(
    first: TaskGraph, last: TaskGraph, numbers: tuple[int, int], cost: Roofline, gpus: int = 1
) -> Alike:
    """Phases of these numbers, from two of the same structure."""
    works = (*first.works, *last.works)
    names = sorted({path for work in works for path in _parts(work, cost)})
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
        gpus=gpus,
    )


def add(total: Seconds, more: Seconds) -> None:
    """Add seconds by resource to others."""
    for name, seconds in more.items():
        total[name] = total.get(name, 0.0) + seconds


def _parts(work: Work, cost: Roofline) -> Seconds:
    """Seconds of each thing that adds up in the processor of a task, by path."""
    found = {}
    for kernel, flops in work.flops.items():
        if flops:
            rate = cost.hardware.compute_rate(work.device, kernel, work.dtype).sustained
            found[f"{work.device}.compute.{work.dtype}.{kernel}"] = flops / rate / work.share
    if work.device in LIMITS and work.device in work.bytes:
        unit = cost.hardware.gpu if work.device == "gpu" else cost.hardware.cpu
        if not unit.overlaps.value:
            seconds = work.bytes[work.device] / (unit.memory_bandwidth.sustained * work.share)
            found[LIMITS[work.device]] = seconds
    return found


def _arithmetic(graph: TaskGraph, names: list[str], cost: Roofline) -> FloatArray:
    seconds = np.zeros((len(graph.works), len(names)))
    for row, work in enumerate(graph.works):
        for path, value in _parts(work, cost).items():
            seconds[row, names.index(path)] = value
    return np.asarray(seconds[graph.work])


def _call(work: Work, cost: Roofline) -> str:
    if "peer" in work.link_bytes:
        return "peer_call_s" if cost.hardware.peer_call_s else "link_call_s"
    return CALLS[work.device]
