"""Many scenarios over one graph: what-ifs of hardware, calibration or routing.

The scenarios differ in how long tasks take, not in which tasks there are. Sixteen of them go
through the graph side by side, and blocks of sixteen over the cores.

    seconds = np.array([[cost.seconds(work) for work in graph.works] for cost in costs])
    makespans(graph, seconds)
"""

from typing import Any

import numpy as np

from schedules.errors import BadInput
from schedules.graph import FloatArray, TaskGraph
from sim.compiled import is_in_order, simulate_graph
from sim.padded import can_pad, pad


def makespans(
    graph: TaskGraph,
    seconds: FloatArray,
    issue_s: FloatArray | None = None,
    sync_s: FloatArray | float = 0.0,
) -> FloatArray:
    """The makespan of each scenario, shape (scenarios,).

    Graphs that cannot be laid out for it (see `sim.padded`) run one scenario after another.

    Parameters
    ----------
    seconds: of each work in each scenario, shape (scenarios, len(graph.works)); or of each task,
        (scenarios, len(graph)).
    issue_s: seconds of issuing a task, by work or by task likewise; none when left out.
    sync_s: seconds of a wait, of all scenarios or of each.

    Raises `BadInput` for another shape, and for seconds that are negative or not finite.
    """
    row, table = _by_row(graph, seconds, "seconds")
    count = len(seconds)
    idle = issue_s is None
    none = np.zeros((count, len(graph.works)))
    issue_row, issue = _by_row(graph, none if issue_s is None else issue_s, "issue_s")
    sync = np.broadcast_to(np.asarray(sync_s, dtype=np.float64), (count,))
    if not (np.isfinite(sync) & (sync >= 0)).all():
        raise BadInput("sync_s must be finite numbers of seconds >= 0")
    if len(issue) != count:
        raise BadInput(f"issue_s has {len(issue)} scenarios, seconds {count}")
    if not (is_in_order(graph) and can_pad(graph)):
        runs = zip(table, issue, sync.tolist(), strict=True)
        found = [simulate_graph(graph, t[row], i[issue_row], s).makespan_s for t, i, s in runs]
        return np.array(found)
    kernels = _kernels()
    tables = [_in_blocks(values, kernels.BLOCK) for values in (table, issue, sync[:, None])]
    arguments = row, tables[0], issue_row, tables[1], tables[2][:, 0], not idle
    makespan = kernels.many_makespans(pad(graph), *arguments)
    return np.asarray(makespan.reshape(-1)[:count])


def _by_row(graph: TaskGraph, values: FloatArray, name: str) -> tuple[Any, FloatArray]:
    """Which column of the table each task takes, and the table, (scenarios, columns)."""
    n, works = len(graph), len(graph.works)
    if values.ndim != 2 or values.shape[1] not in (n, works):
        raise BadInput(
            f"{name} has shape {values.shape}; it must be (scenarios, {works} works) or "
            f"(scenarios, {n} tasks)"
        )
    if not (np.isfinite(values) & (values >= 0)).all():
        raise BadInput(f"{name} must be finite numbers of seconds >= 0")
    by_work = values.shape[1] == works
    return (graph.work if by_work else np.arange(n)).astype(np.uint32), values


def _in_blocks(values: FloatArray, block: int) -> FloatArray:
    """(scenarios, columns) as (blocks, columns, block), the last block filled up with zeros."""
    missing = -len(values) % block
    filled = np.pad(values, ((0, missing), (0, 0)))
    shape = -1, block, values.shape[1]
    return np.ascontiguousarray(filled.reshape(shape).transpose(0, 2, 1), dtype=np.float64)


def _kernels() -> Any:
    from sim import kernels_batch  # numba takes a third of a second to import

    return kernels_batch
