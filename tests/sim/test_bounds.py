"""Lower bounds: by hand, and never above the makespan."""

import numpy as np
import pytest
from hypothesis import given

from schedules.graph import RecordingIssuer
from schedules.schedule import schedules
from schedules.task import Work
from sim.bounds import Chains, resource_s, without_order
from sim.cost import Roofline
from sim.events import events_of, kernels
from sim.explain import explain
from sim.resources import alike
from tests.sim.explained import small, times_of_issued
from tests.sim.test_causes import two_slots
from tests.strategies import issue, programs, toy_hardware


def chain_of(graph, seconds):
    duration_s = np.resize(seconds, len(graph)) * 1.0
    return kernels().chain(graph.offsets, graph.dependencies, duration_s)


def test_the_longest_chain_leaves_out_what_a_stream_implies():
    """Load, compute, load into the same slot, compute; layer 1 has the other slot."""
    assert chain_of(two_slots(), [2.0, 3.0]) == 10
    assert chain_of(two_slots(2), [2.0, 3.0]) == 5


def test_with_issuing_the_thread_counts():
    """Two chains of 5 s side by side; four tasks are issued, then one wait."""
    graph = two_slots(2)
    events = without_order(graph)
    phases = alike(graph, graph, (0, 0), Roofline(toy_hardware()))
    assert len(events.kind) == len(events_of(graph).kind)
    chains = Chains()
    chains.add(phases, 0, events)
    assert (chains.dependencies_s, chains.issued_s) == (0, 0.03125)  # no work; one wait


@given(programs())
def test_chains_are_at_most_the_makespan(program):
    issued = issue(program)
    times = times_of_issued(issued)
    longest = chain_of(issued.graph, issued.duration_s) if len(issued.graph) else 0.0
    assert longest <= times.makespan_s + 1e-9


def test_resources_by_hand():
    """Toy rates: experts 500 flop/s, GPU memory 100, CPU memory 40 and h2d 10 bytes/s."""
    issuer = RecordingIssuer(["host0", "host1", "h2d0", "h2d1", "gpu0", "gpu1", "cpu0", "cpu1"], {})
    load = Work(device="link", link_bytes={"h2d": 30}, calls=1)
    compute = Work(device="gpu", flops={"experts": 1000}, bytes={"gpu": 100}, calls=1)
    attend = Work(device="cpu", bytes={"cpu": 60}, share=0.5)
    for gpu in range(2):
        issuer.task("load", f"h2d{gpu}", work=load)
        issuer.task("compute", f"gpu{gpu}", work=compute)
        issuer.task("attend", f"cpu{gpu}", work=attend)
    issuer.barrier()
    graph = issuer.take()
    found = resource_s(alike(graph, graph, (0, 0), Roofline(toy_hardware(gpus=2), 2)), 0)
    assert found == {
        "gpu.compute#0": 2,
        "gpu.compute#1": 2,
        "gpu.memory_bandwidth#0": 1,
        "gpu.memory_bandwidth#1": 1,
        "cpu.memory_bandwidth": 3,  # each has half of it for 3 s
        "links.h2d#0": 3,
        "links.h2d#1": 3,
    }


@pytest.mark.parametrize("hardware", ["gcp-t4-24c", "gcp-t4x2-32c"])
@pytest.mark.parametrize("name", sorted(schedules()))
def test_no_bound_is_above_the_makespan(name, hardware):
    found = explain(small(name, hardware=hardware))
    assert all(bound.ratio >= 1 - 1e-9 for bound in found.bounds)
    assert all(b.ratio * b.bound_s == pytest.approx(found.result.makespan_s) for b in found.bounds)
    by_kind = {bound.kind: bound for bound in reversed(found.bounds)}  # the tightest of each
    assert set(by_kind) == {"stream", "chain", "issued chain", "resource"}
    assert by_kind["stream"].bound_s == found.result.lower_bound_s
    assert by_kind["chain"].bound_s <= by_kind["issued chain"].bound_s
    assert by_kind["resource"].bound_s <= by_kind["stream"].bound_s * (1 + 1e-9)
