"""One stage of FusionAI's pipeline: what it holds, and when a micro-batch has a place on it."""

import pytest

from schedules.batch.fusionai import FusionAI
from schedules.model_presets import load_model

PREFILL = {"c": "prefill_layer", "h": "send_hidden", "t": "send_tokens", "k": "cross_keys"}


def pipeline(lab, n=3, **changes):
    return lab.build(FusionAI, n, **({"mu": 1, "gpus": 2} | changes))


def test_a_prompt_waits_for_a_place(lab):
    """Three places on each GPU: d, the fourth, begins on stage 0 when a has left it, and may be
    sent when stage 1 is done with a.
    """
    schedule = pipeline(lab, 5)
    assert [schedule.stages[0].prompts.index(schedule.stages[0].prompt(j)) for j in range(5)] == [
        *(0, 1, 2),
        *(0, 1),
    ]
    graph = lab.prefill(schedule)
    order = lab.order(graph, PREFILL)
    for task, before in (("c0d", "h0a"), ("h0d", "c1a"), ("c0e", "h0b"), ("h0e", "c1b")):
        assert order.index(before) in graph.dependencies_of(order.index(task))


def test_the_keys_of_all_stages_are_those_of_the_model(lab):
    schedule = pipeline(lab, 1, model="switch-base-8", layers=4)
    graph = lab.prefill(schedule)
    whole = schedule.node.work.cross_keys(10)
    parts = [
        graph.works[w]
        for w, op in zip(graph.work, graph.op, strict=True)
        if graph.ops[op] == "cross_keys"
    ]
    assert len(parts) == 2
    assert sum(part.total_flops for part in parts) == whole.total_flops
    assert sum(part.total_bytes for part in parts) == whole.total_bytes


LAYER = 2 * (41_943_040 + 32_768 + 2 * 4_096 + 8 * 3 * 4_096 * 14_336)
EMBEDDING = 2 * 131_072_000


def test_memory_of_each_gpu(lab):
    """Three layers on two stages: one with the embedding, two with the head and its norm.

    Micro-batches of two prompts of 100 tokens, of which a stage holds three; a layer's workspace is
    that of the fused kernel, two choices of 3 x 14336 + 4096 elements a token, and two hidden
    states. The cache of 2 x 108 tokens of 4096 B; hidden states and 8-byte tokens of each new one.
    """
    schedule = pipeline(lab, 8, mu=2, layers=3, prompts=(100,), gen_len=8)
    workspace = 200 * 2 * (3 * 14_336 + 4_096) * 2 + 2 * 200 * 8_192
    same = workspace + 3 * 200 * 8_192 + 4 * 2 * 8_192 + 4 * 2 * 8
    cache = 4 * 2 * 108 * 4_096
    peaks = schedule.node.issuer.peak_bytes
    assert peaks["gpu0"] == LAYER + EMBEDDING + same + cache
    assert peaks["gpu1"] == 2 * LAYER + EMBEDDING + 2 * 4_096 + same + 2 * cache
    assert peaks["cpu"] == peaks["pinned"] == 0


@pytest.mark.parametrize("model", ["mixtral-8x7b", "opt-6.7b", "switch-base-8", "deepseek-v2-lite"])
@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_the_stages_hold_the_model_and_nothing_twice_but_a_tied_embedding(lab, model, gpus):
    spec = load_model(model).with_layers(6)
    schedule = pipeline(lab, 4, model=spec, layers=6, gpus=gpus)
    twice = spec.head_matrix_parameters if spec.tied_embeddings and gpus > 1 else 0
    held = sum(stage.weight_bytes for stage in schedule.stages)
    assert held == (spec.parameters + twice) * spec.bytes_per_parameter


def test_layers_are_divided_as_evenly_as_they_can_be(lab):
    schedule = pipeline(lab, layers=10, gpus=4, model="opt-6.7b")
    parts = [[spec.index for spec in stage.decode_layers] for stage in schedule.stages]
    assert parts == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
