"""Fiddler's amounts: bytes moved, memory, seconds; worked out by hand."""

import pytest

from schedules.expert import Fiddler
from sim import simulate
from sim.hardware import load_hardware

EXPERT = 2 * 3 * 4_096 * 14_336  # bytes of one of Mixtral's


def build(lab, n=3, **changes):
    """Experts 0 and 1 of both layers stay; the CPU computes all others."""
    options = {"experts_on_gpu": 4 / 16, "prompts": (1,)}
    return lab.build(Fiddler, n, mu=n, **options | changes)


def test_bytes(lab):
    """One token, nothing stays: its 4096 elements go and come; 20 B of ids and weights go, too."""
    graph = lab.decode(build(lab, 1, experts_on_gpu=0.0))
    away = {"d2h_pageable": 2 * (8_192 + 20), "h2d_pageable": 2 * 8_192}
    assert lab.moved(graph) == away
    pinned = lab.decode(build(lab, 1, experts_on_gpu=0.0, pinned=True))
    assert lab.moved(pinned) == {"d2h": away["d2h_pageable"], "h2d": away["h2d_pageable"]}


def test_a_token_travels_once_however_many_of_its_experts_the_cpu_has(lab):
    """Three tokens, six choices of two experts: three hidden states."""
    graph = lab.decode(build(lab, 3, experts_on_gpu=0.0))
    assert lab.sizes(graph, "send_tokens") == [3 * (8_192 + 20)] * 2


def test_memory_peaks(lab):
    """Two layers of Mixtral; 4 prompts of 100 tokens, 8 generated.

    Kept: attention, router and norms, embedding and head; the workspace of a loop over experts;
    the cache; hidden states of decode, ids and weights; of 400 tokens the sums of both devices;
    four popular experts and the placeholder. On the host: all experts, and what goes and comes.
    """
    peaks = build(lab, 4, prompts=(100,), gen_len=8).node.issuer.peak_bytes
    resident = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)
    workspace = 400 * (3 * 14_336 + 4_096) * 2 + 2 * 400 * 8_192
    small = 4 * 8_192 + 400 * 2 * (8 + 2) + 2 * 4 * 108 * 4_096
    assert peaks["gpu"] == resident + workspace + small + 2 * 400 * 8_192 + (4 + 1) * EXPERT
    assert peaks["cpu"] == 2 * 8 * EXPERT + 400 * (8_192 + 20) + 400 * 8_192
    assert peaks["pinned"] == 0


def on_t4(n, policy):
    """Mixtral, seven decode steps."""
    question = ("fiddler", "mixtral-8x7b", "gcp-t4-24c", "mtbench")
    return simulate(*question, gen_len=8, batch=n, micro_batch=n, policy=policy)


def test_seconds_of_a_step():
    """Mixtral on the T4, one sequence, nothing kept: 32 layers, two experts on the CPU.

    An expert's 352.3e6 B at 40 GB/s take 8.81 ms, its three matrices a fork of 38 us each: 17.8 ms
    a layer. The GPU's attention and gate read 84e6 B at 220 GB/s, 0.38 ms, and launch 16 kernels
    of 3 us; the thread issues the 20 of a layer in 15 us each, after the wait for the layer before.
    """
    result = on_t4(1, {"experts_on_gpu": 0.0})
    cpu = 2 * (EXPERT / 40e9 + 3 * 38e-6)
    gpu = 84e6 / 220e9 + 16 * 3e-6
    by_hand = 32 * (cpu + gpu + 20 * 15e-6)
    assert result.decode_s / 7 == pytest.approx(by_hand, rel=0.02)


def test_seconds_of_a_step_of_switch():
    """Switch-Base-128 on the A100 machine, one sequence, nothing kept: six pairs of layers.

    In a pair the thread launches 38 times in 10 us each: twice attention (12), a dense FFN (5), the
    gate (4), two copies, an expert's two matrices and the sum. It waits for the gate and for the
    CPU, 15 us each and what is left of their work: 17 us of attention and gate, and an expert's
    18.87e6 B at 130 GB/s and two forks of 38 us.
    """
    pair = 38 * 10e-6 + 2 * 15e-6 + 17e-6 + 18_874_368 / 130e9 + 2 * 38e-6
    question = ("fiddler", "switch-base-128", "a100-80g-epyc64", "mtbench")
    policy = {"experts_on_gpu": 0.0}
    result = simulate(*question, gen_len=8, batch=1, micro_batch=1, policy=policy)
    assert result.decode_s / 8 == pytest.approx(6 * pair, rel=0.05)


def test_tokens_go_where_it_is_cheaper():
    """On the T4, 137 tokens of an expert cost as much on the CPU as its copy (see the class)."""
    t4 = load_hardware("gcp-t4-24c")
    flops, link = t4.compute_rate("cpu", "experts", "float16"), t4.link_rate("h2d_pageable")
    assert round(2 * flops.sustained / (2 * link.sustained)) == 137

    def decode(limit):
        return on_t4(4, {"experts_on_gpu": 0.0, "cpu_tokens": limit}).decode_s

    assert decode(9) < decode(0) / 3  # few tokens: to the CPU
