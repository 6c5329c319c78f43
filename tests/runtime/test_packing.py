"""Matrices in 8 and 4 bits: what a round trip costs, and what cannot be packed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.packing import pack_rows, unpack_rows
from schedules.errors import BadInput
from schedules.quantisation import packed_row_bytes

DTYPES = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # rounding
HALF = 2.0**-11  # relative rounding of a scale, which is float16
TINY = 2.0**-24  # the least float16


def round_trip(matrix, bits, group):
    """The matrix packed and written out, and its groups' scales, (rows, cols / group)."""
    packed = pack_rows(matrix, bits, group)
    rows, cols = matrix.shape
    assert (packed.dtype, packed.shape) == (
        torch.uint8,
        (rows, packed_row_bytes(cols, bits, group)),
    )
    out = torch.full(matrix.shape, torch.nan, dtype=matrix.dtype)
    unpack_rows(packed, bits, group, out)
    scales = packed[:, cols * bits // 8 :].contiguous().view(torch.float16).float()
    return out, scales


def check(matrix, bits, group):
    """Each element to half a scale: the largest magnitude over 7, or over 127, of its group.

    Beside that: the rounding of the scale, of the product, and of what float16 cannot hold.
    """
    out, scales = round_trip(matrix, bits, group)
    rows, cols = matrix.shape
    largest = matrix.float().abs().view(rows, cols // group, group).amax(dim=2)
    most = 2 ** (bits - 1) - 1
    assert (scales - largest / most).abs().le(HALF * largest / most + TINY).all()
    bound = scales / 2 + (HALF + DTYPES[matrix.dtype]) * largest + most * TINY
    if matrix.dtype == torch.bfloat16:
        bound = bound + DTYPES[matrix.dtype] * largest  # the scale is rounded to bfloat16 too
    error = (out.float() - matrix.float()).abs().view(rows, cols // group, group)
    assert (error <= bound.unsqueeze(2) * (1 + 1e-6)).all()


@settings(max_examples=60)
@given(
    st.sampled_from(list(DTYPES)),
    st.sampled_from([4, 8]),
    st.sampled_from([8, 16, 64]),
    st.integers(1, 5),
    st.integers(1, 3),
    st.floats(-4, 3),
    st.integers(0, 2**31),
)
def test_a_round_trip_is_right_to_half_a_scale(dtype, bits, group, rows, groups, size, seed):
    """Of values with any spread, each group with its own."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, 2 * groups, group, generator=generator) * 10**size
    values *= 10 ** torch.randn(rows, 2 * groups, 1, generator=generator).clamp(-2, 0.5)
    check(values.view(rows, -1).to(dtype), bits, group)


@pytest.mark.parametrize("bits", [4, 8])
def test_numbers_by_hand(bits):
    """A scale of 0.5 makes whole numbers of halves, which come back exactly, of either sign."""
    most = 2 ** (bits - 1) - 1
    numbers = torch.tensor([most, -most, 0, 1, -1, 2, -3, most - 1] * 2)
    matrix = torch.stack([numbers * 0.5, numbers.flip(0) * -2.0])
    out, scales = round_trip(matrix, bits, 8)
    assert scales.tolist() == [[0.5, 0.5], [2.0, 2.0]]
    assert torch.equal(out, matrix)


def test_four_bits_lie_two_to_a_byte_the_first_in_the_low_half():
    """And behind all of a row's elements its scales, here 1 and 0.5 in float16."""
    small = [7.0, -7, 0, 1, -1, 2, -2, 3]
    packed = pack_rows(torch.tensor([small + [x / 2 for x in small]]), 4, 8)
    numbers, scales = [0x97, 0x10, 0x2F, 0x3E], [0x00, 0x3C, 0x00, 0x38]
    assert packed.tolist() == [[*numbers, *numbers, *scales]]
    large = [127.0, -127, 0, 1, -1, 2, -2, 3]
    eight = pack_rows(torch.tensor([large + [x / 2 for x in large]]), 8, 8)
    assert eight.tolist() == [[*([127, 129, 0, 1, 255, 2, 254, 3] * 2), *scales]]


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_come_back_as_zeros(bits, dtype):
    """In a group of zeros, and in one that has other elements too."""
    matrix = torch.zeros(2, 16, dtype=dtype)
    matrix[1, 3] = -5.0
    out, scales = round_trip(matrix, bits, 8)
    assert scales[0].tolist() == [TINY, TINY]  # no division by zero on the way
    assert torch.equal(out[0], matrix[0])
    assert torch.equal(out[1] == 0, matrix[1] == 0)
    assert out[1, 3].item() == pytest.approx(-5.0, rel=2**-8)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("bits", [4, 8])
def test_extremes(bits, dtype):
    """The most negative element of a group, an outlier, large float16 numbers, tiny ones."""
    matrix = torch.tensor([[-100.0, 1, 99, -99, 0.5, -0.5, 3, 7] * 2])
    matrix[0, 8:] *= 1e-4
    check(matrix.to(dtype), bits, 8)
    check(torch.tensor([[60_000.0, -60_000, 1, 0, 0, 2, 3, 4] * 2]).to(dtype), bits, 8)
    check(torch.tensor([[-6e-8, 6e-8, 0, 0, 0, 0, 0, 1e-7] * 2]).to(dtype), bits, 8)


def test_rows_do_not_know_of_one_another():
    """Any rows of a packed matrix are those rows packed: so pieces can be cut between them."""
    matrix = torch.randn(9, 32, generator=torch.Generator().manual_seed(1))
    for bits in (4, 8):
        whole = pack_rows(matrix, bits, 16)
        assert torch.equal(whole[3:7], pack_rows(matrix[3:7], bits, 16))
        out = torch.empty(4, 32)
        unpack_rows(whole[3:7], bits, 16, out)
        assert torch.equal(out, round_trip(matrix, bits, 16)[0][3:7])


def test_rows_may_be_strided():
    """As columns of a shard are."""
    wide = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(pack_rows(wide[:, 8:40], 4, 8), pack_rows(wide[:, 8:40].clone(), 4, 8))


@pytest.mark.parametrize(
    ("cols", "bits", "group", "advice"),
    [
        (60, 4, 8, "leave their modifier out"),
        (100, 8, 64, "leave their modifier out"),
        (96, 4, 64, "take a group of 8 or 16"),
        (48, 4, 16, "take a group of 8"),  # 24 bytes and three scales end in the middle of four
        (48, 8, 16, "take a group of 8"),
        (64, 8, 48, "take a group of 8 or 16 or 32"),
    ],
)
def test_rows_that_cannot_be_packed(cols, bits, group, advice):
    said = rf"^rows of {cols} elements cannot be packed in {bits} bits with groups of {group}; "
    with pytest.raises(BadInput, match=f"{said}{advice}$"):
        pack_rows(torch.zeros(2, cols), bits, group)
