"""`moelab compare-run`: a measured run beside its own simulation."""

from pathlib import Path
from typing import Annotated

import typer

from moelab import options
from moelab.output import check_distinct, check_target, show, write_json


def compare_run(
    run: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="A folder that `moelab run` has left.")
    ],
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            "-H",
            help="The machine of the run: a name or a .toml file; default: the one that the run "
            "names, if it has been calibrated.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write both timelines and the numbers as one page (.html)."),
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Simulate exactly a measured run: how far off is the simulator, where, and why?"""
    from moelab.compared_run import compared
    from reports.compare_run_page import write_comparison
    from reports.compare_run_table import partings, sentences, tables
    from sim.compare_timeline import aligned

    check_target(json)
    check_target(out, (".html",))
    check_distinct(out, json)
    found = compared(run, hardware)
    values = found.to_dict()
    written = []
    if out is not None:
        write_comparison(values, *aligned(found.comparison.batches[0]), out)
        written = ["", f"Written: {out.resolve()}"]
    parts = [part for table in tables(values) for part in ("", table)]
    show(json, *sentences(values), *parts, "", *partings(values), *written)
    write_json(json, values)
