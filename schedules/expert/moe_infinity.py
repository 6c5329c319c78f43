"""MoE-Infinity: traces of past activations say which experts to prefetch and which to keep."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schedules.choices import token_counts
from schedules.expert.cache_infinity import MoEInfinity
from schedules.expert.cache_traces import ActivationTraces
from schedules.expert.foreseen import ForeseesExperts, Store
from schedules.model import LayerSpec
from schedules.node import Slot
from schedules.task import Work

TRACES = 32
"""Activation matrices that are kept; assumed."""


class MoEInfinityOffloading(ForeseesExperts):
    """A pass's activations so far are compared with those of past passes; the most similar ones
    say what later layers will take (MoE-Infinity, arXiv 2401.14361, version 3, sections 4.5 to
    4.7).

    When a block has run its gate, its own experts come first. Then follow, for the next `level`
    blocks, the experts of the prediction, by predicted activation times nearness, for each block
    at most as many as this one takes. The cache keeps what the prediction favours, early layers
    first (algorithm 1).

    Simplified: prefetches that have not begun give way to experts that are missing, and are sorted
    anew at every layer; here what is issued is copied, so no more is issued than for `level`
    blocks. The traces of past requests are those of this batch's own passes, so the first pass has
    none; the batch counts as one request. Experts lie in host memory, not on an SSD.
    """

    for_real = False
    name = "moe-infinity"
    title = "prefetches and cache follow the traces of past activations"
    paper = "MoE-Infinity, arXiv 2401.14361, version 3, sections 4.5 to 4.7, algorithm 1"
    knobs = ForeseesExperts.knobs | {"level"}

    def make_room(self) -> None:
        shape = len(self.blocks), max((s.n_experts for s in self.blocks), default=1)
        self.rule = MoEInfinity(max(1, shape[0]), shape[1])
        self.store = self.new_store(
            "", self.rule, max(map(self.expert_bytes, self.blocks), default=0)
        )
        self.traces = ActivationTraces(TRACES)
        self.current = np.zeros(shape)

    @property
    def stores(self) -> Sequence[Store]:
        return [self.store]

    def begin_pass(self) -> None:
        if self.current.any():
            self.traces.add(self.current)
        self.current = np.zeros_like(self.current)

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        block = self.blocks.index(spec)
        ids = self.answer(self.ask(spec, tokens, self.routed))
        counts = token_counts(ids, spec.n_experts)
        chosen = np.flatnonzero(counts).tolist()
        self.current[block] = counts
        predicted = self.traces.predict(self.current, block)
        self.rule.predict(predicted)
        self.store.judge(block, chosen)
        held = self.bring(self.store, block, self.store.request(block, chosen))
        self.run_experts(spec, tokens, counts, [self.routed, *held], after)
        if predicted is not None:
            likely = self.most_likely(predicted, block, len(chosen))
            self.prefetch(self.store, likely, [(block, expert) for expert in chosen])

    def most_likely(
        self, predicted: NDArray[np.float64], block: int, count: int
    ) -> list[tuple[int, int]]:
        """Block and expert of what to prefetch, the most likely first; of equals, the nearest."""
        found = []
        for ahead in range(block + 1, min(block + 1 + self.node.policy.level, len(predicted))):
            row = predicted[ahead]
            best = np.argsort(-row, kind="stable")[:count]
            found += [(-row[expert], ahead, int(expert)) for expert in best if row[expert] > 0]
        return [(ahead, expert) for _, ahead, expert in sorted(found)]
