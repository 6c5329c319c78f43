"""Costs that are never negative, fitted to measured seconds.

Seconds are modelled as a sum of amounts times costs (seconds a byte, seconds a flop, seconds a
call), or as the larger of two such sums, plus a third. Costs are those with the least sum of
relative errors, counted as squares while they are small and as they are when large (soft L1), so
that a moment in which the machine did something else has little say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schedules.errors import BadInput
from schedules.graph import FloatArray

USUAL = 0.1  # relative error from which a measurement counts as an outlier
NORMAL_MAD = 1.4826  # standard deviation over median absolute deviation, of normal errors
UNSEEN = 10.0  # times the rate that was reached: what a cost of nothing is taken for
TWO_SIDED_95 = 1.96  # standard deviations


@dataclass(frozen=True)
class Cost:
    """A fitted cost, in seconds per unit, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_seen(self) -> bool:
        """Whether the measurements tell it from nothing."""
        return self.low > 0

    def per_second(self, best: float) -> float:
        """Units a second, of which the measurements reached `best` with all other costs.

        A cost of nothing is taken as a tenth of the time of the fastest measurement: the fit says
        that other costs explain it, and a rate has to be finite.
        """
        return 1 / max(self.value, 1 / (UNSEEN * best))


@dataclass(frozen=True, eq=False)
class Fit:
    """Costs by name, and the relative error of each measurement: modelled / measured - 1.

    `best` is the most of each amount that any measurement had in a second.
    """

    costs: Mapping[str, Cost]
    best: Mapping[str, float]
    errors: FloatArray
    overlaps: bool = False

    def rate(self, name: str) -> float:
        """Units a second of an amount."""
        return self.costs[name].per_second(self.best[name])

    @property
    def median_error(self) -> float:
        """Half of the measurements are met more closely."""
        return float(np.median(np.abs(self.errors)))

    @property
    def loss(self) -> float:
        """What was minimised."""
        return float(np.sum(np.sqrt(1 + (self.errors / USUAL) ** 2) - 1))


def fit(
    amounts: Mapping[str, FloatArray],
    seconds: FloatArray,
    either: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Fit:
    """Costs of these amounts.

    Parameters
    ----------
    amounts: by name, shape (n,) each. seconds: measured, shape (n,), more than 0.
    either: names of two groups of which the one with the larger sum counts; all others add up.

    Raises `BadInput` where there are fewer measurements than costs.
    """
    names = [name for name, each in amounts.items() if np.any(each > 0)]
    if len(seconds) < len(names) or not names:
        raise BadInput(f"{len(seconds)} measurements are too few to fit {len(names)} costs")
    relative = np.stack([amounts[name] for name in names], axis=1) / seconds[:, None]
    scale = np.array([np.median(column[column > 0]) for column in relative.T])
    found, jacobian = _solve(relative / scale, _groups(names, either))
    errors = _modelled(found, relative / scale, _groups(names, either)) - 1
    spread = _spread(jacobian, errors)
    costs = {
        name: Cost(value / by, max(0.0, value - wide) / by, (value + wide) / by)
        for name, value, wide, by in zip(names, found, spread, scale, strict=True)
    }
    best = {name: float((amounts[name] / seconds).max()) for name in names}
    return Fit(costs, best, errors, bool(either[0]))


Groups = tuple[list[int], list[int], list[int]]


def _groups(names: Sequence[str], either: tuple[Sequence[str], Sequence[str]]) -> Groups:
    one, other = ([i for i, name in enumerate(names) if name in group] for group in either)
    return one, other, [i for i in range(len(names)) if i not in (*one, *other)]


def _modelled(costs: FloatArray, columns: FloatArray, groups: Groups) -> FloatArray:
    one, other, rest = (columns[:, group] @ costs[group] for group in groups)
    return np.asarray(np.maximum(one, other) + rest)


def _solve(columns: FloatArray, groups: Groups) -> tuple[FloatArray, FloatArray]:
    from scipy.optimize import least_squares

    found = least_squares(
        lambda costs: _modelled(costs, columns, groups) - 1,
        np.full(columns.shape[1], 1 / columns.shape[1]),
        bounds=(0, np.inf),
        loss="soft_l1",
        f_scale=USUAL,
    )
    return found.x, found.jac


def _spread(jacobian: FloatArray, errors: FloatArray) -> FloatArray:
    """Half of the 95 % interval of each cost: linear, from the middle of the errors."""
    n, k = jacobian.shape
    sigma = NORMAL_MAD * np.median(np.abs(errors)) * np.sqrt(n / max(1, n - k))
    inverse = np.linalg.pinv(jacobian.T @ jacobian)
    return np.asarray(TWO_SIDED_95 * sigma * np.sqrt(np.maximum(np.diag(inverse), 0)))
