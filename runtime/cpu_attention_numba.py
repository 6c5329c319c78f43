"""Decode attention compiled by numba; import it only where it is used, as it loads numba.

Sequences are cut into chunks of `CHUNK` tokens. Each chunk is attended to by itself, and the
results of a sequence are merged in order, so that what comes out depends neither on the number of
threads nor on the other sequences.
"""

import inspect
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from runtime import cpu_attention_simd, cpu_attention_tile
from runtime.cpu_attention_simd import DOT_BFLOAT16, HALF, LANES, get, put
from runtime.cpu_attention_tile import BLOCK, attend_group

__all__ = ["BLOCK", "DOT_BFLOAT16", "HALF", "LANES", "attend", "merge", "plan"]

CHUNK = 512
"""Tokens that are attended to at once, and the finest split between threads."""

FLOAT32 = np.float32(0)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use, without the GIL; kept in `__pycache__`, or in the user's cache folder.

    numba takes what it has kept as valid while this file is as it was. So that it also notices
    changes of the modules that emit code, their checksum is part of the function's name.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        sources = map(inspect.getsource, (cpu_attention_simd, cpu_attention_tile))
        function.__qualname__ += f"_{zlib.crc32(''.join(sources).encode()):08x}"
        return njit(cache=True, **options)(function)
    except (OSError, RuntimeError):  # no source, or no folder that can be written to
        return njit(**options)(function)


@compiled
def plan(offsets, contexts, n_rows, threads):
    """Cut sequences into chunks, and the chunks into parts of about as many tokens each.

    Parameters
    ----------
    offsets, contexts: (n,) first row and number of rows of each sequence, n >= 1.
    n_rows: of the cache.
    threads: most parts.

    Returns
    -------
    wrong: number of a sequence that does not lie in the cache, or -1.
    first: (n + 1,) number of each sequence's first chunk.
    bounds: (parts + 1,) the chunks of part p are [bounds[p], bounds[p + 1]).
    bases: (parts + 1,) the states of part p are [bases[p], bases[p + 1]).
    """
    n, n_tokens = contexts.size, 0
    first = np.zeros(n + 1, np.int64)
    for s in range(n):
        if offsets[s] < 0 or contexts[s] < 1 or offsets[s] + contexts[s] > n_rows:
            return s, first, first, first
        first[s + 1] = first[s] + (contexts[s] + CHUNK - 1) // CHUNK
        n_tokens += contexts[s]
    parts = min(threads, first[n])
    bounds, bases = np.full(parts + 1, first[n]), np.zeros(parts + 1, np.int64)
    bounds[0], before, p = 0, 0, 1
    for s in range(n):
        for chunk in range(first[s], first[s + 1]):
            count = min(CHUNK, contexts[s] - (chunk - first[s]) * CHUNK)
            while p < parts and (2 * before + count) * parts >= 2 * n_tokens * p:
                bounds[p] = chunk  # its middle lies beyond the share of p parts
                p += 1
            before += count
    for p in range(parts):
        s = np.searchsorted(first, bounds[p], side="right") - 1
        begun = min(bounds[p + 1], first[s + 1]) - bounds[p] if bounds[p] > first[s] else 0
        bases[p + 1] = bases[p] + 2 + begun
    return -1, first, bounds, bases


@compiled
def attend(kinds, tensors, steps, offsets, contexts, first, share, shape, scale, scratch, base):
    """Attend to chunks [start, stop) = share, which number the chunks of all sequences through.

    Parameters
    ----------
    kinds: their types are the formats of q and out, of the cache, and of `query` (see
        `attend_group`).
    tensors: addresses of q, of keys and values (rows, KV heads, d), and of out.
    steps: elements from one sequence to the next, in q and in out.
    offsets, contexts, first: see `plan`.
    shape: KV heads, heads of each, the same with idle ones (see `padded`), d, width (d rounded up
        to whole vectors), tokens in a block, bytes of an element of the cache, and of `query`.
    scale: of the scores, in powers of two.
    scratch: addresses of query (KV heads * padded heads, width), scores (8, BLOCK) and states, see
        `state_at`. State `base` is for sequences that begin here, `base` + 1 for their chunks; the
        chunks of a sequence that began in the part before take the states from `base` + 2 on.
    """
    start, stop = share
    s = np.searchsorted(first, start, side="right") - 1
    slot = base + 2
    while start < stop:
        pack_query(kinds, tensors[0], s * steps[0], shape, scratch[0])
        end = min(stop, first[s + 1])
        following = offsets[s + 1] if first[s + 1] < stop else -1
        begun = start > first[s]
        for chunk in range(start, end):
            begin = (chunk - first[s]) * CHUNK
            count = min(CHUNK, contexts[s] - begin)
            row = offsets[s] + begin
            after = row + count if begin + count < contexts[s] else following
            state = slot if begun else base + (chunk > start)
            attend_chunk(kinds, tensors, row, count, after, shape, scale, scratch, state)
            if begun:
                slot += 1
            elif chunk > start:
                fold(scratch[2], base, base + 1, shape)
        if not begun and end == first[s + 1]:
            finish(scratch[2], base, kinds[0], tensors[3], s * steps[1], shape)
        start = end
        s += 1


