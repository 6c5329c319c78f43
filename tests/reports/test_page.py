"""The frame of all pages, and the data that its script reads."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from reports import bars, lanes
from reports.lanes import make_panel
from reports.page import _frame, document, pack, still, without_tasks, zoomable
from reports.timeline_figure import stacked_figure
from schedules.timeline import Timeline


def unpack(value: dict[str, str]) -> list[float]:
    return np.frombuffer(base64.b64decode(value["data"]), dtype=f"<{value['type']}").tolist()


def data_of(fragment: str) -> Any:
    (text,) = re.findall(r"<script[^>]*data-figure[^>]*>(.*)</script>", fragment)
    return json.loads(text)


def zoomable_data(timeline: Timeline, limit: int) -> Any:
    panel = make_panel(timeline, (20.0, 21.0), limit, origin_s=20.0)
    colours = dict.fromkeys(timeline.frame["op"], "#000000")
    figure = stacked_figure([without_tasks(panel)], (0.0, 1.0), {}, colours)
    return data_of(zoomable("lanes", figure, [panel]))


def test_document_holds_plotly_once_and_asks_for_nothing() -> None:
    page = document("A & B", "<p>body</p>")
    assert page.count("plotly.js v") == 1
    assert "<title>A &amp; B</title>" in page
    assert "<p>body</p>" in page
    assert not re.findall(
        r"<(?:script|img|iframe)[^>]*\ssrc=|<link\b|@import", page.split("plotly.js v")[0]
    )
    assert "default-src 'none'" in page


def test_document_does_not_fill_in_what_the_body_says() -> None:
    assert "<p>{{plotly}}</p>" in document("t", "<p>{{plotly}}</p>")


def test_data_cannot_end_its_script() -> None:
    fragment = still("f", go.Figure(layout={"title": {"text": "</script><b>"}, "height": 100}))
    assert fragment.count("</script>") == 1
    assert data_of(fragment)["figure"]["layout"]["title"]["text"] == "</script><b>"


def test_slot_keeps_the_height_of_the_figure() -> None:
    assert 'id="f" style="height:123px"' in still("f", go.Figure(layout={"height": 123}))


@pytest.mark.parametrize("kind", ["f8", "f4", "i4", "u4"])
def test_pack(kind: str) -> None:
    assert unpack(pack(pd.Series([0, 1, 70_000]), kind)) == [0, 1, 70_000]


def test_panel_data_holds_every_task(long_pipeline: Timeline) -> None:
    (panel,) = zoomable_data(long_pipeline, 10_000)["panels"]
    starts = sorted(s for item in panel["series"] for s in unpack(item["tasks"]["start"]))
    assert starts == sorted(long_pipeline.frame["start_s"])
    assert panel["origin"] == 20.0
    assert panel["whole"] == panel["detail"] == [0.0, 42.0]
    assert [item["coarse"] for item in panel["series"]] == [{}] * 4


def test_beyond_the_limit_shares_stand_for_all_tasks(long_pipeline: Timeline) -> None:
    (panel,) = zoomable_data(long_pipeline, 300)["panels"]
    assert 0 < panel["detail"][0] < 20.0 < panel["detail"][1] < 42.0
    counts = [unpack(item["coarse"]["count"]) for item in panel["series"]]
    assert sum(map(sum, counts)) == len(long_pipeline.frame)
    busy = [
        np.dot(unpack(item["coarse"]["share"]), unpack(item["coarse"]["length"]))
        for item in panel["series"]
    ]
    frame = long_pipeline.frame
    assert sum(busy) == pytest.approx((frame["end_s"] - frame["start_s"]).sum(), rel=1e-3)


def test_traces_and_series_stand_in_the_same_order(long_pipeline: Timeline) -> None:
    data = zoomable_data(long_pipeline, 10_000)
    traces = data["figure"]["data"]
    for i, item in enumerate(data["panels"][0]["series"]):
        assert "customdata[10]" in traces[2 * i]["hovertemplate"] or item["lane"] == 0
        assert "tasks<extra>" in traces[2 * i + 1]["hovertemplate"]
        assert traces[2 * i]["name"] == traces[2 * i + 1]["name"]
    assert all(trace["x"] == [None] for trace in traces[2 * len(data["panels"][0]["series"]) :])


def script() -> str:
    return _frame()


def test_script_fills_the_hover_columns_in_the_same_order() -> None:
    (text,) = re.findall(r"trace\.customdata = found\.map\(i => \[(.*?)\]\);", script(), re.DOTALL)
    found = re.sub(r"\s+", " ", text)

    def term(name: str) -> str:
        if name.endswith("_bytes_per_s") or name in ("bytes_per_s", "flops_per_s"):
            return f"b.{name.removesuffix('_per_s')}[i] / b.length[i]"
        return f"b.{name.removesuffix('_s')}[i]"

    assert found == ", ".join(term(name) for name in lanes.HOVER)


@pytest.mark.parametrize(("name", "value"), [("BAR", bars.BAR), ("LABEL", lanes.LABEL)])
def test_script_and_figure_have_the_same_constants(name: str, value: float) -> None:
    (text,) = re.findall(rf"const {name} = ([\d.]+);", script())
    assert float(text) == value


def test_without_tasks_leaves_only_shares(
    long_pipeline: Timeline, make: Callable[..., Timeline]
) -> None:
    panel = without_tasks(make_panel(long_pipeline, (20.0, 21.0), 10_000))
    colours = dict.fromkeys(long_pipeline.frame["op"], "#000000")
    found = lanes.traces(panel, "y", colours, 1.0)
    assert [len(trace.x) for trace in found[::2]] == [0, 0, 0, 0]
    assert all(len(trace.x) > 0 for trace in found[1::2])
