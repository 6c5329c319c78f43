"""All decode steps of a generation from two of them.

The steps of most schedules issue the same tasks with the same dependencies. Only the context grows,
by one token per sequence and step, so every amount of work is affine in the number of the step, and
so are the seconds that each resource needs for a task. What a task of step s takes is their maximum
at s, plus its fixed costs. So two steps say how long every task of every step takes, to rounding;
the engine then runs each of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from schedules.graph import FloatArray, IntArray, TaskGraph
from schedules.task import Work
from sim.channels import Loads, loads
from sim.cost import CostModel
from sim.sharing import Sharing

TOLERANCE = 1e-9  # relative; a step between the two is met this closely


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps `first` to `last` of a generation, which differ in amounts of work alone.

    Parameters
    ----------
    graph, end: of the first step and of the last; all have the same structure.
    low, high: seconds that each resource needs for each task of the two, shape (n, resources).
    fixed_s, issue_s: fixed costs of each task, and of issuing it, shape (n,).
    light, heavy: what the tasks of the two move over the machine's channels; None: there are none.
    """

    graph: TaskGraph
    end: TaskGraph
    first: int
    last: int
    low: FloatArray
    high: FloatArray
    fixed_s: FloatArray
    issue_s: FloatArray
    light: Loads | None = None
    heavy: Loads | None = None

    def share(self, step: int) -> float:
        """How far a step is from the first to the last, 0 to 1."""
        return (step - self.first) / max(1, self.last - self.first)

    def limits(self, step: int) -> FloatArray:
        """Seconds that each resource needs for each task of a step, shape (n, resources)."""
        return self.low + (self.high - self.low) * self.share(step)

    def duration_s(self, step: int) -> FloatArray:
        """Seconds that each task of a step takes, shape (n,)."""
        return np.asarray(self.limits(step).max(axis=1) + self.fixed_s)

    def sharing(self, step: int) -> Sharing | None:
        """What the tasks of a step demand of the channels; None without any."""
        if self.light is None or self.heavy is None:
            return None
        moved = self.light.bytes + (self.heavy.bytes - self.light.bytes) * self.share(step)
        return self.light._replace(bytes=moved).sharing(self.duration_s(step))

    def graph_at(self, step: int) -> TaskGraph:
        """What a step would issue, its works with the amounts of that step."""
        if step in (self.first, self.last):
            return self.graph if step == self.first else self.end
        share = self.share(step)
        tasks, kind = self.kinds
        one, other = self.graph.work[tasks].tolist(), self.end.work[tasks].tolist()
        works = tuple(
            between(self.graph.works[a], self.end.works[b], share)
            for a, b in zip(one, other, strict=True)
        )
        numbers = np.full(len(self.graph), step, dtype=np.int64)
        return replace(self.graph, works=works, work=kind, step=numbers)

    @cached_property
    def kinds(self) -> tuple[IntArray, IntArray]:
        """A task of each pair of works, and which pair each task has, shape (n,)."""
        return kinds(self.graph.work, self.end.work)

    @cached_property
    def lasting(self) -> tuple[IntArray, IntArray]:
        """A task of each kind that takes equally long in every step, and the kind of each task.

        Tasks of the same works, unless somebody has given them different seconds.
        """
        tasks, kind = self.kinds
        given = self.low, self.high, self.fixed_s
        if all(np.array_equal(values[tasks][kind], values) for values in given):
            return tasks, kind
        return np.arange(len(self.graph)), np.arange(len(self.graph))

    def seconds(self, shares: FloatArray) -> FloatArray:
        """What each kind of `lasting` takes at these shares of the way, shape (kinds, shares)."""
        tasks, _ = self.lasting
        low = self.low[tasks]
        more = self.high[tasks] - low
        slowest = low[:, :1] + more[:, :1] * shares
        for resource in range(1, low.shape[1]):
            need = low[:, resource, None] + more[:, resource, None] * shares
            slowest = np.maximum(slowest, need)
        return np.asarray(slowest + self.fixed_s[tasks, None])

    def foretells(self, graph: TaskGraph, step: int, cost: CostModel) -> bool:
        """Whether a step that was issued is what the two say of it."""
        if not graph.same_structure(self.graph):
            return False
        tasks, _ = kinds(self.kinds[1], graph.work)
        found = np.array([cost.limits(graph.works[work]) for work in graph.work[tasks].tolist()])
        low, high = self.low[tasks], self.high[tasks]
        expected = low + (high - low) * self.share(step)
        return bool(np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * expected.max()))


def steps_between(
    first: TaskGraph, last: TaskGraph, numbers: tuple[int, int], cost: CostModel
) -> Steps:
    """The steps from one that was issued to another, of these numbers."""
    low, fixed_s, issue_s = priced(first, cost)
    high, _, _ = priced(last, cost)
    moved = tuple(loads(g, cost.channels, cost.moved) for g in (first, last))
    return Steps(first, last, *numbers, low, high, fixed_s, issue_s, *moved)


def between(a: Work, b: Work, share: float) -> Work:
    """Work whose amounts are a share of the way from those of `a` to those of `b`."""

    def mixed(x: Mapping[str, float], y: Mapping[str, float]) -> dict[str, float]:
        keys = dict.fromkeys([*x, *y])
        return {key: x.get(key, 0.0) + (y.get(key, 0.0) - x.get(key, 0.0)) * share for key in keys}

    if a is b:
        return a
    return a.model_copy(
        update={
            "flops": mixed(a.flops, b.flops),
            "bytes": mixed(a.bytes, b.bytes),
            "link_bytes": mixed(a.link_bytes, b.link_bytes),
        }
    )


def kinds(one: IntArray, other: IntArray) -> tuple[IntArray, IntArray]:
    """Tasks by pairs of numbers: a task of each pair, and which pair each task has, shape (n,)."""
    pair = one * (other.max(initial=0) + 1) + other
    small = pair.astype(np.min_scalar_type(pair.max(initial=0)))  # 16 bits sort ten times as fast
    _, tasks, kind = np.unique(small, return_index=True, return_inverse=True)
    return tasks, kind


def priced(graph: TaskGraph, cost: CostModel) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Seconds that each resource needs for each task; fixed ones; and those of issuing."""
    limits = np.array([cost.limits(work) for work in graph.works], dtype=np.float64)
    fixed = np.array([cost.call_seconds(work) for work in graph.works], dtype=np.float64)
    issue = np.array([cost.issue_seconds(work) for work in graph.works], dtype=np.float64)
    return limits[graph.work], fixed[graph.work], issue[graph.work]
