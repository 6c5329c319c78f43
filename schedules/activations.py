"""Buffers that every schedule needs beside weights and KV cache."""

from collections.abc import Callable

from schedules.contents import Span
from schedules.node import GpuNames, Node
from schedules.task import Buffer


class Activations:
    """Per GPU and micro-batch: hidden states, and what travels to and from the CPU.

    Parameters
    ----------
    offload: make room, in page-locked host memory, for what the CPU's attention takes and gives,
        and for the hidden states of prefill, of which the GPU holds `depth` micro-batches with
        the keys and values that a layer has just made of them.
    """

    depth = 2

    def __init__(self, node: Node, offload: bool = True) -> None:
        self.hidden = self._each(node, "hidden", node.work.hidden_bytes, "gpu")
        if offload:
            self._offload(node)

    def _offload(self, node: Node) -> None:
        work, spec = node.work, node.model.decoder_layers[0]
        self.qkv = self._each(node, "qkv", lambda n: work.qkv_bytes(spec, n), "gpu")
        self.qkv_host = self._each(node, "qkv", lambda n: work.qkv_bytes(spec, n), "host")
        self.attended = self._each(node, "attended", lambda n: work.attended_bytes(spec, n), "gpu")
        self.attended_host = self._each(
            node, "attended", lambda n: work.attended_bytes(spec, n), "host"
        )
        prompts = [work.hidden_bytes(batch.prompt_tokens) for batch in node.batches]
        widest = max(prompts)
        self.depth = min(self.depth, node.n_micro_batches)
        new_kv = work.kv_bytes(spec, node.widest.prompt_tokens)  # until it has been stored
        self.prompt = {
            g: [node.on_gpu(g, f"prompt hidden[{d}]", widest + new_kv) for d in range(self.depth)]
            for g in node.gpus
        }
        self.prompt_host = {
            g: [
                node.on_host(f"prompt hidden[{j}]", size, True, gpu=g)
                for j, size in enumerate(prompts)
            ]
            for g in node.gpus
        }

    @staticmethod
    def _each(
        node: Node, name: str, size: Callable[[float], float], where: str
    ) -> dict[GpuNames, list[Buffer]]:
        """A buffer for every GPU and micro-batch, sized by its number of sequences."""
        sizes = [size(batch.size) for batch in node.batches]
        if where == "host":
            return {
                g: [node.on_host(f"{name}[{j}]", s, True, gpu=g) for j, s in enumerate(sizes)]
                for g in node.gpus
            }
        return {
            g: [node.on_gpu(g, f"{name}[{j}]", s) for j, s in enumerate(sizes)] for g in node.gpus
        }


def keep_resident(node: Node, tokens: float | None = None) -> None:
    """Attention weights, router, norms, shared experts, embeddings and head stay on the GPU.

    `tokens`: as for `reserve_workspace`.
    """
    work = node.work
    size = sum(work.attention_bytes(spec) for spec in node.all_layers) + work.embedding_bytes()
    for gpu in node.gpus:
        holds = [Span(spec.number, "resident") for spec in node.all_layers]
        node.on_gpu(gpu, "resident weights", size, holds)
    if len(node.gpus) > 1:
        logits = node.most_sequences * node.model.vocab_size * work.b
        node.logits = {gpu: [node.on_gpu(gpu, "logits", logits)] for gpu in node.gpus}
    reserve_workspace(node, tokens=tokens)


def reserve_workspace(node: Node, idle_bytes: float = 0.0, tokens: float | None = None) -> None:
    """Scratch memory for the widest micro-batch of prefill: of the widest layer, or of the head.

    `idle_bytes`: other memory of each GPU that nothing needs while the head runs, so that logits
    find room there. `tokens`: that a layer takes at a time, where they are not those of the widest
    micro-batch.
    """
    work = node.work
    tokens = node.widest.prompt_tokens if tokens is None else tokens
    layers = max(work.layer_workspace_bytes(spec, tokens) for spec in node.all_layers)
    head = work.head_workspace_bytes(tokens, node.most_sequences)
    for gpu in node.gpus:
        node.on_gpu(gpu, "workspace", max(layers, head - idle_bytes))
