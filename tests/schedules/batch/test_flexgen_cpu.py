"""FlexGen with CPU attention: the zig-zag, and a thread that waits for the CPU; by hand."""

import pytest

from schedules.batch.flexgen_cpu import FlexGenCPU
from schedules.errors import BadInput

OPS = {
    "p": "pin_weights",
    "P": "pin_weights (ffn)",
    "w": "load_weights",
    "W": "load_weights (ffn)",
    "h": "load_hidden",
    "s": "store_hidden",
    "q": "pre_attention",
    "o": "offload_qkv",
    "t": "cpu_attention",
    "l": "load_attended",
    "u": "out_projection",
    "f": "compute_ffn",
    "n": "store_kv",
    "a": "compute_attention",
}


def test_decode_step(lab):
    """The GPU waits for the CPU's attention in every iteration of an attention layer.

    Attention outputs queue behind what the link still copies: l0a is ready at 4 but waits for W0
    until 5, l1a is ready at 29 but waits for W1  and h1b until 31.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18
        h2d | W0  --- --- --- --- l0a ... ... ... ... ... l0b ... h0a ... ... ... l0c ...
        gpu | q0a ... ... ... ... ... u0a q0b ... ... ... ... u0b q0c ... ... ... ... u0c
        d2h | ... o0a ... ... ... ... ... s0a o0b ... ... ... ... s0b o0c ... ... ... ...
        cpu | ... ... t0a --- ... ... ... ... ... t0b --- ... ... ... ... t0c --- ... ...

        s   | 19  20  21  22  23  24  25  26  27  28  29  30  31  32
        h2d | w1  h0b h0c ... h1a ... W1  --- --- --- --- h1b l1a ...
        gpu | f0a --- f0b --- f0c --- q1a ... ... ... ... ... ... u1a
        d2h | s0c ... s0a ... s0b ... s0c o1a ... ... ... ... ... ...
        cpu | ... ... ... ... ... ... ... ... t1a --- ... ... ... ...

        s   | 33  34  35  36  37  38  39  40  41  42  43  44  45  46  47  48  49  50  51
        h2d | h1c ... ... ... l1b ... h1a ... ... ... l1c ... w0  h1b h1c ... ... ... ...
        gpu | q1b ... ... ... ... u1b q1c ... ... ... ... u1c f1a --- f1b --- f1c --- ...
        d2h | s1a o1b ... ... ... ... s1b o1c ... ... ... ... s1c ... s1a ... s1b ... s1c
        cpu | ... ... t1b --- ... ... ... ... t1c --- ... ... ... ... ... ... ... ... ...
    """
    graph = lab.decode(lab.build(FlexGenCPU, 3, pinned=True, r_w=0.6))
    seconds = {"w": 1, "W": 5, "h": 1, "s": 1, "q": 1, "o": 1, "t": 2, "l": 1, "u": 1, "f": 2}
    lab.check(graph, OPS, seconds, picture)


def test_issue_order(lab):
    """FlexGen's loops; no cache is loaded, and the CPU itself appends the new keys and values."""
    attention = "q{0} o{0} t{0} l{0} u{0}".format
    loops = f"""
        P0  W0          {attention("0a")}
                s0a     {attention("0b")}
                s0b h0a {attention("0c")}
        p1  w1  s0c h0b f0a
                s0a h0c f0b
                s0b h1a f0c
        P1  W1  s0c h1b {attention("1a")}
                s1a h1c {attention("1b")}
                s1b h1a {attention("1c")}
        p0  w0  s1c h1b f1a
                s1a h1c f1b
                s1b     f1c
                s1c
    """
    graph = lab.decode(lab.build(FlexGenCPU, 3, pinned=False, r_w=0.6))
    lab.check_order(graph, OPS, loops)


def test_the_issuing_thread_waits_for_each_attention(lab):
    """Nothing of the next actions, not even the attention's output, is issued before it ends."""
    graph = lab.decode(lab.build(FlexGenCPU, 3))
    order = lab.order(graph, OPS)
    single = [order[w.tasks[0]] for w in graph.waits if len(w.tasks) == 1]
    assert single == [f"t{layer}{j}" for layer in (0, 1) for j in "abc"]
    assert all(w.position == w.tasks[0] + 1 for w in graph.waits if len(w.tasks) == 1)


