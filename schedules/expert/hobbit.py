"""HOBBIT: experts that matter little to a token come in 4 bits, or not at all."""

import numpy as np
from numpy.typing import NDArray

from schedules.expert.hobbit_precision import (
    ACCURACY,
    HIGH_UP_TO,
    LOW_UP_TO,
    Weights,
    draw_scores,
    foreseen_rightly,
    mistaken,
    unimportance,
)
from schedules.expert.hobbit_stores import MixedPrecision, Wanted
from schedules.model import LayerSpec
from schedules.node import Slot
from schedules.task import Buffer, Task, Work

Ids = NDArray[np.int64]


class HOBBIT(MixedPrecision):
    """Mixed-precision expert offloading (HOBBIT, arXiv 2411.01433, sections 3.2 to 3.4).

    An expert that is missing is scored by the gate weight that a token's better choices have: up to
    0.6 it comes as it is, up to 0.9 in 4 bits, and else it is skipped (3.2). The gates of the next
    `level` layers run on this layer's input; if all that the nearest of them names is there, the
    next one decides what is prefetched (3.3). A wrong prefetch cannot be cancelled and delays what
    comes after it. One cache for each precision, with common records of use (3.4).

    Simplified: an expert comes in the best precision that one of its tokens asks for. 4-bit experts
    are written out in the model's format before they are computed, where HOBBIT's kernels
    (llama.cpp) read them as they are. Assumed: as many 4-bit places as others; the weights of a
    token's other choices stay as they are where one is skipped. In the simulator gate weights are
    drawn, see `draw_scores`, and predictions are right to a stated share (`accuracy`), otherwise
    random; the runtime has the gates' own. 4-bit experts stay pageable where not all of them can be
    page-locked beside the others.
    """

    for_real = True
    change = "mixed-precision"
    decides = frozenset({"experts", "skip"})
    name = "hobbit"
    title = "less important experts in 4 bits or skipped; stacked gates look ahead"
    paper = "HOBBIT, arXiv 2411.01433, sections 3.2 to 3.4"
    knobs = MixedPrecision.knobs | {"level", "accuracy"}

    def make_room(self) -> None:
        super().make_room()
        levels = range(self.node.policy.level)
        self.foreseen = [self.routed_buffer(f"foreseen[{i}]") for i in levels]
        self.expected: dict[tuple[int, int], Ids] = {}  # by block, and from how far before it
        self.guesses, self.right = ([0] * len(levels) for _ in range(2))  # choices, by distance

    def begin_pass(self) -> None:
        self.expected.clear()

    def facts(self) -> dict[str, float]:
        """Beside those of all: the share of a gate's choices that stacked gates named before it, by
        how many blocks they looked ahead."""
        return super().facts() | {
            f"foreseen_share_{i + 1}": self.right[i] / self.guesses[i]
            for i in range(self.node.policy.level)
            if self.guesses[i]
        }

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        block = self.blocks.index(spec)
        own = self.ask(spec, tokens, self.routed, "scored_gate")
        gates = self.stacked_gates(block, tokens)
        ids = self.answer(own)
        self.judge_gates(block, ids)
        wanted = self.wanted(block, ids, self.node.issuer.gate_weights(own))
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

    def wanted(self, block: int, ids: Ids, weights: Weights | None) -> Wanted:
        """What is there is used; what is missing, in the precision that its score asks for.

        `weights`: of the choices; None: they are drawn.
        """
        scores = self.scores(block, ids) if weights is None else unimportance(weights)
        best = {int(expert): scores[ids == expert].min() for expert in np.unique(ids)}
        high = [e for e in best if self.high.holds(block, e) or best[e] <= HIGH_UP_TO]
        rest = [e for e in best if e not in high]
        return Wanted(high, [e for e in rest if self.low.holds(block, e) or best[e] <= LOW_UP_TO])

    def scores(self, block: int, ids: Ids) -> Weights:
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
        """What a gate says of a block ahead; in the simulator not always rightly."""
        ids, weights = self.answer(gate), self.node.issuer.gate_weights(gate)
        if weights is None:
            stated = self.node.policy.accuracy
            accuracy = ACCURACY[ahead - block - 1] if stated is None else stated
            rng = self.rng(ahead, ahead - block)
            ids = mistaken(rng, ids, self.blocks[ahead].n_experts, accuracy)
        self.expected[ahead, ahead - block] = ids
        return ahead, self.wanted(ahead, ids, weights)

    def judge_gates(self, block: int, ids: Ids) -> None:
        """The block's own gate has named its experts: count what was foreseen."""
        for i in range(self.node.policy.level):
            named = self.expected.pop((block, i + 1), None)
            if named is not None:
                self.guesses[i] += ids.size
                self.right[i] += foreseen_rightly(named, ids)
