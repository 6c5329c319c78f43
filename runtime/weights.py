"""Where weights come from: one interface for checkpoints, random weights and shards of either."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.architecture_shapes import Shape, matrix_shapes, vector_sizes
from runtime.pieces import LayerWeights, Piece, merge_pieces
from runtime.unpacker import Unpacker, make_unpacker, most_cols

__all__ = ["WeightSource", "layer_weights"]

ROOM = 2**18  # elements: packed rows are written out so many at a time


class WeightSource(Protocol):
    """All weights of a model in host memory; nothing that it returns is a copy of its own.

    Tensors have the dtype of `architecture` and must not be written. Views may be strided (columns
    of a shard).
    """

    @property
    def architecture(self) -> Architecture:
        """The model, as the rank that these weights are for computes it."""

    def matrix(self, layer: int, name: str, expert: int = 0) -> Tensor:
        """One matrix of a layer, 2-D; see `architecture_shapes.matrix_shapes` for the names.

        Layers have the numbers of `schedules.layout`: the encoder's follow the decoder's.
        """

    def vector(self, layer: int, name: str) -> Tensor | None:
        """A vector of a layer; None where the model has none of that name."""

    def embedding(self) -> Tensor:
        """Token embeddings, (vocab_size, hidden_size)."""

    def head(self) -> Tensor:
        """Output head, (rows, hidden_size): of the whole vocabulary, or the rank's rows of it."""

    def final_norm(self) -> Tensor:
        """Scale of the last norm, (hidden_size,); with an encoder, of the decoder's."""

    def encoder_embedding(self) -> Tensor:
        """What the encoder reads: token embeddings, (vocab_size, hidden_size)."""

    def encoder_norm(self) -> Tensor | None:
        """Scale of the encoder's last norm, (hidden_size,); None without an encoder."""


def layer_weights(
    source: WeightSource, layer: int, device: torch.device | str | None = None
) -> LayerWeights:
    """All weights of a layer, complete.

    Without a device they are views of the source's memory, with a piece per expert unless the
    source holds experts side by side; with one they are copied there, each name in one piece.
    """
    arch = source.architecture
    matrices = {
        name: _pieces(source, layer, name, shape, device)
        for name, shape in matrix_shapes(arch, layer).items()
    }
    vectors = {}
    for name in vector_sizes(arch, layer):
        vector = source.vector(layer, name)
        if vector is not None:
            vectors[name] = vector if device is None else vector.to(device)
    return LayerWeights(matrices, vectors, _unpacker(arch, device))


def _unpacker(arch: Architecture, device: torch.device | str | None) -> Unpacker | None:
    if arch.spec.quantisation is None:
        return None
    room = torch.empty(max(ROOM, most_cols(arch.spec)), dtype=arch.dtype, device=device)
    return make_unpacker(arch.spec, room)


def _pieces(
    source: WeightSource, layer: int, name: str, shape: Shape, device: torch.device | str | None
) -> tuple[Piece, ...]:
    parts = [source.matrix(layer, name, expert) for expert in range(shape.stack)]
    if device is None:
        starts = [expert * shape.rows for expert in range(shape.stack)]
        pieces = [Piece(a, a + shape.rows, p) for a, p in zip(starts, parts, strict=True)]
        return merge_pieces(pieces)
    each = parts[0].shape  # (rows, cols), or (rows, row_bytes) where it is packed
    whole = torch.empty(shape.stack, *each, dtype=parts[0].dtype, device=device)
    for expert, part in enumerate(parts):
        whole[expert].copy_(part)
    rows = shape.stack * shape.rows
    return (Piece(0, rows, whole.view(rows, each[1])),)
