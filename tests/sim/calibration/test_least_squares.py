"""Costs that are known are found again, in spite of noise and of outliers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput
from sim.calibration.least_squares import Cost, fit

NAMES = ("flops", "bytes", "calls")
EITHER = (("flops",), ("bytes",))
SCALE = {"flops": 1e10, "bytes": 1e8, "calls": 1e2}  # amounts of about a second each

shares = st.floats(0.1, 10.0)
costs = st.fixed_dictionaries({n: shares.map(lambda c, n=n: c / SCALE[n]) for n in NAMES})
seeds = st.integers(0, 2**32 - 1)


def amounts_of(rng, n):
    return {name: SCALE[name] * 10 ** rng.uniform(-2, 2, n) for name in NAMES}


def seconds_of(amounts, costs, overlaps=False):
    each = {name: amounts[name] * costs[name] for name in NAMES}
    both = np.maximum if overlaps else np.add
    return both(each["flops"], each["bytes"]) + each["calls"]


def found(amounts, seconds, overlaps=False):
    return fit(amounts, seconds, EITHER if overlaps else ((), ()))


@settings(max_examples=40, deadline=None)
@given(costs, seeds)
def test_known_costs_of_a_sum_are_found(costs, seed):
    amounts = amounts_of(np.random.default_rng(seed), 60)
    result = found(amounts, seconds_of(amounts, costs))
    assert {n: c.value for n, c in result.costs.items()} == pytest.approx(costs, rel=1e-3)
    assert result.median_error < 1e-3
    assert not result.overlaps


@settings(max_examples=25, deadline=None)
@given(costs, seeds)
def test_known_costs_of_a_roofline_are_found(costs, seed):
    amounts = amounts_of(np.random.default_rng(seed), 120)
    result = found(amounts, seconds_of(amounts, costs, overlaps=True), overlaps=True)
    assert {n: c.value for n, c in result.costs.items()} == pytest.approx(costs, rel=1e-2)
    assert result.overlaps


@settings(max_examples=25, deadline=None)
@given(costs, seeds)
def test_a_fifth_of_the_measurements_ten_times_too_long_moves_little(costs, seed):
    rng = np.random.default_rng(seed)
    amounts = amounts_of(rng, 150)
    seconds = seconds_of(amounts, costs) * np.exp(0.01 * rng.standard_normal(150))
    disturbed = seconds * np.where(rng.permutation(150) < 30, 10.0, 1.0)
    result = found(amounts, disturbed)
    assert {n: c.value for n, c in result.costs.items()} == pytest.approx(costs, rel=0.15)


@settings(max_examples=40, deadline=None)
@given(seeds, st.booleans())
def test_costs_are_never_negative(seed, overlaps):
    """Whatever the seconds are: here they have nothing to do with the amounts."""
    rng = np.random.default_rng(seed)
    result = found(amounts_of(rng, 20), 10 ** rng.uniform(-6, 3, 20), overlaps)
    for cost in result.costs.values():
        assert 0 <= cost.low <= cost.value <= cost.high


def test_intervals_hold_the_truth_nineteen_times_of_twenty():
    """Normal errors of 5 %; of 3 x 150 intervals 95 % hold it, give or take three deviations."""
    truth = {"flops": 1 / SCALE["flops"], "bytes": 2 / SCALE["bytes"], "calls": 1 / SCALE["calls"]}
    hits = []
    for trial in range(150):
        rng = np.random.default_rng(trial)
        amounts = amounts_of(rng, 80)
        seconds = seconds_of(amounts, truth) * np.exp(0.05 * rng.standard_normal(80))
        result = found(amounts, seconds)
        hits += [result.costs[n].low <= truth[n] <= result.costs[n].high for n in NAMES]
    assert 0.91 <= np.mean(hits) <= 0.985


def test_what_costs_nothing_is_not_seen():
    rng = np.random.default_rng(1)
    amounts = amounts_of(rng, 60)
    truth = {"flops": 1 / SCALE["flops"], "bytes": 1 / SCALE["bytes"], "calls": 0.0}
    seconds = seconds_of(amounts, truth) * np.exp(0.05 * rng.standard_normal(60))
    result = found(amounts, seconds)
    assert not result.costs["calls"].is_seen
    assert result.costs["flops"].is_seen
    assert result.costs["bytes"].is_seen


def test_amounts_that_never_occur_have_no_cost():
    amounts = {"bytes": np.array([1.0, 2.0, 4.0]), "calls": np.zeros(3)}
    assert list(fit(amounts, np.array([2.0, 4.0, 8.0])).costs) == ["bytes"]


def test_too_few_measurements_are_refused():
    amounts = {"bytes": np.array([1.0]), "calls": np.array([1.0])}
    with pytest.raises(BadInput, match="1 measurements are too few to fit 2 costs"):
        fit(amounts, np.array([2.0]))
    with pytest.raises(BadInput, match="too few to fit 0 costs"):
        fit({"bytes": np.zeros(3)}, np.ones(3))


def test_a_rate_is_one_over_its_cost_but_at_most_ten_times_what_was_reached():
    assert Cost(0.5, 0.25, 1.0).per_second(1.0) == 2
    assert Cost(0.0, 0.0, 1.0).per_second(3.0) == 30
    result = fit({"calls": np.array([2.0, 4.0])}, np.array([1.0, 2.0]))
    assert result.best == {"calls": 2}
    assert result.rate("calls") == pytest.approx(2)


def test_the_loss_grows_with_the_errors():
    amounts = {"calls": np.ones(4)}
    close, far = (fit(amounts, np.array([1.0, 1.0, 1.0, last])) for last in (1.1, 5.0))
    assert 0 < close.loss < far.loss
