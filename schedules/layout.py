"""Which matrices a decoder layer has, in which order, and which rows a share of them covers.

Weights are cut between the rows of matrices, so that a matrix product can read a page where it
lies: the rows of a piece give the same columns of the product.

By hand, Mixtral 8x7B: query and output 4096 x 4096, key and value 1024 x 4096, a router of 8 x
4096, and for each of 8 experts gate and up of 14336 x 4096 and down of 4096 x 14336.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from schedules.contents import Part, Span
from schedules.errors import BadInput
from schedules.model import LayerSpec, ModelSpec

ATTENTION = ("q", "k", "v", "o")
SHARED = ("router", "shared_gate", "shared_up", "shared_down")
EXPERTS = ("gate", "up", "down")

MATRICES: dict[Part, tuple[str, ...]] = {
    "attention": ATTENTION,
    "resident": (*ATTENTION, *SHARED),
    "experts": EXPERTS,
    "expert": EXPERTS,
    "ffn": (*SHARED, *EXPERTS),
    "layer": (*ATTENTION, *SHARED, *EXPERTS),
}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix, or those of all experts on top of each other.

    `rows` are those of all `experts` together; each has `cols` elements.
    """

    name: str
    rows: int
    cols: int
    experts: int = 1


class Rows(NamedTuple):
    """Rows [start, stop) of a layer's matrix."""

    layer: int
    matrix: str
    start: int
    stop: int


def down_is_transposed(model: ModelSpec) -> bool:
    """Whether the down projection is stored with the FFN's width as rows, as DBRX does."""
    return model.family == "dbrx"


@lru_cache(maxsize=1024)
def layer_matrices(model: ModelSpec, layer: LayerSpec, shards: int = 1) -> dict[str, Matrix]:
    """The matrices of a layer, by name and in order, on one of `shards` tensor-parallel GPUs.

    Raises `BadInput` for a model with latent attention, cross-attention or FFNs of two matrices,
    or one that cannot be divided evenly.
    """
    _check(model, layer, shards)
    h, d, e = model.hidden_size, model.head_dim, layer.n_experts
    q = model.n_heads // shards * d
    kv = max(1, model.n_kv_heads // shards) * d
    shared = model.n_shared_experts * model.shared_ffn_size // shards if layer.is_moe else 0
    width = layer.ffn_size // shards
    down = (e * width, h) if down_is_transposed(model) else (e * h, width)
    made = [Matrix("q", q, h), Matrix("k", kv, h), Matrix("v", kv, h), Matrix("o", h, q)]
    if layer.is_moe:
        made.append(Matrix("router", e, h))
    if shared:
        made += [Matrix("shared_gate", shared, h), Matrix("shared_up", shared, h)]
        made.append(Matrix("shared_down", h, shared))
    made += [Matrix("gate", e * width, h, e), Matrix("up", e * width, h, e)]
    made.append(Matrix("down", *down, e))
    return {matrix.name: matrix for matrix in made}


def rows_of(model: ModelSpec, span: Span, shards: int = 1) -> tuple[Rows, ...]:
    """The rows that a span covers; spans that share a boundary share no row and leave none out.

    >>> from schedules.model_presets import load_model
    >>> mixtral = load_model("mixtral-8x7b")
    >>> for rows in rows_of(mixtral, Span(3, "experts", 0.5, 0.75)):
    ...     print(rows)
    Rows(layer=3, matrix='up', start=57344, stop=114688)
    Rows(layer=3, matrix='down', start=0, stop=8192)
    """
    every = layer_matrices(model, model.decoder_layers[span.layer], shards)
    matrices = [every[name] for name in MATRICES[span.part] if name in every]
    if span.part == "expert":
        return tuple(_of_expert(span, matrix) for matrix in matrices)
    total = sum(matrix.rows * matrix.cols for matrix in matrices)
    begin, end = span.start * total, span.stop * total
    found, base = [], 0
    for matrix in matrices:
        start, stop = (_row(edge - base, matrix) for edge in (begin, end))
        if stop > start:
            found.append(Rows(span.layer, matrix.name, start, stop))
        base += matrix.rows * matrix.cols
    return tuple(found)


def _row(elements: float, matrix: Matrix) -> int:
    return min(matrix.rows, max(0, round(elements / matrix.cols)))


def _of_expert(span: Span, matrix: Matrix) -> Rows:
    each = matrix.rows // matrix.experts
    return Rows(span.layer, matrix.name, span.expert * each, (span.expert + 1) * each)


def _check(model: ModelSpec, layer: LayerSpec, shards: int) -> None:
    for wrong, what in (
        (model.mla is not None, "latent attention"),
        (layer.cross_attention, "cross-attention"),
        (layer.ffn_matrices != 3, "FFNs without a gate matrix"),
    ):
        if wrong:
            raise BadInput(f"model '{model.name}' has {what}, which the runtime does not compute")
    shared = model.n_shared_experts * model.shared_ffn_size
    for name, size in (
        ("heads", model.n_heads),
        ("elements in an expert's width", layer.ffn_size),
        ("elements in the shared experts' width", shared),
        ("tokens in the vocabulary", model.vocab_size),
    ):
        if size % shards:
            raise BadInput(
                f"model '{model.name}' has {size} {name}, which {shards} GPUs cannot share evenly"
            )
    kv = model.n_kv_heads
    if kv % shards and shards % kv:
        raise BadInput(f"model '{model.name}': {kv} KV heads and {shards} GPUs do not divide")
