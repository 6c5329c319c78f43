"""Computations: what each of a schedule's compute operations does to a micro-batch."""

from collections.abc import Callable, Sequence

import torch

from runtime.attention import Core, decode_core, prefill_core
from runtime.context import Context
from runtime.encoder_decoder import cross_attention, decoder_core, encoder_core, end_of_encoder
from runtime.functions import embed, experts, ffn, head, out_projection, qkv, route, shared
from runtime.functions.norms import norm
from runtime.lane import Run
from runtime.predicting import predicted
from runtime.state import MicroBatchState
from schedules.issuer import Operands
from schedules.layout import MATRICES, layer_at
from schedules.task import Buffer, Task

IN = ("q", "k", "v")
FFN = MATRICES["ffn"]


def pre_attention(context: Context, task: Task, operands: Operands) -> Run:
    """Norm, projections and rotary embedding; the token embedding before the first layer."""
    state, hidden = context.state(task), context.hidden(task, operands)
    out = context.activation(context.only(operands.writes, "qkv"), task)
    weights = context.weights.resolve(task.layer, IN, operands.reads)

    def run() -> int:
        if task.layer == 0:
            embed(context.weights.embedding, state.ids, hidden)
        qkv(context.arch, weights, hidden, state.positions, out, context.ws)
        return 0

    return run


def attention(context: Context, task: Task, operands: Operands) -> Run:
    """Projections, attention and output projection of a layer, in prefill or in decode."""
    arch, state, ws = context.arch, context.state(task), context.ws
    hidden = context.hidden(task, operands)
    weights = context.weights.resolve(context.number(task), (*IN, "o"), operands.reads)
    prefill = task.step == 0
    tables = context.weights
    table = tables.encoder_embedding if context.in_encoder(task) else tables.embedding
    ids, positions = (
        (state.prompt_ids, state.prompt_positions) if prefill else (state.ids, state.positions)
    )
    core = _core(context, task, operands)
    has_encoder = arch.encoder_decoder is not None
    cross = cross_attention(context, task, operands) if has_encoder and not prefill else None
    tokens = len(hidden)

    def run() -> int:
        with ws.scope():
            packed = ws.take((tokens, arch.qkv_size), context.dtype)
            if task.layer == 0:
                embed(table, ids, hidden)
            qkv(arch, weights, hidden, positions, packed, ws)
            attended = ws.take((tokens, arch.query_size), context.dtype)
            core(packed, attended)
            out_projection(arch, weights, attended, hidden, ws, partial=context.rank > 0)
            if cross is not None:
                cross(hidden, packed, attended)
        return 0

    return run


def _core(context: Context, task: Task, operands: Operands) -> Core:
    """The attention itself, and the cache."""
    if context.arch.encoder_decoder is not None:
        core = decoder_core if task.step else encoder_core
    else:
        core = decode_core if task.step else prefill_core
    return core(context, task, operands)


def project_out(context: Context, task: Task, operands: Operands) -> Run:
    """The attention's output, which came from the CPU, back to the hidden states."""
    hidden = context.hidden(task, operands)
    attended = context.activation(context.only(operands.reads, "attended"), task)
    weights = context.weights.resolve(task.layer, ("o",), operands.reads)

    def run() -> int:
        out_projection(
            context.arch, weights, attended, hidden, context.ws, partial=context.rank > 0
        )
        return 0

    return run


def whole_ffn(context: Context, task: Task, operands: Operands) -> Run:
    """Norm, router, experts and shared experts; the output head after the last layer."""
    hidden = context.hidden(task, operands)
    weights = context.weights.resolve(context.number(task), FFN, operands.reads)
    sink, lengths = _sink(context, task), context.lengths(task)

    def run() -> int:
        ffn(context.arch, weights, hidden, context.ws, sink, context.rank > 0, lengths)
        return 0

    last = context.is_last(task) and context.world == 1
    return in_turn(run, end_of_pass(context, task, operands)) if last else run


