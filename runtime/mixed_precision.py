"""HOBBIT's operations: gates that keep their weights, and experts in two precisions."""

from collections.abc import Collection, Mapping

import numpy as np
import torch

from runtime import compute
from runtime.context import Context
from runtime.expert_parts import row_numbers
from runtime.functions import route, shared
from runtime.functions.norms import norm
from runtime.functions.one_expert import add_expert
from runtime.lane import Run
from runtime.packed_experts import written_out
from runtime.pieces import LayerWeights
from schedules.contents import Packed, Span
from schedules.errors import MoelabError
from schedules.issuer import Operands
from schedules.task import Buffer, Task


def scored_gate(context: Context, task: Task, operands: Operands) -> Run:
    """A layer's gate, whose weights the host is told too."""
    tokens = len(context.hidden(task, operands))
    views = compute.routed_views(context, task, operands.writes, tokens)
    keep = context.gates.sink(task, *views)
    return compute.in_turn(compute.gate(context, task, operands), lambda: keep() or 0)


def stacked_gate(context: Context, task: Task, operands: Operands) -> Run:
    """The gate of the task's layer on hidden states of a layer before it."""
    hidden, buffer = context.hidden(task, operands), operands.writes[0]
    weights = context.weights.resolve(context.number(task), ("router",), operands.reads)
    shape, dtype = (len(hidden), context.arch.spec.top_k), context.arch.gate_dtype
    ids = context.memory.view(buffer, shape, torch.int32)
    gates = context.memory.view(buffer, shape, dtype, ids.nbytes)
    keep = context.gates.sink(task, ids, gates)

    def run() -> int:
        with context.ws.scope():
            chosen = route(context.arch, weights, hidden, context.ws)
            ids.copy_(chosen.ids)
            gates.copy_(chosen.gates)
        keep()
        return 0

    return run


def mixed_experts(context: Context, task: Task, operands: Operands) -> Run:
    """The experts that the task names, and the shared ones; all other choices are skipped.

    Those in few bits are written out one at a time. Where a choice is skipped, the token's other
    choices keep their weights. Raises `MoelabError` for experts that no buffer holds.
    """
    arch, ws, hidden = context.arch, context.ws, context.hidden(task, operands)
    number = context.number(task)
    weights = context.weights.resolve(number, compute.FFN, operands.reads, some_experts=True)
    _, gates = compute.routed_views(context, task, operands.reads, len(hidden))
    chosen, k = context.log.gate(task.layer, task.micro_batch), gates.shape[1]
    packed = _packed(context, task, operands)
    present = sorted(s.expert for s in operands.what if isinstance(s, Span | Packed))
    _check_first(task, chosen[:, 0].tolist(), present)
    places = {expert: np.flatnonzero(chosen.ravel() == expert) for expert in present}
    unpacked = context.only(operands.writes, "unpacked")
    forms = {e: written_out(context, *packed[e], unpacked) for e in packed}
    every = np.concatenate([*places.values()])

    def run() -> int:
        with ws.scope():
            normed = ws.take(hidden.shape, hidden.dtype)
            norm(arch, hidden, weights.vectors["ffn_norm"], normed)
            rows = row_numbers(context, every, chosen.size)
            tokens = rows.div(k, rounding_mode="floor")
            own, start = gates.view(-1, 1).index_select(0, rows), 0
            for expert, place in places.items():
                part = slice(start, start + len(place))
                held = _ready(forms, expert, weights)
                add_expert(arch, held, expert, normed, tokens[part], own[part], hidden, ws)
                start += len(place)
            shared(arch, weights, normed, hidden, ws)
        return 0

    if context.is_last(task):
        return compute.in_turn(run, compute.end_of_pass(context, task, operands))
    return run


def _ready(
    forms: Mapping[int, tuple[Run, LayerWeights]], expert: int, weights: LayerWeights
) -> LayerWeights:
    """Where the matrices of an expert lie, which are written out if they came in few bits."""
    if expert not in forms:
        return weights
    write, held = forms[expert]
    write()
    return held


def _packed(context: Context, task: Task, operands: Operands) -> dict[int, tuple[Buffer, Packed]]:
    """Where the named experts that came in few bits lie."""
    there = {context.packed.get(id(b)): b for b in operands.reads if b.kind == "experts"}
    plain = {context.weights.contents.get(id(b)) for b in operands.reads}
    found = {}
    for span in operands.what:
        if span not in (there if isinstance(span, Packed) else plain):
            raise MoelabError(
                f"task '{task.op}' of layer {task.layer} (step {task.step}) computes {span}, which "
                "is in no buffer that it reads: the schedule did not bring it there"
            )
        if isinstance(span, Packed):
            found[span.expert] = there[span], span
    return found


def _check_first(task: Task, first: Collection[int], present: Collection[int]) -> None:
    """A token's first choice counts most: a schedule that leaves it out has not brought it."""
    missing = sorted({*first} - {*present})
    if missing:
        raise MoelabError(
            f"task '{task.op}' of layer {task.layer} (step {task.step}) lacks expert {missing[0]}, "
            "the first choice of a token: the schedule did not bring it"
        )
