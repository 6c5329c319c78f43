"""RMSNorm and LayerNorm, rounded where transformers rounds."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.functions.linear import row_blocks


def norm(arch: Architecture, x: Tensor, weight: Tensor, out: Tensor) -> None:
    """The model's norm over the last dimension of x (t, H); `out` may be x."""
    if arch.spec.norm == "layernorm":
        layer_norm(x, weight, arch.norm_eps, out)
    else:
        rms_norm(x, weight, arch.norm_eps, out)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Normalised in float32, rounded to the dtype of x, then scaled; x is (t, ..., size)."""
    size = x.shape[-1]
    for rows in row_blocks(x.shape[0], x[:1].numel() * 4):
        part, target = x[rows], out[rows]
        scale = torch.linalg.vector_norm(part, dim=-1, keepdim=True, dtype=torch.float32)
        scale.square_().div_(size).add_(eps).rsqrt_()
        torch.mul(part, scale, out=target)
        target.mul_(weight)


def layer_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Without a bias, rounded once at the end; x is (t, size)."""
    for rows in row_blocks(x.shape[0], x[:1].numel() * 4):
        out[rows] = torch.nn.functional.layer_norm(x[rows], weight.shape, weight, None, eps)
