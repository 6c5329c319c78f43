"""What schedules share that gather the tokens of all micro-batches before they run the experts."""

from abc import abstractmethod
from typing import ClassVar

from schedules.activations import keep_resident
from schedules.contents import Span
from schedules.expert.expert_queue import ExpertQueue
from schedules.expert.host_attention import HostAttention
from schedules.expert.token_pool import TokenPool
from schedules.kernels import Kernels
from schedules.model import LayerSpec
from schedules.node import GpuNames, Node, Slot
from schedules.schedule import Schedule
from schedules.task import Buffer, Task, Work


class PooledExperts(Schedule):
    """One GPU. In each layer all micro-batches pass the attention, then each expert runs once.

    Experts and KV cache are in host memory; attention weights, routers, shared experts, dense FFNs
    and embeddings stay on the GPU. Experts arrive one by one, in an order that the schedule says,
    and are computed in that order; their copies are sent for between micro-batches, so that they
    do not hold up what the attention needs.
    """

    for_real = False

    kernels = Kernels(experts="loop")
    knobs = frozenset({"pinned", "r_h", "expert_slots"})
    pinned_default = "if_it_fits"
    host_pieces = "expert"
    accumulates: ClassVar[bool] = False  # tokens wait in host memory before the FFN, too
    pins_cache: ClassVar[bool] = True  # the KV cache is page-locked where the weights are

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        (self.gpu,) = node.gpus
        keep_resident(node)
        home = experts_in_host_memory(node, self.gpu)
        self.x = TokenPool(node, self.attends_on_cpu)
        pool = sum(buffer.bytes for buffer in self.x.all)
        self.outputs = node.on_gpu(self.gpu, "expert outputs", pool if home else 0)
        self.routed = [
            node.on_gpu(
                self.gpu,
                f"routed[{batch.index}]",
                max((node.work.routed_bytes(s, batch.prompt_tokens) for s in home), default=0.0),
            )
            for batch in node.batches
        ]
        pinned = self.pins_cache and node.pinned
        self.attention = HostAttention(node, self.x, self.attends_on_cpu, pinned)
        self.experts = ExpertQueue(node, self.gpu, home, node.policy.expert_slots or self.slots)

    # -- what differs ---------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """Places for experts on the GPU, where the policy does not say."""
        return 2

    @property
    def attends_on_cpu(self) -> bool:
        """Whether the CPU computes the attention of decode."""
        return False

    @abstractmethod
    def begin_layer(self, layer: int) -> None:
        """Before the attention of a layer: say which experts come first, if that is known."""

    @abstractmethod
    def name_experts(self, spec: LayerSpec, slots: list[Slot]) -> dict[int, Work]:
        """Issue the gates (`gate`) of all micro-batches; returns what each expert then computes.

        All experts that are to come must have been sent for, or be in the queue, when it returns.
        """

    # -- the pass -------------------------------------------------------------------------------

    def prefill(self) -> None:
        self.all_layers()

    def decode_step(self) -> None:
        self.attention.begin_step()
        self.all_layers()

    def all_layers(self) -> None:
        """Attention of all micro-batches, then the FFN of all, layer by layer."""
        for layer, spec in enumerate(self.node.layers):
            slots = [Slot(layer, j) for j in range(self.node.n_micro_batches)]
            self.begin_layer(layer)
            self.attend(slots)
            self.experts.bring_all()
            if self.accumulates:
                for slot in slots:
                    self.x.get(slot)
            if spec.is_moe:
                self.moe(spec, slots)
                continue
            for slot in slots:
                tokens = self.node.tokens(slot.micro_batch)
                self.finish("compute_ffn", slot, [], self.node.work.ffn(spec, tokens))

    def attend(self, slots: list[Slot]) -> None:
        """The attention of a layer, and after each micro-batch the copy of an expert."""
        on_cpu = self.attends_on_cpu and self.node.step > 0
        for slot in slots:
            if slot.layer:
                self.x.get(slot)
            if on_cpu:
                self.attention.start_on_cpu(slot)
        if on_cpu:
            self.experts.bring()
        for slot in slots:
            if on_cpu:
                self.attention.finish_on_cpu(slot)
            elif self.node.step:
                self.attention.decode(slot)
            else:
                self.attention.prefill(slot)
            if self.accumulates:
                self.x.put(slot)
            self.experts.bring()

    def moe(self, spec: LayerSpec, slots: list[Slot]) -> None:
        """The gates of all micro-batches, the experts one by one, and their sum."""
        node = self.node
        chosen = self.name_experts(spec, slots)
        self.experts.bring_all()
        for expert in self.experts.order:
            place = self.experts.take()
            if expert in chosen:  # over the pooled tokens that take it
                reads, gpu = [*self.x.all, *self.routed, place], self.gpu.gpu
                work = chosen[expert]
                node.issuer.task("expert", gpu, reads, [self.outputs], work, spec.index)
            self.experts.bring()
        self.experts.end()
        for slot in slots:
            work = node.work.combine(spec, node.tokens(slot.micro_batch))
            self.finish("combine", slot, [self.outputs], work)

    def gate(self, spec: LayerSpec, slot: Slot) -> Task:
        """Let the gate name the experts of a micro-batch."""
        j, work = slot.micro_batch, self.node.work
        whole = work.gate(spec, self.node.tokens(j))
        return self.compute("gate", slot, [self.x.at(j)], [self.routed[j]], whole)

    def finish(self, op: str, slot: Slot, reads: list[Buffer], work: Work) -> None:
        """The end of a layer for a micro-batch, with what follows the last layer."""
        node, (layer, j) = self.node, slot
        if not node.is_last(layer):
            self.compute(op, slot, [self.x.at(j), *reads], [self.x.at(j)], work)
            self.x.put(slot)
            return
        batch = node.batches[j]
        after = node.work.head(batch.size) if node.step else node.work.end_of_prefill(batch)
        makes_kv = node.step == 0 and node.model.is_encoder_decoder
        made = [self.attention.new(slot)] if makes_kv else []
        whole = node.work.join(work, after)
        self.compute(op, slot, [self.x.at(j), *reads], [self.x.at(j), *made], whole)
        if makes_kv:
            self.attention.store_prompt(slot)

    def compute(
        self, op: str, slot: Slot, reads: list[Buffer], writes: list[Buffer], work: Work
    ) -> Task:
        """A computation on the GPU."""
        index, gpu = self.node.spec(slot.layer).index, self.gpu.gpu
        return self.node.issuer.task(op, gpu, reads, writes, work, index, slot.micro_batch)


def experts_in_host_memory(node: Node, gpu: GpuNames) -> dict[LayerSpec, Buffer]:
    """Room for the experts of each layer in host memory, and for the dense FFNs on the GPU."""
    work = node.work
    dense = [spec for spec in node.all_layers if not spec.is_moe]
    size = sum(work.expert_bytes(spec) for spec in dense)
    node.on_gpu(gpu, "dense FFNs", size, [Span(spec.number, "experts") for spec in dense])
    return {
        spec: node.on_host(
            f"host weights[{spec.stack} {spec.index}]",
            work.expert_bytes(spec),
            node.pinned,
            [Span(spec.number, "experts")],
        )
        for spec in node.all_layers
        if spec.is_moe
    }
