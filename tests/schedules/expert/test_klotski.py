"""Klotski: batches share a layer, hot experts are predicted and computed first; by hand."""

import pytest

from schedules.errors import BadInput
from schedules.expert import Klotski
from schedules.hf_config import from_hf_config
from sim import simulate
from tests.schedules.expert.by_micro_batch import Scripted

THREE = {  # experts, of which each token takes one
    "model_type": "mixtral",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_local_experts": 3,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "torch_dtype": "float32",
}
OPS = {
    "k": "load_kv",
    "a": "compute_attention",
    "s": "store_kv",
    "g": "gate",
    "x": "load_expert",
    "e": "expert",
    "m": "combine",
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"k": 1, "a": 3, "s": 1, "g": 1, "x": 3, "e": 1, "m": 1}
EXPERT = 2 * 3 * 4_096 * 14_336  # bytes of one of Mixtral's


def took(*experts):
    """One expert for each token."""
    return [[expert] for expert in experts]


ROUTED = Scripted(
    script={
        (0, 0, 0): took(2, 2, 2),
        (0, 0, 1): took(2, 1, 2),
        (0, 1, 0): took(1, 1, 1),
        (0, 1, 1): took(0, 0, 1),
        (1, 0, 0): took(2),
        (1, 0, 1): took(0),
        (1, 1, 0): took(1),
        (1, 1, 1): took(2),
    }
)


def build(lab, n=2, mu=1, routing=ROUTED, model=None, **policy):
    policy = {"r_h": 1.0, "pinned": True} | policy
    model = model or from_hf_config(THREE)
    return lab.build(Klotski, n, mu, model=model, prompts=(3,), routing=routing, **policy)


# -- order and time --------------------------------------------------------------------------------


def test_decode_step(lab):
    """Layer 0: the prompts took expert 2 five times, so it comes during the attention. Batch a
    takes it; b takes 0, which is sent for after its gate, at 9, and comes while 2 is computed.

    Layer 1: after expert 2 the prompts took 1 most often, after 0 nothing is known (expert 0, the
    lowest); a vote for each, and 0 wins: in vain. 1 is sent for after a's gate, 2 after b's.
    """
    order = """
        k0a k0b
        a0a s0a k1a x0  a0b s0b k1b  g0a g0b x0     e0 e0  m0a m0b
        a1a s1a     x1  a1b s1b      g1a x1 g1b x1  e1 e1  m1a m1b
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19
        h2d | k0a k0b k1a x0  --- --- k1b ... ... x0  --- --- x1  --- --- ... ... ... ... ...
        gpu | ... a0a --- --- a0b --- --- g0a g0b e0  ... ... e0  m0a m0b a1a --- --- a1b ---
        d2h | ... ... ... ... s0a ... ... s0b ... ... ... ... ... ... ... ... ... ... s1a ...

        s   | 20  21  22  23  24  25  26  27  28  29  30
        h2d | ... ... x1  --- --- x1  --- --- ... ... ...
        gpu | --- g1a g1b ... ... e1  ... ... e1  m1a m1b
        d2h | ... s1b ... ... ... ... ... ... ... ... ...
    """
    graph = lab.decode(build(lab))
    lab.check_order(graph, OPS, order)
    lab.check(graph, OPS, SECONDS, picture)


def test_prefill(lab):
    """Nothing is known yet, so expert 0 comes first; it is not computed where nobody takes it."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19
        h2d | x0  --- --- ... ... ... ... x0  --- --- x0  --- --- x1  --- --- ... ... ... ...
        gpu | a0a --- --- a0b --- --- g0a g0b ... ... e0  ... ... e0  m0a m0b a1a --- --- a1b
        d2h | ... ... ... s0a ... ... s0b ... ... ... ... ... ... ... ... ... ... ... ... s1a

        s   | 20  21  22  23  24  25  26  27  28
        h2d | ... ... ... x1  --- --- ... ... ...
        gpu | --- --- g1a g1b e1  ... e1  m1a m1b
        d2h | ... ... s1b ... ... ... ... ... ...
    """
    lab.check(lab.prefill(build(lab)), PREFILL, SECONDS, picture)


def test_hot_experts_are_computed_first(lab):
    """Though batch a takes 1 and only b takes the hot one."""
    script = ROUTED.script | {(1, 0, 0): took(1), (1, 0, 1): took(2)}
    bars, _ = lab.simulate(lab.decode(build(lab, routing=Scripted(script=script))), OPS, SECONDS)
    first, second = (bar[1] for bar in bars if bar[3] == "e0")
    assert first == 9  # right after the gates: expert 2 is there
    assert second == 11  # sent for after a's gate, at 8


def test_what_it_knows_of_its_predictions(lab):
    """Prefill: 0 of {1, 2}, 0 of {0, 1}; decode: 2 of {0, 2}, 0 of {1, 2}: two of four are right,
    and two of the eight needed experts came before their gates."""
    schedule = build(lab)
    lab.decode(schedule)
    assert schedule.facts() == {"hit_rate": 0.25, "wrong_share": 0.5}


def test_fewer_places_hold_the_copies_up(lab):
    """With one place the second expert of layer 0 waits until the first has been computed."""
    bars, _ = lab.simulate(lab.decode(build(lab, expert_slots=1)), OPS, SECONDS)
    assert [bar[1] for bar in bars if bar[3] == "x0"] == [3, 10]
    assert [bar[1] for bar in bars if bar[3] == "e0"] == [9, 13]


