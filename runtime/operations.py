"""Each operation of the schedules, by name: what the runtime does for it."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from runtime import compute, parallel
from runtime.attention import cpu_attention
from runtime.context import Context
from runtime.copies import COPIES
from runtime.cpu_experts import cpu_experts, load_outputs, send_tokens
from runtime.expert_parts import combine, shared_experts, some_experts
from runtime.lane import Run
from runtime.ledger import Ledger
from runtime.mixed_precision import mixed_experts, scored_gate, stacked_gate
from runtime.packed_experts import load_packed_expert
from runtime.part_sums import note_asked
from runtime.predicting import load_choices, predict, predict_experts
from schedules.errors import MoelabError, suggest
from schedules.issuer import Operands
from schedules.task import Buffer, Task


def nothing(context: Context, task: Task, operands: Operands) -> Run:
    """ZeRO-3's all-gather on one GPU: the layer is whole already. And what the issuing thread does
    when what it waited for is there."""

    def run() -> int:
        return 0

    return run


OPERATIONS: Mapping[str, Callable[[Context, Task, Operands], Run]] = {
    **COPIES,
    "pre_attention": compute.pre_attention,
    "cpu_attention": cpu_attention,
    "post_attention": compute.after_attention,
    "out_projection": compute.project_out,
    "ffn": compute.whole_ffn,
    "compute_layer": compute.whole_layer,
    "compute_attention": compute.attention,
    "compute_ffn": compute.whole_ffn,
    "prefill_layer": compute.whole_layer,
    "prefill_attention": compute.attention,
    "prefill_ffn": compute.whole_ffn,
    "gate": compute.gate,
    "pre_gate": compute.gate,
    "scored_gate": scored_gate,
    "stacked_gate": stacked_gate,
    "synchronise": nothing,
    "experts": compute.chosen_experts,
    "load_packed_expert": load_packed_expert,
    "mixed_experts": mixed_experts,
    "some_experts": some_experts,
    "shared_experts": shared_experts,
    "send_tokens": send_tokens,
    "cpu_experts": cpu_experts,
    "load_outputs": load_outputs,
    "combine": combine,
    "predict": predict,
    "predict_experts": predict_experts,
    "load_choices": load_choices,
    "all_gather": nothing,
    "all_reduce": parallel.all_reduce,
    "head": parallel.sharded_head,
    "gather_logits": parallel.gather_logits,
}


class Operations:
    """Binds tasks to tensors, in the order of issue."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.ledger = Ledger(context)

    def bind(self, task: Task, operands: Operands) -> Run:
        """What the task does. Raises `MoelabError` for an operation that the runtime lacks, and
        where the schedule has not computed or moved what it needs."""
        operation = OPERATIONS.get(task.op)
        if operation is None:
            raise MoelabError(
                f"the runtime has no operation '{task.op}'{suggest(task.op, OPERATIONS)}"
            )
        run = operation(self.context, task, operands)
        self.ledger.follow(task, operands)
        return run

    def allocate(self, buffer: Buffer) -> None:
        """Memory for a buffer that a schedule asks for while it runs. Raises `Infeasible`."""
        self.context.memory.commit([buffer])

    def check_step(self, step: int) -> None:
        """Raise `MoelabError` where the schedule has not computed all of a step."""
        self.ledger.check_step(step)

    def expert_ids(self, gate: Task) -> NDArray[np.int64]:
        """What a gate that has run has chosen, shape (tokens, top_k)."""
        if gate.op == "stacked_gate":  # of a layer whose own gate has not run yet
            return self.context.gates.ids(gate)
        note_asked(self.context, gate)
        return self.context.log.gate(gate.layer, gate.micro_batch)

    def gate_weights(self, gate: Task) -> NDArray[np.float64] | None:
        """Weights of its choices, in the same order; None for a gate that keeps none."""
        return self.context.gates.weights(gate)
