"""CGOPipe against algorithm 1 of MoE-Lightning (arXiv 2411.11217), worked out by hand."""

import pytest

from schedules.batch.cgopipe import CGOPipe
from schedules.errors import BadInput

OPS = {
    "q": "pre_attention",  # PreAttn
    "o": "offload_qkv",  # OffloadQKV
    "t": "cpu_attention",  # CPUAttn
    "p": "pin_weights",  # CtoPin
    "h": "load_hidden",  # LoadHidden
    "w": "load_weights",  # PinToGPU
    "f": "post_attention",  # PostAttn
}


# -- issue order ------------------------------------------------------------------------------


def test_issue_order_is_algorithm_1(lab):
    """Prologue of two micro-batches; look-ahead of two, wrapping to the next layer; drain.

    The pages of the layer after the last one are those of layer 0, for the next step.
    """
    algorithm = """
        q0a o0a t0a p1a
        q0b o0b t0b p1b
        h0a w1a f0a  q0c o0c t0c p1c
        h0b w1b f0b  q1a o1a t1a p0a
        h0c w1c f0c  q1b o1b t1b p0b
        h1a w0a f1a  q1c o1c t1c p0c
        h1b w0b f1b
        h1c w0c f1c
    """
    lab.check_order(lab.decode(lab.build(CGOPipe, 3)), OPS, algorithm)


def test_issue_order_of_every_action_over_three_layers_and_five_micro_batches(lab):
    """The loops of algorithm 1, written out; 15 slots, the last two without a look-ahead."""
    slots = [(i, j) for i in range(3) for j in "abcde"]

    def start(i, j):
        return [f"q{i}{j}", f"o{i}{j}", f"t{i}{j}", f"p{(i + 1) % 3}{j}"]

    expected = start(0, "a") + start(0, "b")
    for k, (i, j) in enumerate(slots):
        expected += [f"h{i}{j}", f"w{(i + 1) % 3}{j}", f"f{i}{j}"]
        expected += start(*slots[k + 2]) if k + 2 < 15 else []
    graph = lab.decode(lab.build(CGOPipe, 5, layers=3))
    assert lab.order(graph, OPS) == expected


def test_every_action_has_its_stream(lab):
    graph = lab.decode(lab.build(CGOPipe, 3))
    tasks = zip(graph.op, graph.stream, strict=True)
    where = {(graph.ops[op], graph.streams[stream]) for op, stream in tasks}
    assert where == {
        ("pre_attention", "gpu"),
        ("offload_qkv", "d2h"),
        ("cpu_attention", "cpu"),
        ("pin_weights", "pin"),
        ("load_hidden", "h2d"),
        ("load_weights", "h2d"),
        ("post_attention", "gpu"),
    }


def test_the_host_never_waits_inside_a_step(lab):
    graph = lab.decode(lab.build(CGOPipe, 3))
    assert [wait.position for wait in graph.waits] == [len(graph)]


# -- decode steps, by the bottleneck ------------------------------------------------------------


def test_pinning_is_the_bottleneck(lab):
    """A page takes 4 s to pin: the pin lane is busy from 0 to 24, and all else follows it.

    f1a waits for w1c (13), the last page of its layer; p0a waits for nothing but p1c, since its
    place in staging was left at 6 by w1a.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12
        pin | p1a --- --- --- p1b --- --- --- p1c --- --- --- p0a
        h2d | ... ... ... ... h0a w1a h0b ... w1b ... ... h0c w1c
        gpu | q0a q0b ... ... ... f0a --- q0c f0b --- q1a ... f0c
        d2h | ... o0a o0b ... ... ... ... ... o0c ... ... o1a ...
        cpu | ... ... t0a --- t0b --- ... ... ... t0c --- ... t1a

        s   | 13  14  15  16  17  18  19  20  21  22  23  24
        pin | --- --- --- p0b --- --- --- p0c --- --- --- ...
        h2d | ... h1a ... w0a ... h1b ... w0b h1c ... ... w0c
        gpu | --- q1b f1a --- q1c ... f1b --- ... f1c --- ...
        d2h | ... ... o1b ... ... o1c ... ... ... ... ... ...
        cpu | --- ... ... t1b --- ... t1c --- ... ... ... ...
    """
    seconds = {"q": 1, "o": 1, "t": 2, "p": 4, "h": 1, "w": 1, "f": 2}
    lab.check(lab.decode(lab.build(CGOPipe, 3)), OPS, seconds, picture)


