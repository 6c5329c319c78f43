"""Sensitivities against finite differences, and changes against machines that have them."""

import pytest

from schedules.schedule import schedules
from sim.explain import explain
from tests.sim.explained import one_sided, small, with_rate

EXACT = 1e-4  # relative, of a finite difference with a rate changed by one millionth
MACHINES = [
    ("mixtral-8x7b", "gcp-t4-24c"),
    ("mixtral-8x7b", "gcp-t4x2-32c"),
    ("switch-base-8", "a100-80g-epyc64"),
]


@pytest.mark.parametrize("name", sorted(schedules()))
def test_elasticities_are_finite_differences(name):
    """Between the two sides where two paths are equally long (klotski, moe-gen)."""
    result = small(name)
    for found in explain(result).sensitivities:
        slower, faster = one_sided(result, found.resource)
        assert slower >= faster - 1e-7  # throughput is concave there: it loses more than it gains
        assert found.elasticity <= slower * (1 + EXACT) + 1e-7
        assert found.elasticity >= faster * (1 - EXACT) - 1e-7


@pytest.mark.parametrize(("model", "hardware"), MACHINES)
@pytest.mark.parametrize("name", ["cgopipe", "flexgen", "prefetch-all", "ktransformers"])
def test_elasticities_on_other_machines(name, model, hardware):
    result = small(name, model, hardware)
    for found in explain(result).sensitivities:
        slower, faster = one_sided(result, found.resource)
        assert (slower, faster) == pytest.approx((found.elasticity,) * 2, rel=EXACT, abs=1e-7)


@pytest.mark.parametrize(("model", "hardware"), MACHINES)
@pytest.mark.parametrize("name", ["cgopipe", "flexgen", "on-demand", "hobbit"])
def test_larger_changes_are_those_of_a_machine_that_has_them(name, model, hardware):
    result = small(name, model, hardware)
    for found in explain(result).sensitivities:
        for gain, factor in ((found.faster, 1.1), (found.slower, 0.9)):
            other = with_rate(result, found.resource, factor)
            exact = other.throughput_tok_s / result.throughput_tok_s - 1
            assert gain == pytest.approx(exact, abs=1e-9)
            tangent = 1 / (1 - found.elasticity * (1 - 1 / factor)) - 1
            assert gain <= tangent + 1e-9


@pytest.mark.parametrize("name", sorted(schedules()))
def test_every_second_is_due_to_a_resource(name):
    found = explain(small(name))
    assert sum(one.elasticity for one in found.sensitivities) == pytest.approx(1, abs=1e-9)
    due = sum(one.critical_s for one in found.sensitivities)
    assert due == pytest.approx(found.result.makespan_s, rel=1e-9)
    shares = [one.critical_s for one in found.sensitivities]
    assert shares == sorted(shares, reverse=True)
