"""An SSD tier under a schedule: timelines worked out by hand, and what cannot be."""

from dataclasses import replace

import pytest

from schedules.batch.cgopipe import CGOPipe
from schedules.errors import BadInput
from schedules.expert import OnDemand
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from sim.cost import Roofline
from sim.generation import Generation
from sim.scenario import place
from tests.schedules.expert.test_on_demand import ONE
from tests.schedules.ssd_runs import REFUSE, build, scenario

ON_DEMAND = {
    "a": "compute_attention",
    "g": "gate",
    "r": "read_weights",
    "x": "load_expert",
    "e": "experts",
}
PREFILL = ON_DEMAND | {"a": "prefill_attention"}
CGOPIPE = {
    "q": "pre_attention",
    "o": "offload_qkv",
    "t": "cpu_attention",
    "r": "read_weights",
    "p": "pin_weights",
    "h": "load_hidden",
    "w": "load_weights",
    "f": "post_attention",
}
SLOW_DISK = {"a": 1, "g": 1, "r": 3, "x": 2, "e": 1}
SLOW_LINK = {"a": 1, "g": 1, "r": 2, "x": 3, "e": 1}
PAGES = {"q": 1, "o": 1, "t": 1, "r": 3, "p": 1, "h": 1, "w": 2, "f": 1}


def on_demand(ssd, **policy):
    return build(OnDemand, ssd, n=1, where={"routing": ONE}, sync=False, **policy)


# -- timelines -------------------------------------------------------------------------------------


def test_on_demand_serial(lab):
    """The copying thread reads, then copies: each of a layer's two experts takes 3 + 2 s."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12
        h2d | ... ... r0a --- --- x0a --- r0a --- --- x0a --- ...
        gpu | a0a g0a ... ... ... ... ... ... ... ... ... ... e0a

        s   | 13  14  15  16  17  18  19  20  21  22  23  24  25
        h2d | ... ... r1a --- --- x1a --- r1a --- --- x1a --- ...
        gpu | a1a g1a ... ... ... ... ... ... ... ... ... ... e1a
    """
    lab.check(lab.decode(on_demand("serial")), ON_DEMAND, SLOW_DISK, picture)


def test_on_demand_overlapped(lab):
    """The second expert is read while the first is copied: 3 + 3 + 2 s for the two."""
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10
        disk | ... ... r0a --- --- r0a --- --- ... ... ...
        h2d  | ... ... ... ... ... x0a --- ... x0a --- ...
        gpu  | a0a g0a ... ... ... ... ... ... ... ... e0a

        s    | 11  12  13  14  15  16  17  18  19  20  21
        disk | ... ... r1a --- --- r1a --- --- ... ... ...
        h2d  | ... ... ... ... ... x1a --- ... x1a --- ...
        gpu  | a1a g1a ... ... ... ... ... ... ... ... e1a
    """
    lab.check(lab.decode(on_demand("overlapped")), ON_DEMAND, SLOW_DISK, picture)


def test_there_are_two_slots(lab):
    """Four experts of layer 0, copied in 3 s each: the third is read when the first slot is free,
    at 7, and from there on a copy ends every max(2, 3) s."""
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12  13
        disk | ... ... r0a --- r0a --- ... r0a --- ... r0a --- ... ...
        h2d  | ... ... ... ... x0a --- --- x0a --- --- x0a --- --- x0a
        gpu  | a0a g0a ... ... ... ... ... ... ... ... ... ... ... ...

        s    | 14  15  16  17  18  19  20  21  22  23  24  25  26  27
        disk | ... ... ... ... ... r1a --- r1a --- ... ... ... ... ...
        h2d  | --- --- ... ... ... ... ... x1a --- --- x1a --- --- ...
        gpu  | ... ... e0a a1a g1a ... ... ... ... ... ... ... ... e1a
    """
    lab.check(lab.prefill(on_demand("overlapped")), PREFILL, SLOW_LINK, picture)


