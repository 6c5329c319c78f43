"""Rates of links and what a copy costs beside its bytes."""

import pytest

from schedules.errors import BadInput
from schedules.sample import Sample
from schedules.task import Work
from sim.calibration.links import CALLS, copied, copy_s, link_fit
from tests.sim.calibration.lab import COPY_S, LINKS, copies, point


def test_known_rates_are_found():
    fit = link_fit(list(copies()), [])
    found = {name: cost.value for name, cost in fit.costs.items()}
    assert found == pytest.approx(LINKS | {CALLS: COPY_S}, rel=1e-3)


def operation(size, calls, seconds):
    work = Work(device="link", link_bytes={"h2d": size}, calls=calls)
    return Sample("here", "load", "h2d", "decode", work, (seconds,) * 3)


def test_copies_of_operations_count_too():
    """No micro-benchmark; several calls in an operation, and one that copies nothing."""
    own = [operation(s, n, 1e-9 * s + n * 1e-5) for s in (1e4, 1e6, 1e7) for n in (1, 2, 8)]
    found = link_fit([], [*own, operation(0.0, 0, 5.0)])
    assert found.costs["h2d"].value == pytest.approx(1e-9, rel=1e-3)
    assert found.costs[CALLS].value == pytest.approx(1e-5, rel=1e-3)
    assert len(found.errors) == 9


def test_pinning_counts_with_one_thread_and_with_the_most():
    pins = [point("pin", 1.0, {"bytes": 8.0}, link="pin", threads=n) for n in (1, 2, 4)]
    assert [p.params["threads"] for p in copied(pins)] == [1, 4]


def test_seconds_of_a_copy_by_hand():
    fit = link_fit(list(copies()), [])
    assert copy_s(fit, {"h2d": 1e6, "d2h": 1e6}, 2) == pytest.approx(1e-3 + 2e-3 + 2e-5, rel=1e-3)
    assert copy_s(fit, {"peer": 1e6}, 0) == 0  # was not fitted


def test_no_copies_are_refused():
    with pytest.raises(BadInput, match="no copy was measured"):
        link_fit([], [])
