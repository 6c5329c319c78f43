"""On-demand: experts stay in host memory until a gate names them."""

from schedules.expert.moving import MovesExperts
from schedules.model import LayerSpec
from schedules.node import Slot
from schedules.task import Work


class OnDemand(MovesExperts):
    """Gate, wait, copy the activated experts, run them (MoE-OnDemand).

    The issuing thread reads back the expert ids of each gate, so nothing is issued meanwhile, and
    copies and computation take turns. Each layer's experts replace those of the layer before,
    unless there is a cache (`cache`, `cache_ratio`). Source: Pre-gated MoE (arXiv 2308.12066),
    sections 3 and 5 (MoE-OnDemand).
    """

    name = "on-demand"
    title = "experts copied when the gate has named them, nothing overlaps"
    paper = "Pre-gated MoE, arXiv 2308.12066, sections 3 and 5 (MoE-OnDemand)"

    knobs = MovesExperts.knobs | {"cache", "cache_ratio"}

    def make_room(self) -> None:
        places = self.places("", self.node.model.decoder_layers, self.most_tokens)
        (self.room,) = self.cached([places])

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        self.when_named(spec, tokens, after, self.room)
