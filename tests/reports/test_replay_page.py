"""Measured and simulated side by side, as table and as page."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reports.replay_page import Both, drawn, headline, middle_step, write_replays
from reports.replay_table import busy_table, times_table
from schedules.errors import BadInput
from schedules.timeline import Timeline


def replayed(name: str = "fast", batches: int = 1, run: str = "out") -> dict[str, Any]:
    """Measured in 7 s, simulated in 6."""
    return {
        "run": run,
        "schedule": name,
        "batches": batches,
        "policy": {"N": 8, "mu": 2},
        "measured": {"prefill_s": 2.0, "decode_s": 5.0, "makespan_s": 7.0},
        "simulated": {"prefill_s": 2.0, "decode_s": 4.0, "makespan_s": 6.0},
        "error": {"prefill_s": 0.0, "decode_s": -0.2, "makespan_s": -1 / 7},
        "busy_s": {"host": 0.0, "h2d": 4.0, "gpu": 2.5},
        "utilization": {
            "measured": {"host": 0.0, "h2d": 4 / 7, "gpu": 2.5 / 7},
            "simulated": {"host": 0.0, "h2d": 4 / 6, "gpu": 2.5 / 6},
        },
        "provenance": {
            "version": "0.1.0",
            "presets": {"gen_len": 6, "prompt_lengths": [1234, 4321], "model_spec": {"a": 1}},
        },
    }


def printed(table: object) -> list[list[str]]:
    out = StringIO()
    Console(file=out, width=100).print(table)
    return [line.split() for line in out.getvalue().splitlines()]


def test_the_table_has_a_row_for_each_phase() -> None:
    assert printed(times_table([replayed(), replayed("slow")])) == [
        ["schedule", "phase", "measured", "s", "simulated", "s", "error"],
        ["fast", "prefill", "2.00", "2.00", "+0.0", "%"],
        ["decode", "5.00", "4.00", "-20.0", "%"],
        ["makespan", "7.00", "6.00", "-14.3", "%"],
        ["slow", "prefill", "2.00", "2.00", "+0.0", "%"],
        ["decode", "5.00", "4.00", "-20.0", "%"],
        ["makespan", "7.00", "6.00", "-14.3", "%"],
    ]


def test_a_run_without_decode_steps_has_no_error_there() -> None:
    one = replayed() | {"error": {"prefill_s": 0.0, "decode_s": None, "makespan_s": 0.0}}
    assert printed(times_table([one]))[2][-1] == "–"


def test_streams_that_did_nothing_are_left_out() -> None:
    assert printed(busy_table([replayed()]))[1:] == [
        ["fast", "h2d", "4.00", "57", "%", "67", "%"],
        ["gpu", "2.50", "36", "%", "42", "%"],
    ]


def test_one_schedule_twice_is_told_apart_by_its_folders() -> None:
    both = [replayed(run="a"), replayed(run="b")]
    assert [row[0:2] for row in printed(times_table(both))[1::3]] == [
        ["fast", "(a)"],
        ["fast", "(b)"],
    ]
    assert headline(both).startswith("fast (a): measured 7.00 s, simulated 6.00 s (-14.3 %); fast")


def test_a_panel_begins_with_the_middle_step(pipeline: Timeline) -> None:
    """Steps begin at 2, 3, ..., 6 s: the middle one at 4 s."""
    assert middle_step(pipeline) == (4.0, 5.0)
    panels, windows, _ = drawn([Both(replayed(), pipeline, pipeline)])
    assert [panel.origin_s for panel in panels] == [4.0, 4.0]
    assert list(windows) == ["One step", "Two layers", "Whole run"]
    assert windows["One step"] == (0.0, 1.0)
    assert windows["Whole run"] == (-4.0, 3.0)


def test_steps_with_too_many_tasks_open_on_two_layers(make: Callable[..., Timeline]) -> None:
    rows = [
        ("work", "gpu", layer, i, 1, layer + i / 300, layer + (i + 1) / 300, 1.0)
        for layer in range(4)
        for i in range(300)
    ]
    panels, windows, _ = drawn([Both(replayed(), make(rows), make(rows))])
    assert next(iter(windows)) == "Two layers"
    assert panels[0].origin_s == pytest.approx(1.0)


def test_without_decode_steps_prefill_is_shown(make: Callable[..., Timeline]) -> None:
    assert middle_step(make([("prefill", "gpu", 0, 0, 0, 1.0, 3.0)])) == (1.0, 3.0)


def test_the_page(pipeline: Timeline, tmp_path: Path) -> None:
    runs = [Both(replayed("a<b"), pipeline, pipeline), Both(replayed("slow"), pipeline, pipeline)]
    write_replays(runs, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "a&lt;b: measured 7.00 s, simulated 6.00 s (-14.3 %); slow: measured" in page
    assert "which is 0 where the middle decode step begins. Drag" in page
    assert "gen_len=6" in page
    assert "prompt_lengths" not in page  # they would fill it
    assert page.count("<td") == 5 * (6 + 4) + 2 * 3


def test_a_page_of_several_batches_says_which_one_it_shows(
    pipeline: Timeline, tmp_path: Path
) -> None:
    write_replays([Both(replayed(batches=3), pipeline, pipeline)], tmp_path / "p.html")
    assert "Of several batches the first is shown." in (tmp_path / "p.html").read_text()


def test_failures_leave_nothing(
    pipeline: Timeline,
    make: Callable[..., Timeline],
    tmp_path: Path,
    files_in: Callable[[], list[str]],
) -> None:
    with pytest.raises(BadInput, match="at least one"):
        write_replays([], tmp_path / "p.html")
    with pytest.raises(BadInput, match="nothing to draw"):
        write_replays([Both(replayed(), make([]), pipeline)], tmp_path / "p.html")
    with pytest.raises(BadInput, match="does not exist"):
        write_replays([Both(replayed(), pipeline, pipeline)], tmp_path / "no" / "p.html")
    assert files_in() == []
