"""Speeds of running tasks in the compiled engine, against the plain function that defines them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.kernels_running import ENTRY, Running, enter, leave, next_to_end, set_speeds, use_channels
from sim.sharing import speeds

AMOUNTS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 0.1, 0.7])


def running_now(demand, capacity):
    """Tasks that began at 0 and take a second each alone."""
    count, capacity = len(demand), np.asarray(capacity, dtype=float)
    running = Running(
        np.zeros(count, ENTRY), np.zeros((count, len(capacity))), capacity, capacity.copy()
    )
    for place, needs in enumerate(np.asarray(demand, dtype=float)):
        enter(running, place, place, 0.0, 1.0, 1.0)
        assert use_channels(running, place, needs) == needs.any()
    return running


def found(demand, capacity):
    running = running_now(demand, capacity)
    set_speeds(running, len(demand), 0.0)
    return running.entries["speed"].tolist()


@given(st.integers(1, 3), st.integers(1, 6), st.data())
def test_the_speeds_of_the_definition(channels, count, data):
    rows = st.lists(AMOUNTS, min_size=channels, max_size=channels)
    demand = np.array(data.draw(st.lists(rows, min_size=count, max_size=count)))
    capacity = np.array(data.draw(rows)) + 0.25
    assert found(demand, capacity) == pytest.approx(speeds(demand, capacity), rel=1e-12)


def test_three_on_one_channel():
    assert found([[90], [60], [10]], [100]) == [0.5, 0.75, 1]


def test_a_channel_that_rounding_leaves_nothing_of():
    """The second needs hardly any of a channel that the first fills, and goes on all the same."""
    assert found([[2, 2, 0], [0, 1e-18, 1]], [1, 1, 0.5]) == [0.5, 0.5]


def test_a_change_of_speed_counts_what_is_done():
    running = running_now([[2], [2]], [2])
    set_speeds(running, 2, 0.0)
    assert running.entries["end_s"].tolist() == [2, 2]
    leave(running, 0, 1)
    set_speeds(running, 1, 1.0)  # half of it is done
    assert running.entries[0]["task"] == 1
    assert running.entries[0]["end_s"] == 1.5


def test_who_ends_first():
    running = running_now([[0], [0], [0]], [1])
    running.entries["end_s"] = 3, 1, 2
    assert next_to_end(running, 3) == 1
    assert next_to_end(running, 1) == 0
