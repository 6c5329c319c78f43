"""Matrices in 8 or 4 bits: rows of whole numbers with a scale for each group of elements.

A packed matrix of shape (rows, cols) is a uint8 tensor (rows, row_bytes): first the numbers of a
row, in 4 bits two to a byte (the first in the low half), then its scales in float16. Rows stay
rows, so whatever is cut between rows, moves in pages or is resident works on packed matrices too.

Symmetric: an element is scale x q with q from -(2^(bits-1) - 1) to 2^(bits-1) - 1, and the scale is
the group's largest magnitude over that bound (FineQuant, arXiv 2308.09723, section 3.1). So the
error of an element is at most half a scale, beside the rounding of the scale itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from schedules.errors import BadInput
from schedules.quantisation import SCALE_BYTES, packed_row_bytes

TINY = 2.0**-24  # the least float16 above zero: the scale of a group of zeros
ALIGNED = 4  # bytes: a matrix that follows a packed one begins at a multiple of its elements' size
GROUPS = (8, 16, 32, 64, 128)  # those that are proposed where another does not do


def check_rows(cols: int, bits: int, group: int) -> None:
    """Raises `BadInput` for rows that groups do not divide evenly, or that end at an odd place."""
    if _fits(cols, bits, group):
        return
    others = [str(other) for other in GROUPS if _fits(cols, bits, other)]
    advice = f"take a group of {' or '.join(others)}" if others else "leave their modifier out"
    raise BadInput(
        f"rows of {cols} elements cannot be packed in {bits} bits with groups of {group}; {advice}"
    )


def _fits(cols: int, bits: int, group: int) -> bool:
    return cols % group == 0 and packed_row_bytes(cols, bits, group) % ALIGNED == 0


def packed_cols(row_bytes: int, bits: int, group: int) -> int:
    """Elements of a packed row.

    >>> packed_cols(2176, 4, 64)
    4096
    """
    return row_bytes * 8 * group // (bits * group + 8 * SCALE_BYTES)


def pack_rows(matrix: Tensor, bits: int, group: int) -> Tensor:
    """A matrix (rows, cols) as a uint8 tensor (rows, row_bytes)."""
    rows, cols = matrix.shape
    check_rows(cols, bits, group)
    size = packed_row_bytes(cols, bits, group)
    most = 2 ** (bits - 1) - 1
    values = matrix.float().view(rows, cols // group, group)
    scales = (values.abs().amax(dim=2) / most).clamp_(min=TINY).half()
    if not bool(scales.isfinite().all()):
        raise BadInput(f"weights above {most * 65504:,} have no float16 scale in {bits} bits")
    whole = (values / scales.float().unsqueeze(2)).round_().clamp_(-most, most)
    numbers = whole.view(rows, cols).to(torch.int8)
    packed = torch.empty(rows, size, dtype=torch.uint8, device=matrix.device)
    end = cols * bits // 8
    if bits == 8:
        packed[:, :end] = numbers.view(torch.uint8)
    else:
        low, high = (numbers[:, half::2] & 15 for half in (0, 1))
        packed[:, :end] = (low | (high << 4)).view(torch.uint8)
    packed[:, end:] = scales.view(torch.uint8)
    return packed


def unpack_rows(packed: Tensor, bits: int, group: int, out: Tensor) -> None:
    """Write packed rows out as `out` (rows, cols), in its dtype; allocates nothing that is large
    on the host, and works on a device without waiting for it."""
    rows, cols = out.shape
    end = cols * bits // 8
    scales = packed[:, end:].contiguous().view(torch.float16).to(out.dtype).unsqueeze(2)
    groups = out.view(rows, cols // group, group)
    if bits == 8:
        out.copy_(packed[:, :end].view(torch.int8))
    else:
        pairs = packed[:, :end].view(torch.int8)
        out[:, 1::2] = pairs >> 4  # the sign comes along
        out[:, 0::2] = (pairs << 4) >> 4
    groups.mul_(scales)
