"""Prefetch-all, and the decoder's experts resident: worked out by hand."""

from schedules.expert.decoder_resident import DecoderResident
from schedules.expert.on_demand import OnDemand
from schedules.expert.prefetch_all import PrefetchAll
from tests.schedules.expert.scripted import EXPERT, TWO

OPS = {
    "a": "compute_attention",
    "w": "load_weights",
    "f": "compute_ffn",
    "g": "gate",
    "e": "experts",
    "s": "synchronise",
}
SECONDS = {"a": 2, "w": 4, "f": 1, "g": 1, "e": 1, "s": 1}


def build(lab, kind=PrefetchAll, **changes):
    return lab.build(kind, 1, mu=1, routing=TWO, prompts=(1,), **{"sync": False} | changes)


def test_ideal_decode_step(lab):
    """The copy of the first block is exposed, that of the second begins when there is one more
    place; a third would wait until the first has been computed."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8
        h2d | w0a --- --- --- w1a --- --- --- ...
        gpu | a0a --- ... ... f0a a1a --- ... f1a
    """
    graph = lab.decode(build(lab))
    lab.check_order(graph, OPS, "w0a a0a w1a f0a a1a f1a")
    lab.check(graph, OPS, SECONDS, picture)


def test_as_it_was_measured(lab):
    """The gate is read back all the same, which waits for the block's copy."""
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12
        host | ... ... ... ... s0a ... s0a ... ... ... s1a ... s1a
        h2d  | w0a --- --- --- ... w1a --- --- --- ... ... ... ...
        gpu  | a0a --- g0a ... ... e0a ... a1a --- g1a ... e1a ...
    """
    lab.check(lab.decode(build(lab, sync=True)), OPS, SECONDS, picture)


def test_bytes_and_memory(lab):
    """All 8 experts of each layer, whatever the token takes; room for those of two layers."""
    schedule = build(lab)
    assert lab.moved(lab.decode(schedule)) == {"h2d": 2 * 8 * EXPERT}
    on_demand = build(lab, OnDemand).node.issuer.peak_bytes["gpu"]
    assert schedule.node.issuer.peak_bytes["gpu"] - on_demand == (2 * 8 - 2) * EXPERT


def test_resident_experts_do_not_move(lab):
    schedule = build(lab, DecoderResident)
    graph = lab.decode(schedule)
    lab.check_order(graph, OPS, "a0a f0a a1a f1a")
    assert lab.moved(graph) == {}
    on_demand = build(lab, OnDemand).node.issuer.peak_bytes["gpu"]
    assert schedule.node.issuer.peak_bytes["gpu"] - on_demand == (2 * 8 - 2) * EXPERT
    order = "a0a g0a s0a e0a s0a a1a g1a s1a e1a s1a"
    lab.check_order(lab.decode(build(lab, DecoderResident, sync=True)), OPS, order)
