"""FlexGen's zig-zag on one GPU against its loops (`flex_opt.py`), worked out by hand.

Its layers are attentions (small letters) and FFNs (capitals for their weights). With r_w = 0.6 one
tensor of each is streamed, the query matrix or the gates with the up projections.
"""

from unittest.mock import patch

import pytest

from schedules.batch.flexgen import FlexGen
from schedules.errors import BadInput
from tests.strategies import WatchedIssuer

OPS = {
    "p": "pin_weights",
    "P": "pin_weights (ffn)",
    "w": "load_weights",
    "W": "load_weights (ffn)",
    "v": "pin_kv",
    "k": "load_kv",
    "h": "load_hidden",
    "s": "store_hidden",
    "n": "store_kv",  # the new keys and values
    "a": "compute_attention",
    "f": "compute_ffn",
}
SECONDS = {"p": 1, "P": 2, "w": 1, "W": 3, "v": 1, "k": 1, "h": 1, "s": 1, "n": 1, "a": 2, "f": 2}
S1 = {"mu": 36, "layers": 32, "prompts": (418,), "gen_len": 32}

ATTENTION = 2 * (41_943_040 + 4_096)  # bytes of a layer: four matrices and a norm
FFN = 2 * (8 * 3 * 4_096 * 14_336 + 8 * 4_096 + 4_096)  # experts, router and a norm


# -- decode -------------------------------------------------------------------------------------


def test_issue_order(lab):
    """load_weight(next layer), load_cache(next), store_hidden(previous), load_hidden(next),
    compute, store_cache(previous); an attention's last micro-batch is followed by the FFN's first.

    Keys and values are two tensors. The first attention's hidden states are looked up, not loaded.
    """
    loops = """
        v0a k0a v0a k0a
        P0  W0  v0b k0b v0b k0b         a0a
                v0c k0c v0c k0c s0a     a0b n0a
                                s0b h0a a0c n0b
        p1  w1                  s0c h0b f0a n0c
                                s0a h0c f0b
                v1a k1a v1a k1a s0b h1a f0c
        P1  W1  v1b k1b v1b k1b s0c h1b a1a
                v1c k1c v1c k1c s1a h1c a1b n1a
                                s1b h1a a1c n1b
        p0  w0                  s1c h1b f1a n1c
                                s1a h1c f1b
                                s1b     f1c
                                s1c
    """
    graph = lab.decode(lab.build(FlexGen, 3, pinned=False, r_w=0.6))
    lab.check_order(graph, OPS, loops)


def test_a_barrier_ends_every_iteration(lab):
    """After each of 2 x 2 x 3 iterations, after the epilogue, and at the end of the step."""
    graph = lab.decode(lab.build(FlexGen, 3, pinned=False))
    order = lab.order(graph, OPS)
    expected = "a0a n0a n0b n0c f0b f0c a1a n1a n1b n1c f1b f1c s1c s1c"
    assert [order[wait.position - 1] for wait in graph.waits] == expected.split()
    lanes = [{graph.streams[graph.stream[i]] for i in wait.tasks} for wait in graph.waits]
    assert lanes[0] == {"h2d", "gpu"}  # no store has been issued yet
    assert all(lane == {"h2d", "gpu", "d2h"} for lane in lanes[1:-1])


