"""The KV cache: one block per decoder layer and micro-batch, on the host, the GPU, or both."""

from schedules.contents import KVSpan
from schedules.node import GpuNames, Node
from schedules.task import Buffer
from schedules.tensor_parallel import PerGpu


class KVCache:
    """Room for the prompts and all generated tokens.

    Parameters
    ----------
    gpu_share: share of every block that lies on the GPU; the rest is in host memory.
    moves: whether the host's share travels to the GPU (then it is page-locked if the node's
        host memory is), or is read in place by the CPU.
    """

    def __init__(self, node: Node, gpu_share: float, moves: bool = False) -> None:
        self.node = node
        self.gpu_share = gpu_share
        self.host: dict[GpuNames, list[list[Buffer]]] = {}
        self.gpu: dict[GpuNames, list[list[Buffer]]] = {}
        pinned = moves and node.pinned
        sizes = [self._sizes(spec.index) for spec in node.model.decoder_layers]
        for gpu in node.gpus:
            self.host[gpu] = [
                [
                    node.on_host(
                        f"KV[{layer},{j}]",
                        size * (1 - gpu_share),
                        pinned,
                        [KVSpan(layer, j, gpu_share)] if gpu_share < 1 else [],
                        gpu,
                    )
                    for j, size in enumerate(blocks)
                ]
                for layer, blocks in enumerate(sizes)
            ]
            if gpu_share:
                self.gpu[gpu] = [
                    [
                        node.on_gpu(
                            gpu,
                            f"KV[{layer},{j}]",
                            size * gpu_share,
                            [KVSpan(layer, j, 0.0, gpu_share)],
                        )
                        for j, size in enumerate(blocks)
                    ]
                    for layer, blocks in enumerate(sizes)
                ]

    def _sizes(self, layer: int) -> list[float]:
        node = self.node
        spec = node.model.decoder_layers[layer]
        return [
            node.work.kv_bytes(spec, node.final_context(j)) for j in range(node.n_micro_batches)
        ]

    def on_gpu(self, gpu: GpuNames, layer: int, micro_batch: int) -> list[Buffer]:
        """The GPU's share of a block; nothing when it holds none."""
        return [self.gpu[gpu][layer][micro_batch]] if self.gpu_share else []

    def filled_by(self, layer: int) -> range:
        """Decoder layers whose blocks are filled after prefill layer `layer`.

        A decoder fills its own layer's block. In an encoder-decoder model the cross-attention
        keys and values of all decoder layers follow from the encoder's output.
        """
        if not self.node.model.is_encoder_decoder:
            return range(layer, layer + 1)
        last = layer == len(self.node.prefill_layers) - 1
        return range(len(self.node.model.decoder_layers) if last else 0)

    def on_gpus(self, layer: int, micro_batch: int) -> PerGpu:
        """`on_gpu` for every GPU."""
        return {g: self.on_gpu(g, layer, micro_batch) for g in self.node.gpus}

    def filled_on_gpus(self, layer: int, micro_batch: int) -> PerGpu:
        """The GPUs' share of the blocks that prefill layer `layer` fills."""
        layers = self.filled_by(layer)
        return {
            g: [b for i in layers for b in self.on_gpu(g, i, micro_batch)] for g in self.node.gpus
        }

    def prompt_bytes(self, layers: range, micro_batch: int) -> float:
        """Bytes of the prompt's keys and values in the host's share of these layers."""
        node = self.node
        tokens = node.batches[micro_batch].prompt_tokens
        specs = (node.model.decoder_layers[i] for i in layers)
        return sum(node.work.kv_bytes(spec, tokens) for spec in specs) * (1 - self.gpu_share)

    def store_prompt(
        self, gpu: GpuNames, layer: int, micro_batch: int, source: Buffer, link: str = "d2h"
    ) -> None:
        """Copy what a prefill layer has computed to the host's share of the cache."""
        layers = self.filled_by(layer)
        size = self.prompt_bytes(layers, micro_batch)
        if not size:
            return
        self.node.issuer.task(
            "store_kv",
            gpu.d2h,
            reads=[source],
            writes=[self.host[gpu][i][micro_batch] for i in layers],
            work=self.node.work.copy(link, size),
            layer=layer,
            micro_batch=micro_batch,
        )
