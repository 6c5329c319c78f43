"""The page of a calibration."""

import re
from pathlib import Path

import pytest

from reports.calibration_page import write_calibration
from schedules.errors import BadInput
from tests.reports import test_browser
from tests.reports.calibrations import calibration, check

FIGURES = ("residuals-gpu", "copies", "pairs", "threads", "steady")


def test_the_page(tmp_path: Path) -> None:
    write_calibration(calibration(), tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "Calibration of lab&lt;1&gt;" in text
    assert "Median error of the fits: gpu 3.4 % (2 measurements)." in text
    assert "<li>The machine was unsteady &amp; slow.</li>" in text
    assert text.count("<td") == 4 * 5 + 2 * 2  # values, and the facts that are known
    assert "host.cores" in text
    assert [name for name in FIGURES if f'id="{name}"' in text] == list(FIGURES)
    assert 'id="residuals-links"' not in text  # no measurements
    assert "not fitted to" not in text


def test_with_held_out_runs(tmp_path: Path) -> None:
    write_calibration(calibration(), tmp_path / "p.html", check())
    text = (tmp_path / "p.html").read_text()
    assert "over 2 held-out runs: median 12 %, worst 20 %. The schedules rank as measured." in text
    assert "on&lt;demand" in text
    assert ">Error of makespan</th>" in text
    assert text.count("<td") == 4 * 5 + 2 * 2 + 2 * 9


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    nothing = {key: [] for key in ("warnings", "copies", "pairs", "threads", "steady")}
    found = calibration(**nothing, residuals={}, provenance={})
    write_calibration(found, tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text.partition("<script>")[0]) == ["Values"]
    assert 'class="figure"' not in text.partition("<script>")[0]


def test_nothing_is_written_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        write_calibration(calibration(), tmp_path / "no" / "p.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(test_browser.BROWSER is None, reason="needs chromium or google-chrome")
def test_a_browser_draws_all_its_figures(tmp_path: Path) -> None:
    write_calibration(calibration(), tmp_path / "p.html")
    document = test_browser.drawn(tmp_path / "p.html", tmp_path / "profile")
    assert len(re.findall(r'class="figure js-plotly-plot"', document)) == len(FIGURES)