def test_synchronising_costs_time_of_the_issuing_thread(lab):
    """One micro-batch, one layer, everything on the GPU but the cache; each wait costs 3 s.

    t0a ends at 3, so l0a starts at 6; the barriers add 3 s each: after u0a (8), after f0a (13),
    after the epilogue (16), and at the end of the step (19).
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12
        h2d | ... ... ... ... ... ... l0a ... ... ... ... ... ...
        gpu | q0a ... ... ... ... ... ... u0a ... ... ... f0a ---
        d2h | ... o0a ... ... ... ... ... ... ... ... ... ... ...
        cpu | ... ... t0a ... ... ... ... ... ... ... ... ... ...
    """
    graph = lab.decode(lab.build(FlexGenCPU, 1, layers=1, r_w=1.0, r_h=1.0))
    seconds = {"q": 1, "o": 1, "t": 1, "l": 1, "u": 1, "f": 2}
    lab.check(graph, OPS, seconds, picture, sync_s=3.0)
    _, run = lab.simulate(graph, OPS, seconds, sync_s=3.0)
    assert run.makespan_s == 22.0


def test_prefill_is_flexgens(lab):
    loops = """
        w0
        W0          a0a
            s0a h0a a0b n0a
        w0  s0b h0b f0a n0b
            s0a     f0b
            s0b
    """
    graph = lab.prefill(lab.build(FlexGenCPU, 2, layers=1, pinned=True, r_w=0.6))
    lab.check_order(graph, OPS, loops)


def test_bytes_of_a_step(lab):
    """Weights once; 36 x 14 sequences take 12,288 B to the CPU and 8,192 B back in each layer."""
    s1 = {"mu": 36, "layers": 32, "prompts": (418,), "gen_len": 32}
    graph = lab.decode(lab.build(FlexGenCPU, 504, pinned=False, **s1))
    weights = 32 * 2 * (41_943_040 + 4_096 + 8 * 3 * 4_096 * 14_336 + 8 * 4_096 + 4_096)
    assert lab.moved(graph) == pytest.approx(
        {
            "pin_parallel": weights,
            "h2d": weights + 63 * 504 * 8_192,
            "d2h": 64 * 504 * 8_192,
            "d2h_pageable": 504 * 12_288 * 32,
            "h2d_pageable": 504 * 8_192 * 32,
        },
        rel=1e-12,
    )


def test_the_logits_of_a_prompt_may_use_a_free_place_for_keys_and_values(lab):
    """OPT-30B, two prompts of 256 tokens, two micro-batches; bytes for each token.

    A layer: up projection and output (4 + 1) x 7168 x 2, two hidden states of 14,336: 100,352.
    The head: 50272 logits of 2 B and a hidden state, 114,880, of which 28,672 find room where one
    of the two micro-batches' keys and values were. So the layer decides.
    """
    node = lab.build(FlexGenCPU, 2, model="opt-30b", prompts=(256,), r_w=1.0, r_h=1.0).node
    work = node.work
    weights = sum(work.layer_bytes(spec) for spec in node.all_layers) + work.embedding_bytes()
    hidden, new_kv = 2 * 14_336, 2 * 28_672
    small = 4 * 14_336  # queries, keys and values, and the attention's output, of one sequence
    assert node.issuer.peak_bytes["gpu"] == weights + 256 * (100_352 + hidden + new_kv) + small


def test_attention_works_on_float32_copies(lab):
    """In FlexGen's torch kernel 42 bytes are touched for each element of Mixtral's cache (2 x 8 x
    128 a token): 2 read, 4 + 4 for the float32 copy, 2 x 4 x 4 to repeat it for 4 query heads."""
    graph = lab.decode(lab.build(FlexGenCPU, 1, layers=1, prompts=(100,)))
    (work,) = (w for w in graph.works if w.device == "cpu")
    assert work.bytes["cpu"] == 101 * 2_048 * 42 + 12_288 + 8_192
    assert work.dtype == "float32"


def test_the_cache_stays_in_host_memory(lab):
    with pytest.raises(BadInput, match=r"has no use for r_c = 0.5"):
        lab.build(FlexGenCPU, r_c=0.5)
