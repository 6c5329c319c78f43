"""`moelab explain`: why a schedule takes as long as it does."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moelab import options
from moelab.asking import Asked, asks
from moelab.output import check_distinct, check_target, show, write_json
from schedules.errors import BadInput

if TYPE_CHECKING:
    from sim.explanation import Explanation


@asks
def explain(
    schedule: Annotated[str, typer.Argument(help="A schedule (`moelab list schedules`).")],
    asked: Asked,
    timeline: Annotated[
        Path | None,
        typer.Option(help="Write the timeline (.html) with the critical path outlined."),
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(help="Write the task graph for graph tools: .graphml or .dot."),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Phases of the timeline and the graph: `0` is prefill, `1-3` decode steps; `all`."
        ),
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Explain where the time goes: the bottleneck, the critical path, idle time, lower bounds."""
    from reports.explain_story import story
    from reports.explain_table import tables
    from schedules.schedule import find_schedule
    from sim.api import run as simulated
    from sim.explain import explain as run

    _check(timeline, graph, steps, json)
    found = run(simulated(asked.scenario(), find_schedule(schedule), asked.given()))
    written = _write(found, timeline, graph, steps)
    values = found.to_dict()
    parts = [part for table in tables(values) for part in ("", table)]
    show(json, *story(values), *parts, *([""] if written else []), *written)
    write_json(json, values)


def _check(timeline: Path | None, graph: Path | None, steps: str | None, json: Path | None) -> None:
    check_target(json)
    check_target(timeline, (".html",))
    check_target(graph, (".graphml", ".dot"))
    for first, second in ((timeline, json), (graph, json), (timeline, graph)):
        check_distinct(first, second)
    if steps is not None and timeline is None and graph is None:
        raise BadInput(
            "--steps chooses what a timeline or a graph shows; give --timeline or --graph as well"
        )


def _write(
    found: "Explanation", timeline: Path | None, graph: Path | None, steps: str | None
) -> list[str]:
    """Write what was asked for; returns a line for each file."""
    from moelab.timelines import parse_steps
    from reports.graph_files import window_graph, write_graph
    from reports.timeline_page import write_timeline

    generation = found.result.generation
    shown = parse_steps(steps, generation.steps, ".html")
    if timeline is not None:
        write_timeline(found.result.timeline(shown), timeline, critical=found.critical(shown))
    if graph is not None:
        if steps is None:
            shown = [min(1, generation.steps)]
        window = [(n, found.graph(n), found.tasks(n)) for n in shown]
        write_graph(window_graph(window), graph)
    return [f"Written: {path.resolve()}" for path in (timeline, graph) if path is not None]
