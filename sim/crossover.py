"""Where the winner changes: two schedules over a range of one quantity.

Both are simulated over a geometric grid; between two neighbours whose verdicts differ, the range is
halved (at the geometric middle) until a change lies between two whole numbers, or two values less
than `PRECISION` apart. Two changes within one interval of the grid cancel each other and are
missed; a finer grid finds them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from schedules.errors import BadInput
from sim.api import compare_in
from sim.crossover_result import Crossover, Point
from sim.given import MOST_SEQUENCES
from sim.quantity import Quantity, find_quantity
from sim.question import Question
from sim.scenario import Scenario

PRECISION = 0.01  # a change is located to this share of the quantity
POINTS = 11  # of the grid
MOST_POINTS = 1000


def crossover(
    first: str,
    second: str,
    over: str,
    asked: Question,
    start: float | None = None,
    stop: float | None = None,
    points: int = POINTS,
) -> Crossover:
    """Find where the winner of two schedules changes.

    Parameters
    ----------
    first, second: names of schedules.
    over: what is varied: `batch` (N, sequences), `gpu-memory` (bytes of each GPU), `pcie` (bytes/s,
        sustained, host to device) or `prompt` (tokens of every prompt).
    asked: on which model, machine and workload; what it leaves open of the policy is searched at
        every point for each schedule. Where N is varied, a micro-batch is at most the batch.
    start, stop: the range, in the unit of what is varied; None: the usual one.
    points: values of the grid, both ends included.

    Raises `BadInput` for what is unknown or impossible.
    """
    scenario, quantity, given = asked.scenario(), find_quantity(over), asked.given()
    _check(first, second, quantity, given)
    grid = _grid(quantity, _ends(quantity, scenario, start, stop), points)

    def at(value: float) -> Point:
        values = given | ({"N": round(value)} if quantity.name == "batch" else {})
        if quantity.name == "batch" and "mu" in values:
            values["mu"] = min(int(values["mu"]), round(value))
        return Point(value, compare_in(quantity.changed(scenario, value), [first, second], values))

    found = refine(grid, at, quantity.whole)
    return Crossover((first, second), scenario, quantity, tuple(grid), tuple(found))


def _check(first: str, second: str, over: Quantity, given: Mapping[str, Any]) -> None:
    if first == second:
        raise BadInput(f"a crossover needs two schedules, and both are '{first}'")
    if over.name == "batch" and "N" in given:
        raise BadInput(f"the batch is what is varied; it cannot be given as N = {given['N']} too")


def _ends(
    over: Quantity, scenario: Scenario, start: float | None, stop: float | None
) -> tuple[float, float]:
    """The range that is looked at. Raises `BadInput` for one that is none."""
    least, most = over.usual(scenario)
    low, high = (least if start is None else start), (most if stop is None else stop)
    for end, value in (("begin", low), ("end", high)):
        if not (math.isfinite(value) and value > 0):
            raise BadInput(f"the range of {over.name} {end}s at {value:g}; it must be above 0")
        if over.whole and value != int(value):
            raise BadInput(f"the range of {over.name} {end}s at {value:g}, not at a whole number")
    if not low < high:
        raise BadInput(
            f"the range of {over.name} goes from {low:.10g} to {high:.10g} {over.unit}; "
            "it must end above where it begins"
        )
    if over.name == "batch" and high > MOST_SEQUENCES:
        raise BadInput(f"a batch has at most {MOST_SEQUENCES:,} sequences, not {high:.10g}")
    return low, high


def _grid(over: Quantity, ends: tuple[float, float], points: int) -> list[float]:
    """Values with the same ratio between neighbours; whole numbers each once."""
    if not 2 <= points <= MOST_POINTS:
        raise BadInput(f"a grid of {points} points; it must have 2 to {MOST_POINTS:,}")
    low, high = ends
    inner = [low * (high / low) ** (i / (points - 1)) for i in range(1, points - 1)]
    values = [low, *inner, high]
    return sorted({round(value) for value in values}) if over.whole else values


def refine(grid: Sequence[float], at: Callable[[float], Point], whole: bool) -> list[Point]:
    """The points of a grid, and between two with different verdicts those that lead to the change.

    `whole`: between two neighbouring whole numbers there is nothing.
    """
    last = at(grid[-1])  # first, since a range that goes too far is a mistake to be told at once
    points = [*(at(value) for value in grid[:-1]), last]
    found = points[:1]
    for low, high in pairwise(points):
        found += [*_between(low, high, at, whole), high]
    return found


def _between(low: Point, high: Point, at: Callable[[float], Point], whole: bool) -> list[Point]:
    near = high.value <= low.value * (1 + PRECISION) or (whole and high.value - low.value <= 1)
    if low.verdict == high.verdict or near:
        return []
    middle = math.sqrt(low.value * high.value)
    if whole:
        middle = min(max(round(middle), low.value + 1), high.value - 1)
    point = at(middle)
    return [*_between(low, point, at, whole), point, *_between(point, high, at, whole)]
