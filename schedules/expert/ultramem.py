"""UltraMem: a table of values in the place of experts, of which each token takes a few."""

from schedules.errors import BadInput
from schedules.expert.memory_layer import MemoryLayer
from schedules.expert.moving import MovesExperts
from schedules.expert.places import CachedPlaces, Places
from schedules.model import LayerSpec
from schedules.node import Slot
from schedules.task import Buffer, Work


class UltraMem(MovesExperts):
    """Every layer's routed experts are replaced by a memory layer with as many parameters, whose
    table stays in host memory (UltraMem, arXiv 2411.12364, sections 3 and 4; `memory_layer.py`).

    A stated abstraction: it answers what such a model would move, not how well it would speak, and
    it is another model, not the given one faster. The authors keep the table on GPUs; that it waits
    in host memory is assumed here. The GPU scores the keys and takes the best values of each token
    (`values`); their numbers travel to the host; one thread of the CPU copies these values, each
    once, from pageable memory to page-locked staging (`pin`); one copy brings them to the GPU,
    which adds them up. So `values` values a token travel, whatever the size of the table, where
    on-demand moves whole experts; only the keys grow, with the square root of the table.

    Simplified: any values are equally likely; copying single values is as fast as copying a block
    (each is some kilobytes); finding equal ones costs nothing. Not modelled: the skip from a memory
    layer's input to its output several layers later, which lets the paper's layers overlap with
    others; values in fewer bits. Shared experts and dense layers stay as they are.
    """

    name = "ultramem"
    title = "memory layers in place of experts; each token takes a few values of a table"
    paper = "UltraMem, arXiv 2411.12364, sections 3 and 4"
    knobs = frozenset({"values"})
    pinned_default = "never"
    sync_default = False
    steps_alike = True
    for_real = False
    decides = frozenset({"experts", "skip", "ssd"})  # no experts; the table is in host memory

    def make_room(self) -> None:
        node, work, values = self.node, self.node.work, self.node.policy.values
        self.memory = {spec: MemoryLayer(work, spec, values) for spec in self.moe_layers}
        layers = list(self.memory.values())
        fewest = min((layer.n for layer in layers), default=values)
        if values > fewest:
            raise BadInput(f"policy: values = {values}: a table of this model has {fewest}")
        tokens = {"encoder": node.widest.prompt_tokens, "decoder": self.most_tokens}
        numbers = [layer.id_bytes(tokens[layer.layer.stack]) for layer in layers]
        scores = [layer.score_bytes(tokens[layer.layer.stack]) for layer in layers]
        chosen = [layer.chosen_bytes(tokens[layer.layer.stack]) for layer in layers]
        taken = [self.taken_bytes(s, tokens[s.stack]) for s in self.moe_layers]
        keys = sum(layer.resident_bytes for layer in layers)
        node.on_gpu(self.gpu, "memory keys", keys)
        self.scores = node.on_gpu(self.gpu, "scores", max(scores, default=0.0))
        self.chosen = node.on_gpu(self.gpu, "chosen values", max(chosen, default=0.0))
        self.arrived = node.on_gpu(self.gpu, "values", max(taken, default=0.0))
        self.numbers = node.on_host("chosen values", max(numbers, default=0.0), True)
        self.staging = node.on_host("staging", max(taken, default=0.0), True)

    def home_of(self, spec: LayerSpec) -> Buffer:
        """The table: as large as the experts, pageable."""
        size = self.node.work.expert_bytes(spec)
        return self.node.on_host(f"memory table[{spec.stack} {spec.index}]", size)

    def taken_bytes(self, spec: LayerSpec, tokens: float) -> float:
        """The values that so many tokens take, each once."""
        return self.memory[spec].distinct(tokens) * self.memory[spec].value_bytes

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        self.look_up(spec, tokens, after)

    def when_named(
        self, spec: LayerSpec, tokens: float, after: Work | None, places: Places | CachedPlaces
    ) -> None:
        self.look_up(spec, tokens, after)

    def _encoder_places(self, tokens: float) -> Places:
        return self._places("encoder ", [], 0)

    def look_up(self, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        """Score, name, gather, copy, add up: nothing overlaps."""
        issuer, work, memory = self.node.issuer, self.node.work, self.memory[spec]
        where, size = (spec.index, self.micro_batch), self.taken_bytes(spec, tokens)
        scored = [self.scores, self.chosen]
        self.compute("score_keys", spec, [self.x], scored, memory.score(tokens))
        numbers = work.copy("d2h", memory.id_bytes(tokens))
        named = issuer.task(
            "send_ids", self.gpu.d2h, [self.chosen], [self.numbers], numbers, *where
        )
        issuer.wait(named)  # the host must know them before it can gather
        source, gathered = [self.numbers, self.home[spec]], work.copy("pin", size)
        issuer.task("gather_values", "pin", source, [self.staging], gathered, *where)
        brought = work.copy("h2d", size)
        issuer.task("load_values", self.gpu.h2d, [self.staging], [self.arrived], brought, *where)
        shared = work.shared_experts(spec, tokens) if spec.shared_parameters else None
        added = work.join(memory.weighted_sum(tokens), shared, after)
        self.compute("weighted_sum", spec, [self.x, self.chosen, self.arrived], [self.x], added)
