"""What an SSD tier reads, and the memory that it takes: worked out by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest

from schedules.batch.cgopipe import CGOPipe
from schedules.batch.flexgen import FlexGen
from schedules.batch.zero_inference import ZeROInference
from schedules.errors import Infeasible
from schedules.expert import Fiddler, KTransformers, OnDemand, PrefetchAll
from schedules.expert.hobbit import HOBBIT
from schedules.policy import make_policy
from sim.scenario import place
from tests.schedules.expert.test_on_demand import ONE
from tests.schedules.ssd_runs import build, scenario

EXPERT = 2 * 3 * 4_096 * 14_336  # bytes of one of Mixtral's
LAYER = 8 * EXPERT


# -- amounts ---------------------------------------------------------------------------------------


def test_what_is_read_is_what_is_copied(lab):
    """Two layers of eight experts: from the disk to staging, and on."""
    graph = lab.decode(build(CGOPipe, "overlapped", pinned=True))
    assert lab.sizes(graph, "read_weights") == lab.sizes(graph, "load_weights") == [LAYER / 2] * 4
    assert lab.moved(graph)["disk"] == 2 * LAYER


def test_fewer_bits_are_read_too(lab):
    """int8 with a float16 scale for each 128 elements: 130 of 256 bytes."""
    where = {"routing": ONE, "experts": "int8", "group": 128}
    graph = lab.decode(build(OnDemand, "serial", n=1, where=where))
    assert lab.sizes(graph, "read_weights") == [EXPERT * 130 / 256] * 4


def test_the_cpu_s_experts_are_read_one_by_one(lab):
    """Fiddler: two experts in each of two layers; activations are not on the disk."""
    schedule = build(Fiddler, "serial", n=1, where={"routing": ONE}, experts_on_gpu=0.0)
    graph = lab.decode(schedule)
    assert lab.sizes(graph, "read_weights", "disk") == pytest.approx([EXPERT] * 4, rel=1e-12)


@pytest.mark.parametrize("bits", [{}, {"experts": "int4"}])
def test_the_cpu_s_experts_are_those_that_the_routing_expects(lab, bits):
    """KTransformers: of 5 tokens with two of eight experts each, 8 x (1 - (3/4)^5) a layer."""
    schedule = build(KTransformers, "overlapped", n=5, mu=5, where=bits)
    graph, one = lab.decode(schedule), schedule.node.work.expert_bytes(schedule.moe_layers[0]) / 8
    expected = 8 * (1 - 0.75**5) * one
    assert lab.sizes(graph, "read_weights") == pytest.approx([expected] * 2, rel=1e-9)


def test_what_the_cpu_computes_is_read_when_it_has_been_named(lab):
    """KTransformers' thread runs ahead of the gates, the reads do not: each waits for the ids."""
    graph = lab.decode(build(KTransformers, "overlapped", n=5, mu=5))
    names = [graph.ops[op] for op in graph.op]
    reads = [i for i, name in enumerate(names) if name == "read_weights"]
    assert len(reads) == 2
    for read in reads:
        assert "send_tokens" in [names[i] for i in graph.dependencies_of(read)]


