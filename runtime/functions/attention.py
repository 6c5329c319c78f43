"""Attention over packed prompts, and of one new token per sequence over its KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from runtime import cpu_attention
from runtime.architecture import Architecture
from runtime.functions.linear import BLOCK_BYTES


def prefill_attention(arch: Architecture, qkv: Tensor, lengths: Sequence[int], out: Tensor) -> None:
    """Causal attention of prompts that follow one another without padding.

    qkv (t, qkv_size) as `qkv` packs it, lengths of the prompts (sum t), out (t, query_size).
    Runs of prompts of equal length are computed together. PyTorch allocates the result of each
    call, which is kept below `BLOCK_BYTES` if one prompt and KV head is.
    """
    start = 0
    for length, run in groupby(lengths):
        n = len(list(run))
        stop = start + n * length
        _attend_run(arch, qkv[start:stop], n, length, out[start:stop])
        start = stop


def _attend_run(arch: Architecture, qkv: Tensor, n: int, length: int, out: Tensor) -> None:
    """Attention of n prompts of one length."""
    group = arch.n_heads // arch.n_kv_heads  # query heads that share a head of keys and values
    d = arch.head_dim
    sizes = [arch.query_size, arch.kv_width, arch.kv_width]
    parts = [part.unflatten(0, (n, length)) for part in qkv.split(sizes, dim=1)]
    q = parts[0].unflatten(2, (-1, group, d)).permute(0, 2, 3, 1, 4)  # (n, kv heads, group, t, d)
    k, v = (p.unflatten(2, (-1, 1, d)).permute(0, 2, 3, 1, 4) for p in parts[1:])
    target = out.view(n, length, -1, group, d).permute(0, 2, 3, 1, 4)
    for at in _calls(n, arch.n_kv_heads, group * length * d * qkv.element_size()):
        keys, values = (x[at].expand_as(q[at]) for x in (k, v))  # shared heads are not copied
        target[at] = scaled_dot_product_attention(q[at], keys, values, is_causal=True)


def _calls(n: int, n_kv_heads: int, item_bytes: int) -> Iterator[tuple[slice | int, slice | int]]:
    """Index pairs that take a 4-D part of (prompts, KV heads, ...) each, in as few calls as fit.

    One of the two is a single index, the other a range of items of `item_bytes` of results.
    """
    step = max(1, BLOCK_BYTES // max(1, item_bytes))
    if n >= n_kv_heads:
        yield from ((slice(a, a + step), h) for h in range(n_kv_heads) for a in range(0, n, step))
    else:
        yield from ((j, slice(a, a + step)) for j in range(n) for a in range(0, n_kv_heads, step))


def decode_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    offsets: Sequence[int],
    contexts: Sequence[int],
    out: Tensor,
    threads: int | None = None,
    scale: float | None = None,
) -> None:
    """Attention of one new token of each of n sequences over its cache.

    q and out (n, n_heads, head_dim); keys and values (rows, n_kv_heads, head_dim), where sequence s
    has rows [offsets[s], offsets[s] + contexts[s]), its new token included. `offsets` and
    `contexts` are known to the host. On the CPU this is `runtime.cpu_attention`; elsewhere
    sequences of equal context at equal distances are computed together, others one by one.
    `scale`: of the scores, 1 / sqrt(head_dim) by default.
    """
    if q.device.type == "cpu":
        at, filled = (torch.tensor(x, dtype=torch.int64) for x in (offsets, contexts))
        n_threads = threads or torch.get_num_threads()
        cpu_attention.decode_attention(q, keys, values, at, filled, out, n_threads, scale)
    else:
        attend_runs(q, keys, values, offsets, contexts, out, scale)


def attend_runs(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    offsets: Sequence[int],
    contexts: Sequence[int],
    out: Tensor,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> None:
    """`decode_attention` by PyTorch: one call for each regular run of sequences.

    `bias` (heads, c) is added to the scores where all contexts are c and every query head has a KV
    head of its own (T5).
    """
    mask = None if bias is None else bias[None, :, None]  # (1, heads, 1, c)
    for first, stop, stride in _regular_runs(offsets, contexts):
        context, offset = contexts[first], offsets[first]
        n, heads, d = q[first:stop].shape
        n_kv = keys.shape[1]
        k, v = (_strided(x, offset, n, stride, context) for x in (keys, values))
        grouped = q[first:stop].view(n, n_kv, heads // n_kv, d)  # a KV head's queries as rows
        attended = scaled_dot_product_attention(grouped, k, v, attn_mask=mask, scale=scale)
        out[first:stop] = attended.reshape(n, heads, d)


def _regular_runs(
    offsets: Sequence[int], contexts: Sequence[int]
) -> Iterator[tuple[int, int, int]]:
    """Runs [first, stop) of sequences of equal context whose offsets are `stride` rows apart.

    >>> list(_regular_runs([0, 10, 20, 50], [3, 3, 3, 3]))
    [(0, 3, 10), (3, 4, 0)]
    """
    first = 0
    while first < len(contexts):
        stop, stride = first + 1, 0
        while stop < len(contexts) and contexts[stop] == contexts[first]:
            step = offsets[stop] - offsets[stop - 1]
            if stride not in (0, step) or step <= 0:
                break
            stop, stride = stop + 1, step
        yield first, stop, stride
        first = stop


def _strided(cache: Tensor, offset: int, n: int, stride: int, context: int) -> Tensor:
    """(n, n_kv_heads, context, head_dim) of a cache (rows, n_kv_heads, head_dim), not copied."""
    row, head, element = cache.stride()
    sizes = (n, cache.shape[1], context, cache.shape[2])
    start = cache.storage_offset() + offset * row
    return cache.as_strided(sizes, (stride * row, head, row, element), start)
