"""The decoder's experts resident: what Pre-gated MoE calls GPU-only."""

from schedules.contents import Span
from schedules.expert.moving import MovesExperts
from schedules.model import LayerSpec
from schedules.node import Slot
from schedules.task import Work


class DecoderResident(MovesExperts):
    """All experts of the decoder stay on the GPU; an encoder's come when their gate has named them
    (GPU-only of Pre-gated MoE, arXiv 2308.12066, section 5: the published peak memory has room for
    one stack's experts).
    """

    name = "decoder-resident"
    title = "the decoder's experts on the GPU, the encoder's on demand"
    paper = "Pre-gated MoE, arXiv 2308.12066, section 5 (GPU-only)"

    def make_room(self) -> None:
        node = self.node
        blocks = [spec for spec in node.model.decoder_layers if spec.is_moe]
        size = sum(map(node.work.expert_bytes, blocks))
        node.on_gpu(self.gpu, "expert weights", size, [Span(s.number, "experts") for s in blocks])

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        self.in_place(spec, tokens, self.asked(spec, tokens), [], after)
