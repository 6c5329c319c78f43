"""Routing by hand for micro-batches, and the laws of one run with any options."""

from unittest.mock import patch

import numpy as np

from schedules.routing import Routing
from sim.cost import Roofline, price
from sim.engine import simulate_graph
from sim.scenario import place
from tests.sim.test_laws import check_law_1, generate
from tests.strategies import WatchedIssuer


class Scripted(Routing):
    """The ids of every token, by (step, layer, micro-batch); each row is a token."""

    script: dict[tuple[int, int, int], list[list[int]]]

    def expert_ids(self, tokens, n_experts, top_k, layer, step, micro_batch=0):
        ids = np.array(self.script[step, layer, micro_batch])
        assert ids.shape == (tokens, top_k)
        return ids


def check_law_1_of(case):
    """Streams, dependencies, buffers and pools of a whole run."""
    with patch("sim.scenario.RecordingIssuer", WatchedIssuer):
        schedule = place(*case)
    generate(schedule)
    issuer = schedule.node.issuer
    graph, cost = issuer.take(), Roofline(case.scenario.hardware, 1)
    run = simulate_graph(graph, *price(graph, cost), cost.sync_s)
    check_law_1(graph, issuer, run, {n: pool.capacity_bytes for n, pool in issuer.pools.items()})
