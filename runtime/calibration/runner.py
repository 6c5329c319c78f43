"""Runs the benches: shows how far it is, leaves out what is stored, stops when time is over."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial

from runtime.calibration import (
    copies,
    core_counts,
    disk,
    launching,
    memory,
    pairs,
    pinning,
    steady,
)
from runtime.calibration.effort import Effort, Items, find_effort
from runtime.calibration.store import Key, Store
from runtime.device import DeviceOptions

Bench = Callable[[DeviceOptions, Effort], Items]
Progress = Callable[[int, int, str], None]


def benches(store: Store) -> Mapping[str, Bench]:
    """All benches by name, in the order in which they run; files lie beside the store."""
    return {
        "launch": launching.points,
        "copy": copies.points,
        "copy_pair": pairs.points,
        "pin": pinning.points,
        "memory": memory.points,
        "cores": core_counts.points,
        "disk": partial(disk.points, folder=store.path.parent),
    }


def measure(
    options: DeviceOptions,
    store: Store,
    effort: str = "normal",
    progress: Progress = lambda done, total, name: None,
    deadline_s: float = math.inf,
) -> tuple[Key, ...]:
    """Measure every point that the store does not have, and store each at once.

    A probe of bench `steady` runs before each bench and at the end.

    Parameters
    ----------
    effort: `quick` (seconds, rough) or `normal`.
    progress: called with points done, points in all, and the name of the next (last: empty).
    deadline_s: from now; no point begins later.

    Returns
    -------
    What is left when time is over: bench and params of each point.

    Raises
    ------
    BadInput: an unknown effort, or a device that is not there.
    MoelabError: the store cannot be written.
    """
    how = find_effort(effort)
    return _Run(options, store, how, progress, time.monotonic() + deadline_s).all()


class _Run:
    """One call of `measure`."""

    def __init__(
        self,
        options: DeviceOptions,
        store: Store,
        effort: Effort,
        progress: Progress,
        end_s: float,
    ) -> None:
        self.options, self.store, self.effort = options, store, effort
        self.progress = progress
        self.end_s = end_s
        self.benches = benches(store)
        self.keys = {name: self._keys(name) for name in self.benches}
        self.total = sum(map(len, self.keys.values()))
        turns = [int(p.params["turn"]) for p in store.points() if p.bench == "steady"]
        self.turn = 1 + max(turns, default=-1)

    def all(self) -> tuple[Key, ...]:
        todo = [name for name in self.benches if self._missing(name)]
        for name in todo:
            self._probe()
            with closing(self._items(name)) as items:
                self._measure(items)
        if todo:
            self._probe()
        left = tuple(key for name in self.benches for key in self._missing(name))
        self.progress(self.total - len(left), self.total, "")
        return left

    def _measure(self, items: Items) -> None:
        for (bench, params), measured in items:
            if self.store.has(bench, params):
                continue
            if time.monotonic() >= self.end_s:
                return
            self.progress(self._done(), self.total, _name(bench, params))
            self.store.add(measured())

    def _probe(self) -> None:
        if time.monotonic() < self.end_s:
            for _, measured in steady.points(self.options, self.effort, self.turn):
                self.store.add(measured())
            self.turn += 1

    def _items(self, name: str) -> Items:
        return self.benches[name](self.options, self.effort)

    def _keys(self, name: str) -> list[Key]:
        """What a bench would measure; nothing is opened for it."""
        with closing(self._items(name)) as items:
            return [key for key, _ in items]

    def _missing(self, name: str) -> list[Key]:
        return [key for key in self.keys[name] if not self.store.has(*key)]

    def _done(self) -> int:
        return self.total - sum(len(self._missing(name)) for name in self.keys)


def _name(bench: str, params: Mapping[str, object]) -> str:
    """For people: `copy h2d 4096`."""
    return " ".join([bench, *map(str, params.values())])
