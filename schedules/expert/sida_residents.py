"""Which experts lie on the GPU under a memory budget; those without room pass through."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from schedules.expert.cache import ExpertCache
from schedules.expert.cache_counts import experts_in_ratio
from schedules.expert.cache_policies import FIFO, Key
from schedules.expert.places import Places
from schedules.model import LayerSpec
from schedules.node import GpuNames, Node
from schedules.task import Buffer

SPARE_BYTES = 1 << 20
"""GPU memory that is left when experts fill it: the runtime has token ids beside the buffers, and
rounds their sizes up."""

Counts = Mapping[LayerSpec, NDArray[np.int64]]
"""Tokens of each expert, by layer."""


class Loading(NamedTuple):
    """An expert of a layer, and the place to which it must be copied."""

    spec: LayerSpec
    expert: int
    place: Buffer


class Residents:
    """Experts of all layers on the GPU, first in first out.

    Parameters
    ----------
    slots: places that keep their expert; more are made as they are needed, up to `capacity`.
    others: places for the experts of one layer that find no slot.
    keep: experts that nobody asks for stay until their slot is needed; else they leave at once.
    """

    def __init__(self, slots: Places, others: Places, capacity: int, keep: bool) -> None:
        self.slots, self.others, self.keep = slots, others, keep
        self.cache = ExpertCache(capacity, FIFO())

    def leave(self, specs: Collection[LayerSpec]) -> None:
        """A batch begins that needs experts of these layers alone."""
        needed = {spec.number for spec in specs}
        self._drop(lambda layer, key: layer not in needed)

    def bring(self, named: Counts) -> list[Loading]:
        """Room for the experts of these layers; those that must be copied there.

        No expert that is named leaves for another one. Those that find no slot are left out.
        """
        wanted: dict[Key, tuple[LayerSpec, int]] = {
            (spec.number, expert): (spec, expert)
            for spec, counts in named.items()
            for expert in np.flatnonzero(counts).tolist()
        }
        layers = {spec.number for spec in named}
        self._drop(lambda layer, key: layer in layers and key not in wanted)
        return [
            Loading(*wanted[load.key], self.slots.take(load.slot + 1)[load.slot])
            for load in self.cache.request(wanted).loads
            if load.slot is not None
        ]

    def places(
        self, spec: LayerSpec, counts: NDArray[np.int64]
    ) -> tuple[list[Buffer], list[Loading]]:
        """Where a layer's experts are when they are computed, and which still must be copied."""
        slots, experts = self.cache.slots, np.flatnonzero(counts).tolist()
        missing = [expert for expert in experts if (spec.number, expert) not in slots]
        held = [
            self.slots.buffers[slots[spec.number, expert]]
            for expert in experts
            if (spec.number, expert) in slots
        ]
        others = self.others.take(len(missing))
        loads = [Loading(spec, *pair) for pair in zip(missing, others, strict=True)]
        return [*held, *others], loads

    def _drop(self, is_idle: Callable[[int, Key], bool]) -> None:
        """Without `keep`, those that nobody asks for leave the GPU."""
        if self.keep:
            return
        for key in list(self.cache.slots):
            if is_idle(cast(tuple[int, int], key)[0], key):
                self.cache.drop(key)


def residents_of(node: Node, gpu: GpuNames, slots: Places, others: Places) -> Residents:
    """As many experts as the policy's `cache_ratio` says; else those that a batch may need.

    Where not all of these find room, there is room for the others of one layer. To be called when
    all other memory of the GPU has been taken. Raises `Infeasible` where there is no room at all.
    """
    ratio, prompts = node.policy.cache_ratio, node.widest.prompt_tokens
    passes = ((node.prefill_layers, prompts), (node.model.decoder_layers, node.most_sequences))
    counts = [[_most(spec, tokens) for spec in stack if spec.is_moe] for stack, tokens in passes]
    needed = max(map(sum, counts))
    pool = node.issuer.pools[gpu.pool]
    free = max(0, pool.capacity_bytes - pool.used_bytes - SPARE_BYTES)
    capacity = int(free // max(slots.size_bytes + _row_bytes(node), 1))
    if ratio:
        decoder = [spec for spec in node.model.decoder_layers if spec.is_moe]
        experts = max((spec.n_experts for spec in decoder), default=0)
        capacity = experts_in_ratio(ratio, len(decoder), experts)
        slots.take(capacity)
    if capacity < needed:
        widest = max(max(stack, default=0) for stack in counts)
        others.take(widest)
        capacity = capacity if ratio else max(0, capacity - widest)
    return Residents(slots, others, capacity if ratio else min(capacity, needed), keep=ratio > 0)


def _row_bytes(node: Node) -> float:
    """The longest row of an expert's matrices: the runtime keeps room for one more in each place,
    as in all that receives rows."""
    model = node.model
    return max(model.hidden_size, model.expert_ffn_size) * node.work.b


def _most(spec: LayerSpec, tokens: float) -> int:
    """Experts that so many tokens take at most."""
    return int(min(spec.n_experts, tokens * spec.top_k))
