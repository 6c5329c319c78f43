"""KTransformers: routed experts on the CPU, and expert deferral; worked out by hand."""

import numpy as np
import pytest

from schedules.errors import BadInput, Infeasible
from schedules.expert import KTransformers
from schedules.expert.ktransformers import protected
from schedules.model_presets import load_model
from schedules.routing import Routing
from schedules.routing_popularity import popularity
from schedules.routing_statistics import draw_routing
from sim import simulate
from sim.hardware import load_hardware

OPS = {
    "a": "compute_attention",
    "g": "gate",
    "t": "send_tokens",
    "c": "cpu_experts",
    "d": "deferred_experts",
    "h": "shared_experts",
    "r": "load_outputs",
    "m": "combine",
    "f": "compute_ffn",
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"a": 2, "g": 1, "t": 1, "c": 3, "d": 4, "h": 2, "r": 1, "m": 1, "f": 1}
EXPERT = 2 * 3 * 4_096 * 14_336  # bytes of one of Mixtral's


def build(lab, n=1, **changes):
    return lab.build(KTransformers, n, mu=n, **{"prompts": (3,)} | changes)


# -- order and time --------------------------------------------------------------------------------


def test_decode_step(lab):
    """The GPU waits for the CPU in each layer."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17
        h2d | ... ... ... ... ... ... ... r0a ... ... ... ... ... ... ... ... r1a ...
        gpu | a0a --- g0a ... ... ... ... ... m0a a1a --- g1a ... ... ... ... ... m1a
        d2h | ... ... ... t0a ... ... ... ... ... ... ... ... t1a ... ... ... ... ...
        cpu | ... ... ... ... c0a --- --- ... ... ... ... ... ... c1a --- --- ... ...
    """
    graph = lab.decode(build(lab))
    lab.check_order(graph, OPS, "a0a g0a t0a c0a r0a m0a a1a g1a t1a c1a r1a m1a")
    lab.check(graph, OPS, SECONDS, picture)


def test_deferred_experts_run_beside_the_next_attention(lab):
    """c0 is enough to go on; d0 ends before the CPU gets the tokens of layer 1, which adds to its
    output. The last layer defers nothing.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17
        h2d | ... ... ... ... ... ... ... r0a ... ... ... ... ... ... ... ... r1a ...
        gpu | a0a --- g0a ... ... ... ... ... m0a a1a --- g1a ... ... ... ... ... m1a
        d2h | ... ... ... t0a ... ... ... ... ... ... ... ... t1a ... ... ... ... ...
        cpu | ... ... ... ... c0a --- --- d0a --- --- --- ... ... c1a --- --- ... ...
    """
    graph = lab.decode(build(lab, deferred=1))
    lab.check_order(graph, OPS, "a0a g0a t0a c0a d0a r0a m0a a1a g1a t1a c1a r1a m1a")
    lab.check(graph, OPS, SECONDS, picture)


def test_deferred_experts_that_take_longer_hold_up_the_next_block(lab):
    """d0 takes 8 s, until 15: c1 starts two seconds later than the tokens allow."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19
        h2d | ... ... ... ... ... ... ... r0a ... ... ... ... ... ... ... ... ... ... r1a ...
        gpu | a0a --- g0a ... ... ... ... ... m0a a1a --- g1a ... ... ... ... ... ... ... m1a
        d2h | ... ... ... t0a ... ... ... ... ... ... ... ... t1a ... ... ... ... ... ... ...
        cpu | ... ... ... ... c0a --- --- d0a --- --- --- --- --- --- --- c1a --- --- ... ...
    """
    lab.check(lab.decode(build(lab, deferred=1)), OPS, SECONDS | {"d": 8}, picture)


def test_prefill_defers_nothing(lab):
    graph = lab.prefill(build(lab, deferred=1))
    lab.check_order(graph, PREFILL, "a0a g0a t0a c0a r0a m0a a1a g1a t1a c1a r1a m1a")


def test_shared_experts_run_beside_the_cpu(lab):
    """DeepSeek-V2-Lite: layer 0 is dense, in layer 1 two experts are for all tokens."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11
        h2d | ... ... ... ... ... ... ... ... ... ... r1a ...
        gpu | a0a --- f0a a1a --- g1a h1a --- ... ... ... m1a
        d2h | ... ... ... ... ... ... t1a ... ... ... ... ...
        cpu | ... ... ... ... ... ... ... c1a --- --- ... ...
    """
    lab.check(lab.decode(build(lab, model="deepseek-v2-lite")), OPS, SECONDS, picture)


def test_nothing_waits_for_a_gate(lab):
    """The thread waits at the end of the step only."""
    graph = lab.decode(build(lab, deferred=1))
    assert [wait.position for wait in graph.waits] == [len(graph)]


