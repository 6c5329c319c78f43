"""Decode attention on the CPU: one query token per sequence against a KV cache in host memory.

The compiled kernel (`cpu_attention_numba`) reads each cached element once, at about the speed of
plain reading; it is compiled by numba on first use. Without numba, PyTorch computes the same,
several times slower.
"""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schedules.errors import BadInput

Lengths = Tensor | Sequence[int]

KINDS: dict[torch.dtype, Any] = {
    torch.float32: np.float32(0),
    torch.float16: np.uint16(0),
    torch.bfloat16: np.int16(0),
}
"""What stands for a dtype in the compiled kernel."""


def decode_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    offsets: Lengths,
    contexts: Lengths,
    out: Tensor,
    threads: int,
    scale: float | None = None,
) -> None:
    """out[s] = softmax(scale q[s] K^T) V over rows [offset, offset + context) of the cache.

    Query head h attends to KV head h // (heads / KV heads). Softmax and sums are in float32. What
    comes out for a sequence depends neither on `threads` nor on the other sequences.

    Parameters
    ----------
    q: (n, heads, d) float32, float16 or bfloat16 on the CPU; sequences may lie apart.
    keys, values: (rows, KV heads, d), contiguous, both of one of these dtypes.
    offsets, contexts: (n,) first row and number of rows of each sequence, the newest included.
    out: (n, heads, d) in q's dtype, written; sequences may lie apart.
    threads: how many compute, the caller among them; more calls may run at the same time.
    scale: of the scores; 1 / sqrt(d) by default.

    Raises
    ------
    BadInput: tensors, shapes, dtypes or rows that do not fit.
    """
    starts, lengths = _integers("offsets", offsets), _integers("contexts", contexts)
    _check(q, keys, values, out, threads)
    if not len(starts) == len(lengths) == len(q):
        raise BadInput(
            f"there are {len(q)} queries, {len(starts)} offsets and {len(lengths)} contexts"
        )
    scale = q.shape[2] ** -0.5 if scale is None else scale
    if not len(q):
        return
    kernel = compiled_kernel()
    if kernel and not kernel.HALF and torch.float16 in (q.dtype, keys.dtype):
        warn_slow("this processor has no instructions for float16")
        kernel = None
    if kernel is None:
        _check_rows(starts, lengths, len(keys))
        attend_in_torch(q, keys, values, starts, lengths, out, scale)
    else:
        _attend(kernel, q, keys, values, starts, lengths, out, threads, scale)


def append(
    keys: Tensor,
    values: Tensor,
    new_k: Tensor,
    new_v: Tensor,
    offsets: Lengths,
    contexts: Lengths,
) -> None:
    """Write the newest token's keys and values into the last row of each sequence.

    Parameters
    ----------
    keys, values: (rows, KV heads, d), written at rows offsets + contexts - 1.
    new_k, new_v: (n, KV heads, d) of the same dtype.
    offsets, contexts: as in `decode_attention`.

    Raises
    ------
    BadInput: shapes, dtypes or rows that do not fit.
    """
    starts, lengths = _integers("offsets", offsets), _integers("contexts", contexts)
    for name, cached, new in (("new_k", keys, new_k), ("new_v", values, new_v)):
        _check_shape(name, new, (len(starts), *cached.shape[1:]))
        if new.dtype != cached.dtype:
            raise BadInput(f"{name} is {new.dtype}, but the cache is {cached.dtype}")
    _check_rows(starts, lengths, min(len(keys), len(values)))
    newest = torch.from_numpy(starts + lengths - 1)
    keys.index_copy_(0, newest, new_k)
    values.index_copy_(0, newest, new_v)


# -- checks -----------------------------------------------------------------------------------


def _integers(name: str, given: Lengths) -> np.ndarray:
    found = np.asarray(given)
    if found.ndim != 1 or (found.size and found.dtype.kind != "i"):
        raise BadInput(f"{name} must be one integer for each sequence, not {given!r}")
    return np.ascontiguousarray(found, np.int64)


def _check(q: Tensor, keys: Tensor, values: Tensor, out: Tensor, threads: int) -> None:
    for name, tensor in (("q", q), ("keys", keys), ("values", values), ("out", out)):
        if not tensor.is_cpu or tensor.dtype not in KINDS or tensor.ndim != 3:
            raise BadInput(
                f"{name} must be a tensor of float32, float16 or bfloat16 with 3 dimensions on the "
                f"CPU, not of {tensor.dtype} with {tensor.ndim} on {tensor.device}"
            )
    _check_shape("out", out, q.shape)
    _check_shape("values", values, keys.shape)
    if out.dtype != q.dtype or values.dtype != keys.dtype:
        raise BadInput(
            f"out ({out.dtype}) must have the dtype of q ({q.dtype}), and values ({values.dtype}) "
            f"that of keys ({keys.dtype})"
        )
    _, heads, d = q.shape
    _, kv_heads, kv_d = keys.shape
    if kv_d != d or not kv_heads or not d or not heads or heads % kv_heads:
        raise BadInput(
            f"{heads} heads of width {d} cannot attend to {kv_heads} KV heads of width {kv_d}: "
            f"the widths must be equal, and the heads a multiple"
        )
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise BadInput("keys and values must be contiguous")
    together = all(tensor[:1].is_contiguous() for tensor in (q, out))
    if not together or (len(out) > 1 and out.stride(0) < heads * d):
        raise BadInput("the heads of a sequence must be contiguous, in q and in out")
    if threads < 1:
        raise BadInput(f"threads must be at least 1, not {threads}")


