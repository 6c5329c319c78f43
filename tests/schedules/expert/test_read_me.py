"""Read-ME: the router runs first, batches share experts, the next layer's come; by hand."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.expert.cache_policies import LRU
from schedules.expert.read_me import ReadME
from schedules.model_presets import load_model, model_names
from schedules.routing import Routing
from sim import simulate
from tests.schedules.expert.by_micro_batch import Scripted, check_law_1_of
from tests.strategies import WatchedIssuer, cases, feasible

OPS = {
    "r": "route",
    "x": "load_expert",
    "a": "compute_attention",
    "e": "experts",
    "f": "compute_ffn",  # of a layer without experts
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"r": 1, "x": 2, "a": 2, "e": 1}
EXPERT = 2 * 3 * 4_096 * 14_336  # bytes of one of Mixtral's
RESIDENT = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)


def build(lab, n=1, script=None, **changes):
    routing = None if script is None else Scripted(script=script)
    return lab.build(ReadME, n, routing=routing, **{"mu": n} | changes)


FOUR = {  # sequences of one token, in two micro-batches
    (0, 0, 0): [[0, 1], [0, 2]],
    (0, 0, 1): [[4, 5], [4, 5]],
    (1, 0, 0): [[0, 1], [2, 3]],
    (1, 0, 1): [[1, 0], [2, 3]],
}


# -- order and time --------------------------------------------------------------------------------


def test_issue_order(lab):
    """The router is asked once; its choices hold for both layers."""
    schedule = build(lab, prompts=(3,), script={(0, 0, 0): [[0, 1]] * 3, (1, 0, 0): [[5, 2]]})
    order = "r0a  x0a x0a x1a x1a  a0a e0a a1a e1a"
    lab.check_order(lab.prefill(schedule), PREFILL, order)
    schedule.run_decode_step(1)
    lab.check_order(schedule.node.issuer.take(), OPS, order)


def test_decode_step(lab):
    """Sequences 0 and 2 take 0 and 1, sequences 1 and 3 take 2 and 3: two batches.

    Layer 1's experts come while layer 0 computes; those of each batch's layer 0 are exposed.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10
        h2d | ... ... x0a --- x0a --- x1a --- x1a --- ...
        gpu | r0a r0b a0a --- ... ... e0a a1a --- ... e1a
        s   | 11  12  13  14  15  16  17  18  19
        h2d | x0b --- x0b --- x1b --- x1b --- ...
        gpu | a0b --- ... ... e0b a1b --- ... e1b
    """
    schedule = build(lab, 4, FOUR, mu=2, prompts=(1,))
    lab.check(lab.decode(schedule), OPS, SECONDS, picture)
    assert schedule.facts() == {"experts_per_batch": 2.0}


def test_prompts_stay_in_their_micro_batches(lab):
    """Micro-batch a takes 0, 1 and 2, micro-batch b 4 and 5."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16
        h2d | ... ... x0a x0a x0a x1a x1a x1a ... x0b x0b x1b x1b ... ... ... ...
        gpu | r0a r0b a0a --- ... e0a a1a --- e1a a0b --- e0b a1b --- e1b ... ...
    """
    graph = lab.prefill(build(lab, 4, FOUR, mu=2, prompts=(1,)))
    lab.check(graph, PREFILL, SECONDS | {"x": 1}, picture)


def test_a_cache_serves_the_first_layer_too(lab):
    """Two batches of one sequence that both take 0 and 1: the second one copies nothing."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13
        h2d | ... ... x0a x0a x1a x1a ... ... ... ... ... ... ... ...
        gpu | r0a r0b a0a --- e0a a1a --- e1a a0b --- e0b a1b --- e1b
    """
    script = {(s, 0, j): [[0, 1] if s else [6, 7]] for s in (0, 1) for j in (0, 1)}
    schedule = build(lab, 2, script, mu=1, prompts=(1,), cache_ratio=4 / 16)
    lab.check(lab.decode(schedule), OPS, SECONDS | {"x": 1}, picture)
    assert schedule.facts() == {"experts_per_batch": 2.0, "hit_rate": 0.5}  # in prefill half, too


# -- which experts ---------------------------------------------------------------------------------

THREE = {(0, 0, j): [[6, 7]] for j in (0, 1, 2)} | {
    (1, 0, 0): [[0, 1]],
    (1, 0, 1): [[2, 3]],
    (1, 0, 2): [[0, 2]],
}


def test_the_expert_leaves_that_the_queue_needs_last(lab):
    """Room for three of a layer's eight: for 3, expert 1 leaves, for the third batch needs 0."""
    schedule = build(lab, 3, THREE, mu=1, prompts=(1,), layers=1, cache_ratio=3 / 8)
    assert lab.sizes(lab.decode(schedule), "load_expert") == [EXPERT] * 4
    assert set(schedule.cache_of_experts.slots) == {(0, 0), (0, 2), (0, 3)}


def test_least_recently_used_would_copy_one_more(lab):
    schedule = build(lab, 3, THREE, mu=1, prompts=(1,), layers=1, cache_ratio=3 / 8)
    schedule.cache_of_experts.policy = LRU()
    with patch.object(ReadME, "announce", lambda *args: None):
        assert lab.sizes(lab.decode(schedule), "load_expert") == [EXPERT] * 5


def test_batches_that_share_experts_need_fewer(lab):
    """Of 32 sequences in batches of 4, in random order, one takes 8 (1 - 0.75^4) = 5.5 experts."""
    schedule = build(lab, 32, mu=4, layers=1, gen_len=20)
    lab.decode(schedule, step=19)
    alone = Routing().expected_distinct(4, 8, 2)
    assert schedule.facts()["experts_per_batch"] < 0.8 * alone
    assert schedule.n_batches == 19 * 8


