"""A measured run, simulated exactly as it was, batch by batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moelab.run_folder import PRESETS, RunFolder
from schedules.errors import BadInput
from schedules.result_keys import MEASURED
from sim.compare_result import RunComparison
from sim.compare_run import clocks_of
from sim.cost import CostModel, Roofline
from sim.hardware import Hardware, Rate, load_hardware

HELD_LINKS = ("h2d", "d2h", "h2d_pageable", "d2h_pageable")
"""Those that `moelab run --link-bandwidth` holds to a rate."""


@dataclass(frozen=True, eq=False)
class Compared:
    """A run, the machine that it was priced with, and what came of it.

    `changes` says what of the machine was replaced by what the run says of itself.
    """

    run: RunFolder
    hardware: Hardware
    changes: tuple[str, ...]
    comparison: RunComparison

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        run = self.run
        return {
            "run": str(run.path),
            **{key: run.value(key) for key in ("schedule", "model", "workload")},
            "hardware": self.hardware.name,
            "run_hardware": run.value("hardware"),
            "changes": list(self.changes),
            "policy": run.policy.model_dump(),
            "threads": _threads(run),
            "issue_s_per_task": run.value(MEASURED, "issue_s_per_task"),
            **self.comparison.to_dict(),
            "provenance": run.value("provenance"),
        }


def compared(path: Path, hardware: str | None = None) -> Compared:
    """Compare a run, batch by batch.

    Raises `BadInput` for what is no finished run of one GPU, for a machine that is unknown or has
    no price for what the run did.
    """
    run = RunFolder.read(path)
    if run.kind.change == "mixed-precision":
        raise BadInput(
            f"schedule '{run.kind.name}' decides by the gates' weights, which the run in "
            f"'{run.path}' has not recorded: it cannot be simulated as it was"
        )
    machine, changes = as_run(_machine(run, hardware), _presets(run))
    cost, issue_s = cost_of(machine), run.value(MEASURED, "issue_s_per_task")
    measured = {one["first"]: one for one in run.value(MEASURED, "batches")}
    batches = [
        clocks_of(
            run.part(batch),
            run.place(batch),
            cost,
            (measured[batch.first]["prefill_s"], measured[batch.first]["decode_s"]),
            issue_s,
        )
        for batch in run.batches()
    ]
    return Compared(run, machine, changes, RunComparison(batches))


def cost_of(hardware: Hardware) -> CostModel:
    """What prices the tasks of a run on one GPU of this machine."""
    return Roofline(hardware)


def as_run(hardware: Hardware, presets: Mapping[str, Any]) -> tuple[Hardware, tuple[str, ...]]:
    """The machine as the run says that it was, and what that changes, in words.

    Host links are at most as fast as the run held its link; threads that stand in for a GPU are as
    many as computed in the run.
    """
    found, changes = hardware, list[str]()
    rate: float = presets.get("link_bytes_per_s") or 0.0
    threads = presets.get("threads")
    fast = [n for n in HELD_LINKS if rate and hardware.link_rate(n).sustained > rate]
    if fast:
        source = f"the run held its link to {rate:g} bytes/s (--link-bandwidth)"
        held = {name: Rate(peak=rate, sustained=rate, source=source) for name in fast}
        found = found.model_copy(update={"links": {**found.links, **held}})
        changes.append(f"{', '.join(fast)} at {rate / 1e9:g} GB/s, as the run held its link")
    emulated = hardware.emulated
    if emulated and threads and list(threads) != [emulated.gpu_threads, emulated.cpu_threads]:
        names = dict(zip(("gpu_threads", "cpu_threads"), threads, strict=True))
        found = found.model_copy(update={"emulated": emulated.model_copy(update=names)})
        changes.append(
            f"threads {threads[0]}, {threads[1]}, as in the run, beside rates that were measured "
            f"with {emulated.gpu_threads}, {emulated.cpu_threads}"
        )
    return found, tuple(changes)


def _presets(run: RunFolder) -> Mapping[str, Any]:
    found: Mapping[str, Any] = run.value(*PRESETS)
    return found


def _threads(run: RunFolder) -> Any:
    """Those of the device and of the CPU, where threads stand in for the device."""
    question = run.value("provenance").get("question") or {}
    return None if question.get("device") == "cuda" else _presets(run).get("threads")


def _machine(run: RunFolder, hardware: str | None) -> Hardware:
    """What was asked for, else what the run says of itself."""
    if hardware is not None:
        return load_hardware(hardware)
    name = run.value("hardware")
    try:
        return load_hardware(name)
    except BadInput:
        raise BadInput(
            f"the run in '{run.path}' was made on '{name}', for which there is no calibration; "
            "make one with moelab calibrate, or name a machine with --hardware"
        ) from None
