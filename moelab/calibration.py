"""Measuring a machine, and writing down what it is: the work behind `moelab calibrate`."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moelab.calibration_folder import CalibrationFiles
from moelab.run_folder import RunFolder
from reports.files import write_text
from schedules.errors import BadInput, Infeasible, in_gb, suggest
from schedules.result_keys import MEASURED
from schedules.sample import Sample
from schedules.task import DType
from sim.calibration.preset import Calibrated, Machine, calibrated
from sim.calibration.recorded import recorded_samples
from sim.calibration.toml_text import toml_text
from sim.hardware import hardware_names, load_hardware

if TYPE_CHECKING:
    from runtime.device import DeviceOptions

Progress = Callable[[int, int, str], None]


def calibrate(
    files: CalibrationFiles,
    options: "DeviceOptions",
    dtypes: Sequence[DType],
    effort: str,
    progress: Progress,
) -> Calibrated:
    """Measure what is not measured yet, fit, and write the preset.

    Raises `BadInput` for raw data of something else, `MoelabError` when a file cannot be written.
    """
    from runtime.calibration.host import facts as facts_of
    from runtime.calibration.operations import trials
    from runtime.calibration.runner import measure as measure_points
    from runtime.calibration.store import Store
    from runtime.calibration.trials_file import TrialsFile

    facts = files.begin(facts_of(options))
    points = Store(files.points)
    measure_points(options, points, effort, progress)
    timed = TrialsFile(files.operations)
    every = list(trials(options.device, dtypes, effort == "quick"))
    for number, trial in enumerate(every):
        if trial.name not in timed.trials:
            progress(number, len(every), trial.name)
            timed.add(trial.name, _samples(trial, options))
    progress(len(every), len(every), "")
    if not timed.samples():
        raise BadInput(
            f"none of the models to time fits into {in_gb(options.gpu_memory_bytes)} of device "
            "memory; give more --gpu-memory"
        )
    machine = machine_of(files.name, facts, options, files.preset.parent)
    found = calibrated(machine, points.points(), timed.samples())
    write_preset(files, found, _comment(facts))
    return found


def _samples(trial: Any, options: "DeviceOptions") -> list[Sample]:
    from runtime.calibration.operations import measure as measure_operations

    try:
        return measure_operations(trial, options)
    except Infeasible:  # larger than the memory that it may use: there are smaller ones
        return []


def machine_of(
    name: str, facts: Mapping[str, Any], options: "DeviceOptions", folder: Path
) -> Machine:
    """What a preset says of the machine beside rates."""
    from runtime.placing import budget_bytes

    environment, host = facts["environment"], facts["host"]
    cpu, gpu = environment["cpu"], environment.get("gpu")
    emulated = options.device == "cpu"
    held = options.link_bytes_per_s
    link = f", copies held to {held / 1e9:g} GB/s" if held else ""
    where = f"{environment['device']}{link}"
    torch = environment["packages"]["torch"]
    return Machine(
        name=name,
        description=f"{where}; calibrated {facts['date'][:10]}",
        gpu_name=_threads(options.threads[0]) if emulated else str(gpu["name"]),
        cpu_name=cpu["model"],
        gpu_bytes=float(budget_bytes(options)),
        cpu_bytes=float(options.host_memory_bytes),
        disk_bytes=float(shutil.disk_usage(folder).total),
        cores=int(host["cores"]),
        threads=options.threads if emulated else None,
        measured=f"moelab calibrate, {facts['date'][:10]}, {where}, torch {torch}",
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''} of the CPU"


def calibrate_from(files: CalibrationFiles, runs: Sequence[Path], based_on: str) -> Calibrated:
    """Fit what recorded runs show, and write a preset that takes the rest from another one.

    Raises `BadInput` for folders that hold no finished run, or an unknown preset.
    """
    _check_base(based_on, files.name)
    samples: list[Sample] = []
    for path in runs:
        samples += run_samples(RunFolder.read(path))
    first = RunFolder.read(runs[0])
    date = first.value("provenance", "date")[:10]
    device, sizes = first.value("hardware"), first.value("capacity_bytes")
    machine = Machine(
        name=files.name,
        description=f"{device}; calibrated from {len(runs)} recorded runs, on {based_on}",
        gpu_name=str(device),
        cpu_name=str(device),
        gpu_bytes=float(sizes["gpu"]),
        cpu_bytes=float(sizes["cpu"]),
        disk_bytes=0.0,
        cores=load_hardware(based_on).cpu.cores,
        threads=None,
        measured=f"moelab calibrate --from {len(runs)} runs of {date} on {device}",
    )
    found = calibrated(machine, (), samples, based_on)
    write_preset(files, found, f"Fitted to recorded runs: {', '.join(p.name for p in runs)}")
    return found


def _check_base(name: str, own: str) -> None:
    known = hardware_names()  # the new preset says the name, so a path would not do
    if name not in known:
        raise BadInput(f"--based-on {name}: no hardware is named so{suggest(name, known)}")
    if name == own:
        raise BadInput(f"--based-on {name}: the new preset would have that name itself")


def run_samples(run: RunFolder) -> list[Sample]:
    """The operations of all batches of a run."""
    issue_s = run.value(MEASURED, "issue_s_per_task")
    found: list[Sample] = []
    for batch in run.batches():
        where = f"{run.path.name} batch {batch.number}"
        found += recorded_samples(run.part(batch), run.place(batch), issue_s, where)
    return found


def write_preset(files: CalibrationFiles, found: Calibrated, comment: str) -> None:
    """Write the TOML file, after a look at whether it can be read again."""
    text = toml_text(found.preset, comment)
    temporary = files.preset.with_name(f".{files.preset.name}.new.toml")
    write_text(temporary, text)
    try:
        load_hardware(temporary)
        temporary.replace(files.preset)
    finally:
        temporary.unlink(missing_ok=True)


def _comment(facts: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in facts["environment"]["packages"].items())
    lines = [
        f"Calibrated by moelab {facts['version']}, {facts['date']}: {facts['command']}",
        f"On {facts['environment']['device']}; {packages}",
        "Raw data: the files of this name beside it. Rates are one value per quantity.",
    ]
    return "\n".join(lines)
