"""The structure that Perfetto and chrome://tracing ask for."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.perfetto import to_chrome_trace, write_chrome_trace
from schedules.errors import BadInput
from schedules.timeline import Timeline


def tasks(timeline: Timeline) -> list[dict[str, Any]]:
    return [e for e in to_chrome_trace(timeline)["traceEvents"] if e["ph"] == "X"]


def metadata(timeline: Timeline) -> list[dict[str, Any]]:
    return [e for e in to_chrome_trace(timeline)["traceEvents"] if e["ph"] == "M"]


def test_only_metadata_and_complete_events(pipeline: Timeline) -> None:
    trace = to_chrome_trace(pipeline)
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X"}
    assert trace["otherData"] == {"name": "pipeline"}
    assert trace["displayTimeUnit"] in ("ms", "ns")  # the only two that the format allows


def test_required_fields_and_their_types(pipeline: Timeline) -> None:
    fields = {"ph": str, "name": str, "cat": str, "pid": int, "tid": int, "args": dict}
    for event in tasks(pipeline):
        assert {key: type(event[key]) for key in fields} == fields
        assert type(event["ts"]) is float
        assert type(event["dur"]) is float
        assert event["dur"] >= 0


def test_one_event_per_task(pipeline: Timeline) -> None:
    found = sorted(event["args"]["task"] for event in tasks(pipeline))
    assert found == pipeline.frame["task"].tolist()


def test_times_are_those_of_the_timeline_in_microseconds(pipeline: Timeline) -> None:
    events = {event["args"]["task"]: event for event in tasks(pipeline)}
    frame = pipeline.frame
    starts = [events[task]["ts"] for task in frame["task"]]
    ends = [events[task]["ts"] + events[task]["dur"] for task in frame["task"]]
    np.testing.assert_allclose(starts, frame["start_s"] * 1e6, atol=0.00051)
    np.testing.assert_allclose(ends, frame["end_s"] * 1e6, atol=0.00051)


def test_events_are_in_order_of_time(pipeline: Timeline) -> None:
    starts = [event["ts"] for event in tasks(pipeline)]
    assert starts == sorted(starts)


def test_tasks_of_a_thread_never_overlap(make: Callable[..., Timeline]) -> None:
    # back-to-back tasks whose bounds are no whole nanoseconds: rounding must keep them apart
    edges = np.cumsum(np.full(2000, 1e-3 / 3)) + 1 / 7
    rows = [("a", "gpu", 0, 0, 1, a, b) for a, b in pairwise(edges)]
    events = tasks(make(rows))
    ends = [round(1000 * event["ts"]) + round(1000 * event["dur"]) for event in events[:-1]]
    starts = [round(1000 * event["ts"]) for event in events[1:]]
    assert starts == ends


def test_one_named_thread_per_stream_in_the_order_of_lanes(pipeline: Timeline) -> None:
    about = metadata(pipeline)
    names = {e["tid"]: e["args"]["name"] for e in about if e["name"] == "thread_name"}
    order = {e["tid"]: e["args"]["sort_index"] for e in about if e["name"] == "thread_sort_index"}
    assert [names[tid] for tid in sorted(names, key=order.__getitem__)] == list(pipeline.streams)
    assert {event["tid"]: event["cat"] for event in tasks(pipeline)}.items() <= names.items()


def test_the_process_is_named_after_the_timeline(pipeline: Timeline) -> None:
    names = [e["args"]["name"] for e in metadata(pipeline) if e["name"] == "process_name"]
    assert names == ["pipeline"]
    assert len({event["pid"] for event in to_chrome_trace(pipeline)["traceEvents"]}) == 1


def test_arguments(make: Callable[..., Timeline]) -> None:
    row = ("experts", "gpu", 3, 5, 2, 0.0, 1.0, 1e12, 2e9, 0.0)
    (event,) = tasks(make([row]))
    assert event["args"] == {
        "task": 0,
        "step": 2,
        "layer": 3,
        "micro_batch": 5,
        "flops": 1e12,
        "bytes": 2e9,
        "link_bytes": 0.0,
    }


def test_what_does_not_apply_is_left_out(make: Callable[..., Timeline]) -> None:
    nan = float("nan")
    (event,) = tasks(make([("load", "h2d", -1, -1, 0, 0.0, 1.0, nan, nan, 8e6)]))
    assert event["args"] == {"task": 0, "step": 0, "link_bytes": 8e6}


def test_file_is_plain_json(pipeline: Timeline, tmp_path: Path) -> None:
    write_chrome_trace(pipeline, tmp_path / "trace.json")
    text = (tmp_path / "trace.json").read_text()
    assert "NaN" not in text
    assert json.loads(text) == to_chrome_trace(pipeline)


def test_missing_folder(pipeline: Timeline, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        write_chrome_trace(pipeline, tmp_path / "missing" / "trace.json")
