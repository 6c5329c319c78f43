"""What the operations of one GPU share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.device import Device
from runtime.device_weights import DeviceWeights
from runtime.gate_log import GateLog
from runtime.kv import KVLayout
from runtime.memory import Memory
from runtime.position_biases import PositionBiases
from runtime.predictor import PredictorNetwork
from runtime.routing_log import RoutingLog
from runtime.state import MicroBatchState
from runtime.workspace import Workspace
from schedules.contents import KVSpan, Packed
from schedules.issuer import Operands
from schedules.task import Buffer, Task

Sampler = Callable[[Tensor, Tensor, int], Tensor]
"""Token ids (rows,) from logits (rows, vocabulary), the prompts' numbers (rows,) and which token of
the generation it is, counted from 0."""


@dataclass
class Context:
    """The model, the memory and the micro-batches of one GPU.

    Parameters
    ----------
    arch: the model, as this GPU computes it.
    states: by micro-batch.
    ws: scratch memory of the GPU's stream.
    prompt_hidden: where prefill keeps the hidden states of a schedule that has no buffer for them.
    threads: that compute for the (host) device, and for the CPU's attention.
    rank, world: of tensor-parallel GPUs.
    biases: of the stacks of a model with an encoder.
    predictor: that names the experts in place of the routers (SiDA).
    """

    arch: Architecture
    device: Device
    memory: Memory
    weights: DeviceWeights
    layout: KVLayout
    states: Sequence[MicroBatchState]
    log: RoutingLog
    sampler: Sampler
    ws: Workspace
    prompt_hidden: Tensor | None
    threads: tuple[int, int]
    rank: int = 0
    world: int = 1
    biases: PositionBiases | None = None
    predictor: PredictorNetwork | None = None
    gates: GateLog = field(default_factory=GateLog)
    packed: dict[int, Packed] = field(default_factory=dict)  # what places of packed experts hold
    cached: dict[int, KVSpan] = field(default_factory=dict)  # what visiting KV blocks hold
    parts: dict[tuple[Any, ...], Any] = field(default_factory=dict)  # cache parts found before

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and cache."""
        return self.arch.dtype

    def in_encoder(self, task: Task) -> bool:
        """Whether a task is of the encoder, which reads the prompts where there is one."""
        return task.step == 0 and self.arch.encoder_decoder is not None

    def number(self, task: Task) -> int:
        """The number of a task's layer in the model (see `schedules.layout`)."""
        return task.layer + (self.arch.spec.n_layers if self.in_encoder(task) else 0)

    def is_last(self, task: Task) -> bool:
        """Whether a task is of the last layer of its pass."""
        spec = self.arch.spec
        layers = spec.n_encoder_layers if self.in_encoder(task) else spec.n_layers
        return task.layer == layers - 1

    def position(self, task: Task) -> int:
        """Which of the generated tokens a task makes: a decoder makes the first in prefill."""
        return task.step - (self.arch.encoder_decoder is not None)

    def lengths(self, task: Task) -> Sequence[int] | None:
        """Of the sequences whose tokens a task of the encoder has; None elsewhere."""
        return self.state(task).batch.prompt_lengths if self.in_encoder(task) else None

    def state(self, task: Task) -> MicroBatchState:
        """The micro-batch of a task."""
        return self.states[task.micro_batch]

    def hidden(self, task: Task, operands: Operands) -> Tensor:
        """The hidden states that a task works on, (tokens, H)."""
        tokens = self.state(task).tokens(task.step)
        shape = (tokens, self.arch.hidden_size)
        for kind in ("prompt hidden",) if task.step == 0 else ("hidden", "prompt hidden"):
            for buffer in (*operands.writes, *operands.reads):
                if buffer.kind == kind and self.owns(buffer):
                    return self.memory.view(buffer, shape, self.dtype)
        assert self.prompt_hidden is not None
        return self.prompt_hidden[:tokens]

    def activation(self, buffer: Buffer, task: Task) -> Tensor:
        """Queries, keys and values, or attention outputs, of a micro-batch: (sequences, width)."""
        width = self.arch.qkv_size if buffer.kind == "qkv" else self.arch.query_size
        return self.memory.view(buffer, (self.state(task).batch.size, width), self.dtype)

    def owns(self, buffer: Buffer) -> bool:
        """Whether this process has memory for a buffer."""
        return self.memory.has(buffer)

    def only(self, buffers: Sequence[Buffer], kind: str) -> Buffer:
        """The buffer of that kind which this process has."""
        return next(b for b in buffers if b.kind == kind and self.owns(b))

    def kv_halves(self, buffer: Buffer, span: KVSpan) -> Tensor:
        """Keys and values, or one of them: (halves, rows, KV heads, head width)."""
        share = self.layout.share(span)
        halves = 2 if span.half == "both" else 1
        shape = (halves, share.rows, self.layout.heads, self.layout.head_dim)
        return self.memory.view(buffer, shape, self.dtype)
