"""FusionAI: a pipeline over slow links between consumer GPUs."""

from collections.abc import Iterator
from typing import NamedTuple

from schedules.batch.pipeline_stage import RING, PipelineStage
from schedules.errors import BadInput
from schedules.node import Node
from schedules.schedule import Schedule

KEPT = RING - 1  # micro-batches whose encoder output waits on the last stage


class Turn(NamedTuple):
    """What a stage does in a turn of a decode step."""

    stage: int
    micro_batch: int


class FusionAI(Schedule):
    """The layers are divided among GPUs that a slow network joins; weights and cache never move,
    hidden states do (FusionAI, arXiv 2309.01172: decentralised inference on consumer GPUs).

    A stated abstraction of the paper's performance analysis, of which the abstract alone was at
    hand: a stage computes one micro-batch while the result of the one before travels, so in the
    steady state it takes max(computation, message) for each. Every stage has its GPU, its issuing
    thread and its link to the next; the last one sends the chosen tokens to the first. Below twice
    as many micro-batches as stages, what limits a step is the way around: computation plus message
    of each stage.

    A step begins in the middle of the steady state: the stages behind the first begin with
    micro-batches that entered in the step before, as FlexGen's do here. So each step costs what one
    in the steady state does, and at its end no more than the shorter of computation and message
    (both, between one and two micro-batches for each stage). The drain after the last step is
    counted as that of prefill.

    Simplified: stages are equal in number of layers, not in time (the paper's broker schedules
    unlike GPUs); a message occupies its link for its latency too (`peer_call_s` of the hardware);
    what is between the GPU and the network card is left out. Not modelled: joining and leaving,
    training, compression.
    """

    name = "fusionai"
    title = "pipeline of resident stages, hidden states over a network"
    paper = "FusionAI, arXiv 2309.01172, performance analysis"
    multi_gpu = "pipeline"
    in_turns = False
    for_real = False

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        fewest = min(len(node.prefill_layers), len(node.model.decoder_layers))
        if fewest < len(node.gpus):
            raise BadInput(
                f"schedule '{self.name}' needs a layer for each of {len(node.gpus)} GPUs; model "
                f"'{node.model.name}' has {fewest}"
            )
        self.stages = [PipelineStage(node, gpu) for gpu in node.gpus]

    def prefill(self) -> None:
        node, count = self.node, self.node.n_micro_batches
        for j in range(count):
            self.read_prompts(j)
            if node.model.is_encoder_decoder and j >= KEPT:
                self.share_encoding(j - KEPT)  # before its place is needed again
        if node.model.is_encoder_decoder:
            for j in range(max(0, count - KEPT), count):
                self.share_encoding(j)
        node.issuer.host = 0

    def read_prompts(self, micro_batch: int) -> None:
        """A micro-batch's prompts through all stages; a decoder's first tokens go to the first."""
        first, *others = self.stages
        first.prefill(micro_batch)
        for before, stage in zip(self.stages, others, strict=False):
            before.send_prompts(stage, micro_batch)
            stage.prefill(micro_batch)
        if others and not self.node.model.is_encoder_decoder:
            self.stages[-1].send_tokens(first, micro_batch)

    def share_encoding(self, micro_batch: int) -> None:
        """The encoder's output goes on around, and each stage makes its own keys and values."""
        last, *others = self.stages[-1:] + self.stages[:-1]
        last.cross_attention(micro_batch)
        for before, stage in zip([last, *others], others, strict=False):
            before.send_prompts(stage, micro_batch)
            stage.cross_attention(micro_batch)

    def decode_step(self) -> None:
        count = len(self.stages)
        for turn in turns(self.node.n_micro_batches, count):
            stage, following = self.stages[turn.stage], self.stages[(turn.stage + 1) % count]
            stage.decode(turn.micro_batch)
            if not stage.is_last:
                stage.send_hidden(following, turn.micro_batch)
            elif count > 1:
                stage.send_tokens(following, turn.micro_batch)
        self.node.issuer.host = 0


def turns(micro_batches: int, stages: int) -> Iterator[Turn]:
    """A decode step of the steady state, turn by turn: each micro-batch passes each stage once.

    A micro-batch is at the next stage two turns later, for it travels during one of them; where
    there are too few to fill all turns, in the next one. Stage r begins with the micro-batch that
    came in so many turns before.

    >>> [tuple(turn) for turn in turns(3, 2)]
    [(0, 0), (1, 2), (0, 1), (1, 0), (0, 2), (1, 1)]
    """
    count = max(micro_batches, stages)
    behind = [stage * min(count, 2 * stages) // stages for stage in range(stages)]
    for turn in range(count):
        for stage in range(stages):
            micro_batch = (turn - behind[stage]) % count
            if micro_batch < micro_batches:
                yield Turn(stage, micro_batch)