def test_encoder_and_decoder_alike(lab):
    prefill = lab.prefill(build(lab, model="switch-base-8"))
    lab.check_order(prefill, PREFILL, "a0a f0a a1a g1a t1a c1a r1a m1a")
    decode = lab.decode(build(lab, model="switch-base-8"))
    lab.check_order(decode, OPS, "a0a f0a a1a g1a t1a c1a r1a m1a")


# -- amounts ---------------------------------------------------------------------------------------


def amounts(graph, op):
    """Bytes and flops of each task with this operation."""
    works = [graph.works[graph.work[i]] for i in range(len(graph)) if graph.ops[graph.op[i]] == op]
    return [(work.bytes["cpu"], work.total_flops) for work in works]


def moved(experts, rows):
    return experts * EXPERT + rows * (2 * 4_096 + 3 * 14_336) * 2


def test_one_token_defers_one_of_its_two_experts(lab):
    graph = lab.decode(build(lab, deferred=1))
    half, whole = (moved(1, 1), EXPERT), (moved(2, 2), 2 * EXPERT)
    assert amounts(graph, "cpu_experts") == [half, whole]
    assert amounts(graph, "deferred_experts") == [half]


def test_an_expert_that_one_token_protects_is_at_once_for_all(lab):
    """Two tokens of two of eight experts, one each protected.

    They touch 8 (1 - (6/8)^2) = 3.5 experts and protect 8 (1 - (7/8)^2) = 1.875. A token's other
    expert is protected by the other token with 1/8: 2 x (1 + 1/8) rows are at once.
    """
    graph = lab.decode(build(lab, 2, deferred=1))
    now, last = amounts(graph, "cpu_experts")
    (later,) = amounts(graph, "deferred_experts")
    assert now == pytest.approx((moved(1.875, 2.25), 2.25 * EXPERT))
    assert later == pytest.approx((moved(1.625, 1.75), 1.75 * EXPERT))
    assert last == pytest.approx((moved(3.5, 4), 4 * EXPERT))


def test_protected_experts_are_those_of_many_draws():
    """Four tokens, each with two of eight experts by Zipf's law, and one of the two protected."""
    routing = Routing(kind="zipf", exponent=1.2, seed=5)
    layer = load_model("mixtral-8x7b").decoder_layers[2]
    draws = routing.expert_ids(4 * 20_000, 8, 2, layer.index, 1).reshape(-1, 4, 2)
    first = np.random.default_rng(0).integers(0, 2, draws.shape[:2])[..., None]
    safe = np.take_along_axis(draws, first, axis=2)[..., 0]
    experts = np.mean([len(set(ids)) for ids in safe.tolist()])
    rows = np.mean([np.isin(ids, s).sum() for ids, s in zip(draws, safe, strict=True)])
    found = protected(popularity(routing, layer), 1 / 2, 4)
    assert found == pytest.approx((experts, rows), rel=0.01)


def test_deferral_with_recorded_routing(lab, tmp_path):
    path = tmp_path / "routing.parquet"
    draw_routing(Routing(), load_model("mixtral-8x7b").with_layers(2), (3, 3), 8).to_parquet(path)
    recorded = Routing(kind="recorded", path=str(path))
    graph = lab.decode(build(lab, deferred=1, routing=recorded))
    assert amounts(graph, "deferred_experts") == [pytest.approx((moved(1, 1), EXPERT))]


def test_most_deferred_experts_of_a_large_batch_are_protected_by_others(lab):
    """64 tokens protect all eight experts, but for 8 (7/8)^64 = 0.0016 of them."""
    graph = lab.decode(build(lab, 64, deferred=1, prompts=(1,)))
    ((size, flops),) = amounts(graph, "deferred_experts")
    assert flops == pytest.approx(64 * (7 / 8) ** 63 * EXPERT)
    assert size < 0.01 * EXPERT


def test_only_tokens_travel(lab):
    graph = lab.decode(build(lab, 2))
    assert lab.moved(graph) == {"d2h": 2 * 2 * (8_192 + 20), "h2d": 2 * 2 * 8_192}


def test_memory_peaks(lab):
    """Two layers of Mixtral; 4 prompts of 100 tokens, 8 generated; nothing depends on deferral.

    No expert is on the GPU: attention, router and norms, embedding and head; workspace; cache;
    hidden states of decode, ids and weights; the GPU's sum and two turns of the CPU's outputs.
    """
    peaks = build(lab, 4, prompts=(100,), gen_len=8).node.issuer.peak_bytes
    resident = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)
    workspace = 400 * (3 * 14_336 + 4_096) * 2 + 2 * 400 * 8_192
    small = 4 * 8_192 + 400 * 2 * (8 + 2) + 2 * 4 * 108 * 4_096
    assert peaks["gpu"] == resident + workspace + small + 3 * 400 * 8_192
    travelling = 2 * 400 * (8_192 + 20 + 8_192)
    assert (peaks["cpu"], peaks["pinned"]) == (2 * 8 * EXPERT + travelling, travelling)
    assert build(lab, 4, prompts=(100,), gen_len=8, deferred=1).node.issuer.peak_bytes == peaks


