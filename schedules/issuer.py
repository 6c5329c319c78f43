"""The issuer: what a schedule calls, and all that both clocks share.

Dependencies follow from the data. A task waits for the last writer of what it reads, and for the
readers and the writer of what it overwrites. What the FIFO order of its stream, or a barrier of
all streams, already implies is not recorded twice.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import proxy

import numpy as np
from numpy.typing import NDArray

from schedules.contents import Contents
from schedules.errors import BadInput, Infeasible, MoelabError, in_gb, suggest
from schedules.holders import Tasks, holders, named
from schedules.task import NOTHING, Buffer, Task, Work

if TYPE_CHECKING:
    from schedules.disk_tier import DiskTier


class Pool:
    """A memory of fixed capacity, in bytes, for an issuer's tasks; refuses what does not fit."""

    def __init__(self, name: str, capacity_bytes: int, tasks: Tasks) -> None:
        self.name = name
        self.tasks = tasks
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self._live: dict[int, Buffer] = {}
        self._leaving: list[tuple[Buffer, int]] = []  # freed, and how much of it nobody took yet

    def add(self, buffer: Buffer) -> list[Buffer]:
        """Take the memory; returns the freed buffers whose last tasks it has to wait for.

        Memory that no task can touch any more goes first, then what was freed first.
        """
        leaving = sum(size for _, size in self._leaving)
        if self.used_bytes - leaving + buffer.bytes > self.capacity_bytes:
            raise Infeasible(self._complaint(buffer))
        reused: list[Buffer] = []
        missing = self.used_bytes + buffer.bytes - self.capacity_bytes
        while missing > 0:
            oldest, size = self._leaving.pop(0)
            taken = min(size, missing)
            if taken < size:
                self._leaving.insert(0, (oldest, size - taken))
            self.used_bytes -= taken
            missing -= taken
            reused.append(oldest)
        self._live[id(buffer)] = buffer
        self.used_bytes += buffer.bytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        return reused

    def remove(self, buffer: Buffer) -> None:
        """Mark the memory as free once the tasks issued so far have left it."""
        if self._live.pop(id(buffer), None) is None:
            raise MoelabError(f"buffer '{buffer.name}' is not in pool '{self.name}' (freed twice?)")
        buffer.freed = True
        self._leaving.append((buffer, buffer.bytes))

    def settle(self) -> None:
        """All issued tasks have ended: freed buffers are really free."""
        self.used_bytes -= sum(size for _, size in self._leaving)
        self._leaving.clear()

    def _complaint(self, wanted: Buffer) -> str:
        held = in_gb(sum(buffer.bytes for buffer in self._live.values()))
        return (
            f"pool '{self.name}' is too small: '{wanted.name}' needs {in_gb(wanted.bytes)} beside "
            f"{held} in use, but the pool holds {in_gb(self.capacity_bytes)} "
            f"(largest holders: {holders(self._live.values(), self.tasks)})"
        )


class Operands(NamedTuple):
    """What a task touches, and which weights or cached tokens it moves."""

    reads: Sequence[Buffer]
    writes: Sequence[Buffer]
    what: tuple[Contents, ...]


