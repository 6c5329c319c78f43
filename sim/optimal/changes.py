"""What a better order does differently: where each stream's order first departs."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from schedules.graph import FloatArray, TaskGraph
from sim.optimal.cycle import Cycle
from sim.optimal.tight import Turns

SHOWN = 3
"""Places of each stream."""


class Change(NamedTuple):
    """At place `place` (0..) of a stream's tasks the schedule has one, the better order another."""

    stream: str
    place: int
    schedule: str
    best: str


def window_changes(graph: TaskGraph, own: FloatArray, better: FloatArray) -> list[Change]:
    """Differences of the orders that these starts give, stream by stream."""
    found = []
    for stream, name in enumerate(graph.streams):
        tasks = np.flatnonzero(graph.stream == stream)
        orders = [
            [_label(graph, int(task)) for task in tasks[np.argsort(start[tasks], kind="stable")]]
            for start in (own, better)
        ]
        found += _differing(name, *orders)
    return found


def cyclic_changes(cycle: Cycle, own: Turns, better: Turns) -> list[Change]:
    """Differences of the orders in which a period's tasks follow one another on each stream.

    A period begins with the stream's first task of a layer; tasks of other periods are marked.
    """
    found = []
    for stream, name in enumerate(cycle.streams):
        tasks = np.flatnonzero(cycle.stream == stream)
        if len(tasks):
            orders = [_in_a_period(cycle, turns, tasks.tolist()) for turns in (own, better)]
            found += _differing(name, *orders)
    return found


def _in_a_period(cycle: Cycle, turns: Turns, tasks: Sequence[int]) -> list[str]:
    since = (turns.start[tasks] - turns.start[tasks[0]]) / turns.period
    later = np.floor(since + 1e-9).astype(int)
    order = np.argsort(since - later, kind="stable")
    return [_cyclic_label(cycle, tasks[i], -int(later[i])) for i in order]


def _cyclic_label(cycle: Cycle, task: int, periods: int) -> str:
    name = cycle.names[task]
    layer = name.part + periods * cycle.layers
    batch = "" if name.micro_batch < 0 else f" {name.micro_batch}"
    again = "" if name.number == 1 else f" #{name.number}"
    where = "" if not layer else f" (layer {layer:+d})"
    return f"{name.op}{batch}{again}{where}"


def _label(graph: TaskGraph, task: int) -> str:
    batch, layer = int(graph.micro_batch[task]), int(graph.layer[task])
    where = f" (layer {layer})" if layer >= 0 else ""
    return f"{graph.ops[graph.op[task]]}{'' if batch < 0 else f' {batch}'}{where}"


def _differing(stream: str, own: Sequence[str], better: Sequence[str]) -> list[Change]:
    pairs = enumerate(zip_longest(own, better, fillvalue="-"))
    return [Change(stream, i, a, b) for i, (a, b) in pairs if a != b][:SHOWN]
