"""The tokens of all micro-batches between two modules: on the GPU, or waiting in host memory."""

from schedules.activations import Activations
from schedules.node import GpuNames, Node, Slot
from schedules.task import Buffer


class TokenPool(Activations):
    """Hidden states of every micro-batch, prompts included, on one GPU.

    `hidden` is their room on the GPU, where attention and experts work; a share 1 - r_h of them
    also goes to host memory (`put`) and comes back (`get`) when a module asks for that.

    Parameters
    ----------
    cpu_attention: make room for what the CPU's attention takes and gives.
    """

    def __init__(self, node: Node, cpu_attention: bool = False) -> None:
        self.node = node
        self.gpu: GpuNames
        (self.gpu,) = node.gpus
        work, layer = node.work, node.model.decoder_layers[0]
        sizes = [work.hidden_bytes(batch.prompt_tokens) for batch in node.batches]
        self.hidden = {
            self.gpu: [node.on_gpu(self.gpu, f"hidden[{j}]", s) for j, s in enumerate(sizes)]
        }
        self.away = 1 - node.policy.r_h
        self.host = [
            node.on_host(f"hidden[{j}]", size * self.away, True) for j, size in enumerate(sizes)
        ]
        if cpu_attention:
            self.qkv = self._each(node, "qkv", lambda n: work.qkv_bytes(layer, n), "gpu")
            self.qkv_host = self._each(node, "qkv", lambda n: work.qkv_bytes(layer, n), "host")
            out = "attended"
            self.attended = self._each(node, out, lambda n: work.attended_bytes(layer, n), "gpu")
            self.attended_host = self._each(
                node, out, lambda n: work.attended_bytes(layer, n), "host"
            )

    def at(self, micro_batch: int) -> Buffer:
        """The hidden states of a micro-batch on the GPU."""
        return self.hidden[self.gpu][micro_batch]

    @property
    def all(self) -> list[Buffer]:
        """Those of all micro-batches."""
        return self.hidden[self.gpu]

    def put(self, slot: Slot) -> None:
        """A micro-batch's hidden states to host memory."""
        here, there = self.at(slot.micro_batch), self.host[slot.micro_batch]
        self._move("store_hidden", slot, self.gpu.d2h, "d2h", here, there)

    def get(self, slot: Slot) -> None:
        """And back."""
        here, there = self.at(slot.micro_batch), self.host[slot.micro_batch]
        self._move("load_hidden", slot, self.gpu.h2d, "h2d", there, here)

    def _move(
        self, op: str, slot: Slot, stream: str, link: str, source: Buffer, target: Buffer
    ) -> None:
        if not self.away:
            return
        node, (layer, j) = self.node, slot
        size = node.work.hidden_bytes(node.tokens(j)) * self.away
        work, index = node.work.copy(link, size), node.spec(layer).index
        node.issuer.task(op, stream, [source], [target], work, index, j)
