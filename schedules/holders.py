"""Who holds a memory that is full: the sentence that a schedule ends with."""

from collections.abc import Iterable
from typing import Protocol

from schedules.errors import in_gb
from schedules.task import Buffer, Task

SHOWN = 3  # kinds of buffers that the sentence names, the largest first
BESIDE_TASKS = 2  # of them where it names tasks too, or it would be long


class Tasks(Protocol):
    """What the sentence asks of an issuer."""

    count: int

    def issued(self, number: int) -> Task | None:
        """The task of that number; None where its graph is gone."""


def named(task: Task) -> str:
    """A task as errors name it.

    >>> named(Task(12, "store_kv", "d2h", layer=0, micro_batch=-1, step=3))
    "task 12 ('store_kv' on d2h, layer 0, step 3)"
    """
    places = {"layer": task.layer, "micro-batch": task.micro_batch, "step": task.step}
    where = "".join(f", {name} {number}" for name, number in places.items() if number >= 0)
    return f"task {task.number} ('{task.op}' on {task.stream}{where})"


def last_use(buffer: Buffer) -> int:
    """Number of the last task that touched a buffer, or the memory that it was given; -1: none."""
    writer = -1 if buffer._writer is None else buffer._writer[1]
    return max([writer, *buffer._readers.values()])


def holders(live: Iterable[Buffer], tasks: Tasks) -> str:
    """The kinds that hold most and the tasks that used them last; of the largest, one buffer.

    `live`: what nobody has freed, the oldest first.
    """
    kinds: dict[str, list[Buffer]] = {}
    for buffer in live:
        if buffer.bytes:
            kinds.setdefault(buffer.kind, []).append(buffer)
    largest = sorted(kinds.values(), key=lambda held: -_size(held))
    largest = largest[: BESIDE_TASKS if tasks.count else SHOWN]
    said = [_first(held, tasks) if held is largest[0] else _other(held) for held in largest]
    said = said or ["nothing"]
    if tasks.count:
        said.append(f"issued last: {_name(tasks.count - 1, tasks)}")
    return "; ".join(said)


def _size(held: list[Buffer]) -> int:
    return sum(buffer.bytes for buffer in held)


def _first(held: list[Buffer], tasks: Tasks) -> str:
    """The kind that holds most: its oldest buffer, and who used that last."""
    oldest = held[0]
    said = _amount(held) + (f", the oldest '{oldest.name}'" if len(held) > 1 else "")
    if not tasks.count:
        return said
    if (last := last_use(oldest)) < 0:
        return said + " not used yet"
    never = ", never freed?" if _was_left(held, tasks) else ""
    return f"{said} last used by {_name(last, tasks)}{never}"


def _other(held: list[Buffer]) -> str:
    last = max(last_use(buffer) for buffer in held)
    return _amount(held) + (f" last used by task {last}" if last >= 0 else "")


def _amount(held: list[Buffer]) -> str:
    size = in_gb(_size(held))
    return f"{held[0].kind} {size} in {len(held)} buffers" if held[1:] else f"{held[0].name} {size}"


def _name(number: int, tasks: Tasks) -> str:
    task = tasks.issued(number)
    return f"task {number}" if task is None else named(task)


def _was_left(held: list[Buffer], tasks: Tasks) -> bool:
    """Whether the oldest of several was last used in a step before that of the newest.

    What each step uses again, such as resident weights, is in turn used by its oldest first.
    """
    first, last = (_step_of(last_use(buffer), tasks) for buffer in (held[0], held[-1]))
    return first is not None and last is not None and first < last


def _step_of(number: int, tasks: Tasks) -> int | None:
    """The step of a task; -1 for one whose graph is gone, None without a task."""
    if number < 0:
        return None
    task = tasks.issued(number)
    return -1 if task is None else task.step