def gate(context: Context, task: Task, operands: Operands) -> Run:
    """Norm and router alone."""
    hidden, sink = context.hidden(task, operands), _sink(context, task)
    weights = context.weights.resolve(context.number(task), ("router",), operands.reads)
    lengths = context.lengths(task)
    ids, gates = routed_views(context, task, operands.writes, len(hidden))

    def run() -> int:
        with context.ws.scope():
            chosen = route(context.arch, weights, hidden, context.ws, lengths)
            ids.copy_(chosen.ids)
            gates.copy_(chosen.gates)
            if sink is not None:
                sink(chosen.ids)
        return 0

    return run


def chosen_experts(context: Context, task: Task, operands: Operands) -> Run:
    """The experts that a gate has chosen, and the shared ones."""
    arch, ws, hidden = context.arch, context.ws, context.hidden(task, operands)
    weights = context.weights.resolve(context.number(task), FFN, operands.reads)
    ids, gates = routed_views(context, task, operands.reads, len(hidden))

    def run() -> int:
        with ws.scope():
            normed = ws.take(hidden.shape, hidden.dtype)
            norm(arch, hidden, weights.vectors["ffn_norm"], normed)
            chosen = ws.take(ids.shape, torch.int64).copy_(ids)
            experts(arch, weights, normed, chosen, gates, hidden, ws)
            shared(arch, weights, normed, hidden, ws)
        return 0

    if context.is_last(task):
        return in_turn(run, end_of_pass(context, task, operands))
    return run


def end_of_pass(context: Context, task: Task, operands: Operands) -> Run:
    """What follows the last layer: the next tokens, or what the decoder takes of the encoder."""
    if context.in_encoder(task):
        return end_of_encoder(context, task, operands)
    return output_head(context, task, operands)


def output_head(context: Context, task: Task, operands: Operands) -> Run:
    """Logits of each sequence's last token, and the next token; as many rows at once as fit."""
    hidden, ws = context.hidden(task, operands), context.ws
    state, item = context.state(task), context.dtype.itemsize
    n, vocabulary, width = state.batch.size, len(context.weights.head), hidden.shape[1]
    position = context.position(task)

    def run() -> int:
        step = ws.rows(width * item, vocabulary * item, width * item, limit=n)
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            with ws.scope():
                last = hidden[rows]
                if task.step == 0:
                    last = ws.take((rows.stop - start, width), context.dtype)
                    torch.index_select(hidden, 0, state.last[rows], out=last)
                logits = ws.take((rows.stop - start, vocabulary), context.dtype)
                tables = context.weights
                head(context.arch, tables.head, tables.final_norm, last, logits, ws)
                state.ids[rows].copy_(context.sampler(logits, state.requests[rows], position))
        advance(state, task)
        return 0

    return run


def advance(state: MicroBatchState, task: Task) -> None:
    """The newest tokens are one position further."""
    if task.step == 0:
        state.positions.copy_(state.lengths)
    else:
        state.positions.add_(1)


def routed_views(
    context: Context, task: Task, buffers: Sequence[Buffer], tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a gate leaves the expert ids (tokens, top_k), and their weights.

    Ids take 4 of the 8 bytes that the schedules count for them: so there is room for the weights
    where they are float32 (Mixtral) and the model's format has 2 bytes. Or where a predictor has
    named them, in the hash table.
    """
    table = next((b for b in buffers if b.kind == "choices"), None)
    if table is not None:
        return predicted(context, task, table)
    buffer, k = context.only(buffers, "routed"), context.arch.spec.top_k
    ids = context.memory.view(buffer, (tokens, k), torch.int32)
    dtype = context.arch.gate_dtype
    return ids, context.memory.view(buffer, (tokens, k), dtype, ids.nbytes)


def _sink(context: Context, task: Task) -> Callable[[torch.Tensor], None] | None:
    spec = layer_at(context.arch.spec, context.number(task))
    return context.log.sink(task.layer, task.micro_batch) if spec.is_moe else None


def in_turn(first: Run, second: Run) -> Run:
    """One after the other."""

    def run() -> int:
        first()
        return second()

    return run


def whole_layer(context: Context, task: Task, operands: Operands) -> Run:
    """Attention, then the FFN."""
    return in_turn(attention(context, task, operands), whole_ffn(context, task, operands))


def after_attention(context: Context, task: Task, operands: Operands) -> Run:
    """Output projection, then the FFN."""
    return in_turn(project_out(context, task, operands), whole_ffn(context, task, operands))
