"""The page of a compared run."""

import re
from pathlib import Path

import pytest

from reports.compare_run_page import write_comparison
from schedules.errors import BadInput
from schedules.timeline import Timeline
from tests.reports import test_browser
from tests.reports.compared_runs import compared, timelines


def page(tmp_path: Path, **kwargs) -> str:
    write_comparison(compared(**kwargs), *timelines(), tmp_path / "p.html")
    return (tmp_path / "p.html").read_text()


def test_the_page(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert text.startswith("<!doctype html>")
    assert "double&lt;buffer on box: measured 25.0 s, simulated 16.0 s (-36.0 %)." in text
    assert "Replaced in box: h2d at 0.5 GB/s, as the run held its link." in text
    assert text.count("<td") == 3 * 5 + 6 * 4 + 4 * 10 + 2 * 4 + 3  # and the provenance's row
    assert "The axis begins at 13.8 s." in text
    assert [f'id="{name}"' in text for name in ("gap", "lanes", "tasks")] == [True] * 3
    assert "gen_len=2" in text
    assert "prompt_lengths" not in text  # they would fill it
    assert "Of several batches" not in text


def test_several_batches(tmp_path: Path) -> None:
    assert "Of several batches the first is shown." in page(tmp_path, batches=2)


def test_an_axis_from_zero_is_not_mentioned(tmp_path: Path) -> None:
    found = compared()
    found["operations"][0]["worth_s"] = 60.0
    found["gap_s"]["makespan"]["operations"] = 63.0
    write_comparison(found, *timelines(), tmp_path / "p.html")
    assert "The axis begins" not in (tmp_path / "p.html").read_text()


def test_nothing_is_written_for_timelines_without_tasks(tmp_path: Path) -> None:
    empty = [Timeline(timeline.frame[:0], timeline.streams) for timeline in timelines()]
    with pytest.raises(BadInput, match="nothing to draw"):
        write_comparison(compared(), *empty, tmp_path / "p.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(test_browser.BROWSER is None, reason="needs chromium or google-chrome")
def test_a_browser_draws_all_its_figures(tmp_path: Path) -> None:
    page(tmp_path)
    document = test_browser.drawn(tmp_path / "p.html", tmp_path / "profile")
    assert len(re.findall(r'class="figure js-plotly-plot"', document)) == 3
    assert test_browser.bars(document) >= 12  # the step in view
