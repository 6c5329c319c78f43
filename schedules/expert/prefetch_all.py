"""Prefetch-all: all experts of the next block travel while this one computes."""

from schedules.contents import Span
from schedules.expert.moving import MovesExperts
from schedules.model import LayerSpec
from schedules.node import Slot
from schedules.task import Buffer, Work

SLOTS = 2  # blocks on the GPU: the one that computes and the one that comes


class PrefetchAll(MovesExperts):
    """Every expert of block n + 1 is copied during block n, whatever the gates say (SE-MoE, arXiv
    2205.10034, section 4; MoE-Prefetch in Pre-gated MoE, arXiv 2308.12066, section 3).

    The copy of the first block is exposed in every pass. The GPU holds all experts of two blocks.
    Nothing waits for a gate, but the host waits after every FFN (`sync`), as in the system with
    which Pre-gated MoE measured it. Simplified: a block is one copy.
    """

    name = "prefetch-all"
    title = "all experts of the next block copied during this one"
    paper = "SE-MoE, arXiv 2205.10034, section 4, as measured in Pre-gated MoE, arXiv 2308.12066"
    host_pieces = "span"  # a block at a time

    def make_room(self) -> None:
        node, work = self.node, self.node.work
        self.blocks = [spec for spec in node.model.decoder_layers if spec.is_moe]
        size = max(map(work.expert_bytes, self.blocks), default=0.0)
        self.slots = [node.on_gpu(self.gpu, f"weights[{i}]", size) for i in range(SLOTS)]

    def begin_pass(self) -> None:
        self.bring(0)

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        block = self.blocks.index(spec)
        counts = self.asked(spec, tokens)
        self.bring(block + 1)
        self.in_place(spec, tokens, counts, [self.place(block)], after)

    def bring(self, block: int) -> None:
        """Copy all experts of a block, if there is one."""
        if block >= len(self.blocks):
            return
        spec = self.blocks[block]
        size, what = self.node.work.expert_bytes(spec), Span(spec.number, "experts")
        self.copy("load_weights", spec, self.place(block), size, what)

    def place(self, block: int) -> Buffer:
        """Where a block's experts lie."""
        return self.slots[block % SLOTS]
