"""A hardware preset from what was measured on a machine, each value with its source."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schedules.errors import BadInput
from schedules.sample import ISSUE, Sample
from schedules.task import KERNELS
from sim.calibration import shares
from sim.calibration.devices import device_fit, medians
from sim.calibration.least_squares import Cost, Fit
from sim.calibration.links import CALLS, link_fit
from sim.calibration.points import Point, chosen, rate, seconds_per_call
from sim.calibration.steadiness import warnings

LINKS = ("h2d", "d2h", "h2d_pageable", "d2h_pageable", "pin", "pin_parallel")
LIKE = {
    "h2d_pageable": "h2d",
    "d2h_pageable": "d2h",
    "d2h": "h2d",
    "h2d": "d2h",
    "pin_parallel": "pin",
}
"""Links that were not measured by themselves work as these do."""
ISSUING = "Issuing a task, median of runs"
WITHIN = 1.02  # a peak is at least this much above what is sustained: it was seen once


@dataclass(frozen=True)
class Machine:
    """What a preset says beside measured rates.

    Parameters
    ----------
    name, description: of the machine. gpu_name, cpu_name: of its devices.
    gpu_bytes, cpu_bytes, disk_bytes: memory that runs may use; a disk of 0 bytes is left out.
    cores: physical cores. threads: that compute for an emulated GPU and for the CPU; None: the GPU
        is a real one.
    measured: when and how, for the sources.
    """

    name: str
    description: str
    gpu_name: str
    cpu_name: str
    gpu_bytes: float
    cpu_bytes: float
    disk_bytes: float
    cores: int
    threads: tuple[int, int] | None
    measured: str


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A preset, and the fits behind it by what they are of: `gpu`, `cpu`, `links`."""

    preset: Mapping[str, Any]
    fits: Mapping[str, Fit]
    samples: Mapping[str, Sequence[Sample]]
    warnings: Sequence[str] = field(default_factory=list)


def calibrated(
    machine: Machine,
    points: Sequence[Point],
    samples: Sequence[Sample],
    based_on: str | None = None,
) -> Calibrated:
    """The preset of a machine; what was not measured is taken from the preset `based_on`.

    Raises `BadInput` where something that every preset has was not measured, and there is none.
    """
    fits: dict[str, Fit] = {}
    ways: dict[str, Callable[[], Fit]] = {
        "gpu": lambda: device_fit(samples, "gpu"),
        "cpu": lambda: device_fit(samples, "cpu"),
        "links": lambda: link_fit(points, samples),
    }
    for what, fitted in ways.items():
        try:
            fits[what] = fitted()
        except BadInput:
            if based_on is None:
                raise
    maker = _Maker(machine, points, samples, fits)
    own = {d: [s for s in samples if s.work.device == d] for d in ("gpu", "cpu", "link")}
    preset = maker.preset() if based_on is None else maker.changes(based_on)
    return Calibrated(preset, fits, own, warnings(points, samples, fits))


