"""What each part of the physics is worth: errors on published figures with it and without."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sim.ablation import WHOLE, Ablation
from sim.accuracy import Checked, summary
from sim.published import PublishedRow
from sim.validate import check_row

CHANGED = 0.01
"""A row whose simulated value moves by more than this share depends on the part."""


def study(
    rows: Sequence[PublishedRow],
    ablations: Sequence[Ablation],
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Simulate every row as it is, then with each ablation; plain values, a mapping for each.

    The first is the simulator as it is. Each has `name`, `title`, `by_kind`, `pairwise_order`,
    `n_changed` (rows whose simulated value moves by more than 1 %), and of those rows the median
    absolute error of the simulator as it is and with the ablation, `whole_error` and
    `ablated_error` (None where no row changes). `progress` hears of each before it starts.
    """
    found = []
    whole: list[Checked] = []
    for ablation in (WHOLE, *ablations):
        if progress is not None:
            progress(ablation.name)
        checked = [check_row(row, ablation) for row in rows]
        whole = whole or checked
        found.append(compared(ablation, whole, checked))
    return found


def compared(
    ablation: Ablation, whole: Sequence[Checked], ablated: Sequence[Checked]
) -> dict[str, Any]:
    """The figures of one ablation, from the same rows with and without it."""
    pairs = [(a, b) for a, b in zip(whole, ablated, strict=True) if _differ(a, b)]
    figures = summary(ablated)
    return {
        "name": ablation.name,
        "title": ablation.title,
        "by_kind": figures["by_kind"],
        "pairwise_order": figures["pairwise_order"],
        "n_changed": len(pairs),
        "whole_error": _median([a for a, _ in pairs]),
        "ablated_error": _median([b for _, b in pairs]),
    }


def _differ(whole: Checked, ablated: Checked) -> bool:
    if whole.simulated is None or ablated.simulated is None:
        return whole.simulated is not ablated.simulated
    return abs(ablated.simulated / whole.simulated - 1) > CHANGED


def _median(checked: Sequence[Checked]) -> float | None:
    return float(np.median([c.abs_error for c in checked])) if checked else None
