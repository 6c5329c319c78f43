"""KTransformers: routed experts on the CPU, everything else on the GPU."""

import numpy as np
from numpy.typing import NDArray

from schedules.errors import BadInput
from schedules.expert.on_cpu import ExpertsOnCPU
from schedules.kernels import Kernels
from schedules.model import LayerSpec
from schedules.node import Node
from schedules.routing_popularity import popularity
from schedules.task import Work


class KTransformers(ExpertsOnCPU):
    """The CPU computes the routed experts where their weights lie, while the GPU computes the
    shared ones; no expert ever moves (KTransformers, SOSP 2025; the authors' code, kt-kernel).

    The thread asks no gate: the tokens' ids go to the CPU with their hidden states, and the CPU's
    own queue runs what they name. Amounts are therefore those expected of the routing.

    Expert deferral (`deferred` of top-k, decode only): of each token's experts those with the
    highest scores are computed at once; an expert that is so protected by one token is so for all.
    The CPU goes on with the others while the GPU is at the next layer's attention, and adds them to
    the output of the next block. The last block defers none. This changes the function.

    Simplified: gate scores are exchangeable, so the protected experts are drawn like any others;
    no CUDA graph, but the thread never waits; AMX and NUMA placement are what the hardware's rates
    say. Prefill without deferral, and one fork and join for all experts of a task, are assumed. Not
    modelled: popular experts on the GPU, quantised experts.
    """

    name = "ktransformers"
    title = "routed experts on the CPU, attention and shared experts on the GPU"
    paper = "KTransformers, SOSP 2025 (expert deferral: kt-kernel, experts_base.py)"
    kernels = Kernels(experts="loop", cpu_experts="fused")
    knobs = frozenset({"deferred"})
    pinned_default = "never"
    sync_default = False
    steps_alike = True
    turns = 2  # what is deferred comes out with the next block, beside what this one gives
    pins_tokens = True
    host_pieces = "span"  # the CPU computes all experts of a layer in one task

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.blocks = [spec for spec in self.moe_layers if spec.stack == "decoder"]
        deferred, top_k = node.policy.deferred, node.model.top_k
        if deferred >= top_k:
            raise BadInput(
                f"policy: deferred = {deferred}: top-k of '{node.model.name}' is {top_k}, and at "
                f"least one expert of a token is computed at once; give 0 to {top_k - 1}"
            )
        self.choices = self.late = 0.0  # of decode: all, and those that were deferred

    def ffn(self, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        turn = self.moe_layers.index(spec) % self.turns
        gate = self.node.work.gate(spec, tokens)
        self.compute("gate", spec, [self.x], [self.routed], gate)
        self.send(spec, tokens, turn)
        now, later = self.split(spec, tokens)
        self.on_cpu("cpu_experts", spec, *now, (turn, turn))
        if later is not None:
            self.on_cpu("deferred_experts", spec, *later, (turn, 1 - turn))
        parts = [*self.shared(spec, tokens), self.fetch(spec, tokens, turn)]
        self.combine(spec, tokens, parts, after)

    def split(
        self, spec: LayerSpec, tokens: float
    ) -> tuple[tuple[float, float], tuple[float, float] | None]:
        """Expected (experts, choices) that are computed at once, and those that are deferred."""
        shape = spec.n_experts, spec.top_k, spec.stack, spec.index
        distinct = self.node.work.routing.expected_distinct(tokens, *shape, kept=spec.kept)
        every = distinct, tokens * spec.choices
        now, later = every, None
        if deferred := self.deferred(spec):
            shares = popularity(self.node.work.routing, spec)
            now = protected(shares, 1 - deferred / spec.top_k, tokens)
            later = max(0.0, every[0] - now[0]), max(0.0, every[1] - now[1])
        if self.node.step > 0:
            self.choices += every[1]
            self.late += later[1] if later else 0.0
        return now, later

    def deferred(self, spec: LayerSpec) -> int:
        """How many of each token's experts wait for the next block."""
        if self.node.step == 0 or spec == self.blocks[-1]:
            return 0
        return self.node.policy.deferred

    def facts(self) -> dict[str, float]:
        """Share of decode's choices that reached the next block only, if any may."""
        if not (self.node.policy.deferred and self.choices):
            return {}
        return {"deferred_share": self.late / self.choices}


def protected(shares: NDArray[np.float64], kept: float, tokens: float) -> tuple[float, float]:
    """Expected experts that at least one token protects, and choices of them by all tokens.

    A token takes an expert with probability p (`shares`) and protects it with q = `kept` x p; n
    tokens protect it with 1 - (1 - q)^n. Its choice by a token is of a protected expert with q, or
    else, with p - q, where one of the n - 1 other tokens protects it.

    >>> protected(np.full(8, 2 / 8), kept=1 / 2, tokens=2)
    (1.875, 2.25)
    """
    q = kept * shares
    by_others = 1 - (1 - q) ** (tokens - 1)
    rows = tokens * np.sum(q + (shares - q) * by_others)
    return float(np.sum(1 - (1 - q) ** tokens)), float(rows)
