"""A run beside its simulation in numbers: errors, and what the difference is due to."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from schedules.graph import FloatArray, IntArray
from sim.compare_chain import divergence, late_on_chain
from sim.compare_parts import Operation, operations, worth
from sim.compare_run import BatchClocks, Clocks
from sim.times import Run

PARTS = ("prefill", "decode")
PHASES = ("prefill_s", "decode_s", "makespan_s")
CLOCKS = ("measured", "replayed", "simulated")

_COLUMNS = ("tasks", "measured_s", "simulated_s", "contention_s", "late_s", "worth_s")


class Gap(NamedTuple):
    """Measured - simulated, seconds, in parts that add up.

    Parameters
    ----------
    around: measured - replayed, before the first task and after the last one.
    between: measured - replayed, from the first start to the last end: tasks that waited for their
        workers, or for an issuing thread that was later than on average.
    operations, host, interaction: replayed - simulated; see `sim.compare_parts.Worth`.
    """

    around: float = 0.0
    between: float = 0.0
    operations: float = 0.0
    host: float = 0.0
    interaction: float = 0.0

    def __add__(self, other: "Gap") -> "Gap":  # type: ignore[override]
        return Gap(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True, eq=False)
class Part:
    """Prefill or decode of all batches.

    Parameters
    ----------
    seconds: of `CLOCKS`.
    rows: by operation and stream, the values of `_COLUMNS`.
    contention: seconds by which channels lengthen the simulation.
    """

    seconds: tuple[float, float, float]
    gap: Gap
    contention: float
    rows: Mapping[Operation, FloatArray]

    @property
    def total_s(self) -> float:
        """All that the difference is due to, without regard to signs; each operation by itself."""
        others = (self.gap.around, self.gap.between, self.gap.host, self.gap.interaction)
        own = [float(values[-1]) for values in self.rows.values()]
        return sum(map(abs, (*others, *own)))


@dataclass(frozen=True, eq=False)
class RunComparison:
    """All batches of a run, each on its clocks."""

    batches: Sequence[BatchClocks]

    @property
    def phases(self) -> Iterator[Clocks]:
        """Those of all batches."""
        return (phase for batch in self.batches for phase in batch.phases)

    @cached_property
    def parts(self) -> dict[str, Part]:
        """By name: prefill, decode."""
        return {
            name: _part(
                [batch.parts()[i] for batch in self.batches],
                sum(batch.measured_s[i] for batch in self.batches),
            )
            for i, name in enumerate(PARTS)
        }

    def seconds(self, clock: str) -> dict[str, float]:
        """Prefill, decode and makespan on one of `CLOCKS`."""
        prefill_s, decode_s = (part.seconds[CLOCKS.index(clock)] for part in self.parts.values())
        return dict(zip(PHASES, (prefill_s, decode_s, prefill_s + decode_s), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values; docs/compare-run.md says what they mean."""
        times = {clock: self.seconds(clock) for clock in CLOCKS}
        busy_s = self._busy_s()
        return {
            "batches": len(self.batches),
            "tasks": sum(len(phase.graph) for phase in self.phases),
            **times,
            "error": _errors(times["simulated"], times["measured"]),
            "replay_error": _errors(times["replayed"], times["measured"]),
            "busy_s": busy_s,
            "busy_error": _errors(busy_s["simulated"], busy_s["measured"]),
            "gap_s": self._gaps(),
            "operations": list(self._operations()),
            "divergences": list(self._divergences()),
        }

    def _busy_s(self) -> dict[str, dict[str, float]]:
        """By stream, those that worked on either clock."""
        streams = self.batches[0].phases[0].graph.streams
        sums = sum(np.stack(phase.busy_s) for phase in self.phases)
        both = dict(zip(("measured", "simulated"), np.asarray(sums).tolist(), strict=True))
        used = [any(pair) for pair in zip(*both.values(), strict=True)]
        return {
            clock: {s: v for s, v, worked in zip(streams, found, used, strict=True) if worked}
            for clock, found in both.items()
        }

    def _gaps(self) -> dict[str, dict[str, float]]:
        """The gap of prefill, of decode and of the makespan, by what it is due to."""
        known = {name: (part.gap, part.contention) for name, part in self.parts.items()}
        prefill, decode = known.values()
        known["makespan"] = prefill[0] + decode[0], prefill[1] + decode[1]
        return {
            name: {"total": sum(gap), **gap._asdict(), "contention": contention}
            for name, (gap, contention) in known.items()
        }

    def _operations(self) -> Iterator[dict[str, Any]]:
        """A row for each operation on each stream, those with the largest worth first."""
        whole = sum(part.total_s for part in self.parts.values())
        for name, part in self.parts.items():
            for (op, stream), values in sorted(part.rows.items(), key=_weight, reverse=True):
                row = dict(zip(_COLUMNS, values.tolist(), strict=True))
                yield {
                    "phase": name,
                    "op": op,
                    "stream": stream,
                    **row,
                    "tasks": int(row["tasks"]),
                    "error": error(row["simulated_s"], row["measured_s"]),
                    "share": abs(row["worth_s"]) / whole if whole else None,
                }

    def _divergences(self) -> Iterator[dict[str, Any]]:
        """Of every phase whose clocks part, in order."""
        for number, batch in enumerate(self.batches):
            for phase in batch.phases:
                found = divergence(phase)
                if found is not None:
                    yield {"batch": number, **found}