def test_cgopipe_serial(lab):
    """Page-locked staging: reads stand before their pages on h2d, and hold up hidden states."""
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12
        h2d  | ... ... ... h0a r1a --- --- w1a --- h0b r1b --- ---
        gpu  | q0a q0b ... ... f0a q1a ... ... ... ... f0b q1b ...
        d2h  | ... o0a o0b ... ... ... o1a ... ... ... ... ... o1b
        cpu  | ... ... t0a t0b ... ... ... t1a ... ... ... ... ...

        s    | 13  14  15  16  17  18  19  20  21  22  23  24  25  26
        h2d  | w1b --- h1a r0a --- --- w0a --- h1b r0b --- --- w0b ---
        gpu  | ... ... ... f1a ... ... ... ... ... f1b ... ... ... ...
        d2h  | ... ... ... ... ... ... ... ... ... ... ... ... ... ...
        cpu  | t1b ... ... ... ... ... ... ... ... ... ... ... ... ...
    """
    lab.check(lab.decode(build(CGOPipe, "serial", pinned=True)), CGOPIPE, PAGES, picture)


def test_cgopipe_overlapped(lab):
    """The disk is busy from 0 to 12; each page is copied while the next one is read."""
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12  13
        disk | r1a --- --- r1b --- --- r0a --- --- r0b --- --- ... ...
        h2d  | ... ... ... h0a w1a --- h0b w1b --- h1a w0a --- h1b w0b
        gpu  | q0a q0b ... ... f0a q1a ... f0b q1b ... f1a ... ... f1b
        d2h  | ... o0a o0b ... ... ... o1a ... ... o1b ... ... ... ...
        cpu  | ... ... t0a t0b ... ... ... t1a ... ... t1b ... ... ...

        s    | 14
        h2d  | ---
    """
    lab.check(lab.decode(build(CGOPipe, "overlapped", pinned=True)), CGOPIPE, PAGES, picture)


def test_cgopipe_reads_before_it_pins(lab):
    """Pageable weights, serial: a page takes the thread that pins 3 + 1 s, and h2d is free."""
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17
        pin  | r1a --- --- p1a r1b --- --- p1b r0a --- --- p0a r0b --- --- p0b ... ...
        h2d  | ... ... ... h0a w1a --- h0b ... w1b --- h1a ... w0a --- h1b ... w0b ---
        gpu  | q0a q0b ... ... f0a q1a ... f0b q1b ... ... f1a ... ... ... f1b ... ...
        d2h  | ... o0a o0b ... ... ... o1a ... ... o1b ... ... ... ... ... ... ... ...
        cpu  | ... ... t0a t0b ... ... ... t1a ... ... t1b ... ... ... ... ... ... ...
    """
    lab.check(lab.decode(build(CGOPipe, "serial", pinned=False)), CGOPIPE, PAGES, picture)


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REFUSE))
def test_schedules_with_a_place_of_their_own_refuse(name):
    with pytest.raises(BadInput, match=rf"'{name}' decides by itself where weights lie; leave the"):
        build(find_schedule(name), "serial", mu=2)


def test_a_machine_without_a_disk():
    asked = scenario("serial")
    links = {name: rate for name, rate in asked.hardware.links.items() if name != "disk"}
    bare = asked.hardware.model_copy(update={"disk": None, "links": links, "name": "bare"})
    wanted = r"modifier 'ssd' needs a disk, and hardware 'bare' has none; give it .*gcp-t4-24c"
    with pytest.raises(BadInput, match=wanted):
        place(replace(asked, hardware=bare), OnDemand, make_policy({"N": 1, "mu": 1}))


def test_steps_stay_alike():
    """Three pages of three layers: an odd number of reads, so steps begin with different slots."""
    schedule = build(CGOPipe, "overlapped", n=3, where={"layers": 3})
    assert Generation(schedule, Roofline(scenario("overlapped").hardware)).alike
