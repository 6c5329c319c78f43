"""Experts that the CPU computes: their tokens come to it, their outputs go back.

The CPU reads the experts where they lie in host memory. Rows of tokens that travel are packed on
the device, one after the other; ids, hidden states (normed) and gate weights follow one another.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from runtime.architecture_shapes import EXPERT_MATRICES
from runtime.compute import routed_views
from runtime.context import Context
from runtime.expert_parts import RETURNED, row_numbers
from runtime.functions.linear import row_blocks
from runtime.functions.norms import norm
from runtime.functions.one_expert import add_expert
from runtime.lane import Run
from runtime.part_sums import EVERY, Part, add, chosen_ids, experts_of, keep, part_in, place_of
from runtime.pieces import LayerWeights, merge_pieces
from runtime.weights import layer_weights
from runtime.workspace import ALIGNMENT, Workspace
from schedules.errors import MoelabError
from schedules.issuer import Operands
from schedules.task import Buffer, Task

SENT, OUTPUTS = "sent", "outputs"
SCRATCH_BYTES = 32 << 20
"""Of the CPU, for the temporaries of some hundred tokens of an expert: products of that size are
bound by arithmetic, and results stay in the caches."""


class Sent(NamedTuple):
    """What the CPU has of n tokens: ids (n, k), hidden (n, H), gates (n, k)."""

    ids: Tensor
    hidden: Tensor
    gates: Tensor


def send_tokens(context: Context, task: Task, operands: Operands) -> Run:
    """The tokens that take one of the named experts, or all tokens, to host memory."""
    hidden, named = context.hidden(task, operands), experts_of(operands)
    ids, gates = routed_views(context, task, operands.reads, len(hidden))
    rows = None
    if named:
        chosen = chosen_ids(context, task)
        rows = np.flatnonzero(np.isin(chosen, named).any(axis=1))
    buffer = context.only(operands.writes, SENT)
    part = Part(place_of(task), rows, named or (EVERY,))
    keep(context, buffer, part)
    sent = _sent(context, buffer, part.count(len(hidden)))
    scale = context.weights.vectors[context.number(task)]["ffn_norm"]

    def run() -> int:
        every = None if rows is None else row_numbers(context, rows, len(hidden))
        for target, source in ((sent.ids, ids), (sent.gates, gates)):
            packed = source if every is None else source.index_select(0, every)
            target.copy_(packed, non_blocking=True)
        for block in row_blocks(len(sent.hidden), hidden.shape[1] * 4):
            x = hidden[block] if every is None else hidden.index_select(0, every[block])
            normed = torch.empty_like(x)
            norm(context.arch, x, scale, normed)
            sent.hidden[block].copy_(normed, non_blocking=True)
        return sum(tensor.nbytes for tensor in sent)

    return run


def cpu_experts(context: Context, task: Task, operands: Operands) -> Run:
    """The named experts, or all that have been chosen, added to the CPU's outputs."""
    source = context.only(operands.reads, SENT)
    buffer = context.only(operands.writes, OUTPUTS)
    part, named = part_in(context, task, source), experts_of(operands)
    experts: tuple[int | str, ...] = named or (EVERY,)
    if not set(experts) <= set(part.experts):
        raise MoelabError(
            f"task '{task.op}' of layer {task.layer} computes experts {list(experts)}, but the "
            f"tokens in '{source.name}' are those of {list(part.experts)}"
        )
    first = add(context, task, buffer, experts, part.rows)
    sent = _sent(context, source, part.count(context.state(task).tokens(task.step)))
    out = context.memory.view(buffer, sent.hidden.shape, context.dtype)
    weights, ws = in_host_memory(context, context.number(task)), _scratch(context)

    def run() -> int:
        if first:
            out.zero_()
        for expert in named or _chosen(sent.ids):
            rows, place = torch.where(sent.ids == expert)
            own = sent.gates[rows, place].unsqueeze(1)
            add_expert(context.arch, weights, expert, sent.hidden, rows, own, out, ws)
        return 0

    return run


def load_outputs(context: Context, task: Task, operands: Operands) -> Run:
    """The CPU's outputs to the device."""
    source = context.only(operands.reads, OUTPUTS)
    target = context.only(operands.writes, RETURNED)
    part = part_in(context, task, source)
    keep(context, target, part)
    shape = (part.count(context.state(task).tokens(task.step)), context.arch.hidden_size)
    a, b = (context.memory.view(buffer, shape, context.dtype) for buffer in (source, target))

    def run() -> int:
        b.copy_(a, non_blocking=True)
        return b.nbytes

    return run


def in_host_memory(context: Context, layer: int) -> LayerWeights:
    """The experts of a layer (by its number) where they lie: page-locked, or as they were read."""
    key = ("experts in host memory", layer)
    if key not in context.parts:
        weights = context.weights
        found = layer_weights(weights.source, layer)
        matrices = {
            name: merge_pieces(weights.pinned.get((layer, name), ())) or found.matrices[name]
            for name in EXPERT_MATRICES
            if name in found.matrices
        }
        context.parts[key] = replace(found, matrices=matrices)
    return context.parts[key]  # type: ignore[no-any-return]


def _chosen(ids: Tensor) -> list[int]:
    """The experts that somebody has chosen, in order; a skipped choice is no expert."""
    return [expert for expert in ids.unique().tolist() if expert >= 0]


def _sent(context: Context, buffer: Buffer, tokens: int) -> Sent:
    k, width, view = context.arch.spec.top_k, context.arch.hidden_size, context.memory.view
    ids = view(buffer, (tokens, k), torch.int32)
    hidden = view(buffer, (tokens, width), context.dtype, ids.nbytes)
    gates = view(buffer, (tokens, k), context.arch.gate_dtype, ids.nbytes + hidden.nbytes)
    return Sent(ids, hidden, gates)


def _scratch(context: Context) -> Workspace:
    """Scratch memory of the CPU, with room for a token at least."""
    key = ("scratch of the CPU",)
    if key not in context.parts:
        widths = (context.arch.hidden_size, *[context.arch.ffn_width(is_moe=True)] * 2)
        row = sum(-(-width * context.dtype.itemsize // ALIGNMENT) * ALIGNMENT for width in widths)
        context.parts[key] = Workspace.of_size(max(SCRATCH_BYTES, row + 3 * ALIGNMENT))
    return context.parts[key]  # type: ignore[no-any-return]
