"""Times without events, against what can be added up by hand and against the simulation."""

import numpy as np
import pytest

from schedules.errors import BadInput
from sim import simulate
from sim.bound_times import _totals, bound_times

S1 = ("mixtral-8x7b", "gcp-t4-24c", "mtbench", 4)


class Priceless:
    """No cost model that can be asked for limits."""


@pytest.fixture(scope="module", params=["cgopipe", "flexgen", "zero-inference"])
def result(request):
    micro = 16 if request.param == "zero-inference" else 8
    return simulate(request.param, *S1, 16, micro)


@pytest.fixture(scope="module")
def switch():
    question = ("on-demand", "switch-base-8", "a100-80g-epyc64", "fixed-64", 4, 2, 2)
    return simulate(*question, routing="switch-base-128")


def test_busiest_streams(result):
    found = bound_times(result, "streams")
    assert found.prefill_s == result.generation.prefill.totals[1:].max()
    assert found.step_s.tolist() == result.generation.decode[:, 1:].max(axis=1).tolist()
    assert found.makespan_s == pytest.approx(found.prefill_s + found.step_s.sum())


def test_no_bound_is_above_the_simulation(result, switch):
    for one in (result, switch):
        for by in ("streams", "resources"):
            found = bound_times(one, by)
            assert found.makespan_s <= one.makespan_s * (1 + 1e-9)
            assert len(found.step_s) == one.generation.steps


def test_weights_over_the_link_by_hand():
    """ZeRO-Inference streams all 32 layers once a step: bytes over the link, no call costs."""
    found = bound_times(simulate("zero-inference", *S1, 16, 16), "resources")
    experts = 8 * 3 * 4096 * 14336
    attention = 2 * 4096 * 4096 + 2 * 4096 * 1024
    layer = experts + attention + 8 * 4096 + 2 * 4096  # and the router and two norms
    least = 32 * layer * 2 / 12.35e9
    vocabulary = 2 * 32000 * 4096 * 2 / 12.35e9  # embedding and head may travel too
    assert least <= found.step_s[0] * (1 + 1e-9)
    assert found.step_s[0] <= least + vocabulary + 1e-6


def test_steps_that_differ_in_amounts_alone_are_each_its_own_roofline():
    """What a resource needs is affine in the step: the middle one, added up by itself."""
    result = simulate("cgopipe", *S1[:3], 6, 16, 8)
    steps = bound_times(result, "resources").step_s
    middle = _totals(result.generation.step(3).graph, result.generation.cost).max()
    assert steps[2] == pytest.approx(middle, rel=1e-9)
    assert (np.diff(steps) >= 0).all()


def test_blocks(result, switch):
    for by in ("streams", "resources"):
        assert 0 < bound_times(switch, by).moe_block_s <= switch.movement.moe_block_s
        assert bound_times(result, by).moe_block_s > 0
    dense = simulate("zero-inference", "opt-6.7b", "gcp-t4-24c", "fixed-16", 2, 2, 2)
    assert bound_times(dense, "streams").moe_block_s is None


def test_without_decode_steps():
    result = simulate("cgopipe", *S1[:3], 1, 16, 8)
    for by in ("streams", "resources"):
        found = bound_times(result, by)
        assert found.step_s.shape == (0,)
        assert found.moe_block_s is None
        assert found.makespan_s == found.prefill_s > 0


def test_only_a_roofline_has_bounds():
    result = simulate("cgopipe", *S1, 16, 8)
    result.generation.cost = Priceless()
    with pytest.raises(BadInput, match="only a roofline has bounds, not a Priceless"):
        bound_times(result, "resources")
