"""Pre-gated MoE: the copies of the next block's experts overlap; worked out by hand."""

import pytest

from schedules.errors import BadInput
from schedules.expert.on_demand import OnDemand
from schedules.expert.pre_gated import PreGated
from tests.schedules.expert.scripted import EXPERT, TWO, Scripted

OPS = {
    "a": "compute_attention",
    "g": "gate",
    "p": "pre_gate",
    "x": "load_expert",
    "e": "experts",
    "s": "synchronise",
    "f": "compute_ffn",
}
SECONDS = {"a": 2, "g": 1, "p": 1, "x": 2, "e": 1, "s": 1, "f": 1}


def build(lab, kind=PreGated, n=1, routing=TWO, prompts=(1,), **changes):
    policy = {"sync": False} | changes
    return lab.build(kind, n, mu=n, routing=routing, prompts=prompts, **policy)


def test_ideal_decode_step(lab):
    """The first block is serial; layer 1's experts arrive while layer 0 computes and beyond."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11
        h2d | ... ... ... x0a --- x0a --- x1a --- x1a --- ...
        gpu | a0a --- g0a p1a ... ... ... e0a a1a --- ... e1a
    """
    graph = lab.decode(build(lab))
    lab.check_order(graph, OPS, "a0a g0a x0a x0a p1a x1a x1a e0a  a1a e1a")
    lab.check(graph, OPS, SECONDS, picture)


def test_as_the_authors_system_does_it(lab):
    """Reading ids back waits for the copies too; the thread works after that, and after an FFN."""
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14
        host | ... ... ... s0a ... ... ... ... s1a ... s0a ... ... ... s1a
        h2d  | ... ... ... ... x0a --- x0a --- ... x1a --- x1a --- ... ...
        gpu  | a0a --- g0a ... p1a ... ... ... ... e0a ... a1a --- e1a ...
    """
    lab.check(lab.decode(build(lab, sync=None)), OPS, SECONDS, picture)


def test_activation_levels(lab):
    """Level k: the first k blocks have their own gate, and the last k none that looks ahead."""
    script = {(s, i): [[i, i + 1]] for s in (0, 1) for i in range(4)}
    routing = Scripted(script=script)
    orders = {
        1: "a0a g0a x0a x0a p1a x1a x1a e0a a1a p2a x2a x2a e1a a2a p3a x3a x3a e2a a3a e3a",
        2: "a0a g0a x0a x0a p2a x2a x2a e0a a1a g1a x1a x1a p3a x3a x3a e1a a2a e2a a3a e3a",
        3: "a0a g0a x0a x0a p3a x3a x3a e0a a1a g1a x1a x1a e1a a2a g2a x2a x2a e2a a3a e3a",
    }
    for level, order in orders.items():
        schedule = build(lab, routing=routing, layers=4, level=level)
        lab.check_order(lab.decode(schedule), OPS, order)


def test_the_gpu_holds_the_experts_of_two_blocks(lab):
    """On-demand has room for the two of one token, and 20 B for its choices; here twice that."""
    ours, theirs = (build(lab, kind).node.issuer.peak_bytes["gpu"] for kind in (PreGated, OnDemand))
    assert ours - theirs == 2 * EXPERT + 2 * 2 * (8 + 2)


def test_a_cache_spares_copies_and_keeps_what_is_about_to_be_computed(lab):
    """Four slots: the step after the prompt finds all four experts, in both schedules.

    Two slots: the first block's experts fill them, and must stay until they have been computed, so
    the next block's are streamed; in the step after, the first block's are hits again.
    """
    for kind in (PreGated, OnDemand):
        schedule = build(lab, kind, cache_ratio=0.25)
        assert lab.moved(lab.prefill(schedule)) == {"h2d": 4 * EXPERT}
        schedule.run_decode_step(1)
        assert lab.moved(schedule.node.issuer.take()) == {}
        assert schedule.facts() == {"hit_rate": 0.5}
    schedule = build(lab, cache_ratio=0.125)
    assert lab.moved(lab.decode(schedule)) == {"h2d": 2 * EXPERT}
    assert schedule.facts() == {"hit_rate": 0.25}


def test_an_encoder_has_its_own_gates(lab):
    """Switch-Base-8, four layers: 1 and 3 have experts; in the encoder nothing looks ahead."""
    script = {(0, 1): [[4]], (0, 3): [[1]], (1, 1): [[6]], (1, 3): [[0]]}
    changes = {"model": "switch-base-8", "layers": 4, "routing": Scripted(script=script)}
    ops = OPS | {"a": "prefill_attention"}
    prefill = lab.prefill(build(lab, **changes))
    lab.check_order(prefill, ops, "a0a f0a a1a g1a x1a e1a a2a f2a a3a g3a x3a e3a")
    decode = lab.decode(build(lab, **changes))
    lab.check_order(decode, OPS, "a0a f0a a1a g1a x1a p3a x3a e1a a2a f2a a3a e3a")


def test_limits(lab):
    with pytest.raises(BadInput, match="level = 2: 'mixtral-8x7b-2l' has 2 decoder layers with"):
        build(lab, level=2)
    with pytest.raises(BadInput, match="unknown cache policy 'lur', did you mean 'lru'"):
        build(lab, cache="lur", cache_ratio=0.5)
