"""MoE-Infinity: prefetches and cache follow the traces of past passes; worked out by hand."""

import numpy as np
import pytest

from schedules.expert.moe_infinity import MoEInfinityOffloading
from sim import simulate
from tests.schedules.expert.scripted import EXPERT, Scripted

OPS = {
    "a": "compute_attention",
    "g": "gate",
    "x": "load_expert",
    "e": "experts",
    "f": "compute_ffn",
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"a": 2, "g": 1, "x": 2, "e": 1, "f": 1}
PROMPT = {(0, 0): [[0, 1]], (0, 1): [[2, 3]]}


def build(lab, *steps, layers=2, **changes):
    """One token of prompt, and of each step: its experts layer by layer."""
    script = dict(PROMPT) | {(0, i): [[2, 3]] for i in range(2, layers)}
    for step, named in enumerate(steps, start=1):
        script |= {(step, layer): [ids] for layer, ids in enumerate(named)}
    return lab.build(
        MoEInfinityOffloading,
        1,
        layers=layers,
        routing=Scripted(script=script),
        **{"prompts": (1,)} | changes,
    )


def test_prefill_is_on_demand(lab):
    """There is no trace yet."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15
        h2d | ... ... ... x0a --- x0a --- ... ... ... ... x1a --- x1a --- ...
        gpu | a0a --- g0a ... ... ... ... e0a a1a --- g1a ... ... ... ... e1a
    """
    graph = lab.prefill(build(lab))
    lab.check(graph, PREFILL, SECONDS, picture)


def test_decode_step(lab):
    """The cache has four places. The prompt's pass is the only trace: it predicts 0 and 1, then 2
    and 3. Keeping an expert is worth 1/2 in layer 0 and 1/2 x 1/2 in layer 1, so 4 takes the place
    of 2. The prediction brings 2 back, in the place of 1: 3 is predicted, too.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9
        h2d | ... ... ... x0a --- x1a --- ... ... ...
        gpu | a0a --- g0a ... ... e0a a1a --- g1a e1a
    """
    schedule = build(lab, ([0, 4], [2, 3]))
    graph = lab.decode(schedule)
    lab.check_order(graph, OPS, "a0a g0a x0a e0a x1a a1a g1a e1a")
    lab.check(graph, OPS, SECONDS, picture)
    assert schedule.facts() == {"hit_rate": 3 / 8, "wrong_prefetch_share": 0}


def test_a_wrong_prefetch_delays_the_right_one(lab):
    """7 is named instead of 2, whose copy goes on until 13: the gate had ended at 12."""
    schedule = build(lab, ([0, 4], [7, 3]))
    graph = lab.decode(schedule)
    bars, _ = lab.simulate(graph, OPS, SECONDS | {"x": 5})
    copies = [bar[1:3] for bar in bars if bar[0] == "h2d"]
    assert copies == [(3, 8), (8, 13), (13, 18)]
    assert [bar[2] for bar in bars if bar[3] == "g1a"] == [12]
    assert schedule.facts()["wrong_prefetch_share"] == 1


def test_the_most_similar_trace_decides(lab):
    """The third pass begins like the second one, so it expects 6 and 7 in layer 1, not 2 and 3.

    When the second pass ran layer 1, the prompt's trace spoke for 2 and 3, so 4 and 5 had to leave
    for 6 and 7. Now 4 and 5 come back in the places of 2 and 3, and 6 and 7 stay.
    """
    schedule = build(lab, ([4, 5], [6, 7]), ([4, 5], [6, 7]))
    lab.check_order(lab.decode(schedule, step=2), OPS, "a0a g0a x0a x0a e0a a1a g1a e1a")
    assert len(schedule.traces) == 2
    expected = np.zeros((2, 8))
    expected[0, 4:6], expected[1, 6:8] = 0.5, 0.25
    now = np.zeros((2, 8))
    now[0, 4:6] = 1
    assert np.array_equal(schedule.traces.predict(now, 0), expected)


