"""What the tasks of a schedule really need: data, and places in memory.

The order in which a schedule issues its tasks is put aside, and with it every wait that follows
from that order alone. What remains:

* **Data.** Within one filling of a buffer (a *life*) a task waits for the last writer of what it
  reads, and for the readers and the writer of what it changes, as in `schedules.issuer`.
* **Places.** A copy that brings something new into a buffer, or the only op that ever writes it,
  opens a new life there. Buffers of one kind, pool and size are places that can stand for one
  another: at no time are there more lives than places. A life lasts from the start of the task
  that opens it to the end of the last one that uses it.
* **Gates.** What is issued after the schedule has read a gate's choice waits for that gate.

A buffer that holds something for good (`Buffer.holds`) has one life, and so has one whose tasks
change it in place.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedules.errors import BadInput
from schedules.graph import RecordingIssuer
from schedules.issuer import Operands
from schedules.task import Buffer, Task, Work


class Kind(NamedTuple):
    """Buffers that can stand for one another."""

    name: str
    pool: str
    bytes: int
    owner: int


class Access(NamedTuple):
    """What one task touches; `gate`: the task whose choice was read before it was issued, or -1."""

    op: str
    copies: bool
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    gate: int


@dataclass(slots=True)
class Life:
    """One filling of a buffer; `opens` is the task that fills it, `users` all that touch it."""

    kind: Kind
    opens: int
    users: list[int]


@dataclass(frozen=True, slots=True)
class Flow:
    """What the recorded tasks need, numbered as they were issued.

    Parameters
    ----------
    after: of each task, those that must have ended before it starts.
    lives: in the order in which they open. places: how many buffers of each kind have lives.
    """

    after: tuple[tuple[int, ...], ...]
    lives: tuple[Life, ...]
    places: dict[Kind, int]


class AccessIssuer(RecordingIssuer):
    """Records the graph, and which buffers each task touches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.accesses: list[Access] = []
        self._gate: dict[int, int] = {}
        self._recorded_from = 0

    def forget(self) -> None:
        """Record from here on; tasks are numbered from 0 again."""
        self.accesses.clear()
        self._gate.clear()
        self._recorded_from = self.count

    def _issue(
        self,
        task: Task,
        stream_id: int,
        dependencies: list[int],
        work: Work,
        operands: Operands,
    ) -> None:
        super()._issue(task, stream_id, dependencies, work, operands)
        copies = bool(work.link_bytes) and not work.flops
        reads, writes = tuple(operands.reads), tuple(operands.writes)
        gate = self._gate.get(self.host, -1)
        self.accesses.append(Access(task.op, copies, reads, writes, gate))

    def routing(self, gate: Task) -> NDArray[np.int64]:
        self._gate[self.host] = gate.number - self._recorded_from
        return super().routing(gate)

    def free(self, buffer: Buffer) -> None:
        raise BadInput(
            f"the schedule gives buffer '{buffer.name}' back while it runs; the best order is "
            "sought only where all memory is taken at the beginning"
        )


def kind_of(buffer: Buffer) -> Kind:
    """The buffers that this one can stand for."""
    return Kind(buffer.kind, buffer.pool, buffer.bytes, buffer.owner)


def flow(accesses: Sequence[Access]) -> Flow:
    """What the recorded tasks need."""
    tracer = _Tracer(accesses)
    after = [tuple(sorted(tracer.follow(task))) for task in range(len(accesses))]
    places = {kind: len(buffers) for kind, buffers in tracer.filled.items()}
    return Flow(tuple(after), tuple(tracer.lives), places)


@dataclass(slots=True)
class _State:
    """A buffer as the tasks so far have left it."""

    life: Life | None = None
    writer: int = -1
    readers: list[int] = field(default_factory=list)
    used: bool = True  # what lies there has been read, so that it may be replaced


class _Tracer:
    def __init__(self, accesses: Sequence[Access]) -> None:
        self.accesses = accesses
        self.states: dict[int, _State] = defaultdict(_State)
        self.lives: list[Life] = []
        self.filled: dict[Kind, set[int]] = defaultdict(set)
        self.writers: dict[Kind, set[str]] = defaultdict(set)
        for access in accesses:
            for buffer in access.writes:
                self.writers[kind_of(buffer)].add(access.op)

    def follow(self, task: int) -> set[int]:
        """Take the next task; returns those that it waits for."""
        access = self.accesses[task]
        after = {access.gate}
        for buffer in access.reads:
            state = self.states[id(buffer)]
            after.add(state.writer)
        for buffer in access.writes:
            after |= self._written(task, buffer)
        for buffer in access.reads:
            state = self.states[id(buffer)]
            state.used = True
            if buffer not in access.writes:
                state.readers.append(task)
            if state.life is not None and state.life.users[-1] != task:
                state.life.users.append(task)
        return after - {-1, task}

    def _written(self, task: int, buffer: Buffer) -> set[int]:
        state = self.states[id(buffer)]
        if self._opens(task, buffer, state):
            kind = kind_of(buffer)
            state.life = Life(kind, task, [task])
            self.lives.append(state.life)
            self.filled[kind].add(id(buffer))
            after: set[int] = set()
            state.used = False
        else:
            after = {state.writer, *state.readers}
            if state.life is not None and state.life.users[-1] != task:
                state.life.users.append(task)
        state.writer, state.readers = task, []
        return after

    def _opens(self, task: int, buffer: Buffer, state: _State) -> bool:
        access = self.accesses[task]
        if buffer.holds or buffer in access.reads or not state.used:
            return False
        return access.copies or self.writers[kind_of(buffer)] == {access.op}
