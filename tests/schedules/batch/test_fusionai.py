"""FusionAI's pipeline over slow links: timelines by hand, and what decides its period.

Two stages of one layer each and three micro-batches of one sequence, unless a test says otherwise.
"""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.batch.flexgen import FlexGen
from schedules.batch.fusionai import FusionAI, turns
from schedules.errors import BadInput
from schedules.model_presets import load_model
from sim import simulate
from sim.cost import Roofline
from sim.hardware import load_hardware
from tests.schedules.conftest import Lab

OPS = {"c": "compute_layer", "h": "send_hidden", "t": "send_tokens"}
PREFILL = OPS | {"c": "prefill_layer", "k": "cross_keys"}


def pipeline(lab, n=3, **changes):
    return lab.build(FusionAI, n, **({"mu": 1, "gpus": 2} | changes))


# -- timelines -------------------------------------------------------------------------------------


def test_decode_step_where_computation_decides(lab):
    """Stage 1 begins with c, which entered in the step before; then it follows one turn behind.

    Stage 1 waits once, for a, which travels from 2 to 3; from then on both compute all the time.
    """
    picture = """
        s    | 0   1   2   3   4   5   6   7
        gpu0 | c0a --- c0b --- c0c --- ... ...
        gpu1 | c1c --- ... c1a --- c1b --- ...
        d2h0 | ... ... h0a ... h0b ... h0c ...
        d2h1 | ... ... t1c ... ... t1a ... t1b
    """
    graph = lab.decode(pipeline(lab))
    lab.check_order(graph, OPS, "c0a h0a c1c t1c c0b h0b c1a t1a c0c h0c c1b t1b")
    lab.check(graph, OPS, {"c": 2, "h": 1, "t": 1}, picture)


def test_decode_step_where_the_network_decides(lab):
    """A message takes three times as long as a stage; the link of stage 0 never rests."""
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9
        gpu0 | c0a c0b c0c ... ... ... ... ... ... ...
        gpu1 | c1c ... ... ... c1a ... ... c1b ... ...
        d2h0 | ... h0a --- --- h0b --- --- h0c --- ---
        d2h1 | ... t1c ... ... ... t1a ... ... t1b ...
    """
    lab.check(lab.decode(pipeline(lab)), OPS, {"c": 1, "h": 3, "t": 1}, picture)


def test_with_enough_micro_batches_neither_stage_ever_waits(lab):
    """Five for two stages: stage 1 begins with d and e, so a has arrived before its turn."""
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10
        gpu0 | c0a --- c0b --- c0c --- c0d --- c0e --- ...
        gpu1 | c1d --- c1e --- c1a --- c1b --- c1c --- ...
        d2h0 | ... ... h0a ... h0b ... h0c ... h0d ... h0e
        d2h1 | ... ... t1d ... t1e ... t1a ... t1b ... t1c
    """
    lab.check(lab.decode(pipeline(lab, 5)), OPS, {"c": 2, "h": 1, "t": 1}, picture)


