"""MoE-Gen: every module has a batch of its own, and that of the experts is the whole batch."""

from schedules.expert.pooled import PooledExperts
from schedules.model import LayerSpec
from schedules.node import Slot
from schedules.task import Work


class MoEGen(PooledExperts):
    """Module-based batching (MoE-Gen, arXiv 2503.09716, section 4).

    Attention runs in micro-batches, whose tokens accumulate in host memory. When all are there, the
    experts run one by one over the pooled tokens, in calls of as many as fit in the workspace. All
    experts of a layer are copied in order, chosen or not, the next ones while one computes
    (`expert_slots`, the paper's S_Expert: 2). The KV cache is in host memory: the CPU attends
    (A_g = 0) or each micro-batch's cache comes to the GPU (A_g = 1).

    Simplified: every expert has its mean share of the tokens, so all steps are alike; A_g is 0 or
    1, where the paper also splits a batch between CPU and GPU (its omega); attention weights stay
    on the GPU, and no expert does; prefill and decode have the same micro-batches; experts of the
    next layer are sent for when its attention begins. In the authors' code the pooled tokens stay
    on the GPU, as they do here with r_h = 1.
    """

    name = "moe-gen"
    title = "attention in micro-batches, then each expert over the tokens of all"
    paper = "MoE-Gen, arXiv 2503.09716, section 4"
    knobs = PooledExperts.knobs | {"A_g"}
    accumulates = True

    @property
    def attends_on_cpu(self) -> bool:
        return not self.node.policy.A_g

    def begin_layer(self, layer: int) -> None:
        """All experts, in order, of the layer with experts that comes next."""
        comes = next((spec for spec in self.node.layers[layer:] if spec.is_moe), None)
        if comes is not None and self.experts.spec is None:
            self.experts.begin(comes, range(comes.n_experts))

    def name_experts(self, spec: LayerSpec, slots: list[Slot]) -> dict[int, Work]:
        """No copy waits for a gate. Each expert gets its mean share of the pooled tokens."""
        for slot in slots:
            self.gate(spec, slot)
        tokens = sum(self.node.tokens(slot.micro_batch) for slot in slots)
        work = self.node.work.mean_expert(spec, tokens, self.node.widest.prompt_tokens)
        return dict.fromkeys(range(spec.n_experts), work)
