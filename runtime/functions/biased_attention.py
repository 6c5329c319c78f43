"""Attention with a position bias, of whole prompts in an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from runtime.architecture import Architecture
from runtime.functions.linear import BLOCK_BYTES
from runtime.functions.position_bias import bias_of_queries


def encoder_attention(
    arch: Architecture, qkv: Tensor, lengths: Sequence[int], by_distance: Tensor, out: Tensor
) -> None:
    """Attention of every token of a prompt to all of it.

    qkv (t, qkv_size) as `qkv` packs it, lengths of the prompts (sum t), out (t, query_size).
    by_distance (heads, 2 n - 1) has the bias of distances up to n - 1, n the longest prompt.
    PyTorch allocates the bias and the result of each call, which are kept below `BLOCK_BYTES`
    if those of one query are.
    """
    start = 0
    for length, run in groupby(lengths):
        most = max(1, BLOCK_BYTES // (length * arch.query_size * qkv.element_size()))
        left = len(list(run))
        while left:
            n = min(left, most)
            rows = slice(start, start + n * length)
            _attend(arch, qkv[rows], n, length, by_distance, out[rows])
            start, left = rows.stop, left - n


def _attend(
    arch: Architecture, qkv: Tensor, n: int, length: int, by_distance: Tensor, out: Tensor
) -> None:
    """Attention of n prompts of one length, some of the queries at a time."""
    shape = (n, length, -1, arch.head_dim)
    q, k, v = (
        part.view(shape).transpose(1, 2)
        for part in qkv.split([arch.query_size, arch.kv_width, arch.kv_width], dim=1)
    )
    target = out.view(shape).transpose(1, 2)
    step = max(1, BLOCK_BYTES // (arch.n_heads * length * qkv.element_size()))
    for first in range(0, length, step):
        queries = slice(first, min(first + step, length))
        bias = bias_of_queries(by_distance, queries.start, queries.stop, length)
        target[:, :, queries] = scaled_dot_product_attention(
            q[:, :, queries], k, v, attn_mask=bias.unsqueeze(0), scale=arch.attention_scale
        )
