"""Max-min fair speeds, by hand and by their laws; and what that does to a timeline."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.graph import RecordingIssuer
from sim import compiled, engine
from sim.sharing import Sharing, speeds

BOTH = pytest.mark.parametrize("simulate_graph", [engine.simulate_graph, compiled.simulate_graph])


def of(demand, capacity):
    return speeds(np.array(demand, dtype=float), np.array(capacity, dtype=float))


@pytest.mark.parametrize(
    ("demand", "capacity", "expected"),
    [
        ([[10], [20]], [100], [1, 1]),  # room for both
        ([[100], [100]], [100], [0.5, 0.5]),
        ([[90], [60], [10]], [100], [0.5, 0.75, 1]),  # equal rates, but what needs less gets that
        ([[200]], [100], [0.5]),  # more than there is
        ([[0], [100], [100]], [50], [1, 0.25, 0.25]),
        ([[100, 0], [100, 100], [0, 100]], [100, 50], [0.75, 0.25, 0.25]),
    ],
)
def test_by_hand(demand, capacity, expected):
    """The last: channel 1 fills up first, at a quarter of both; then channel 0 has 75 left."""
    assert of(demand, capacity) == pytest.approx(expected)


amounts = st.floats(0.01, 100) | st.just(0.0)


@given(st.integers(1, 6), st.integers(1, 3), st.data())
def test_no_channel_is_overfull_and_nobody_could_go_faster(tasks, channels, data):
    rows = st.lists(amounts, min_size=channels, max_size=channels)
    demand = np.array(data.draw(st.lists(rows, min_size=tasks, max_size=tasks)))
    capacity = np.array(
        data.draw(st.lists(st.floats(0.1, 100), min_size=channels, max_size=channels))
    )
    found = np.array(speeds(demand, capacity))
    used = found @ demand
    assert (used <= capacity * (1 + 1e-9)).all()
    full = used >= capacity * (1 - 1e-9)
    for task in np.flatnonzero(found < 1):
        assert (full & (demand[task] > 0)).any()  # something that it uses has no room left


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=6), st.floats(0.1, 100))
def test_one_channel_gives_everybody_the_same_or_what_it_needs(demand, capacity):
    rates = np.array(of([[d] for d in demand], [capacity])) * demand
    most = rates.max()
    assert all(r == pytest.approx(min(d, most)) for r, d in zip(rates, demand, strict=True))


def two_copies():
    issuer = RecordingIssuer(["h2d", "d2h", "gpu"], {"gpu": 1})
    for stream in ("h2d", "d2h", "gpu"):
        issuer.task("copy", stream)
    issuer.barrier()
    return issuer.take()


@BOTH
def test_a_shared_link_by_hand(simulate_graph):
    """Two copies of 4 and 2 s demand 10 and 5 of a link of 10; the kernel uses nothing of it.

    Together they get 5 each: speeds 0.5 and 1. The second is done after 2 s, when 3 s of the first
    are left, which then has the link for itself.
    """
    sharing = Sharing(("link",), np.array([10.0]), np.array([[10.0], [5.0], [0.0]]))
    run = simulate_graph(two_copies(), np.array([4.0, 2.0, 3.0]), sharing=sharing)
    assert run.end_s.tolist() == [5, 2, 3]
    assert run.makespan_s == 5


@BOTH
def test_room_for_all_changes_nothing(simulate_graph):
    sharing = Sharing(("link",), np.array([100.0]), np.array([[10.0], [5.0], [0.0]]))
    run = simulate_graph(two_copies(), np.array([4.0, 2.0, 3.0]), sharing=sharing)
    assert run.end_s.tolist() == [4, 2, 3]


@pytest.mark.parametrize(
    ("capacity", "demand", "message"),
    [
        ([1.0, 2.0], [[1.0]], "1 channels, but capacities of shape"),
        ([0.0], [[1.0]], "capacity of every channel must be a finite number above 0"),
        ([1.0], [[-1.0]], "demands of tasks must be finite numbers >= 0"),
        ([1.0], [[np.nan]], "demands of tasks must be finite numbers >= 0"),
    ],
)
def test_mistakes(capacity, demand, message):
    with pytest.raises(BadInput, match=message):
        Sharing(("link",), np.array(capacity), np.array(demand))
