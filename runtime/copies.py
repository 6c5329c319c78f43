"""Copies: what each of a schedule's copy operations moves.

Every function returns what a lane runs; that returns the bytes that went over a link to or from
the device, so that a host device can hold them to a bandwidth.
"""

import torch
from torch import Tensor

from runtime.context import Context
from runtime.lane import Run
from schedules.contents import KVSpan, Span
from schedules.errors import MoelabError
from schedules.issuer import Operands
from schedules.task import Buffer, Task


def copy_weights(context: Context, task: Task, operands: Operands) -> Run:
    """Rows of matrices: from where they are kept, or from staging, to staging or to the GPU."""
    targets = [b for b in operands.writes if b.kind != "own share"]
    sources = operands.reads if len(operands.reads) > 1 else [operands.reads[0]] * len(targets)
    pairs = [
        pair
        for source, target, span in zip(sources, targets, operands.what, strict=True)
        if isinstance(span, Span)
        for pair in context.weights.copies(source, target, span)
    ]
    moved = 0 if task.op == "pin_weights" else sum(target.nbytes for target, _ in pairs)

    def run() -> int:
        for target, source in pairs:
            target.copy_(source, non_blocking=True)
        return moved

    return run


def copy_activation(context: Context, task: Task, operands: Operands) -> Run:
    """Hidden states, queries with keys and values, or attention outputs of a micro-batch."""
    source, target = operands.reads[0], operands.writes[0]
    if source.kind in ("qkv", "attended"):
        a, b = context.activation(source, task), context.activation(target, task)
    else:
        tokens = context.state(task).tokens(task.step)
        shape = (tokens, context.arch.hidden_size)
        a, b = (context.memory.view(x, shape, context.dtype) for x in (source, target))

    def run() -> int:
        b.copy_(a, non_blocking=True)
        return b.nbytes

    return run


def load_cache(context: Context, task: Task, operands: Operands) -> Run:
    """The cached keys and values of all tokens but the newest: to staging, or to the GPU."""
    (span,) = operands.what
    assert isinstance(span, KVSpan)
    source, target = operands.reads[0], operands.writes[0]
    context.cached[id(target)] = span
    share = context.layout.share(span)
    if not share.rows:
        return _nothing
    a, b = _source_halves(context, source, span), context.kv_halves(target, span)
    past = [n - 1 for n in context.state(task).contexts(task.step, share.first, share.stop)]
    parts = [
        (b[half, offset : offset + n], a[half, offset : offset + n])
        for half in range(len(b))
        for offset, n in zip(share.offsets, past, strict=True)
    ]
    moved = 0 if task.op == "pin_kv" else sum(target.nbytes for target, _ in parts)

    def run() -> int:
        for target, source in parts:
            target.copy_(source, non_blocking=True)
        return moved

    return run


def _source_halves(context: Context, source: Buffer, span: KVSpan) -> Tensor:
    """A block of the cache, or of one half of it; or staging, which holds just that."""
    blocks = [h for h in source.holds if isinstance(h, KVSpan)]
    if not blocks:
        if context.cached.get(id(source)) != span:
            raise MoelabError(f"buffer '{source.name}' does not hold {span}")
        return context.kv_halves(source, span)
    whole = context.kv_halves(source, blocks[0])
    return {"both": whole, "keys": whole[:1], "values": whole[1:]}[span.half]


def store_cache(context: Context, task: Task, operands: Operands) -> Run:
    """New keys and values to the host's block: of whole prompts, or of the newest tokens."""
    target = operands.writes[0]
    spans = [h for h in target.holds if isinstance(h, KVSpan)]
    if not spans or not context.layout.share(spans[0]).rows:
        return _nothing
    block = context.kv_halves(target, spans[0])
    source = operands.reads[0]
    if task.step == 0:
        return _store_prompts(context, task, source, block, spans[0])
    return _store_newest(context, task, source, block, spans[0])


def _store_prompts(
    context: Context, task: Task, source: Buffer, block: Tensor, span: KVSpan
) -> Run:
    state, share = context.state(task), context.layout.share(span)
    new = prompt_kv(context, source, task)
    parts = [
        (block[half, offset : offset + length], new[half, start : start + length])
        for half in range(2)
        for offset, start, length in zip(
            share.offsets,
            state.starts[share.first : share.stop],
            state.batch.prompt_lengths[share.first : share.stop],
            strict=True,
        )
    ]
    moved = sum(target.nbytes for target, _ in parts)

    def run() -> int:
        for target, part in parts:
            target.copy_(part, non_blocking=True)
        return moved

    return run


def _store_newest(context: Context, task: Task, source: Buffer, block: Tensor, span: KVSpan) -> Run:
    """One row a sequence, gathered on the device, moved at once, then scattered on the host."""
    share, step = context.layout.share(span), task.step
    last, last_on_device = _last_rows(context, task, span)
    if source.kind == "new KV":
        shape = (2, share.stop - share.first, *block.shape[2:])
        new = context.memory.view(source, shape, context.dtype)
    else:
        new = context.kv_halves(source, context.cached[id(source)])

    def run() -> int:
        newest = new if source.kind == "new KV" else new.index_select(1, last_on_device + step)
        if newest.is_cuda:
            newest = _on_host(newest)
        block.index_copy_(1, last + step, newest)
        return newest.nbytes

    return run


def _last_rows(context: Context, task: Task, span: KVSpan) -> tuple[Tensor, Tensor]:
    """The row of each prompt's last token in its block, on the host and on the device.

    Copied once, while the issuing thread waits: the storing stream does not know when a copy of
    another stream has ended.
    """
    key = ("last rows", span)
    if key not in context.parts:
        share = context.layout.share(span)
        lengths = context.state(task).batch.prompt_lengths[share.first : share.stop]
        rows = [offset + n - 1 for offset, n in zip(share.offsets, lengths, strict=True)]
        host = torch.tensor(rows, dtype=torch.int64)
        context.parts[key] = host, host.to(context.device.torch_device)
    return context.parts[key]


def _on_host(tensor: Tensor) -> Tensor:
    """A copy in page-locked memory; waits for the current stream alone."""
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)
    copied.record()
    copied.synchronize()
    return here


def prompt_kv(context: Context, buffer: Buffer, task: Task) -> Tensor:
    """Where prefill leaves a micro-batch's new keys and values until they are stored.

    In a buffer of their own (FlexGen), or behind the hidden states; (2, prompt tokens, KV heads,
    head width).
    """
    tokens = context.state(task).batch.prompt_tokens
    own = buffer.kind == "new KV"
    after = 0 if own else tokens * context.arch.hidden_size * context.dtype.itemsize
    shape = (2, tokens, context.layout.heads, context.layout.head_dim)
    return context.memory.view(buffer, shape, context.dtype, after)


def _nothing() -> int:
    return 0


COPIES = {
    "pin_weights": copy_weights,
    "load_weights": copy_weights,
    "load_expert": copy_weights,
    "load_hidden": copy_activation,
    "store_hidden": copy_activation,
    "offload_qkv": copy_activation,
    "load_attended": copy_activation,
    "pin_kv": load_cache,
    "load_kv": load_cache,
    "store_kv": store_cache,
}
