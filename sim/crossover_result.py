"""What a crossover is: two schedules at values of one quantity, and the ranges that each wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal, NamedTuple

from sim.comparison import Comparison, Unfeasible
from sim.quantity import Quantity
from sim.scenario import Scenario

EQUAL = 1e-9  # relative; below it two throughputs differ by rounding alone


class Verdict(NamedTuple):
    """Who wins and how: `faster`, or running `alone`; nobody if both are `equal` or `none` runs."""

    winner: str | None
    how: Literal["faster", "alone", "equal", "none"]


def verdict_of(comparison: Comparison) -> Verdict:
    """Who of two schedules has the higher throughput."""
    runs = comparison.feasible  # the fastest first
    if len(runs) < 2:
        return Verdict(runs[0].schedule, "alone") if runs else Verdict(None, "none")
    if runs[0].throughput_tok_s <= runs[1].throughput_tok_s * (1 + EQUAL):
        return Verdict(None, "equal")
    return Verdict(runs[0].schedule, "faster")


@dataclass(frozen=True)
class Point:
    """Both schedules at one value of the quantity."""

    value: float
    comparison: Comparison

    @property
    def verdict(self) -> Verdict:
        """Who wins here."""
        return verdict_of(self.comparison)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the value, the verdict, and both results as `compare` gives them."""
        results = [found.to_dict() for found in self.comparison.results]
        return {"value": self.value, **_words(self.verdict), "results": results}


@dataclass(frozen=True)
class Range:
    """Neighbouring points with one verdict."""

    points: Sequence[Point]

    @property
    def verdict(self) -> Verdict:
        """Who wins from the first point to the last."""
        return self.points[0].verdict

    @property
    def first(self) -> float:
        """The lowest value."""
        return self.points[0].value

    @property
    def last(self) -> float:
        """The highest value."""
        return self.points[-1].value

    def reasons(self) -> dict[str, str]:
        """Why a schedule cannot run, at the first point."""
        results = self.points[0].comparison.results
        return {r.schedule: r.reason for r in results if isinstance(r, Unfeasible)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        ends = {"from": self.first, "to": self.last}
        return {**ends, **_words(self.verdict), "reasons": self.reasons()}


@dataclass(frozen=True)
class Crossover:
    """Two schedules over a range of a quantity, and where the winner changes.

    Parameters
    ----------
    scenario: before anything is varied.
    points: in the order of their values; those of `grid`, and those that lead to a change.
    """

    schedules: tuple[str, str]
    scenario: Scenario
    over: Quantity
    grid: tuple[float, ...]
    points: tuple[Point, ...]

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The points by verdict, in order."""
        found = groupby(self.points, key=lambda point: point.verdict)
        return tuple(Range(tuple(points)) for _, points in found)

    def crossings(self) -> list[dict[str, Any]]:
        """Where another schedule wins: between `last` and `first`, from `before` to `after`."""
        return [
            {
                "last": low.last,
                "first": high.first,
                "before": low.verdict.winner,
                "after": high.verdict.winner,
            }
            for low, high in pairwise(self.ranges)
            if low.verdict.winner != high.verdict.winner
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what was asked, `crossings`, `ranges` and all `points`."""
        s = self.scenario
        return {
            "schedules": list(self.schedules),
            "model": s.model.name,
            "hardware": s.hardware.name,
            "workload": s.workload.name,
            "over": self.over.name,
            "unit": self.over.unit,
            "own_value": self.over.own(s),
            "crossings": self.crossings(),
            "ranges": [found.to_dict() for found in self.ranges],
            "points": [
                {**point.to_dict(), "on_grid": point.value in self.grid} for point in self.points
            ],
        }


def _words(verdict: Verdict) -> dict[str, Any]:
    return {"winner": verdict.winner, "verdict": verdict.how}
