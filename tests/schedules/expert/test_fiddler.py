"""Fiddler: experts that stay, experts that come, tokens that go; worked out by hand."""

from unittest.mock import patch

import numpy as np
import pytest

from schedules.errors import BadInput, Infeasible
from schedules.expert import Fiddler
from schedules.expert.fiddler import CPU_TOKENS
from schedules.graph import RecordingIssuer
from schedules.model_presets import load_model
from schedules.policy import make_policy
from schedules.routing import Routing
from sim.api import Question
from sim.scenario import place

OPS = {
    "a": "compute_attention",
    "g": "gate",
    "x": "load_expert",
    "e": "some_experts",  # on the GPU
    "h": "shared_experts",
    "t": "send_tokens",
    "c": "cpu_experts",
    "r": "load_outputs",
    "m": "combine",
    "f": "compute_ffn",
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"a": 2, "g": 1, "x": 2, "e": 1, "h": 1, "t": 1, "c": 3, "r": 1, "m": 1, "f": 1}
EXPERT = 2 * 3 * 4_096 * 14_336  # bytes of one of Mixtral's


class Scripted(Routing):
    """Routing by hand: the ids of every token, by (step, layer); each row is a token."""

    script: dict[tuple[int, int], list[list[int]]]

    def expert_ids(self, tokens, n_experts, top_k, layer, step, micro_batch=0):
        ids = np.array(self.script[step, layer])
        assert ids.shape == (tokens, top_k)
        return ids


class Noting(RecordingIssuer):
    """Keeps the expert and the flops of each task that names one."""

    def __init__(self, *args):
        super().__init__(*args)
        self.named = []

    def _issue(self, task, stream_id, dependencies, work, operands):
        super()._issue(task, stream_id, dependencies, work, operands)
        self.named += [(task.op, task.layer, what.expert) for what in operands.what]


THREE = Scripted(
    script={
        (0, 0): [[0, 1], [2, 3], [1, 3]],
        (0, 1): [[6, 7], [6, 7], [7, 6]],
        (1, 0): [[0, 5], [0, 5], [2, 0]],  # 0 by three tokens, 5 by two, 2 by one
        (1, 1): [[6, 7], [6, 7], [7, 6]],
    }
)


def build(lab, n=3, **changes):
    """Experts 0 and 1 of both layers stay; the CPU computes for one token of an expert."""
    options = {"experts_on_gpu": 4 / 16, "cpu_tokens": 1, "prompts": (1,)}
    return lab.build(Fiddler, n, mu=n, **options | changes)


# -- order and time --------------------------------------------------------------------------------


def test_decode_step(lab):
    """0 is there, 5 comes, the token of 2 goes to the CPU when the GPU's experts are done.

    In layer 1, 6 and 7 come through one placeholder: 7 must wait until 6 has been computed.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11
        h2d | ... ... ... x0a --- ... ... ... ... ... r0a ...
        gpu | a0a --- g0a e0a ... e0a ... ... ... ... ... m0a
        d2h | ... ... ... ... ... ... t0a ... ... ... ... ...
        cpu | ... ... ... ... ... ... ... c0a --- --- ... ...
        s   | 12  13  14  15  16  17  18  19  20  21
        h2d | ... ... ... x1a --- ... x1a --- ... ...
        gpu | a1a --- g1a ... ... e1a ... ... e1a m1a
    """
    graph = lab.decode(build(lab, routing=THREE))
    lab.check_order(graph, OPS, "a0a g0a e0a x0a e0a t0a c0a r0a m0a a1a g1a x1a e1a x1a e1a m1a")
    lab.check(graph, OPS, SECONDS, picture)


def test_prefill(lab):
    """Layer 0: 1 is there for two tokens and 0 for one; 3 comes for two, 2 goes for one."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11
        h2d | ... ... ... x0a --- ... ... ... ... ... r0a ...
        gpu | a0a --- g0a e0a ... e0a ... ... ... ... ... m0a
        d2h | ... ... ... ... ... ... t0a ... ... ... ... ...
        cpu | ... ... ... ... ... ... ... c0a --- --- ... ...
        s   | 12  13  14  15  16  17  18  19  20  21
        h2d | ... ... ... x1a --- ... x1a --- ... ...
        gpu | a1a --- g1a ... ... e1a ... ... e1a m1a
    """
    lab.check(lab.prefill(build(lab, routing=THREE)), PREFILL, SECONDS, picture)


