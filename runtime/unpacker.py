"""Packed matrices, written out a few rows at a time where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from runtime.packing import packed_cols, unpack_rows
from schedules.layout import EXPERTS, layer_matrices
from schedules.model import ModelSpec
from schedules.quantisation import Bits, Quantisation


@dataclass(frozen=True)
class Unpacker:
    """Knows how matrices are packed, and where there is room to write them out.

    Parameters
    ----------
    room: 1-D, of the model's dtype, for one row at least; one thread, or stream, uses it.
    """

    quantisation: Quantisation
    room: Tensor

    def unpacked(self, name: str, packed: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The rows of packed (n, row_bytes), in blocks: which comes first, and the block.

        Each block is where the one before was.
        """
        bits = self._bits(name)
        cols = packed_cols(packed.shape[1], bits, self.quantisation.group)
        step = max(1, len(self.room) // cols)
        for first in range(0, len(packed), step):
            part = packed[first : first + step]
            rows = self.room[: len(part) * cols].view(len(part), cols)
            unpack_rows(part, bits, self.quantisation.group, rows)
            yield first, rows

    def _bits(self, name: str) -> Bits:
        bits = self.quantisation.experts if name in EXPERTS else self.quantisation.dense
        assert bits is not None
        return bits


def make_unpacker(model: ModelSpec, room: Tensor) -> Unpacker | None:
    """The unpacker of a model; None where nothing is packed."""
    return None if model.quantisation is None else Unpacker(model.quantisation, room)


def most_cols(model: ModelSpec) -> int:
    """Elements of the longest row of the layers' matrices."""
    layers = (*model.decoder_layers, *model.encoder_layers)
    return max(m.cols for layer in layers for m in layer_matrices(model, layer).values())