def test_the_gpu_is_the_bottleneck(lab):
    """PostAttn takes 4 s: the GPU never waits after its first hidden states have come (4).

    w0a has its page in staging since 8, but the GPU's slot of layer 0 is in use until f0c ends
    (18), so the link waits. p0c waits for w1c (13) to leave its place in staging.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15
        pin | p1a --- p1b --- p1c --- p0a --- p0b --- ... ... ... p0c --- ...
        h2d | ... ... ... h0a w1a h0b w1b ... ... ... ... h0c w1c ... ... ...
        gpu | q0a q0b ... ... f0a --- --- --- q0c f0b --- --- --- q1a f0c ---
        d2h | ... o0a o0b ... ... ... ... ... ... o0c ... ... ... ... o1a ...
        cpu | ... ... t0a t0b ... ... ... ... ... ... t0c ... ... ... ... t1a

        s   | 16  17  18  19  20  21  22  23  24  25  26  27  28  29  30  31
        pin | ... ... ... ... ... ... ... ... ... ... ... ... ... ... ... ...
        h2d | h1a ... w0a ... ... h1b w0b ... ... ... h1c w0c ... ... ... ...
        gpu | --- --- q1b f1a --- --- --- q1c f1b --- --- --- f1c --- --- ---
        d2h | ... ... ... o1b ... ... ... ... o1c ... ... ... ... ... ... ...
        cpu | ... ... ... ... t1b ... ... ... ... t1c ... ... ... ... ... ...
    """
    seconds = {"q": 1, "o": 1, "t": 1, "p": 2, "h": 1, "w": 1, "f": 4}
    lab.check(lab.decode(lab.build(CGOPipe, 3)), OPS, seconds, picture)


def test_cpu_attention_is_the_bottleneck(lab):
    """Attention takes 5 s: with a look-ahead of two the CPU is busy from 2 to 32 without a gap."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17
        pin | p1a --- p1b --- p1c --- ... ... ... p0a --- ... ... ... p0b --- ... ...
        h2d | ... ... ... ... ... ... ... h0a w1a ... ... ... h0b w1b ... ... ... h0c
        gpu | q0a q0b ... ... ... ... ... ... f0a --- q0c ... ... f0b --- q1a ... ...
        d2h | ... o0a o0b ... ... ... ... ... ... ... ... o0c ... ... ... ... o1a ...
        cpu | ... ... t0a --- --- --- --- t0b --- --- --- --- t0c --- --- --- --- t1a

        s   | 18  19  20  21  22  23  24  25  26  27  28  29  30  31  32  33  34  35
        pin | ... p0c --- ... ... ... ... ... ... ... ... ... ... ... ... ... ... ...
        h2d | w1c ... ... ... h1a w0a ... ... ... h1b w0b ... ... ... h1c w0c ... ...
        gpu | f0c --- q1b ... ... f1a --- q1c ... ... f1b --- ... ... ... f1c --- ...
        d2h | ... ... ... o1b ... ... ... ... o1c ... ... ... ... ... ... ... ... ...
        cpu | --- --- --- --- t1b --- --- --- --- t1c --- --- --- --- ... ... ... ...
    """
    seconds = {"q": 1, "o": 1, "t": 5, "p": 2, "h": 1, "w": 1, "f": 2}
    lab.check(lab.decode(lab.build(CGOPipe, 3)), OPS, seconds, picture)


def test_the_link_is_the_bottleneck_with_four_micro_batches(lab):
    """A page takes 3 s on the link, which hidden states and pages share in turn: busy 3 to 35.

    Hidden states wait for one page at most: h0b is ready at 4 and goes at 7.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17
        pin | p1a p1b p1c p1d ... ... ... p0a ... ... ... p0b ... ... ... p0c ... ...
        h2d | ... ... ... h0a w1a --- --- h0b w1b --- --- h0c w1c --- --- h0d w1d ---
        gpu | q0a q0b ... ... f0a q0c ... ... f0b q0d ... ... f0c q1a ... ... f0d q1b
        d2h | ... o0a o0b ... ... ... o0c ... ... ... o0d ... ... ... o1a ... ... ...
        cpu | ... ... t0a t0b ... ... ... t0c ... ... ... t0d ... ... ... t1a ... ...

        s   | 18  19  20  21  22  23  24  25  26  27  28  29  30  31  32  33  34
        pin | ... p0d ... ... ... ... ... ... ... ... ... ... ... ... ... ... ...
        h2d | --- h1a w0a --- --- h1b w0b --- --- h1c w0c --- --- h1d w0d --- ---
        gpu | ... ... f1a q1c ... ... f1b q1d ... ... f1c ... ... ... f1d ... ...
        d2h | o1b ... ... ... o1c ... ... ... o1d ... ... ... ... ... ... ... ...
        cpu | ... t1b ... ... ... t1c ... ... ... t1d ... ... ... ... ... ... ...
    """
    seconds = {"q": 1, "o": 1, "t": 1, "p": 1, "h": 1, "w": 3, "f": 1}
    lab.check(lab.decode(lab.build(CGOPipe, 4)), OPS, seconds, picture)


