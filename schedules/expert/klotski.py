"""Klotski: several batches share one pass of a layer, and the hot experts are computed first."""

import numpy as np
from numpy.typing import NDArray

from schedules.choices import SKIPPED, first_instead, token_counts
from schedules.expert.pooled import PooledExperts
from schedules.expert.popularity import Popularity
from schedules.kernels import Kernels
from schedules.model import LayerSpec
from schedules.node import Node, Slot
from schedules.task import Work


class Klotski(PooledExperts):
    """Expert-aware multi-batch pipeline (Klotski, arXiv 2502.06888, section 5).

    The micro-batches are the batches of a group, which pass each layer together. While they
    attend, the top_k hottest experts come, predicted from the experts that the tokens took in the
    layer before (`Popularity`). After each batch's gate the experts that it adds are sent for. The
    hot ones are computed first, while the others arrive, and these in the order of their copies,
    each for one batch after the other. Each batch's KV cache, in pageable host memory, comes to
    the GPU for its attention.

    Simplified: host memory holds all (no disk tier); attention weights stay on the GPU; no
    quantisation and no sparse attention; the counts of the predictor start at zero, where the
    system measures them in a run before; all copies to the GPU share a stream, the system has one
    for each kind; the number of batches is the user's (N / mu), not a planner's.
    """

    name = "klotski"
    title = "several batches share a layer; hot experts first, the others arrive meanwhile"
    paper = "Klotski, arXiv 2502.06888, section 5"
    kernels = Kernels(experts="loop", logits="all")
    steps_alike = False
    pins_cache = False  # as in the authors' code

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.popularity = Popularity()
        self.before: list[NDArray[np.int64]] = []  # experts of each micro-batch, layer before
        self.now: list[NDArray[np.int64]] = []
        self.needed = self.prefetched = self.right = 0  # experts, over all layers and passes

    @property
    def slots(self) -> int:
        """Room for all experts of a layer: none is dropped before it has been computed."""
        return max((spec.n_experts for spec in self.node.all_layers if spec.is_moe), default=0)

    def begin_layer(self, layer: int) -> None:
        """Predict the hot experts."""
        spec = self.node.spec(layer)
        if layer == 0:
            self.now = []
        if not spec.is_moe:
            return
        self.before, self.now = self.now, []
        counts = None
        if self.before:
            taken = np.concatenate(self.before).ravel()
            counts = np.bincount(taken, minlength=spec.n_experts)
        self.hot = self.popularity.predict(spec, counts, spec.top_k)
        self.experts.begin(spec, self.hot)

    def name_experts(self, spec: LayerSpec, slots: list[Slot]) -> dict[int, Work]:
        """After each batch's gate, send for the experts that it adds, in the order of its tokens.

        An expert is computed for one batch after the other: a call for each that takes it.
        """
        counted = []
        for slot in slots:
            ids = self.node.issuer.routing(self.gate(spec, slot))
            self.experts.add(ids[ids != SKIPPED].tolist())
            self.experts.bring()
            before = self.before[slot.micro_batch] if self.before else None
            taken = first_instead(ids)
            self.popularity.learn(spec, before, taken)
            self.now.append(taken)
            counted.append(token_counts(ids, spec.n_experts))
        counts = np.array(counted)
        calls = {e: tuple(n[n > 0].tolist()) for e, n in enumerate(counts.T) if n.any()}
        self.needed += len(calls)
        self.prefetched += len(self.hot)
        self.right += len(calls.keys() & self.hot)
        return {e: self.node.work.one_expert(spec, rows) for e, rows in calls.items()}

    def facts(self) -> dict[str, float]:
        """Shares of experts: needed ones that came before their gate, and prefetched in vain."""
        return {
            "hit_rate": self.right / max(1, self.needed),
            "wrong_share": 1 - self.right / self.prefetched if self.prefetched else 0.0,
        }