def test_decode_step_with_pageable_weights(lab):
    """The issuing thread pins weights and KV itself, so a0a is issued only at 6.

    Weights move in a layer's first iteration alone, which therefore lasts longest: 2-9, 15-18,
    24-32, 38-41. All lanes wait for the slowest at each barrier, as the GPU from 30 to 34.
    """
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15
        host | v0a v0a P0  --- v0b v0b ... ... ... v0c v0c ... ... ... ... p1
        h2d  | ... k0a k0a ... W0  --- --- k0b k0b ... k0c k0c ... h0a ... ...
        gpu  | ... ... ... ... ... ... a0a --- ... ... ... a0b --- a0c --- ...
        d2h  | ... ... ... ... ... ... ... ... ... ... ... s0a n0a s0b n0b ...

        s    | 16  17  18  19  20  21  22  23  24  25  26  27  28  29  30  31
        host | ... ... ... ... v1a v1a ... ... P1  --- v1b v1b ... ... ... ...
        h2d  | w1  h0b h0c ... ... k1a k1a h1a ... ... W1  --- --- k1b k1b h1b
        gpu  | f0a --- f0b --- ... ... f0c --- ... ... ... ... a1a --- ... ...
        d2h  | s0c n0c s0a ... ... ... s0b ... ... ... ... ... s0c ... ... ...

        s    | 32  33  34  35  36  37  38  39  40  41  42  43  44  45
        host | v1c v1c ... ... ... ... p0  ... ... ... ... ... ... ...
        h2d  | ... k1c k1c h1c h1a ... ... w0  h1b h1c ... ... ... ...
        gpu  | ... ... a1b --- a1c --- ... f1a --- f1b --- f1c --- ...
        d2h  | ... ... s1a n1a s1b n1b ... s1c n1c s1a ... s1b ... s1c
    """
    graph = lab.decode(lab.build(FlexGen, 3, pinned=False, r_w=0.6))
    lab.check(graph, OPS, SECONDS, picture)


def test_a_single_micro_batch_loads_its_own_hidden_states(lab):
    """`generation_loop_overlap_single_batch`: the cache comes a layer ahead, hidden states do not.

    With one micro-batch the FFN's iteration loads the next attention's cache.
    """
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12
        host | v0a v0a ... ... ... ... v1a v1a ... ... ... ... ...
        h2d  | ... k0a k0a W0  --- --- w1  k1a k1a h0a ... ... ...
        gpu  | ... ... ... a0a --- ... ... ... ... ... f0a --- ...
        d2h  | ... ... ... ... ... s0a ... ... n0a ... ... ... s0a

        s    | 13  14  15  16  17  18  19  20  21  22  23  24
        host | ... ... ... ... ... ... ... ... ... ... ... ...
        h2d  | W1  --- --- h1a ... ... ... w0  h1a ... ... ...
        gpu  | ... ... ... ... a1a --- ... ... ... f1a --- ...
        d2h  | ... ... ... ... ... ... s1a n1a ... ... ... s1a
    """
    graph = lab.decode(lab.build(FlexGen, 1, pinned=True, r_w=0.6))
    lab.check(graph, OPS, SECONDS, picture)


@pytest.mark.parametrize("n", [1, 3])
def test_new_keys_and_values_do_not_wait_for_the_next_cache(lab, n):
    """FlexGen writes new keys and values to a buffer of their own (`cache_write_buf`).

    So n0a starts when the stores lane and the issuing thread are free for it, however long (9 s)
    the cache takes that comes meanwhile: k0c, or with one micro-batch k1a.
    """
    graph = lab.decode(lab.build(FlexGen, n, pinned=True, r_w=0.6))
    bars, _ = lab.simulate(graph, OPS, SECONDS | {"k": 9})
    pinned = [bar for bar in bars if bar[3] == ("v0c" if n == 3 else "v1a")]
    (store,) = [bar for bar in bars if bar[3] == "n0a"]
    after_hidden = 1 if n == 3 else 0  # s0a goes first when there are several micro-batches
    assert store[1] == max(end for _, _, end, _ in pinned) + after_hidden


def test_each_tensor_travels_while_the_next_is_pinned(lab):
    """r_w = 0: query, key, value and output matrix, or gates with up projections, and down."""
    graph = lab.decode(lab.build(FlexGen, 3, pinned=False))
    assert lab.sizes(graph, "load_weights") == pytest.approx(
        [FFN * 2 / 3, FFN / 3, *(ATTENTION * share for share in (0.4, 0.1, 0.1, 0.4))] * 2,
        rel=1e-12,
    )
    assert lab.sizes(graph, "pin_weights") == lab.sizes(graph, "load_weights")
    bars, _ = lab.simulate(graph, OPS, SECONDS | {"P": 2, "W": 2})
    first = [bar[:3] for bar in bars if bar[3] in ("P0", "W0")]
    assert first == [("h2d", 4, 6), ("h2d", 6, 8), ("host", 2, 4), ("host", 4, 6)]


# -- prefill ------------------------------------------------------------------------------------


def test_prefill_with_page_locked_weights(lab):
    """No cache is loaded; the keys and values of a micro-batch are stored in the next iteration."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14
        h2d | w0  W0  --- --- ... ... h0a ... w1  h0b h0c ... h1a ... W1
        gpu | ... a0a --- ... a0b --- a0c --- f0a --- f0b --- f0c --- a1a
        d2h | ... ... ... ... s0a n0a s0b n0b s0c n0c s0a ... s0b ... s0c

        s   | 15  16  17  18  19  20  21  22  23  24  25  26  27  28
        h2d | --- --- h1b h1c ... h1a ... w0  h1b h1c ... ... ... ...
        gpu | --- ... ... a1b --- a1c --- f1a --- f1b --- f1c --- ...
        d2h | ... ... ... s1a n1a s1b n1b s1c n1c s1a ... s1b ... s1c
    """
    graph = lab.prefill(lab.build(FlexGen, 3, pinned=True, r_w=0.6))
    lab.check(graph, OPS, SECONDS, picture)


