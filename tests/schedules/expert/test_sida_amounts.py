"""SiDA: memory and bytes, other models, and times against a calculation by hand."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput, Infeasible
from schedules.expert.sida import SiDA
from schedules.expert.sida_predictor import HashFunction
from schedules.model_presets import load_model, model_names
from sim import simulate
from sim.hardware import load_hardware
from tests.schedules.expert.by_micro_batch import Scripted, check_law_1_of
from tests.schedules.expert.test_sida import ONE, OPS, PREFILL, TWO, build
from tests.strategies import WatchedIssuer, cases, feasible

EXPERT = 2 * 3 * 4_096 * 14_336  # bytes of one of Mixtral's
RESIDENT = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)


# -- amounts and memory ----------------------------------------------------------------------------


def test_memory_peaks(lab):
    """As on-demand, but places for the six experts that the prompt takes in two layers together.

    The hash table: ids of 8 B and factors of 2 B for two choices of three tokens in two layers.
    """
    schedule = build(lab, prompts=(3,), routing=ONE)
    before = schedule.node.issuer.peak_bytes["gpu"]
    workspace = 3 * (3 * 14_336 + 4_096) * 2 + 2 * 3 * 8_192
    small = 8_192 + 3 * 2 * (8 + 2) + 2 * (3 + 8) * 4_096
    table = 2 * 3 * 2 * (8 + 2)
    assert before == RESIDENT + workspace + small + table
    lab.prefill(schedule)
    assert schedule.node.issuer.peak_bytes["gpu"] == before + 6 * EXPERT
    schedule.run_decode_step(1)
    assert schedule.node.issuer.peak_bytes["gpu"] == before + 6 * EXPERT
    hash_function = HashFunction(schedule.node.work, schedule.moe_layers)
    host = hash_function.weight_bytes + hash_function.state_bytes(3 + 8, 1, 3) + table
    assert schedule.node.issuer.peak_bytes["cpu"] == 2 * 8 * EXPERT + host
    assert schedule.node.issuer.peak_bytes["pinned"] == 0  # as in the authors' code


def test_the_norm_runs_although_the_router_does_not(lab):
    """One launch, 4096 parameters of 2 B; a token's hidden state is read and written."""
    schedule = build(lab, prompts=(3,), routing=ONE)
    graph = lab.decode(schedule)
    spec, work = schedule.node.model.decoder_layers[0], schedule.node.work
    first = graph.works[graph.work[graph.op.tolist().index(graph.ops.index("experts"))]]
    experts = work.routed_experts(spec, 1, (1, 1))
    assert first.bytes["gpu"] - experts.bytes["gpu"] == 4_096 * 2 + 2 * 4_096 * 2
    assert first.calls - experts.calls == 1
    assert first.flops == experts.flops


def test_the_budget_is_what_the_gpu_has_left():
    """A T4: 15.5 GB hold 3.2 GB of other weights, so a few dozen of Mixtral's 256 experts."""
    result = simulate("sida", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 2, 1, 1)
    assert 15.5e9 - EXPERT < result.peak_memory_bytes["gpu"] <= 15.5e9


def test_no_room_at_all():
    machine = load_hardware("gcp-t4-24c").with_rate("gpu.memory", 0.35)
    with pytest.raises(Infeasible, match=r"pool 'gpu' is too small: 'experts\[other"):
        simulate("sida", "mixtral-8x7b", machine, "mtbench", 2, 1, 1)


def test_bytes_of_a_step(lab):
    """Two experts a layer for one token, none of them there already, and 20 B of its hash table."""
    graph = lab.decode(build(lab, 2, TWO, mu=1, prompts=(1,)))
    assert lab.moved(graph) == {"h2d_pageable": 2 * (2 * 2 * EXPERT + 2 * 2 * (8 + 2))}


# -- other models ----------------------------------------------------------------------------------


