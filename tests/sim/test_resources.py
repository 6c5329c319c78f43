"""What a task's seconds are due to, by hand."""

import numpy as np
import pytest

from schedules.graph import RecordingIssuer
from schedules.task import Work
from sim.bounds import resource_s
from sim.cost import Roofline, price
from sim.hardware_model import Hardware
from sim.resources import add, alike
from tests.strategies import toy_hardware

ALL = np.array([0])


def phases(work, last=None, gpus=1):
    """One task; a generation of five steps in which it becomes `last`."""
    graphs = []
    for one in (work, last or work):
        issuer = RecordingIssuer(["host", "gpu"], {})
        issuer.task("task", "gpu", work=one)
        issuer.barrier()
        graphs.append(issuer.take())
    return alike(*graphs, (1, 5), Roofline(toy_hardware(gpus), gpus))


def test_arithmetic_by_kernel_class():
    """gemm 1000, experts 500 flop/s: 2 s and 4 s; the memory would take 5 s."""
    work = Work(device="gpu", flops={"gemm": 2000, "experts": 2000}, bytes={"gpu": 500}, calls=3)
    assert phases(work).due_to(1, ALL) == {
        "gpu.compute.float16.gemm": 2,
        "gpu.compute.float16.experts": 4,
        "gpu.call_s": 1.5,
    }


def test_the_memory_where_it_is_slower_and_arithmetic_where_both_are_as_slow():
    slow = Work(device="gpu", flops={"gemm": 2000}, bytes={"gpu": 300})
    assert phases(slow).due_to(1, ALL) == {"gpu.memory_bandwidth": 3}
    tie = Work(device="gpu", flops={"gemm": 3000}, bytes={"gpu": 300})
    assert phases(tie).due_to(1, ALL) == {"gpu.compute.float16.gemm": 3}


def test_what_binds_can_change_from_step_to_step():
    """1 s of arithmetic; the memory takes 0.5 s in step 1, 2.5 s in step 5."""
    first = Work(device="gpu", flops={"gemm": 1000}, bytes={"gpu": 50})
    last = Work(device="gpu", flops={"gemm": 1000}, bytes={"gpu": 250})
    found = phases(first, last)
    assert found.due_to(1, ALL) == {"gpu.compute.float16.gemm": 1}
    assert found.due_to(3, ALL) == {"gpu.memory_bandwidth": 1.5}
    assert found.due_to(5, ALL) == {"gpu.memory_bandwidth": 2.5}


@pytest.mark.parametrize(
    ("work", "gpus", "due"),
    [
        (
            Work(device="link", link_bytes={"pin": 16}, calls=2),
            1,
            {"links.pin": 2, "link_call_s": 0.25},
        ),
        (
            Work(device="cpu", bytes={"cpu": 40}, calls=1, share=0.5),
            1,
            {"cpu.memory_bandwidth": 2, "cpu.call_s": 0.25},
        ),
        (
            Work(device="link", link_bytes={"peer": 40}, calls=1),
            2,
            {"links.peer": 2, "link_call_s": 0.125},
        ),
        (Work(device="host", calls=1), 1, {"host.ffn_s": 0.00032}),
        (Work(), 1, {}),
    ],
)
def test_links_memories_and_calls(work, gpus, due):
    assert phases(work, gpus=gpus).due_to(1, ALL) == pytest.approx(due)


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        ("gpu.compute.float16.gemm", None),
        ("gpu.compute.float16.experts", None),
        ("gpu.memory_bandwidth", None),
        ("links.h2d", None),
        ("gpu.call_s", 0.5),
        ("host.issue_s", 0.5),
        ("host.sync_s", 0.5),
    ],
)
def test_a_resource_twice_as_fast_is_that_of_a_machine_that_has_it(resource, path):
    work = Work(
        device="gpu",
        flops={"gemm": 2000, "experts": 2000},
        bytes={"gpu": 590},
        link_bytes={"h2d": 57},
        calls=3,
    )
    found = phases(work)
    steps, sync_s = found.with_rates([resource], 2)
    cost = Roofline(toy_hardware().with_rate(resource, path or 2))
    seconds, issue_s = price(found.steps.graph, cost)
    assert steps.duration_s(1) == pytest.approx(seconds, rel=1e-12)
    assert (steps.issue_s == issue_s).all()
    assert sync_s == cost.sync_s


def changed(part: str, **values):
    """The toy machine with some values of a part of it."""
    plain = toy_hardware().model_dump()
    return Hardware.model_validate({**plain, part: {**plain[part], **values}})


def alone(work, hardware, stream="gpu"):
    issuer = RecordingIssuer(["host", stream], {})
    issuer.task("task", stream, work=work)
    issuer.barrier()
    graph = issuer.take()
    return alike(graph, graph, (0, 0), Roofline(hardware))


def test_a_memory_that_does_not_overlap_adds_up():
    """2 s of arithmetic and 5 s of bytes, one after the other; half of it counts."""
    apart = {"value": False, "source": "made up for tests"}
    work = Work(device="gpu", flops={"gemm": 2000}, bytes={"gpu": 500}, calls=2)
    found = alone(work, changed("gpu", overlaps=apart))
    due = {"gpu.compute.float16.gemm": 2, "gpu.memory_bandwidth": 5, "gpu.call_s": 1}
    assert found.steps.duration_s(0).tolist() == [8]
    assert found.due_to(0, ALL) == due
    assert found.due_to(0, ALL, np.array([0.5])) == {name: s / 2 for name, s in due.items()}
    assert found.with_rates(["gpu.memory_bandwidth"], 2)[0].duration_s(0).tolist() == [5.5]
    assert resource_s(found, 0) == {"gpu.compute": 2, "gpu.memory_bandwidth": 5}


def test_issuing_by_kernel_or_by_task():
    work = Work(device="gpu", calls=3)
    each = alone(work, changed("host", task_s={"value": 0.5, "source": "made up for tests"}))
    assert (alone(work, toy_hardware()).issuing, each.issuing) == ("host.issue_s", "host.task_s")
    assert each.with_rates(["host.task_s"], 2)[0].issue_s.tolist() == [0.25]
    assert "host.task_s" in each.names()


def test_where_tasks_share_channels_demands_follow_the_rates():
    """60 bytes in 6 s over a channel of 45; twice as fast a link demands twice as much."""
    work = Work(device="link", bytes={"cpu": 60}, link_bytes={"h2d": 60})
    found = alone(work, changed("channels", cpu={"value": 45, "source": "made up for tests"}))
    assert found.channels() == {"channels.cpu"}
    assert found.names() >= {"channels.cpu", "links.h2d"}
    faster, _ = found.with_rates(["links.h2d"], 2)
    assert faster.sharing(0).demand.tolist() == [[20]]
    wider, _ = found.with_rates(["channels.cpu", "links.h2d"], 2)
    assert (wider.sharing(0).capacity.tolist(), wider.duration_s(0).tolist()) == ([90], [3])


def test_adding():
    total = {"a": 1.0}
    add(total, {"a": 2.0, "b": 0.5})
    assert total == {"a": 3.0, "b": 0.5}
