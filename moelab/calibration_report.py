"""What `moelab calibrate` prints and returns."""

from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from moelab.calibration_folder import CalibrationFiles
from sim.calibration.preset import Calibrated


def report(files: CalibrationFiles, found: Calibrated) -> dict[str, Any]:
    """Plain values: the costs with their intervals, and how closely they meet the measurements."""
    return {
        "preset": str(files.preset),
        "fits": {
            what: {
                "measurements": len(fit.errors),
                "median_abs_error": fit.median_error,
                "overlaps": fit.overlaps,
                "costs": {
                    name: {"value": float(c.value), "low": float(c.low), "high": float(c.high)}
                    for name, c in fit.costs.items()
                },
            }
            for what, fit in found.fits.items()
        },
        "warnings": list(found.warnings),
    }


def written(
    files: CalibrationFiles, values: dict[str, Any], page: Path | None
) -> list[RenderableType | str]:
    """A table of rates, the warnings, and where the files are."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("fitted", "cost", "per second", "95 % from", "to"):
        table.add_column(name, justify="left" if name in ("fitted", "cost") else "right")
    for what, fit in values["fits"].items():
        for name, cost in fit["costs"].items():
            numbers = [1 / max(cost[k], 1e-30) for k in ("value", "high", "low")]
            table.add_row(what, name, *(f"{n:.3g}" if n < 1e29 else "-" for n in numbers))
    errors = ", ".join(
        f"{what} {100 * fit['median_abs_error']:.1f} % of {fit['measurements']}"
        for what, fit in values["fits"].items()
    )
    lines = [f"Median error of the fits: {errors} measurements"]
    lines += [f"Warning: {warning}" for warning in values["warnings"]]
    return [table, *lines, f"Written: {files.preset.resolve()}"]
