"""What a generation moves: sampled steps against all of them."""

import pytest

from schedules.movement import exposed_transfer_s, moved_bytes
from sim import simulate


@pytest.mark.parametrize("name", ["cgopipe", "flexgen", "on-demand", "pre-gated"])
def test_equals_the_sum_over_all_steps(name):
    mu = 4 if name in ("cgopipe", "flexgen") else 8
    result = simulate(name, "mixtral-8x7b", "gcp-t4-24c", "fixed-64", 12, 8, mu)
    frames = [result.timeline([step]).frame for step in range(12)]
    sums = {}
    for frame in frames:
        for op, size in moved_bytes(frame).items():
            sums[op] = sums.get(op, 0.0) + size
    found = result.moved_bytes_per_token
    assert {op: size * 8 * 12 for op, size in found.items()} == pytest.approx(sums, rel=1e-9)
    assert result.exposed_transfer_s == pytest.approx(
        sum(map(exposed_transfer_s, frames)), rel=1e-3
    )
    assert 0 <= result.exposed_transfer_s < result.makespan_s


CACHED = ("on-demand", "switch-base-8", "a100-80g-epyc64", "fixed-16", 8, 1, 1)


def test_facts_of_a_cache():
    assert simulate(*CACHED).facts == {}
    found = simulate(*CACHED, policy={"cache_ratio": 0.5}, routing="switch-base-128").facts
    assert 0 < found["hit_rate"] < 1


def test_steps_of_a_schedule_with_a_memory_stay_as_they_were():
    """What a cache holds depends on the steps before: to look at a step must not repeat it."""
    result = simulate(*CACHED, policy={"cache_ratio": 0.5}, routing="switch-base-128")
    for step in (5, 2, 1, 7):
        assert result.generation.step(step).run.makespan_s == result.step_s[step - 1]
    fresh = simulate(*CACHED, policy={"cache_ratio": 0.5}, routing="switch-base-128")
    assert fresh.facts == result.facts