def test_all_on_the_cpu(lab):
    """One sequence, nothing stays: the CPU computes both experts, and the GPU waits meanwhile."""
    script = {(0, 0): [[0, 1]], (0, 1): [[2, 3]], (1, 0): [[5, 2]], (1, 1): [[7, 0]]}
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11
        h2d | ... ... ... ... ... ... ... ... ... ... r0a ...
        gpu | a0a --- g0a ... ... ... ... ... ... ... ... m0a
        d2h | ... ... ... t0a ... ... ... ... ... ... ... ...
        cpu | ... ... ... ... c0a --- --- c0a --- --- ... ...
        s   | 12  13  14  15  16  17  18  19  20  21  22  23
        h2d | ... ... ... ... ... ... ... ... ... ... r1a ...
        gpu | a1a --- g1a ... ... ... ... ... ... ... ... m1a
        d2h | ... ... ... t1a ... ... ... ... ... ... ... ...
        cpu | ... ... ... ... c1a --- --- c1a --- --- ... ...
    """
    with patch("sim.scenario.RecordingIssuer", Noting):
        schedule = build(lab, 1, experts_on_gpu=0.0, routing=Scripted(script=script))
    graph = lab.decode(schedule)
    lab.check(graph, OPS, SECONDS, picture)
    computed = [name[1:] for name in schedule.node.issuer.named if name[0] == "cpu_experts"]
    assert computed[4:] == [(0, 2), (0, 5), (1, 0), (1, 7)]


def test_all_on_the_gpu(lab):
    graph = lab.decode(build(lab, 1, experts_on_gpu=None))
    lab.check_order(graph, OPS, "a0a g0a e0a m0a a1a g1a e1a m1a")
    assert lab.moved(graph) == {}


def test_the_thread_waits_for_both_devices(lab):
    """For the gates, for the GPU's experts before the tokens go, for each of the CPU's."""
    graph = lab.decode(build(lab, routing=THREE))
    waited = [lab.order(graph, OPS)[task] for wait in graph.waits[:-1] for task in wait.tasks]
    assert waited == ["g0a", "e0a", "c0a", "g1a"]
    _, run = lab.simulate(graph, OPS, SECONDS, sync_s=1.0)
    assert run.makespan_s == 22 + 4 + 1  # each wait costs a second, and the end of the step


def test_a_token_of_two_experts_travels_once(lab):
    """2 by two tokens and 3 by one of them: three choices, two tokens; all of layer 1 are there."""
    script = {(step, 0): [[2, 3], [0, 1], [2, 0]] for step in (0, 1)}
    script |= {(step, 1): [[0, 1]] * 3 for step in (0, 1)}
    graph = lab.decode(build(lab, cpu_tokens=2, routing=Scripted(script=script)))
    assert lab.order(graph, OPS).count("c0a") == 2
    moved = lab.moved(graph)
    assert moved == {"d2h_pageable": 2 * (8_192 + 2 * 10), "h2d_pageable": 2 * 8_192}


def test_shared_experts_and_dense_layers(lab):
    """DeepSeek-V2-Lite: layer 0 is dense, the others have two experts that all tokens take."""
    graph = lab.decode(build(lab, 1, model="deepseek-v2-lite", experts_on_gpu=0.0))
    lab.check_order(graph, OPS, "a0a f0a a1a g1a h1a t1a" + 6 * " c1a" + " r1a m1a")


def test_encoder_and_decoder_alike(lab):
    """Switch-Base-8, layers 1: expert 4 of the encoder comes for two tokens, 1 goes for one."""
    script = {(0, 1): [[4], [4], [1]], (1, 1): [[6]]}
    options = {"model": "switch-base-8", "prompts": (3,), "experts_on_gpu": 0.0}
    prefill = lab.prefill(build(lab, 1, routing=Scripted(script=script), **options))
    lab.check_order(prefill, PREFILL, "a0a f0a a1a g1a x1a e1a t1a c1a r1a m1a")
    schedule = build(lab, 1, routing=Scripted(script=script), **options)
    lab.check_order(lab.decode(schedule), OPS, "a0a f0a a1a g1a t1a c1a r1a m1a")
    assert schedule.facts() == {"hit_rate": 0.0, "cpu_share": 2 / 4}


# -- who stays, who goes ---------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "copies"), [(0, 2), (1, 1), (2, 0), (None, 0)])
def test_the_threshold(lab, limit, copies):
    """Experts 2 and 5 of layer 0 are away, for one and two tokens; the authors' rule is nine."""
    graph = lab.decode(build(lab, routing=THREE, cpu_tokens=limit))
    of_layer_0 = [name for name in lab.order(graph, OPS) if name == "x0a"]
    assert len(of_layer_0) == copies


