"""How throughput follows each rate and each fixed cost of the machine.

A second of the critical path that is due to a resource (`sim.resources`) becomes shorter in
proportion when that resource becomes faster. So with S_r of the T seconds due to resource r,

    d ln throughput / d ln rate_r = S_r / T

and since every second is due to some resource, these shares add up to 1. They are exact for small
changes; where two paths are equally long, they are those of one of the two.

T is a maximum of sums of maxima of the times per byte, flop or call, hence convex in them: a
resource that becomes faster gains at most what its share promises, since other paths become
critical. So larger changes are simulated: the same tasks in the same order, with new durations.
Where one gains much less than promised, another resource binds as well: the one that, when it is
faster too, lets the first gain most.

All this holds where each task takes the time that it takes alone. Where tasks lose time to channels
that they share (`sim.lost`), the length of one depends on the others, and a second of the path is
due to several rates at once. Then the derivatives are central differences: the same tasks in the
same order with a rate a little higher and a little lower, the channels' own rates among them. Time
shrinks in proportion when all rates grow, so (Euler) the elasticities still add up to 1, but for
points at which two paths are equally long, and without that of `channels.cores`, which is a number
of threads and no rate. One can be negative: of a resource whose users, when it
is faster, take more of a channel away from what is critical.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sim.engines import engine
from sim.resources import Alike, Seconds

PATH, DIFFERENCES = "critical path", "differences"
"""How elasticities were found."""

SMALL = 1e-4
"""Relative change of a rate in a central difference."""

LEAST = 1e-6
"""Elasticities by differences that are closer to zero are those of what plays no role."""

STEP = 0.1
"""How much faster or slower a resource is made."""

ALONE = 0.5
"""A resource binds alone when it gains more than this part of what its share promises."""

MUCH = 0.05
"""Of a smaller share nobody asks what binds as well."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What a generation owes to one resource.

    Parameters
    ----------
    resource: its path in a hardware file.
    critical_s: seconds of the critical path that are due to it; of a channel, those in which it is
        full and sets the pace.
    elasticity: d ln throughput / d ln rate, which is critical_s / makespan unless tasks share
        channels. The rate of a fixed cost is its inverse.
    faster, slower: relative change of the throughput with a rate 10 % higher, and 10 % lower.
    partner: the resource that binds as well, where `faster` is less than half of what the
        elasticity promises; None: this one binds alone, or hardly matters.
    together: relative change of the throughput with both rates 10 % higher.
    """

    resource: str
    critical_s: float
    elasticity: float
    faster: float
    slower: float
    partner: str | None = None
    together: float | None = None


def sensitivities(
    phases: Sequence[Alike], critical_s: Seconds, makespan_s: float, method: str = PATH
) -> tuple[Sensitivity, ...]:
    """One for each resource that matters, the largest first.

    Parameters
    ----------
    phases: all of the generation. critical_s: seconds of the critical path by resource.
    method: `PATH`, or `DIFFERENCES` where tasks lose time to channels.
    """
    shares = {name: s / makespan_s for name, s in critical_s.items() if s > 0}
    if method == DIFFERENCES:
        shares = _differences(phases, set(shares))

    def gain(factor: float, *names: str) -> float:
        return makespan_s / makespan_with(phases, names, factor) - 1

    def partner(name: str) -> str:
        """The one beside which this one gains most; of equals, no channel."""
        channels = {other for one in phases for other in one.channels()}
        others = {other for one in phases for other in one.names()} - {name}
        beside = {other: gain(1 + STEP, name, other) - gain(1 + STEP, other) for other in others}
        order = sorted(others, key=lambda other: (other in channels, other))
        return max(order, key=lambda other: beside[other])

    def sensitivity(name: str, share: float) -> Sensitivity:
        seconds, faster = critical_s.get(name, 0.0), gain(1 + STEP, name)
        found = Sensitivity(name, seconds, share, faster, gain(1 - STEP, name))
        if share <= MUCH or faster > ALONE * promised(share, 1 + STEP):
            return found
        other = partner(name)
        return replace(found, partner=other, together=gain(1 + STEP, name, other))

    found = [sensitivity(name, share) for name, share in shares.items()]
    if method == DIFFERENCES:
        return tuple(sorted(found, key=lambda one: (-one.elasticity, one.resource)))
    return tuple(sorted(found, key=lambda one: (-one.critical_s, one.resource)))


def _differences(phases: Sequence[Alike], critical: set[str]) -> Seconds:
    """Elasticities by resource: central differences; those of no role are left out."""
    names = sorted(critical.union(*(one.names() for one in phases)))
    found = {}
    for name in names:
        sides = [makespan_with(phases, [name], factor) for factor in (1 - SMALL, 1 + SMALL)]
        share = math.log(sides[0] / sides[1]) / math.log((1 + SMALL) / (1 - SMALL))
        if name in critical or abs(share) > LEAST:
            found[name] = share
    return found


def makespan_with(phases: Sequence[Alike], resources: Iterable[str], factor: float) -> float:
    """Seconds of a generation with some resources `factor` times as fast.

    Tasks and order are the same. `phases` are all of the generation.
    """
    names, compiled = tuple(resources), engine("compiled")
    changed = (one.with_rates(names, factor) for one in phases)
    return sum(float(compiled.totals(*steps_and_sync)[:, 0].sum()) for steps_and_sync in changed)


def promised(elasticity: float, factor: float) -> float:
    """Relative gain of throughput, at most, when a rate is `factor` times what it was.

    >>> round(promised(0.5, 2.0), 4), promised(1.0, 0.5)
    (0.3333, -0.5)
    """
    return 1 / (1 - elasticity * (1 - 1 / factor)) - 1
