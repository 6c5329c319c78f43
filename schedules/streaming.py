"""Weights that live in host memory and visit the GPU, double-buffered, in pages or as a block."""

from itertools import pairwise

from schedules.contents import Part, Span
from schedules.model import LayerSpec
from schedules.node import GpuNames, Node
from schedules.task import Buffer
from schedules.tensor_parallel import PerGpu

SLOTS = 2  # layers in the GPU's weight buffer: the one that runs and the one that comes


class StreamedWeights:
    """The streamed part of every layer's weights.

    Parameters
    ----------
    part: which part of a layer may be streamed: its experts, or the whole layer.
    kept: share of them that stays on the GPU for good, the same in every layer.
    pages: pieces into which the streamed part of a layer is cut.

    shards: GPUs that each copy one share of a layer, to be assembled by `gather` (data
        parallelism, ZeRO-3); 0: every GPU copies what it computes with.
    staged: pageable weights pass through pinned staging of one layer (`pin`, then `load`);
        otherwise the driver stages them itself, at the slower rate of a pageable copy.

    Page-locked host memory needs no staging, and `pin` does nothing.
    """

    def __init__(
        self,
        node: Node,
        part: Part,
        kept: float = 0.0,
        pages: int = 1,
        staged: bool = True,
        shards: int = 0,
    ) -> None:
        self.node = node
        self.kept = kept
        self.pages = pages
        self.gathered = shards > 0
        self.shards = max(1, shards)
        self.part = part
        self._spans: dict[tuple[int, int | None], tuple[Span, ...]] = {}
        layers = node.all_layers
        largest = max(self.streamed(spec) for spec in layers)
        for gpu in node.gpus:
            size = sum(self.part_bytes(spec) * kept for spec in layers)
            holds = [Span(spec.number, part, 0.0, kept) for spec in layers] if kept else []
            node.on_gpu(gpu, "static weights", size, holds)
        self.slots = {
            gpu: [
                [node.on_gpu(gpu, f"weights[{s},{p}]", largest / pages) for p in range(pages)]
                for s in range(SLOTS)
            ]
            for gpu in node.gpus
        }
        self.home = {
            spec: node.on_host(
                f"host weights[{spec.stack} {spec.index}]",
                self.streamed(spec) * len(node.gpus) / self.shards,
                node.pinned,
                [Span(spec.number, part, kept)],
            )
            for spec in layers
        }
        self.received = {  # own shares wait for the gather in small pieces
            gpu: [node.on_gpu(gpu, f"own share[{s}]", 0) for s in range(SLOTS)] for gpu in node.gpus
        }
        self.staging: dict[GpuNames, list[Buffer]] = {}
        if staged and not node.pinned:
            self.staging = {
                gpu: [
                    node.on_host(f"staging[{p}]", largest / pages, True, gpu=gpu)
                    for p in range(pages)
                ]
                for gpu in node.gpus
            }

    def part_bytes(self, layer: LayerSpec) -> float:
        """Bytes of the part of a layer, on one GPU, that may be streamed."""
        work = self.node.work
        return work.expert_bytes(layer) if self.part == "experts" else work.layer_bytes(layer)

    def streamed(self, layer: LayerSpec) -> float:
        """Bytes of a layer that travel to one GPU in each pass."""
        return self.part_bytes(layer) * (1 - self.kept)

    def spans(self, layer: LayerSpec, page: int | None) -> tuple[Span, ...]:
        """What a page holds of a layer, or what each page does."""
        key = layer.number, page
        if key not in self._spans:
            kept, n = self.kept, self.pages
            edges = [kept + (1 - kept) * p / n for p in range(n + 1)]
            every = [Span(layer.number, self.part, a, b) for a, b in pairwise(edges)]
            self._spans[key] = tuple(every if page is None else [every[page]])
        return self._spans[key]

    def resident(self, gpu: GpuNames, layer: int) -> list[Buffer]:
        """The buffers that hold the weights of layer `layer` of this pass."""
        return self.slots[gpu][(self.node.base + layer) % SLOTS] if self.kept < 1 else []

    def on_gpus(self, layer: int) -> PerGpu:
        """`resident` for every GPU."""
        return {gpu: self.resident(gpu, layer) for gpu in self.node.gpus}

    def pin(self, layer: int, page: int | None = None) -> None:
        """Copy a page, or the whole block, of a layer from pageable memory into staging."""
        spec = self.node.spec(layer)
        if self.node.pinned or not self.streamed(spec):
            return
        for gpu in self.node.each_gpu():
            self.node.issuer.task(
                "pin_weights",
                "pin",
                reads=[self.home[spec]],
                writes=self._some(self.staging[gpu], page),
                work=self.node.work.copy("pin", self._bytes(spec, page)),
                layer=spec.index,
                micro_batch=-1 if page is None else page,
                what=self.spans(spec, page),
            )

    def load(self, layer: int, page: int | None = None, direct: bool = False) -> None:
        """Copy a page, or the whole block, of a layer to the GPU's weight buffer.

        `direct` goes past the staging, straight from host memory.
        """
        spec = self.node.spec(layer)
        if not self.streamed(spec):
            return
        unstaged = direct or not self.staging
        link = "h2d_pageable" if unstaged and not self.node.pinned else "h2d"
        for gpu in self.node.each_gpu():
            source = [self.home[spec]] if unstaged else self._some(self.staging[gpu], page)
            self.node.issuer.task(
                "load_weights",
                gpu.h2d,
                reads=source,
                writes=self._target(gpu, layer, page),
                work=self.node.work.copy(link, self._bytes(spec, page)),
                layer=spec.index,
                micro_batch=-1 if page is None else page,
                what=self.spans(spec, page),
            )

    def gather(self, layer: int) -> None:
        """Assemble a layer on each GPU from all shares, before the next copy starts."""
        spec = self.node.spec(layer)
        work = self.node.work.gather(self.streamed(spec), self.shards)
        slot = (self.node.base + layer) % SLOTS
        shares = [self.received[gpu][slot] for gpu in self.node.gpus]
        for gpu in self.node.each_gpu():
            whole = self.resident(gpu, layer)
            self.node.issuer.task("all_gather", gpu.h2d, shares, whole, work, spec.index)

    def _target(self, gpu: GpuNames, layer: int, page: int | None) -> list[Buffer]:
        """Where a copy goes: to the layer's slot, of which a gather takes the GPU's own share."""
        if self.gathered:
            own = self.received[gpu][(self.node.base + layer) % SLOTS]
            return [own, *self.resident(gpu, layer)]
        return self._some(self.resident(gpu, layer), page)

    def _bytes(self, spec: LayerSpec, page: int | None) -> float:
        return self.streamed(spec) / self.shards / (1 if page is None else self.pages)

    @staticmethod
    def _some(buffers: list[Buffer], page: int | None) -> list[Buffer]:
        return buffers if page is None else [buffers[page]]
