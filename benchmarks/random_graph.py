"""A random task graph of any size, for benchmarks of the engines."""

import numpy as np

from schedules.graph import TaskGraph
from schedules.task import Work

STREAMS = 4
WORKS = 500
REACH = 50  # a task depends on one of the so many before it


def random_graph(n: int, seed: int = 0) -> TaskGraph:
    """`n` tasks on four streams, with one or two dependencies each (1.5 on average)."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 3, n)
    counts[:1] = 0
    owner = np.repeat(np.arange(n), counts)
    zeros = np.zeros(n, np.int64)
    return TaskGraph(
        streams=tuple(f"stream{i}" for i in range(STREAMS)),
        ops=("task",),
        works=tuple(Work() for _ in range(WORKS)),
        hosts=1,
        op=zeros,
        stream=rng.integers(0, STREAMS, n),
        work=rng.integers(0, WORKS, n),
        layer=zeros,
        micro_batch=zeros,
        step=zeros,
        host=zeros,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        dependencies=np.maximum(0, owner - rng.integers(1, REACH, len(owner))),
        waits=(),
    )
