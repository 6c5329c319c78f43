"""CGOPipe's order with A_g = 1: the KV cache travels in place of the hidden states."""

from schedules.batch.cgopipe import CGOPipe

OPS = {
    "p": "pin_weights",
    "k": "load_kv",
    "w": "load_weights",
    "c": "compute_layer",
    "n": "store_kv",  # the new keys and values
}


def test_issue_order(lab):
    """The cache is prefetched two micro-batches ahead, as attention is with A_g = 0."""
    order = """
        k0a p1a  k0b p1b
        w1a c0a n0a  k0c p1c
        w1b c0b n0b  k1a p0a
        w1c c0c n0c  k1b p0b
        w0a c1a n1a  k1c p0c
        w0b c1b n1b
        w0c c1c n1c
    """
    lab.check_order(lab.decode(lab.build(CGOPipe, 3, A_g=1)), OPS, order)


def test_pages_and_kv_share_the_link(lab):
    """Keys and values take turns with the pages, as hidden states do with A_g = 0.

    w0a waits until c0c (11) leaves layer 0's slot, and for its turn behind k1b.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19  20
        pin | p1a --- p1b --- p1c --- p0a --- p0b --- ... p0c --- ... ... ... ... ... ... ... ...
        h2d | k0a --- k0b --- w1a k0c --- w1b k1a --- w1c k1b --- w0a k1c --- w0b w0c ... ... ...
        gpu | ... ... c0a --- --- c0b --- --- c0c --- --- c1a --- --- c1b --- --- c1c --- --- ...
        d2h | ... ... ... ... ... n0a ... ... n0b ... ... n0c ... ... n1a ... ... n1b ... ... n1c
    """
    graph = lab.decode(lab.build(CGOPipe, 3, A_g=1))
    lab.check(graph, OPS, {"p": 2, "k": 2, "w": 1, "c": 3, "n": 1}, picture)


def test_three_blocks_are_as_far_as_the_prefetch_goes(lab):
    """A layer takes 4 s: k1a waits until n0a (6) has left its block, k1b for n0b, k1c for n0c."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12
        pin | p1a p1b p1c p0a ... p0b ... ... p0c ... ... ... ...
        h2d | k0a k0b w1a k0c w1b ... k1a w1c ... ... k1b ... ...
        gpu | ... c0a --- --- --- c0b --- --- --- c0c --- --- ---
        d2h | ... ... ... ... ... n0a ... ... ... n0b ... ... ...

        s   | 13  14  15  16  17  18  19  20  21  22  23  24  25
        pin | ... ... ... ... ... ... ... ... ... ... ... ... ...
        h2d | w0a k1c w0b w0c ... ... ... ... ... ... ... ... ...
        gpu | c1a --- --- --- c1b --- --- --- c1c --- --- --- ...
        d2h | n0c ... ... ... n1a ... ... ... n1b ... ... ... n1c
    """
    graph = lab.decode(lab.build(CGOPipe, 3, A_g=1))
    lab.check(graph, OPS, {"p": 1, "k": 1, "w": 1, "c": 4, "n": 1}, picture)


def test_with_one_micro_batch_two_blocks_take_turns(lab):
    """k1a goes into the second block while the first is in use; nothing waits for a block."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9
        pin | p1a ... ... p0a ... ... ... ... ... ...
        h2d | k0a --- w1a k1a --- w0a ... ... ... ...
        gpu | ... ... c0a --- --- c1a --- --- ... ...
        d2h | ... ... ... ... ... n0a ... ... n1a ...
    """
    graph = lab.decode(lab.build(CGOPipe, 1, A_g=1))
    lab.check(graph, OPS, {"p": 1, "k": 2, "w": 1, "c": 3, "n": 1}, picture)


def test_bytes_of_a_step(lab):
    """Step 2 reads the 418 + 1 tokens that are cached, 4096 B each, and stores one per sequence."""
    s1 = {"mu": 36, "layers": 32, "prompts": (418,), "gen_len": 32, "A_g": 1}
    graph = lab.decode(lab.build(CGOPipe, 504, **s1), step=2)
    assert lab.sizes(graph, "load_kv") == [36 * 419 * 4_096] * 448
    assert lab.moved(graph) == {
        "pin": 90_194_313_216,
        "h2d": 90_194_313_216,
        "h2d_pageable": 504 * 419 * 4_096 * 32,
        "d2h_pageable": 504 * 4_096 * 32,
    }


def test_page_locked_host_memory_needs_no_staging(lab):
    graph = lab.decode(lab.build(CGOPipe, 3, A_g=1, pinned=True, prompts=(100,)))
    assert lab.moved(graph) == {
        "h2d": 2 * 2_818_572_288 + 2 * 3 * 100 * 4_096,
        "d2h": 2 * 3 * 4_096,
    }


def test_a_share_of_the_cache_stays_on_the_gpu(lab):
    """r_c = 1/4: three quarters travel; blocks have room for (100 + 8) tokens of 4096 B."""
    policy = {"A_g": 1, "pinned": True, "prompts": (100,), "gen_len": 8}
    graph = lab.decode(lab.build(CGOPipe, 3, r_c=0.25, **policy))
    assert lab.sizes(graph, "load_kv") == [0.75 * 100 * 4_096] * 6
    assert lab.sizes(graph, "store_kv") == [0.75 * 4_096] * 6
    without, quarter = (
        lab.build(CGOPipe, 3, r_c=r_c, **policy).node.issuer.peak_bytes for r_c in (0.0, 0.25)
    )
    block = 108 * 4_096
    assert quarter["gpu"] - without["gpu"] == 2 * 3 * block / 4 - 3 * block / 4
    assert without["cpu"] - quarter["cpu"] == 2 * 3 * block / 4


def test_with_the_whole_cache_on_the_gpu_no_keys_and_values_move(lab):
    graph = lab.decode(lab.build(CGOPipe, 3, A_g=1, r_c=1.0))
    order = "p1a p1b  w1a c0a p1c  w1b c0b p0a  w1c c0c p0b  w0a c1a p0c  w0b c1b  w0c c1c"
    lab.check_order(graph, OPS, order)
