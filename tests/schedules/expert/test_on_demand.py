"""On-demand experts: gate, wait, copy what it has chosen, compute; worked out by hand."""

from unittest.mock import patch

import numpy as np
import pytest

from schedules.errors import BadInput, Infeasible
from schedules.expert import OnDemand
from schedules.graph import RecordingIssuer
from schedules.hf_config import from_hf_config
from schedules.routing import Routing
from sim import simulate
from sim.cost import Roofline
from sim.generation import Generation
from sim.hardware import load_hardware
from tests.strategies import WatchedIssuer

OPS = {
    "a": "compute_attention",
    "g": "gate",
    "x": "load_expert",
    "e": "experts",
    "f": "compute_ffn",  # of a layer without experts
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"a": 2, "g": 1, "x": 2, "e": 1, "f": 1}
EXPERT = 2 * 3 * 4_096 * 14_336  # bytes of one of Mixtral's


class Scripted(Routing):
    """Routing by hand: the ids of every token, by (step, layer); each row is a token."""

    script: dict[tuple[int, int], list[list[int]]]

    def expert_ids(self, tokens, n_experts, top_k, layer, step, micro_batch=0):
        ids = np.array(self.script[step, layer])
        assert ids.shape == (tokens, top_k)
        return ids


def build(lab, n=1, routing=None, **changes):
    return lab.build(OnDemand, n, mu=n, routing=routing, **{"sync": False} | changes)


ONE = Scripted(
    script={
        (0, 0): [[0, 1], [2, 3], [1, 3]],  # three prompt tokens
        (0, 1): [[6, 7], [6, 7], [7, 6]],
        (1, 0): [[5, 2]],
        (1, 1): [[7, 0]],
    }
)


# -- order and time --------------------------------------------------------------------------------


def test_issue_order(lab):
    schedule = build(lab, prompts=(3,), routing=ONE)
    prefill = "a0a g0a x0a x0a x0a x0a e0a  a1a g1a x1a x1a e1a"
    lab.check_order(lab.prefill(schedule), PREFILL, prefill)
    decode = "a0a g0a x0a x0a e0a  a1a g1a x1a x1a e1a"
    lab.check_order(lab.decode(build(lab, prompts=(3,), routing=ONE)), OPS, decode)


def test_decode_step(lab):
    """Copies begin when the gate has ended, the experts when both have come: nothing overlaps."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15
        h2d | ... ... ... x0a --- x0a --- ... ... ... ... x1a --- x1a --- ...
        gpu | a0a --- g0a ... ... ... ... e0a a1a --- g1a ... ... ... ... e1a
    """
    graph = lab.decode(build(lab, prompts=(3,), routing=ONE))
    lab.check(graph, OPS, SECONDS, picture)


def test_prefill_copies_all_experts_that_the_prompt_takes(lab):
    """Layer 0: tokens take 0 1, 2 3 and 1 3, four experts; layer 1: all take 6 and 7."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19
        h2d | ... ... ... x0a --- x0a --- x0a --- x0a --- ... ... ... ... x1a --- x1a --- ...
        gpu | a0a --- g0a ... ... ... ... ... ... ... ... e0a a1a --- g1a ... ... ... ... e1a
    """
    graph = lab.prefill(build(lab, prompts=(3,), routing=ONE))
    lab.check(graph, PREFILL, SECONDS, picture)


def test_the_thread_waits_for_each_gate(lab):
    """Reading the expert ids back takes 1 s after each gate, and the end of the step 1 s more."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17
        h2d | ... ... ... ... x0a --- x0a --- ... ... ... ... ... x1a --- x1a --- ...
        gpu | a0a --- g0a ... ... ... ... ... e0a a1a --- g1a ... ... ... ... ... e1a
    """
    graph = lab.decode(build(lab, prompts=(3,), routing=ONE))
    assert [(wait.position, wait.tasks) for wait in graph.waits[:2]] == [(2, (1,)), (7, (6,))]
    assert len(graph.waits) == 3
    lab.check(graph, OPS, SECONDS, picture, sync_s=1.0)
    _, run = lab.simulate(graph, OPS, SECONDS, sync_s=1.0)
    assert (run.makespan_s, run.issuing_s.tolist()) == (19.0, [3.0])


@pytest.mark.parametrize("n", [1, 7])
def test_copies_never_run_beside_computations(lab, n):
    graph = lab.decode(build(lab, n, layers=3))
    bars, _ = lab.simulate(graph, OPS, {"a": 3, "g": 2, "x": 5, "e": 7})
    copies, computations = ([bar[1:3] for bar in bars if bar[0] == lane] for lane in ("h2d", "gpu"))
    assert copies
    for start, end in copies:
        assert all(end <= other[0] or other[1] <= start for other in computations)


# -- which experts ---------------------------------------------------------------------------------


