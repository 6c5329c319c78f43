"""`moelab crossover`: where the winner of two schedules changes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from moelab import options
from moelab.amounts import parse_bytes, parse_rate
from moelab.asking import Asked, asks
from moelab.output import check_distinct, check_target, show, write_json
from schedules.errors import BadInput


class Over(StrEnum):
    """What can be varied."""

    batch = "batch"
    gpu_memory = "gpu-memory"
    pcie = "pcie"
    prompt = "prompt"


@asks
def crossover(
    first: Annotated[
        str, typer.Argument(metavar="SCHED_A", help="A schedule (`moelab list schedules`).")
    ],
    second: Annotated[str, typer.Argument(metavar="SCHED_B", help="Another schedule.")],
    over: Annotated[
        Over,
        typer.Option(
            help="What is varied: the batch, the memory of a GPU, the link to it, or the length of "
            "all prompts."
        ),
    ],
    asked: Asked,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Begin of the range: `8`, `16GB`, `4GB/s`; default: 1 sequence, 32 tokens, a "
            "quarter of the machine's.",
        ),
    ] = None,
    stop: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="End of the range; default: 1024 sequences, 4096 tokens, eight times the "
            "machine's.",
        ),
    ] = None,
    points: Annotated[
        int, typer.Option(help="Values of the grid between whose neighbours changes are sought.")
    ] = 11,
    report: Annotated[
        Path | None,
        typer.Option(help="Write both curves as one page (.html) that opens offline."),
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Find where the winner of two schedules changes: at which batch, memory, link or prompt."""
    from reports.crossover_page import write_crossover
    from reports.crossover_table import crossover_table, headline, range_lines
    from sim.crossover import crossover as run

    check_target(json)
    check_target(report, (".html",))
    check_distinct(report, json)
    found = run(
        first,
        second,
        over.value,
        asked,
        amount(start, over, "--from"),
        amount(stop, over, "--to"),
        points,
    ).to_dict()
    written = []
    if report is not None:
        write_crossover(found, report)
        written = [f"Written: {report.resolve()}"]
    show(json, crossover_table(found), "", headline(found), *range_lines(found), *written)
    write_json(json, found)


def amount(text: str | None, over: Over, option: str) -> float | None:
    """An end of the range in the unit of what is varied. Raises `BadInput` for anything else.

    >>> amount("4GB/s", Over.pcie, "--from"), amount("8", Over.batch, "--from")
    (4000000000.0, 8)
    """
    if text is None:
        return None
    match over:
        case Over.pcie:
            return parse_rate(text, option)
        case Over.gpu_memory:
            return parse_bytes(text, option)
        case _:
            return _count(text, over, option)


def _count(text: str, over: Over, option: str) -> int:
    try:
        return int(text)
    except ValueError:
        unit = "sequences" if over is Over.batch else "tokens"
        raise BadInput(f"{option} {text}: give a whole number of {unit}") from None
