"""How far simulated figures are from published ones, and whether their order is right."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from sim.published import PublishedRow

MISSING = 1.0  # a row that cannot be simulated counts as an absolute error of 100 %

KINDS: Mapping[str, str] = {
    "throughput_tok_s": "throughput",
    "moe_block_ms": "latency",
    "op_s:kv_transfer": "latency",
    "op_s:cpu_attention": "latency",
    "op_s:moe_ffn": "latency",
    "peak_gpu_gb": "memory",
}
"""What each metric is: throughput, a latency (of blocks and of single operations), or memory."""


@dataclass(frozen=True)
class Checked:
    """One published row and what the simulator says of it."""

    row: PublishedRow
    simulated: float | None
    reason: str | None = None

    @property
    def error(self) -> float | None:
        """Simulated / published - 1."""
        return None if self.simulated is None else self.simulated / self.row.value - 1

    @property
    def abs_error(self) -> float:
        """Absolute error; `MISSING` for a row that could not be simulated."""
        return MISSING if self.error is None else abs(self.error)

    @property
    def kind(self) -> str:
        """`throughput`, `latency`, `memory`, or `unknown` for a metric that is none."""
        return KINDS.get(self.row.metric, "unknown")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.row.id,
            "source": self.row.source,
            "metric": self.row.metric,
            "published": self.row.value,
            "simulated": self.simulated,
            "error": self.error,
            "reason": self.reason,
        }


def summary(checked: Sequence[Checked]) -> dict[str, Any]:
    """Errors over all rows, by kind, by source, and by metric within each source."""
    by_source = {}
    for source, members in _groups(checked, lambda c: c.row.source).items():
        metrics = dict(sorted(_groups(members, lambda c: c.row.metric).items()))
        by_metric = {metric: errors(found) for metric, found in metrics.items()}
        by_source[source] = errors(members) | {"by_metric": by_metric}
    kinds = dict(sorted(_groups(checked, lambda c: c.kind).items()))
    by_kind = {kind: errors(members) for kind, members in kinds.items()}
    return errors(checked) | {"by_kind": by_kind, "by_source": by_source}


def errors(checked: Sequence[Checked]) -> dict[str, Any]:
    """How many, how many could be simulated, median and 90th percentile of the error, order."""
    found = [c.abs_error for c in checked]
    return {
        "n": len(checked),
        "n_simulated": sum(c.simulated is not None for c in checked),
        "median_abs_error": float(np.median(found)) if found else None,
        "p90_abs_error": float(np.percentile(found, 90)) if found else None,
        "pairwise_order": pairwise_order(checked),
    }


def pairwise_order(checked: Sequence[Checked]) -> float | None:
    """Share of pairs within a cell whose order is right; None when there are no pairs."""
    right = [
        a.simulated is not None
        and b.simulated is not None
        and (a.simulated - b.simulated) * (a.row.value - b.row.value) > 0
        for a, b in combinations(checked, 2)
        if a.row.cell == b.row.cell and a.row.value != b.row.value
    ]
    return float(np.mean(right)) if right else None


def _groups(
    checked: Sequence[Checked], key: Callable[[Checked], Hashable]
) -> dict[Any, list[Checked]]:
    groups: dict[Any, list[Checked]] = {}
    for c in checked:
        groups.setdefault(key(c), []).append(c)
    return groups
