"""What `moelab calibrate` prints, writes and returns."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from moelab.calibration_folder import CalibrationFiles
from reports.calibration_page import write_calibration
from reports.calibration_table import check_table, fits_line, values_table
from sim.calibration.points import Point
from sim.calibration.preset import Calibrated
from sim.calibration.summary import summary


def report(
    files: CalibrationFiles, found: Calibrated, points: Sequence[Point] = ()
) -> dict[str, Any]:
    """Plain values: rates with their intervals, what was measured, warnings and provenance."""
    facts = None
    if files.facts.exists():
        facts = json.loads(files.facts.read_text(encoding="utf-8"))
    return {"preset": str(files.preset), **summary(found, points, facts)}


def written(files: CalibrationFiles, values: dict[str, Any]) -> list[RenderableType | str]:
    """A table of rates, the warnings, and where the files are."""
    warnings = [f"Warning: {warning}" for warning in values["warnings"]]
    return [
        values_table(values),
        fits_line(values),
        *warnings,
        f"Written: {files.preset.resolve()}",
    ]


def checked(found: dict[str, Any]) -> list[RenderableType | str]:
    """A table of the held-out runs, and what they come to."""
    return [
        check_table(found),
        f"Held-out runs: median error {found['median_abs_error']:.1%}, worst "
        f"{found['worst_abs_error']:.1%}; {found['pairs_in_order']} of {found['pairs']} pairs of "
        f"schedules in order; a run differs from itself by {found['noise_floor']:.1%} (median), "
        f"{found['worst_noise']:.1%} (worst)",
    ]


def write_page(values: dict[str, Any], page: Path | None) -> list[str]:
    """The page, where one was asked for."""
    if page is None:
        return []
    write_calibration(values, page, values.get("check"))
    return [f"Written: {page.resolve()}"]
