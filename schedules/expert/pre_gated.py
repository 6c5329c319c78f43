"""Pre-gated MoE: a block's gate names the experts of a later block."""

import numpy as np
from numpy.typing import NDArray

from schedules.errors import BadInput
from schedules.expert.moving import MovesExperts
from schedules.model import LayerSpec
from schedules.node import Node, Slot
from schedules.task import Buffer, Work


class PreGated(MovesExperts):
    """While block n computes its experts, those of block n + level are copied (algorithm-system
    co-design of Pre-gated MoE, arXiv 2308.12066, sections 4.1 and 4.2).

    The first block of a pass has two gates: its own, and one for the next block; it is serial, in
    every pass. The last has none. With activation level k the first k blocks are serial. The GPU
    holds the activated experts of level + 1 consecutive blocks. Expert ids come back by a blocking
    copy, and the host waits after every FFN (`sync`), as in the authors' system.

    Simplified: a pre-gate costs what a gate does; the two copies within the GPU that their system
    makes of each expert are not there.
    """

    name = "pre-gated"
    title = "a block's gate names the experts of the next one, which arrive meanwhile"
    paper = "Pre-gated MoE, arXiv 2308.12066, sections 4.1 and 4.2"
    change = "pre-gates"
    knobs = MovesExperts.knobs | {"level", "cache", "cache_ratio"}

    def __init__(self, node: Node) -> None:
        self.blocks = [spec for spec in node.model.decoder_layers if spec.is_moe]
        self.level = node.policy.level
        if self.level >= max(2, len(self.blocks)):
            raise BadInput(
                f"policy: level = {self.level}: '{node.model.name}' has {len(self.blocks)} decoder "
                f"layers with experts; a pre-gate can look ahead by less than that"
            )
        super().__init__(node)

    def make_room(self) -> None:
        turns = range(self.level + 1)
        self.rooms = self.cached(
            [self.places(f"{i} ", self.blocks, self.most_tokens) for i in turns]
        )
        self.choices = [self.routed_buffer(f"routed[{i}]") for i in turns]

    def begin_pass(self) -> None:
        self.named_for: dict[int, tuple[NDArray[np.int64], list[Buffer]]] = {}

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        block = self.blocks.index(spec)
        if block < self.level:
            self.bring(block, tokens, "gate")
        if block + self.level < len(self.blocks):
            self.bring(block + self.level, tokens, "pre_gate")
        counts, held = self.named_for.pop(block)
        self.run_experts(spec, tokens, counts, held, after)
        room = self.rooms[block % len(self.rooms)]
        room.release(spec, np.flatnonzero(counts).tolist())

    def bring(self, block: int, tokens: float, gate: str) -> None:
        """Let a gate name the experts of a block, and copy them."""
        spec, turn = self.blocks[block], block % len(self.rooms)
        counts = self.named(spec, tokens, self.choices[turn], gate)
        held = self.load_all(spec, counts, self.rooms[turn])
        self.named_for[block] = counts, [self.choices[turn], *held]
