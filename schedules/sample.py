"""Measured operations: how long so much work took, in a form that a file can hold.

The runtime measures them, the simulator fits its rates to them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from schedules.errors import BadInput
from schedules.task import Work

GROUPS = ("flops", "bytes", "link_bytes")
TIMED = ("gpu", "cpu", "link")
ISSUE = "issue"
"""The operation of the issuing thread: issuing one task."""
ISSUED = Work(device="host", calls=1)


class Sample(NamedTuple):
    """One operation of one run: the work of a task, and the seconds that tasks like it took.

    `where` names the run; `phase` is `prefill` or `decode`.
    """

    where: str
    op: str
    stream: str
    phase: str
    work: Work
    seconds: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return self._asdict() | {"work": plain(self.work), "seconds": list(self.seconds)}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Sample":
        """From plain values. Raises `BadInput` where they are not those of a sample."""
        try:
            work, seconds = Work(**values["work"]), tuple(map(float, values["seconds"]))
            return cls(**{**values, "work": work, "seconds": seconds})
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"not a measured operation: {str(error).splitlines()[0]}") from None


class Timed(NamedTuple):
    """A task that ran: `step` 0 is prefill."""

    op: str
    stream: str
    step: int
    work: Work
    seconds: float


def samples_of(
    where: str, tasks: Iterable[Timed], issue_s: float, warm: bool = False
) -> list[Sample]:
    """The operations of a run, by stream, phase and size, and how long issuing a task took.

    Parameters
    ----------
    where: names the run. tasks: in the order in which they ran.
    issue_s: mean seconds of issuing one.
    warm: leave out the first task of a kind, which finds cold caches and memory never touched.
    """
    found = defaultdict(list)
    for task in tasks:
        if task.work.device in TIMED:
            phase = "decode" if task.step else "prefill"
            work = task.work
            key = (task.op, task.stream, phase, _size(work), work.device, work.dtype, work.share)
            found[key].append(task)
    result = [Sample(where, ISSUE, "host", "decode", ISSUED, (issue_s,))]
    for (op, stream, phase, *_), every in found.items():
        kept = every[1:] if warm and len(every) > 1 else every
        work = mean_work(task.work for task in kept)
        seconds = tuple(task.seconds for task in kept)
        result.append(Sample(where, op, stream, phase, work, seconds))
    return result


def _size(work: Work) -> int:
    """The same for works of about the same size: to a tenth."""
    return round(8 * math.log2(1 + work.total_flops + work.total_bytes + work.total_link_bytes))


def plain(work: Work) -> dict[str, Any]:
    """The amounts of a work that are not the default ones, as plain values."""
    return work.model_dump(exclude_defaults=True)


def mean_work(works: Iterable[Work]) -> Work:
    """The mean amounts of works of one kind: same device, number format and share.

    >>> mean_work([Work(bytes={"gpu": 2.0}, calls=1), Work(bytes={"gpu": 4.0}, calls=1)]).bytes
    {'gpu': 3.0}
    """
    every = list(works)
    total, n = every[0], len(every)
    for work in every[1:]:
        total = total + work
    amounts = {group: {k: v / n for k, v in getattr(total, group).items()} for group in GROUPS}
    return total.model_copy(update=amounts | {"calls": round(total.calls / n)})
