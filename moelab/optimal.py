"""`moelab optimal`: how far a schedule's order is from the best one of the same tasks."""

from pathlib import Path
from typing import Annotated

import typer

from moelab import options
from moelab.asking import Asked, asks
from moelab.output import check_distinct, check_target, show, write_json


@asks
def optimal(
    schedule: Annotated[str, typer.Argument(help="A schedule (`moelab list schedules`).")],
    asked: Asked,
    layers: Annotated[
        int | None, typer.Option(help="Layers of the step (default 2), or of a period (1).")
    ] = None,
    micro_batches: Annotated[
        int | None,
        typer.Option("--micro-batches", help="Cut the batch to so many; default: all of them."),
    ] = None,
    periodic: Annotated[
        bool, typer.Option("--periodic", help="The period of the steady state, not a makespan.")
    ] = False,
    time_limit: Annotated[
        float, typer.Option("--time-limit", help="Seconds that the solver may take.")
    ] = 60.0,
    timeline: Annotated[
        Path | None, typer.Option(help="Write both orders as lanes on one page (.html).")
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Find the best order of a schedule's tasks on the same streams, and prove or bound it."""
    from reports.optimal_page import write_optimal
    from reports.optimal_table import binds, changes_lines, headline, optimal_table, what
    from sim.optimal.question import optimal as run
    from sim.optimal.solver import Limits

    check_target(json)
    check_target(timeline, (".html",))
    check_distinct(timeline, json)
    result = run(
        schedule,
        asked,
        layers=layers,
        micro_batches=micro_batches,
        periodic=periodic,
        limits=Limits(time_limit),
    )
    found = result.to_dict()
    written = []
    if timeline is not None:
        write_optimal(found, result.timelines, timeline)
        written = [f"Written: {timeline.resolve()}"]
    sentences = [what(found), headline(found), binds(found), *changes_lines(found)]
    show(json, optimal_table(found), "", *sentences, *written)
    write_json(json, found)
