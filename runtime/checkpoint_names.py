"""Under which names, and where in a tensor, Hugging Face checkpoints keep each weight."""

from __future__ import annotations

from runtime.architecture import Architecture
from runtime.architecture_shapes import EXPERT_MATRICES, SHARED_MATRICES, Shape
from runtime.checkpoint_names_switch import (
    switch_matrix_place,
    switch_model_places,
    switch_vector_place,
)
from runtime.checkpoint_places import Place

__all__ = ["Place", "matrix_places", "model_places", "vector_place"]

EXPERT_NAMES = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
MIXTRAL_NAMES = {"gate": "w1", "up": "w3", "down": "w2"}
DBRX_NAMES = {"gate": "w1", "up": "v1", "down": "w2"}
SHARED_NAMES = dict(zip(SHARED_MATRICES, EXPERT_NAMES.values(), strict=True))
VECTORS = {
    "attn_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "o_bias": "self_attn.o_proj.bias",
    "shared_expert_gate": "mlp.shared_expert_gate.weight",
}
DBRX_VECTORS = {
    "attn_norm": "norm_attn_norm.norm_1.weight",
    "ffn_norm": "norm_attn_norm.norm_2.weight",
}


def matrix_places(
    arch: Architecture, shapes: dict[str, Shape], layer: int, name: str, expert: int = 0
) -> tuple[Place, ...]:
    """Where a matrix may be, the usual form first: a tensor per expert, or all experts in one.

    `shapes` are those of the layer's matrices.
    """
    if arch.encoder_decoder is not None:
        return (switch_matrix_place(arch, shapes, layer, name, expert),)
    rows, cols = shapes[name].rows, shapes[name].cols
    if arch.spec.family == "dbrx":
        return (_dbrx(arch, f"transformer.blocks.{layer}.", name, expert, shapes),)
    prefix = f"model.layers.{layer}."
    if name in EXPERT_MATRICES:
        places = _expert_places(prefix, name, expert, shapes)
        return places[::-1] if arch.spec.family == "mixtral" else places
    if name == "router":
        names = [f"{prefix}block_sparse_moe.gate.weight", f"{prefix}mlp.gate.weight"]
        if arch.spec.family != "mixtral":
            names.reverse()
    elif name in SHARED_NAMES:
        names = [f"{prefix}mlp.shared_expert.{SHARED_NAMES[name]}.weight"]
    else:
        names = [f"{prefix}self_attn.{name}_proj.weight"]
    return tuple(Place(n, (rows, cols), 0, rows) for n in names)


def vector_place(arch: Architecture, layer: int, name: str, size: int) -> Place:
    """Where a vector is; the gate of the shared expert is a matrix of one row."""
    if arch.encoder_decoder is not None:
        return switch_vector_place(arch, layer, name, size)
    if arch.spec.family == "dbrx":
        return Place(f"transformer.blocks.{layer}.{DBRX_VECTORS[name]}", (size,), 0, size)
    shape = (1, size) if name == "shared_expert_gate" else (size,)
    return Place(f"model.layers.{layer}.{VECTORS[name]}", shape, 0, shape[0])


def model_places(arch: Architecture) -> dict[str, tuple[Place, ...]]:
    """Where embedding, final norm and, if it is not the embedding, the output head may be."""
    if arch.encoder_decoder is not None:
        return switch_model_places(arch)
    spec = arch.spec
    table = (spec.vocab_size, spec.hidden_size)
    embedding, norm = "model.embed_tokens.weight", "model.norm.weight"
    if spec.family == "dbrx":
        embedding, norm = "transformer.wte.weight", "transformer.norm_f.weight"
    places: dict[str, tuple[Place, ...]] = {
        "embedding": (Place(embedding, table, 0, spec.vocab_size),),
        "final_norm": (Place(norm, (spec.hidden_size,), 0, spec.hidden_size),),
    }
    if not spec.tied_embeddings:
        places["head"] = (Place("lm_head.weight", table, 0, spec.vocab_size),)
    return places


def _expert_places(
    prefix: str, name: str, expert: int, shapes: dict[str, Shape]
) -> tuple[Place, ...]:
    """One tensor per expert, all of them in `gate_up_proj` and `down_proj`, and Mixtral's names."""
    stack, rows, cols = shapes[name]
    if "router" not in shapes:
        return (Place(f"{prefix}mlp.{EXPERT_NAMES[name]}.weight", (rows, cols), 0, rows),)
    own = f"{prefix}mlp.experts.{expert}.{EXPERT_NAMES[name]}.weight"
    mixtral = f"{prefix}block_sparse_moe.experts.{expert}.{MIXTRAL_NAMES[name]}.weight"
    first = rows if name == "up" else 0  # of the fused matrix: gate's rows, then up's
    fused = "down_proj" if name == "down" else "gate_up_proj"
    shape = (stack, rows if name == "down" else 2 * rows, cols)
    return (
        Place(own, (rows, cols), 0, rows),
        Place(f"{prefix}mlp.experts.{fused}", shape, first, first + rows, expert),
        Place(mixtral, (rows, cols), 0, rows),
    )


def _dbrx(
    arch: Architecture, prefix: str, name: str, expert: int, shapes: dict[str, Shape]
) -> Place:
    stack, rows, cols = shapes[name]
    if name in DBRX_NAMES:
        tensor = f"{prefix}ffn.experts.mlp.{DBRX_NAMES[name]}"
        return Place(tensor, (stack * rows, cols), expert * rows, (expert + 1) * rows)
    if name == "router":
        return Place(f"{prefix}ffn.router.layer.weight", (rows, cols), 0, rows)
    if name == "o":
        return Place(f"{prefix}norm_attn_norm.attn.out_proj.weight", (rows, cols), 0, rows)
    first = {"q": 0, "k": arch.query_size, "v": arch.query_size + arch.kv_width}[name]
    tensor = f"{prefix}norm_attn_norm.attn.Wqkv.weight"
    return Place(tensor, (arch.qkv_size, cols), first, first + rows)
