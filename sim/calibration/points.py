"""Points of micro-benchmarks, as the fits read them."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np


class Point(Protocol):
    """What a micro-benchmark measured: so much, in so many seconds each time."""

    @property
    def bench(self) -> str:
        """Its name."""

    @property
    def params(self) -> Mapping[str, str | int | float | bool]:
        """What was measured."""

    @property
    def amount(self) -> Mapping[str, float]:
        """Done in each repetition: `bytes`, `flops`, `calls`."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Of each repetition."""


def chosen(points: Iterable[Point], bench: str, **params: object) -> list[Point]:
    """The points of a bench with these parameters."""
    return [
        point
        for point in points
        if point.bench == bench and all(point.params.get(k) == v for k, v in params.items())
    ]


def rate(point: Point, unit: str = "bytes") -> float:
    """Units a second, by the median of its repetitions."""
    return point.amount[unit] / float(np.median(point.seconds))


def seconds_per_call(points: Iterable[Point], what: str) -> float | None:
    """Median seconds of a call of bench `launch`; None where it was not measured."""
    for point in chosen(points, "launch", what=what):
        return float(np.median(point.seconds)) / point.amount["calls"]
    return None
