"""The attention of a model with an encoder, in a session; it and its cache are on the device.

A sequence's rows in a block of the cache are those of its prompt, then those of what is generated
(see `kv`). Here the first hold the keys and values of the cross-attention, which are made when the
encoder has ended, and the others the decoder's own.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from runtime.architecture import Architecture
from runtime.attention import CachePart, Core, cache_parts, prompt_rows, split_qkv
from runtime.context import Context
from runtime.functions import (
    attend_runs,
    cross_keys,
    cross_projection,
    cross_queries,
    decode_attention,
    encoder_attention,
)
from runtime.functions.norms import norm
from runtime.lane import Run
from schedules.batch.gpu_only import GPUOnly
from schedules.errors import BadInput, MoelabError
from schedules.expert.moving import MovesExperts
from schedules.issuer import Operands
from schedules.layout import CROSS
from schedules.schedule import Schedule
from schedules.task import Task

Cross = Callable[[Tensor, Tensor, Tensor], None]
"""Adds the cross-attention to hidden states (n, H); memory for queries (n, query_size or more) and
for attention outputs (n, query_size)."""


def check_encoder(kind: type[Schedule], arch: Architecture) -> None:
    """Raise `BadInput` for a schedule that does not keep the cache of such a model on the GPU."""
    if arch.encoder_decoder is not None and not issubclass(kind, GPUOnly | MovesExperts):
        raise BadInput(
            f"{arch.spec.name} has an encoder, which the runtime has for schedules with the KV"
            f" cache on the GPU, as gpu-only and on-demand; '{kind.name}' is none"
        )


def encoder_core(context: Context, task: Task, operands: Operands) -> Core:
    """Attention of the prompts' tokens to their whole prompt.

    The last layer is given the blocks of the cache that are filled when it has ended.
    """
    if context.is_last(task):
        for layer in range(context.arch.spec.n_layers):
            block = _cache(context, task, operands, layer)
            context.parts["encoded", layer, task.micro_batch] = block
    arch, lengths = context.arch, context.state(task).batch.prompt_lengths
    assert context.biases is not None
    by_distance = context.biases.encoder

    def run(qkv: Tensor, out: Tensor) -> None:
        encoder_attention(arch, qkv, lengths, by_distance, out)

    return run


def decoder_core(context: Context, task: Task, operands: Operands) -> Core:
    """Append the new keys and values to the decoder's own, and attend to them."""
    arch, state = context.arch, context.state(task)
    part = _cache(context, task, operands, task.layer)
    lengths = state.batch.prompt_lengths
    offsets = [first + length for first, length in zip(part.share.offsets, lengths, strict=True)]
    contexts = [task.step] * len(lengths)
    assert context.biases is not None
    bias = context.biases.decoder[:, -task.step :]

    def run(qkv: Tensor, out: Tensor) -> None:
        queries, keys, values = split_qkv(context, qkv)
        newest = part.first_rows + state.lengths + state.positions
        part.keys.index_copy_(0, newest, keys)
        part.values.index_copy_(0, newest, values)
        attended = out.view(queries.shape)
        scale = arch.attention_scale
        attend_runs(queries, part.keys, part.values, offsets, contexts, attended, scale, bias)

    return run


def cross_attention(context: Context, task: Task, operands: Operands) -> Cross:
    """Attention of the newest tokens to the encoded prompts."""
    arch, ws, state = context.arch, context.ws, context.state(task)
    weights = context.weights.resolve(task.layer, CROSS, operands.reads)
    part, threads = _cache(context, task, operands, task.layer), context.threads[0]
    offsets, lengths = part.share.offsets, state.batch.prompt_lengths
    scale, heads = arch.attention_scale, (len(lengths), arch.n_heads, arch.head_dim)

    def run(hidden: Tensor, free: Tensor, attended: Tensor) -> None:
        q = free.view(-1)[: attended.numel()].view(attended.shape)
        cross_queries(arch, weights, hidden, q, ws)
        q, out = q.view(heads), attended.view(heads)
        decode_attention(q, part.keys, part.values, offsets, lengths, out, threads, scale)
        cross_projection(weights, attended, hidden)

    return run


def end_of_encoder(context: Context, task: Task, operands: Operands) -> Run:
    """The encoder's last norm, the cross-attention's keys and values of all decoder layers, and
    the token that the decoder reads first."""
    arch, ws, state = context.arch, context.ws, context.state(task)
    hidden, scale = context.hidden(task, operands), context.weights.encoder_norm
    layers = range(arch.spec.n_layers)
    blocks = [context.parts["encoded", layer, task.micro_batch] for layer in layers]
    weights = [context.weights.resolve(layer, CROSS, operands.reads) for layer in layers]
    rows = prompt_rows(context, task, blocks[0].share)
    assert scale is not None
    assert arch.encoder_decoder is not None
    shape, token = (len(hidden), arch.kv_width), arch.encoder_decoder.start_token

    def run() -> int:
        norm(arch, hidden, scale, hidden)
        for block, w in zip(blocks, weights, strict=True):
            with ws.scope():
                keys, values = (ws.take(shape, context.dtype) for _ in range(2))
                cross_keys(w, hidden, keys, values)
                block.keys.index_copy_(0, rows, keys.view(-1, *block.keys.shape[1:]))
                block.values.index_copy_(0, rows, values.view(-1, *block.values.shape[1:]))
        state.ids.fill_(token)
        state.positions.zero_()
        return 0

    return run


def _cache(context: Context, task: Task, operands: Operands, layer: int) -> CachePart:
    """The whole block of a decoder layer and a micro-batch."""
    buffers = list(dict.fromkeys((*operands.writes, *operands.reads)))
    for part in cache_parts(context, task, buffers, layer):
        if part.share.stop - part.share.first == context.state(task).batch.size:
            return part
    raise MoelabError(
        f"the cache of layer {layer} (micro-batch {task.micro_batch}) is not whole on the GPU: the"
        " schedule did not bring it"
    )