def test_the_authors_threshold():
    """7 for each token against 70: nine are cheaper on the CPU, ten are not."""
    assert 7 * CPU_TOKENS < 70 <= 7 * (CPU_TOKENS + 1)


def test_popular_experts_stay(lab):
    """The four that most tokens take, of both layers together."""
    routing = Routing(kind="zipf", exponent=1.5, seed=1)
    schedule = build(lab, routing=routing)
    counts = {
        spec: np.bincount(routing.expert_ids(20_000, 8, 2, spec.index, 1).ravel(), minlength=8)
        for spec in schedule.moe_layers
    }
    best = sorted(((n, e, s.index) for s in counts for e, n in enumerate(counts[s])), reverse=True)
    kept = {(e, spec.index) for spec, experts in schedule.popular.items() for e in experts}
    assert kept == {(e, layer) for _, e, layer in best[:4]}
    assert [len(buffer.holds) for buffer in schedule.kept.values()] == [2, 2]


def test_where_none_is_popular_all_layers_keep_the_same(lab):
    assert list(build(lab).popular.values()) == [[0, 1], [0, 1]]


def test_as_many_stay_as_fit():
    """In 95 % of the T4's memory, beside all else; one more would not."""
    scenario = Question("mixtral-8x7b", "gcp-t4-24c", "mtbench").scenario()
    schedule = place(scenario, Fiddler, make_policy({"N": 4, "mu": 4}))
    pool = schedule.node.issuer.pools["gpu"]
    kept = sum(map(len, schedule.popular.values()))
    assert 0 < kept < 32 * 8
    assert pool.peak_bytes <= 0.95 * pool.capacity_bytes < pool.peak_bytes + EXPERT
    assert kept == round(sum(b.bytes for b in schedule.kept.values()) / EXPERT)


def test_facts(lab):
    """Six choices of each layer: 3 of layer 0 are there; 1 is the CPU's; prefill 3 and 1 of 12."""
    schedule = build(lab, routing=THREE)
    lab.decode(schedule)
    assert schedule.facts() == {"hit_rate": 6 / 24, "cpu_share": 2 / 24}
    assert build(lab).facts() == {}


# -- limits ----------------------------------------------------------------------------------------

PRESETS = ("mixtral-8x7b", "mixtral-8x22b", "dbrx", "qwen3-30b-a3b", "deepseek-v2-lite")
SWITCH = ("switch-base-8", "switch-base-64", "switch-base-128", "switch-large-128")


@pytest.mark.parametrize("name", [*PRESETS, *SWITCH])
def test_every_model_with_experts(lab, name):
    schedule = lab.build(Fiddler, 1, mu=1, model=name, layers=4, experts_on_gpu=0.0)
    assert "cpu_experts" in lab.decode(schedule).ops
    assert load_model(name).n_experts > 1


def test_without_experts_everything_is_resident(lab):
    graph = lab.decode(lab.build(Fiddler, 3, mu=3, model="opt-6.7b"))
    lab.check_order(graph, OPS, "a0a f0a a1a f1a")


def test_limits(lab):
    with pytest.raises(BadInput, match="mu = 2 must equal N = 4"):
        lab.build(Fiddler, 4, mu=2)
    with pytest.raises(BadInput, match="uses one GPU, but 2 were asked for"):
        lab.build(Fiddler, 4, mu=4, gpus=2)
    with pytest.raises(BadInput, match="no use for sync = True"):
        build(lab, sync=True)
    scenario = Question("mixtral-8x7b", "gcp-t4-24c", "mtbench").scenario()
    half = make_policy({"N": 1, "mu": 1, "experts_on_gpu": 0.5})
    with pytest.raises(Infeasible, match=r"pool 'gpu' is too small: 'popular experts\["):
        place(scenario, Fiddler, half)
