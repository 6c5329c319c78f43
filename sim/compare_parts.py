"""What the difference between two simulations of a phase is due to, part by part.

Both run the same tasks; one is given the measured seconds, the other the cost model's. A part is
the tasks of one operation on one stream, or the host (issuing and synchronising). Its worth is what
exchanging it alone changes: in the measured durations, and in the simulated ones, the mean of the
two. Parts do not add up where two of them hide behind each other (either could be the bottleneck):
what remains is the interaction, which is stated and not shared out.
"""

from typing import NamedTuple

import numpy as np

from schedules.graph import FloatArray, IntArray
from sim.compare_run import ENGINE, Clocks, Durations

Operation = tuple[str, str]
"""Names of an operation and of its stream."""


class Worth(NamedTuple):
    """Seconds of a phase, replayed - simulated, by what they are due to.

    Parameters
    ----------
    operations: by operation and stream. host: issuing and synchronising.
    interaction: what is due to no part alone. Together they are the difference.
    contention: by how much the cost model's channels lengthen the simulated phase; it is in the
        simulated durations, and so in the operations.
    """

    operations: dict[Operation, float]
    host: float
    interaction: float
    contention: float


def worth(phase: Clocks) -> Worth:
    """Exchange one part at a time."""
    own, priced = phase.own, phase.priced
    groups = operations(phase)
    found = {
        name: _exchange(phase, _with_tasks(own, priced, tasks), _with_tasks(priced, own, tasks))
        for name, tasks in groups.items()
    }
    host = _exchange(phase, priced._replace(task_s=own.task_s), own._replace(task_s=priced.task_s))
    whole = phase.replayed.makespan_s - phase.simulated.makespan_s
    alone = ENGINE.run(phase.graph, phase.alone_s, priced.issue_s, priced.sync_s).makespan_s
    rest = whole - sum(found.values()) - host
    return Worth(found, host, rest, phase.simulated.makespan_s - alone)


def operations(phase: Clocks) -> dict[Operation, IntArray]:
    """The tasks of each operation on each stream, in order of issue."""
    graph = phase.graph
    code = graph.op * len(graph.streams) + graph.stream
    found = {}
    for value in np.unique(code).tolist():
        op, stream = divmod(value, len(graph.streams))
        found[graph.ops[op], graph.streams[stream]] = np.flatnonzero(code == value)
    return found


def _with_tasks(base: Durations, other: Durations, tasks: IntArray) -> Durations:
    """`base` with the durations of some tasks from `other`."""
    seconds: FloatArray = base.task_s.copy()
    seconds[tasks] = other.task_s[tasks]
    return base._replace(task_s=seconds)


def _exchange(phase: Clocks, own_but: Durations, priced_but: Durations) -> float:
    """The mean worth of what is exchanged, given both durations with it exchanged."""
    from_run = phase.replayed.makespan_s - own_but.run(phase.graph).makespan_s
    from_model = priced_but.run(phase.graph).makespan_s - phase.simulated.makespan_s
    return (from_run + from_model) / 2
