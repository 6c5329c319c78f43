"""What a simulated generation moves: bytes by operation, exposed copies, latency of MoE blocks."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from schedules.movement import COMPUTES, COPIES, exposed_s, moe_block_s, moved_bytes
from sim.decoding import kinds
from sim.generation import Generation, Phase

SAMPLED_STEPS = 32  # of a generation whose steps differ
SAMPLED_ALIKE = 5  # of one whose steps differ in amounts alone


class Movement:
    """Prefill, and decode steps of which some stand for all.

    Where the steps of a schedule differ (experts that a gate names), up to `SAMPLED_STEPS` of them
    stand for all. Elsewhere bytes are affine in the step, so that two steps give them exactly;
    exposed time is interpolated between `SAMPLED_ALIKE` steps.
    """

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        n = generation.steps
        count = min(n, SAMPLED_ALIKE if generation.alike else SAMPLED_STEPS)
        self.steps = sorted({round(s) for s in np.linspace(1, n, count)}) if n else []

    @cached_property
    def phases(self) -> list[Phase]:
        """The sampled decode steps."""
        return [self.generation.step(step) for step in self.steps]

    def total(self, of: Callable[[Phase], float]) -> float:
        """Prefill and all decode steps."""
        decode = 0.0
        if self.steps:
            every = np.arange(1, self.generation.steps + 1)
            decode = float(np.interp(every, self.steps, [of(p) for p in self.phases]).sum())
        return of(self.generation.prefill) + decode

    @cached_property
    def moved_bytes(self) -> dict[str, float]:
        """Bytes moved over links by operation, in the whole generation; largest first."""
        phases = [self.generation.prefill, *self.phases]
        by_phase = {id(phase): _moved_bytes(phase) for phase in phases}
        ops = dict.fromkeys(op for found in by_phase.values() for op in found)
        sums = {op: self.total(lambda p, op=op: by_phase[id(p)].get(op, 0.0)) for op in ops}  # type: ignore[misc]
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    @cached_property
    def exposed_transfer_s(self) -> float:
        """Seconds of the generation in which something is copied and nothing is computed."""
        return self.total(_exposed_s)

    @cached_property
    def moe_block_s(self) -> float | None:
        """Mean latency of a decoder layer with experts, over the sampled decode steps.

        None without decode steps or experts; see `schedules.movement.moe_block_s`.
        """
        layers = self.generation.schedule.node.model.decoder_layers
        moe = [spec.index for spec in layers if spec.is_moe]
        phases = self.phases
        if self.generation.alike and phases:
            phases = [self.generation.step(max(1, self.generation.steps // 2))]
        if not phases:
            return None
        rows = {
            "step": np.concatenate([phase.graph.step for phase in phases]),
            "layer": np.concatenate([phase.graph.layer for phase in phases]),
            "start_s": np.concatenate([phase.run.start_s for phase in phases]),
            "end_s": np.concatenate([phase.run.end_s for phase in phases]),
        }
        return moe_block_s(rows, moe)


def _moved_bytes(phase: Phase) -> dict[str, float]:
    """Bytes moved over links by operation; tasks of the same work are counted, not listed."""
    graph = phase.graph
    tasks, kind = kinds(graph.op, graph.work)
    each = [graph.works[work].total_link_bytes for work in graph.work[tasks].tolist()]
    ops = [graph.ops[op] for op in graph.op[tasks].tolist()]
    return moved_bytes({"op": ops, "link_bytes": np.bincount(kind) * np.array(each)})


def _exposed_s(phase: Phase) -> float:
    """Seconds of a phase in which something is copied and nothing is computed."""
    graph, run = phase.graph, phase.run
    copies, computes = (
        np.array([name.startswith(prefixes) for name in graph.streams])[graph.stream]
        for prefixes in (COPIES, COMPUTES)
    )
    return exposed_s(run.start_s, run.end_s, copies, computes)
