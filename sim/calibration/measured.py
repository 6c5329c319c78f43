"""Micro-benchmarks as plain values: what a page shows of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sim.calibration.least_squares import Fit
from sim.calibration.links import copied, copy_s
from sim.calibration.points import Point, chosen, rate
from sim.calibration.steadiness import SHARE, shares_got, turns

Values = dict[str, Any]


def copies(points: Sequence[Point], fit: Fit | None) -> Iterator[Values]:
    """Copies that ran alone: `link`, `bytes`, `measured_s`, `modelled_s` (None without a fit)."""
    for point in copied(points):
        link, size = str(point.params["link"]), float(point.amount["bytes"])
        yield {
            "link": link,
            "bytes": size,
            "measured_s": float(np.median(point.seconds)),
            "modelled_s": None if fit is None else copy_s(fit, {link: size}, 1),
        }


def pairs(points: Sequence[Point]) -> Iterator[Values]:
    """What two streams lose by each other: `pair`, `role`, `alone_s`, `together_s`."""
    for together in chosen(points, "copy_pair", when="together"):
        params = {key: together.params[key] for key in ("pair", "role")}
        for alone in chosen(points, "copy_pair", when="alone", **params):
            seconds = {"alone_s": alone.seconds, "together_s": together.seconds}
            yield params | {key: float(np.median(each)) for key, each in seconds.items()}


def by_threads(points: Sequence[Point]) -> Iterator[Values]:
    """What so many threads do together: `what`, `threads`, `per_second`, `unit`."""
    for point in chosen(points, "cores"):
        yield _rate("products of matrices", point, "flops")
    for point in chosen(points, "memory", memory="cpu"):
        yield _rate(f"{point.params['what']} host memory", point, "bytes")
    pins = chosen(points, "pin")
    largest = max((point.amount["bytes"] for point in pins), default=0)
    for point in pins:
        if point.amount["bytes"] == largest:
            yield _rate("copy to pinned memory", point, "bytes")


def _rate(what: str, point: Point, unit: str) -> Values:
    threads = int(point.params["threads"])
    shown = {"flops": "flop/s", "bytes": "B/s"}[unit]
    return {"what": what, "threads": threads, "per_second": rate(point, unit), "unit": shown}


def steady(points: Sequence[Point]) -> Iterator[Values]:
    """Probes over time: `probe`, `turn`, `at_s` from the first, and `speed`.

    The speed is a share of the fastest turn's; of the probe `share`, of the processors.
    """
    own = chosen(points, "steady")
    begin = min((_at(point) for point in own), default=0.0)
    for probe in dict.fromkeys(str(point.params["probe"]) for point in own):
        ordered = sorted(chosen(own, "steady", probe=probe), key=lambda p: int(p.params["turn"]))
        seconds = turns(own, probe)
        speeds = shares_got(own) if probe == SHARE else seconds.min() / seconds
        for point, speed in zip(ordered, speeds, strict=True):
            turn, at_s = int(point.params["turn"]), _at(point) - begin
            yield {"probe": probe, "turn": turn, "at_s": at_s, "speed": float(speed)}


def _at(point: Point) -> float:
    """Unix time at which it was measured; 0 where it does not say so."""
    return float(getattr(point, "at", 0.0))
