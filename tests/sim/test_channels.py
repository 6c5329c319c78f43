"""Channels of a machine: what tasks demand of them, and whole generations that share them."""

from dataclasses import replace

import numpy as np
import pytest

from schedules.graph import RecordingIssuer
from schedules.schedule import find_schedule
from schedules.task import Work
from sim.api import Question, run
from sim.channels import loads
from sim.cost import Roofline
from sim.hardware import load_hardware
from sim.hardware_parts import Amount, Emulated, Rate
from tests.strategies import toy_hardware

ATTENTION = Work(device="cpu", bytes={"cpu": 80.0})
COPY = Work(device="link", bytes={"cpu": 10.0, "gpu": 10.0}, link_bytes={"h2d": 10.0})
KERNEL = Work(device="gpu", bytes={"gpu": 30.0})


def graph(streams=("h2d", "gpu", "cpu")):
    issuer = RecordingIssuer(streams, {"gpu": 1})
    for stream, work in zip(streams, (COPY, KERNEL, ATTENTION), strict=False):
        issuer.task("task", stream, work=work)
    issuer.barrier()
    return issuer.take()


def test_demands_by_hand():
    found = loads(graph(), {"cpu": 40.0, "gpu": 300.0, "host_link": 12.0})
    assert found.names == ("cpu", "gpu", "host_link")
    assert found.bytes.tolist() == [[10, 10, 10], [0, 30, 0], [80, 0, 0]]
    demand = found.sharing(np.array([1.0, 0.5, 0.0])).demand
    assert demand.tolist() == [[10, 10, 10], [0, 60, 0], [0, 0, 0]]


def test_each_gpu_has_a_memory_of_its_own():
    found = loads(graph(("h2d0", "gpu1", "cpu")), {"gpu": 300.0})
    assert found.names == ("gpu1",)
    assert found.bytes.tolist() == [[0], [30], [0]]


def test_demands_can_be_counted_otherwise():
    found = loads(graph(), {"cores": 2.0}, lambda work, channel: 3.0 * work.bytes.get("cpu", 0.0))
    assert (found.names, found.bytes.tolist()) == (("cores",), [[30], [0], [240]])


def test_threads_that_compute_and_copy_share_the_cores():
    """An emulated GPU with one thread, two threads for the CPU's tasks, copies of 4 bytes/s.

    Alone: the copy takes 1 s, which are 2.5 s of one thread; the kernel 0.3 s with one thread, the
    attention 2 s with two.
    """
    parts = Emulated(
        gpu_threads=1,
        cpu_threads=2,
        copy_rate=Rate(peak=4.0, sustained=4.0, source="made up for this test"),
    )
    cost = Roofline(toy_hardware().model_copy(update={"emulated": parts}))
    found = loads(graph(), {"cores": 1.5, "cpu": 1e3}, cost.moved)
    assert found.bytes.tolist() == [[2.5, 20], [pytest.approx(0.3), 30], [4, 80]]
    seconds = np.array([cost.seconds(work) for work in (COPY, KERNEL, ATTENTION)])
    demand = found.sharing(seconds).demand
    assert demand[:, 0].tolist() == pytest.approx([2.5, 1.0, 2.0])
    assert demand[:, 1].tolist() == pytest.approx([20, 100, 40])


def test_without_channels_nothing_is_shared():
    assert loads(graph(), {}) is None


def machine(**channels):
    hardware = load_hardware("gcp-t4-24c")
    amounts = {k: Amount(value=v, source="made up for this test") for k, v in channels.items()}
    return hardware.model_copy(update={"channels": amounts})


def results(name, engine="compiled", **channels):
    scenario = Question(
        "mixtral-8x7b", machine(**channels), "fixed-64", 4, engine=engine
    ).scenario()
    scenario = replace(scenario, model=scenario.model.with_layers(2))
    one = find_schedule(name).one_batch
    return run(scenario, find_schedule(name), {"N": 12, "mu": 12 if one else 4})


@pytest.mark.parametrize("name", ["cgopipe", "flexgen-cpu", "on-demand"])
def test_sharing_costs_time_and_room_enough_does_not(name):
    alone, room = results(name), results(name, cpu=1e13, gpu=1e13)
    tight = results(name, cpu=10e9)
    assert room.makespan_s == pytest.approx(alone.makespan_s)
    assert tight.makespan_s > 1.05 * alone.makespan_s
    assert tight.busy_s == pytest.approx(alone.busy_s)  # the same work


def test_few_cores_slow_down_what_computes_and_copies_on_them():
    alone, room, tight = (results("cgopipe", **c) for c in ({}, {"cores": 1e3}, {"cores": 0.3}))
    assert room.makespan_s == pytest.approx(alone.makespan_s)
    assert tight.makespan_s > 1.05 * alone.makespan_s
    assert tight.busy_s == pytest.approx(alone.busy_s)


@pytest.mark.parametrize("name", ["cgopipe", "on-demand"])
def test_both_engines_share_alike(name):
    fast, reference = (
        results(name, engine, cpu=25e9, gpu=200e9) for engine in ("compiled", "simpy")
    )
    assert fast.makespan_s == pytest.approx(reference.makespan_s, rel=1e-9)
    np.testing.assert_allclose(fast.step_s, reference.step_s, rtol=1e-9)
