"""The measured result: the keys of a simulated one, and what only a measurement knows.

With n_b sequences of batch b, of each of which it computed c_b tokens (the generation length,
unless all sequences ended before), in T_b seconds of prefill and decode steps:

* `throughput_tok_s` = sum n_b c_b / sum T_b, so N x generation length / (prefill + decode) for one
  batch that does not end early; the time to open a session (loading weights) is not in it;
* `prefill_s`, `decode_s`, `makespan_s`, `busy_s` and `tasks` are sums over the batches;
* `ttft_s` is the mean over sequences of their batch's prefill, `tpot_s` the mean decode step;
* `lower_bound_s` is the busy time of the busiest stream;
* memory is the most of any batch; bytes for each token are over the n_b c_b of all.

Batches whose measurements are lost (the run was interrupted between the last token and writing
them) count nowhere. Where nothing was measured, times and rates are null.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from runtime.journal import Finished
from schedules.errors import BadInput
from schedules.result_keys import KEYS, MEASURED


@dataclass(frozen=True)
class BatchRecord:
    """Measurements of one batch.

    Parameters
    ----------
    number, first, size: as of its `Batch`.
    positions: tokens that it computed of each sequence.
    setup_s, prefill_s: opening the session; prefill.
    step_s: each decode step.
    busy_s: by stream, in the order of lanes.
    tasks: how many ran.
    issuing_s: what issuing them took the host; it is in `busy_s` too.
    peak_bytes, predicted_bytes, capacity_bytes: by pool; measured, as the schedule counts, allowed.
    moved_bytes: over links, by operation. exposed_s: in which something was copied and nothing
        computed. moe_block_s: mean latency of a decoder layer with experts. facts: the schedule's.
    """

    number: int
    first: int
    size: int
    positions: int
    setup_s: float
    prefill_s: float
    step_s: tuple[float, ...]
    busy_s: Mapping[str, float]
    tasks: int
    peak_bytes: Mapping[str, int]
    predicted_bytes: Mapping[str, int]
    capacity_bytes: Mapping[str, int]
    issuing_s: float = 0.0
    moved_bytes: Mapping[str, float] = field(default_factory=dict)
    exposed_s: float = 0.0
    moe_block_s: float | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def decode_s(self) -> float:
        """All decode steps."""
        return sum(self.step_s)

    @property
    def makespan_s(self) -> float:
        """Prefill and all decode steps."""
        return self.prefill_s + self.decode_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain values; raises `BadInput` for other keys."""
        if set(values) != {field.name for field in fields(cls)}:
            raise BadInput("not a record of a batch")
        return cls(**(dict(values) | {"step_s": tuple(values["step_s"])}))


@dataclass(frozen=True)
class Asked:
    """What was asked, by name: `hardware` is the device's name, `policy` as for the whole run."""

    schedule: str
    model: str
    hardware: str
    workload: str
    policy: Mapping[str, Any]


def measured_result(
    asked: Asked,
    records: Sequence[BatchRecord],
    finished: Iterable[Finished],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The result as plain values: `KEYS` in their order, then `MEASURED`."""
    values = (
        asdict(asked) | {"feasible": True} | _times(records) | _streams(records) | _memory(records)
    )
    values["tasks"] = sum(r.tasks for r in records)
    values |= _movement(records)
    values["provenance"] = dict(provenance)
    return {key: values[key] for key in KEYS} | {MEASURED: _measured(records, list(finished))}


def _times(records: Sequence[BatchRecord]) -> dict[str, Any]:
    sequences = sum(r.size for r in records)
    makespan_s = sum(r.makespan_s for r in records)
    steps = [s for r in records for s in r.step_s]
    tokens = sum(r.size * r.positions for r in records)
    first_s = sum(r.size * r.prefill_s for r in records)
    return {
        "throughput_tok_s": _ratio(tokens, makespan_s),
        "prefill_s": sum(r.prefill_s for r in records) if records else None,
        "decode_s": sum(steps) if records else None,
        "makespan_s": makespan_s if records else None,
        "ttft_s": _ratio(first_s, sequences),
        "tpot_s": _ratio(sum(steps), len(steps)),
    }


def _streams(records: Sequence[BatchRecord]) -> dict[str, Any]:
    makespan_s = sum(r.makespan_s for r in records)
    names = dict.fromkeys(name for r in records for name in r.busy_s)
    busy_s = {name: sum(r.busy_s.get(name, 0.0) for r in records) for name in names}
    bound_s = max(busy_s.values(), default=None)
    return {
        "utilization": {name: _ratio(busy, makespan_s) for name, busy in busy_s.items()},
        "busy_s": busy_s,
        "idle_s": {name: makespan_s - busy for name, busy in busy_s.items()},
        "lower_bound_s": bound_s,
        "bound_ratio": _ratio(makespan_s, bound_s or 0.0),
    }


def _movement(records: Sequence[BatchRecord]) -> dict[str, Any]:
    """Of all batches; latencies are weighed by decode steps, facts are means over the batches."""
    tokens = sum(r.size * r.positions for r in records)
    ops = dict.fromkeys(op for r in records for op in r.moved_bytes)
    timed = [(r.moe_block_s, len(r.step_s)) for r in records if r.moe_block_s is not None]
    steps = sum(n for _, n in timed)
    block_s = sum(s * n for s, n in timed) / steps if steps else None
    facts = dict.fromkeys(name for r in records for name in r.facts)
    return {
        "moved_bytes_per_token": {
            op: _ratio(sum(r.moved_bytes.get(op, 0.0) for r in records), tokens) for op in ops
        },
        "exposed_transfer_s": sum(r.exposed_s for r in records) if records else None,
        "moe_block_ms": None if block_s is None else block_s * 1e3,
        "facts": {
            name: sum(r.facts.get(name, 0.0) for r in records) / len(records) for name in facts
        },
    }


def _memory(records: Sequence[BatchRecord]) -> dict[str, Any]:
    return {
        "peak_memory_bytes": _most([r.peak_bytes for r in records]),
        "capacity_bytes": _most([r.capacity_bytes for r in records]),
    }


def _measured(records: Sequence[BatchRecord], finished: Sequence[Finished]) -> dict[str, Any]:
    """Everything beside `KEYS`. `generated_tokens` end with the end-of-sequence token."""
    kept = {s.index: len(s.token_ids) for s in finished}
    in_records = sum(kept.get(i, 0) for r in records for i in range(r.first, r.first + r.size))
    return {
        "sequences": len(kept),
        "generated_tokens": sum(kept.values()),
        "stopped_sequences": sum(s.finish == "stop" for s in finished),
        "measured_sequences": sum(r.size for r in records),
        "computed_tokens": sum(r.size * r.positions for r in records),
        "generated_tok_s": _ratio(in_records, sum(r.makespan_s for r in records)),
        "setup_s": sum(r.setup_s for r in records),
        "issue_s_per_task": _ratio(
            sum(r.issuing_s for r in records), sum(r.tasks for r in records)
        ),
        "predicted_peak_memory_bytes": _most([r.predicted_bytes for r in records]),
        "batches": [
            {
                "first": r.first,
                "sequences": r.size,
                "computed_tokens": r.size * r.positions,
                "setup_s": r.setup_s,
                "prefill_s": r.prefill_s,
                "decode_s": r.decode_s,
            }
            for r in records
        ],
    }


def _most(amounts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for by_name in amounts for name in by_name)
    return {name: max(a.get(name, 0) for a in amounts) for name in names}


def _ratio(amount: float, by: float) -> float | None:
    return amount / by if by else None
