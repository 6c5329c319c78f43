"""Which matrices a layer has, in which order, and which rows a share of them covers.

Weights are cut between the rows of matrices, so that a matrix product can read a page where it
lies: the rows of a piece give the same columns of the product.

By hand, Mixtral 8x7B: query and output 4096 x 4096, key and value 1024 x 4096, a router of 8 x
4096, and for each of 8 experts gate and up of 14336 x 4096 and down of 4096 x 14336.

Layers are numbered through a model: the decoder's from 0, then the encoder's, if it has one. So
layer 12 of Switch-Base, with 12 decoder layers, is the first of its encoder. A span names a layer
by its number, which in a decoder-only model is its index.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from schedules.contents import Part, Span
from schedules.errors import BadInput
from schedules.model import LayerSpec, ModelSpec
from schedules.quantisation import Bits, packed_row_bytes

ATTENTION = ("q", "k", "v", "o")
CROSS = ("cross_q", "cross_k", "cross_v", "cross_o")  # the decoder's attention to the encoder
SHARED = ("router", "shared_gate", "shared_up", "shared_down")
EXPERTS = ("gate", "up", "down")

MATRICES: dict[Part, tuple[str, ...]] = {
    "attention": (*ATTENTION, *CROSS),
    "resident": (*ATTENTION, *CROSS, *SHARED),
    "experts": EXPERTS,
    "expert": EXPERTS,
    "ffn": (*SHARED, *EXPERTS),
    "layer": (*ATTENTION, *CROSS, *SHARED, *EXPERTS),
}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix, or those of all experts on top of each other.

    `rows` are those of all `experts` together; each has `cols` elements and takes `row_bytes`, in
    the model's format or in `bits` an element (see `schedules.quantisation`).
    """

    name: str
    rows: int
    cols: int
    experts: int = 1
    row_bytes: int = 0
    bits: Bits | None = None

    @property
    def bytes(self) -> int:
        """Of all rows."""
        return self.rows * self.row_bytes


class Rows(NamedTuple):
    """Rows [start, stop) of the matrix of a layer, by its number."""

    layer: int
    matrix: str
    start: int
    stop: int


def down_is_transposed(model: ModelSpec) -> bool:
    """Whether the down projection is stored with the FFN's width as rows, as DBRX does."""
    return model.family == "dbrx"


def layer_at(model: ModelSpec, number: int) -> LayerSpec:
    """The layer with a number.

    >>> from schedules.model_presets import load_model
    >>> [(layer_at(load_model("switch-base-8"), n).stack, n) for n in (0, 11, 12, 23)]
    [('decoder', 0), ('decoder', 11), ('encoder', 12), ('encoder', 23)]
    """
    if number < model.n_layers:
        return model.decoder_layers[number]
    return model.encoder_layers[number - model.n_layers]


@lru_cache(maxsize=1024)
def layer_matrices(model: ModelSpec, layer: LayerSpec, shards: int = 1) -> dict[str, Matrix]:
    """The matrices of a layer, by name and in order, on one of `shards` tensor-parallel GPUs.

    Cross-attention has four more, and an FFN of two matrices has no `gate`. Raises `BadInput` for
    a model with latent attention, for a decoder-only one with FFNs of two matrices, and for one
    that cannot be divided evenly.
    """
    _check(model, layer, shards)
    h, d, e = model.hidden_size, model.head_dim, layer.n_experts
    q = model.n_heads // shards * d
    kv = max(1, model.n_kv_heads // shards) * d
    shared = model.n_shared_experts * model.shared_ffn_size // shards if layer.is_moe else 0
    width = layer.ffn_size // shards
    down = (e * width, h) if down_is_transposed(model) else (e * h, width)
    sides = ("", "cross_") if layer.cross_attention else ("",)
    made = []
    for side in sides:
        made += [Matrix(f"{side}q", q, h), Matrix(f"{side}k", kv, h), Matrix(f"{side}v", kv, h)]
        made.append(Matrix(f"{side}o", h, q))
    if layer.is_moe:
        made.append(Matrix("router", e, h))
    if shared:
        made += [Matrix("shared_gate", shared, h), Matrix("shared_up", shared, h)]
        made.append(Matrix("shared_down", h, shared))
    if layer.ffn_matrices == 3:
        made.append(Matrix("gate", e * width, h, e))
    made += [Matrix("up", e * width, h, e), Matrix("down", *down, e)]
    return {matrix.name: _stored(model, matrix) for matrix in made}


def _stored(model: ModelSpec, matrix: Matrix) -> Matrix:
    """The matrix with the size of its rows."""
    q, bits = model.quantisation, None
    if q is not None and matrix.name != "router":
        bits = q.experts if matrix.name in EXPERTS else q.dense
    if q is None or bits is None:
        return replace(matrix, row_bytes=matrix.cols * model.bytes_per_parameter)
    return replace(matrix, row_bytes=packed_row_bytes(matrix.cols, bits, q.group), bits=bits)


def rows_of(model: ModelSpec, span: Span, shards: int = 1) -> tuple[Rows, ...]:
    """The rows that a span covers; spans that share a boundary share no row and leave none out.

    >>> from schedules.model_presets import load_model
    >>> mixtral = load_model("mixtral-8x7b")
    >>> for rows in rows_of(mixtral, Span(3, "experts", 0.5, 0.75)):
    ...     print(rows)
    Rows(layer=3, matrix='up', start=57344, stop=114688)
    Rows(layer=3, matrix='down', start=0, stop=8192)
    """
    every = layer_matrices(model, layer_at(model, span.layer), shards)
    matrices = [every[name] for name in MATRICES[span.part] if name in every]
    if span.part == "expert":
        return tuple(_of_expert(span, matrix) for matrix in matrices)
    total = sum(matrix.bytes for matrix in matrices)
    begin, end = span.start * total, span.stop * total
    found, base = [], 0
    for matrix in matrices:
        start, stop = (_row(edge - base, matrix) for edge in (begin, end))
        if stop > start:
            found.append(Rows(span.layer, matrix.name, start, stop))
        base += matrix.bytes
    return tuple(found)


def _row(position: float, matrix: Matrix) -> int:
    """The row border nearest to a position in bytes."""
    return min(matrix.rows, max(0, round(position / matrix.row_bytes)))


def _of_expert(span: Span, matrix: Matrix) -> Rows:
    each = matrix.rows // matrix.experts
    return Rows(span.layer, matrix.name, span.expert * each, (span.expert + 1) * each)


def _check(model: ModelSpec, layer: LayerSpec, shards: int) -> None:
    for wrong, what in (
        (model.mla is not None, "latent attention"),
        (layer.ffn_matrices != 3 and not model.is_encoder_decoder, "FFNs without a gate matrix"),
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
