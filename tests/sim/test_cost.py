"""The roofline by hand, on a machine with round numbers, and its properties.

The toy machine (tests/strategies.py): GPU 1000, 500, 250 flops/s for gemm, experts, attention in
float16, 100 bytes/s; CPU 40 bytes/s; h2d 10, d2h 5, pin 8 bytes/s; 0.5, 0.25 and 0.125 s a call.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.graph import RecordingIssuer
from schedules.task import KERNELS, NOTHING, Work
from sim.cost import Roofline, price
from sim.hardware import Amount, Flag, Rate
from sim.hardware_parts import Emulated
from tests.strategies import toy_hardware

COST = Roofline(toy_hardware())


def gpu(**amounts) -> Work:
    return Work(device="gpu", **amounts)


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (gpu(flops={"gemm": 2000}, bytes={"gpu": 100}), 2),  # compute: 2 s, memory 1 s
        (gpu(flops={"gemm": 1000}, bytes={"gpu": 300}), 3),  # memory
        (gpu(flops={"gemm": 1000, "experts": 500, "attention": 250}), 3),  # one after the other
        (gpu(flops={"gemm": 1000}, calls=4), 1 + 4 * 0.5),
        (gpu(flops={"gemm": 1000}, dtype="float32"), 2),
        (gpu(bytes={"gpu": 100, "cpu": 80}), 2),  # the slower of two memories
        (Work(device="cpu", flops={"gemm": 100}, bytes={"cpu": 20}), 1),
        (Work(device="cpu", flops={"attention": 250}, bytes={"cpu": 80}, calls=2), 2 + 2 * 0.25),
        (NOTHING, 0),
    ],
)
def test_compute_or_memory_by_hand(work, seconds):
    assert COST.seconds(work) == seconds


@pytest.mark.parametrize(
    ("link", "seconds"), [("h2d", 8), ("d2h", 16), ("h2d_pageable", 20), ("disk", 80)]
)
def test_a_copy_takes_as_long_as_its_link(link, seconds):
    """80 bytes, of which the memories are 0.8 and 2 s; and one call of 0.125 s."""
    work = Work(device="link", bytes={"gpu": 80, "cpu": 80}, link_bytes={link: 80}, calls=1)
    assert COST.seconds(work) == seconds + 0.125


def test_a_copy_can_be_limited_by_a_memory():
    """80 bytes at 16 bytes/s; each is read and written at 40 bytes/s, or three times as often."""
    work = Work(device="link", bytes={"cpu": 2 * 80}, link_bytes={"pin_parallel": 80})
    assert COST.seconds(work) == 80 / 16  # 5 s; memory 4 s
    slow = Work(device="link", bytes={"cpu": 6 * 80}, link_bytes={"pin_parallel": 80})
    assert COST.seconds(slow) == 480 / 40


def test_a_disk_is_reached_only_over_its_link():
    work = Work(device="link", bytes={"disk": 10, "cpu": 10}, link_bytes={"disk": 10})
    assert COST.seconds(work) == 10


def test_a_share_of_a_device_is_that_much_slower():
    """Half of the cores: half of the flops and half of the bandwidth, but the same calls."""
    amounts = {"device": "cpu", "calls": 1}
    for limit in ({"flops": {"gemm": 100}}, {"bytes": {"cpu": 40}}):
        assert COST.seconds(Work(**amounts, **limit)) == 1 + 0.25
        assert COST.seconds(Work(**amounts, **limit, share=0.5)) == 2 + 0.25


def test_gpus_behind_one_host_link_share_it():
    work = {link: Work(device="link", link_bytes={link: 40}) for link in ("h2d", "d2h", "pin")}
    work["h2d_pageable"] = Work(device="link", link_bytes={"h2d_pageable": 40})
    work["peer"] = Work(device="link", link_bytes={"peer": 40})
    alone = {"h2d": 4, "d2h": 8, "h2d_pageable": 10, "pin": 5, "peer": 2}
    shared = {"h2d": 8, "d2h": 16, "h2d_pageable": 20, "pin": 5, "peer": 2}
    for behind_one, gpus, expected in ((True, 2, shared), (True, 1, alone), (False, 2, alone)):
        cost = Roofline(toy_hardware(2, shared_host_link=behind_one), gpus)
        assert {link: cost.seconds(w) for link, w in work.items()} == expected


def test_a_message_may_cost_more_than_a_copy_call():
    """40 bytes at 20 bytes/s and one call: of 0.125 s, or 3 s over a network; a copy pays 0.125."""
    near = toy_hardware(2)
    network = Amount(value=3.0, source="made up for tests")
    far = near.model_copy(update={"peer_call_s": network})
    works = [Work(device="link", link_bytes={link: 40}, calls=1) for link in ("peer", "h2d")]
    assert [Roofline(near, 2).seconds(work) for work in works] == [2.125, 4.125]
    assert [Roofline(far, 2).seconds(work) for work in works] == [5.0, 4.125]


def test_issuing_is_paid_for_each_call():
    assert COST.issue_seconds(gpu(calls=7)) == 7 * 0.0625
    assert COST.issue_seconds(NOTHING) == 0
    assert COST.sync_s == 0.03125


SAID = "made up for tests"


def adding_up(*devices):
    """The toy machine, of which these devices do not compute while their bytes come."""
    toy = toy_hardware()
    flag = Flag(value=False, source=SAID)
    units = {name: getattr(toy, name).model_copy(update={"overlaps": flag}) for name in devices}
    return Roofline(toy.model_copy(update=units))


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (gpu(flops={"gemm": 2000}, bytes={"gpu": 100}), 2 + 1),
        (gpu(flops={"gemm": 2000}, bytes={"gpu": 100}, calls=2), 2 + 1 + 2 * 0.5),
        (gpu(bytes={"gpu": 100, "cpu": 80}), 2),  # the CPU's memory still works meanwhile
        (Work(device="cpu", flops={"gemm": 100}, bytes={"cpu": 20}), 1),  # the CPU overlaps
        (Work(device="link", bytes={"gpu": 800}, link_bytes={"h2d": 80}), 8),  # h2d's rate says
    ],
)
def test_where_a_gpu_does_not_overlap_computation_and_memory_add_up(work, seconds):
    assert adding_up("gpu").seconds(work) == seconds


def test_a_cpu_that_adds_up_with_half_of_its_cores():
    work = Work(device="cpu", flops={"gemm": 100}, bytes={"cpu": 20})
    assert adding_up("cpu").seconds(work) == 1 + 0.5
    assert adding_up("cpu").seconds(work.model_copy(update={"share": 0.5})) == 2 + 1


def test_where_workers_launch_kernels_each_task_costs_the_issuer_the_same():
    toy = toy_hardware()
    host = toy.host.model_copy(update={"task_s": Amount(value=0.75, source=SAID)})
    cost = Roofline(toy.model_copy(update={"host": host}))
    host_task = Work(device="host", calls=1)
    assert [cost.issue_seconds(w) for w in (gpu(calls=7), NOTHING, host_task)] == [0.75] * 3
    assert [COST.issue_seconds(w) for w in (gpu(calls=7), NOTHING, host_task)] == [0.4375, 0, 0]


def emulated(gpu_threads=1, cpu_threads=2):
    """The toy machine with threads in the place of its GPU; one copies 4 bytes/s."""
    parts = Emulated(
        gpu_threads=gpu_threads,
        cpu_threads=cpu_threads,
        copy_rate=Rate(peak=4.0, sustained=4.0, source=SAID),
    )
    return Roofline(toy_hardware().model_copy(update={"emulated": parts}))


H2D = Work(device="link", bytes={"gpu": 20, "cpu": 20}, link_bytes={"h2d": 20}, calls=1)
PIN = Work(device="link", bytes={"cpu": 16}, link_bytes={"pin": 16})
PIN_ALL = Work(device="link", bytes={"cpu": 16}, link_bytes={"pin_parallel": 16})
KERNEL = gpu(flops={"gemm": 2000}, bytes={"gpu": 30}, calls=2)  # 2 s, and 1 s of calls
ATTENTION = Work(device="cpu", flops={"attention": 250}, bytes={"cpu": 80}, calls=2)  # 2.5 s


@pytest.mark.parametrize(
    ("work", "alone", "with_emulation"),
    [
        (H2D, 0, 20 / 4),  # DMA, or a thread that copies
        (PIN, 16 / 8, 16 / 4),  # one thread
        (PIN_ALL, 4 * 16 / 16, 16 / 4),  # all four cores
        (KERNEL, 0, 3 * 3),  # three threads for 3 s
        (ATTENTION, 4 * 2.5, 2 * 2.5),  # four cores, or two threads
        (ATTENTION.model_copy(update={"share": 0.5}), 4 * 0.5 * 4.5, 2 * 0.5 * 4.5),
        (NOTHING, 0, 0),
    ],
)
def test_seconds_of_threads_by_hand(work, alone, with_emulation):
    assert COST.moved(work, "cores") == alone
    assert emulated(gpu_threads=3).moved(work, "cores") == with_emulation


def test_memory_of_an_emulated_gpu_is_that_of_the_host():
    assert [COST.moved(w, "cpu") for w in (H2D, KERNEL, ATTENTION)] == [20, 0, 80]
    assert [emulated().moved(w, "cpu") for w in (H2D, KERNEL, ATTENTION)] == [40, 30, 80]
    assert COST.moved(H2D, "host_link") == emulated().moved(H2D, "host_link") == 20


def with_queue(places):
    """The toy machine with threads in the place of its GPU, and so many places at the memory."""
    hardware, channels = emulated().hardware, {"queue": Amount(value=places, source=SAID)}
    return Roofline(hardware.model_copy(update={"channels": channels}))


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (H2D, 20 / 4),  # a thread that copies
        (PIN, 16 / 4),
        (KERNEL, 2 * 3),  # two places for 3 s
        (ATTENTION, 80 / 40),  # while it reads
        (ATTENTION.model_copy(update={"share": 0.5}), 80 / 20),
        (NOTHING, 0),
    ],
)
def test_seconds_of_places_at_the_memory(work, seconds):
    assert with_queue(2.0).moved(work, "queue") == pytest.approx(seconds)
    assert COST.moved(work, "queue") == 0  # a GPU has a memory of its own


def test_prices_of_a_graph():
    issuer = RecordingIssuer(("h2d", "gpu"), {})
    copy = Work(device="link", link_bytes={"h2d": 20}, calls=1)
    compute = gpu(flops={"gemm": 3000}, calls=2)
    for work, stream in ((copy, "h2d"), (compute, "gpu"), (copy, "h2d"), (NOTHING, "gpu")):
        issuer.task("a", stream, work=work)
    issuer.barrier()
    seconds, issue_s = price(issuer.take(), COST)
    assert seconds.tolist() == [2.125, 4, 2.125, 0]
    assert issue_s.tolist() == [0.0625, 0.125, 0.0625, 0]
    assert (seconds.dtype, issue_s.dtype) == (np.float64, np.float64)


def test_prices_of_an_empty_graph():
    issuer = RecordingIssuer(("gpu",), {})
    issuer.barrier()
    seconds, issue_s = price(issuer.take(), COST)
    assert seconds.shape == issue_s.shape == (0,)


# -- what there is no rate for ---------------------------------------------------------------------


def test_unknown_hardware_is_refused_and_not_guessed():
    with pytest.raises(BadInput, match=r"toy GPU has no rates for bfloat16, only for float16 and"):
        COST.seconds(gpu(flops={"gemm": 1}, dtype="bfloat16"))
    with pytest.raises(BadInput, match=r"no kernel class 'gem', did you mean 'gemm'"):
        COST.seconds(gpu(flops={"gem": 1}))
    with pytest.raises(BadInput, match=r"toy has no link 'h2b', did you mean"):
        COST.seconds(Work(device="link", link_bytes={"h2b": 1}))
    with pytest.raises(BadInput, match="toy has no link 'peer'"):
        COST.link_rate("peer")
    with pytest.raises(BadInput, match="no device 'link'"):
        COST.seconds(Work(device="link", flops={"gemm": 1}))


# -- properties ------------------------------------------------------------------------------------

amounts = st.floats(0, 1e6, allow_nan=False)
works = st.builds(
    Work,
    device=st.just("gpu"),
    flops=st.dictionaries(st.sampled_from(KERNELS), amounts),
    bytes=st.dictionaries(st.sampled_from(["gpu", "cpu"]), amounts),
    link_bytes=st.dictionaries(st.sampled_from(["h2d", "d2h"]), amounts),
    calls=st.integers(0, 100),
)
EXACT = 1 + 1e-12


@given(works, works)
def test_two_works_as_one_task_take_no_longer_than_as_two_and_no_less_than_each(one, two):
    both = COST.seconds(one + two)
    assert both <= (COST.seconds(one) + COST.seconds(two)) * EXACT
    assert both * EXACT >= max(COST.seconds(one), COST.seconds(two))


@given(works, st.integers(1, 5))
def test_n_times_the_work_takes_n_times_as_long(work, n):
    total = sum([work] * (n - 1), start=work)
    assert COST.seconds(total) == pytest.approx(n * COST.seconds(work))


@given(works)
def test_a_task_is_never_faster_than_the_hardware(work):
    """Every resource's own time is a lower bound."""
    seconds = COST.seconds(work) * EXACT
    rates = {"gemm": 1000, "experts": 500, "attention": 250}
    assert seconds >= sum(flops / rates[kernel] for kernel, flops in work.flops.items())
    assert seconds >= work.bytes.get("gpu", 0) / 100
    assert seconds >= work.bytes.get("cpu", 0) / 40
    assert seconds >= work.link_bytes.get("h2d", 0) / 10
    assert seconds >= work.link_bytes.get("d2h", 0) / 5
    assert seconds >= work.calls * 0.5
