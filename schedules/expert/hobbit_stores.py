"""HOBBIT's experts in two precisions: where they lie, how they come, and what they compute."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedules.choices import token_counts
from schedules.contents import Contents, Packed, Span
from schedules.expert.cache_hobbit import Hobbit, UseRecords
from schedules.expert.foreseen import ForeseesExperts, Store
from schedules.expert.hobbit_precision import LOW_BITS, group_of
from schedules.model import LayerSpec
from schedules.quantisation import SCALE_BYTES, packed_bytes
from schedules.task import Buffer, Work


class Wanted(NamedTuple):
    """Experts of a block by the precision in which they run, or are to come."""

    high: list[int]
    low: list[int]


class MixedPrecision(ForeseesExperts):
    """A cache for each precision, with common records of use; host memory holds both precisions.

    `decisions` says which experts of a layer ran in which precision, by step and layer; what else a
    gate named was skipped.
    """

    def make_room(self) -> None:
        node, n_layers, records = self.node, max(1, len(self.blocks)), UseRecords()
        size = max(map(self.expert_bytes, self.blocks), default=0.0)
        packed = max(map(self.packed_bytes, self.blocks), default=0.0)
        self.rules = [Hobbit(n_layers, records=records) for _ in range(2)]
        self.high = self.new_store("", self.rules[0], size)
        self.low = self.new_store("4-bit ", self.rules[1], packed)
        self.unpacked = node.on_gpu(self.gpu, "unpacked", size)  # one expert at a time
        sizes = {s: self.packed_bytes(s) * s.n_experts for s in self.blocks}
        lockable = node.issuer.pools["pinned"]
        locked = node.pinned and (
            lockable.used_bytes + sum(map(int, sizes.values())) <= lockable.capacity_bytes
        )
        self.packed_home = {
            spec: node.on_host(
                f"4-bit weights[{spec.index}]", size, locked, [self.packed_span(spec)]
            )
            for spec, size in sizes.items()
        }
        self.decisions: dict[tuple[int, int], Wanted] = {}
        self.choices = self.low_choices = self.skipped_choices = 0

    @property
    def stores(self) -> Sequence[Store]:
        return [self.high, self.low]

    def facts(self) -> dict[str, float]:
        """Beside those of all: shares of the choices that ran in 4 bits, and that were skipped."""
        every = max(1, self.choices)
        shares = {
            "low_precision_share": self.low_choices / every,
            "skipped_share": self.skipped_choices / every,
        }
        return super().facts() | shares

    def packed_bytes(self, spec: LayerSpec) -> float:
        """Of an expert in 4 bits, its scales included."""
        group = group_of(self.node.model, spec)
        return spec.expert_parameters * packed_bytes(LOW_BITS, group)

    def packed_span(self, spec: LayerSpec, expert: int = -1) -> Packed:
        """An expert of a layer in 4 bits, or all of them."""
        return Packed(spec.number, LOW_BITS, group_of(self.node.model, spec), expert)

    def fetch(self, store: Store, block: int, expert: int, place: Buffer) -> None:
        """Copy an expert in the precision of the store."""
        spec = self.blocks[block]
        if store is self.high:
            self.load(spec, expert, place)
            return
        what, home = self.packed_span(spec, expert), self.packed_home[spec]
        self.copy("load_packed_expert", spec, place, self.packed_bytes(spec), what, home)

    def run(
        self,
        spec: LayerSpec,
        tokens: float,
        ids: NDArray[np.int64],
        wanted: Wanted,
        reads: list[Buffer],
        after: Work | None,
    ) -> None:
        """Compute what is there, those in 4 bits after they have been written out.

        The task names the experts that run, each in its precision, and reads their places.
        """
        node, counts = self.node, token_counts(ids, spec.n_experts)
        chosen = [e for e in np.flatnonzero(counts).tolist() if e in {*wanted.high, *wanted.low}]
        self._count(spec, counts, wanted, chosen)
        work = node.work.routed_experts(spec, tokens, tuple(counts[chosen].tolist()))
        if wanted.low:
            scale_bytes = SCALE_BYTES / group_of(node.model, spec)
            unpack = node.work.unpack(spec, (LOW_BITS,) * len(wanted.low), scale_bytes)
            after = node.work.join(unpack, after)
        what: list[Contents] = [Span(spec.number, "expert", expert=e) for e in wanted.high]
        what += [self.packed_span(spec, e) for e in wanted.low]
        node.issuer.task(
            "mixed_experts",
            self.gpu.gpu,
            [self.x, *reads],
            [self.x, self.unpacked],
            node.work.join(work, after),
            spec.index,
            self.micro_batch,
            tuple(what),
        )

    def _count(
        self, spec: LayerSpec, counts: NDArray[np.int64], wanted: Wanted, chosen: list[int]
    ) -> None:
        """Note who runs in which precision."""
        self.decisions[self.node.step, spec.index] = wanted
        self.choices += int(counts.sum())
        self.low_choices += int(counts[wanted.low].sum())
        self.skipped_choices += int(counts.sum() - counts[chosen].sum())
