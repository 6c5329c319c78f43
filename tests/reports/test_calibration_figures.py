"""The charts of a calibration."""

import pytest

from reports.calibration_figures import (
    copies_figure,
    pairs_figure,
    residual_figure,
    steady_figure,
    threads_figure,
)
from tests.reports.calibrations import calibration

FOUND = calibration()


def test_residuals_by_operation() -> None:
    figure = residual_figure(FOUND["residuals"]["gpu"])
    assert [trace.name for trace in figure.data] == ["attention", "experts"]
    assert [(list(trace.x), list(trace.y)) for trace in figure.data] == [
        ([1e-3], [2.0]),
        ([0.5], [2.0]),
    ]
    assert figure.data[0].text[0] == "run: measured 1.00 ms, modelled 2.00 ms"
    assert len({trace.marker.color for trace in figure.data}) == 2


@pytest.mark.parametrize(("seconds", "parts"), [((1e-3, 0.05), True), ((1e-3, 0.5), False)])
def test_ticks_between_decades_where_there_are_few(seconds: tuple[float, ...], parts: bool) -> None:
    rows = [{"op": "a", "where": "run", "measured_s": s, "modelled_s": s} for s in seconds]
    labels = residual_figure(rows).layout.xaxis.ticktext
    assert "1 ms" in labels
    assert ("2 ms" in labels) is parts


def test_copies_are_in_order_of_size_and_lines_are_there_with_a_fit() -> None:
    measured, line, unfitted = copies_figure(FOUND["copies"]).data
    assert list(measured.x) == list(line.x) == [1e3, 1e6]
    assert list(measured.y) == pytest.approx([1e9, 1e9])
    assert list(line.y) == pytest.approx([1e6, 1e9])
    assert (measured.mode, line.mode, unfitted.mode) == ("markers", "lines", "markers")
    assert (line.showlegend, unfitted.name) == (False, "d2h")


def test_pairs() -> None:
    (bars,) = pairs_figure(FOUND["pairs"]).data
    assert list(bars.y) == ["h2d during d2h", "d2h during h2d"]
    assert list(bars.x) == [0.5, 1.0]
    assert bars.customdata[0] == "1.00 s alone, 2.00 s"


def test_threads_and_steadiness() -> None:
    (threads,) = threads_figure(FOUND["threads"]).data
    assert (list(threads.x), list(threads.y)) == ([1, 2], [1.0, 1.5])
    assert threads.text[1] == "2 threads: 3.00 Gflop/s"
    (steady,) = steady_figure(FOUND["steady"]).data
    assert (list(steady.x), list(steady.y)) == ([0.0, 2.0], [1.0, 1.0])
