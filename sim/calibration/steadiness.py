"""What of a calibration is not to be trusted: an unsteady machine, scatter, and poor fits."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from schedules.graph import FloatArray
from schedules.sample import Sample
from sim.calibration.least_squares import Fit
from sim.calibration.points import Point, chosen

DRIFT = 0.10  # of the slowest turn of a probe over its fastest
TAKEN = 0.05  # of the processors, by what else ran
SCATTER = 0.25  # interquartile range over median
FEWEST = 4  # repetitions that have quartiles
POOR = 0.15  # median error of a fit

SHARE = "share"
"""The probe that measures what the threads of a calibration got of the processors."""
PROBES = {"copy": "copy", "gemm": "product of matrices"}


def warnings(
    points: Sequence[Point], samples: Sequence[Sample], fits: Mapping[str, Fit]
) -> list[str]:
    """Sentences, few and grouped; none where all is well."""
    found = [*_drifts(points), *_taken(points)]
    found += _scattered("measurements", [(_name(p), p.seconds) for p in points])
    found += _scattered("operations", [(f"{s.op} of {s.where}", s.seconds) for s in samples])
    return [*found, *_poor(fits), *_unseen(fits)]


def turns(points: Sequence[Point], probe: str) -> FloatArray:
    """The median seconds of each turn of a probe, in their order."""
    own = sorted(chosen(points, "steady", probe=probe), key=lambda p: int(p.params["turn"]))
    return np.array([np.median(point.seconds) for point in own])


def scatter(seconds: Sequence[float]) -> float:
    """Interquartile range over median; 0 of fewer than four repetitions.

    >>> scatter([1.0, 2.0, 3.0, 4.0, 5.0])
    0.6666666666666666
    """
    if len(seconds) < FEWEST:
        return 0.0
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    return float((high - low) / middle) if middle > 0 else 0.0


def shares_got(points: Sequence[Point]) -> FloatArray:
    """Processor seconds over seconds, of each turn of the probe: 1 where nothing else ran."""
    own = sorted(chosen(points, "steady", probe=SHARE), key=lambda p: int(p.params["turn"]))
    return np.array([p.amount["cpu_s"] / max(float(np.mean(p.seconds)), 1e-12) for p in own])


def _drifts(points: Sequence[Point]) -> Iterator[str]:
    for probe, what in PROBES.items():
        seconds = turns(points, probe)
        if len(seconds) > 1 and seconds.max() > (1 + DRIFT) * seconds.min():
            ends = f"{1e3 * seconds.min():.3g} to {1e3 * seconds.max():.3g} ms"
            apart = 100 * (seconds.max() / seconds.min() - 1)
            yield (
                f"The machine was unsteady: the same {what} took {ends} at different moments "
                f"({apart:.0f} % apart)."
            )


def _taken(points: Sequence[Point]) -> Iterator[str]:
    got = shares_got(points)
    lost = got < 1 - TAKEN
    if np.any(lost):
        yield (
            f"Something else ran: in {np.sum(lost)} of {len(got)} probes it took more than "
            f"{100 * TAKEN:.0f} % of the processors, at most {100 * (1 - got.min()):.0f} %."
        )


def _scattered(what: str, timed: Sequence[tuple[str, Sequence[float]]]) -> Iterator[str]:
    spread = [(scatter(seconds), name) for name, seconds in timed if len(seconds) >= FEWEST]
    wide = [one for one in spread if one[0] > SCATTER]
    if wide:
        most, name = max(wide)
        yield (
            f"{len(wide)} of {len(spread)} {what} scatter: the middle half of their repetitions "
            f"spans more than {100 * SCATTER:.0f} % of the median, at most {100 * most:.0f} % "
            f"({name})."
        )


def _poor(fits: Mapping[str, Fit]) -> Iterator[str]:
    for what, fit in fits.items():
        if fit.median_error > POOR:
            yield (
                f"The fit of the {what} is poor: half of its {len(fit.errors)} measurements are "
                f"missed by more than {100 * fit.median_error:.0f} %."
            )


def _unseen(fits: Mapping[str, Fit]) -> Iterator[str]:
    for what, fit in fits.items():
        unseen = [name for name, cost in fit.costs.items() if not cost.is_seen]
        if unseen:
            yield (
                f"Of what was measured of the {what}, too little time is due to "
                f"{', '.join(unseen)} to be told from none: it may be off by much."
            )


def _name(point: Point) -> str:
    """For people: `copy h2d 4096`."""
    return " ".join([point.bench, *map(str, point.params.values())])
