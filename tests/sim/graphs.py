"""Random task graphs beyond what an issuer records: lanes, channels, several issuing threads."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from schedules.graph import FloatArray, TaskGraph, Wait
from schedules.task import NOTHING
from sim.sharing import Sharing


class Timed(NamedTuple):
    """A graph, and how long everything takes."""

    graph: TaskGraph
    duration_s: FloatArray
    issue_s: FloatArray
    sync_s: float
    sharing: Sharing | None


EITHER = st.booleans()


@st.composite
def timed_graphs(draw, most=40, lanes=EITHER, shared=EITHER):
    """Small ones; durations are often equal or zero, so that ties are frequent."""
    n, hosts = draw(st.integers(1, most)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = [f"stream{i}" for i in range(draw(st.integers(1, 4)))]
    host = rng.integers(0, hosts, n)
    stream = rng.integers(0, len(names), n)
    if draw(st.booleans()):  # some tasks run on the issuing threads
        stream = np.where(rng.random(n) < 0.1, len(names) + host, stream)
        names += [f"host{h}" for h in range(hosts)]
    graph = TaskGraph(
        streams=tuple(names),
        ops=("task",),
        works=(NOTHING,),
        hosts=hosts,
        **dict.fromkeys(("op", "work", "layer", "micro_batch", "step"), np.zeros(n, np.int64)),
        stream=stream,
        host=host,
        **dependencies(rng, n),
        waits=waits(rng, n, hosts),
        lanes=tuple(1 if name.startswith("host") else int(rng.integers(1, 4)) for name in names)
        if draw(lanes)
        else (),
    )
    seconds = rng.choice([0.0, 0.5, 1.0, 2.0, *rng.random(2)], n)
    issue = rng.choice([0.0, 0.125, *rng.random(1)], n)
    sharing = sharings(rng, n) if draw(shared) else None
    return Timed(graph, seconds, issue, float(rng.choice([0.0, 0.25])), sharing)


def dependencies(rng, n):
    """Each task depends on up to three of the twelve before it."""
    each = [
        sorted({*rng.integers(max(0, i - 12), i, rng.integers(0, 4)).tolist()}) if i else []
        for i in range(n)
    ]
    offsets = np.concatenate([[0], np.cumsum([len(d) for d in each])])
    flat = np.array([i for d in each for i in d], dtype=np.int64)
    return {"offsets": offsets, "dependencies": flat}


def waits(rng, n, hosts):
    """Some waits, for up to two tasks before them."""
    found = []
    for position in sorted(rng.integers(0, n + 1, rng.integers(0, max(2, n // 6))).tolist()):
        tasks = {*rng.integers(0, position, rng.integers(0, 3)).tolist()} if position else ()
        found.append(Wait(int(rng.integers(0, hosts)), position, tuple(sorted(tasks))))
    return tuple(found)


def sharings(rng, n):
    """One to three channels; some tasks need nothing, some more than there is."""
    channels = int(rng.integers(1, 4))
    demand = rng.random((n, channels)) * rng.choice([0.0, 1.0, 2.0], (n, channels))
    names = tuple(f"channel{c}" for c in range(channels))
    return Sharing(names, rng.random(channels) * 2 + 0.5, demand)