class Noting(RecordingIssuer):
    """Keeps what each copy moves."""

    def __init__(self, *args):
        super().__init__(*args)
        self.moved = []

    def _issue(self, task, stream_id, dependencies, work, operands):
        super()._issue(task, stream_id, dependencies, work, operands)
        self.moved += [(*what[:2], what.expert) for what in operands.what]


@pytest.mark.parametrize(
    ("ids", "experts"),
    [
        ([[5, 2], [2, 5]], [2, 5]),  # the same two
        ([[5, 2], [2, 0]], [0, 2, 5]),
        ([[5, 2], [7, 0]], [0, 2, 5, 7]),
    ],
)
def test_each_chosen_expert_is_copied_once(lab, ids, experts):
    routing = Scripted(script={(0, 0): ids, (1, 0): ids})
    with patch("sim.scenario.RecordingIssuer", Noting):
        schedule = build(lab, 2, routing, layers=1, prompts=(1,))
    graph = lab.decode(schedule)
    assert schedule.node.issuer.moved == [(0, "expert", e) for e in (*experts, *experts)]
    assert lab.sizes(graph, "load_expert") == [EXPERT] * len(experts)


def test_the_tokens_of_each_expert_decide_the_work(lab):
    """Two tokens take 2 and 5, one of them 0: three experts are read; 2 x 2 rows are computed.

    A row has 2 x 3 x 4096 x 14336 flops; six launches for each expert.
    """
    ids = [[5, 2], [2, 0]]
    graph = lab.decode(
        build(lab, 2, Scripted(script={(0, 0): ids, (1, 0): ids}), layers=1, prompts=(1,))
    )
    work = graph.works[graph.work[-1]]
    head = build(lab).node.work.head(2)
    assert work.flops["gemm"] - head.flops["gemm"] == 4 * EXPERT
    assert work.calls - head.calls == 3 * 6
    inner = 2 * (2 * (2 * 4_096) + 2 * 2 * (2 * 4_096 + 3 * 14_336))  # activations, 2 B each
    assert work.bytes["gpu"] - head.bytes["gpu"] == 3 * EXPERT + inner


def test_drawn_routing_names_the_experts(lab):
    """Of every step, layer and token, as `Routing` draws them; without repetition."""
    routing = Routing(seed=3)
    schedule = build(lab, 5, routing, layers=2)
    schedule.run_prefill()
    schedule.node.issuer.take()
    for step in (1, 2, 3):
        schedule.run_decode_step(step)
        graph = schedule.node.issuer.take()
        for layer in (0, 1):
            ids = routing.expert_ids(5, 8, 2, layer, step)
            copies = (graph.layer == layer) & (graph.op == graph.ops.index("load_expert"))
            assert copies.sum() == len(set(ids.ravel().tolist()))


def test_steps_differ_so_all_are_simulated(lab):
    schedule = build(lab, 3, layers=2, gen_len=12)
    generation = Generation(schedule, Roofline(load_hardware("gcp-t4-24c")))
    assert not schedule.steps_alike
    assert not generation.alike
    assert generation.decode.shape[0] == 11
    assert len(set(generation.decode[:, 0].round(9).tolist())) > 2


def test_the_same_seed_gives_the_same_result_and_another_seed_another_one():
    def result(seed):
        question = ("on-demand", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 6, 3, 3)
        return simulate(*question, seed=seed).to_dict()

    assert result(1) == result(1)
    assert result(1)["makespan_s"] != result(2)["makespan_s"]


# -- amounts and memory ----------------------------------------------------------------------------


def test_bytes_of_a_step(lab):
    """Two experts a layer for one token, of 32 layers; page-locked or through the driver."""
    for pinned, link in ((True, "h2d"), (False, "h2d_pageable")):
        graph = lab.decode(build(lab, layers=32, pinned=pinned))
        assert lab.moved(graph) == {link: 32 * 2 * EXPERT}
        assert len(graph) == 32 * 5


RESIDENT = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)


def test_memory_peaks(lab):
    """Two layers: attention, router and norms, embedding and head; room for all eight experts.

    400 prompt tokens: a loop over experts holds 3 x 14336 + 4096 elements of each, and two hidden
    states; expert ids of 8 B and weights of 2 B for two choices. Cache: 4 x (100 + 8) tokens of
    4096 B a layer.
    """
    peaks = build(lab, 4, prompts=(100,), gen_len=8).node.issuer.peak_bytes
    workspace = 400 * (3 * 14_336 + 4_096) * 2 + 2 * 400 * 8_192
    small = 4 * 8_192 + 400 * 2 * (8 + 2) + 2 * 4 * 108 * 4_096
    assert peaks["gpu"] == RESIDENT + 8 * EXPERT + workspace + small
    assert peaks["cpu"] == peaks["pinned"] == 2 * 8 * EXPERT
    pageable = build(lab, 4, prompts=(100,), gen_len=8, pinned=False).node.issuer.peak_bytes
    assert pageable == peaks | {"pinned": 0}