def padded(group: int) -> int:
    """Heads to compute for a group: an idle one more is cheaper than a tile of 2 and one of 1."""
    return group + (group % 4 == 3)


@compiled
def state_at(states, state, shape):
    """Addresses of its sums (heads, width), peaks (heads,) and totals (heads,), in float32."""
    heads, width = shape[0] * shape[2], shape[4]
    sums = states + 4 * state * state_floats(heads, width)
    return sums, sums + 4 * heads * width, sums + 4 * heads * (width + 1)


@compiled
def state_floats(heads, width):
    """Room for a state: whole cache lines of 16 float32."""
    return (heads * (width + 2) + 15) // 16 * 16


@compiled
def pack_query(kinds, q, at, shape, query):
    """Copy the heads of a sequence; what idle heads and whole vectors have more is zero."""
    kv_heads, group, padded_group, d, width, _, _, _ = shape
    for kv in range(kv_heads):
        for i in range(padded_group * width):
            put(query, kinds[2], kv * padded_group * width + i, FLOAT32)
        for h in range(group):
            to, of = (kv * padded_group + h) * width, at + (kv * group + h) * d
            for i in range(d):
                put(query, kinds[2], to + i, get(q, kinds[0], of + i))


@compiled
def attend_chunk(kinds, tensors, first_row, n_tokens, after, shape, scale, scratch, state):
    """Fill a state from n_tokens rows of the cache; row `after`, unless -1, is read next."""
    kv_heads, _, group, d, width, block, kv_bytes, query_bytes = shape
    _, keys, values, _ = tensors
    query, scores, states = scratch
    sums, peaks, totals = state_at(states, state, shape)
    for i in range(kv_heads * group * width):
        put(sums, FLOAT32, i, FLOAT32)
    for i in range(kv_heads * group):
        put(peaks, FLOAT32, i, -np.inf)
        put(totals, FLOAT32, i, FLOAT32)
    stride = kv_heads * d
    for t in range(0, n_tokens, block):
        next_row = first_row + t + block if t + block < n_tokens else after
        moving = int(next_row >= 0)
        ahead = (next_row - first_row - t) * stride * moving
        for kv in range(kv_heads):
            at = ((first_row + t) * stride + kv * d) * kv_bytes
            head = kv * group
            attend_group(
                kinds[1],
                kinds[2],
                keys + at,
                values + at,
                query + head * width * query_bytes,
                scores,
                sums + 4 * head * width,
                peaks + 4 * head,
                totals + 4 * head,
                scale,
                stride,
                min(block, n_tokens - t),
                d,
                width,
                group,
                (ahead + kv * (block - 1) * d * moving) * kv_bytes,
                moving,
            )


@compiled
def fold(states, one, two, shape):
    """Merge state `two` into `one`."""
    heads, width = shape[0] * shape[2], shape[4]
    sums, peaks, totals = state_at(states, one, shape)
    more_sums, more_peaks, more_totals = state_at(states, two, shape)
    for h in range(heads):
        x, y = get(peaks, FLOAT32, h), get(more_peaks, FLOAT32, h)
        peak = max(x, y)
        a, b = np.exp2(x - peak), np.exp2(y - peak)
        put(peaks, FLOAT32, h, peak)
        put(totals, FLOAT32, h, a * get(totals, FLOAT32, h) + b * get(more_totals, FLOAT32, h))
        for i in range(h * width, (h + 1) * width):
            put(sums, FLOAT32, i, a * get(sums, FLOAT32, i) + b * get(more_sums, FLOAT32, i))


@compiled
def finish(states, state, kind, out, at, shape):
    """Write the attention output of a state from element `at` of out on."""
    kv_heads, group, padded_group, d, width, _, _, _ = shape
    sums, _, totals = state_at(states, state, shape)
    for kv in range(kv_heads):
        for h in range(group):
            head, to = kv * padded_group + h, at + (kv * group + h) * d
            total = get(totals, FLOAT32, head)
            for i in range(d):
                put(out, kind, to + i, get(sums, FLOAT32, head * width + i) / total)


@compiled
def merge(kind, out, step, first, bounds, bases, shape, states):
    """Write the outputs of the sequences that several parts had a share of; see `plan`."""
    home = 0
    for p in range(1, bounds.size - 1):
        s = np.searchsorted(first, bounds[p], side="right") - 1
        if bounds[p] == first[s]:
            continue
        if bounds[p - 1] <= first[s]:
            home = bases[p - 1]
        end = min(bounds[p + 1], first[s + 1])
        for i in range(end - bounds[p]):
            fold(states, home, bases[p] + 2 + i, shape)
        if end == first[s + 1]:
            finish(states, home, kind, out, s * step, shape)
