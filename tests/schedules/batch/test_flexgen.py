"""FlexGen's zig-zag against its loops (`flex_opt.py`, `generation_loop_overlap_...`), by hand.

Its layers are attentions (small letters) and FFNs (capitals for their weights).
"""

import pytest

from schedules.batch.flexgen import FlexGen
from schedules.errors import BadInput

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
SECONDS = {"p": 1, "P": 2, "w": 1, "W": 3, "v": 1, "k": 2, "h": 1, "s": 1, "n": 1, "a": 2, "f": 2}


# -- decode, one GPU ----------------------------------------------------------------------------


def test_issue_order(lab):
    """load_weight(next layer), load_cache(next), store_hidden(previous), load_hidden(next),
    compute, store_cache(previous); an attention's last micro-batch is followed by the FFN's first.

    The first attention's hidden states are looked up, not loaded.
    """
    loops = """
        v0a k0a
        P0a W0a v0b k0b         a0a
                v0c k0c s0a     a0b n0a
                        s0b h0a a0c n0b
        p1a w1a         s0c h0b f0a n0c
                        s0a h0c f0b
                v1a k1a s0b h1a f0c
        P1a W1a v1b k1b s0c h1b a1a
                v1c k1c s1a h1c a1b n1a
                        s1b h1a a1c n1b
        p0a w0a         s1c h1b f1a n1c
                        s1a h1c f1b
                        s1b     f1c
                        s1c
    """
    graph = lab.decode(lab.build(FlexGen, 3, pinned=False))
    assert lab.order(graph, OPS) == loops.split()


def test_a_barrier_ends_every_iteration(lab):
    """After each of 2 x 2 x 3 iterations, after the epilogue, and at the end of the step."""
    graph = lab.decode(lab.build(FlexGen, 3, pinned=False))
    order = lab.order(graph, OPS)
    after = [order[wait.position - 1] for wait in graph.waits]
    assert after == "a0a n0a n0b n0c f0b f0c a1a n1a n1b n1c f1b f1c s1c s1c".split()
    lanes = [{graph.streams[graph.stream[i]] for i in wait.tasks} for wait in graph.waits]
    assert lanes[0] == {"h2d", "gpu"}  # no store has been issued yet
    assert all(lane == {"h2d", "gpu", "d2h"} for lane in lanes[1:-1])


def test_decode_step_with_pageable_weights(lab):
    """The issuing thread pins weights and KV itself, so a0a is issued only at 4.

    Weights move in a layer's first iteration alone, which therefore lasts longest: 1-8, 13-16,
    22-30, 36-39. In the third iteration n0b waits for the barrier at 11, not for its turn.
    """
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14
        host | v0a P0a --- v0b ... ... ... ... v0c ... ... ... ... p1a ...
        h2d  | ... k0a --- W0a --- --- k0b --- ... k0c --- h0a ... ... w1a
        gpu  | ... ... ... ... a0a --- ... ... ... a0b --- a0c --- ... f0a
        d2h  | ... ... ... ... ... ... ... ... ... s0a n0a s0b n0b ... s0c

        s    | 15  16  17  18  19  20  21  22  23  24  25  26  27  28  29
        host | ... ... ... v1a ... ... ... P1a --- v1b ... ... ... ... ...
        h2d  | h0b h0c ... ... k1a --- h1a ... ... W1a --- --- k1b --- h1b
        gpu  | --- f0b --- ... f0c --- ... ... ... ... a1a --- ... ... ...
        d2h  | n0c s0a ... ... s0b ... ... ... ... ... s0c ... ... ... ...

        s    | 30  31  32  33  34  35  36  37  38  39  40  41  42  43
        host | v1c ... ... ... ... ... p0a ... ... ... ... ... ... ...
        h2d  | ... k1c --- h1c h1a ... ... w0a h1b h1c ... ... ... ...
        gpu  | ... a1b --- ... a1c --- ... f1a --- f1b --- f1c --- ...
        d2h  | ... s1a n1a ... s1b n1b ... s1c n1c s1a ... s1b ... s1c
    """
    lab.check(lab.decode(lab.build(FlexGen, 3, pinned=False)), OPS, SECONDS, picture)


def test_a_single_micro_batch_loads_its_own_hidden_states(lab):
    """`generation_loop_overlap_single_batch`: the cache comes a layer ahead, hidden states do not.

    With one micro-batch the FFN's iteration loads the next attention's cache.
    """
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12
        host | v0a ... ... ... ... ... v1a ... ... ... ... ... ...
        h2d  | ... k0a --- W0a --- --- w1a k1a --- h0a ... ... ...
        gpu  | ... ... ... a0a --- ... ... ... ... ... f0a --- ...
        d2h  | ... ... ... ... ... s0a ... n0a ... ... ... ... s0a

        s    | 13  14  15  16  17  18  19  20  21  22  23  24
        host | ... ... ... ... ... ... ... ... ... ... ... ...
        h2d  | W1a --- --- h1a ... ... ... w0a h1a ... ... ...
        gpu  | ... ... ... ... a1a --- ... ... ... f1a --- ...
        d2h  | ... ... ... ... ... ... s1a n1a ... ... ... s1a
    """
    graph = lab.decode(lab.build(FlexGen, 1, pinned=True))
    lab.check(graph, OPS, SECONDS, picture)


def test_new_keys_and_values_leave_while_the_next_cache_comes(lab):
    """FlexGen writes new keys and values to a buffer of their own (`cache_write_buf`).

    In the second iteration s0a and n0a need 1 s each, next to 9 s for k0c: they do not wait for it.
    """
    graph = lab.decode(lab.build(FlexGen, 3, pinned=True))
    bars, _ = lab.simulate(graph, OPS, SECONDS | {"k": 9})
    (k0c,) = [bar for bar in bars if bar[3] == "k0c"]
    (n0a,) = [bar for bar in bars if bar[3] == "n0a"]
    assert n0a[1:3] == (k0c[1] + 1, k0c[1] + 2)


# -- prefill, one GPU ---------------------------------------------------------------------------


def test_prefill_with_page_locked_weights(lab):
    """No cache is loaded; the keys and values of a micro-batch are stored in the next iteration."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14
        h2d | w0a W0a --- --- ... ... h0a ... w1a h0b h0c ... h1a ... W1a
        gpu | ... a0a --- ... a0b --- a0c --- f0a --- f0b --- f0c --- a1a
        d2h | ... ... ... ... s0a n0a s0b n0b s0c n0c s0a ... s0b ... s0c

        s   | 15  16  17  18  19  20  21  22  23  24  25  26  27  28
        h2d | --- --- h1b h1c ... h1a ... w0a h1b h1c ... ... ... ...
        gpu | --- ... ... a1b --- a1c --- f1a --- f1b --- f1c --- ...
        d2h | ... ... ... s1a n1a s1b n1b s1c n1c s1a ... s1b ... s1c
    """
    lab.check(lab.prefill(lab.build(FlexGen, 3, pinned=True)), OPS, SECONDS, picture)
