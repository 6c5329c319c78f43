"""SiDA: a small network names the experts of a whole batch before the model runs."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from schedules.choices import token_counts
from schedules.expert.moving import MovesExperts
from schedules.expert.places import Places
from schedules.expert.sida_predictor import HashFunction
from schedules.expert.sida_residents import Counts, residents_of
from schedules.model import LayerSpec
from schedules.node import Node, Slot
from schedules.task import Task, Work

ACCURACY = 0.96
"""Hash hits rate: mean of the six published ones, 90.49 to 99.00 % (table 5). They count a hit when
the right expert is among three; of the first alone no rate is published, and it is lower."""


class SiDA(MovesExperts):
    """While a batch runs, another thread names the experts of the next one, in all layers at once
    (SiDA-MoE, arXiv 2310.18859, sections 3.1 and 3.4, algorithm 1).

    A batch is a micro-batch. Its experts are copied before its first layer, as in the authors'
    code, and those that it does not need leave the GPU; with `per_layer` a layer's experts are
    copied as soon as the batch before has passed it. With a budget (`cache_ratio`) experts stay
    until they leave first in first out. What finds no room is copied at its layer's turn. Routers
    never run, in the encoder neither; a wrong prediction runs the wrong expert, which costs
    accuracy, not time: `wrong_share` is one minus `accuracy`. What is computed then:
    `runtime.predictor`.

    The tokens of a decode step are known when the step before has ended, so nothing hides the
    predictor of its first batch. It runs on the CPU (stream `cpu`).

    Simplified: the authors' predictor runs on the GPU, in a thread of its own; their code copies
    experts that leave back to host memory, here they are still there. Assumed: expert weights in
    pageable memory, as in their code; as many experts per token as the model's router takes.
    """

    name = "sida"
    title = "a predictor names all layers' experts of the next batch; routers never run"
    paper = "SiDA-MoE, arXiv 2310.18859, sections 3.1 and 3.4, algorithm 1"
    change = "predicted"
    knobs = MovesExperts.knobs | {"cache_ratio", "per_layer", "accuracy"}
    one_batch = False
    pinned_default = "never"
    sync_default = False

    def __init__(self, node: Node) -> None:
        self.per_layer = node.policy.per_layer
        self.heads: dict[int, dict[LayerSpec, Task]] = {}  # of the predictor, by micro-batch
        self.table: Counts = {}  # of the batch that runs
        super().__init__(node)

    def make_room(self) -> None:
        node = self.node
        self.hash = HashFunction(node.work, self.moe_layers)
        node.on_host("hash function", self.hash.weight_bytes)
        self.states = [
            node.on_host(
                f"predictor states[{j}]",
                self.hash.state_bytes(node.final_context(j), batch.size, batch.prompt_tokens),
            )
            for j, batch in enumerate(node.batches)
        ]
        sizes = [self.hash.table_bytes(batch.prompt_tokens) for batch in node.batches]
        self.tables = [
            node.on_host(f"hash table[{j}]", size, node.pinned) for j, size in enumerate(sizes)
        ]
        self.choices = [
            node.on_gpu(self.gpu, f"choices[{j}]", size) for j, size in enumerate(sizes)
        ]
        layers = self.moe_layers
        slots, others = self._places("", layers, 0), self._places("other ", layers, 0)
        self.residents = residents_of(node, self.gpu, slots, others)
        self.cache_of_experts = self.residents.cache

    # -- the two threads ------------------------------------------------------------------------

    def prefill(self) -> None:
        self.run_batches(self.prefill_layer)

    def decode_step(self) -> None:
        self.run_batches(self.decode_layer)

    def run_batches(self, run_layer: Callable[[Slot], None]) -> None:
        """The inference thread: one batch after the other through all layers."""
        node = self.node
        for j in range(node.n_micro_batches):
            self.micro_batch, self.x = j, self.hidden[j]
            self.begin_batch(j)
            for layer in range(len(node.layers)):
                run_layer(Slot(layer, j))
            if not self.per_layer and j + 1 < node.n_micro_batches:
                node.issuer.barrier([self.gpu.gpu])

    def begin_batch(self, j: int) -> None:
        """Take the hash table, let the next one be built, and load the experts."""
        self.table = self.hash_table(j)
        if j + 1 < self.node.n_micro_batches:
            self.predict(j + 1)
        if not self.table:
            return
        self.load_choices(j)
        self.residents.leave(self.table)
        if not self.per_layer and self.bring(self.table):
            assert self.last_copy is not None
            self.node.issuer.wait(self.last_copy)

    def hash_table(self, j: int) -> dict[LayerSpec, NDArray[np.int64]]:
        """Tokens of each expert by layer; waits until the table has been built."""
        if j not in self.heads:
            self.predict(j)
        return {
            spec: token_counts(self.node.issuer.routing(head), spec.n_experts)
            for spec, head in self.heads.pop(j).items()
        }

    def predict(self, j: int) -> None:
        """The hash-building thread: name a batch's experts, layer by layer."""
        node, batch = self.node, self.node.batches[j]
        moe = [spec for spec in node.layers if spec.is_moe]
        self.heads[j] = {}
        if not moe:
            return
        read = self.hash.read_prompts(batch)
        if node.step:
            read = self.hash.read_tokens(batch.size, node.context(j))
        node.issuer.task("predict", "cpu", [], [self.states[j]], read, -1, j)
        reads, writes = [self.states[j]], [self.tables[j]]
        for spec in moe:
            work = self.hash.head(spec, node.tokens(j))
            self.heads[j][spec] = node.issuer.task(
                "predict_experts", "cpu", reads, writes, work, spec.index, j
            )

    # -- experts --------------------------------------------------------------------------------

    def encoder_moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        self.moe(slot, spec, tokens, after)

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        counts, work = self.table[spec], self.node.work
        if self.per_layer:
            self.bring({spec: counts})
        held, loads = self.residents.places(spec, counts)
        for loading in loads:
            self.load(*loading)
        after = work.join(work.ffn_norm(spec, tokens), after)
        choices = self.choices[self.micro_batch]
        self.run_experts(spec, tokens, counts, [choices, *held], after)

    def bring(self, named: Counts) -> bool:
        """Copy the experts that are not there; whether there were any."""
        loads = self.residents.bring(named)
        for loading in loads:
            self.load(*loading)
        return bool(loads)

    def load_choices(self, j: int) -> None:
        """The batch's hash table to the GPU."""
        node, tokens = self.node, self.node.tokens(j)
        size = sum(node.work.routed_bytes(spec, tokens) for spec in self.table)
        work = node.work.copy("h2d" if node.pinned else "h2d_pageable", size)
        reads, writes = [self.tables[j]], [self.choices[j]]
        node.issuer.task("load_choices", self.gpu.h2d, reads, writes, work, -1, j)

    # -- memory ---------------------------------------------------------------------------------

    def _encoder_places(self, tokens: float) -> Places:
        return self._places("encoder ", [], 0)

    def facts(self) -> dict[str, float]:
        """Hit rate of the experts on the GPU, and the share of choices that are expected wrong."""
        stated = self.node.policy.accuracy
        return super().facts() | {"wrong_share": 1 - (ACCURACY if stated is None else stated)}