def test_the_end_of_an_encoder_makes_all_keys_and_values_that_are_stored(lab):
    """Switch-Base-8, one layer each: the FFN of the encoder, then the store of its micro-batch."""
    with patch("sim.scenario.RecordingIssuer", WatchedIssuer):
        schedule = lab.build(FlexGen, 3, layers=1, model="switch-base-8")
    order = lab.order(lab.prefill(schedule), OPS)
    accesses = schedule.node.issuer.accesses
    for micro_batch in "abc":
        made = accesses[order.index(f"f0{micro_batch}")].writes
        (source,) = accesses[order.index(f"n0{micro_batch}")].reads
        assert source in made


# -- amounts and policies -----------------------------------------------------------------------


def test_bytes_of_a_step(lab):
    """Step 2 of 36 x 14: all weights once, 419 tokens of KV in and one out for every sequence.

    Hidden states (8192 B) are stored after each of 64 layers and loaded before all but the first.
    """
    graph = lab.decode(lab.build(FlexGen, 504, pinned=False, **S1), step=2)
    weights, cache = 32 * (ATTENTION + FFN), 504 * 419 * 4_096 * 32
    assert lab.moved(graph) == pytest.approx(
        {
            "pin_parallel": weights + cache,
            "h2d": weights + cache + 63 * 504 * 8_192,
            "d2h": 64 * 504 * 8_192,
            "d2h_pageable": 504 * 4_096 * 32,
        },
        rel=1e-12,
    )
    assert lab.sizes(graph, "load_kv") == [36 * 419 * 4_096 / 2] * (2 * 32 * 14)


def test_bytes_of_the_prefill(lab):
    """The first attention's weights come twice: before the prefill, and for the first step."""
    graph = lab.prefill(lab.build(FlexGen, 504, pinned=True, **S1))
    tokens = 504 * 418
    assert lab.moved(graph) == pytest.approx(
        {
            "h2d": 32 * (ATTENTION + FFN) + ATTENTION + 63 * tokens * 8_192,
            "d2h": 64 * tokens * 8_192,
            "d2h_pageable": tokens * 4_096 * 32,
        },
        rel=1e-12,
    )


def test_page_locked_weights_are_not_pinned_again_but_the_cache_is(lab):
    graph = lab.decode(lab.build(FlexGen, 3, pinned=True, r_w=0.6))
    on_host = [name for name in lab.order(graph, OPS) if name[0] in "pPv"]
    assert on_host == [f"v{layer}{j}" for layer in (0, 1) for j in "aabbcc"]


def test_weights_are_placed_by_whole_tensors(lab):
    """A tensor is on the GPU if its middle lies in the last share r_w of its layer's weights.

    Middles: query 20 %, key 45 %, value 55 %, output 80 %; gates and up 33 %, down 83 %.
    """

    def streamed(r_w):
        graph = lab.decode(lab.build(FlexGen, 3, r_w=r_w, pinned=True))
        return sum(lab.sizes(graph, "load_weights")) / 2

    assert streamed(0.0) == streamed(0.1) == pytest.approx(ATTENTION + FFN, rel=1e-12)
    assert streamed(0.3) == pytest.approx(ATTENTION * 0.6 + FFN * 2 / 3, rel=1e-12)
    assert streamed(0.5) == pytest.approx(ATTENTION * 0.5 + FFN * 2 / 3, rel=1e-12)
    assert streamed(0.7) == pytest.approx(ATTENTION * 0.4, rel=1e-12)
    assert streamed(1.0) == 0


def test_everything_on_the_gpu_leaves_only_computations_and_barriers(lab):
    graph = lab.decode(lab.build(FlexGen, 3, r_w=1.0, r_c=1.0, r_h=1.0))
    lab.check_order(graph, OPS, "a0a a0b a0c f0a f0b f0c a1a a1b a1c f1a f1b f1c")
    assert len(graph.waits) == 14
    assert lab.moved(graph) == {}


def test_shares_of_cache_and_hidden_states(lab):
    """r_c = 1/4: three quarters of each KV block travel. r_h = 1/2: of three micro-batches, 2 stay.

    So one micro-batch's hidden states (8192 B) are loaded three times and stored four times.
    """
    graph = lab.decode(lab.build(FlexGen, 3, r_w=1.0, r_c=0.25, r_h=0.5, prompts=(100,)))
    assert lab.moved(graph) == {
        "pin_parallel": 6 * 0.75 * 100 * 4_096,
        "h2d": 6 * 0.75 * 100 * 4_096 + 3 * 8_192,
        "d2h": 4 * 8_192,
        "d2h_pageable": 6 * 0.75 * 4_096,
    }


