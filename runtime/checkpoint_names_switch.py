"""Under which names checkpoints of Switch Transformers keep each weight."""

from __future__ import annotations

from runtime.architecture import Architecture
from runtime.architecture_shapes import Shape
from runtime.checkpoint_places import Place
from schedules.layout import layer_at

MATRICES = {"up": "wi", "down": "wo"}
"""The two matrices of an FFN."""


def switch_matrix_place(
    arch: Architecture, shapes: dict[str, Shape], layer: int, name: str, expert: int
) -> Place:
    """Where a matrix is: one tensor per expert."""
    cross, ffn = _blocks(arch, layer)
    if name in MATRICES:
        own = f"experts.expert_{expert}." if "router" in shapes else ""
        tensor = f"{ffn}.mlp.{own}{MATRICES[name]}.weight"
    elif name == "router":
        tensor = f"{ffn}.mlp.router.classifier.weight"
    elif name.startswith("cross_"):
        tensor = f"{cross}.EncDecAttention.{name.removeprefix('cross_')}.weight"
    else:
        tensor = f"{_own(arch, layer)}.SelfAttention.{name}.weight"
    rows, cols = shapes[name].rows, shapes[name].cols
    return Place(tensor, (rows, cols), 0, rows)


def switch_vector_place(arch: Architecture, layer: int, name: str, size: int) -> Place:
    """Where a vector is; the position bias is a matrix with a row per bucket."""
    own, (cross, ffn) = _own(arch, layer), _blocks(arch, layer)
    if name == "position_bias":
        shape = (arch.spec.relative_attention_buckets, arch.spec.n_heads)
        return Place(f"{own}.SelfAttention.relative_attention_bias.weight", shape, 0, shape[0])
    names = {
        "attn_norm": f"{own}.layer_norm.weight",
        "cross_norm": f"{cross}.layer_norm.weight",
        "ffn_norm": f"{ffn}.layer_norm.weight",
        "router_bias": f"{ffn}.mlp.router.classifier.bias",
    }
    return Place(names[name], (size,), 0, size)


def switch_model_places(arch: Architecture) -> dict[str, tuple[Place, ...]]:
    """Embeddings and final norms of both stacks and, if not tied, the head.

    A model that is not tied may be stored with an embedding per stack, which then count.
    """
    spec = arch.spec
    table, norm = (spec.vocab_size, spec.hidden_size), (spec.hidden_size,)

    def rows(*tensors: str) -> tuple[Place, ...]:
        return tuple(Place(tensor, table, 0, spec.vocab_size) for tensor in tensors)

    shared, decoder = "shared.weight", "decoder.embed_tokens.weight"
    places: dict[str, tuple[Place, ...]] = {
        "embedding": rows(shared, decoder),
        "final_norm": (Place("decoder.final_layer_norm.weight", norm, 0, spec.hidden_size),),
        "encoder_norm": (Place("encoder.final_layer_norm.weight", norm, 0, spec.hidden_size),),
    }
    if not spec.tied_embeddings:
        places["embedding"] = rows(decoder, shared)
        places["encoder_embedding"] = rows("encoder.embed_tokens.weight", shared)
        places["head"] = rows("lm_head.weight")
    return places


def _own(arch: Architecture, layer: int) -> str:
    """The self-attention of a layer."""
    of = layer_at(arch.spec, layer)
    return f"{of.stack}.block.{of.index}.layer.0"


def _blocks(arch: Architecture, layer: int) -> tuple[str, str]:
    """The cross-attention, if there is one, and the FFN, which is the last."""
    of = layer_at(arch.spec, layer)
    block = f"{of.stack}.block.{of.index}.layer"
    return f"{block}.1", f"{block}.{2 if of.cross_attention else 1}"
