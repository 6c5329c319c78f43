"""A simulated phase as rows of a timeline."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sim.generation import Phase


def phase_frame(phase: Phase, offset_s: float = 0.0) -> pd.DataFrame:
    """The rows of a phase, sorted by start; at equal times in the order of the streams."""
    graph, works = phase.graph, phase.graph.works
    order = np.lexsort((graph.stream, phase.run.start_s))

    def of_work(values: Sequence[float]) -> np.ndarray:
        return np.array(values, dtype=np.float64)[graph.work][order]

    return pd.DataFrame(
        {
            "task": order,
            "op": np.array(graph.ops, dtype=object)[graph.op][order],
            "stream": np.array(graph.streams, dtype=object)[graph.stream][order],
            "layer": graph.layer[order],
            "micro_batch": graph.micro_batch[order],
            "step": graph.step[order],
            "start_s": phase.run.start_s[order] + offset_s,
            "end_s": phase.run.end_s[order] + offset_s,
            "flops": of_work([w.total_flops for w in works]),
            "bytes": of_work([w.total_bytes for w in works]),
            "link_bytes": of_work([w.total_link_bytes for w in works]),
        }
    )
