"""A simulated phase as rows of a timeline."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from schedules.graph import TaskGraph
from sim.generation import Phase

if TYPE_CHECKING:
    import pandas as pd  # slow to import; who simulates without a timeline needs none


def phase_columns(phase: Phase) -> dict[str, np.ndarray]:
    """The columns of a phase, as of `schedules.timeline.COLUMNS`, rows in the order of issue."""
    graph, works = phase.graph, phase.graph.works
    return {
        "task": np.arange(len(graph)),
        "op": np.array(graph.ops, dtype=object)[graph.op],
        "stream": np.array(graph.streams, dtype=object)[graph.stream],
        "layer": graph.layer,
        "micro_batch": graph.micro_batch,
        "step": graph.step,
        "start_s": phase.run.start_s,
        "end_s": phase.run.end_s,
        "flops": _of_work(graph, [w.total_flops for w in works]),
        "bytes": _of_work(graph, [w.total_bytes for w in works]),
        "link_bytes": _of_work(graph, [w.total_link_bytes for w in works]),
    }


def phase_frame(phase: Phase, offset_s: float = 0.0) -> "pd.DataFrame":
    """The rows of a phase, sorted by start; at equal times in the order of the streams."""
    import pandas as pd

    order = np.lexsort((phase.graph.stream, phase.run.start_s))
    frame = pd.DataFrame({name: values[order] for name, values in phase_columns(phase).items()})
    frame["start_s"] += offset_s
    frame["end_s"] += offset_s
    return frame


def _of_work(graph: TaskGraph, values: Sequence[float]) -> np.ndarray:
    return np.array(values, dtype=np.float64)[graph.work]
