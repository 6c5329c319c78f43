"""FastDecode*: CGOPipe's overlap of CPU attention, with the next layer's weights as one block."""

from schedules.batch.cgopipe import CGOPipe
from schedules.node import Slot


class FastDecode(CGOPipe):
    """FastDecode (arXiv 2403.11421) extended by weight offloading, as in MoE-Lightning's figure 6.

    All is as in CGOPipe but the weights: the next layer's are pinned and copied as one block at
    the first micro-batch, so later hidden states queue behind them on the link.
    """

    name = "fastdecode"
    title = "CPU attention, weights as one block per layer"
    paper = "MoE-Lightning, arXiv 2411.11217, section 4.1 (FastDecode*); FastDecode, 2403.11421"
    knobs = frozenset({"r_w", "pinned"})

    def pin(self, slot: Slot) -> None:
        """Nothing ahead of time: the block is pinned when it is copied."""

    def load_weights(self, slot: Slot) -> None:
        """The whole next layer, at the first micro-batch only."""
        if slot.micro_batch == 0:
            self.weights.pin(slot.layer + 1)
            self.weights.load(slot.layer + 1)
