"""A layer's weights on a device, each matrix in one or more pieces cut between rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.unpacker import Unpacker
from schedules.errors import MoelabError


class Piece(NamedTuple):
    """Rows [start, stop) of a (stacked) matrix: `tensor` is (stop - start, cols)."""

    start: int
    stop: int
    tensor: Tensor


@dataclass(frozen=True)
class LayerWeights:
    """The weights of a layer that are at hand.

    Parameters
    ----------
    matrices: pieces of each matrix by name, sorted, without overlaps. Experts are stacked: expert e
        of a matrix with r rows has rows [e r, (e + 1) r). Rows may be missing if nobody uses them.
    vectors: norms, biases and gates by name.
    unpacker: writes packed matrices out, row by row; None where none is packed.
    """

    matrices: Mapping[str, tuple[Piece, ...]]
    vectors: Mapping[str, Tensor]
    unpacker: Unpacker | None = None

    @property
    def is_moe(self) -> bool:
        """Whether the layer has a router, and so experts."""
        return "router" in self.matrices

    def rows(self, name: str, start: int, stop: int) -> Iterator[Piece]:
        """The pieces of rows [start, stop) of a matrix, cut to that range, in order.

        Those of a packed matrix are written out in the model's format, each where the one before
        was: use a piece before asking for the next.

        Raises `MoelabError` where some of these rows are not at hand.
        """
        pieces = self.matrices.get(name, ())
        at = start
        for piece in pieces[bisect_right(pieces, start, key=_stop) :]:
            if piece.start > at or at >= stop:
                break
            until = min(piece.stop, stop)
            part = Piece(at, until, piece.tensor[at - piece.start : until - piece.start])
            if self.unpacker is not None and part.tensor.dtype == torch.uint8:
                for first, rows in self.unpacker.unpacked(name, part.tensor):
                    yield Piece(at + first, at + first + len(rows), rows)
            else:
                yield part
            at = until
        if at < stop:
            raise MoelabError(f"rows {at} to {stop} of matrix '{name}' are not on the device")

    def whole(self, name: str) -> Tensor | None:
        """A matrix that lies in one contiguous piece from row 0; None if it is cut, or packed."""
        pieces = self.matrices[name]
        if len(pieces) != 1 or pieces[0].start or not pieces[0].tensor.is_contiguous():
            return None
        return None if pieces[0].tensor.dtype == torch.uint8 else pieces[0].tensor


def merge_pieces(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """The pieces sorted by row, those that follow one another in rows and in memory as one.

    >>> whole = torch.zeros(6, 2)
    >>> parts = [Piece(2, 6, whole[2:]), Piece(0, 2, whole[:2]), Piece(6, 7, torch.zeros(1, 2))]
    >>> [(p.start, p.stop) for p in merge_pieces(parts)]
    [(0, 6), (6, 7)]
    """
    merged: list[Piece] = []
    for run in _runs(sorted((p for p in pieces if p.start < p.stop), key=_start)):
        first, last = run[0], run[-1]
        rows, cols = last.stop - first.start, first.tensor.shape[1]
        tensor = first.tensor
        if len(run) > 1:
            tensor = torch.as_strided(tensor, (rows, cols), (cols, 1), tensor.storage_offset())
        merged.append(Piece(first.start, last.stop, tensor))
    return tuple(merged)


def _runs(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Longest runs of pieces that follow one another in memory."""
    run: list[Piece] = []
    for piece in pieces:
        if run and not _follows(run[-1], piece):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _follows(a: Piece, b: Piece) -> bool:
    one, two = a.tensor, b.tensor
    same = one.untyped_storage().data_ptr() == two.untyped_storage().data_ptr()
    packed = one.is_contiguous() and two.is_contiguous()
    return same and packed and a.stop == b.start and one.data_ptr() + one.nbytes == two.data_ptr()


def _start(piece: Piece) -> int:
    return piece.start


def _stop(piece: Piece) -> int:
    return piece.stop
