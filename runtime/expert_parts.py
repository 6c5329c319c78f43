"""The GPU's parts of an FFN with experts: some of them, the shared ones, and adding all up."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.architecture_shapes import EXPERT_MATRICES, SHARED_MATRICES
from runtime.compute import end_of_pass, in_turn, routed_views
from runtime.context import Context
from runtime.functions import shared
from runtime.functions.norms import norm
from runtime.functions.one_expert import add_expert
from runtime.lane import Run
from runtime.part_sums import SHARED, add, check_whole, chosen_ids, experts_of, part_in
from schedules.issuer import Operands
from schedules.task import Task

SUM, RETURNED = "expert sum", "returned"


def some_experts(context: Context, task: Task, operands: Operands) -> Run:
    """The named experts, for the tokens that have chosen them, added to the sum."""
    arch, ws, hidden = context.arch, context.ws, context.hidden(task, operands)
    weights = context.weights.resolve(
        context.number(task), EXPERT_MATRICES, operands.reads, some_experts=True
    )
    _, gates = routed_views(context, task, operands.reads, len(hidden))
    named, k = experts_of(operands), gates.shape[1]
    buffer = context.only(operands.writes, SUM)
    total = context.memory.view(buffer, hidden.shape, context.dtype)
    first = add(context, task, buffer, named)
    chosen = chosen_ids(context, task).ravel()
    places = [np.flatnonzero(chosen == expert) for expert in named]

    def run() -> int:
        if first:
            total.zero_()
        every = row_numbers(context, np.concatenate(places), len(chosen))
        tokens = every.div(k, rounding_mode="floor")
        own, start = gates.view(-1, 1).index_select(0, every), 0
        for expert, place in zip(named, places, strict=True):
            rows = slice(start, start + len(place))
            scale = weights.vectors["ffn_norm"]
            add_expert(arch, weights, expert, hidden, tokens[rows], own[rows], total, ws, scale)
            start += len(place)
        return 0

    return run


def shared_experts(context: Context, task: Task, operands: Operands) -> Run:
    """The experts that every token takes, added to the sum."""
    arch, ws, hidden = context.arch, context.ws, context.hidden(task, operands)
    weights = context.weights.resolve(context.number(task), SHARED_MATRICES, operands.reads)
    buffer = context.only(operands.writes, SUM)
    total = context.memory.view(buffer, hidden.shape, context.dtype)
    first = add(context, task, buffer, (SHARED,))

    def run() -> int:
        with ws.scope():
            normed = ws.take(hidden.shape, hidden.dtype)
            norm(arch, hidden, weights.vectors["ffn_norm"], normed)
            if first:
                total.zero_()
            shared(arch, weights, normed, total, ws)
        return 0

    return run


def combine(context: Context, task: Task, operands: Operands) -> Run:
    """Adds the outputs of all parts to the hidden states; what follows the last layer."""
    hidden = context.hidden(task, operands)
    tokens = len(hidden)
    buffers = [b for b in operands.reads if b.kind in (SUM, RETURNED)]
    parts = [part_in(context, task, buffer) for buffer in buffers]
    check_whole(context, task, parts)
    outputs = [
        context.memory.view(buffer, (part.count(tokens), hidden.shape[1]), context.dtype)
        for buffer, part in zip(buffers, parts, strict=True)
    ]

    def run() -> int:
        for output, part in zip(outputs, parts, strict=True):
            if part.rows is None:
                hidden.add_(output)
            else:
                hidden.index_add_(0, row_numbers(context, part.rows, tokens), output)
        return 0

    last = context.is_last(task)
    return in_turn(run, end_of_pass(context, task, operands)) if last else run


def row_numbers(context: Context, numbers: NDArray[np.int64], most: int) -> Tensor:
    """Row numbers on the device, for what the current stream does next.

    The page-locked memory that they pass through has room for `most`: PyTorch's allocator keeps
    what it once had, and gives it back when the copy has ended.
    """
    here = torch.from_numpy(numbers)
    if not context.device.is_cuda:
        return here
    locked = torch.empty(most, dtype=torch.int64, pin_memory=True)[: len(here)].copy_(here)
    return locked.to(context.device.torch_device, non_blocking=True)