def test_level_says_how_many_layers_are_looked_ahead(lab):
    """By nearness: of three layers, the second's experts weigh 2/3 and the third's 1/3."""
    for level, pairs in ((1, [(1, 2), (1, 3)]), (2, [(1, 2), (1, 3), (2, 2), (2, 3)])):
        schedule = build(lab, layers=3, level=level)
        predicted = np.zeros((3, 8))
        predicted[0, 0], predicted[1, 2:4], predicted[2, 2:4] = 1, 1 / 3, 1 / 6
        assert schedule.most_likely(predicted, 0, 2) == pairs


# -- amounts and memory ----------------------------------------------------------------------------

RESIDENT = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)


def peaks(lab, n, layers=2, **changes):
    schedule = lab.build(MoEInfinityOffloading, n, mu=n, layers=layers, **changes)
    return schedule.node.issuer.peak_bytes


def test_memory_peaks(lab):
    """Four sequences can take all eight experts of two layers: the cache holds all 16."""
    workspace = 400 * (3 * 14_336 + 4_096) * 2 + 2 * 400 * 8_192
    small = 4 * 8_192 + 400 * 2 * (8 + 2) + 2 * 4 * 108 * 4_096
    found = peaks(lab, 4, prompts=(100,))
    assert found["gpu"] == RESIDENT + 16 * EXPERT + workspace + small
    assert found["cpu"] == found["pinned"] == 16 * EXPERT


def test_room_for_experts(lab):
    """One sequence takes two experts a layer, so the cache has four places; a prompt of 100 tokens
    takes all eight, and four of them are streamed. A share of 24 / 64 gives the cache 24.
    """
    small, large = (
        peaks(lab, 1, 8, prompts=(100,), cache_ratio=ratio)["gpu"] for ratio in (0.0, 24 / 64)
    )
    assert large - small == (24 - 8) * EXPERT


def test_a_token_of_mixtral_on_a_t4():
    """The link decides: 352 MB at 12.35 GB/s, 28.5 ms for an expert. A block needs two, and two are
    prefetched; with uniform routing a fourth of these is right: 3.5 experts, 99.9 ms, 32 times.
    """
    result = simulate("moe-infinity", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 1, 1)
    assert result.decode_s / 7 == pytest.approx(32 * 3.5 * EXPERT / 12.35e9, rel=0.1)


def test_a_token_of_switch_base_128_on_an_a100():
    """18.9 MB at 23.5 GB/s, 0.80 ms. Five of six blocks prefetch one expert, with uniform routing
    the wrong one: eleven copies; the first waits for its gate (0.35 ms)."""
    result = simulate("moe-infinity", "switch-base-128", "a100-80g-epyc64", "mtbench", 8, 1, 1)
    token_s = 11 * 18_874_368 / 23.5e9 + 0.4e-3
    assert result.decode_s / 8 == pytest.approx(token_s, rel=0.1)


# -- other models ----------------------------------------------------------------------------------


def test_an_encoder_s_experts_come_on_demand(lab):
    script = {(0, 1): [[4], [4], [1]], (1, 1): [[6]]}
    changes = {"model": "switch-base-8", "prompts": (3,), "routing": Scripted(script=script)}
    prefill = lab.prefill(lab.build(MoEInfinityOffloading, 1, **changes))
    lab.check_order(prefill, PREFILL, "a0a f0a  a1a g1a x1a x1a e1a")
    decode = lab.decode(lab.build(MoEInfinityOffloading, 1, **changes))
    lab.check_order(decode, OPS, "a0a f0a  a1a g1a x1a e1a")


def test_without_experts_everything_is_resident(lab):
    graph = lab.decode(lab.build(MoEInfinityOffloading, 3, mu=3, model="opt-6.7b"))
    lab.check_order(graph, OPS, "a0a f0a a1a f1a")
