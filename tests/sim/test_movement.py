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


def test_facts_of_a_cache():
    question = ("on-demand", "mixtral-8x7b", "gcp-t4-24c", "fixed-8", 6, 1, 1)
    assert simulate(*question).facts == {}
    policy = {"cache": "lfu", "cache_ratio": 0.1}
    found = simulate(*question, policy=policy, routing="zipf:1.5").facts
    assert 0 < found["hit_rate"] < 1
