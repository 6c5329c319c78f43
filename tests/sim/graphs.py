"""Random task graphs, also beyond what an issuer records: lanes, channels, several threads."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from schedules.graph import FloatArray, TaskGraph, Wait
from schedules.task import NOTHING
from sim.sharing import Sharing
from tests.strategies import DEVICE_STREAMS, Program, issue


class Timed(NamedTuple):
    """A graph, and how long everything takes."""

    graph: TaskGraph
    duration_s: FloatArray
    issue_s: FloatArray
    sync_s: float
    sharing: Sharing | None


class Shape(NamedTuple):
    """What a random graph is like.

    `n` tasks on so many streams, issued by so many threads (`hosts`), some of them running on the
    threads (`own`); whether streams have lanes, and whether tasks share channels.
    """

    n: int
    hosts: int
    streams: int
    own: bool
    lanes: bool
    shared: bool


EITHER = st.booleans()


@st.composite
def timed_graphs(draw, most=40, lanes=EITHER, shared=EITHER):
    """Small ones; durations are often equal or zero, so that ties are frequent."""
    counts = draw(st.integers(1, most)), draw(st.integers(1, 2)), draw(st.integers(1, 4))
    shape = Shape(*counts, draw(st.booleans()), draw(lanes), draw(shared))
    return timed(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), shape)


def timed(rng, shape):
    """A graph of that shape."""
    n, hosts = shape.n, shape.hosts
    names = [f"stream{i}" for i in range(shape.streams)]
    host = rng.integers(0, hosts, n)
    stream = rng.integers(0, len(names), n)
    if shape.own:
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
        if shape.lanes
        else (),
    )
    seconds = rng.choice([0.0, 0.5, 1.0, 2.0, *rng.random(2)], n)
    issue_s = rng.choice([0.0, 0.125, *rng.random(1)], n)
    sharing = sharings(rng, n) if shape.shared else None
    return Timed(graph, seconds, issue_s, float(rng.choice([0.0, 0.25])), sharing)


def numbered(seed, number):
    """Graph `number` of a seed, with its shape; four in a row have and lack lanes and channels."""
    rng = np.random.default_rng([seed, number])
    n, hosts, streams = rng.integers(1, [41, 4, 6]).tolist()
    shape = Shape(n, hosts, streams, bool(rng.random() < 0.5), number % 2 == 1, number % 4 >= 2)
    return shape, timed(rng, shape)


def numbered_program(seed, number):
    """What an issuer records of program `number` of a seed: buffers, waits and barriers.

    Memory that is freed is taken again. Four in a row have and lack lanes and channels.
    """
    rng = np.random.default_rng([seed, number])
    program = Program(
        hosts=int(rng.integers(1, 4)),
        n_streams=int(rng.integers(1, len(DEVICE_STREAMS) + 1)),
        instructions=tuple(instructions(rng, int(rng.integers(10, 61)))),
        seconds=tuple(rng.choice([0.0, 0.5, 1.0, 2.0, *rng.random(2)], 7).tolist()),
        issue_s=float(rng.choice([0.0, 0.25, 0.1])),
        sync_s=float(rng.choice([0.0, 0.5, 0.3])),
    )
    lanes = {name: int(rng.integers(1, 4)) for name in program.device_streams}
    issued = issue(program, lanes=lanes if number % 2 else None)
    sharing = sharings(rng, len(issued.graph)) if number % 4 >= 2 else None
    timed = Timed(issued.graph, issued.duration_s, issued.issue_s, issued.sync_s, sharing)
    return program, timed


KINDS = {"task": (12,) * 5, "buffer": (2, 15), "free": (12,)}
KINDS |= dict.fromkeys(("wait", "routing", "barrier"), (12, 12))
"""Instructions of a program, each with what its numbers are below."""
SHARES = {"task": 0.55, "buffer": 0.16, "free": 0.14, "wait": 0.06, "routing": 0.04}


def instructions(rng, count):
    """What a program does: each a kind, and numbers that `tests.strategies` gives a meaning."""
    names, shares = tuple(KINDS), [*SHARES.values(), 1 - sum(SHARES.values())]
    for kind in rng.choice(len(names), count, p=shares).tolist():
        yield names[kind], tuple(rng.integers(0, KINDS[names[kind]]).tolist())


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
