"""What FlexGen's zig-zag moves and computes: one stage of it, on one GPU."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from schedules.batch.zigzag_memory import RING, Kind, StageMemory
from schedules.batching import MicroBatch
from schedules.contents import Contents, Half, KVSpan
from schedules.model import LayerSpec
from schedules.task import Buffer, Task, Work

HALVES: tuple[Half, ...] = ("keys", "values")


class Place(NamedTuple):
    """An iteration: `half` counts FlexGen's layers (attention, FFN, ...) of the stage."""

    half: int
    micro_batch: int
    part: int
    number: int


class Stage(StageMemory):
    """The layers of one GPU, and FlexGen's actions on them."""

    # -- the iterations -------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The stage's layers in this pass."""
        return self.prefill_layers if self.node.step == 0 else self.decode_layers

    def places(self, part: int) -> list[Place]:
        """All iterations of this pass: layer by layer, micro-batch by micro-batch."""
        n = self.node.n_micro_batches
        halves = range(2 * len(self.layers))
        return [Place(h, j, part, h * n + j) for h in halves for j in range(n)]

    def batch(self, place: Place) -> MicroBatch:
        """The sequences of an iteration."""
        return self.parts[place.part][place.micro_batch]

    def tokens(self, part: int, micro_batch: int) -> int:
        """Tokens of a part of a micro-batch in this pass."""
        batch = self.parts[part][micro_batch]
        return batch.prompt_tokens if self.node.step == 0 else batch.size

    def half(self, half: int) -> tuple[LayerSpec, Kind]:
        """The layer and kind; past the end of the pass, of the decode step that follows."""
        layers = self.layers if half < 2 * len(self.layers) else self.decode_layers
        index = half if half < 2 * len(self.layers) else half - 2 * len(self.layers)
        return layers[index // 2], "attention" if index % 2 == 0 else "ffn"

    def hidden(self, place: Place) -> Buffer:
        """Where an iteration's hidden states are on the GPU."""
        own = self.hidden_gpu[place.part][place.micro_batch]
        return self.ring[place.number % RING] if own is None else own

    def block(self, place: Place) -> list[Buffer]:
        """Where an iteration's KV block is on the GPU."""
        return self.blocks[place.number % 2]

    def kept_cache(self, place: Place) -> list[Buffer]:
        """The share of an iteration's KV block that stays on the GPU."""
        spec, _ = self.half(place.half)
        own = self.cache_gpu.get((spec.index, place.part, place.micro_batch))
        return [] if own is None or spec.stack == "encoder" else [own]

    def made_cache(self, place: Place) -> list[Buffer]:
        """Where an iteration leaves the keys and values that it makes, until they are stored."""
        appended = self.on_cpu and self.node.step > 0  # by the CPU's attention itself
        if self.node.policy.r_c == 1 or appended or not self._filled(place):
            return []
        return [self.new_kv[place.number % 2]]

    # -- FlexGen's actions ----------------------------------------------------------------------

    def load_weight(self, half: int) -> None:
        """The next layer's weights; FlexGen calls this in the first micro-batch's iteration."""
        spec, kind = self.half(half)
        for span, size, staging, target in zip(
            self.spans(spec, kind),
            self.streamed(spec, kind),
            self.staging[kind],
            self.weights[kind],
            strict=True,
        ):
            if not size:
                continue
            source = self.home
            if not self.node.pinned:
                source = staging
                self._copy(
                    "pin_weights", "pin_parallel", size, self.home, source, spec.index, what=span
                )
            self._copy("load_weights", "h2d", size, source, target, spec.index, what=span)

    def load_cache(self, place: Place | None) -> None:
        """The next micro-batch's keys, then its values, through staging: the cache is pageable."""
        if place is None or self.node.step == 0 or self.on_cpu or self.node.policy.r_c == 1:
            return
        spec, kind = self.half(place.half)
        if kind == "ffn":
            return
        past = self.context(place) - self.batch(place).size
        size = self.node.work.kv_bytes(spec, past) * (1 - self.node.policy.r_c) / 2
        j, home = place.micro_batch, self.cache[spec.index, place.part, place.micro_batch]
        for half, staging, block in zip(
            HALVES, self.kv_staging[place.number % 2], self.block(place), strict=True
        ):
            what = KVSpan(spec.index, j, self.node.policy.r_c, 1.0, half)
            self._copy("pin_kv", "pin_parallel", size, home, staging, spec.index, j, what)
            self._copy("load_kv", "h2d", size, staging, block, spec.index, j, what)

    def store_cache(self, place: Place | None) -> None:
        """The previous micro-batch's new keys and values, to pageable memory."""
        if place is None:
            return
        tokens = self.tokens(place.part, place.micro_batch)
        for source, spec in product(self.made_cache(place), self._filled(place)):
            size = self.node.work.kv_bytes(spec, tokens) * (1 - self.node.policy.r_c)
            home = self.cache[spec.index, place.part, place.micro_batch]
            j = place.micro_batch
            self._copy("store_kv", "d2h_pageable", size, source, home, spec.index, j)

    def _filled(self, place: Place) -> Sequence[LayerSpec]:
        """Decoder layers whose keys and values an iteration makes.

        An attention makes its own; the end of the encoder makes all cross-attention's.
        """
        spec, kind = self.half(place.half)
        if spec.stack == "decoder":
            return [spec] if kind == "attention" else []
        return self.decode_layers if place.half == 2 * len(self.layers) - 1 else []

    def load_hidden(self, place: Place | None) -> None:
        """The next micro-batch's hidden states; the first layer looks up its own."""
        if place is None or place.half == 0 or self.stays(place.micro_batch):
            return
        source = self.hidden_host[place.part][place.micro_batch]
        self._move_hidden("load_hidden", "h2d", place, source, self.hidden(place))

    def store_hidden(self, place: Place | None) -> None:
        """The previous micro-batch's hidden states."""
        if place is None or self.stays(place.micro_batch):
            return
        target = self.hidden_host[place.part][place.micro_batch]
        self._move_hidden("store_hidden", "d2h", place, self.hidden(place), target)

    def compute(self, place: Place) -> None:
        """This micro-batch through this layer."""
        spec, kind = self.half(place.half)
        if kind == "ffn":
            tokens = self.tokens(place.part, place.micro_batch)
            self._gpu(
                "compute_ffn",
                place,
                self.node.work.join(self.node.work.ffn(spec, tokens), self._after(place)),
                self.made_cache(place),
            )
        elif self.node.step == 0:
            core = self.node.work.prefill_core(spec, self.batch(place))
            out = self.node.work.out_projection(spec, self.batch(place).prompt_tokens)
            self._gpu(
                "compute_attention",
                place,
                self.node.work.join(core, out, self._before(place)),
                [*self.made_cache(place), *self.kept_cache(place)],
            )
        elif self.on_cpu:
            self._attend_on_cpu(place)
        else:
            size, work = self.batch(place).size, self.node.work
            core = work.decode_core(spec, size, self.context(place))
            out = work.out_projection(spec, size)
            block = [
                *self.block(place),
                *self.made_cache(place),
                *self.kept_cache(place),
            ]
            self._gpu("compute_attention", place, work.join(core, out, self._before(place)), block)

    def barrier(self) -> None:
        """FlexGen's `sync`: the process waits for all its streams."""
        g = self.gpu
        self.node.issuer.barrier([g.h2d, g.gpu, g.d2h, self.cpu])

    def context(self, place: Place) -> float:
        """Tokens that decode attention reads, summed over the sequences."""
        batch = self.batch(place)
        return batch.prompt_tokens + self.node.step * batch.size

    # -- helpers --------------------------------------------------------------------------------

    def _attend_on_cpu(self, place: Place) -> None:
        """Projections, offload, attention, load, output projection, one after the other."""
        node, work, (spec, _), j = (
            self.node,
            self.node.work,
            self.half(place.half),
            place.micro_batch,
        )
        size, x = self.batch(place).size, self.hidden(place)
        qkv = work.join(work.qkv(spec, size), self._before(place))
        weights = self.weights["attention"]
        writes = [self.qkv] if place.half else [self.qkv, x]  # the first layer's embeddings
        node.issuer.task("pre_attention", self.gpu.gpu, [x, *weights], writes, qkv, spec.index, j)
        qkv_bytes = work.qkv_bytes(spec, size)
        self._copy("offload_qkv", "d2h_pageable", qkv_bytes, self.qkv, self.qkv_host, spec.index, j)
        home = self.cache[spec.index, place.part, j]
        attention = node.issuer.task(
            "cpu_attention",
            self.cpu,
            [self.qkv_host],
            [home, self.attended_host],
            work.cpu_attention(spec, size, self.context(place)),
            spec.index,
            j,
        )
        node.issuer.wait(attention)  # the issuing thread runs it
        out_bytes = work.attended_bytes(spec, size)
        self._copy(
            "load_attended",
            "h2d_pageable",
            out_bytes,
            self.attended_host,
            self.attended,
            spec.index,
            j,
        )
        node.issuer.task(
            "out_projection",
            self.gpu.gpu,
            [self.attended, *weights],
            [x],
            work.out_projection(spec, size),
            spec.index,
            j,
        )

    def _before(self, place: Place) -> Work | None:
        """The embedding, before the first stage's first layer."""
        if place.half or self.gpu.index:
            return None
        return self.node.work.embedding(self.tokens(place.part, place.micro_batch))

    def _after(self, place: Place) -> Work | None:
        """What follows the last stage's last layer."""
        last = self.gpu.index == len(self.node.gpus) - 1 and place.half == 2 * len(self.layers) - 1
        if not last:
            return None
        if self.node.step == 0:
            return self.node.work.end_of_prefill(self.batch(place))
        return self.node.work.head(self.batch(place).size)

    def _gpu(self, op: str, place: Place, work: Work, block: Sequence[Buffer] = ()) -> Task:
        """A computation in place on the hidden states."""
        spec, kind = self.half(place.half)
        x = [self.hidden(place), *block]
        return self.node.issuer.task(
            op, self.gpu.gpu, [*x, *self.weights[kind]], x, work, spec.index, place.micro_batch
        )

    def _move_hidden(
        self, op: str, link: str, place: Place, source: Buffer, target: Buffer
    ) -> None:
        spec, _ = self.half(place.half)
        tokens = self.tokens(place.part, place.micro_batch)
        size = self.node.work.hidden_bytes(tokens)
        self._copy(op, link, size, source, target, spec.index, place.micro_batch)

    def _copy(
        self,
        op: str,
        link: str,
        size: float,
        source: Buffer,
        target: Buffer,
        layer: int,
        j: int = -1,
        what: Contents | None = None,
    ) -> Task:
        """A copy on the stream of its link; the issuing thread itself fills pinned staging."""
        g = self.gpu
        streams = {"pin_parallel": g.host, "h2d": g.h2d, "d2h": g.d2h}
        work = self.node.work.copy(link, size)
        stream = streams[link.removesuffix("_pageable")]
        moved = () if what is None else (what,)
        return self.node.issuer.task(op, stream, [source], [target], work, layer, j, moved)
