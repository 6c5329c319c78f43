"""What lanes repeat, and what it counts."""

import pytest
import torch

from runtime.calibration.actions import (
    copying,
    copying_within,
    multiplying,
    reading,
    timed,
    writing,
)
from runtime.calibration.effort import EFFORTS
from runtime.calibration.room import Room
from runtime.device import DeviceOptions

QUICK = EFFORTS["quick"]
SIZE = 1 << 18


def room(rate=None):
    return Room(DeviceOptions("cpu", 1 << 27, 1 << 30, rate, 1, 1), QUICK)


def test_blocks_follow_one_another_and_begin_again():
    own = room()
    arena, blocks = own.arena("cpu"), own.blocks("cpu", own.size_bytes // 2)
    starts = [next(blocks).data_ptr() - arena.data_ptr() for _ in range(3)]
    assert starts == [0, own.size_bytes // 2, 0]


def test_arenas_are_small_where_memory_is_short():
    assert room().size_bytes == QUICK.largest_bytes
    small = DeviceOptions("cpu", 3 << 20, 1 << 30)
    assert Room(small, EFFORTS["normal"]).size_bytes == 1 << 20


@pytest.mark.parametrize(
    ("link", "there", "moved"),
    [("h2d", "gpu", SIZE), ("d2h", "pinned", SIZE), ("d2h_pageable", "cpu", SIZE),
     ("pin", "pinned", 0), ("pin_parallel", "pinned", 0)],
)  # fmt: skip
def test_a_copy_moves_its_bytes_and_pins_use_no_link(link, there, moved):
    own = room()
    own.arena(there).zero_()
    action = copying(own, link, SIZE)
    (run,) = action.take(1)
    assert run() == moved
    assert own.arena(there)[:SIZE].any()
    assert not own.arena(there)[SIZE:].any()
    assert action.amount == {"bytes": SIZE}
    assert action.lane == link.partition("_")[0]


def test_copies_over_a_link_are_held_to_its_bandwidth():
    own = room(rate=1e8)
    for link in ("h2d", "d2h_pageable"):
        seconds = timed(own, QUICK, copying(own, link, SIZE))
        assert min(seconds) >= 0.99 * SIZE / 1e8


def test_reading_changes_nothing_and_writing_all():
    own = room()
    before = own.arena("cpu").clone()
    (run,) = reading(own, SIZE, 2).take(1)
    assert run() == 0
    assert torch.equal(own.arena("cpu"), before)
    (run,) = writing(own, SIZE, 1).take(1)
    assert run() == 0
    assert (own.arena("cpu")[:SIZE] == 1).all()


def test_a_copy_within_a_memory_counts_both_halves():
    own = room()
    action = copying_within(own, "gpu", 2 * own.size_bytes, 1)
    assert action.amount == {"bytes": own.size_bytes}
    assert action.take(1)[0]() == 0
    first, second = own.arena("gpu").chunk(2)
    assert torch.equal(first, second)


def test_products_count_their_arithmetic():
    action = multiplying(room(), 4, 64, 1)
    assert action.amount == {"flops": 2 * 4 * 64 * 64, "bytes": 4 * 64 * 64}
    assert timed(room(), QUICK, action)
