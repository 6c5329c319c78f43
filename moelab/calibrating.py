"""`moelab calibrate`: measure this machine, and write a hardware preset from it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moelab import options, run_options
from moelab.options import DeviceName, DTypeName
from moelab.output import check_distinct, check_target, show, write_json
from schedules.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from moelab.calibration_folder import CalibrationFiles
    from runtime.device import DeviceOptions
    from schedules.task import DType

LINE_S = 15.0  # between lines that say how far it is

Out = Annotated[
    Path,
    typer.Option(metavar="HOST.toml", help="The preset to write; raw data go beside it."),
]
From = Annotated[
    list[Path] | None,
    typer.Option(
        "--from",
        metavar="RUN_DIR",
        help="Fit recorded runs (folders of `moelab run`) in place of measuring; repeat.",
    ),
]
BasedOn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="With `--from`: a preset for what the runs do not show."),
]
Effort = Annotated[
    str, typer.Option(help="How thoroughly to measure: `normal` (minutes) or `quick` (rough).")
]
Check = Annotated[
    bool,
    typer.Option("--check", help="Then run schedules that were not fitted, and print the errors."),
]
Again = Annotated[bool, typer.Option("--again", help="Measure anew; do not use what is there.")]
DTypes = Annotated[
    list[DTypeName] | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="Number formats to measure; repeat. Default: float32 on a CPU, float16 on a GPU.",
    ),
]
GpuMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Memory of the device to use; default: 8 GiB, or 90 % of the GPU's."
    ),
]
Page = Annotated[
    Path | None, typer.Option(help="Write fits, residuals and measurements as a page (.html).")
]


def calibrate(
    out: Out,
    device: run_options.Device = DeviceName.cuda,
    runs: From = None,
    based_on: BasedOn = None,
    gpu_memory: GpuMemory = None,
    host_memory: run_options.HostMemory = None,
    link_bandwidth: run_options.LinkBandwidth = None,
    threads: run_options.Threads = None,
    dtype: DTypes = None,
    effort: Effort = "normal",
    check: Check = False,
    again: Again = False,
    page: Page = None,
    json: options.JsonFile = None,
) -> None:
    """Measure this machine, fit the simulator's rates to it, and write them as a preset."""
    from moelab.calibration_folder import CalibrationFiles
    from moelab.running import check_installed, load_libraries

    for target, ending in ((out, (".toml",)), (page, (".html",)), (json, ())):
        check_target(target, ending)
    check_distinct(page, json)
    files = CalibrationFiles(out)
    if runs:
        _from_runs(files, runs, based_on, check, page, json)
        return
    if based_on is not None:
        raise BadInput("--based-on is for --from, which may lack something; leave it out")
    check_installed()
    load_libraries()
    allowed = _options(device, gpu_memory, host_memory, link_bandwidth, threads)
    if again:  # not before the options are known to be possible
        files.clear()
    _measure(files, allowed, _dtypes(dtype, device), effort, check, page, json)


def _measure(
    files: "CalibrationFiles",
    allowed: "DeviceOptions",
    dtypes: "Sequence[DType]",
    effort: str,
    check: bool,
    page: Path | None,
    json: Path | None,
) -> None:
    from moelab.calibration import calibrate as measured
    from moelab.calibration_report import checked, report, write_page, written
    from runtime.calibration.effort import find_effort
    from runtime.calibration.store import Store

    name = find_effort(effort).name
    with _progress() as progress:
        found = measured(files, allowed, dtypes, name, progress)
    values = report(files, found, Store(files.points).points())
    show(json, *written(files, values))
    if check:
        from moelab.held_out import check_runs

        with _progress() as progress:
            values["check"] = check_runs(files, allowed, dtypes[0], name == "quick", progress)
        show(json, *checked(values["check"]))
    show(json, *write_page(values, page))
    write_json(json, values)


def _from_runs(
    files: "CalibrationFiles",
    runs: Sequence[Path],
    based_on: str | None,
    check: bool,
    page: Path | None,
    json: Path | None,
) -> None:
    from moelab.calibration import calibrate_from
    from moelab.calibration_report import report, write_page, written

    if based_on is None:
        raise BadInput("--from needs --based-on NAME, a preset for what the runs do not show")
    if check:
        raise BadInput("--check runs on this machine; leave --from out, or --check")
    values = report(files, calibrate_from(files, runs, based_on))
    show(json, *written(files, values), *write_page(values, page))
    write_json(json, values)


def _options(
    device: DeviceName,
    gpu_memory: str | None,
    host_memory: str | None,
    link_bandwidth: str | None,
    threads: str | None,
) -> "DeviceOptions":
    from moelab.running import device_options
    from runtime.device import open_device, usual_bytes

    if gpu_memory is None:
        gpu_memory = f"{usual_bytes(device.value) or 8 << 30}B"
    found = device_options(device.value, gpu_memory, host_memory, link_bandwidth, threads)
    open_device(found)
    return found


def _dtypes(asked: list[DTypeName] | None, device: DeviceName) -> "list[DType]":
    names = [one.value for one in asked or ()]
    if not names:
        names = ["float16" if device == DeviceName.cuda else "float32"]
    return list(dict.fromkeys(names))  # type: ignore[arg-type]


@contextmanager
def _progress() -> "Iterator[Callable[[int, int, str], None]]":
    """A bar on standard error; where that is no terminal, a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description:40.40}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, name: bar.update(
            task, completed=done, total=total, description=name
        )


def _lines() -> "Callable[[int, int, str], None]":
    last = [time.monotonic()]

    def tell(done: int, total: int, name: str) -> None:
        if time.monotonic() - last[0] >= LINE_S:
            last[0] = time.monotonic()
            typer.echo(f"{done} of {total}: {name}", err=True)

    return tell
