"""CGOPipe on two GPUs: heads and experts' widths are split (Megatron-LM), by hand."""

import pytest

from schedules.batch.cgopipe import CGOPipe
from schedules.batch.fastdecode import FastDecode

OPS = {
    "q": "pre_attention",
    "o": "offload_qkv",
    "t": "cpu_attention",
    "p": "pin_weights",
    "h": "load_hidden",
    "w": "load_weights",
    "u": "out_projection",
    "f": "ffn",
    "r": "all_reduce",
    "y": "head",
    "g": "gather_logits",
}
S1 = {"mu": 36, "layers": 32, "prompts": (418,), "gen_len": 32}


def test_issue_order(lab):
    """Every action on GPU 0, then GPU 1; partial sums are reduced after each half of PostAttn.

    The output head follows the last sum, on both; then each gets the other's logits.
    """
    order = """
        q0a q0a  o0a o0a  t0a t0a  p0a p0a
        q0b q0b  o0b o0b  t0b t0b  p0b p0b
        h0a h0a  w0a w0a  u0a u0a  r0a  f0a f0a  r0a  y0a y0a  g0a
        h0b h0b  w0b w0b  u0b u0b  r0b  f0b f0b  r0b  y0b y0b  g0b
    """
    lab.check_order(lab.decode(lab.build(CGOPipe, 2, layers=1, gpus=2)), OPS, order)