@pytest.mark.parametrize(
    ("r_h", "moving"), [(0, "abcd"), (0.125, "abcd"), (0.25, "bcd"), (0.8, "d"), (0.9, "")]
)
def test_hidden_states_stay_by_whole_micro_batches(lab, r_h, moving):
    """The first round(4 r_h) of four; the others are stored after each half and loaded again."""
    graph = lab.decode(lab.build(FlexGen, 4, layers=1, r_h=r_h, pinned=True))
    order = lab.order(graph, OPS)
    assert [name for name in order if name[0] == "h"] == [f"h0{j}" for j in moving]
    assert sorted(name for name in order if name[0] == "s") == sorted(f"s0{j}" for j in 2 * moving)


def test_the_last_micro_batch_may_be_smaller(lab):
    graph = lab.decode(lab.build(FlexGen, 5, mu=2))
    assert lab.sizes(graph, "store_hidden") == [2 * 8_192, 2 * 8_192, 8_192] * 4
    assert lab.sizes(graph, "store_kv") == [2 * 4_096, 2 * 4_096, 4_096] * 2


@pytest.mark.parametrize("n", [1, 3])
def test_all_steps_have_the_same_structure(lab, n):
    schedule = lab.build(FlexGen, n, layers=3)
    first = lab.decode(schedule)
    schedule.run_decode_step(2)
    assert schedule.node.issuer.take().same_structure(first)


def test_attention_is_on_the_gpu(lab):
    with pytest.raises(BadInput, match="has no use for A_g = 1"):
        lab.build(FlexGen, A_g=1)


# -- memory -------------------------------------------------------------------------------------

NEW_KV = 2 * 36 * 418 * 4_096  # keys and values of two micro-batches, until they have been stored


def test_memory_peaks(lab):
    """One layer's weights; hidden states of three micro-batches; two KV blocks of 36 x 450 tokens.

    The widest point of a layer: two choices of gate, up, product and output, and two hidden states.
    Cache and weights are in pageable host memory; staging and hidden states are page-locked.
    """
    peaks = lab.build(FlexGen, 504, pinned=False, **S1).node.issuer.peak_bytes
    tokens, embeddings = 36 * 418, 2 * (2 * 131_072_000 + 4_096)
    workspace = tokens * (2 * (3 * 14_336 + 4_096) * 2 + 2 * 8_192)
    blocks = 2 * 36 * 450 * 4_096
    small = 36 * (12_288 + 8_192)
    gpu = embeddings + ATTENTION + FFN + workspace + 3 * tokens * 8_192 + NEW_KV + blocks + small
    assert peaks["gpu"] == pytest.approx(gpu, abs=20)
    locked = ATTENTION + FFN + 504 * 418 * 8_192 + blocks
    assert peaks["pinned"] == pytest.approx(locked, abs=20)
    cpu = 32 * (ATTENTION + FFN) + 504 * 450 * 4_096 * 32 + locked + small
    assert peaks["cpu"] == pytest.approx(cpu, abs=20)


def test_memory_of_hidden_states_that_stay(lab):
    """r_h = 1: all fourteen on the GPU and none on the host, nor a ring for those that move.

    r_h = 1/2: seven beside the ring of three.
    """
    moving, half, staying = (
        lab.build(FlexGen, 504, r_h=r_h, pinned=False, **S1).node.issuer.peak_bytes
        for r_h in (0.0, 0.5, 1.0)
    )
    hidden = 36 * 418 * 8_192
    assert half["gpu"] - moving["gpu"] == 7 * hidden
    assert staying["gpu"] - moving["gpu"] == 11 * hidden
    assert moving["pinned"] - half["pinned"] == 7 * hidden
    assert moving["pinned"] - staying["pinned"] == 14 * hidden


def test_a_cache_on_the_gpu_needs_no_room_for_what_is_to_be_stored(lab):
    """r_c = 1: the whole cache, 504 x 450 tokens of 32 layers, and neither blocks nor new KV."""
    host, gpu = (
        lab.build(FlexGen, 504, r_c=r_c, pinned=False, **S1).node.issuer.peak_bytes
        for r_c in (0.0, 1.0)
    )
    cache = 504 * 450 * 4_096 * 32
    assert gpu["gpu"] - host["gpu"] == cache - NEW_KV - 2 * 36 * 450 * 4_096
    assert host["cpu"] - gpu["cpu"] == cache + 2 * 36 * 450 * 4_096
