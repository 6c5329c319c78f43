"""EdgeMoE: experts from the disk in few bits, preloaded along activation paths; by hand."""

import pytest

from schedules.errors import BadInput
from schedules.expert.edgemoe import EdgeMoEOffloading
from sim import simulate
from sim.hardware import load_hardware
from tests.schedules.expert.scripted import EXPERT, Scripted

OPS = {
    "a": "compute_attention",
    "g": "gate",
    "r": "read_expert",
    "x": "load_expert",
    "e": "experts",
    "f": "compute_ffn",
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"a": 2, "g": 1, "r": 2, "x": 1, "e": 1, "f": 1}

# The caches hold four experts: those of layer 1, after three tokens of prompt. Who takes 0 and 1
# goes on to 4 and 5, who takes 2 and 3, to 6 and 7.
PROMPT = {(0, 0): [[0, 1], [0, 1], [2, 3]], (0, 1): [[4, 5], [4, 5], [6, 7]]}


def build(lab, first, second, **changes):
    routing = Scripted(script=PROMPT | {(1, 0): [first], (1, 1): [second]})
    return lab.build(
        EdgeMoEOffloading, 1, routing=routing, **{"prompts": (3,), "gen_len": 2} | changes
    )


def test_prefill(lab):
    """Nothing has been learned of layer 1 before it runs. Disk and link take turns by expert."""
    order = (
        "a0a g0a r0a x0a r0a x0a r0a x0a r0a x0a e0a a1a g1a r1a x1a r1a x1a r1a x1a r1a x1a e1a"
    )
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12
        disk | ... ... ... r0a --- r0a --- r0a --- r0a --- ... ...
        h2d  | ... ... ... ... ... x0a ... x0a ... x0a ... x0a ...
        gpu  | a0a --- g0a ... ... ... ... ... ... ... ... ... e0a
        s    | 13  14  15  16  17  18  19  20  21  22  23  24  25
        disk | ... ... ... r1a --- r1a --- r1a --- r1a --- ... ...
        h2d  | ... ... ... ... ... x1a ... x1a ... x1a ... x1a ...
        gpu  | a1a --- g1a ... ... ... ... ... ... ... ... ... e1a
    """
    graph = lab.prefill(build(lab, [0, 1], [4, 7]))
    lab.check_order(graph, PREFILL, order)
    lab.check(graph, PREFILL, SECONDS, picture)


def test_decode_step(lab):
    """0 and 1 take the places of 4 and 5 (all were used once; those came first). The path from 0
    and 1 leads to 4 and 5: 4 comes back while layer 0 computes, in the place of 6; 7 is there.
    """
    picture = """
        s    | 0   1   2   3   4   5   6   7   8   9   10  11  12
        disk | ... ... ... r0a --- r0a --- r1a --- ... ... ... ...
        h2d  | ... ... ... ... ... x0a ... x0a ... x1a ... ... ...
        gpu  | a0a --- g0a ... ... ... ... ... e0a a1a --- g1a e1a
    """
    schedule = build(lab, [0, 1], [4, 7])
    graph = lab.decode(schedule)
    lab.check_order(graph, OPS, "a0a g0a r0a x0a r0a x0a e0a r1a x1a a1a g1a e1a")
    lab.check(graph, OPS, SECONDS, picture)
    assert schedule.facts() == {"hit_rate": 2 / 12, "wrong_prefetch_share": 0}


def test_a_wrong_preload_delays_the_right_one(lab):
    """4 was preloaded; 3 is named, and its read waits for nothing but the disk."""
    schedule = build(lab, [0, 1], [3, 7])
    graph = lab.decode(schedule)
    lab.check_order(graph, OPS, "a0a g0a r0a x0a r0a x0a e0a r1a x1a a1a g1a r1a x1a e1a")
    slow = {"r": 9}  # reads end at 12, 21 and 30; the gate of layer 1 ends at 26
    bars, _ = lab.simulate(graph, OPS, SECONDS | slow)
    assert [bar[1:3] for bar in bars if bar[3] == "r1a"] == [(21, 30), (30, 39)]
    assert schedule.facts()["wrong_prefetch_share"] == 1


def test_preload_says_how_many_for_each_token(lab):
    graph = lab.decode(build(lab, [0, 1], [4, 7], preload=2))
    lab.check_order(graph, OPS, "a0a g0a r0a x0a r0a x0a e0a r1a x1a r1a x1a a1a g1a r1a x1a e1a")


# -- amounts and memory ----------------------------------------------------------------------------

PARAMETERS = 3 * 4_096 * 14_336  # of an expert


def test_bits(lab):
    """Experts have 2, 4 and 8 bits in turn: 0 to 3 in the prefill of layer 0, 4 to 7 of layer 1."""
    graph = lab.prefill(build(lab, [0, 1], [4, 7]))
    bits = [2, 4, 8, 2, 4, 8, 2, 4]
    assert lab.sizes(graph, "read_expert") == [b * PARAMETERS / 8 for b in bits]
    assert lab.sizes(graph, "load_expert") == lab.sizes(graph, "read_expert")


def test_experts_are_written_out_in_the_model_s_format(lab):
    """Experts 4 and 7, of 4 bits both: half a byte of each parameter is read, two are written."""
    schedule = build(lab, [0, 1], [4, 7])
    graph = lab.decode(schedule)
    work = schedule.node.work
    plain = work.join(work.routed_experts(schedule.blocks[1], 1, (1, 1)), work.head(1))
    found = graph.works[graph.work[-1]]
    assert found.bytes["gpu"] - plain.bytes["gpu"] == 2 * 2.5 * PARAMETERS
    assert found.calls - plain.calls == 2


RESIDENT = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)


def test_memory_peaks(lab):
    """The cache holds all 16 experts, in half of their size; one is written out. Host memory has
    two places of staging. Disk: 2 + 4 + 8 + 2 + 4 + 8 + 2 + 4 = 34 bits for eight experts.
    """
    peaks = lab.build(EdgeMoEOffloading, 4, mu=4, prompts=(100,)).node.issuer.peak_bytes
    workspace = 400 * (3 * 14_336 + 4_096) * 2 + 2 * 400 * 8_192
    small = 4 * 8_192 + 400 * 2 * (8 + 2) + 2 * 4 * 108 * 4_096
    assert peaks["gpu"] == RESIDENT + (16 / 2 + 1) * EXPERT + workspace + small
    assert peaks["cpu"] == peaks["pinned"] == 2 * EXPERT / 2
    assert peaks["disk"] == 2 * 34 * PARAMETERS / 8


def test_a_machine_without_a_disk_is_told():
    machine = load_hardware("gcp-t4-24c")
    links = {name: rate for name, rate in machine.links.items() if name != "disk"}
    bare = machine.model_copy(update={"disk": None, "links": links})
    with pytest.raises(BadInput, match=r"'edgemoe' keeps experts on a disk, and this machine has"):
        simulate("edgemoe", "mixtral-8x7b", bare, "mtbench", 3, 1, 1)


def test_a_token_of_mixtral_on_a_t4():
    """The disk decides: 3.12 GB/s, and 34 / 8 bits a parameter, 30.0 ms for an expert. A block
    needs two, and one more is preloaded; with uniform routing a fourth of these is right: 2.75
    experts, 82.5 ms, 32 times.
    """
    result = simulate("edgemoe", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 1, 1)
    expert_s = PARAMETERS * 34 / 8 / 8 / 3.12e9
    assert result.decode_s / 7 == pytest.approx(32 * 2.75 * expert_s, rel=0.1)


def test_a_token_of_switch_base_128_on_an_a100():
    """4.72e6 parameters of 14 / 3 bits, 2.75 MB: 0.39 ms from a disk of 7.1 GB/s, 0.12 ms over the
    link. Of six blocks five preload one expert, with uniform routing the wrong one: eleven reads,
    the last of which is copied after its read; the first waits for its gate (0.35 ms).
    """
    result = simulate("edgemoe", "switch-base-128", "a100-80g-epyc64", "mtbench", 8, 1, 1)
    size = 2 * 768 * 3072 * 14 / 3 / 8
    token_s = 11 * size / 7.1e9 + size / 23.5e9 + 0.4e-3
    assert result.decode_s / 8 == pytest.approx(token_s, rel=0.1)


# -- other models ----------------------------------------------------------------------------------


def test_an_encoder_s_experts_come_from_the_disk_on_demand(lab):
    script = {(0, 1): [[4], [4], [1]], (1, 1): [[6]]}
    changes = {"model": "switch-base-8", "prompts": (3,), "routing": Scripted(script=script)}
    prefill = lab.prefill(lab.build(EdgeMoEOffloading, 1, **changes))
    lab.check_order(prefill, PREFILL, "a0a f0a  a1a g1a r1a x1a r1a x1a e1a")
    decode = lab.decode(lab.build(EdgeMoEOffloading, 1, **changes))
    lab.check_order(decode, OPS, "a0a f0a  a1a g1a r1a x1a e1a")


def test_without_experts_everything_is_resident(lab):
    schedule = lab.build(EdgeMoEOffloading, 3, mu=3, model="opt-6.7b")
    lab.check_order(lab.decode(schedule), OPS, "a0a f0a a1a f1a")
    assert schedule.node.issuer.peak_bytes["disk"] == 0
