"""Counts of a cache, and its size from bytes or a ratio."""

import pytest

from schedules.errors import BadInput
from schedules.expert.cache_counts import Counts, Tally, experts_in_bytes, experts_in_ratio


def test_counts_add_and_subtract() -> None:
    some, more = Counts(1, 2, 1, 3, 4), Counts(10, 20, 10, 30, 40)
    assert some + more == Counts(11, 22, 11, 33, 44)
    assert some + more - some == more
    assert some.loads == 5
    assert some.hit_rate == pytest.approx(1 / 3)
    assert Counts().hit_rate == 0


def test_a_tally_is_read_as_a_copy() -> None:
    tally = Tally()
    tally.of((2, 5)).hits += 1
    tally.of("key").misses += 1
    seen = tally.by_layer()
    tally.of((2, 6)).hits += 1
    assert seen == {2: Counts(hits=1), None: Counts(misses=1)}
    assert tally.total() == Counts(hits=2, misses=1)


def test_size_from_bytes() -> None:
    assert experts_in_bytes(100, 30) == 3
    assert experts_in_bytes(90, 30) == 3
    assert experts_in_bytes(29, 30) == 0


def test_size_from_a_ratio() -> None:
    """Pre-gated's cache of 1 to 20 % of Switch-Large-128's 12 x 128 experts in the decoder."""
    sizes = [experts_in_ratio(ratio, 12, 128) for ratio in (0, 0.01, 0.03, 0.05, 0.1, 0.2, 1)]
    assert sizes == [0, 15, 46, 77, 154, 307, 1536]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: experts_in_bytes(10, 0), "an expert of 0 bytes"),
        (lambda: experts_in_bytes(-1, 10), "a cache of -1 bytes"),
        (lambda: experts_in_ratio(1.5, 2, 2), "ratio of 1.5"),
        (lambda: experts_in_ratio(-0.5, 2, 2), "ratio of -0.5"),
    ],
)
def test_impossible_sizes(act, message) -> None:
    with pytest.raises(BadInput, match=message):
        act()
