"""GPU-only: everything resident, nothing moves."""

import pytest

from schedules.batch.gpu_only import GPUOnly
from schedules.errors import BadInput, Infeasible
from schedules.model_presets import load_model
from schedules.policy import make_policy
from schedules.workload_presets import load_workload
from sim.hardware import load_hardware
from sim.scenario import Scenario, place

OPS = {
    "c": "compute_layer",
    "a": "compute_attention",
    "f": "compute_ffn",
    "r": "all_reduce",
    "y": "head",
    "g": "gather_logits",
}


def test_micro_batches_run_one_after_the_other_through_all_layers(lab):
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11
        gpu | c0a --- c1a --- c0b --- c1b --- c0c --- c1c ---
    """
    lab.check(lab.decode(lab.build(GPUOnly, 3)), OPS, {"c": 2}, picture)
    lab.check(lab.prefill(lab.build(GPUOnly, 3)), {"c": "prefill_layer"}, {"c": 2}, picture)


def test_nothing_moves(lab):
    assert lab.moved(lab.prefill(lab.build(GPUOnly, 5, mu=2))) == {}
    assert lab.moved(lab.decode(lab.build(GPUOnly, 5, mu=2))) == {}


def test_two_gpus_reduce_after_attention_and_ffn(lab):
    """Each computes half of every layer; a micro-batch goes on when both halves are summed.

    Then each computes half of the logits (32000 of 2 B) and gets the other half. The next
    micro-batch needs nothing of that: a0b starts while the logits of a are gathered.
    """
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12
        gpu0 | a0a ... f0a --- ... y0a a0b ... f0b --- ... y0b ...
        gpu1 | a0a ... f0a --- ... y0a a0b ... f0b --- ... y0b ...
        peer | ... r0a ... ... r0a ... g0a r0b ... ... r0b ... g0b
    """
    graph = lab.decode(lab.build(GPUOnly, 2, layers=1, gpus=2))
    lab.check(graph, OPS, {"a": 1, "f": 2, "r": 1, "y": 1, "g": 1}, picture)
    assert lab.moved(graph) == {"peer": 2 * (2 * 8_192 + 32_000)}


def test_memory_peak(lab):
    """All 46,702,792,704 parameters of 2 B; cache, hidden states, workspace."""
    node = lab.build(GPUOnly, 504, mu=36, layers=32, prompts=(418,), gen_len=32).node
    workspace = node.work.workspace_bytes(node.all_layers[0], 36 * 418, 36)
    cache = 504 * (418 + 32) * 4_096 * 32
    expected = 2 * 46_702_792_704 + cache + 504 * 8_192 + int(workspace)
    assert node.issuer.peak_bytes["gpu"] == expected
    assert node.issuer.peak_bytes["cpu"] == 0


def test_an_encoder_reads_the_prompt_and_fills_all_caches(lab):
    """Switch-Base: prefill runs the encoder's layers, decode steps the decoder's."""
    prefill = lab.prefill(lab.build(GPUOnly, 2, model="switch-base-8"))
    lab.check_order(prefill, {"c": "prefill_layer"}, "c0a c1a c0b c1b")
    decode = lab.decode(lab.build(GPUOnly, 2, model="switch-base-8"))
    lab.check_order(decode, OPS, "c0a c1a c0b c1b")


def test_a_model_that_does_not_fit_is_infeasible():
    """90.19 GB of experts do not fit into a T4."""
    scenario = Scenario(
        load_model("mixtral-8x7b"), load_hardware("gcp-t4-24c"), load_workload("mtbench")
    )
    with pytest.raises(
        Infeasible, match=r"pool 'gpu' is too small: 'expert weights' needs 90.19 GB"
    ):
        place(scenario, GPUOnly, make_policy({"N": 1, "mu": 1}))


def test_it_has_no_knobs(lab):
    with pytest.raises(BadInput, match=r"has no use for r_w = 1.0; it takes N, mu"):
        lab.build(GPUOnly, r_w=1.0)