def test_prefill_fills_and_drains_the_pipeline(lab):
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9
        gpu0 | c0a --- c0b --- c0c --- ... ... ... ...
        gpu1 | ... ... ... c1a --- c1b --- c1c --- ...
        d2h0 | ... ... h0a ... h0b ... h0c ... ... ...
        d2h1 | ... ... ... ... ... t1a ... t1b ... t1c
    """
    lab.check(lab.prefill(pipeline(lab)), PREFILL, {"c": 2, "h": 1, "t": 1}, picture)


def test_messages_of_different_pairs_do_not_wait_for_each_other(lab):
    """Four stages of one layer, a message as long as a stage: all links work at the same time."""
    graph = lab.decode(pipeline(lab, 8, gpus=4, layers=4))
    bars, _ = lab.simulate(graph, OPS, {"c": 2, "h": 2, "t": 2})
    sending = Counter(start for lane, start, _, _ in bars if lane.startswith("d2h"))
    assert sending == {2.0 * turn: 4 for turn in range(1, 9)}
    assert not any(lane == "peer" for lane, *_ in bars)


def test_an_encoder_s_output_goes_on_around(lab):
    """Two layers in each stack: stage 1 keeps the outputs of two micro-batches until stage 0 is
    free, so that their prompts follow one another closely."""
    graph = lab.prefill(pipeline(lab, model="switch-base-8"))
    order = "c0a h0a c1a  c0b h0b c1b  c0c h0c c1c  k1a h1a k0a  k1b h1b k0b  k1c h1c k0c"
    lab.check_order(graph, PREFILL, order)


def test_one_gpu_sends_nothing(lab):
    for model in ("mixtral-8x7b", "switch-base-8"):
        schedule = pipeline(lab, gpus=1, model=model)
        assert lab.moved(lab.prefill(schedule)) == {}
        schedule.run_decode_step(1)
        graph = schedule.node.issuer.take()
        lab.check_order(graph, OPS, "c0a c1a c0b c1b c0c c1c")


# -- the order of a step ---------------------------------------------------------------------------


@given(micro_batches=st.integers(1, 40), stages=st.integers(1, 9))
def test_each_micro_batch_passes_each_stage_once_in_each_step(micro_batches, stages):
    found = list(turns(micro_batches, stages))
    every = {(stage, j) for stage in range(stages) for j in range(micro_batches)}
    assert len(found) == len(every)
    assert set(found) == every


@given(micro_batches=st.integers(1, 40), stages=st.integers(2, 9))
def test_in_the_steady_state_stages_follow_one_another(micro_batches, stages):
    """In two steps: between two visits of stage 0, a micro-batch has passed all stages in order."""
    twice = [*turns(micro_batches, stages)] * 2
    for j in range(micro_batches):
        visits = [turn.stage for turn in twice if turn.micro_batch == j]
        first = visits.index(0)
        assert visits[first : first + stages] == list(range(stages))


# -- what decides the period -----------------------------------------------------------------------


@given(
    micro_batches=st.integers(1, 20),
    stages=st.sampled_from([2, 4]),
    compute=st.integers(1, 9),
    message=st.integers(1, 9),
)
def test_law_of_the_period(micro_batches, stages, compute, message):
    """A step takes max(computation, message) for each micro-batch, or the way around the stages.

    Its end costs nothing where the way around decides, the shorter of the two from 2 S
    micro-batches on, and at most both between.
    """
    graph = Lab.decode(Lab.build(FusionAI, micro_batches, mu=1, gpus=stages, layers=stages))
    _, run = Lab.simulate(graph, OPS, {"c": compute, "h": message, "t": message})
    each = (compute, message)
    steady = max(micro_batches * max(each), stages * sum(each))
    end = 0 if micro_batches <= stages else min(each) if micro_batches >= 2 * stages else sum(each)
    assert steady <= run.makespan_s <= steady + end


QUESTION = ("mtbench", 3, 128, 4)  # 32 micro-batches of four


def lan(factor):
    return load_hardware("rtx3080x8-lan").with_rate("links.peer", factor)


def test_law_slow_links_decide_by_themselves():
    """A hundredth of gigabit Ethernet: 4 x 7168 x 2 B at 1.176 MB/s, and 60 us, for each message.

    The 32 messages of a step follow one another without a pause on every link.
    """
    found = simulate("fusionai", load_model("opt-30b").with_layers(8), lan(0.01), *QUESTION)
    message = 4 * 7_168 * 2 / 1.176e6 + 60e-6
    assert found.tpot_s / 32 == pytest.approx(message, rel=0.01)
    slower = simulate("fusionai", load_model("opt-30b").with_layers(16), lan(0.01), *QUESTION)
    assert slower.tpot_s == pytest.approx(found.tpot_s, rel=0.01), "twice the computation"


def test_law_fast_links_leave_the_slowest_stage_to_decide():
    """The last one, which has the head; a network ten times as fast changes nothing."""
    model = load_model("opt-30b").with_layers(16)
    found = simulate("fusionai", model, lan(100), *QUESTION)
    faster = simulate("fusionai", model, lan(1_000), *QUESTION)
    assert faster.tpot_s == pytest.approx(found.tpot_s, rel=0.01)
    frame = found.timeline(steps=[1]).frame
    busy = (frame["end_s"] - frame["start_s"]).groupby(frame["stream"]).sum()
    assert busy.idxmax() == "gpu7"
    assert found.tpot_s == pytest.approx(busy["gpu7"], rel=0.01)


def test_a_message_costs_the_network_s_latency():
    """Not that of a copy call, 6 us: 60 us, and 28,672 B at 117.6 MB/s."""
    machine = load_hardware("rtx3080x8-lan")
    schedule = Lab.build(FusionAI, 2, mu=2, model="opt-30b")
    work = schedule.node.work.copy("peer", 2 * 7_168 * 2)
    assert Roofline(machine, 8).seconds(work) == pytest.approx(60e-6 + 28_672 / 117.6e6)
    assert Roofline(machine, 8).seconds(schedule.node.work.copy("h2d", 0)) == 6e-6


def test_tokens_of_eight_gpus_by_hand():
    """OPT-30B on eight RTX 3080, 16 sequences one by one: each stage reads six layers.

    Weights of a layer 12 x 7168^2 x 2 B = 1.233 GB, of six 7.4 GB at 695 GB/s: 10.6 ms, and 0.2 ms
    of cache and launches; the last stage reads the head too, 0.72 GB: 1.0 ms. A message takes 0.18
    ms. So 16 tokens take 16 x 11.9 ms = 0.19 s.
    """
    found = simulate("fusionai", "opt-30b", "rtx3080x8-lan", "mtbench", 3, 16, 1)
    layer = 12 * 7_168**2 * 2
    by_hand = 16 * ((6 * layer + 50_272 * 7_168 * 2) / 695e9 + 0.2e-3)
    assert found.tpot_s == pytest.approx(by_hand, rel=0.05)


# -- limits ----------------------------------------------------------------------------------------


def test_micro_batches_are_as_small_as_asked_for(lab):
    """FlexGen splits each over its turns, and so needs a sequence for each stage."""
    assert [batch.size for batch in pipeline(lab, 4).node.batches] == [1, 1, 1, 1]
    flexgen = lab.build(FlexGen, 4, mu=1, gpus=2)
    assert [batch.size for batch in flexgen.node.batches] == [2, 2]


def test_limits(lab):
    with pytest.raises(BadInput, match=r"needs a layer for each of 4 GPUs; model .* has 3"):
        pipeline(lab, gpus=4, layers=3)
    with pytest.raises(BadInput, match=r"has no use for r_w = 0.5; it takes N, mu$"):
        pipeline(lab, r_w=0.5)
