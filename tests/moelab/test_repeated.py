"""Repetitions of a run: until two agree, and what counts of them."""

from hypothesis import given
from hypothesis import strategies as st

from moelab.repeated import AGREE, enough, makespans, middle


def test_twice_where_two_agree():
    assert not enough([])
    assert not enough([2.0])
    assert enough([2.0, 2.0 * AGREE])
    assert not enough([2.0, 2.2])


def test_again_until_two_agree_but_not_for_ever():
    assert enough([2.0, 3.0, 2.01])
    assert not enough([2.0, 3.0, 4.0])
    assert enough([2.0, 3.0, 4.0, 5.0])


SECONDS = st.floats(1.0, 10.0)


@given(first=SECONDS, late=SECONDS)
def test_one_disturbed_run_does_not_count(first, late):
    """Of three runs of which two agree, the middle one is of these two or between them."""
    second = first * AGREE
    found = middle([{"makespan_s": s} for s in (first, second + late, second)])
    assert first <= found["makespan_s"] <= second


def test_prefill_and_decode_are_those_of_the_same_run():
    runs = [
        {"makespan_s": a + b, "prefill_s": a, "decode_s": b} for a, b in ((1, 4), (3, 1), (1, 2))
    ]
    assert middle(runs) == {"makespan_s": 4, "prefill_s": 3, "decode_s": 1}
    assert middle(runs[1:]) == {"makespan_s": 3.5, "prefill_s": 2, "decode_s": 1.5}


def test_makespans():
    assert makespans([{"makespan_s": 2.0}, {"makespan_s": 1.0}]) == [2.0, 1.0]