class Issuer(ABC):
    """Takes tasks in program order; a subclass records them (simulator) or runs them (runtime).

    Parameters
    ----------
    streams: names of the streams; each runs its tasks in issue order. At equal times the stream
        that comes first in this list acts first.
    capacities: bytes of each memory pool.
    hosts: how many issuing threads there are (one per process of a multi-GPU run).
    lanes: how many tasks a stream runs at once, by its name; one where nothing is said.
    """

    def __init__(
        self,
        streams: Sequence[str],
        capacities: Mapping[str, int],
        hosts: int = 1,
        lanes: Mapping[str, int] | None = None,
    ) -> None:
        self.streams = tuple(streams)
        self.hosts = hosts
        self.lane_counts = _checked_lanes(self.streams, lanes or {})
        self._wide = {i for i, count in enumerate(self.lane_counts) if count > 1}
        self._on_host = {i for i, s in enumerate(self.streams) if hosts > 1 and s[:4] == "host"}
        self.step = 0
        self._host = 0
        self.tier: DiskTier | None = None  # a disk below host memory
        if len(set(self.streams)) < len(self.streams):
            raise BadInput(f"stream names must differ: {', '.join(self.streams)}")
        own = proxy(self)  # no circle: a run's memory goes when the run does
        self.pools = {name: Pool(name, size, own) for name, size in capacities.items()}
        self.count = 0
        self._stream_id = {name: i for i, name in enumerate(self.streams)}
        self._settled = 0  # tasks before this one have ended: every host has waited for them

    @property
    def host(self) -> int:
        """The issuing thread that issues what follows."""
        return self._host

    @host.setter
    def host(self, host: int) -> None:
        if not 0 <= host < self.hosts:
            raise BadInput(f"no issuing thread {host}; there are {self.hosts}, counted from 0")
        self._host = host

    def buffer(
        self,
        name: str,
        pool: str,
        bytes: float,
        holds: tuple[Contents, ...] = (),
        pinned: bool = False,
        owner: int = -1,
    ) -> Buffer:
        """Memory by name. Raises `Infeasible` when the pool cannot hold it."""
        if self.tier is not None:
            pool = self.tier.pool_of(pool, bytes, holds, pinned, owner)
        if pool not in self.pools:
            raise BadInput(f"buffer '{name}': no pool '{pool}'{suggest(pool, self.pools)}")
        if not (math.isfinite(bytes) and bytes >= 0):
            raise BadInput(f"buffer '{name}': {bytes} bytes; it must be a finite number >= 0")
        made = Buffer(name, pool, int(bytes), holds, pinned, owner)
        for old in self.pools[pool].add(made):
            _inherit(made, old)
        return made

    def free(self, buffer: Buffer) -> None:
        """Give the memory back; whoever gets it next waits for the tasks that still use it."""
        self.pools[buffer.pool].remove(buffer)

    def task(
        self,
        op: str,
        stream: str,
        reads: Sequence[Buffer] = (),
        writes: Sequence[Buffer] = (),
        work: Work = NOTHING,
        layer: int = -1,
        micro_batch: int = -1,
        what: tuple[Contents, ...] = (),
    ) -> Task:
        """Issue one task; its dependencies follow from what it reads and writes.

        `what` says which weights or cached tokens a copy moves, one for each buffer it writes.
        """
        if self.tier is not None:
            reads = self.tier.read(stream, reads, work, layer, micro_batch)
        stream_id = self._stream_id.get(stream, -1)
        if stream_id < 0:
            self._stream(stream, f"task '{op}'")
        if stream_id in self._on_host and stream != f"host{self._host}":
            raise BadInput(f"task '{op}': issuing thread {self._host} cannot run on '{stream}'")
        number, settled = self.count, self._settled
        task = Task(number, op, stream, layer, micro_batch, self.step)
        # With several lanes the order of a stream implies no end: every task counts by itself.
        lane = -1 - number if stream_id in self._wide else stream_id
        after: dict[int, int] = {}  # the last task of each lane that this one waits for
        for buffer in reads:
            if buffer.freed:
                raise _freed(buffer, task)
            if (access := buffer._writer) is not None and access[1] >= settled:
                other, index = access
                if other != lane and index > after.get(other, -1):
                    after[other] = index
            buffer._readers[lane] = number
        own = lane, number
        for buffer in writes:
            if buffer.freed:
                raise _freed(buffer, task)
            if (access := buffer._writer) is not None and access[1] >= settled:
                other, index = access
                if other != lane and index > after.get(other, -1):
                    after[other] = index
            buffer._writer = own
            if buffer._readers:
                for other, index in buffer._readers.items():
                    if other != lane and index >= settled and index > after.get(other, -1):
                        after[other] = index
                buffer._readers = {}
        self.count = number + 1
        self._issue(task, stream_id, [*after.values()], work, Operands(reads, writes, what))
        return task

    def wait(self, task: Task) -> None:
        """Block the issuing thread until the task has ended."""
        if task.number >= self.count:
            raise BadInput(f"{named(task)} is waited for, but it has not been issued yet")
        self._wait((task.number,), every_host=False)

    def barrier(self, streams: Sequence[str] | None = None) -> None:
        """Block the issuing thread until all tasks issued so far on `streams` have ended.

        Without `streams`: every issuing thread waits for all of them, and the node is idle.
        """
        names = self.streams if streams is None else streams
        last = self._last_tasks(tuple(self._stream(name, "barrier") for name in names))
        self._wait(last, every_host=streams is None)
        if streams is None:
            self._settled = self.count
            for pool in self.pools.values():
                pool.settle()

    def routing(self, gate: Task) -> NDArray[np.int64]:
        """Expert ids that the gate chose, shape (tokens, top_k); blocks until the gate has run."""
        self.wait(gate)
        return self._routing(gate)

    def gate_weights(self, gate: Task) -> NDArray[np.float64] | None:
        """Weights of the choices that `routing(gate)` has named, in their order; None where a gate
        keeps none, and in the simulator, which computes none."""
        return None

    def _stream(self, name: str, what: str) -> int:
        try:
            return self._stream_id[name]
        except KeyError:
            near = suggest(name, self.streams)
            raise BadInput(f"{what}: no stream '{name}'{near}") from None

    def issued(self, number: int) -> Task | None:
        """The task of that number, as far as the issuer knows it still."""
        return None

    @property
    def peak_bytes(self) -> dict[str, int]:
        """Largest use of each pool so far, in bytes."""
        return {name: pool.peak_bytes for name, pool in self.pools.items()}

    @abstractmethod
    def _issue(
        self,
        task: Task,
        stream_id: int,
        dependencies: list[int],
        work: Work,
        operands: Operands,
    ) -> None: ...

    @abstractmethod
    def _wait(self, tasks: tuple[int, ...], every_host: bool) -> None: ...

    @abstractmethod
    def _last_tasks(self, stream_ids: tuple[int, ...]) -> tuple[int, ...]: ...

    @abstractmethod
    def _routing(self, gate: Task) -> NDArray[np.int64]: ...


def _freed(buffer: Buffer, task: Task) -> MoelabError:
    return MoelabError(f"buffer '{buffer.name}' is used by {named(task)}, but was freed")


def _checked_lanes(streams: tuple[str, ...], lanes: Mapping[str, int]) -> tuple[int, ...]:
    for name, count in lanes.items():
        if name not in streams:
            raise BadInput(f"lanes: no stream '{name}'{suggest(name, streams)}")
        if count < 1 or (count > 1 and name.startswith("host")):
            most = "1, being a thread" if name.startswith("host") else "at least 1"
            raise BadInput(f"stream '{name}' has {count} lanes; it must have {most}")
    return tuple(lanes.get(name, 1) for name in streams)


def _inherit(made: Buffer, old: Buffer) -> None:
    """The first writer of reused memory waits for the last users of the old buffer."""
    accesses = dict(old._readers)
    if old._writer is not None:
        stream, index = old._writer
        accesses[stream] = max(index, accesses.get(stream, -1))
    for stream, index in accesses.items():
        made._readers[stream] = max(index, made._readers.get(stream, -1))
