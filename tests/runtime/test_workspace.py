"""Scratch memory: aligned, given back, and never more than there is."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.workspace import ALIGNMENT, Workspace
from schedules.errors import MoelabError

DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool])


@given(offset=st.integers(0, 300), takes=st.lists(st.tuples(st.integers(0, 50), DTYPES)))
def test_temporaries_are_aligned_and_apart(offset, takes):
    ws = Workspace(torch.zeros(2**16, dtype=torch.uint8)[offset:])
    made = [ws.take((n, 3), dtype) for n, dtype in takes]
    spans = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in made if t.numel()]
    assert all(start % ALIGNMENT == 0 for start, _ in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert [(t.shape[0], t.dtype) for t in made] == takes
    assert all(t.is_contiguous() for t in made)


def test_scopes_give_back_and_the_high_water_mark_stays():
    ws = Workspace.of_size(4096)
    free = ws.free_bytes
    with ws.scope():
        first = ws.take((100,), torch.uint8)
        with ws.scope():
            ws.take((512,), torch.float32)
        second = ws.take((1,), torch.float32)
        assert second.data_ptr() - first.data_ptr() == ALIGNMENT
    assert ws.free_bytes == free >= 4096
    assert ws.high_water_bytes == ALIGNMENT + 2048
    assert ws.take((1,), torch.uint8).data_ptr() == first.data_ptr()


def test_a_scope_gives_back_after_an_error():
    ws = Workspace.of_size(4096)
    free = ws.free_bytes

    def fail():
        with ws.scope():
            ws.take((1024,), torch.uint8)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert ws.free_bytes == free


def test_the_last_byte_can_be_taken_and_no_more():
    ws = Workspace.of_size(1000)
    size = ws.free_bytes
    assert ws.take((size,), torch.uint8).nbytes == size
    sentence = rf"0 of {size} bytes left, and a temporary of shape \(3, 4\) needs 48"
    with pytest.raises(MoelabError, match=sentence):
        ws.take((3, 4), torch.float32)


@given(room=st.integers(1, 20_000), sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=4))
def test_as_many_rows_as_it_says_do_fit(room, sizes):
    ws = Workspace.of_size(room)
    rows, needed = ws.rows(*sizes, limit=40), ALIGNMENT * len(sizes)
    assert 1 <= rows <= 40
    if rows < 40:
        assert needed + (rows + 1) * sum(sizes) > ws.free_bytes
    if needed + sum(sizes) <= ws.free_bytes:
        for size in sizes:
            ws.take((rows, size), torch.uint8)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(8),
        torch.zeros(2, 4, dtype=torch.uint8),
        torch.zeros(8, dtype=torch.uint8)[::2],
    ],
)
def test_only_bytes_in_a_row_are_scratch_memory(tensor):
    with pytest.raises(MoelabError, match="contiguous 1-D tensor of uint8"):
        Workspace(tensor)
