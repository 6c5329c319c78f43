"""FlexGen: the zig-zag block schedule."""

from collections.abc import Sequence
from typing import ClassVar

from schedules.batch.zigzag import Place, Stage
from schedules.errors import BadInput
from schedules.kernels import Kernels
from schedules.node import Node
from schedules.schedule import Schedule


class FlexGen(Schedule):
    """Zig-zag block schedule (FlexGen, arXiv 2303.06865, section 4.1, algorithm 1).

    FlexGen's layers are the attentions and the FFNs. For each of them the micro-batches follow one
    another, each iteration moving what its neighbours need and ending with a barrier over all
    streams. Weights, KV cache and hidden states are placed by r_w, r_c and r_h. Attention runs on
    the GPU. Host weights are page-locked or not (`pinned`); the KV cache never is, so the issuing
    thread itself copies it into staging before it can travel.

    On several GPUs the layers are divided into stages, one process each (FlexGen, section 4.4, as
    in its `dist_flex_opt.py`): each micro-batch is split into as many parts, a stage runs one part
    through all its layers, its weights streaming in anew, and then all stages exchange hidden
    states. Simplified: each stage keeps the one-GPU order of its loads and stores, and the last
    stage sends hidden states where FlexGen sends token ids.
    """

    name = "flexgen"
    title = "zig-zag with a barrier per micro-batch, KV cache to the GPU"
    paper = "FlexGen, arXiv 2303.06865, section 4.1, algorithm 1"
    kernels = Kernels(experts="fused", cpu_attention="torch", logits="all")
    knobs = frozenset({"r_w", "r_c", "r_h", "pinned"})
    multi_gpu = "pipeline"
    pinned_default = "if_it_fits"
    attention_on_cpu: ClassVar[bool] = False

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        if node.model.n_layers < len(node.gpus):
            raise BadInput(
                f"schedule '{self.name}' needs a layer for each of {len(node.gpus)} GPUs; model "
                f"'{node.model.name}' has {node.model.n_layers}"
            )
        self.stages = [Stage(node, gpu, self.attention_on_cpu) for gpu in node.gpus]

    def prefill(self) -> None:
        count = len(self.stages)
        for stage in self.stages:
            self.node.issuer.host = stage.gpu.index
            stage.load_weight(0)
        self.node.issuer.host = 0
        self.node.issuer.barrier()
        for turn in range(2 * count - 1):
            self.turn([turn - r if 0 <= turn - r < count else None for r in range(count)])

    def decode_step(self) -> None:
        # All stages are busy in every turn: one that waits for its first part of this step runs
        # its last part of the step before. The drain after the last step is prefill's last turns.
        count = len(self.stages)
        for turn in range(count):
            self.turn([(turn - r) % count for r in range(count)])

    def turn(self, parts: Sequence[int | None]) -> None:
        """Each stage runs one part of the batch, then all exchange hidden states."""
        for stage, part in zip(self.stages, parts, strict=True):
            if part is not None:
                self.node.issuer.host = stage.gpu.index
                self.zigzag(stage, stage.places(part))
        self.node.issuer.host = 0
        if len(self.stages) > 1:
            self.exchange(parts)

    def zigzag(self, stage: Stage, places: Sequence[Place]) -> None:
        """The loop of algorithm 1 over layers and micro-batches (`..._overlap_multi_batch`)."""
        one = self.node.n_micro_batches == 1
        stage.load_cache(places[0])
        stage.load_hidden(places[0])
        for here, before, after in zip(
            places, [None, *places[:-1]], [*places[1:], None], strict=True
        ):
            if here.micro_batch == 0:
                stage.load_weight(here.half + 1)
            stage.load_cache(after)
            if one:
                stage.load_hidden(here if before else None)
                stage.compute(here)
                stage.store_cache(before)
                stage.store_hidden(here)
            else:
                stage.store_hidden(before)
                stage.load_hidden(after)
                stage.compute(here)
                stage.store_cache(before)
            stage.barrier()
        stage.store_hidden(None if one else places[-1])
        stage.store_cache(places[-1])
        stage.barrier()

    def exchange(self, parts: Sequence[int | None]) -> None:
        """Blocking send and receive of all hidden states of the turn; every process waits."""
        node = self.node
        node.issuer.barrier()
        for stage, part in zip(self.stages, parts, strict=True):
            if part is not None:
                tokens = sum(stage.tokens(part, j) for j in range(node.n_micro_batches))
                work = node.work.copy("peer", node.work.hidden_bytes(tokens))
                node.issuer.task("send_hidden", "peer", work=work)
        node.issuer.barrier()
