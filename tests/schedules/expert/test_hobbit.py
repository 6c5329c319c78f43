"""HOBBIT: mixed precision, skipping and look-ahead; worked out by hand."""

from unittest.mock import patch

import numpy as np
import pytest

from schedules.errors import BadInput
from schedules.expert.hobbit import HOBBIT
from sim import simulate
from tests.schedules.expert.scripted import EXPERT, Scripted

OPS = {
    "a": "compute_attention",
    "g": "scored_gate",
    "s": "stacked_gate",  # of the layer that it names
    "x": "load_expert",
    "y": "load_packed_expert",
    "e": "mixed_experts",
    "f": "compute_ffn",
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"a": 2, "g": 1, "s": 1, "x": 4, "y": 1, "e": 1, "f": 1}
PACKED = EXPERT * 17 // 64  # half a byte and 1/32 of a float16 scale, where there were 2 bytes
PROMPT = {(0, 0): [[0, 1]], (0, 1): [[2, 3]]}  # what the caches hold after the prefill


def build(lab, first, second, scores=0.0, foreseen=None, **changes):
    """One token of prompt and of one step, two layers; `scores` is that of each second choice."""
    script = PROMPT | {(1, 0): [first], (1, 1): [second]}

    def scored(self, block, ids):
        return np.array([[0.0, scores if self.node.step else 0.0]])

    def named(rng, ids, n_experts, accuracy):
        return ids if foreseen is None or step() == 0 else np.array([foreseen])

    def step():
        return schedule.node.step

    routing = Scripted(script=script)
    schedule = lab.build(HOBBIT, 1, routing=routing, **{"prompts": (1,)} | changes)
    with (
        patch.object(HOBBIT, "scores", scored),
        patch("schedules.expert.hobbit.mistaken", named),
    ):
        return lab.decode(schedule), schedule


def test_prefill(lab):
    """Layer 1's experts come while layer 0 computes; the last layer has none to foresee."""
    routing = Scripted(script=PROMPT)
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19
        h2d | ... ... ... x0a --- --- --- x0a --- --- --- x1a --- --- --- x1a --- --- --- ...
        gpu | a0a --- g0a s1a ... ... ... ... ... ... ... e0a a1a --- g1a ... ... ... ... e1a
    """
    with patch.object(HOBBIT, "scores", lambda self, block, ids: np.zeros(ids.shape)):
        schedule = lab.build(HOBBIT, 1, routing=routing, prompts=(1,), accuracy=1.0)
        graph = lab.prefill(schedule)
    lab.check_order(graph, PREFILL, "a0a g0a s1a x0a x0a e0a x1a x1a a1a g1a e1a")
    lab.check(graph, PREFILL, SECONDS, picture)


def test_decode_step_in_mixed_precision(lab):
    """Expert 1 is there, 4 comes as it is; 6 matters less, and comes in 4 bits, foreseen."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11
        h2d | ... ... ... x0a --- --- --- y1a ... ... ... ...
        gpu | a0a --- g0a s1a ... ... ... e0a a1a --- g1a e1a
    """
    graph, schedule = build(lab, [4, 1], [3, 6], scores=0.8)
    lab.check_order(graph, OPS, "a0a g0a s1a x0a e0a y1a a1a g1a e1a")
    lab.check(graph, OPS, SECONDS, picture)
    assert lab.sizes(graph, "load_packed_expert") == [PACKED]
    facts = schedule.facts()
    assert facts["low_precision_share"] == 1 / 8  # of four choices in each of two passes
    assert facts["skipped_share"] == 0
    assert facts["wrong_prefetch_share"] == 0
    assert facts["hit_rate"] == 5 / 8  # but for 0 and 1 in the prefill, and 4


def test_a_wrong_prefetch_delays_the_right_one(lab):
    """5 was foreseen instead of 6: its copy cannot be cancelled, and 6 waits for the link."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12
        h2d | ... ... ... x0a --- --- --- x1a --- --- --- y1a ...
        gpu | a0a --- g0a s1a ... ... ... e0a a1a --- g1a ... e1a
    """
    graph, schedule = build(lab, [4, 1], [3, 6], scores=0.8, foreseen=[5, 3])
    lab.check(graph, OPS, SECONDS, picture)
    late = {"x": 6}
    bars, _ = lab.simulate(graph, OPS, SECONDS | late)
    assert [bar[1:3] for bar in bars if bar[3] == "y1a"] == [(15, 16)]  # the gate had ended at 13
    assert schedule.facts()["wrong_prefetch_share"] == 1 / 3  # two were right in the prefill


def test_an_expert_that_hardly_matters_is_skipped(lab):
    """The second choice of layer 1 is neither copied nor computed; that of layer 0 is there."""
    graph, schedule = build(lab, [4, 1], [3, 6], scores=0.95)
    lab.check_order(graph, OPS, "a0a g0a s1a x0a e0a a1a g1a e1a")
    assert schedule.facts()["skipped_share"] == 1 / 8
    work = schedule.node.work
    one = work.join(work.routed_experts(schedule.blocks[1], 1, (1,)), work.head(1))
    assert graph.works[graph.work[-1]] == one


def test_thresholds(lab):
    """Up to 0.6 as it is, up to 0.9 in 4 bits, beyond it not at all."""
    orders = {0.6: "x1a", 0.61: "y1a", 0.9: "y1a", 0.91: ""}
    for score, copy in orders.items():
        graph, _ = build(lab, [4, 1], [3, 6], scores=score)
        lab.check_order(graph, OPS, f"a0a g0a s1a x0a e0a {copy} a1a g1a e1a")


def test_experts_in_4_bits_are_written_out_first(lab):
    """3 x 4096 x 14336 parameters: of each half a byte and 1/32 for its scale are read, two are
    written; one kernel."""
    graph, schedule = build(lab, [4, 1], [3, 6], scores=0.8)
    work = schedule.node.work
    plain = work.join(work.routed_experts(schedule.blocks[1], 1, (1, 1)), work.head(1))
    found = graph.works[graph.work[-1]]
    assert found.bytes["gpu"] - plain.bytes["gpu"] == 2.53125 * 3 * 4_096 * 14_336
    assert found.calls - plain.calls == 1
    assert found.flops == plain.flops


def test_look_ahead_goes_on_where_nothing_is_missing(lab):
    """Two levels: layer 1's experts are there, so those of layer 2 come while layer 0 computes."""
    script = {
        **{(0, 0): [[0, 1]], (0, 1): [[2, 3]], (0, 2): [[4, 5]]},
        **{(1, 0): [[0, 1]], (1, 1): [[2, 3]], (1, 2): [[6, 7]]},
    }
    with patch.object(HOBBIT, "scores", lambda self, block, ids: np.zeros(ids.shape)):
        schedule = lab.build(
            HOBBIT,
            1,
            layers=3,
            routing=Scripted(script=script),
            prompts=(1,),
            level=2,
            accuracy=1.0,
            cache_ratio=0.25,
        )
        graph = lab.decode(schedule)
    lab.check_order(graph, OPS, "a0a g0a s1a s2a e0a x2a x2a a1a g1a s2a e1a a2a g2a e2a")


