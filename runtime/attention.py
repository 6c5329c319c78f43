"""The attention of a layer, with its cache, where a schedule wants it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.context import Context
from runtime.copies import prompt_kv
from runtime.functions.attention import decode_attention, prefill_attention
from runtime.kv import Share
from runtime.lane import Run
from schedules.contents import KVSpan
from schedules.errors import MoelabError
from schedules.issuer import Operands
from schedules.task import Buffer, Task

Core = Callable[[Tensor, Tensor], None]
"""From queries, keys and values (tokens, qkv_size) to attention outputs (tokens, query_size)."""


CPU = torch.device("cpu")


class CachePart(NamedTuple):
    """Some sequences' keys and values, (rows, KV heads, head width) each."""

    keys: Tensor
    values: Tensor
    share: Share
    first_rows: Tensor
    visiting: bool


def compile_kernel(context: Context) -> None:
    """Let the CPU's kernel be compiled before anything is timed."""
    arch = context.arch
    kv = torch.zeros((1, arch.n_kv_heads, arch.head_dim), dtype=arch.dtype)
    q = torch.zeros((1, arch.n_heads, arch.head_dim), dtype=arch.dtype)
    for threads in sorted(set(context.threads)):
        decode_attention(q, kv, kv, [0], [1], torch.empty_like(q), threads)


def cache_parts(
    context: Context, task: Task, buffers: Sequence[Buffer], layer: int | None = None
) -> list[CachePart]:
    """The parts of a micro-batch's cache that lie in these buffers, in order of sequences; of the
    task's layer by default."""
    own = (task.layer if layer is None else layer, task.micro_batch)
    visiting = tuple(context.cached.get(id(buffer)) for buffer in buffers)
    key = (*own, tuple(map(id, buffers)), visiting)
    if key not in context.parts:
        context.parts[key] = _find_parts(context, own, buffers)
    return context.parts[key]


def _find_parts(
    context: Context, own: tuple[int, int], buffers: Sequence[Buffer]
) -> list[CachePart]:
    device = context.device.torch_device
    found: dict[KVSpan, Tensor] = {}
    visitors: set[KVSpan] = set()
    for buffer in buffers:
        spans = [h for h in buffer.holds if isinstance(h, KVSpan)]
        if not spans and (visiting := context.cached.get(id(buffer))):
            spans = [visiting]
            visitors.add(visiting)
        for span in spans:
            if span[:2] == own and context.layout.share(span).rows:
                found[span] = context.kv_halves(buffer, span)
    parts = []
    for span, halves in found.items():
        if span.half == "values":
            continue
        share = context.layout.share(span)
        values = halves[1:]
        if span.half == "keys":
            other = found.get(span._replace(half="values"))
            if other is None:
                raise MoelabError(f"the values of {span} are not on the GPU")
            values = other
        rows = torch.tensor(share.offsets, device=device if halves.device != CPU else CPU)
        parts.append(CachePart(halves[0], values[0], share, rows, span in visitors))
    return sorted(parts, key=lambda part: part.share.first)


def decode_core(context: Context, task: Task, operands: Operands) -> Core:
    """Append the new keys and values to the cache, and attend to it, on the GPU.

    Raises `MoelabError` when the cache of some sequences is not on the GPU.
    """
    arch, state = context.arch, context.state(task)
    buffers = list(dict.fromkeys((*operands.writes, *operands.reads)))
    parts = cache_parts(context, task, buffers)
    covered = sum(part.share.stop - part.share.first for part in parts)
    if covered < state.batch.size:
        raise MoelabError(
            f"the cache of {state.batch.size - covered} of {state.batch.size} sequences of layer "
            f"{task.layer} is not on the GPU: the schedule did not bring it"
        )
    moving = [part.share for part in parts if part.visiting]
    new = [b for b in buffers if b.kind == "new KV" and context.owns(b) and moving]
    contexts = [state.contexts(task.step, part.share.first, part.share.stop) for part in parts]

    def run(qkv: Tensor, out: Tensor) -> None:
        queries, keys, values = split_qkv(context, qkv)
        attended = out.view(state.batch.size, arch.n_heads, arch.head_dim)
        for part, context_lengths in zip(parts, contexts, strict=True):
            of = slice(part.share.first, part.share.stop)
            newest = part.first_rows + state.positions[of]
            part.keys.index_copy_(0, newest, keys[of])
            part.values.index_copy_(0, newest, values[of])
            decode_attention(
                queries[of].contiguous(),
                part.keys,
                part.values,
                part.share.offsets,
                context_lengths,
                attended[of],
                context.threads[0],
            )
        if new:  # what goes back to the host's part of the cache
            of = slice(moving[0].first, moving[0].stop)
            shape = (2, of.stop - of.start, *keys.shape[1:])
            kept = context.memory.view(new[0], shape, context.dtype)
            kept[0].copy_(keys[of])
            kept[1].copy_(values[of])

    return run


