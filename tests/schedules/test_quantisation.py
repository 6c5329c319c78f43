"""Bytes of what is in 8 or 4 bits, with a scale for each group of elements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schedules.quantisation import Quantisation, packed_bytes, packed_row_bytes

bits = st.sampled_from([4, 8])
groups = st.sampled_from([8, 16, 64, 128, 4096])


def test_one_of_mixtral_s_experts():
    """3 x 4096 x 14336 parameters of half a byte, and 2 bytes for each 64 of them."""
    parameters = 3 * 4_096 * 14_336
    assert parameters * packed_bytes(4, 64) == parameters / 2 + parameters / 64 * 2
    assert parameters * packed_bytes(4) == pytest.approx(93.6e6, rel=1e-3)
    assert 2 / packed_bytes(4) == pytest.approx(3.76, abs=0.005)  # of float16


@pytest.mark.parametrize(
    ("cols", "width", "group", "size"),
    [
        (128, 8, 64, 128 + 2 * 2),
        (128, 4, 64, 64 + 2 * 2),
        (100, 4, 64, 50 + 2 * 2),  # the last group has 36
        (7, 4, 8, 4 + 2),  # seven halves of a byte take four
        (65, 8, 64, 65 + 2 * 2),
        (1, 8, 4_096, 1 + 2),
    ],
)
def test_a_row_by_hand(cols, width, group, size):
    assert packed_row_bytes(cols, width, group) == size


@given(st.integers(1, 20_000), bits, groups)
def test_a_row_has_its_elements_bytes_and_at_most_a_scale_and_a_byte_more(cols, width, group):
    """Exactly so many where groups divide it."""
    size, exact = packed_row_bytes(cols, width, group), cols * packed_bytes(width, group)
    assert 0 <= size - exact < 2 + 1
    whole = cols * group
    assert packed_row_bytes(whole, width, group) == whole * packed_bytes(width, group)


def test_what_is_stored_and_what_a_use_moves_beside():
    """A use writes every element out in the model's format and reads it so."""
    loose = Quantisation(experts=4, group=128)
    assert loose.stored(None, 2) == 2
    assert loose.stored(4, 2) == loose.stored(4, 4) == 0.5 + 2 / 128
    assert loose.stored(8, 2) == 1 + 2 / 128
    assert (loose.unpacking(4, 2), loose.unpacking(8, 4)) == (2 + 2, 4 + 4)
    assert loose.unpacking(None, 2) == 0


@pytest.mark.parametrize("width", [4, 8])
def test_fused_kernels_move_nothing_beside(width):
    fused = Quantisation(experts=width, fused=True)
    assert fused.unpacking(width, 2) == 0
    assert fused.stored(width, 2) == packed_bytes(width)


@pytest.mark.parametrize(
    "wrong", [{"experts": 2}, {"kv": "int4"}, {"group": 7}, {"group": 5_000}, {"bits": 4}]
)
def test_what_is_no_quantisation(wrong):
    with pytest.raises(ValidationError):
        Quantisation(**wrong)