def test_there_is_room_for_what_a_layer_can_choose_and_no_more(lab):
    """One sequence with a prompt of one token takes two experts, of three tokens at most six."""
    peaks = [build(lab, prompts=(n,)).node.issuer.peak_bytes["gpu"] for n in (1, 3, 4, 5)]
    per_token = (3 * 14_336 + 4_096) * 2 + 2 * 8_192 + 2 * 10 + 2 * 4_096  # as above
    steps = [peaks[1] - peaks[0], peaks[2] - peaks[1], peaks[3] - peaks[2]]
    assert steps == [4 * EXPERT + 2 * per_token, 2 * EXPERT + per_token, per_token]


def test_experts_that_host_memory_cannot_hold():
    """90.19 GB of them; the T4's host has 206 GB."""
    machine = load_hardware("gcp-t4-24c").with_rate("cpu.memory", 0.4)
    with pytest.raises(Infeasible, match=r"pool 'cpu' is too small: 'host weights\[decoder 2"):
        simulate("on-demand", "mixtral-8x7b", machine, "mtbench", 3, 6, 6)


# -- other models ----------------------------------------------------------------------------------

QWEN2_MOE = {
    "model_type": "qwen2_moe",
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 2,  # layers 1, 3, ... have experts
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "torch_dtype": "float32",
}


def test_dense_layers_stay_on_the_gpu(lab):
    """Layers 0 and 2 are dense: 3 x 64 x 96 parameters each; an expert has 3 x 64 x 32, of 4 B."""
    spec = from_hf_config(QWEN2_MOE)
    assert [layer.is_moe for layer in spec.decoder_layers] == [False, True, False, True]
    with patch("sim.scenario.RecordingIssuer", WatchedIssuer):
        schedule = build(lab, model=spec, layers=4, prompts=(1,))
    order = "a0a f0a  a1a g1a x1a x1a e1a  a2a f2a  a3a g3a x3a x3a e3a"
    graph = lab.decode(schedule)
    lab.check_order(graph, OPS, order)
    assert lab.sizes(graph, "load_expert") == [3 * 64 * 32 * 4] * 4
    (dense,) = (b for b in schedule.node.issuer.buffers if b.name == "dense FFNs")
    assert dense.bytes == 2 * 3 * 64 * 96 * 4
    assert [span[:2] for span in dense.holds] == [(0, "experts"), (2, "experts")]
    assert schedule.node.issuer.peak_bytes["cpu"] == 2 * 6 * 3 * 64 * 32 * 4


def test_shared_experts_are_resident_and_computed_with_the_chosen_ones(lab):
    """3 x 64 x 48 parameters and a gate of 64, for each of five tokens."""
    work = build(lab, model=from_hf_config(QWEN2_MOE)).node.work
    layer = work.model.decoder_layers[1]
    found = work.routed_experts(layer, 5, (4, 6))
    routed = 2 * 10 * 3 * 64 * 32
    assert found.flops == {"gemm": routed + 2 * 5 * (3 * 64 * 48 + 64)}


def test_an_encoder_s_experts_come_on_demand_too(lab):
    """Switch-Base-8: layers 0 are dense, in layers 1 each token takes one of eight experts.

    Prefill runs the encoder, whose last layer yields the keys of all cross-attentions; decode runs
    the decoder. An expert has 2 x 768 x 3072 parameters of 4 B.
    """
    script = {(0, 1): [[4], [4], [1]], (1, 1): [[6]]}
    changes = {"model": "switch-base-8", "prompts": (3,), "routing": Scripted(script=script)}
    prefill = lab.prefill(build(lab, **changes))
    lab.check_order(prefill, PREFILL, "a0a f0a  a1a g1a x1a x1a e1a")
    assert lab.sizes(prefill, "load_expert") == [18_874_368] * 2
    last = prefill.works[prefill.work[-1]]
    keys = build(lab, **changes).node.work.cross_keys(3)
    assert last.calls == 2 * 6 + keys.calls
    decode = lab.decode(build(lab, **changes))
    lab.check_order(decode, OPS, "a0a f0a  a1a g1a x1a e1a")


def test_without_experts_everything_is_resident(lab):
    graph = lab.decode(build(lab, 3, model="opt-6.7b"))
    lab.check_order(graph, OPS, "a0a f0a a1a f1a")
    assert lab.moved(graph) == {}


def test_limits(lab):
    with pytest.raises(BadInput, match="mu = 2 must equal N = 4"):
        lab.build(OnDemand, 4, mu=2)
    with pytest.raises(BadInput, match="uses one GPU, but 2 were asked for"):
        lab.build(OnDemand, 4, mu=4, gpus=2)
    with pytest.raises(
        BadInput, match=r"has no use for r_w = 0.5; it takes N, mu, cache, cache_ratio,"
    ):
        build(lab, r_w=0.5)
