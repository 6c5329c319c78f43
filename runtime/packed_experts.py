"""Experts in few bits beside those in the model's format: how they lie, come and are written out.

An expert's matrices follow one another, as in the model's format, each packed row by row
(`packing`). Those of a layer lie one after the other on the host, filled when a session opens.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.context import Context
from runtime.device_weights import DeviceWeights
from runtime.functions.linear import row_blocks
from runtime.lane import Run
from runtime.packing import pack_rows, unpack_rows
from runtime.pieces import LayerWeights, Piece
from schedules.contents import Packed
from schedules.errors import MoelabError
from schedules.issuer import Operands
from schedules.layout import MATRICES, layer_at, layer_matrices
from schedules.model import ModelSpec
from schedules.quantisation import packed_row_bytes
from schedules.task import Buffer, Task


class Part(NamedTuple):
    """One matrix of an expert: `rows` of `cols` elements, packed to `row_bytes` each."""

    name: str
    rows: int
    cols: int
    row_bytes: int


def parts_of(model: ModelSpec, span: Packed) -> list[Part]:
    """The matrices of one expert, in order. Raises `BadInput` where groups do not divide rows."""
    every = layer_matrices(model, layer_at(model, span.layer))
    matrices = [every[name] for name in MATRICES["expert"] if name in every]
    return [
        Part(m.name, m.rows // m.experts, m.cols, packed_row_bytes(m.cols, span.bits, span.group))
        for m in matrices
    ]


def bytes_of(model: ModelSpec, span: Packed) -> int:
    """Bytes of one expert.

    By hand, one of Mixtral's in 4 bits with groups of 64: 176160768 x 17 / 32.

    >>> from schedules.model_presets import load_model
    >>> bytes_of(load_model("mixtral-8x7b"), Packed(0, 4, 64))
    93585408
    """
    return sum(part.rows * part.row_bytes for part in parts_of(model, span))


def keep_packed(buffers: Iterable[Buffer], weights: DeviceWeights) -> None:
    """Fill the host's buffers with all experts of their layers, packed from the model's weights."""
    for buffer in buffers:
        for span in buffer.holds:
            if isinstance(span, Packed):
                for expert in range(layer_at(weights.model, span.layer).n_experts):
                    _pack(buffer, span, expert, weights)


def _pack(buffer: Buffer, span: Packed, expert: int, weights: DeviceWeights) -> None:
    offset = expert * bytes_of(weights.model, span)
    for part, view in _views(weights, buffer, span, offset):
        matrix = weights.source.matrix(span.layer, part.name, expert)
        for rows in row_blocks(part.rows, part.cols * 4):
            view[rows] = pack_rows(matrix[rows], span.bits, span.group)


def _views(
    weights: DeviceWeights, buffer: Buffer, span: Packed, offset: int = 0
) -> Iterator[tuple[Part, Tensor]]:
    """The packed matrices of an expert that begins at `offset` bytes."""
    for part in parts_of(weights.model, span):
        shape = (part.rows, part.row_bytes)
        view = weights.memory.view(buffer, shape, torch.uint8, offset)
        yield part, view
        offset += view.nbytes


def load_packed_expert(context: Context, task: Task, operands: Operands) -> Run:
    """One expert from the host, as it lies."""
    (span,), source, target = operands.what, operands.reads[0], operands.writes[0]
    assert isinstance(span, Packed)
    if span._replace(expert=-1) not in source.holds:
        raise MoelabError(f"{span} is copied from buffer '{source.name}', which does not hold it")
    context.packed[id(target)] = span
    size = bytes_of(context.weights.model, span)
    a = context.memory.view(source, (size,), torch.uint8, span.expert * size)
    b = context.memory.view(target, (size,), torch.uint8)

    def run() -> int:
        b.copy_(a, non_blocking=True)
        return b.nbytes

    return run


def written_out(
    context: Context, buffer: Buffer, span: Packed, target: Buffer
) -> tuple[Run, LayerWeights]:
    """What writes a packed expert to `target` in the model's format, and the weights there."""
    offset, pairs, pieces = 0, [], {}
    for part, packed in _views(context.weights, buffer, span):
        plain = context.memory.view(target, (part.rows, part.cols), context.dtype, offset)
        offset += plain.nbytes
        pairs.append((packed, plain))
        first = span.expert * part.rows
        pieces[part.name] = (Piece(first, first + part.rows, plain),)

    def run() -> int:
        for packed, plain in pairs:
            for rows in row_blocks(len(plain), plain.shape[1] * plain.element_size()):
                unpack_rows(packed[rows], span.bits, span.group, plain[rows])
        return 0

    return run, LayerWeights(pieces, context.weights.vectors[span.layer])
