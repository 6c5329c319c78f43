"""Matrices in pieces: which rows are at hand, and which pieces are one."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.pieces import LayerWeights, Piece, merge_pieces
from schedules.errors import MoelabError

ROWS = 12
CUTS = st.sets(st.integers(1, ROWS - 1), max_size=5).map(lambda s: [0, *sorted(s), ROWS])


def cut(whole, edges, copied=lambda i: False):
    """Pieces between the edges: views of `whole`, or copies."""
    pieces = [Piece(a, b, whole[a:b]) for a, b in pairwise(edges)]
    return [Piece(*p[:2], p.tensor.clone()) if copied(i) else p for i, p in enumerate(pieces)]


@given(edges=CUTS, copied=st.sets(st.integers(0, 5)), order=st.randoms())
def test_merged_pieces_hold_the_same_rows(edges, copied, order):
    whole = torch.arange(ROWS * 3.0).view(ROWS, 3)
    pieces = cut(whole, edges, lambda i: i in copied)
    order.shuffle(pieces)
    merged = merge_pieces(pieces)
    assert torch.equal(torch.cat([p.tensor for p in merged]), whole)
    assert [p.start for p in merged[1:]] == [p.stop for p in merged[:-1]]
    if not copied & set(range(len(pieces))):
        assert len(merged) == 1
        assert merged[0].tensor.data_ptr() == whole.data_ptr()


def test_what_is_apart_in_memory_stays_apart():
    whole = torch.zeros(8, 2)
    swapped = [Piece(0, 4, whole[4:]), Piece(4, 8, whole[:4])]
    gap = [Piece(0, 2, whole[:2]), Piece(3, 8, whole[3:])]
    columns = [Piece(0, 4, whole[:4, :1]), Piece(4, 8, whole[4:, :1])]
    strided = [
        Piece(0, 4, whole[:4, :1]),
        Piece(4, 8, whole[2:6, :1]),
    ]  # begins where 4 elements end
    memory = bytearray(64)
    storages = [torch.frombuffer(memory, dtype=torch.float32, count=8, offset=o) for o in (0, 32)]
    own = [Piece(4 * i, 4 * i + 4, storage.view(4, 2)) for i, storage in enumerate(storages)]
    for pieces in (swapped, gap, columns, strided, own):
        assert len(merge_pieces(pieces)) == 2
    assert merge_pieces([Piece(3, 3, whole[:0])]) == ()


@given(edges=CUTS, data=st.data())
def test_rows_are_found_across_pieces(edges, data):
    whole = torch.arange(ROWS * 2.0).view(ROWS, 2)
    w = LayerWeights({"gate": tuple(cut(whole, edges))}, {})
    start = data.draw(st.integers(0, ROWS - 1))
    stop = data.draw(st.integers(start, ROWS))
    found = list(w.rows("gate", start, stop))
    assert torch.equal(torch.cat([whole[:0], *(p.tensor for p in found)]), whole[start:stop])
    at = start
    for piece in found:
        assert piece.start == at
        assert piece.tensor.shape[0] == piece.stop - piece.start > 0
        at = piece.stop
    assert at == stop


def test_missing_rows_are_an_error_only_if_they_are_used():
    whole = torch.zeros(ROWS, 2)
    w = LayerWeights({"gate": (Piece(0, 4, whole[:4]), Piece(6, 9, whole[6:9]))}, {})
    assert len(list(w.rows("gate", 6, 9))) == 1
    for start, stop, first in ((0, 5, 4), (3, 7, 4), (8, 10, 9), (10, 12, 10)):
        with pytest.raises(MoelabError, match=f"rows {first} to {stop} of matrix 'gate'"):
            list(w.rows("gate", start, stop))
    with pytest.raises(MoelabError, match="rows 0 to 1 of matrix 'up'"):
        list(w.rows("up", 0, 1))


def test_a_matrix_is_whole_in_one_contiguous_piece():
    whole = torch.zeros(6, 4)
    pieces = {
        "one": (Piece(0, 6, whole),),
        "two": (Piece(0, 3, whole[:3]), Piece(3, 6, whole[3:])),
        "later": (Piece(2, 6, whole[2:]),),
        "columns": (Piece(0, 6, whole[:, 1:]),),
    }
    w = LayerWeights(pieces, {})
    assert w.whole("one") is whole
    assert [w.whole(name) for name in ("two", "later", "columns")] == [None] * 3
    assert not w.is_moe
    assert LayerWeights({"router": ()}, {}).is_moe
