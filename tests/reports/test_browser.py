"""Pages in a real browser, where there is one: the script draws what the file holds."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reports.compare_page import write_comparison
from reports.timeline_page import write_timeline
from schedules.timeline import Timeline

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome"),
]


def drawn(page: Path, profile: Path) -> str:
    """The document after its script has run."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += [f"--user-data-dir={profile}", "--virtual-time-budget=10000", "--dump-dom"]
    command = [str(BROWSER), *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def bars(document: str) -> int:
    return len(re.findall(r'<g class="point">', document))


def in_view(pipeline: Timeline) -> Timeline:
    """What a page draws at first: two layers, and a quarter of the view on either side."""
    return pipeline.window(4.25 - 0.125, 4.75 + 0.125)


def test_timeline_page_draws_the_tasks_around_its_window(
    pipeline: Timeline, tmp_path: Path
) -> None:
    write_timeline(pipeline, tmp_path / "t.html")
    found = bars(drawn(tmp_path / "t.html", tmp_path / "profile"))
    assert len(in_view(pipeline)) <= found < len(pipeline.frame)


def test_beyond_its_limit_a_page_draws_shares(long_pipeline: Timeline, tmp_path: Path) -> None:
    write_timeline(long_pipeline, tmp_path / "t.html", limit=10)
    assert bars(drawn(tmp_path / "t.html", tmp_path / "profile")) > 10


def test_comparison_draws_all_its_figures(
    results: list[dict[str, Any]], pipeline: Timeline, tmp_path: Path
) -> None:
    timelines = {"fast": pipeline, "slow": pipeline}
    write_comparison(results, timelines, tmp_path / "c.html", "Two")
    document = drawn(tmp_path / "c.html", tmp_path / "profile")
    assert len(re.findall(r'class="figure js-plotly-plot"', document)) == 3
    assert "tokens/s" in document
    assert bars(document) >= 2 * len(in_view(pipeline))
