"""ZeRO-Inference: one layer of prefetch, one batch; worked out by hand."""

import pytest

from schedules.batch.zero_inference import ZeROInference
from schedules.errors import BadInput

OPS = {
    "w": "load_weights",
    "g": "all_gather",  # assembles a layer from its shards, also on one GPU
    "c": "compute_layer",
    "f": "prefill_layer",
}
LAYER = 2 * (41_943_040 + 4_096 + 8 * 3 * 4_096 * 14_336 + 8 * 4_096 + 4_096)  # bytes


def test_issue_order(lab):
    """The next layer's weights are asked for before a layer is computed."""
    schedule = lab.build(ZeROInference, 4, mu=4, layers=3)
    prefill = "w0 g0  w1 g1 f0a  w2 g2 f1a  w0 g0 f2a"
    lab.check_order(lab.prefill(schedule), OPS, prefill)
    decode = "w1 g1 c0a  w2 g2 c1a  w0 g0 c2a"
    lab.check_order(lab.decode(lab.build(ZeROInference, 4, mu=4, layers=3)), OPS, decode)


def test_the_link_is_the_bottleneck(lab):
    """The link never rests; the GPU waits for every layer but the first, which came before."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11
        h2d | w1  --- --- g1  w2  --- --- g2  w0  --- --- g0
        gpu | c0a --- --- ... c1a --- --- ... c2a --- --- ...
    """
    graph = lab.decode(lab.build(ZeROInference, 4, mu=4, layers=3))
    lab.check(graph, OPS, {"w": 3, "g": 1, "c": 3}, picture)


def test_the_gpu_is_the_bottleneck(lab):
    """One layer of prefetch: w2 waits for c0a (6) to leave its place, w0 for c1a (12)."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17
        h2d | w1  --- --- g1  ... ... w2  --- --- g2  ... ... w0  --- --- g0  ... ...
        gpu | c0a --- --- --- --- --- c1a --- --- --- --- --- c2a --- --- --- --- ---
    """
    graph = lab.decode(lab.build(ZeROInference, 4, mu=4, layers=3))
    lab.check(graph, OPS, {"w": 3, "g": 1, "c": 6}, picture)


def test_prefill(lab):
    """The first layer's weights come first; the second w0 is for the first decode step."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15
        h2d | w0  --- --- g0  w1  --- --- g1  w2  --- --- g2  w0  --- --- g0
        gpu | ... ... ... ... f0a --- ... ... f1a --- ... ... f2a --- ... ...
    """
    graph = lab.prefill(lab.build(ZeROInference, 4, mu=4, layers=3))
    lab.check(graph, OPS, {"w": 3, "g": 1, "f": 2}, picture)


@pytest.mark.parametrize("layers", [2, 3])
def test_all_steps_have_the_same_structure(lab, layers):
    schedule = lab.build(ZeROInference, 4, mu=4, layers=layers)
    first = lab.decode(schedule)
    for step in (2, 3):
        schedule.run_decode_step(step)
        assert schedule.node.issuer.take().same_structure(first)


def test_two_gpus_share_the_layers_and_the_sequences(lab):
    """Each GPU copies its half of a layer, both gather the other's at once, and both compute.

    w0 waits for its turn behind g1 (5); the layers are whole on both GPUs when c1 starts.
    """
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9
        h2d0 | w1  --- --- g1  --- w0  --- --- g0  ---
        h2d1 | w1  --- --- g1  --- w0  --- --- g0  ---
        gpu0 | c0a --- --- --- ... c1a --- --- --- ...
        gpu1 | c0b --- --- --- ... c1b --- --- --- ...
    """
    graph = lab.decode(lab.build(ZeROInference, 4, mu=4, gpus=2))
    lab.check(graph, OPS, {"w": 3, "g": 2, "c": 4}, picture)


def test_bytes_of_a_step(lab):
    """All layers once, whatever the batch; the cache stays on the GPU."""
    s1 = {"mu": 504, "layers": 32, "prompts": (418,), "gen_len": 32}
    graph = lab.decode(lab.build(ZeROInference, 504, pinned=True, **s1))
    assert lab.moved(graph) == {"h2d": 32 * LAYER}
    graph = lab.decode(lab.build(ZeROInference, 504, pinned=False, **s1))
    assert lab.moved(graph) == {"h2d_pageable": 32 * LAYER}


def test_bytes_of_a_step_on_two_gpus(lab):
    graph = lab.decode(lab.build(ZeROInference, 5, mu=5, gpus=2, pinned=True))
    for lane in ("h2d0", "h2d1"):
        assert lab.sizes(graph, "load_weights", lane) == [LAYER / 2] * 2
        assert lab.sizes(graph, "all_gather", lane) == [LAYER / 2] * 2
    assert lab.moved(graph) == {"h2d": 2 * LAYER, "peer": 2 * LAYER}


def test_weights_are_page_locked_when_they_fit(lab):
    schedule = lab.build(ZeROInference, 4, mu=4)
    assert schedule.node.pinned
    assert schedule.node.issuer.peak_bytes["pinned"] == 2 * LAYER
    assert lab.build(ZeROInference, 4, mu=4, pinned=False).node.issuer.peak_bytes["pinned"] == 0


MATRIX = 2 * 131_072_000  # the embedding, or the head; the last norm has 8192 bytes


def test_memory_peak(lab):
    """Two layers, embedding and head, hidden states and the cache of 504 x (418 + 32).

    Beside them the logits, 504 x 418 x 32000 x (2 + 4) B, and as many normed hidden states; they
    may use the embedding's place.
    """
    s1 = {"mu": 504, "layers": 32, "prompts": (418,), "gen_len": 32}
    node = lab.build(ZeROInference, 504, **s1).node
    cache = 504 * (418 + 32) * 4_096 * 32
    logits = 504 * 418 * (32_000 * 6 + 8_192)
    expected = 2 * LAYER + 2 * MATRIX + 8_192 + 504 * 8_192 + cache + logits - MATRIX
    assert node.issuer.peak_bytes["gpu"] == expected


def test_few_logits_fit_where_the_layers_work(lab):
    """4 x 10 positions: a loop over experts holds 3 x 14336 + 4096 elements for each, 2 B.

    That, with two hidden states, is less than the logits, which fit into the embedding's place.
    """
    node = lab.build(ZeROInference, 4, mu=4).node
    cache, hidden = 4 * (10 + 8) * 4_096 * 2, 4 * 8_192
    layer = 40 * (3 * 14_336 + 4_096) * 2 + 2 * 40 * 8_192
    assert layer < 40 * (32_000 * 6 + 8_192) < layer + MATRIX
    expected = 2 * LAYER + 2 * MATRIX + 8_192 + hidden + cache + layer
    assert node.issuer.peak_bytes["gpu"] == expected


def test_the_batch_is_one(lab):
    with pytest.raises(BadInput, match="mu = 2 must equal N = 4"):
        lab.build(ZeROInference, 4, mu=2)
    with pytest.raises(BadInput, match="needs N >= 2, a sequence for each GPU"):
        lab.build(ZeROInference, 1, mu=1, gpus=2)
