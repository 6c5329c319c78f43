"""HOBBIT: experts that matter little to a token come in 4 bits, or not at all."""

import numpy as np
from numpy.typing import NDArray

from schedules.expert.hobbit_precision import (
    ACCURACY,
    HIGH_UP_TO,
    LOW_UP_TO,
    draw_scores,
    mistaken,
)
from schedules.expert.hobbit_stores import MixedPrecision, Wanted
from schedules.model import LayerSpec
from schedules.node import Slot
from schedules.task import Buffer, Task, Work


class HOBBIT(MixedPrecision):
    """Mixed-precision expert offloading (HOBBIT, arXiv 2411.01433, sections 3.2 to 3.4).

    An expert that is missing is scored by the gate weight that a token's better choices have: up to
    0.6 it comes as it is, up to 0.9 in 4 bits, and else it is skipped (3.2). The gates of the next
    `level` layers run on this layer's input; if all that the nearest of them names is there, the
    next one decides what is prefetched (3.3). A wrong prefetch cannot be cancelled and delays what
    comes after it. One cache for each precision, with common records of use (3.4).

    Simplified: an expert comes in the best precision that one of its tokens asks for. 4-bit experts
    are written out in the model's format before they are computed, where HOBBIT's kernels
    (llama.cpp) read them as they are. Assumed: drawn gate weights, see `draw_scores`; predictions
    are right to a stated share (`accuracy`), and otherwise random; as many 4-bit places as others.
    4-bit experts stay pageable where not all of them can be page-locked beside the others.
    """

    for_real = False
    name = "hobbit"
    title = "less important experts in 4 bits or skipped; stacked gates look ahead"
    paper = "HOBBIT, arXiv 2411.01433, sections 3.2 to 3.4"
    knobs = MixedPrecision.knobs | {"level", "accuracy"}

    def make_room(self) -> None:
        super().make_room()
        levels = range(self.node.policy.level)
        self.foreseen = [self.routed_buffer(f"foreseen[{i}]") for i in levels]

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        block = self.blocks.index(spec)
        own = self.ask(spec, tokens, self.routed)
        gates = self.stacked_gates(block, tokens)
        ids = self.answer(own)
        wanted = self.wanted(block, ids)
        held = self.load_missing(block, wanted)
        foreseen = [self.foresee(block, ahead, gate) for ahead, gate in gates]
        self.run(spec, tokens, ids, wanted, [self.routed, *held], after)
        running = [(block, expert) for expert in (*wanted.high, *wanted.low)]
        for ahead, named in foreseen:
            high, low = ([(ahead, expert) for expert in experts] for experts in named)
            came = self.prefetch(self.high, high, running)
            if self.prefetch(self.low, low, running) or came:
                break

    # -- 3.2: token-level dynamic expert loading ------------------------------------------------

    def wanted(self, block: int, ids: NDArray[np.int64]) -> Wanted:
        """What is there is used; what is missing, in the precision that its score asks for."""
        scores = self.scores(block, ids)
        best = {int(expert): scores[ids == expert].min() for expert in np.unique(ids)}
        high = [e for e in best if self.high.holds(block, e) or best[e] <= HIGH_UP_TO]
        rest = [e for e in best if e not in high]
        return Wanted(high, [e for e in rest if self.low.holds(block, e) or best[e] <= LOW_UP_TO])

    def scores(self, block: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Unimportance of each choice, drawn; the same for prediction and truth."""
        tokens, top_k = ids.shape
        return draw_scores(self.rng(block), (tokens, top_k))

    def rng(self, *numbers: int) -> np.random.Generator:
        """Random numbers of the routing's seed and this step."""
        return np.random.default_rng([self.node.work.routing.seed, self.node.step, *numbers])

    def load_missing(self, block: int, wanted: Wanted) -> list[Buffer]:
        """Copy what is missing; high precision first."""
        held: list[Buffer] = []
        for rule in self.rules:
            rule.layer = block  # also where nothing is asked of its cache
        for store, experts, high in ((self.high, wanted.high, True), (self.low, wanted.low, False)):
            store.judge(block, experts)
            assigned = store.request(block, experts, token=self.node.step + 1, high=high)
            held += self.bring(store, block, assigned)
        return held

    # -- 3.3: layer-level adaptive expert prefetching -------------------------------------------

    def stacked_gates(self, block: int, tokens: float) -> list[tuple[int, Task]]:
        """Let the gates of the next blocks run on this block's input."""
        ahead = self.blocks[block + 1 : block + 1 + self.node.policy.level]
        pairs = zip(ahead, self.foreseen, strict=False)
        gates = [self.ask(spec, tokens, routed, "stacked_gate") for spec, routed in pairs]
        return list(enumerate(gates, start=block + 1))

    def foresee(self, block: int, ahead: int, gate: Task) -> tuple[int, Wanted]:
        """What a gate says of a block ahead, not always rightly."""
        stated = self.node.policy.accuracy
        accuracy = ACCURACY[ahead - block - 1] if stated is None else stated
        rng = self.rng(ahead, ahead - block)
        ids = mistaken(rng, self.answer(gate), self.blocks[ahead].n_experts, accuracy)
        return ahead, self.wanted(ahead, ids)
