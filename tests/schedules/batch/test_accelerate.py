"""Hugging Face accelerate's CPU offload: copy a module, run it, and nothing else; by hand."""

import pytest

from schedules.batch.accelerate import Accelerate
from schedules.errors import BadInput

OPS = {
    "w": "load_weights",
    "W": "load_weights (ffn)",
    "a": "compute_attention",
    "f": "compute_ffn",
}
SECONDS = {"w": 1, "W": 3, "a": 2, "f": 2}
ATTENTION = 2 * (41_943_040 + 4_096)  # bytes of a layer: four matrices and a norm
EXPERT = 2 * 3 * 4_096 * 14_336
ROUTER = 2 * (8 * 4_096 + 4_096)  # and a norm


def test_nothing_overlaps(lab):
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15
        h2d | w0a ... ... W0a --- --- ... ... w1a ... ... W1a --- --- ... ...
        gpu | ... a0a --- ... ... ... f0a --- ... a1a --- ... ... ... f1a ---
    """
    lab.check(lab.prefill(lab.build(Accelerate, 4, mu=4)), OPS, SECONDS, picture)
    graph = lab.decode(lab.build(Accelerate, 4, mu=4))
    lab.check(graph, OPS, SECONDS, picture)
    lab.check_order(graph, OPS, "w0a a0a W0a f0a w1a a1a W1a f1a")


def test_the_thread_waits_after_every_copy_and_every_module(lab):
    """Each wait costs 1 s, after which the next task is issued; one more ends the step, at 25."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11
        h2d | w0a ... ... ... ... W0a --- --- ... ... ... ...
        gpu | ... ... a0a --- ... ... ... ... ... f0a --- ...

        s   | 12  13  14  15  16  17  18  19  20  21  22  23
        h2d | w1a ... ... ... ... W1a --- --- ... ... ... ...
        gpu | ... ... a1a --- ... ... ... ... ... f1a --- ...
    """
    graph = lab.decode(lab.build(Accelerate, 4, mu=4))
    lab.check(graph, OPS, SECONDS, picture, sync_s=1.0)
    _, run = lab.simulate(graph, OPS, SECONDS, sync_s=1.0)
    assert (run.makespan_s, run.issuing_s.tolist()) == (25.0, [9.0])


def test_bytes_of_a_step(lab):
    """Every layer is copied whole, from pageable memory."""
    s1 = {"mu": 504, "layers": 32, "prompts": (418,), "gen_len": 32}
    graph = lab.decode(lab.build(Accelerate, 504, **s1))
    assert lab.moved(graph) == {"h2d_pageable": 32 * (ATTENTION + 8 * EXPERT + ROUTER)}
    assert len(graph) == 4 * 32


@pytest.mark.parametrize("n", [1, 2, 504])
def test_all_experts_are_copied_whether_or_not_they_are_chosen(lab, n):
    """All experts of a layer are one module: 8 of them also for one token, which takes two."""
    graph = lab.decode(lab.build(Accelerate, n, mu=n))
    assert lab.sizes(graph, "load_weights") == [ATTENTION, 8 * EXPERT + ROUTER] * 2
    graph = lab.prefill(lab.build(Accelerate, 1, prompts=(3,)))
    assert lab.sizes(graph, "load_weights") == [ATTENTION, 8 * EXPERT + ROUTER] * 2


def test_memory_peaks(lab):
    """One module, which may be the FFN with all its experts; embedding, head, cache."""
    node = lab.build(Accelerate, 4, mu=4, prompts=(100,), gen_len=8).node
    workspace = node.work.workspace_bytes(node.all_layers[0], 400, 4)
    embeddings = 2 * (2 * 131_072_000 + 4_096)
    small = 4 * 8_192 + 2 * 4 * 108 * 4_096
    ffn = 8 * EXPERT + ROUTER
    assert node.issuer.peak_bytes["gpu"] == embeddings + ffn + small + int(workspace)
    assert node.issuer.peak_bytes["cpu"] == 2 * (ATTENTION + ffn)
    assert node.issuer.peak_bytes["pinned"] == 0


def test_limits(lab):
    with pytest.raises(BadInput, match="mu = 2 must equal N = 4"):
        lab.build(Accelerate, 4, mu=2)
    with pytest.raises(BadInput, match="uses one GPU, but 2 were asked for"):
        lab.build(Accelerate, 4, mu=4, gpus=2)
    with pytest.raises(BadInput, match="has no use for pinned = True"):
        lab.build(Accelerate, 4, mu=4, pinned=True)
