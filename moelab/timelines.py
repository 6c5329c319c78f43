"""Timelines and pages on disk."""

import re
from pathlib import Path

from schedules.errors import BadInput
from schedules.timeline import Timeline
from sim.comparison import Comparison


def parse_steps(text: str | None, last: int, suffix: str) -> list[int]:
    """Phases to write, from words like `0,1,5-8` or `all`; 0 is prefill.

    By default a Parquet file gets all of them, a page or a trace prefill and two decode steps.

    >>> parse_steps("0,2-4", 10, ".html")
    [0, 2, 3, 4]
    """
    if text is None:
        return list(range(last + 1 if suffix == ".parquet" else min(3, last + 1)))
    if text == "all":
        return list(range(last + 1))
    chosen: set[int] = set()
    for word in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", word)
        if match is None:
            raise BadInput(f"--steps: '{word}' is not a step like 3, a range like 1-3, or all")
        first, final = int(match[1]), int(match[2] or match[1])
        if not first <= final <= last:
            raise BadInput(f"--steps: '{word}' is outside 0-{last} (0 is prefill)")
        chosen |= set(range(first, final + 1))
    return sorted(chosen)


def write_timeline_file(timeline: Timeline, path: Path) -> None:
    """The timeline in the format of the file's name. Raises `BadInput` if it cannot be written."""
    from reports.perfetto import write_chrome_trace  # it and plotly are slow to import
    from reports.timeline_page import write_timeline

    if path.suffix == ".parquet":
        try:
            timeline.to_parquet(path)
        except OSError as error:
            raise BadInput(f"cannot write '{path}': {error.strerror or error}") from None
    elif path.suffix == ".json":
        write_chrome_trace(timeline, path)
    else:
        write_timeline(timeline, path)


def comparison_page(comparison: Comparison, path: Path) -> None:
    """One page with all results and, for each that can run, its timeline in mid-generation."""
    from reports.compare_page import write_comparison  # plotly is slow to import

    timelines = {}
    for result in comparison.feasible:
        last = result.generation.steps
        first = max(0 if last == 0 else 1, last // 2)
        timelines[result.schedule] = result.timeline(range(first, min(last, first + 1) + 1))
    scenario = comparison.results[0].scenario
    title = (
        f"{scenario.model.name} on {scenario.hardware.name}, {scenario.workload.name}, "
        f"{scenario.workload.gen_len} tokens generated"
    )
    write_comparison([r.to_dict() for r in comparison.results], timelines, path, title)
