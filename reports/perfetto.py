"""Timelines as Chrome trace event files, for Perfetto and chrome://tracing.

Format: "Trace Event Format", complete (`X`) and metadata (`M`) events in a JSON object.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from reports.files import write_text
from schedules.timeline import Timeline

PROCESS = 1
AMOUNTS = ("flops", "bytes", "link_bytes")
PLACES = ("layer", "micro_batch")


def to_chrome_trace(timeline: Timeline) -> dict[str, Any]:
    """The trace as one JSON object: one thread per stream, one complete event per task.

    `ts` and `dur` are microseconds, rounded to whole nanoseconds so that consecutive tasks of a
    stream never overlap; events stand in order of time. `layer` and `micro_batch` are left out
    where they do not apply.

    >>> from schedules.timeline import COLUMNS
    >>> row = dict(zip(COLUMNS, (0, "load", "h2d", 3, -1, 1, 0.5, 0.75, 0.0, 0.0, 8e6)))
    >>> trace = to_chrome_trace(Timeline(pd.DataFrame([row]), ("gpu", "h2d"), "demo"))
    >>> event = trace["traceEvents"][-1]
    >>> event["name"], event["ph"], event["tid"], event["ts"], event["dur"], event["args"]["layer"]
    ('load', 'X', 2, 500000.0, 250000.0, 3)
    """
    threads = {stream: i + 1 for i, stream in enumerate(timeline.streams)}
    return {
        "traceEvents": [*_metadata(timeline.name, threads), *_events(timeline.frame, threads)],
        "displayTimeUnit": "ms",
        "otherData": {"name": timeline.name},
    }


def write_chrome_trace(timeline: Timeline, path: str | Path) -> None:
    """Write `to_chrome_trace(timeline)` as JSON. Raises `BadInput` if it cannot be written."""
    trace = to_chrome_trace(timeline)
    write_text(path, json.dumps(trace, separators=(",", ":"), allow_nan=False))


def _metadata(name: str, threads: dict[str, int]) -> Iterator[dict[str, Any]]:
    def about(kind: str, tid: int, **args: object) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": PROCESS, "tid": tid, "args": args}

    yield about("process_name", 0, name=name)
    for stream, tid in threads.items():
        yield about("thread_name", tid, name=stream)
        yield about("thread_sort_index", tid, sort_index=tid)


def _events(frame: pd.DataFrame, threads: dict[str, int]) -> Iterator[dict[str, Any]]:
    rows = frame.assign(
        tid=frame["stream"].map(threads),
        start_ns=(frame["start_s"] * 1e9).round().astype("int64"),
        end_ns=(frame["end_s"] * 1e9).round().astype("int64"),
    )
    rows = rows.sort_values(["start_ns", "tid", "task"], kind="stable")
    for row in rows.to_dict("records"):
        yield {
            "ph": "X",
            "name": row["op"],
            "cat": row["stream"],
            "pid": PROCESS,
            "tid": row["tid"],
            "ts": row["start_ns"] / 1000,
            "dur": (row["end_ns"] - row["start_ns"]) / 1000,
            "args": _arguments(row),
        }


def _arguments(row: dict[Any, Any]) -> dict[str, float]:
    args = {"task": row["task"], "step": row["step"]}
    args |= {key: row[key] for key in PLACES if row[key] >= 0}
    return args | {key: row[key] for key in AMOUNTS if math.isfinite(row[key])}
