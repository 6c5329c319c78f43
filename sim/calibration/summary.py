"""A calibration as plain values: what a page or a table shows, and a file holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schedules.sample import Sample
from sim.calibration.devices import medians
from sim.calibration.least_squares import Cost, Fit
from sim.calibration.links import CALLS, copy_s
from sim.calibration.measured import by_threads, copies, pairs, steady
from sim.calibration.points import Point
from sim.calibration.preset import Calibrated

UNITS = {
    "memory": "B",
    "disk": "B",
    "memory_bandwidth": "B/s",
    "copy_rate": "B/s",
    "compute": "flop/s",
    "links": "B/s",
    "channels": "B/s",
    "cores": "threads",
    "queue": "places",
}


def summary(
    found: Calibrated, points: Sequence[Point], facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Plain values of a calibration.

    `name`, `description`, `warnings`, `provenance` (the facts); `values` (`key` in the preset,
    `value`, `low`, `high`, `unit`, `source`; no interval where it was not fitted); by device (and
    `links`) `fits` (`measurements`, `median_abs_error`, `overlaps`) and `residuals` (`op`, `where`,
    `measured_s`, `modelled_s` of each measurement); `copies`, `pairs`, `threads` and `steady` as
    `sim.calibration.measured` has them.
    """
    return {
        "name": found.preset["name"],
        "description": found.preset["description"],
        "warnings": list(found.warnings),
        "values": list(_values(found.preset, (), found.fits)),
        "fits": {what: _fit(fit) for what, fit in found.fits.items()},
        "residuals": _residuals(found, points),
        "copies": list(copies(points, found.fits.get("links"))),
        "pairs": list(pairs(points)),
        "threads": list(by_threads(points)),
        "steady": list(steady(points)),
        "provenance": dict(facts or {}),
    }


def _values(
    table: Mapping[str, Any], path: tuple[str, ...], fits: Mapping[str, Fit]
) -> Iterator[dict[str, Any]]:
    if "source" in table:
        cost, is_rate = _cost(path, fits), "sustained" in table
        yield {
            "key": ".".join(path),
            "value": table["sustained" if is_rate else "value"],
            **_interval(cost, is_rate),
            "unit": _unit(path),
            "source": table["source"],
        }
    for key, inner in table.items():
        if isinstance(inner, Mapping):
            yield from _values(inner, (*path, key), fits)


def _cost(path: tuple[str, ...], fits: Mapping[str, Fit]) -> Cost | None:
    """The cost behind a value of the preset; None for one that was not fitted."""
    what: str
    match path:
        case ("gpu" | "cpu" as device, "memory_bandwidth"):
            what, name = device, "bytes"
        case ("gpu" | "cpu" as device, "call_s"):
            what, name = device, "calls"
        case ("gpu" | "cpu" as device, "compute", dtype, kernel):
            what, name = device, f"{dtype}.{kernel}"
        case ("links", link):
            what, name = "links", link
        case ("link_call_s",):
            what, name = "links", CALLS
        case _:
            return None
    return fits[what].costs.get(name) if what in fits else None


def _interval(cost: Cost | None, is_rate: bool) -> dict[str, float | None]:
    """Its ends; a rate whose cost is not told from nothing has no upper one."""
    if cost is None or not (is_rate or cost.is_seen):
        return {"low": None, "high": None}
    if not is_rate:
        return {"low": float(cost.low), "high": float(cost.high)}
    return {
        "low": 1 / float(cost.high) if cost.high else None,
        "high": 1 / float(cost.low) if cost.is_seen else None,
    }


def _unit(path: tuple[str, ...]) -> str:
    if path[-1].endswith("_s"):
        return "s"
    return next((UNITS[part] for part in reversed(path) if part in UNITS), "")


def _fit(fit: Fit) -> dict[str, Any]:
    return {
        "measurements": len(fit.errors),
        "median_abs_error": fit.median_error,
        "overlaps": fit.overlaps,
    }


def _residuals(found: Calibrated, points: Sequence[Point]) -> dict[str, list[dict[str, Any]]]:
    result: dict[str, list[dict[str, Any]]] = {}
    for device in ("gpu", "cpu"):
        if device in found.fits:
            own = found.samples[device]
            errors = found.fits[device].errors
            result[device] = [
                _residual(sample, float(s), float(s * (1 + error)))
                for sample, s, error in zip(own, medians(own), errors, strict=True)
            ]
    if "links" in found.fits:
        fit = found.fits["links"]
        result["links"] = [
            {"op": f"copy {c['link']}", "where": "alone"}
            | {key: c[key] for key in ("measured_s", "modelled_s")}
            for c in copies(points, fit)
        ]
        own = [s for s in found.samples["link"] if s.work.calls and s.work.link_bytes]
        for sample, s in zip(own, medians(own), strict=True):
            modelled = copy_s(fit, sample.work.link_bytes, sample.work.calls)
            result["links"].append(_residual(sample, float(s), modelled))
    return result


def _residual(sample: Sample, measured_s: float, modelled_s: float) -> dict[str, Any]:
    where = f"{sample.where}, {sample.phase}"
    return {"op": sample.op, "where": where, "measured_s": measured_s, "modelled_s": modelled_s}