def test_facts(lab):
    """One of two layers defers half of its choices; prefill does not count."""
    schedule = build(lab, deferred=1)
    lab.decode(schedule, step=2)
    assert schedule.facts() == {"deferred_share": 1 / 4}
    assert build(lab).facts() == build(lab, deferred=1).facts() == {}


# -- whole runs ------------------------------------------------------------------------------------


def on(machine, model, n, **policy):
    question = ("ktransformers", model, machine, "mtbench")
    return simulate(*question, gen_len=8, batch=n, micro_batch=n, policy=policy)


def test_seconds_of_a_step():
    """Mixtral on the T4, four sequences, 32 layers: 8 (1 - (3/4)^4) = 5.47 experts are touched.

    Their 1.927e9 B at 40 GB/s take 48.2 ms, and their fork and join 38 us; the GPU's
    attention and gate read 84e6 B at 220 GB/s, 0.38 ms, and launch 16 kernels of 3 us.
    """
    layer = 8 * (1 - 0.75**4) * EXPERT / 40e9 + 38e-6 + 84e6 / 220e9 + 16 * 3e-6
    result = on("gcp-t4-24c", "mixtral-8x7b", 4)
    assert result.decode_s / 7 == pytest.approx(32 * layer, rel=0.02)


def test_seconds_of_a_step_of_switch():
    """Switch-Base-128 on the A100 machine, one sequence: the thread that launches is the slowest.

    For each of six pairs of layers 37 launches of 10 us: twice attention (12), a dense FFN (5), the
    gate (4), the CPU's task, two copies and the sum; embedding and head are four more. The last
    expert comes after: 18.87e6 B at 130 GB/s and a fork of 38 us.
    """
    by_hand = (6 * 37 + 4) * 10e-6 + 18_874_368 / 130e9 + 38e-6
    result = on("a100-80g-epyc64", "switch-base-128", 1)
    assert result.decode_s / 8 == pytest.approx(by_hand, rel=0.05)


def test_deferral_hides_the_gpu_behind_the_cpu():
    """Qwen3-30B-A3B on the A100 machine: little more than the CPU's time remains.

    A layer's 8 experts are 8 x 9.44e6 B at 130 GB/s, 0.58 ms, and two forks and joins of 38 us.
    """
    whole, deferred = (on("a100-80g-epyc64", "qwen3-30b-a3b", 1, deferred=d) for d in (0, 4))
    expert = 2 * 3 * 2_048 * 768
    cpu = 48 * (8 * expert / 130e9 + 2 * 38e-6)
    assert deferred.decode_s / 7 == pytest.approx(cpu, rel=0.03)
    assert whole.decode_s > 1.05 * deferred.decode_s
    assert deferred.prefill_s == whole.prefill_s


# -- limits ----------------------------------------------------------------------------------------

PRESETS = ("mixtral-8x7b", "mixtral-8x22b", "dbrx", "qwen3-30b-a3b", "deepseek-v2-lite")
SWITCH = ("switch-base-8", "switch-base-64", "switch-base-128", "switch-large-128")


@pytest.mark.parametrize("name", [*PRESETS, *SWITCH])
def test_every_model_with_experts(lab, name):
    most = load_model(name).top_k - 1
    graph = lab.decode(build(lab, model=name, layers=4, deferred=most))
    assert "cpu_experts" in graph.ops
    assert ("deferred_experts" in graph.ops) == (most > 0)


def test_without_experts_everything_is_resident(lab):
    graph = lab.decode(build(lab, 3, model="opt-6.7b"))
    lab.check_order(graph, OPS, "a0a f0a a1a f1a")


def test_limits(lab):
    with pytest.raises(BadInput, match=r"top-k of .* is 2, and at least .* give 0 to 1"):
        build(lab, deferred=2)
    with pytest.raises(BadInput, match="give 0 to 0"):
        build(lab, deferred=1, model="switch-base-8")
    with pytest.raises(BadInput, match="no use for pinned = True"):
        build(lab, pinned=True)
    with pytest.raises(BadInput, match="mu = 2 must equal N = 4"):
        lab.build(KTransformers, 4, mu=2)


def test_experts_that_host_memory_cannot_hold():
    """90.19 GB of them; the T4's host has 206 GB."""
    machine = load_hardware("gcp-t4-24c").with_rate("cpu.memory", 0.4)
    with pytest.raises(Infeasible, match=r"pool 'cpu' is too small: 'host weights\[decoder 2"):
        on(machine, "mixtral-8x7b", 1)
