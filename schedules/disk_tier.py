"""An SSD below host memory, as a modifier of any schedule: host weights are read from it first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from schedules.contents import Contents, KVSpan, Span
from schedules.issuer import Issuer
from schedules.layer import LayerWork
from schedules.model import LayerSpec
from schedules.schedule import Schedule
from schedules.task import Buffer, Work

SsdMode = Literal["serial", "overlapped"]
READ = "read_weights"


@dataclass(slots=True)
class _Staging:
    """Where an issuing thread's reads land: slots that take turns, each of `room` bytes."""

    slots: list[Buffer]
    room: int = 0
    reads: int = 0

    def next(self) -> Buffer:
        self.reads += 1
        return self.slots[self.reads % len(self.slots)]


@dataclass(slots=True)
class DiskTier:
    """Stands between a schedule and its issuer: weights that would lie in host memory lie on the
    disk, and each task that reads them there first has them read into staging in host memory.

    The read has the bytes that the task moves, and takes the task's place as reader of the disk:

    * `serial`: on the task's own stream, as a thread that reads and then copies. One slot.
    * `overlapped`: on the stream `disk`, into two slots in turn: a piece is read while the one
      before is copied on.

    Each issuing thread has slots of its own. They are as large as the largest piece, page-locked
    where the schedule page-locks its weights. The node's one disk reads one piece at a time, in the
    order in which reads are issued. A computation in host memory (experts on the CPU) must know
    which weights it takes, so its read waits for its other operands; it runs on `disk` in both
    modes, since the CPU computes nothing meanwhile.

    Simplified: a piece is copied once all of it has been read; nothing stays in host memory for the
    next time; the disk is read at its sustained rate whatever a piece's size.

    Parameters
    ----------
    issuer: takes the tasks.
    work: sizes of weights.
    mode: where reads run.
    kind: of the schedule; says in what pieces it takes its weights (`host_pieces`).
    """

    issuer: Issuer
    work: LayerWork
    mode: SsdMode
    kind: type[Schedule]
    layers: dict[int, LayerSpec] = field(init=False)
    largest: float = field(init=False, default=0.0)
    pinned: bool = field(init=False, default=False)
    head: Buffer = field(init=False)
    staging: list[_Staging] = field(init=False)

    def __post_init__(self) -> None:
        model, count = self.work.model, 1 if self.mode == "serial" else 2
        self.layers = {s.number: s for s in (*model.encoder_layers, *model.decoder_layers)}
        self.head = self.issuer.buffer("disk head", "cpu", 0)  # whoever reads moves it
        self.staging = [
            _Staging([self.issuer.buffer(f"disk staging[{h},{i}]", "cpu", 0) for i in range(count)])
            for h in range(self.issuer.hosts)
        ]

    # -- memory ---------------------------------------------------------------------------------

    @staticmethod
    def takes(pool: str, holds: Sequence[Contents]) -> bool:
        """Whether such a buffer goes to the disk: weights in host memory do."""
        return pool == "cpu" and any(not isinstance(what, KVSpan) for what in holds)

    def pool_of(
        self, pool: str, size_bytes: float, holds: Sequence[Contents], pinned: bool, owner: int
    ) -> str:
        """The pool that a buffer goes to."""
        if not self.takes(pool, holds):
            return pool
        readers = self.issuer.hosts if owner < 0 else 1
        piece = size_bytes / readers * self._largest_share(holds)
        self.largest, self.pinned = max(self.largest, piece), self.pinned or pinned
        return "disk"

    def reserve(self) -> None:
        """Take the staging of all threads, once the schedule has taken its own memory.

        Raises `Infeasible` when a pool is too small.
        """
        for host in range(self.issuer.hosts):
            self._make_room(host, math.ceil(self.largest))

    def _make_room(self, host: int, size_bytes: float) -> None:
        staging = self.staging[host]
        missing = int(size_bytes) - staging.room
        if missing <= 0:
            return
        for i in range(len(staging.slots)):
            for pool in ("cpu", "pinned") if self.pinned else ("cpu",):
                self.issuer.buffer(f"disk staging[{host},{i}]", pool, missing)
        staging.room += missing

    def _largest_share(self, holds: Sequence[Contents]) -> float:
        """Share of a buffer in the largest piece of it that is taken at once.

        Without pieces of a stated size: the largest of its spans, of which less may be taken.
        """
        weights = [what for what in holds if not isinstance(what, KVSpan)]
        if self.kind.host_pieces == "expert":
            return 1 / max(1, max(self.layers[what.layer].n_experts for what in weights))
        if len(weights) == 1:
            return 1.0
        sizes = [self._span_bytes(what) for what in weights if isinstance(what, Span)]
        return max(sizes, default=1.0) / (sum(sizes) or 1.0)

    def _span_bytes(self, span: Span) -> float:
        work, spec = self.work, self.layers[span.layer]
        attention, experts = work.projection_bytes(spec), work.expert_bytes(spec)
        parts = {
            "attention": attention,
            "resident": work.attention_bytes(spec),
            "experts": experts,
            "expert": experts / max(1, spec.n_experts),
            "ffn": work.layer_bytes(spec) - attention,
            "layer": work.layer_bytes(spec),
        }
        return parts[span.part] * (span.stop - span.start)

    # -- tasks ----------------------------------------------------------------------------------

    def read(
        self, stream: str, reads: Sequence[Buffer], work: Work, layer: int, micro_batch: int
    ) -> Sequence[Buffer]:
        """Issue the read that a task needs first, if any; returns what the task reads then."""
        homes = [buffer for buffer in reads if buffer.pool == "disk"]
        if not homes or "disk" in work.link_bytes:
            return reads
        size = self._taken_bytes(homes, work)
        if not size:
            return reads
        issuer = self.issuer
        self._make_room(issuer.host, size)
        slot = self.staging[issuer.host].next()
        others = [buffer for buffer in reads if buffer.pool != "disk"]
        copies = work.device == "link"
        known = [] if copies else others
        where = stream if copies and self.mode == "serial" else "disk"
        copy = self.work.copy("disk", size)
        issuer.task(READ, where, [*homes, *known], [slot, self.head], copy, layer, micro_batch)
        return [*others, slot]

    def _taken_bytes(self, homes: Sequence[Buffer], work: Work) -> float:
        """Bytes of weights that a task takes: what it copies, or the experts that it computes."""
        if work.total_link_bytes:
            return work.total_link_bytes
        every = float(sum(home.bytes for home in homes))
        spec = self.layers[next(w for w in homes[0].holds if not isinstance(w, KVSpan)).layer]
        if work.device != "cpu" or not spec.is_moe:
            return every
        one = self.work.expert_bytes(spec) / spec.n_experts
        return min(every, self._distinct(spec, work) * one)

    def _distinct(self, spec: LayerSpec, work: Work) -> float:
        """How many experts a computation on the CPU reads.

        Its bytes are linear in experts and rows, its flops in rows.
        """
        expert, row = self.work.cpu_experts(spec, 1, 0), self.work.cpu_experts(spec, 0, 1)
        rows = work.total_flops / row.total_flops
        return max(0.0, (work.total_bytes - rows * row.total_bytes) / expert.total_bytes)
