"""Decode attention compiled by numba; import it only where it is used, as it loads numba.

Sequences are cut into chunks of `CHUNK` tokens. Each chunk is attended to by itself, and the
results of a sequence are merged in order, so that what comes out depends neither on the number of
threads nor on the other sequences. numba keeps compiled code in `__pycache__` and looks at this
file alone to tell whether it is still valid: touch it after changing the two that it imports.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from runtime.cpu_attention_simd import DOT_BFLOAT16, HALF, LANES, get, put
from runtime.cpu_attention_tile import BLOCK, attend_tile

__all__ = ["BLOCK", "CHUNK", "DOT_BFLOAT16", "HALF", "LANES", "attend", "merge"]

CHUNK = 256
"""Tokens that are attended to at once, and the finest split between threads."""

BLOCK_BYTES = 128 * 1024
"""Most bytes of keys in a block; a block of keys, one of values, and the next ones stay in L2."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use, without the GIL; cached on disk where there is a place for it."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache folder
        return njit(**options)(function)


@compiled
def attend_block(
    keys, values, query, scores, sums, peaks, totals, scale, start, count, shape, states, ahead, moving
):
    """Attend with all heads to `count` tokens from element `start` on."""
    heads, kv_heads, d, width, block = shape
    group = heads // kv_heads
    for kv in range(kv_heads):
        at = start + kv * d
        near = ahead + moving * kv * block * d
        move, done = moving, 0
        while done < group:
            left = group - done
            head = kv * group + done
            if left >= 8:
                attend_tile(
                    8, keys, values, query, scores, sums, peaks, totals, scale,
                    at, kv_heads * d, count, d, width, head, states + head, near, move,
                )
                done += 8
            elif left >= 4:
                attend_tile(
                    4, keys, values, query, scores, sums, peaks, totals, scale,
                    at, kv_heads * d, count, d, width, head, states + head, near, move,
                )
                done += 4
            elif left >= 2:
                attend_tile(
                    2, keys, values, query, scores, sums, peaks, totals, scale,
                    at, kv_heads * d, count, d, width, head, states + head, near, move,
                )
                done += 2
            else:
                attend_tile(
                    1, keys, values, query, scores, sums, peaks, totals, scale,
                    at, kv_heads * d, count, d, width, head, states + head, near, move,
                )
                done += 1
            near, move = at, 0
