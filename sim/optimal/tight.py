"""Periods as linear programs: bounds on them, and the period of a given order."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from schedules.graph import FloatArray, IntArray
from sim.optimal.cycle import Cycle, CyclicStay, Use


class Turns(NamedTuple):
    """When the tasks of a period run, and how long it is, in the unit of the durations.

    Task i of period k starts at `offset[i] + (turn[i] + k) period`, `turn` being whole numbers and
    0 <= `offset` < `period` for an order that the solver has found.
    """

    period: float
    offset: FloatArray
    turn: IntArray

    @property
    def start(self) -> FloatArray:
        """Starts in period 0."""
        return np.asarray(self.offset + self.turn * self.period)


class _Program:
    """Minimise the period subject to rows: x[a] - x[b] + c period >= d."""

    def __init__(self, variables: int) -> None:
        self.variables = variables
        self.rows: list[tuple[dict[int, float], float]] = []

    def later(self, a: int, b: int, periods: float, seconds: float) -> None:
        """Variable a, `periods` periods on, is at least `seconds` after b."""
        row = {self.variables: float(periods)}
        if a != b:
            row |= {a: 1.0, b: -1.0}
        self.rows.append((row, seconds))

    def least(self) -> tuple[float, FloatArray] | None:
        """The least period, and the variables; None where no period will do."""
        from scipy.optimize import linprog
        from scipy.sparse import csr_matrix

        place = [(r, c, v) for r, (row, _) in enumerate(self.rows) for c, v in row.items()]
        r, c, v = (np.array(x) for x in zip(*place, strict=True))
        shape = (len(self.rows), self.variables + 1)
        matrix = csr_matrix((-v, (r.astype(int), c.astype(int))), shape=shape)
        cost = np.zeros(self.variables + 1)
        cost[-1] = 1.0
        limits = [-seconds for _, seconds in self.rows]
        found: Any = linprog(cost, matrix, limits, bounds=(0, None), method="highs-ds")
        return (float(found.x[-1]), np.asarray(found.x[:-1])) if found.status == 0 else None


def period_bounds(cycle: Cycle) -> Mapping[str, float]:
    """Seconds below which no period comes, by what binds.

    The work of each stream; `data`: what waits for itself, some periods before; `places`: what lies
    in the places of a kind takes so much of their time at least, all data considered.
    """
    loads = zip(cycle.streams, cycle.loads_s().tolist(), strict=True)
    bounds = {name: load for name, load in loads if load}
    bounds["data"] = _bound(cycle, cycle.duration_s, stays=False)
    bounds["places"] = max(_bound(cycle, cycle.duration_s, stays=True), _together(cycle))
    return bounds


def _together(cycle: Cycle) -> float:
    """Seconds that stays with the same users need, brought one after the other by one stream.

    The one that is brought first stays until the others have come and all users have run. Only for
    kinds of which a period brings one.
    """
    count = Counter(stay.kind for stay in cycle.stays)
    families: dict[tuple[int, frozenset[Use]], list[CyclicStay]] = defaultdict(list)
    for stay in cycle.stays:
        if count[stay.kind] == 1:
            families[int(cycle.stream[stay.opens]), frozenset(_waiting(cycle, stay))].append(stay)
    bounds = [0.0]
    for (_, uses), stays in families.items():
        brought = sum(cycle.duration_s[stay.opens] for stay in stays)
        used = _in_turn(cycle, uses)
        bounds.append(float(brought + used) / max(cycle.places[stay.kind] for stay in stays))
    return max(bounds)


def _waiting(cycle: Cycle, stay: CyclicStay) -> list[Use]:
    """The users of a stay that wait for the task that brings it."""
    links = {Use(link.after, link.periods) for link in cycle.links if link.before == stay.opens}
    return [use for use in stay.uses if use in links]


def _in_turn(cycle: Cycle, uses: Iterable[Use]) -> float:
    """Seconds of the stream that has most of these to do."""
    tasks = [use.task for use in uses]
    work = np.bincount(cycle.stream[tasks], cycle.duration_s[tasks], len(cycle.streams))
    return float(work.max())


def _bound(cycle: Cycle, duration: FloatArray, stays: bool) -> float:
    n = len(cycle)
    program = _Program(n + (len(cycle.stays) if stays else 0))
    program.rows.append(({n + len(cycle.stays) if stays else n: 1.0}, float(duration.max())))
    for before, after, periods in cycle.links:
        program.later(after, before, periods, duration[before])
    if stays:
        _lengths(cycle, duration, program)
    found = program.least()
    return 0.0 if found is None else found[0]


def _lengths(cycle: Cycle, duration: FloatArray, program: _Program) -> None:
    """Rows for the length of each stay, and for their sum in each kind of places."""
    n = len(cycle)
    for number, stay in enumerate(cycle.stays):
        least = duration[stay.opens] + _in_turn(cycle, _waiting(cycle, stay))
        program.rows.append(({n + number: 1.0}, float(least)))
        for task, periods in stay.uses:
            row = {n + number: 1.0, program.variables: -float(periods)}
            if task != stay.opens:
                row |= {stay.opens: 1.0, task: -1.0}
            program.rows.append((row, float(duration[task])))
    for kind, places in enumerate(cycle.places):
        row = {n + i: -1.0 for i, stay in enumerate(cycle.stays) if stay.kind == kind}
        if row:
            program.rows.append((row | {program.variables: float(places)}, 0.0))


def tightened(cycle: Cycle, found: Turns, ends: FloatArray, duration: FloatArray) -> Turns | None:
    """The same order with these durations, at the least period.

    The order is that of `found`, whose tasks end at `ends` (beside `found.offset`, same unit). None
    where it is none: two tasks of a stream overlap, or more lies somewhere than there are places.
    """
    program = _Program(len(cycle))
    program.rows.append(({len(cycle): 1.0}, float(duration.max())))
    turn = found.turn
    for before, after, periods in cycle.links:
        program.later(after, before, int(turn[after] + periods - turn[before]), duration[before])
    _stream_order(cycle, found, duration, program)
    for kind, places in enumerate(cycle.places):
        stays = [i for i, stay in enumerate(cycle.stays) if stay.kind == kind]
        if stays:
            _place_order(cycle, found, ends, duration, stays, places, program)
    solved = program.least()
    return None if solved is None else Turns(solved[0], solved[1], turn)


def _stream_order(cycle: Cycle, found: Turns, duration: FloatArray, program: _Program) -> None:
    """Each task after the one before it on its stream, the first after the last of the period."""
    for stream in range(len(cycle.streams)):
        tasks = np.flatnonzero((cycle.stream == stream) & (duration > 0))
        tasks = tasks[np.argsort(found.offset[tasks], kind="stable")]
        for i, task in enumerate(tasks.tolist()):
            before = int(tasks[i - 1])
            program.later(task, before, int(i == 0), duration[before])


def _place_order(
    cycle: Cycle,
    found: Turns,
    ends: FloatArray,
    duration: FloatArray,
    stays: list[int],
    places: int,
    program: _Program,
) -> None:
    """Whoever opens a stay waits for the one whose place it takes over.

    Stays open in one order and end in another. When the n-th opens, the (n - places)-th must have
    ended, and the (n - 1)-th must have been opened.
    """
    period, count = found.period, len(stays)
    opening = sorted(stays, key=lambda s: (found.offset[cycle.stays[s].opens], s))
    lasting = {s: _lasting(cycle, found, ends, s) for s in stays}  # from its opener's period on
    wraps = {s: int(np.ceil(lasting[s] / period - 1e-9)) - 1 for s in stays}
    ending = sorted(stays, key=lambda s: (lasting[s] - wraps[s] * period, s))
    alive = sum(wraps.values())  # when a period begins
    for place, s in enumerate(opening):
        opens = cycle.stays[s].opens
        program.later(opens, cycle.stays[opening[place - 1]].opens, int(place == 0), 0.0)
        turn, position = divmod(place - places + alive, count)
        ended = cycle.stays[ending[position]]
        back = found.turn[ended.opens] + wraps[ending[position]] - turn
        for task, periods in ended.uses:
            ahead = int(found.turn[task] + periods - back)
            program.later(opens, task, -ahead, duration[task])


def _lasting(cycle: Cycle, found: Turns, ends: FloatArray, stay: int) -> float:
    """When a stay ends, counted from the beginning of the period in which it opens."""
    own = cycle.stays[stay]
    return max(
        float(ends[task] + (found.turn[task] + periods - found.turn[own.opens]) * found.period)
        for task, periods in own.uses
    )