def test_cpu_and_pinning_thread_serve_both_gpus(lab):
    """What the CPU does for GPU 1 comes second, so GPU 1's link runs a second behind GPU 0's.

    The first all-reduce waits for GPU 1's half (6); from then on the GPUs keep step. After the
    last layer comes the head: y1a has to wait for the sum (21), and u1b behind it in the queue.
    """
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12
        pin  | p1a p1a p1b p1b ... p0a p0a p0b p0b ... ... ... ...
        h2d0 | ... ... ... h0a w1a h0b w1b ... ... ... ... ... ...
        h2d1 | ... ... ... ... h0a w1a h0b w1b ... ... ... ... ...
        gpu0 | q0a q0b ... ... u0a ... ... f0a --- ... q1a u0b ...
        gpu1 | q0a q0b ... ... ... u0a ... f0a --- ... q1a u0b ...
        d2h0 | ... o0a o0b ... ... ... ... ... ... ... ... o1a ...
        d2h1 | ... o0a o0b ... ... ... ... ... ... ... ... o1a ...
        cpu  | ... ... t0a t0a t0b t0b ... ... ... ... ... ... t1a
        peer | ... ... ... ... ... ... r0a ... ... r0a ... ... r0b

        s    | 13  14  15  16  17  18  19  20  21  22  23  24  25  26  27  28  29
        pin  | ... ... ... ... ... ... ... ... ... ... ... ... ... ... ... ... ...
        h2d0 | h1a ... w0a ... ... ... h1b w0b ... ... ... ... ... ... ... ... ...
        h2d1 | ... h1a w0a ... ... ... ... h1b w0b ... ... ... ... ... ... ... ...
        gpu0 | f0b --- ... q1b u1a ... f1a --- ... y1a u1b ... f1b --- ... y1b ...
        gpu1 | f0b --- ... q1b u1a ... f1a --- ... y1a u1b ... f1b --- ... y1b ...
        d2h0 | ... ... ... ... o1b ... ... ... ... ... ... ... ... ... ... ... ...
        d2h1 | ... ... ... ... o1b ... ... ... ... ... ... ... ... ... ... ... ...
        cpu  | t1a ... ... ... ... t1b t1b ... ... ... ... ... ... ... ... ... ...
        peer | ... ... r0b ... ... r1a ... ... r1a ... g1a r1b ... ... r1b ... g1b
    """
    seconds = dict.fromkeys("qotphwuryg", 1) | {"f": 2}
    lab.check(lab.decode(lab.build(CGOPipe, 2, gpus=2)), OPS, seconds, picture)


def test_bytes_of_a_step(lab):
    """Half of what one GPU would move on each; hidden states are reduced twice a layer, whole.

    A ring of two moves 2 (2 - 1) / 2 = 1 times the hidden states over the link. Each GPU gets the
    other's half of the logits of 36 positions: 36 x 32000 / 2 of 2 B.
    """
    graph = lab.decode(lab.build(CGOPipe, 504, gpus=2, **S1))
    for lane in ("h2d0", "h2d1"):
        assert lab.sizes(graph, "load_weights", lane) == [201_326_592 / 2] * 448
        assert lab.sizes(graph, "load_hidden", lane) == [36 * 8_192 / 2] * 448
    for lane in ("d2h0", "d2h1"):
        assert lab.sizes(graph, "offload_qkv", lane) == [36 * 12_288 / 2] * 448
    assert lab.sizes(graph, "pin_weights", "pin") == [201_326_592 / 2] * (2 * 448)
    assert lab.sizes(graph, "all_reduce", "peer") == [36 * 8_192] * (2 * 448)
    assert lab.sizes(graph, "gather_logits", "peer") == [36 * 32_000] * 14
    assert len(graph) == (8 * 2 + 2) * 448 + 3 * 14


def test_memory_of_each_gpu(lab):
    """Weights, head, queries, keys, values and outputs are halved; hidden states are not.

    Each has the whole embedding, 131,072,000 parameters, and the logits of one micro-batch, 36 x
    32000. The host holds all experts once, pages of both GPUs in staging, and the whole cache.
    """
    node = lab.build(CGOPipe, 504, gpus=2, **S1).node
    workspace = node.work.workspace_bytes(node.spec(0), 36 * 418, 36)
    layers = 32 * (41_943_040 + 32_768 + 2 * 4_096)  # half of them, 2 B each
    resident = layers + 2 * 131_072_000 + 131_072_000 + 4_096
    small = 504 * (8_192 + 12_288 / 2 + 8_192 / 2) + 2 * 36 * 418 * (8_192 + 4_096 / 2)
    small += 36 * 32_000 * 2
    peaks = node.issuer.peak_bytes
    assert peaks["gpu0"] == peaks["gpu1"] == resident + 2_818_572_288 + int(workspace) + small
    staging = 2_818_572_288 + 504 * (12_288 + 8_192) + 2 * 504 * 418 * 8_192
    assert peaks["pinned"] == staging
    assert peaks["cpu"] == 90_194_313_216 + 504 * 450 * 4_096 * 32 + staging


def test_prefill_reduces_twice_a_layer_and_gathers_the_last_positions_logits(lab):
    ops = {
        "w": "load_weights",
        "h": "load_hidden",
        "a": "prefill_attention",
        "f": "prefill_ffn",
        "r": "all_reduce",
        "k": "store_kv",
        "s": "store_hidden",
        "y": "head",
        "g": "gather_logits",
    }
    graph = lab.prefill(lab.build(CGOPipe, 1, gpus=2, prompts=(10,)))
    layers = """
        w0 w0
        a0a a0a  r0a  f0a f0a  r0a  k0a k0a  s0a s0a   w1 w1
        h1a h1a  a1a a1a  r1a  f1a f1a  r1a  y1a y1a  g1a  k1a k1a   w0 w0
    """
    lab.check_order(graph, ops, layers)
    assert lab.sizes(graph, "all_reduce") == [10 * 8_192] * 4
    assert lab.sizes(graph, "store_kv") == [10 * 4_096 / 2] * 4
    assert lab.sizes(graph, "store_hidden") == [10 * 8_192] * 2
    assert lab.sizes(graph, "gather_logits") == [32_000]


@pytest.mark.parametrize("kind", [CGOPipe, FastDecode])
def test_each_gpu_has_its_issuing_thread(lab, kind):
    graph = lab.decode(lab.build(kind, 2, gpus=2))
    hosts = {"h2d0": 0, "gpu0": 0, "d2h0": 0, "h2d1": 1, "gpu1": 1, "d2h1": 1, "peer": 0}
    for stream, host in zip(graph.stream, graph.host, strict=True):
        assert hosts.get(graph.streams[stream], host) == host
    assert set(graph.host.tolist()) == {0, 1}