def error(simulated: float, measured: float) -> float | None:
    """simulated / measured - 1; None where nothing was measured."""
    return simulated / measured - 1 if measured else None


def _errors(
    simulated: Mapping[str, float], measured: Mapping[str, float]
) -> dict[str, float | None]:
    return {key: error(value, measured[key]) for key, value in simulated.items()}


def _weight(item: tuple[Operation, FloatArray]) -> tuple[float, float]:
    values = dict(zip(_COLUMNS, item[1].tolist(), strict=True))
    return abs(values["worth_s"]), values["measured_s"]


def _part(batches: Sequence[Sequence[Clocks]], measured_s: float) -> Part:
    """Add up the phases of prefill, or those of decode, of all batches."""
    phases = [phase for batch in batches for phase in batch]
    found = [worth(phase) for phase in phases]
    replayed_s = sum(phase.replayed.makespan_s for phase in phases)
    simulated_s = sum(phase.simulated.makespan_s for phase in phases)
    between = sum(phase.measured_span_s - _span_s(phase.replayed) for phase in phases)
    gap = Gap(
        around=measured_s - replayed_s - between,
        between=between,
        operations=sum(sum(one.operations.values()) for one in found),
        host=sum(one.host for one in found),
        interaction=sum(one.interaction for one in found),
    )
    rows: dict[Operation, FloatArray] = defaultdict(lambda: np.zeros(len(_COLUMNS)))
    for phase, one in zip(phases, found, strict=True):
        late_s = late_on_chain(phase.graph, phase.measured_start_s, phase.measured_end_s)
        for name, tasks in operations(phase).items():
            rows[name] += (*_amounts(phase, tasks, late_s), one.operations[name])
    contention = sum(one.contention for one in found)
    return Part((measured_s, replayed_s, simulated_s), gap, contention, dict(rows))


def _amounts(phase: Clocks, tasks: IntArray, late_s: FloatArray) -> tuple[float, ...]:
    """The `_COLUMNS` of some tasks, but for the last."""
    own_s, priced_s, alone_s, chosen_s = (
        float(seconds[tasks].sum())
        for seconds in (phase.own.task_s, phase.priced.task_s, phase.alone_s, late_s)
    )
    return len(tasks), own_s, priced_s, priced_s - alone_s, chosen_s


def _span_s(run: Run) -> float:
    """From the first start to the last end."""
    return float(run.end_s.max() - run.start_s.min()) if len(run.end_s) else 0.0
