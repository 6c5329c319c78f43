"""The rotary position embedding of packed queries and keys."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from runtime.rope import Rope
from runtime.workspace import Workspace


@lru_cache(maxsize=64)
def _frequencies(rope: Rope, device: torch.device) -> Tensor:
    """(head_dim / 2,) in float32; copied to each device once."""
    return torch.tensor(rope.frequencies, dtype=torch.float32, device=device)


def rotate(rope: Rope, heads: Tensor, positions: Tensor, ws: Workspace) -> None:
    """Rotates heads (t, n_heads, head_dim) in place by their positions (t,).

    Angles are float32; cosine and sine are rounded to the dtype of the heads before they multiply,
    as in transformers. Takes head_dim / 2 x (2 n_heads + 4) elements per token, at most.
    """
    t, n, width = heads.shape
    half = width // 2
    with ws.scope():
        cos, sin = _cos_sin(rope, positions, heads.dtype, ws)
        left, right = heads[..., :half], heads[..., half:]
        from_left = torch.mul(left, sin, out=ws.take((t, n, half), heads.dtype))
        from_right = torch.mul(right, sin, out=ws.take((t, n, half), heads.dtype))
        left.mul_(cos).sub_(from_right)
        right.mul_(cos).add_(from_left)


def rotary_bytes(n_heads: int, head_dim: int, itemsize: int) -> int:
    """Bytes that `rotate` takes per token."""
    return head_dim * (n_heads * itemsize + 4 + itemsize)


def _cos_sin(
    rope: Rope, positions: Tensor, dtype: torch.dtype, ws: Workspace
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (t, 1, head_dim / 2) each."""
    frequencies = _frequencies(rope, positions.device)
    exact = ws.take((2, len(positions), 1, len(frequencies)), torch.float32)
    torch.mul(positions.float()[:, None, None], frequencies, out=exact[1])
    torch.cos(exact[1], out=exact[0])
    torch.sin(exact[1], out=exact[1])
    if rope.scaling != 1.0:
        exact.mul_(rope.scaling)
    if dtype == torch.float32:
        return exact[0], exact[1]
    rounded = ws.take(exact.shape, dtype).copy_(exact)
    return rounded[0], rounded[1]