def test_an_encoder_s_experts_are_predicted_too(lab):
    """Switch-Base-8: layers 0 are dense; the encoder's experts leave before the decoder runs."""
    script = {(0, 1, 0): [[4], [4], [1]], (1, 1, 0): [[4]]}
    changes = {"model": "switch-base-8", "prompts": (3,), "routing": Scripted(script=script)}
    schedule = build(lab, **changes)
    lab.check_order(lab.prefill(schedule), PREFILL, "pa q1a ca x1a x1a  a0a f0a a1a e1a")
    schedule.run_decode_step(1)
    lab.check_order(schedule.node.issuer.take(), OPS, "pa q1a ca x1a  a0a f0a a1a e1a")
    assert set(schedule.residents.cache.slots) == {(1, 4)}  # the decoder's, not the encoder's 4
    assert schedule.node.issuer.peak_bytes["cpu"] > 2 * 8 * 18_874_368  # one layer of each stack


def test_without_experts_nothing_is_predicted(lab):
    graph = lab.decode(build(lab, 3, model="opt-6.7b"))
    lab.check_order(graph, OPS, "a0a f0a a1a f1a")
    assert lab.moved(graph) == {}


@pytest.mark.parametrize("model", [m for m in model_names() if load_model(m).n_experts > 1])
@pytest.mark.parametrize("per_layer", [False, True])
def test_every_moe_model(lab, model, per_layer):
    with patch("sim.scenario.RecordingIssuer", WatchedIssuer):
        schedule = build(lab, 4, model=model, mu=2, layers=3, per_layer=per_layer)
    graph = lab.decode(schedule, step=2)
    assert "experts" in graph.ops
    assert "gate" not in graph.ops


def test_limits(lab):
    with pytest.raises(BadInput, match="uses one GPU, but 2 were asked for"):
        lab.build(SiDA, 4, mu=4, gpus=2)
    with pytest.raises(BadInput, match="has no use for level = 2"):
        build(lab, level=2)


@settings(max_examples=30)
@given(st.data(), st.sampled_from([0.0, 0.05, 0.4, 1.0]), st.booleans())
def test_law_1_with_every_option(data, ratio, per_layer):
    model = data.draw(st.sampled_from(["mixtral-8x7b", "qwen3-30b-a3b", "switch-base-8"]))
    case = data.draw(cases(SiDA, model))
    options = {"cache_ratio": ratio, "per_layer": per_layer}
    case = feasible(case._replace(policy=case.policy.model_copy(update=options)))
    check_law_1_of(case)


# -- against a calculation by hand -----------------------------------------------------------------


def test_switch_base_128_by_hand():
    """Four sequences on the A100, eight tokens: the copies of experts take nearly all the time.

    An expert has 2 x 768 x 3072 parameters of 4 B; pageable copies reach 8.1 GB/s: 2.33 ms. Four
    tokens take 128 (1 - (127 / 128)^4) = 3.95 experts in each of six layers; few are there already.
    So a step copies for 6 x 3.95 x 2.33 = 55.3 ms. The prompts take all 128 in each of the
    encoder's six layers: 768 x 2.33 ms = 1.79 s.
    """
    result = simulate("sida", "switch-base-128", "a100-80g-epyc64", "mtbench", 8, 4, 4)
    copy_s = 2 * 768 * 3_072 * 4 / 8.1e9
    step_s = 6 * 128 * (1 - (127 / 128) ** 4) * copy_s
    assert result.decode_s == pytest.approx(8 * step_s, rel=0.1)
    assert result.prefill_s == pytest.approx(6 * 128 * copy_s, rel=0.1)


def test_mixtral_by_hand():
    """Four sequences on the T4, eight tokens (seven steps). An expert has 352 MB: 60.4 ms at 5.83
    GB/s. A step takes 8 (1 - 0.75^4) = 5.47 experts in each of 32 layers, 175 in all; 27 places are
    kept, and of what lies there 68 % are asked for again: 157 copies, 9.5 s.
    """
    result = simulate("sida", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 4, 4)
    taken = 8 * (1 - 0.75**4)
    copies = 32 * taken - 27 * taken / 8
    assert result.decode_s == pytest.approx(7 * copies * EXPERT / 5.83e9, rel=0.1)
