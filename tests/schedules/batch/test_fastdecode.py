"""FastDecode*: CGOPipe with the next layer's weights as one block (MoE-Lightning, figure 6)."""

import pytest

from schedules.batch.cgopipe import CGOPipe
from schedules.batch.fastdecode import FastDecode
from schedules.errors import BadInput

OPS = {
    "q": "pre_attention",
    "o": "offload_qkv",
    "t": "cpu_attention",
    "p": "pin_weights",
    "h": "load_hidden",
    "w": "load_weights",
    "f": "post_attention",
}


def test_issue_order(lab):
    """CGOPipe's, but the block is pinned and copied at the first micro-batch of each layer."""
    order = """
        q0a o0a t0a  q0b o0b t0b
        h0a p1 w1 f0a  q0c o0c t0c
        h0b f0b        q1a o1a t1a
        h0c f0c        q1b o1b t1b
        h1a p0 w0 f1a  q1c o1c t1c
        h1b f1b
        h1c f1c
    """
    lab.check_order(lab.decode(lab.build(FastDecode, 3)), OPS, order)


def test_later_hidden_states_queue_behind_the_block(lab):
    """h0b is ready at 6 but waits for w1 until 9; h1b is ready at 19 but waits for w0 until 21.

    p0 waits for w1 to leave the staging (9), w0 for f0c to leave layer 0's slot (15) and for its
    turn behind h1a (17).
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12
        pin | p1  --- --- --- ... ... ... ... ... p0  --- --- ---
        h2d | ... ... ... ... h0a w1  --- --- --- h0b ... h0c ...
        gpu | q0a q0b ... ... ... f0a --- q0c ... ... f0b --- q1a
        d2h | ... o0a o0b ... ... ... ... ... o0c ... ... ... ...
        cpu | ... ... t0a --- t0b --- ... ... ... t0c --- ... ...

        s   | 13  14  15  16  17  18  19  20  21  22  23  24  25
        pin | ... ... ... ... ... ... ... ... ... ... ... ... ...
        h2d | ... ... ... h1a w0  --- --- --- h1b ... h1c ... ...
        gpu | f0c --- q1b ... f1a --- q1c ... ... f1b --- f1c ---
        d2h | o1a ... ... o1b ... ... ... o1c ... ... ... ... ...
        cpu | ... t1a --- ... t1b --- ... ... t1c --- ... ... ...
    """
    seconds = {"q": 1, "o": 1, "t": 2, "p": 4, "h": 1, "w": 4, "f": 2}
    lab.check(lab.decode(lab.build(FastDecode, 3)), OPS, seconds, picture)


def test_pages_are_what_sets_cgopipe_apart(lab):
    """The same seconds on every lane, but a page is a third of the block: 17 s instead of 19.

    Under CGOPipe a hidden state waits for one page at most, as h0b from 4 to 5 for w1a; here h0b
    waits from 4 to 7 for w1, and h1b from 14 to 16 for w0.
    """
    paged = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16
        pin | p1a p1b p1c ... ... p0a ... p0b ... ... p0c ... ... ... ... ... ...
        h2d | ... ... ... h0a w1a h0b w1b ... h0c w1c h1a w0a ... h1b w0b h1c w0c
        gpu | q0a q0b ... ... f0a q0c f0b q1a ... f0c q1b f1a q1c ... f1b ... f1c
        d2h | ... o0a o0b ... ... ... o0c ... o1a ... ... o1b ... o1c ... ... ...
        cpu | ... ... t0a t0b ... ... ... t0c ... t1a ... ... t1b ... t1c ... ...
    """
    whole = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18
        pin | p1  --- --- ... ... ... ... p0  --- --- ... ... ... ... ... ... ... ... ...
        h2d | ... ... ... h0a w1  --- --- h0b h0c ... ... ... h1a w0  --- --- h1b h1c ...
        gpu | q0a q0b ... ... f0a q0c ... ... f0b q1a f0c q1b ... f1a q1c ... ... f1b f1c
        d2h | ... o0a o0b ... ... ... o0c ... ... ... o1a ... o1b ... ... o1c ... ... ...
        cpu | ... ... t0a t0b ... ... ... t0c ... ... ... t1a ... t1b ... ... t1c ... ...
    """
    page = {"q": 1, "o": 1, "t": 1, "p": 1, "h": 1, "w": 1, "f": 1}
    lab.check(lab.decode(lab.build(CGOPipe, 3)), OPS, page, paged)
    lab.check(lab.decode(lab.build(FastDecode, 3)), OPS, page | {"p": 3, "w": 3}, whole)


def test_with_one_micro_batch_the_block_still_comes_after_the_hidden_states(lab):
    graph = lab.decode(lab.build(FastDecode, 1))
    lab.check_order(graph, OPS, "q0a o0a t0a h0a p1 w1 f0a q1a o1a t1a h1a p0 w0 f1a")


def test_prefill_and_memory_are_those_of_cgopipe(lab):
    first, second = lab.build(CGOPipe, 5, mu=2), lab.build(FastDecode, 5, mu=2)
    assert lab.prefill(second).same_structure(lab.prefill(first))
    assert second.node.issuer.peak_bytes == first.node.issuer.peak_bytes


def test_bytes_and_tasks_of_a_step(lab):
    """As CGOPipe's in sum, in 32 blocks of a layer's experts; 5 x 14 + 2 tasks per layer."""
    s1 = {"mu": 36, "layers": 32, "prompts": (418,), "gen_len": 32}
    graph = lab.decode(lab.build(FastDecode, 504, **s1))
    assert lab.sizes(graph, "pin_weights") == [2_818_572_288] * 32
    assert lab.sizes(graph, "load_weights") == [2_818_572_288] * 32
    assert lab.moved(graph) == {
        "pin": 90_194_313_216,
        "h2d": 90_194_313_216 + 132_120_576,
        "d2h": 198_180_864,
    }
    assert len(graph) == 32 * (5 * 14 + 2)


def test_page_locked_weights_need_no_pinning(lab):
    order = lab.order(lab.decode(lab.build(FastDecode, 3, pinned=True)), OPS)
    assert [name for name in order if name[0] in "pw"] == ["w1", "w0"]


def test_attention_is_on_the_cpu(lab):
    with pytest.raises(BadInput, match="has no use for A_g = 1"):
        lab.build(FastDecode, A_g=1)
