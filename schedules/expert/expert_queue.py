"""Experts that arrive one by one in a ring of places, and leave in the same order."""

from collections import deque
from collections.abc import Sequence

from schedules.contents import Span
from schedules.model import LayerSpec
from schedules.node import GpuNames, Node
from schedules.task import Buffer


class ExpertQueue:
    """The experts of one layer at a time.

    Parameters
    ----------
    home: where each layer's experts are in host memory.
    places: how many experts the GPU has room for.
    """

    def __init__(
        self, node: Node, gpu: GpuNames, home: dict[LayerSpec, Buffer], places: int
    ) -> None:
        self.node, self.gpu, self.home = node, gpu, home
        size = max((self._bytes(spec) for spec in home), default=0.0)
        count = min(places, max((spec.n_experts for spec in home), default=0))
        self.places = [node.on_gpu(gpu, f"experts[{i}]", size) for i in range(count)]
        self.turn = 0
        self.spec: LayerSpec | None = None
        self.order: list[int] = []  # experts of the layer, as they come
        self.brought = 0  # how many of them have been sent for
        self.here: deque[Buffer] = deque()  # places of those that have not been taken

    def begin(self, spec: LayerSpec, order: Sequence[int]) -> None:
        """The next layer and its first experts."""
        self.spec, self.order, self.brought = spec, list(order), 0

    def add(self, experts: Sequence[int]) -> list[int]:
        """More experts of the layer, at the end: those of them that are not in the queue yet."""
        new = [expert for expert in dict.fromkeys(experts) if expert not in self.order]
        self.order += new
        return new

    def bring(self) -> None:
        """Copy the next expert, if there is one and a place for it."""
        if self.spec is None or self.brought == len(self.order):
            return
        if len(self.here) == len(self.places):
            return
        spec, place = self.spec, self.places[self.turn % len(self.places)]
        link = "h2d" if self.node.pinned else "h2d_pageable"
        self.node.issuer.task(
            "load_expert",
            self.gpu.h2d,
            [self.home[spec]],
            [place],
            self.node.work.copy(link, self._bytes(spec)),
            spec.index,
            what=(Span(spec.number, "expert", expert=self.order[self.brought]),),
        )
        self.here.append(place)
        self.brought, self.turn = self.brought + 1, self.turn + 1

    def bring_all(self) -> None:
        """Copy as many experts as there are places for."""
        for _ in self.places:
            self.bring()

    def take(self) -> Buffer:
        """The place of the expert whose turn it is; free for another one after its tasks so far."""
        return self.here.popleft()

    def end(self) -> None:
        """All experts of the layer have been taken."""
        self.spec, self.order, self.brought = None, [], 0

    def _bytes(self, spec: LayerSpec) -> float:
        return self.node.work.expert_bytes(spec) / spec.n_experts
