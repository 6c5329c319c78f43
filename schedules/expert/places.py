"""Places on the GPU, each with room for one expert: for one layer at a time, or as a cache."""

from collections.abc import Sequence
from typing import NamedTuple

from schedules.expert.cache import ExpertCache
from schedules.expert.cache_policies import Key
from schedules.model import LayerSpec
from schedules.node import GpuNames, Node
from schedules.task import Buffer


class Assigned(NamedTuple):
    """Where the experts of a layer are: `loads` must be copied there first; `held` are all."""

    loads: tuple[tuple[int, Buffer], ...]
    held: tuple[Buffer, ...]


class Places:
    """Room for the experts of one layer at a time.

    Parameters
    ----------
    tag: tells the places of one schedule apart.
    size_bytes: of a place.
    count: places to begin with; more are made when a layer needs them, and stay.
    """

    def __init__(self, node: Node, gpu: GpuNames, tag: str, size_bytes: float, count: int) -> None:
        self.node, self.gpu, self.tag, self.size_bytes = node, gpu, tag, size_bytes
        self.buffers: list[Buffer] = []
        self.take(count)

    def take(self, count: int) -> list[Buffer]:
        """The first `count` places. Raises `Infeasible` where there is no room for more."""
        while len(self.buffers) < count:
            name = f"experts[{self.tag}{len(self.buffers)}]"
            self.buffers.append(self.node.on_gpu(self.gpu, name, self.size_bytes))
        return self.buffers[:count]

    def assign(self, spec: LayerSpec, experts: Sequence[int]) -> Assigned:
        """The first places, whatever was there before."""
        held = tuple(self.take(len(experts)))
        return Assigned(tuple(zip(experts, held, strict=True)), held)

    def release(self, spec: LayerSpec, experts: Sequence[int]) -> None:
        """The layer's experts have been computed."""


class CachedPlaces:
    """A cache of experts of all `blocks`; what it has no room for comes to `others`.

    What is assigned stays until it is released: a schedule that brings one layer's experts before
    it computes another's must not lose the latter.
    """

    def __init__(
        self, slots: Places, cache: ExpertCache, others: Places, blocks: Sequence[LayerSpec]
    ) -> None:
        self.slots, self.cache, self.others = slots, cache, others
        self.number = {spec.index: i for i, spec in enumerate(blocks)}
        slots.take(cache.capacity)

    def assign(self, spec: LayerSpec, experts: Sequence[int]) -> Assigned:
        """Slots of the cache, those of hits among them."""
        expert_of: dict[Key, int] = {
            (self.number[spec.index], expert): expert for expert in experts
        }
        plan = self.cache.request(expert_of)
        streamed = iter(self.others.take(len(plan.streamed)))
        loads = tuple(
            (
                expert_of[load.key],
                next(streamed) if load.slot is None else self.slots.buffers[load.slot],
            )
            for load in plan.loads
        )
        for key in expert_of:
            if key in self.cache:
                self.cache.pin(key)
        hits = (self.slots.buffers[slot] for slot in plan.hits.values())
        return Assigned(loads, (*hits, *(place for _, place in loads)))

    def release(self, spec: LayerSpec, experts: Sequence[int]) -> None:
        """The layer's experts have been computed; others may take their slots."""
        for expert in experts:
            self.cache.unpin((self.number[spec.index], expert))