def prefill_core(context: Context, task: Task, operands: Operands) -> Core:
    """Attend within each prompt, and keep keys and values where the schedule wants them."""
    state = context.state(task)
    lengths, starts = state.batch.prompt_lengths, state.starts
    parts = cache_parts(context, task, operands.writes)
    places = []
    for part in parts:
        rows = prompt_rows(context, task, part.share)
        first = starts[part.share.first]
        places.append((part, slice(first, first + len(rows)), rows))
    mine = [b for b in operands.writes if context.owns(b)]
    stored = [b for kind in ("new KV", "prompt hidden") for b in mine if b.kind == kind]
    covered = sum(part.share.stop - part.share.first for part in parts)
    region = prompt_kv(context, stored[0], task) if stored and covered < len(lengths) else None

    def run(qkv: Tensor, out: Tensor) -> None:
        _, keys, values = split_qkv(context, qkv)
        prefill_attention(context.arch, qkv, lengths, out)
        for part, tokens, rows in places:
            part.keys.index_copy_(0, rows, keys[tokens])
            part.values.index_copy_(0, rows, values[tokens])
        if region is not None:
            region[0].copy_(keys)
            region[1].copy_(values)

    return run


def prompt_rows(context: Context, task: Task, share: Share) -> Tensor:
    """The rows of a share's prompt tokens in its block, on the device.

    Kept for the whole run: the memory of a tensor that the issuing thread drops while another
    stream still reads it would be given to the next one.
    """
    key = ("prompt rows", task.micro_batch, share)
    if key not in context.parts:
        lengths = context.state(task).batch.prompt_lengths[share.first : share.stop]
        spans = zip(share.offsets, lengths, strict=True)
        rows = torch.cat([torch.arange(offset, offset + n) for offset, n in spans])
        context.parts[key] = rows.to(context.device.torch_device)
    return context.parts[key]


def cpu_attention(context: Context, task: Task, operands: Operands) -> Run:
    """The attention core of a decode step over the cache in host memory."""
    arch, state = context.arch, context.state(task)
    qkv = context.activation(context.only(operands.reads, "qkv"), task)
    out = context.activation(context.only(operands.writes, "attended"), task)
    (part,) = cache_parts(context, task, operands.writes)
    contexts = state.contexts(task.step, 0, state.batch.size)

    def run() -> int:
        queries, keys, values = split_qkv(context, qkv)
        attended = out.view(state.batch.size, arch.n_heads, arch.head_dim)
        newest = part.first_rows + torch.tensor(contexts) - 1
        part.keys.index_copy_(0, newest, keys)
        part.values.index_copy_(0, newest, values)
        decode_attention(
            queries.contiguous(),
            part.keys,
            part.values,
            part.share.offsets,
            contexts,
            attended,
            context.threads[1],
        )
        return 0

    return run


def split_qkv(context: Context, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (t, heads, d), keys and values (t, KV heads, d) of packed ones (t, qkv_size)."""
    arch = context.arch
    q, k, v = qkv.split([arch.query_size, arch.kv_width, arch.kv_width], dim=1)
    return tuple(x.unflatten(1, (-1, arch.head_dim)) for x in (q, k, v))  # type: ignore[return-value]