# -- amounts and memory ----------------------------------------------------------------------------

RESIDENT = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)


def test_memory_peaks(lab):
    """Four sequences can take all eight experts of two layers, so both caches hold all 16.

    One expert written out, and what on-demand needs too: see its test.
    """
    peaks = lab.build(HOBBIT, 4, mu=4, prompts=(100,)).node.issuer.peak_bytes
    workspace = 400 * (3 * 14_336 + 4_096) * 2 + 2 * 400 * 8_192
    small = 4 * 8_192 + 2 * 400 * 2 * (8 + 2) + 2 * 4 * 108 * 4_096
    assert peaks["gpu"] == RESIDENT + 17 * EXPERT + 16 * PACKED + workspace + small
    assert peaks["cpu"] == peaks["pinned"] == 16 * (EXPERT + PACKED)
    pageable = lab.build(HOBBIT, 4, mu=4, prompts=(100,), pinned=False).node.issuer.peak_bytes
    assert pageable == peaks | {"pinned": 0}


def test_4_bit_experts_that_cannot_be_page_locked_stay_pageable():
    """Mixtral's experts, 90.2 GB, are locked; with another 24.0 GB it would be more than 103."""
    result = simulate("hobbit", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 2, 1, 1)
    assert result.peak_memory_bytes["pinned"] == 32 * 8 * EXPERT
    assert result.peak_memory_bytes["cpu"] == 32 * 8 * (EXPERT + PACKED)


def test_a_token_of_mixtral_on_a_t4():
    """Links decide. A block brings its first choice (352 MB at 12.35 GB/s: 28.5 ms), in 1/3 of all
    cases the second as it is, in 5/9 of them in 4 bits (94 MB, pageable, at 5.83 GB/s: 16.1 ms):
    46.9 ms, 32 times. Hits save 3 %, wrong prefetches cost 4 % of it.
    """
    result = simulate("hobbit", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 1, 1)
    block_s = EXPERT / 12.35e9 * (1 + 1 / 3) + PACKED / 5.83e9 * 5 / 9
    assert result.decode_s / 7 == pytest.approx(32 * block_s, rel=0.1)


def test_a_token_of_switch_base_128_on_an_a100():
    """Six experts of 18.9 MB at 23.5 GB/s, 0.80 ms each, and 4 % of wrong ones: 5.0 ms. The first
    waits for its gate, behind some 35 kernels that take 10 us each to issue; experts and head
    follow the last: 0.4 ms.
    """
    result = simulate("hobbit", "switch-base-128", "a100-80g-epyc64", "mtbench", 8, 1, 1)
    copies_s = 6 * 1.04 * 18_874_368 / 23.5e9
    assert result.decode_s / 8 == pytest.approx(copies_s + 0.4e-3, rel=0.1)


# -- other models ----------------------------------------------------------------------------------


def test_the_only_expert_of_a_token_always_comes_as_it_is(lab):
    """Switch-Base-8: a first choice has score 0. The encoder's come on demand."""
    script = {(0, 1): [[4], [4], [1]], (1, 1): [[6]]}
    changes = {"model": "switch-base-8", "prompts": (3,), "routing": Scripted(script=script)}
    prefill = lab.prefill(lab.build(HOBBIT, 1, **changes))
    encoder = PREFILL | {"g": "gate", "e": "experts"}
    lab.check_order(prefill, encoder, "a0a f0a  a1a g1a x1a x1a e1a")
    decode = lab.decode(lab.build(HOBBIT, 1, **changes))
    lab.check_order(decode, OPS, "a0a f0a  a1a g1a x1a e1a")


def test_without_experts_everything_is_resident(lab):
    graph = lab.decode(lab.build(HOBBIT, 3, mu=3, model="opt-6.7b"))
    lab.check_order(graph, OPS, "a0a f0a a1a f1a")


def test_limits(lab):
    with pytest.raises(BadInput, match=r"has no use for r_w = 0.5; it takes N, mu, accuracy"):
        lab.build(HOBBIT, 1, r_w=0.5)
