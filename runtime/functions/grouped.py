"""The routed experts by grouped GEMM, where the device has one that is worth it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.architecture_shapes import EXPERT_MATRICES
from runtime.pieces import LayerWeights
from runtime.workspace import Workspace

GROUPED_BYTES = 128 * 2**20
"""Bound of the three results per chunk of tokens: PyTorch has no `out=` here and allocates them."""

Product = Callable[..., Tensor]


class Stacks(NamedTuple):
    """Weights of all experts: gate and up (E, H, F), down (E, F, H), as `x @ w` takes them."""

    gate: Tensor
    up: Tensor
    down: Tensor


def stacks(arch: Architecture, w: LayerWeights, x: Tensor) -> Stacks | None:
    """The experts as stacks, if a grouped GEMM should be used; None otherwise."""
    if arch.spec.ffn_matrices != 3 or not has_grouped_gemm(x.dtype, x.device):
        return None
    found = [w.whole(name) for name in EXPERT_MATRICES]
    n, width, hidden = arch.spec.n_experts, arch.ffn_width(is_moe=True), arch.hidden_size
    if any(matrix is None or matrix.numel() != n * width * hidden for matrix in found):
        return None
    gate, up, down = (matrix.view(n, -1, matrix.shape[1]) for matrix in found if matrix is not None)
    if not arch.transposed_down:
        down = down.transpose(1, 2)
    return Stacks(gate.transpose(1, 2), up.transpose(1, 2), down)


@lru_cache(maxsize=16)
def has_grouped_gemm(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether PyTorch has a grouped GEMM kernel for a dtype on a device, which gives right results.

    Only bfloat16 on CUDA devices of capability 9.0 and above: elsewhere PyTorch (2.9 to 2.13) falls
    back to a loop over the experts, which on CUDA waits for the device behind the caller's back.
    On CPUs that loop was measured to be exactly as fast as the one in `experts`, which works in the
    workspace.
    """
    if device.type != "cuda" or dtype != torch.bfloat16 or _product() is None:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0) and is_right(dtype, device)


def is_right(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the grouped GEMM equals plain products on a small example with an empty group."""
    product = _product()
    if product is None:
        return False
    counts, size = (3, 0, 5), 32
    x = torch.arange(8 * size, device=device).remainder(7).sub(3).to(dtype).view(8, size)
    w = torch.arange(3 * size * size, device=device).remainder(5).sub(2).to(dtype)
    w = w.view(3, size, size).transpose(1, 2)
    ends = torch.tensor(counts, device=device).cumsum(0).to(torch.int32)
    try:
        result = product(x, w, offs=ends)
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return torch.equal(result, torch.cat([x[:3] @ w[0], x[3:] @ w[2]]))  # small whole numbers


def grouped_experts(
    whole: Stacks, normed: Tensor, ids: Tensor, gates: Tensor, out: Tensor, ws: Workspace
) -> None:
    """As `experts`, in chunks of tokens that fit the workspace; nothing waits for the device."""
    k, hidden = ids.shape[1], normed.shape[1]
    item = normed.element_size()
    allocated = k * (2 * whole.gate.shape[2] + hidden) * item
    step = ws.rows(k * hidden * item, hidden * item, limit=max(1, len(normed)))
    step = max(1, min(step, GROUPED_BYTES // allocated))
    for start in range(0, len(normed), step):
        rows = slice(start, start + step)
        with ws.scope():
            _chunk(whole, normed[rows], ids[rows], gates[rows], out[rows], ws)


def _chunk(
    whole: Stacks, normed: Tensor, ids: Tensor, gates: Tensor, out: Tensor, ws: Workspace
) -> None:
    product = _product()
    assert product is not None
    (t, k), hidden = ids.shape, normed.shape[1]
    sorted_ids, order = torch.sort(ids.reshape(-1), stable=True)
    experts = torch.arange(len(whole.gate), device=ids.device)
    ends = torch.searchsorted(sorted_ids, experts, right=True, out_int32=True)
    x = ws.take((t * k, hidden), normed.dtype)
    torch.index_select(normed, 0, order.div(k, rounding_mode="floor"), out=x)
    inner = torch.nn.functional.silu(product(x, whole.gate, offs=ends), inplace=True)
    inner.mul_(product(x, whole.up, offs=ends))
    result = product(inner, whole.down, offs=ends)
    torch.index_select(result, 0, torch.argsort(order), out=x)  # in the order of the tokens again
    weighted = x.view(t, k, hidden)
    torch.mul(weighted, gates[:, :, None], out=weighted)
    total = ws.take((t, hidden), normed.dtype)
    torch.sum(weighted, dim=1, out=total)
    out.add_(total)


def _product() -> Product | None:
    """PyTorch's grouped GEMM: public from 2.10 on, private before."""
    public = getattr(torch.nn.functional, "grouped_mm", None)
    return public if public is not None else getattr(torch, "_grouped_mm", None)
