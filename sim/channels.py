"""What each task demands of the channels that a machine's streams share.

A machine says which of its memories and links are channels, and how much they carry (`channels` of
its TOML file); by default none is, and each stream works at its own sustained rate. There are
five:

* `cpu`: the host's DRAM, under CPU attention and experts, copies into pinned memory and DMA;
* `gpu`: the memory of each GPU, under its kernels and the copies to and from it;
* `host_link`: the path between the host and all GPUs, under their copies in both directions;
* `cores`: the host's processor, under the threads that compute and copy there. It carries seconds
  of threads in a second: 2 for two full cores, less than 2 where they share units or clock;
* `queue`: the waiting for host memory where a host stands in for the GPU. A thread that streams
  through memory (a copy, the CPU's attention while it reads) takes one place, an operation of the
  device, whose reads wait for one another, two. There are two to three: with two it runs at half
  its speed beside a stream, which loses nothing, although together they move less than the memory
  can; with three nobody waits.

A task demands of a channel the bytes (of `cores`, the seconds of threads; of `queue`, the seconds
of places) that it needs there over the seconds that it takes alone.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from schedules.graph import FloatArray, TaskGraph
from schedules.task import Work
from sim.sharing import Sharing

OPERATION_PLACES = 2.0
"""What an operation of an emulated GPU takes of the channel `queue`, of which a stream takes 1.

A unit, not a measurement: what is measured is how many places there are."""
HOST_LINKS = ("h2d", "d2h", "h2d_pageable", "d2h_pageable")


class Loads(NamedTuple):
    """What each task needs of each channel, shape (n, c), and what channels carry, shape (c,).

    In bytes and bytes/s; of `cores` in seconds of threads, and threads; of `queue` in seconds of
    places, and places.
    """

    names: tuple[str, ...]
    capacity: FloatArray
    bytes: FloatArray

    def sharing(self, duration_s: FloatArray) -> Sharing:
        """The demands of tasks that take so long alone."""
        rate = np.zeros_like(self.bytes)
        np.divide(self.bytes, duration_s[:, None], out=rate, where=duration_s[:, None] > 0)
        return Sharing(self.names, self.capacity, rate)


Amount = Callable[[Work, str], float]


def moved_bytes(work: Work, channel: str) -> float:
    """Bytes that a task moves over a channel of memory or links."""
    if channel == "host_link":
        return sum(size for link, size in work.link_bytes.items() if link in HOST_LINKS)
    return work.bytes.get(channel, 0.0)


def loads(
    graph: TaskGraph, channels: Mapping[str, float], amount: Amount = moved_bytes
) -> Loads | None:
    """What the tasks of a graph need of the channels; None without channels.

    Parameters
    ----------
    channels: what each carries, by name. amount: what a task needs of one, all in all.
    """
    if not channels:
        return None
    names, capacity, columns = [], [], []
    for channel, rate in channels.items():
        each = np.array([amount(work, channel) for work in graph.works])[graph.work]
        for name, streams in _users(channel, graph.streams).items():
            names.append(name)
            capacity.append(rate)
            columns.append(np.where(np.isin(graph.stream, streams), each, 0.0))
    return Loads(tuple(names), np.array(capacity), np.stack(columns, axis=1))


def _users(channel: str, streams: tuple[str, ...]) -> dict[str, list[int]]:
    """The channels of a kind, with the streams that use them: one for each GPU, or one for all."""
    if channel != "gpu":
        return {channel: list(range(len(streams)))}
    tags = [name.removeprefix("gpu") for name in streams if name.startswith("gpu")]
    return {
        f"gpu{tag}": [
            i for i, s in enumerate(streams) if s in (f"gpu{tag}", f"h2d{tag}", f"d2h{tag}")
        ]
        for tag in tags
    }
