"""What must hold between the fields of a `ModelSpec`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from schedules.model_layers import has_experts

if TYPE_CHECKING:
    from schedules.model import ModelSpec


def check(spec: ModelSpec) -> None:
    """Raises `ValueError` with the first field that contradicts another, and what is right."""
    for problem in (*_attention(spec), *_experts(spec), *_shared(spec), *_positions(spec)):
        raise ValueError(problem)


def _attention(spec: ModelSpec) -> Iterator[str]:
    if spec.n_heads % spec.n_kv_heads:
        yield f"n_heads is {spec.n_heads}; it must be a multiple of n_kv_heads, {spec.n_kv_heads}"
    if spec.mla is not None:
        width = spec.mla.qk_nope_head_dim + spec.mla.qk_rope_head_dim
        if spec.head_dim != width:
            yield f"head_dim is {spec.head_dim}; with this mla it must be {width} (nope + rope)"
        if spec.n_kv_heads != spec.n_heads:
            yield f"n_kv_heads is {spec.n_kv_heads}; with mla it must be n_heads, {spec.n_heads}"


def _experts(spec: ModelSpec) -> Iterator[str]:
    if spec.top_k > spec.n_experts:
        yield f"top_k is {spec.top_k}; it must be at most n_experts, {spec.n_experts}"
    if spec.moe_offset is not None and spec.moe_offset >= spec.moe_every:
        yield f"moe_offset is {spec.moe_offset}; it must be less than moe_every, {spec.moe_every}"
    layers = range(max(spec.n_layers, spec.n_encoder_layers))
    without = [i for i in layers if not has_experts(spec, i)]
    if spec.n_experts > 1 and without and not spec.dense_ffn_size:
        yield f"dense_ffn_size is 0; layer {without[0]} has no experts, so it must be at least 1"


def _shared(spec: ModelSpec) -> Iterator[str]:
    if (spec.n_shared_experts > 0) != (spec.shared_ffn_size > 0):
        yield (
            f"n_shared_experts is {spec.n_shared_experts} and shared_ffn_size"
            f" {spec.shared_ffn_size}; both must be 0 or both at least 1"
        )
    if spec.shared_expert_gate and not spec.n_shared_experts:
        yield "shared_expert_gate is true; without shared experts it must be false"


def _positions(spec: ModelSpec) -> Iterator[str]:
    if 0 < spec.learned_positions < spec.max_context:
        yield (
            f"learned_positions is {spec.learned_positions}; it must be 0 or at least max_context,"
            f" {spec.max_context}"
        )
