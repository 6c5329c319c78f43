"""Products with matrices that lie in pieces, and the SwiGLU that is made of three of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from runtime.pieces import LayerWeights

BLOCK_BYTES = 16 * 2**20  # bound of what PyTorch allocates by itself inside one operation


def linear(w: LayerWeights, name: str, x: Tensor, out: Tensor, first: int = 0) -> None:
    """`out` (t, r) = x (t, cols) @ rows [first, first + r) of a matrix, transposed."""
    for start, stop, rows in w.rows(name, first, first + out.shape[1]):
        torch.mm(x, rows.t(), out=out[:, start - first : stop - first])


def add_linear(w: LayerWeights, name: str, x: Tensor, out: Tensor) -> None:
    """As `linear` from row 0, added to what `out` holds."""
    for start, stop, rows in w.rows(name, 0, out.shape[1]):
        out[:, start:stop].addmm_(x, rows.t())


def transposed_linear(w: LayerWeights, name: str, x: Tensor, out: Tensor, first: int) -> None:
    """`out` (t, cols) = x (t, r) @ rows [first, first + r) of a matrix."""
    for start, stop, rows in w.rows(name, first, first + x.shape[1]):
        part = x[:, start - first : stop - first]
        if start == first:
            torch.mm(part, rows, out=out)
        else:
            out.addmm_(part, rows)


def swiglu(
    w: LayerWeights,
    names: tuple[str, str, str],
    x: Tensor,
    inner: tuple[Tensor, Tensor],
    out: Tensor,
    expert: int = 0,
    transposed: bool = False,
) -> None:
    """out (t, H) = down(silu(gate(x)) * up(x)) of one expert, for x (t, H); `out` may be x.

    `inner` is memory for two tensors of (t, width of an expert).
    """
    gate, up = inner
    width = gate.shape[1]
    linear(w, names[0], x, gate, expert * width)
    linear(w, names[1], x, up, expert * width)
    torch.nn.functional.silu(gate, inplace=True).mul_(up)
    if transposed:
        transposed_linear(w, names[2], gate, out, expert * width)
    else:
        linear(w, names[2], gate, out, expert * out.shape[1])


def row_blocks(n_rows: int, row_bytes: int) -> Iterator[slice]:
    """Slices of rows whose size stays below `BLOCK_BYTES`."""
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