def test_the_work_of_a_batch(lab):
    """Sequences 0 and 2, of 3 and 5 tokens, in step 1: two rows for each of 0 and 1."""
    ids = {(0, 0, 0): [[0, 1]] * 8, (1, 0, 0): [[0, 1], [0, 1]]}
    schedule = build(lab, 2, ids, prompts=(3, 5), layers=1)
    graph, work = lab.decode(schedule), schedule.node.work
    spec = schedule.node.model.decoder_layers[0]
    attention, experts = (graph.works[w] for w in graph.work[-2:])
    core = work.decode_core(spec, 2, 3 + 5 + 2)
    expected = core + work.out_projection(spec, 2) + work.embedding(2)
    assert attention.flops == expected.flops
    assert attention.bytes == expected.bytes
    assert experts.flops["gemm"] == 2 * 2 * EXPERT + work.head(2).flops["gemm"]


# -- amounts and memory ----------------------------------------------------------------------------


def test_memory_peaks(lab):
    """Room for the six experts that three tokens can take in each of two layers; the router with
    two keys and values of 512 elements for each of 11 tokens."""
    schedule = build(lab, prompts=(3,))
    workspace = 3 * (3 * 14_336 + 4_096) * 2 + 2 * 3 * 8_192
    small = 8_192 + 2 * 3 * 2 * (8 + 2) + 2 * (3 + 8) * 4_096
    router = 2 * (32_000 * 512 + 7 * 512 * 512 + 512 * 8) + 11 * 2 * 512 * 2
    expected = RESIDENT + workspace + small + router + 2 * 6 * EXPERT
    assert schedule.node.issuer.peak_bytes["gpu"] == expected
    lab.decode(schedule)
    assert schedule.node.issuer.peak_bytes["gpu"] == expected
    assert schedule.node.issuer.peak_bytes["pinned"] == 2 * 8 * EXPERT
    larger = build(lab, prompts=(3,), cache_ratio=0.5)
    assert larger.node.issuer.peak_bytes["gpu"] == expected + 8 * EXPERT


# -- other models ----------------------------------------------------------------------------------


def test_an_encoder_is_routed_too(lab):
    """Switch-Base-8: layers 0 are dense. The cache is the decoder's alone."""
    script = {(0, 1, 0): [[4], [4], [1]], (1, 1, 0): [[4]]}
    schedule = build(lab, model="switch-base-8", prompts=(3,), script=script, cache_ratio=0.5)
    lab.check_order(lab.prefill(schedule), PREFILL, "r1a x1a x1a  a0a f0a a1a e1a")
    schedule.run_decode_step(1)
    lab.check_order(schedule.node.issuer.take(), OPS, "r1a x1a  a0a f0a a1a e1a")
    assert set(schedule.cache_of_experts.slots) == {(0, 4)}


def test_without_experts_nothing_is_routed(lab):
    graph = lab.decode(build(lab, 3, model="opt-6.7b", mu=2))
    lab.check_order(graph, OPS, "a0a f0a a1a f1a a0b f0b a1b f1b")
    assert lab.moved(graph) == {}


@pytest.mark.parametrize("model", [m for m in model_names() if load_model(m).n_experts > 1])
@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_every_moe_model(lab, model, ratio):
    with patch("sim.scenario.RecordingIssuer", WatchedIssuer):
        schedule = build(lab, 4, model=model, mu=2, layers=3, cache_ratio=ratio)
    graph = lab.decode(schedule, step=2)
    assert "experts" in graph.ops
    assert "gate" not in graph.ops


def test_limits(lab):
    with pytest.raises(BadInput, match="uses one GPU, but 2 were asked for"):
        lab.build(ReadME, 4, mu=4, gpus=2)
    with pytest.raises(BadInput, match="has no use for sync = True; it takes N, mu, cache_ratio"):
        build(lab, sync=True)


@settings(max_examples=30)
@given(st.data(), st.sampled_from([0.0, 0.05, 0.4, 1.0]))
def test_law_1_with_a_cache(data, ratio):
    model = data.draw(st.sampled_from(["mixtral-8x7b", "qwen3-30b-a3b", "switch-base-8"]))
    case = data.draw(cases(ReadME, model))
    case = case._replace(policy=case.policy.model_copy(update={"cache_ratio": ratio}))
    check_law_1_of(feasible(case))


# -- against a calculation by hand -----------------------------------------------------------------


def test_mixtral_by_hand():
    """Four sequences on the T4, eight tokens (seven steps). An expert has 352 MB: 28.5 ms at 12.35
    GB/s. A step takes 8 (1 - 0.75^4) = 5.47 experts, the same in each of 32 layers: 5.0 s.
    """
    result = simulate("read-me", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 4, 4)
    step_s = 32 * 8 * (1 - 0.75**4) * EXPERT / 12.35e9
    assert result.decode_s == pytest.approx(7 * step_s, rel=0.1)


def test_switch_base_128_by_hand():
    """Four sequences on the A100: 128 (1 - (127 / 128)^4) = 3.95 experts of 18.9 MB in each of six
    layers, 0.80 ms each at 23.5 GB/s: 19 ms a step."""
    result = simulate("read-me", "switch-base-128", "a100-80g-epyc64", "mtbench", 8, 4, 4)
    step_s = 6 * 128 * (1 - (127 / 128) ** 4) * 2 * 768 * 3_072 * 4 / 23.5e9
    assert result.decode_s == pytest.approx(8 * step_s, rel=0.1)