class _Maker:
    """Writes down one preset."""

    def __init__(
        self,
        machine: Machine,
        points: Sequence[Point],
        samples: Sequence[Sample],
        fits: Mapping[str, Fit],
    ) -> None:
        self.machine, self.points, self.samples, self.fits = machine, points, samples, fits

    def preset(self) -> dict[str, Any]:
        """As the TOML file says it."""
        machine, links = self.machine, self.fits["links"]
        call = self._amount(links.costs.get(CALLS), "calls of copies", self._launch("link_call"))
        found: dict[str, Any] = {
            "name": machine.name,
            "description": machine.description,
            "gpu": {"name": machine.gpu_name, "count": 1, **self._device("gpu", machine.gpu_bytes)},
            "cpu": {
                "name": machine.cpu_name,
                "cores": machine.cores,
                **self._device("cpu", machine.cpu_bytes),
            },
            "links": self._links(),
            "link_call_s": call,
            "shared_host_link": self._said(False, "A single GPU; nothing to share"),
            "host": self._host(),
            "channels": self._channels(),
        }
        if machine.threads:
            found["emulated"] = self._emulated(machine.threads)
        if machine.disk_bytes and (disk := chosen(self.points, "disk")):
            found["disk"] = self._said(machine.disk_bytes, "Size of the file system measured")
            largest = max(disk, key=lambda point: point.amount["bytes"])
            found["links"]["disk"] = self._plain_rate(rate(largest), "sequential reads of files")
        return {key: value for key, value in found.items() if value}

    def changes(self, based_on: str) -> dict[str, Any]:
        """What was fitted, on top of another preset."""
        machine = self.machine
        sizes = {"gpu": machine.gpu_bytes, "cpu": machine.cpu_bytes}
        found: dict[str, Any] = {
            "based_on": based_on,
            "name": machine.name,
            "description": machine.description,
        }
        for device in ("gpu", "cpu"):
            if device in self.fits:
                found[device] = self._device(device, sizes[device])
        if "links" in self.fits:
            seen = [name for name in self.fits["links"].costs if name != CALLS]
            found["links"] = {
                name: self._rate(self.fits["links"], name, f"copies over {name}") for name in seen
            }
        if (task_s := self._task_s()) is not None:
            found["host"] = {"task_s": self._said(task_s, ISSUING)}
        return found

    # -- devices --------------------------------------------------------------------------------

    def _device(self, device: str, memory_bytes: float) -> dict[str, Any]:
        fit = self.fits[device]
        what = f"{len(fit.errors)} operations of the {device}"
        how = "overlap" if fit.overlaps else "add up"
        found = {
            "memory": self._said(memory_bytes, "What runs were allowed to use"),
            "memory_bandwidth": self._rate(fit, "bytes", f"{what}, bytes"),
            "call_s": self._amount(fit.costs.get("calls"), what, self._launch("kernel")),
            "overlaps": self._said(
                fit.overlaps, f"Computation and memory {how}: the closer fit to {what}"
            ),
            "compute": self._compute(device, fit, what),
        }
        return {key: value for key, value in found.items() if value}

    def _compute(self, device: str, fit: Fit, what: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for dtype in dict.fromkeys(k.partition(".")[0] for k in fit.costs if "." in k):
            known = [k for k in KERNELS if f"{dtype}.{k}" in fit.costs]
            for kernel in KERNELS:
                like = kernel if kernel in known else known[0]
                note = "" if like == kernel else f" (none ran: as {like})"
                found.setdefault(dtype, {})[kernel] = self._rate(
                    fit, f"{dtype}.{like}", f"{what}, {dtype} {kernel}{note}"
                )
        if not found:
            raise BadInput(f"no operation with arithmetic was measured on the {device}")
        return found

    # -- links, host and what is shared ---------------------------------------------------------

    def _links(self) -> dict[str, Any]:
        costs = self.fits["links"].costs
        found = {}
        for link in LINKS:
            like = link
            while like not in costs and like in LIKE and LIKE[like] != link:
                like = LIKE[like]
            if like not in costs:
                raise BadInput(f"no copy of link '{link}' was measured")
            note = "" if like == link else f" (none ran: as {like})"
            found[link] = self._rate(self.fits["links"], like, f"copies over {link}{note}")
        return found

    def _host(self) -> dict[str, Any]:
        task_s, sync_s = self._task_s(), self._launch("round_trip")
        if task_s is None or sync_s is None:
            raise BadInput("issuing a task and waiting for one were not measured")
        return {
            "issue_s": self._said(task_s, "As task_s, which is used in its place"),
            "task_s": self._said(task_s, ISSUING),
            "sync_s": self._said(sync_s, "Issue, run and wait for a task that does nothing"),
            "pinnable_fraction": self._said(1.0, "Not limited here; the budget of runs is"),
        }

    def _task_s(self) -> float | None:
        issue = [s for s in self.samples if s.op == ISSUE]
        return float(np.median(medians(issue))) if issue else self._launch("task")

    def _channels(self) -> dict[str, Any]:
        found = {}
        if (cores := shares.cores(self.points)) is not None:
            found["cores"] = self._said(cores, "Products of matrices by 1 to twice as many threads")
        if (memory := shares.memory(self.points, self._alone())) is not None:
            found["cpu"] = self._said(memory, "Most that threads read, wrote or copied together")
        if self.machine.threads and (places := shares.queue(self.points)):
            found["queue"] = self._said(places, "Products of the device beside copies and reads")
        return found

    def _alone(self) -> list[float]:
        """Bytes/s of host memory that single operations take by themselves."""
        devices = ["cpu", "gpu"] if self.machine.threads else ["cpu"]
        found = [self.fits[device].rate("bytes") for device in devices]
        links = self.fits["links"]
        return found + [2 * links.rate(name) for name in links.costs if name != CALLS]

    def _emulated(self, threads: tuple[int, int]) -> dict[str, Any]:
        alone = chosen(self.points, "pin", threads=1)
        if not alone:
            raise BadInput("no copy by one thread was measured")
        largest = max(alone, key=lambda point: point.amount["bytes"])
        return {
            "gpu_threads": threads[0],
            "cpu_threads": threads[1],
            "copy_rate": self._plain_rate(rate(largest), "a copy by one thread"),
        }

    # -- single values --------------------------------------------------------------------------

    def _launch(self, what: str) -> float | None:
        return seconds_per_call(self.points, what)

    def _said(self, value: float | bool, what: str) -> dict[str, Any]:
        return {"value": value, "source": f"{what}; {self.machine.measured}"}

    def _plain_rate(self, per_second: float, what: str) -> dict[str, Any]:
        rates = {"peak": per_second * WITHIN, "sustained": per_second}
        return rates | {"source": f"Median of {what}; {self.machine.measured}"}

    def _rate(self, fit: Fit, name: str, what: str) -> dict[str, Any]:
        sustained = fit.rate(name)
        interval = _interval(fit.costs[name], lambda v: 1 / v)
        return {
            "peak": max(fit.best[name], sustained * WITHIN),
            "sustained": sustained,
            "source": f"Fitted to {what}, {interval}; {self.machine.measured}",
        }

    def _amount(self, cost: Cost | None, what: str, otherwise: float | None) -> dict[str, Any]:
        """A fitted amount, or what was measured by itself; nothing where neither shows it."""
        if cost is None or not cost.is_seen:
            if otherwise is None:
                return {}
            return self._said(otherwise, f"Calls that do nothing, as {what} show none")
        interval = _interval(cost, lambda v: v)
        return self._said(cost.value, f"Fitted to {what}, {interval}")


def _interval(cost: Cost, to: Callable[[float], float]) -> str:
    if not cost.is_seen:
        return "not told from nothing"
    low, high = sorted((to(cost.low), to(cost.high)))
    return f"95 % interval {low:.3g} to {high:.3g}"