def test_a_disk_reads_one_piece_at_a_time_for_all_gpus(lab):
    """ZeRO on two GPUs, each copies half of a layer: their serial reads take turns."""
    graph = lab.decode(build(ZeROInference, "serial", mu=2, where={"gpus": 2}))
    reads = [i for i in range(len(graph)) if graph.ops[graph.op[i]] == "read_weights"]
    streams = [graph.streams[graph.stream[i]] for i in reads]
    assert streams == ["h2d0", "h2d1"] * (len(reads) // 2)
    for before, after in pairwise(reads):
        assert before in graph.dependencies_of(after)


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ssd", "slots"), [("serial", 1), ("overlapped", 2)])
def test_host_memory_holds_staging_instead_of_weights(ssd, slots):
    """On-demand takes one expert at a time; CGOPipe a whole layer in prefill."""
    for kind, piece in ((OnDemand, EXPERT), (CGOPipe, LAYER)):
        plain, tiered = (
            build(kind, mode, n=2, mu=2, pinned=True).node.issuer for mode in (None, ssd)
        )
        moved = slots * piece - 2 * LAYER
        for pool in ("cpu", "pinned"):
            assert tiered.peak_bytes[pool] - plain.peak_bytes[pool] == moved
        assert (plain.peak_bytes["disk"], tiered.peak_bytes["disk"]) == (0, 2 * LAYER)
        assert tiered.peak_bytes["gpu"] == plain.peak_bytes["gpu"]


def test_pageable_weights_have_pageable_staging():
    peaks = build(OnDemand, "overlapped", n=1, pinned=False).node.issuer.peak_bytes
    assert (peaks["cpu"], peaks["pinned"], peaks["disk"]) == (2 * EXPERT, 0, 2 * LAYER)


def test_each_gpu_s_process_has_staging_of_its_own():
    """Tensor parallelism: of a layer each reads its half. FlexGen's stages: their own tensors."""
    where = {"gpus": 2}
    halves = build(CGOPipe, "overlapped", mu=2, pinned=True, where=where).node.issuer
    whole = build(CGOPipe, None, mu=2, pinned=True, where=where).node.issuer
    staging = 2 * 2 * (LAYER // 2)
    assert halves.peak_bytes["pinned"] - whole.peak_bytes["pinned"] == staging - 2 * LAYER
    own = build(FlexGen, "serial", n=4, mu=2, pinned=True, where=where).node.issuer
    same = build(FlexGen, None, n=4, mu=2, pinned=True, where=where).node.issuer
    largest = LAYER * 2 // 3  # gate and up of all experts, beside the router and the norm
    growth = own.peak_bytes["cpu"] - same.peak_bytes["cpu"] + own.peak_bytes["disk"]
    assert growth == pytest.approx(2 * largest, rel=1e-3)


def test_experts_in_two_precisions_are_both_on_the_disk():
    """HOBBIT: a quarter of the bytes beside them, and a scale for each group."""
    peaks = build(HOBBIT, "serial", n=1).node.issuer.peak_bytes
    assert 1.25 * 2 * LAYER < peaks["disk"] < 1.3 * 2 * LAYER
    assert peaks["cpu"] == EXPERT


def test_the_kv_cache_stays_in_host_memory():
    plain, tiered = (build(CGOPipe, mode, r_w=1.0).node.issuer for mode in (None, "serial"))
    assert plain.peak_bytes == tiered.peak_bytes
    assert tiered.peak_bytes["disk"] == 0


@pytest.fixture
def small():
    """Five layers of Mixtral, whose experts are 14.1 GB, and 4 GB of host memory."""
    asked = scenario("overlapped", layers=5)
    share = 4e9 / asked.hardware.cpu.memory.value
    return replace(asked, hardware=asked.hardware.with_rate("cpu.memory", share))


def test_weights_that_host_memory_cannot_hold_run_from_the_disk(small):
    policy = make_policy({"N": 1, "mu": 1})
    with pytest.raises(Infeasible, match=r"pool 'cpu' is too small: 'host weights\[decoder 1\]'"):
        place(replace(small, modifiers=scenario(None).modifiers), OnDemand, policy)
    issuer = place(small, OnDemand, policy).node.issuer
    assert issuer.peak_bytes["disk"] == 5 * LAYER


def test_staging_must_fit(small):
    """Page-locked, where 2 GB can be: CGOPipe takes a layer at once, 2.8 GB, in prefill."""
    policy = make_policy({"N": 1, "mu": 1, "pinned": True})
    with pytest.raises(Infeasible, match=r"pool 'pinned' is too small: 'disk staging\[0,0\]'"):
        place(small, CGOPipe, policy)


def test_staging_grows_with_what_a_schedule_takes():
    """One that takes more at once than it says is not refused, and not for free."""

    class Hasty(PrefetchAll):
        host_pieces = "expert"

    schedule = build(Hasty, "overlapped", n=1)
    before = schedule.node.issuer.peak_bytes["cpu"]
    schedule.run_prefill()
    after = schedule.node.issuer.peak_bytes
    assert (before, after["cpu"], after["pinned"]) == (2 * EXPERT, 2 * LAYER, 2 * LAYER)