# -- few micro-batches --------------------------------------------------------------------------


def test_with_one_micro_batch_the_look_ahead_is_one(lab):
    """Attention of the next layer needs this layer's output: nothing can run further ahead."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13
        pin | p1a --- --- ... ... ... ... p0a --- --- ... ... ... ...
        h2d | ... ... ... ... h0a w1a --- ... ... ... ... h1a w0a ---
        gpu | q0a ... ... ... ... f0a --- q1a ... ... ... ... f1a ---
        d2h | ... o0a ... ... ... ... ... ... o1a ... ... ... ... ...
        cpu | ... ... t0a --- ... ... ... ... ... t1a --- ... ... ...
    """
    seconds = {"q": 1, "o": 1, "t": 2, "p": 3, "h": 1, "w": 2, "f": 2}
    graph = lab.decode(lab.build(CGOPipe, 1))
    lab.check_order(graph, OPS, "q0a o0a t0a p1a h0a w1a f0a q1a o1a t1a p0a h1a w0a f1a")
    lab.check(graph, OPS, seconds, picture)


def test_with_two_micro_batches_the_look_ahead_is_a_whole_layer(lab):
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14
        pin | p1a --- p1b --- ... p0a --- p0b --- ... ... ... ... ... ...
        h2d | ... ... ... h0a w1a h0b w1b ... ... h1a w0a ... h1b w0b ...
        gpu | q0a q0b ... ... f0a --- q1a f0b --- q1b f1a --- ... f1b ---
        d2h | ... o0a o0b ... ... ... ... o1a ... ... o1b ... ... ... ...
        cpu | ... ... t0a t0b ... ... ... ... t1a ... ... t1b ... ... ...
    """
    seconds = {"q": 1, "o": 1, "t": 1, "p": 2, "h": 1, "w": 1, "f": 2}
    lab.check(lab.decode(lab.build(CGOPipe, 2)), OPS, seconds, picture)


def test_the_last_micro_batch_may_be_smaller(lab):
    """Five sequences in threes of at most two: 2, 2 and 1; there are three pages all the same."""
    graph = lab.decode(lab.build(CGOPipe, 5, mu=2))
    assert lab.sizes(graph, "offload_qkv") == [2 * 12_288, 2 * 12_288, 12_288] * 2
    assert lab.sizes(graph, "load_hidden") == [2 * 8_192, 2 * 8_192, 8_192] * 2
    assert lab.sizes(graph, "load_weights") == [2_818_572_288 / 3] * 6
    even = lab.decode(lab.build(CGOPipe, 3))
    assert lab.order(graph, OPS) == lab.order(even, OPS)
    assert graph.dependencies.tolist() == even.dependencies.tolist()


# -- from one step to the next -----------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_all_steps_have_the_same_structure(lab, layers):
    schedule = lab.build(CGOPipe, 3, layers=layers)
    first = lab.decode(schedule)
    for step in (2, 3):
        schedule.run_decode_step(step)
        assert schedule.node.issuer.take().same_structure(first)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_step_finds_its_first_layer_where_the_step_before_has_put_it(lab, layers):
    """With an odd number of layers the two slots change places from step to step."""
    schedule = lab.build(CGOPipe, 3, layers=layers)
    node, weights = schedule.node, schedule.weights
    (gpu,) = node.gpus
    schedule.run_prefill()
    for step in (1, 2, 3):
        coming = weights.resident(gpu, layers)
        schedule.run_decode_step(step)
        assert weights.resident(gpu, 0) == coming
        assert weights.resident(gpu, 1) != coming


# -- prefill ------------------------------------------------------------------------------------

PREFILL_OPS = {
    "w": "load_weights",
    "h": "load_hidden",
    "f": "prefill_layer",
    "k": "store_kv",
    "s": "store_hidden",
}


def test_prefill_goes_layer_by_layer_with_unpaged_weights(lab):
    """The GPU holds two micro-batches' hidden states: f0c waits for s0a, h1a for s0c, h1c for k1a.

    The second w0 is for the first decode step.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19  20
        h2d | w0  --- --- --- w1  --- --- --- ... ... ... ... h1a h1b ... ... h1c w0  --- --- ---
        gpu | ... ... ... ... f0a --- f0b --- f0c --- ... ... ... f1a --- f1b --- f1c --- ... ...
        d2h | ... ... ... ... ... ... k0a s0a k0b s0b k0c s0c ... ... ... k1a ... k1b ... k1c ...
    """
    graph = lab.prefill(lab.build(CGOPipe, 3))
    lab.check(graph, PREFILL_OPS, {"w": 4, "h": 1, "f": 2, "k": 1, "s": 1}, picture)
    order = """
        w0
        f0a k0a s0a  f0b k0b s0b  f0c k0c s0c  w1
        h1a f1a k1a  h1b f1b k1b  h1c f1c k1c  w0
    """
    lab.check_order(graph, PREFILL_OPS, order)


def test_bytes_of_the_prefill(lab):
    """504 prompts of 418 tokens, 32 layers: hidden states rest in host memory between layers.

    8192 bytes of hidden states and 4096 of keys and values per token; the weights of 32 layers and,
    for the first decode step, of layer 0 once more.
    """
    graph = lab.prefill(lab.build(CGOPipe, 504, mu=36, layers=32, prompts=(418,), gen_len=32))
    tokens = 504 * 418
    assert lab.moved(graph) == {
        "h2d_pageable": 33 * 2_818_572_288,
        "h2d": tokens * 8_192 * 31,
        "d2h": tokens * 8_192 * 31 + tokens * 4_096 * 32,
    }


def test_an_encoder_reads_the_prompt(lab):
    """Switch-Base-8: layers 0 are dense, layers 1 have 8 experts of 2 x 768 x 3072 x 4 B.

    The last encoder layer yields the cross-attention's keys and values of both decoder layers,
    2 x 12 x 64 x 4 B per token each. The last weights are the decoder's first layer's.
    """
    graph = lab.prefill(lab.build(CGOPipe, 2, model="switch-base-8"))
    layers = """
        w0
        f0a s0a  f0b s0b  w1
        h1a f1a k1a  h1b f1b k1b  w0
    """
    lab.check_order(graph, PREFILL_OPS, layers)
    assert lab.sizes(graph, "load_weights") == [18_874_368, 8 * 18_874_368, 18_874_368]
    assert lab.sizes(graph, "store_kv") == [2 * 10 * 6_144] * 2
    decode = lab.decode(lab.build(CGOPipe, 2, model="switch-base-8"))
    pages = [8 * 18_874_368 / 2] * 2 + [18_874_368 / 2] * 2
    assert lab.sizes(decode, "load_weights") == pages


# -- amounts ------------------------------------------------------------------------------------


def s1(lab, **policy):
    """Mixtral 8x7B, 504 prompts of 418 tokens in 14 micro-batches of 36; 32 tokens each."""
    policy = {"mu": 36, "layers": 32, "prompts": (418,), "gen_len": 32} | policy
    return lab.build(CGOPipe, 504, **policy)


def test_tasks_of_a_step(lab):
    """Seven actions for each of 32 layers and 14 micro-batches."""
    assert len(lab.decode(s1(lab))) == 7 * 32 * 14 == 3_136


def test_bytes_of_a_step(lab):
    """Experts of a layer: 8 x 3 x 4096 x 14336 x 2 B = 2,818,572,288 B, a page is a 14th of them.

    A sequence takes 32 x 128 queries and 2 x 8 x 128 keys and values to the host, 12,288 B, and
    gets 32 x 128 outputs back, 8,192 B.
    """
    graph = lab.decode(s1(lab))
    assert lab.sizes(graph, "pin_weights") == [201_326_592] * 448
    assert lab.sizes(graph, "load_weights") == [201_326_592] * 448
    assert lab.sizes(graph, "load_hidden") == [36 * 8_192] * 448
    assert lab.sizes(graph, "offload_qkv") == [36 * 12_288] * 448
    assert lab.moved(graph) == {
        "pin": 90_194_313_216,
        "h2d": 90_194_313_216 + 132_120_576,
        "d2h": 198_180_864,
    }


def test_cpu_attention_reads_the_context_of_its_step(lab):
    """Step 3 attends to the prompt and three tokens: 4096 B each, beside 12,288 + 8,192."""
    graph = lab.decode(s1(lab, layers=2), step=3)
    read = {
        graph.works[graph.work[i]].bytes["cpu"]
        for i in range(len(graph))
        if graph.ops[graph.op[i]] == "cpu_attention"
    }
    assert read == {36 * ((418 + 3) * 4_096 + 12_288 + 8_192)}


def test_memory_peaks(lab):
    """By hand, beside the workspace of the widest layer, which is the layer's affair.

    Resident: attention 41,943,040, router 32,768, two norms of 4096 parameters per layer;
    embedding and head of 131,072,000 each, the last norm. Streamed: slots of two layers. Prefill:
    two micro-batches' hidden states (8192 B a token) and their layer's new KV (4096 B).
    """
    schedule = s1(lab)
    node = schedule.node
    work, widest = node.work, node.batches[0]
    workspace = work.workspace_bytes(node.spec(0), widest.prompt_tokens, widest.size)
    resident = 32 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)
    small = 504 * (8_192 + 12_288 + 8_192) + 2 * 36 * 418 * (8_192 + 4_096)
    staging = 2_818_572_288 + 504 * (12_288 + 8_192) + 504 * 418 * 8_192
    peaks = node.issuer.peak_bytes
    assert peaks["gpu"] == resident + 2 * 2_818_572_288 + int(workspace) + small
    assert peaks["pinned"] == staging
    assert peaks["cpu"] == 90_194_313_216 + 504 * (418 + 32) * 4_096 * 32 + staging
    assert peaks["disk"] == 0


# -- policies -----------------------------------------------------------------------------------


def test_page_locked_weights_need_no_pinning_and_no_staging(lab):
    graph = lab.decode(lab.build(CGOPipe, 3, pinned=True))
    algorithm = """
        q0a o0a t0a  q0b o0b t0b
        h0a w1a f0a  q0c o0c t0c
        h0b w1b f0b  q1a o1a t1a
        h0c w1c f0c  q1b o1b t1b
        h1a w0a f1a  q1c o1c t1c
        h1b w0b f1b
        h1c w0c f1c
    """
    lab.check_order(graph, OPS, algorithm)
    assert set(lab.moved(graph)) == {"h2d", "d2h"}
    peaks = s1(lab, pinned=True).node.issuer.peak_bytes
    assert peaks["pinned"] == 90_194_313_216 + 504 * (12_288 + 8_192) + 504 * 418 * 8_192


def test_a_share_of_the_experts_stays_on_the_gpu(lab):
    """r_w = 1/4: every page is a quarter smaller, and a quarter of all experts is resident."""
    graph = lab.decode(s1(lab, r_w=0.25))
    assert lab.sizes(graph, "load_weights") == [150_994_944] * 448
    assert lab.moved(graph)["pin"] == 67_645_734_912
    more = s1(lab, r_w=0.25).node.issuer.peak_bytes["gpu"] - s1(lab).node.issuer.peak_bytes["gpu"]
    assert more == 32 * 704_643_072 - 2 * 704_643_072


def test_with_all_experts_on_the_gpu_no_weights_move(lab):
    schedule = s1(lab, r_w=1.0)
    prefill, graph = lab.prefill(schedule), lab.decode(s1(lab, r_w=1.0))
    assert len(graph) == 5 * 448
    assert lab.moved(graph) == {"h2d": 132_120_576, "d2h": 198_180_864}
    assert "h2d_pageable" not in lab.moved(prefill)


def test_impossible_policies(lab):
    with pytest.raises(BadInput, match=r"r_c = 0.5 needs A_g = 1"):
        lab.build(CGOPipe, r_c=0.5)
    with pytest.raises(BadInput, match=r"has no use for r_h = 0.5"):
        lab.build(CGOPipe, r_h=0.5)
    with pytest.raises(BadInput, match=r"prefetches KV \(A_g = 1\) on one GPU, not 2"):
        lab.build(CGOPipe, gpus=2, A_g=1)
