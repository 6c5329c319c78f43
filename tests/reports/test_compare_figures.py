"""The bar charts of a comparison."""

from typing import Any

import pytest

from reports.compare_figures import BEST, BUSY, busy_figure, throughput_figure


def test_throughput_bars_and_bounds(results: list[dict[str, Any]]) -> None:
    speed, bound = throughput_figure(results).data
    assert list(speed.y) == list(bound.y) == ["fast", "slow"]
    assert list(speed.x) == [50.0, 20.0]
    assert list(bound.x) == pytest.approx([62.5, 25.0])
    assert speed.marker.color[0] == BEST


def test_throughput_has_room_for_the_bound_and_its_label(results: list[dict[str, Any]]) -> None:
    figure = throughput_figure(results)
    assert figure.layout.xaxis.range[1] > 62.5
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert texts == ["<b>50.0</b> of 62.5 tokens/s", "<b>20.0</b> of 25.0 tokens/s"]


def test_busy_and_idle_make_the_whole(results: list[dict[str, Any]]) -> None:
    figure = busy_figure(results)
    for busy, idle in zip(figure.data[::2], figure.data[1::2], strict=True):
        assert [b + i for b, i in zip(busy.x, idle.x, strict=True)] == pytest.approx([1.0] * 2)


def test_only_streams_that_someone_uses(results: list[dict[str, Any]]) -> None:
    assert {tuple(trace.y) for trace in busy_figure(results).data} == {("h2d", "gpu")}


def test_the_busiest_stream_stands_out(results: list[dict[str, Any]]) -> None:
    colours = [trace.marker.color for trace in busy_figure(results).data[::2]]
    assert colours == [(BEST, BUSY), (BEST, BUSY)]


def test_narrow_bars_carry_their_number_outside(results: list[dict[str, Any]]) -> None:
    busy, idle = busy_figure(results).data[2:4]  # slow: h2d 90 %, gpu 10 %
    assert list(busy.text) == ["90 %", ""]
    assert list(idle.text) == ["", "10 %"]


def test_names_are_shown_as_they_are(results: list[dict[str, Any]]) -> None:
    results[1]["schedule"] = "<b>x"
    assert throughput_figure(results).data[0].y[0] == "&lt;b&gt;x"
    assert busy_figure(results).layout.annotations[0].text == "<b>&lt;b&gt;x</b>"