def _check_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise BadInput(f"{name} has shape {tuple(tensor.shape)}, but must have {tuple(shape)}")


def _check_rows(starts: np.ndarray, lengths: np.ndarray, rows: int) -> None:
    wrong = (starts < 0) | (lengths < 1) | (starts + lengths > rows)
    if wrong.any():
        raise _not_in_cache(int(wrong.argmax()), starts, lengths, rows)


def _not_in_cache(i: int, starts: np.ndarray, lengths: np.ndarray, rows: int) -> BadInput:
    return BadInput(
        f"sequence {i} has {lengths[i]} rows from row {starts[i]} on, but the cache has {rows} "
        f"rows, and a sequence has at least 1"
    )


# -- compiled ---------------------------------------------------------------------------------


@cache
def compiled_kernel() -> ModuleType | None:
    """The module with the compiled kernel; None, with a warning, where numba is missing."""
    try:
        from runtime import cpu_attention_numba
    except ImportError as error:
        warn_slow(f"numba cannot be imported ({error}); 'pip install numba' helps")
        return None
    return cpu_attention_numba


@cache
def warn_slow(reason: str) -> None:
    """Say once why PyTorch is used."""
    text = f"decode attention on the CPU runs in PyTorch and is several times slower: {reason}"
    warnings.warn(text, RuntimeWarning, stacklevel=2)


@cache
def pool() -> ThreadPoolExecutor:
    """The threads that help; they are started when needed, and shared by all callers."""
    return ThreadPoolExecutor(max(32, os.cpu_count() or 1), thread_name_prefix="cpu-attention")


os.register_at_fork(after_in_child=pool.cache_clear)  # threads do not survive a fork

BLOCK_BYTES = 128 * 1024
"""Most bytes of keys that are attended to at once; these, as many values, and the next of both,
which are prefetched meanwhile, should find room in a core's L2 cache."""


def _attend(
    kernel: Any,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: np.ndarray,
    lengths: np.ndarray,
    out: Tensor,
    threads: int,
    scale: float,
) -> None:
    """Attend with the compiled kernel."""
    wrong, first, bounds, bases = kernel.plan(starts, lengths, len(keys), threads)
    if wrong >= 0:
        raise _not_in_cache(wrong, starts, lengths, len(keys))
    query, shape = _shape(kernel, q, keys)
    kv_heads, _, group, _, width, *_ = shape
    parts, size = len(bounds) - 1, kv_heads * group * width
    own = size + 8 * kernel.BLOCK  # float32 of query and scores
    n_floats = parts * own + int(bases[-1]) * kernel.state_floats(kv_heads * group, width)
    scratch = torch.empty(n_floats, dtype=torch.float32)
    at = scratch.data_ptr()
    states = at + 4 * parts * own
    kinds = (KINDS[q.dtype], KINDS[keys.dtype], KINDS[query])
    tensors = (q.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr())
    steps = (q.stride(0), out.stride(0))
    powers = np.float32(scale / math.log(2))

    def attend(part: int) -> None:
        share = (bounds[part], bounds[part + 1])
        room = at + 4 * part * own
        places = (room, room + 4 * size, states)
        common = (kinds, tensors, steps, starts, lengths, first)
        kernel.attend(*common, share, shape, powers, places, bases[part])

    in_parallel(attend, parts)
    if parts > 1:
        kernel.merge(kinds[0], tensors[3], steps[1], first, bounds, bases, shape, states)


def _shape(kernel: Any, q: Tensor, keys: Tensor) -> tuple[torch.dtype, tuple[int, ...]]:
    """The dtype in which queries are multiplied, and the `shape` of the compiled functions."""
    _, kv_heads, d = keys.shape
    group = q.shape[1] // kv_heads
    in_pairs = kernel.DOT_BFLOAT16 and q.dtype == keys.dtype == torch.bfloat16
    in_pairs = in_pairs and d % (2 * kernel.LANES) == 0
    query = torch.bfloat16 if in_pairs else torch.float32
    width = -(-d // kernel.LANES) * kernel.LANES
    block = BLOCK_BYTES // (kv_heads * d * keys.itemsize) // 16 * 16
    block = min(max(block, 16), kernel.BLOCK)
    heads = (kv_heads, group, kernel.padded(group))
    return query, (*heads, d, width, block, keys.itemsize, query.itemsize)


def in_parallel(function: Callable[[int], None], n: int) -> None:
    """Call function(0) here and function(1), ..., function(n - 1) in helping threads."""
    helping = [pool().submit(function, i) for i in range(1, n)]
    try:
        function(0)
    finally:
        wait(helping)
    for each in helping:
        each.result()


# -- in PyTorch -------------------------------------------------------------------------------


def attend_in_torch(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    offsets: np.ndarray,
    contexts: np.ndarray,
    out: Tensor,
    scale: float,
) -> None:
    """Attend to one sequence after the other with PyTorch, in float32."""
    for s, (start, n_rows) in enumerate(zip(offsets.tolist(), contexts.tolist(), strict=True)):
        rows = slice(start, start + n_rows)
        k, v = (cached[rows].float().transpose(0, 1) for cached in (keys, values))
        grouped = q[s].float().view(len(k), -1, q.shape[2])  # (KV heads, group, d)
        weights = torch.softmax(scale * grouped @ k.transpose(1, 2), dim=-1)
        out[s] = (weights @ v).view_as(q[s]).to(out.dtype)
