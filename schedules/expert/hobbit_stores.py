"""HOBBIT's experts in two precisions: where they lie, how they come, and what they compute."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedules.contents import Span
from schedules.expert.cache_hobbit import Hobbit, UseRecords
from schedules.expert.foreseen import ForeseesExperts, Store
from schedules.expert.hobbit_precision import LOW_BITS
from schedules.model import LayerSpec
from schedules.task import Buffer, Work


class Wanted(NamedTuple):
    """Experts of a block by the precision in which they run, or are to come."""

    high: list[int]
    low: list[int]


class MixedPrecision(ForeseesExperts):
    """A cache for each precision, with common records of use; host memory holds both precisions."""

    def make_room(self) -> None:
        node, n_layers, records = self.node, max(1, len(self.blocks)), UseRecords()
        size = max(map(self.expert_bytes, self.blocks), default=0.0)
        packed = self.packed_bytes(size)
        self.rules = [Hobbit(n_layers, records=records) for _ in range(2)]
        self.high = self.new_store("", self.rules[0], size)
        self.low = self.new_store("4-bit ", self.rules[1], packed)
        self.unpacked = node.on_gpu(self.gpu, "unpacked", size)  # one expert at a time
        sizes = {s: self.packed_bytes(node.work.expert_bytes(s)) for s in self.blocks}
        lockable = node.issuer.pools["pinned"]
        locked = node.pinned and (
            lockable.used_bytes + sum(map(int, sizes.values())) <= lockable.capacity_bytes
        )
        self.packed_home = {
            spec: node.on_host(f"4-bit weights[{spec.index}]", size, locked)
            for spec, size in sizes.items()
        }
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

    def packed_bytes(self, size_bytes: float) -> float:
        """Of weights in 4 bits instead of the model's format; scales are left out."""
        return size_bytes * LOW_BITS / (8 * self.node.work.b)

    def fetch(self, store: Store, block: int, expert: int, place: Buffer) -> None:
        """Copy an expert in the precision of the store."""
        spec = self.blocks[block]
        if store is self.high:
            self.load(spec, expert, place)
            return
        what = Span(spec.number, "expert", expert=expert)
        size = self.packed_bytes(self.expert_bytes(spec))
        self.copy("load_packed_expert", spec, place, size, what, self.packed_home[spec])

    def run(
        self,
        spec: LayerSpec,
        tokens: float,
        ids: NDArray[np.int64],
        wanted: Wanted,
        reads: list[Buffer],
        after: Work | None,
    ) -> None:
        """Compute what is there, those in 4 bits after they have been written out."""
        counts = np.bincount(ids.ravel(), minlength=spec.n_experts)
        every, low = int(counts.sum()), int(counts[wanted.low].sum())
        kept = np.zeros_like(counts)
        kept[wanted.high + wanted.low] = counts[wanted.high + wanted.low]
        self.choices += every
        self.low_choices += low
        self.skipped_choices += every - int(kept.sum())
        if wanted.low:
            unpack = self.node.work.unpack(spec, (LOW_BITS,) * len(wanted.low))
            after = self.node.work.join(unpack, after)
        self.run_experts(spec, tokens, kept, reads, after)
