"""EdgeMoE: experts on flash in few bits, preloaded from the path that a token has taken."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schedules.choices import first_instead, token_counts
from schedules.contents import Span
from schedules.errors import BadInput
from schedules.expert.cache_scored import EdgeMoE
from schedules.expert.edgemoe_paths import ActivationPaths
from schedules.expert.foreseen import ForeseesExperts, Store
from schedules.model import LayerSpec
from schedules.node import Node, Slot
from schedules.task import Buffer, Work

WIDTHS = (2, 4, 8)
"""Bits of the experts, in turn; assumed. EdgeMoE chooses them expert by expert, so that accuracy
does not fall by more than is stated (section III-B)."""

STAGED = 2  # experts between disk and GPU: one is read while the other is copied


class EdgeMoEOffloading(ForeseesExperts):
    """Expert weights on flash in 2, 4 or 8 bits; the rest of the model in memory (EdgeMoE, arXiv
    2308.14352, sections III-B and III-C).

    While a block computes, the experts that its tokens are likely to take in the next one are
    preloaded, `preload` for each token, from their paths through the two blocks before. The cache
    evicts by frequency of use over distance to the layer. An expert is read from the disk, copied
    to the GPU, and written out in the model's format before it is computed.

    Simplified: EdgeMoE's devices share one memory between CPU and GPU, so an expert is there once
    it has been read; here it goes on over PCIe, while the next one is read. Places in the cache
    have room for 8 bits, whatever lies there. Frequencies are counted as the schedule runs.
    """

    for_real = False
    decides = frozenset({"experts", "ssd"})
    name = "edgemoe"
    title = "experts on disk in 2 to 8 bits, preloaded along activation paths"
    paper = "EdgeMoE, arXiv 2308.14352, sections III-B and III-C"
    knobs = frozenset({"cache_ratio", "preload"})
    pinned_default = "never"

    def __init__(self, node: Node) -> None:
        if not node.issuer.pools["disk"].capacity_bytes:
            raise BadInput(
                f"schedule '{self.name}' keeps experts on a disk, and this machine has none; its "
                f"hardware needs [disk] and [links.disk]"
            )
        super().__init__(node)

    def home_of(self, spec: LayerSpec) -> Buffer:
        size = sum(self.packed_bytes(spec, expert) for expert in range(spec.n_experts))
        holds = (Span(spec.number, "experts"),)
        return self.node.issuer.buffer(f"disk[{spec.stack} {spec.index}]", "disk", size, holds)

    def make_room(self) -> None:
        node = self.node
        shape = max(1, len(self.blocks)), max((s.n_experts for s in self.blocks), default=1)
        size = max(map(self.expert_bytes, self.moe_layers), default=0.0)
        self.store = self.new_store("", EdgeMoE(shape[0]), size)
        self.unpacked = node.on_gpu(self.gpu, "unpacked", size * node.work.b)  # one at a time
        self.staging = [node.on_host(f"staging[{i}]", size, pinned=True) for i in range(STAGED)]
        self.reads = 0  # of experts, so far
        self.paths = ActivationPaths(*shape)

    @property
    def stores(self) -> Sequence[Store]:
        return [self.store]

    def begin_pass(self) -> None:
        self.taken: list[NDArray[np.int64]] = []  # by the blocks of this pass, nearest first

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        block = self.blocks.index(spec)
        ids = self.answer(self.ask(spec, tokens, self.routed))
        counts = token_counts(ids, spec.n_experts)
        chosen = np.flatnonzero(counts).tolist()
        self.store.judge(block, chosen)
        held = self.bring(self.store, block, self.store.request(block, chosen))
        self.run_experts(spec, tokens, counts, [self.routed, *held], after)
        ids = first_instead(ids)
        self.paths.learn(block, ids, self.taken)
        self.taken = [ids, *self.taken][:2]
        if block + 1 < len(self.blocks):
            likely = self.paths.likely(block + 1, self.taken, self.node.policy.preload)
            running = [(block, expert) for expert in chosen]
            self.prefetch(self.store, [(block + 1, expert) for expert in likely], running)

    def run_experts(
        self,
        spec: LayerSpec,
        tokens: float,
        counts: NDArray[np.int64],
        reads: Sequence[Buffer],
        after: Work | None,
    ) -> None:
        """Write the experts out in the model's format, and compute them."""
        widths = tuple(self.width(expert) for expert in np.flatnonzero(counts).tolist())
        work = self.node.work
        super().run_experts(
            spec, tokens, counts, reads, work.join(work.unpack(spec, widths), after)
        )

    # -- few bits, two copies -------------------------------------------------------------------

    @staticmethod
    def width(expert: int) -> int:
        """Bits of an expert's weights."""
        return WIDTHS[expert % len(WIDTHS)]

    def packed_bytes(self, spec: LayerSpec, expert: int) -> float:
        """Weights of one expert on the disk; scales are left out."""
        return self.expert_bytes(spec) * self.width(expert) / 8

    def expert_bytes(self, spec: LayerSpec) -> float:
        """Room for one expert: 8 bits a parameter."""
        return super().expert_bytes(spec) / self.node.work.b

    def load(self, spec: LayerSpec, expert: int, place: Buffer) -> None:
        """From the disk into staging, and on to the GPU."""
        node, size = self.node, self.packed_bytes(spec, expert)
        staging = self.staging[self.reads % STAGED]
        self.reads += 1
        where, what = (spec.index, self.micro_batch), (Span(spec.number, "expert", expert=expert),)
        read, copy = node.work.copy("disk", size), node.work.copy("h2d", size)
        node.issuer.task("read_expert", "disk", [self.home[spec]], [staging], read, *where, what)
        self.last_copy = node.issuer.task(
            "load_expert", self.gpu.h2d, [staging], [place], copy, *where, what
        )
