"""How much a calibration measures, and how often it repeats one thing."""

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.calibration.store import Key, Params, Point
from schedules.errors import BadInput, suggest

EffortName = Literal["quick", "normal"]
MOST = 100  # repetitions of a point: enough for a median and its spread, and the file stays small

Item = tuple[Key, Callable[[], Point]]
"""Which point, and what measures it."""
Items = Generator[Item, None, None]


@dataclass(frozen=True)
class Effort:
    """How thoroughly to measure.

    Parameters
    ----------
    least_s: to spend on a point, unless it has `repeats` repetitions before.
    repeats: least repetitions of a point; 3 (or these, if less) where one takes long.
    largest_bytes: the largest block that is moved at once, and the memory that blocks come from.
    disk_bytes: to read from disk.
    batch: calls that are timed together where one is too short.
    """

    name: str
    least_s: float
    repeats: int
    largest_bytes: int
    disk_bytes: int
    batch: int

    def count(self, once_s: float) -> int:
        """Repetitions of what takes so long."""
        least = self.repeats if once_s < self.least_s else min(3, self.repeats)
        return min(MOST, max(least, math.ceil(self.least_s / max(once_s, 1e-9))))


EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("quick", 0.003, 2, 1 << 20, 32 << 20, 20),
        Effort("normal", 0.3, 5, 256 << 20, 512 << 20, 500),
    )
}


def find_effort(name: str) -> Effort:
    """The effort of that name. Raises `BadInput` for another."""
    if name not in EFFORTS:
        known = ", ".join(f"'{each}'" for each in EFFORTS)
        raise BadInput(f"there is no effort '{name}'{suggest(name, EFFORTS)} (known: {known})")
    return EFFORTS[name]


def repeated(effort: Effort, times: Callable[[int], Sequence[float]]) -> list[float]:
    """Seconds of each repetition, after a warm-up; `times(n)` repeats n times and says how long."""
    times(1)
    return list(times(effort.count(times(1)[0])))


def item(
    bench: str,
    params: Params,
    amount: Mapping[str, float],
    seconds: Callable[[], Iterable[float]],
) -> Item:
    """A point that is measured by calling `seconds`."""
    return (bench, params), lambda: Point(bench, params, amount, tuple(seconds()))
