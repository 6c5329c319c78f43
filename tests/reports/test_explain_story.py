"""The sentences of an explanation follow from its numbers."""

from typing import get_args

import pytest

from reports.explain_story import (
    BY_DIFFERENCES,
    CHANNELS,
    NAMES,
    because,
    in_words,
    shared,
    story,
)
from sim.hardware_parts import Channel
from sim.resources import CALLS, ISSUE, ISSUE_TASK, LIMITS, SYNC
from tests.reports.explanations import (
    bound_row,
    explanation,
    idle_row,
    lost_row,
    phase_row,
    resource_row,
)


def test_a_bottleneck_another_resource_a_bound_and_the_busiest_stream():
    assert story(explanation()) == [
        "toy generates 12.5 tokens/s. The bottleneck is the link to the GPU (links.h2d): 80 % of "
        "the time is due to it; 10 % faster, the throughput rises by 7.0 %, 10 % slower, it falls "
        "by 8.0 %.",
        "20 % of the time is due to the GPU's arithmetic in the experts "
        "(gpu.compute.float16.experts): 10 % faster only +0.1 %, as the CPU thread that copies "
        "weights into pinned memory binds as well (both +2.5 %), 10 % slower -2.0 %.",
        "No order of the same tasks takes less than 80.0 s, the work of stream h2d; this one takes "
        "1.25× that.",
        "The busiest stream, h2d, is idle 20 % of the time, mostly waiting for compute on gpu.",
    ]


def test_two_resources_that_bind_together():
    rows = [
        resource_row("links.h2d", 80.0, 0.001, -0.05, "links.pin"),
        resource_row("links.pin", 20.0, 0.0, -0.05, "links.h2d"),
    ]
    found = explanation(sensitivities=rows, bottleneck=["links.h2d", "links.pin"])
    assert story(found)[0] == (
        "toy generates 12.5 tokens/s. Two resources bind together: the link to the GPU "
        "(links.h2d) and the CPU thread that copies weights into pinned memory (links.pin). 80 % "
        "of the time is due to the first; 10 % faster alone, the throughput rises by 0.1 % only, "
        "both 10 % faster, by 2.5 %; with the first 10 % slower, it falls by 5.0 %."
    )
    assert not any("20 % of the time is due" in sentence for sentence in story(found))


def test_phases_are_told_where_they_differ():
    phases = [phase_row("prefill", 25.0, "links.disk"), phase_row("decode", 75.0, "links.h2d")]
    assert story(explanation(phases=phases))[1] == (
        "Prefill (25 % of the time) is bound by the disk, 90 % of it; decode (75 % of the time) is "
        "bound by the link to the GPU, 90 % of it."
    )
    assert len(story(explanation(phases=phases))) == len(story(explanation())) + 1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("chain", "Tasks that depend on one another alone take 90.0 s"),
        ("issued chain", "Dependencies, issuing in this order and its waits alone take 90.0 s"),
    ],
)
def test_a_chain_that_is_longer_than_the_work(kind, words):
    bounds = [bound_row(kind, "dependencies", 90.0), bound_row("stream", "h2d", 80.0)]
    sentences = story(explanation(bounds=bounds))
    assert any(s.startswith(words) and "the run takes 1.11× that" in s for s in sentences)
    assert any("No order of the same tasks takes less than 80.0 s" in s for s in sentences)


def test_a_stream_that_is_hardly_idle_is_not_spoken_of():
    idle = [idle_row("h2d", "end", 3.0), idle_row("gpu", "end", 60.0)]
    assert not any("idle" in sentence for sentence in story(explanation(idle=idle)))
    nobody = explanation(idle=idle, slack=[])
    assert not any("idle" in sentence for sentence in story(nobody))


@pytest.mark.parametrize(
    ("cause", "op", "words"),
    [
        ("dependency", "load", "waiting for load on h2d"),
        ("thread", "load", "as tasks were not issued, the thread held by load on h2d"),
        ("issuing", None, "as issuing takes its time"),
        ("first", None, "before the first task"),
        ("first", "load", "before the first task, waiting for load on h2d"),
        ("end", None, "with nothing left to do"),
    ],
)
def test_causes(cause, op, words):
    assert because({"cause": cause, "op": op, "on": "h2d"}) == words


def test_what_is_lost_to_sharing_and_how_shares_were_found():
    lost = [lost_row("cpu", "load", "h2d", 9.0), lost_row("cpu", "pin", "cpu", 1.0)]
    little = lost_row("gpu1", "load", "h2d", 4.0)
    found = story(explanation(sharing=[*lost, little], method="differences"))
    assert found[1] == (
        "Of the critical path 10 % is lost to sharing the host's DRAM (channel cpu): 10.0 s, most "
        "of them by load on h2d."
    )
    assert BY_DIFFERENCES in found
    assert len(found) == len(story(explanation())) + 2


@pytest.mark.parametrize(
    ("channel", "words"),
    [
        ("cores", "the host's cores"),
        ("queue", "waiting for host memory"),
        ("host_link", "the path between host and GPUs"),
        ("gpu", "the GPU's memory"),
        ("gpu1", "the memory of GPU 1"),
    ],
)
def test_channels_in_words(channel, words):
    assert shared(channel) == words


def test_every_resource_has_a_name():
    resources = {*LIMITS.values(), *CALLS.values(), ISSUE, ISSUE_TASK, SYNC, "peer_call_s"}
    channels = {f"channels.{name}" for name in get_args(Channel)}
    assert {*resources, *channels, "emulated.copy_rate"} == set(NAMES)
    assert set(CHANNELS) == set(get_args(Channel)) - {"gpu"}
    assert in_words("cpu.compute.float32.gemm") == "the CPU's arithmetic in dense layers"