# -- amounts ---------------------------------------------------------------------------------------


def test_each_batch_is_a_call_of_its_own(lab):
    graph = lab.prefill(build(lab))
    tasks = zip(graph.op, graph.work, strict=True)
    calls = [graph.works[work].calls // 6 for op, work in tasks if graph.ops[op] == "expert"]
    assert calls == [2, 1, 1, 2]  # layer 0: 2 by a and b, 1 by b; layer 1: 0 by b, 1 by a and b


def test_hidden_states_go_to_host_memory_once_a_layer(lab):
    graph = lab.decode(build(lab, r_h=0.0))
    assert lab.sizes(graph, "store_hidden") == lab.sizes(graph, "load_hidden") == [64 * 4] * 2


RESIDENT = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)


def test_memory_peaks(lab):
    """As MoE-Gen's, by hand, but with room for all eight experts of a layer."""
    schedule = lab.build(Klotski, 4, 2, prompts=(100,), gen_len=8, pinned=True)
    peaks = schedule.node.issuer.peak_bytes
    workspace = 200 * (3 * 14_336 + 4_096) * 2 + 2 * 200 * 8_192
    pool = 2 * 400 * 8_192 + 400 * 2 * (8 + 2)
    kv = 3 * 216 * 4_096 + 2 * 200 * 4_096
    assert peaks["gpu"] == RESIDENT + workspace + pool + kv + 8 * EXPERT
    assert peaks["cpu"] == 16 * EXPERT + 2 * 4 * 108 * 4_096 + 400 * 8_192
    assert peaks["pinned"] == 16 * EXPERT + 400 * 8_192


def test_the_cache_is_pageable(lab):
    """Decode of two sequences: three tokens of 256 B in each layer come, the new one goes."""
    moved = lab.moved(lab.decode(build(lab)))
    assert moved.keys() == {"h2d", "h2d_pageable", "d2h_pageable"}
    assert moved["h2d_pageable"] == 2 * 2 * 3 * 256
    assert moved["d2h_pageable"] == 2 * 2 * 256


# -- against hand calculations ---------------------------------------------------------------------


def test_mixtral_on_a_t4_is_bound_by_the_experts_that_are_copied():
    """Four tokens take 8 (1 - 0.75^4) = 5.47 of 8 experts; of the two hot ones, as good as drawn
    with uniform routing, 2 x 0.75^4 = 0.63 come in vain: 6.10 a layer, 5.57 s a step."""
    result = simulate("klotski", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 4, 2)
    by_hand = 32 * (8 * (1 - 0.75**4) + 2 * 0.75**4) * EXPERT / 12.35e9
    assert by_hand == pytest.approx(5.57, rel=1e-3)
    assert result.decode_s / 7 == pytest.approx(by_hand, rel=0.1)


def test_switch_base_128_on_an_a100():
    """Four tokens take 128 (1 - (127/128)^4) = 3.95 experts of each of six layers, and the hot one
    comes in vain: 4.95 x 18.9 MB a layer. And the cache, through the driver's staging: twelve
    layers x 4 x 418 tokens x 6144 B.
    """
    result = simulate("klotski", "switch-base-128", "a100-80g-epyc64", "mtbench", 8, 4, 4)
    experts = 128 * (1 - (127 / 128) ** 4) + (127 / 128) ** 4
    links = result.scenario.hardware.links
    by_hand = 6 * experts * 2 * 768 * 3_072 * 4 / links["h2d"].sustained
    by_hand += 12 * 4 * 418 * 6_144 / links["h2d_pageable"].sustained
    assert result.decode_s / 8 == pytest.approx(by_hand, rel=0.1)


# -- other models ----------------------------------------------------------------------------------


def test_an_encoder_decoder_model(lab):
    """Its encoder's first layer with experts and its decoder's have nothing before them."""
    schedule = lab.build(Klotski, 2, model="switch-base-8", prompts=(3,), r_h=1, pinned=True)
    lab.decode(schedule)
    shapes = {spec.stack: table.shape for spec, table in schedule.popularity.seen.items()}
    assert shapes == {"encoder": (1, 8), "decoder": (1, 8)}


def test_without_experts_it_is_attention_alone(lab):
    schedule = lab.build(Klotski, 2, model="opt-6.7b", r_h=1, pinned=True)
    order = "k0a k0b a0a s0a k1a a0b s0b k1b f0a f0b a1a s1a a1b s1b f1a f1b"
    lab.check_order(lab.decode(schedule), OPS | {"f": "compute_ffn"}, order)
    assert schedule.facts() == {"hit_rate": 0.0, "wrong_share": 0.0}


MOE = [
    *("mixtral-8x7b", "mixtral-8x22b", "dbrx", "qwen3-30b-a3b", "deepseek-v2-lite"),
    *("switch-base-8", "switch-base-64", "switch-base-128", "switch-base-256", "switch-large-128"),
]


@pytest.mark.parametrize("model", MOE)
def test_every_moe_preset_has_its_place_on_a_roomy_machine(lab, model):
    schedule = lab.build(Klotski, 3, 2, model=model, layers=2)
    assert len(lab.decode(schedule, step=2)) > 0


def test_limits(lab):
    with pytest.raises(BadInput, match=r"has no use for A_g = 1; it takes N, mu, expert_slots"):
        build(lab, A_g=1)
