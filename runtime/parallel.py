"""What tensor-parallel GPUs do together (Megatron-LM, arXiv 1909.08053, section 3)."""

import torch
import torch.distributed as dist

from runtime.compute import advance
from runtime.context import Context
from runtime.functions import head
from runtime.lane import Run
from schedules.issuer import Operands
from schedules.task import Task


def all_reduce(context: Context, task: Task, operands: Operands) -> Run:
    """The sum of all GPUs' partial hidden states."""
    hidden = context.hidden(task, operands)

    def run() -> int:
        dist.all_reduce(hidden)
        return 0

    return run


def sharded_head(context: Context, task: Task, operands: Operands) -> Run:
    """This GPU's share of the vocabulary's logits, of each sequence's last token."""
    hidden, ws, state = context.hidden(task, operands), context.ws, context.state(task)
    logits = _logits(context, task, operands)[context.rank]

    def run() -> int:
        with ws.scope():
            last = hidden
            if task.step == 0:
                last = ws.take((state.batch.size, hidden.shape[1]), context.dtype)
                torch.index_select(hidden, 0, state.last, out=last)
            head(context.arch, context.weights.head, context.weights.final_norm, last, logits, ws)
        return 0

    return run


def gather_logits(context: Context, task: Task, operands: Operands) -> Run:
    """All GPUs' logits on every GPU; each chooses the same next tokens."""
    shares, state = _logits(context, task, operands), context.state(task)

    def run() -> int:
        dist.all_gather(list(shares), shares[context.rank].clone())
        logits = shares.permute(1, 0, 2).flatten(1)
        state.ids.copy_(context.sampler(logits, state.requests, task.step))
        advance(state, task)
        return 0

    return run


def _logits(context: Context, task: Task, operands: Operands) -> torch.Tensor:
    """(GPUs, sequences, their share of the vocabulary)."""
    buffer = context.only(operands.writes, "logits")
    n, rows = context.state(task).batch.size, len(context.weights.head)
    return context.memory.view(buffer, (context.world, n, rows), context.dtype)
