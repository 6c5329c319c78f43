"""FlexGen on two GPUs: pipeline stages that take turns (FlexGen, section 4.4), by hand.

Four sequences in micro-batches of two; each micro-batch is cut into two parts of one sequence, and
a stage runs one part of both micro-batches in each turn. Stage 0 has layer 0, stage 1 the rest.
"""

from schedules.batch.flexgen import FlexGen
from schedules.batch.flexgen_cpu import FlexGenCPU

OPS = {
    "p": "pin_weights",
    "P": "pin_weights (ffn)",
    "w": "load_weights",
    "W": "load_weights (ffn)",
    "v": "pin_kv",
    "k": "load_kv",
    "n": "store_kv",
    "h": "load_hidden",
    "s": "store_hidden",
    "a": "compute_attention",
    "f": "compute_ffn",
    "x": "send_hidden",
}
SECONDS = {"p": 1, "P": 2, "w": 1, "W": 3, "a": 2, "f": 2, "x": 1}
ON_GPU = {"r_c": 1.0, "r_h": 1.0, "r_w": 0.6}  # only one tensor of each layer's weights travels


def pipeline(lab, kind=FlexGen, **changes):
    return lab.build(kind, 4, **({"mu": 2, "gpus": 2} | changes))


def test_decode_step_keeps_both_stages_busy(lab):
    """Two turns of 14 s. In the first, stage 1 still has the second part of the step before.

    Each process pins its own weights, which stream in anew in every turn; then hidden states are
    exchanged, one direction after the other.
    """
    picture = """
        s     | 0   1   2   3   4   5   6   7   8   9   10  11  12  13
        host0 | P0  --- ... ... ... ... ... p0  ... ... ... ... ... ...
        host1 | P1  --- ... ... ... ... ... p1  ... ... ... ... ... ...
        h2d0  | ... ... W0  --- --- ... ... ... w0  ... ... ... ... ...
        h2d1  | ... ... W1  --- --- ... ... ... w1  ... ... ... ... ...
        gpu0  | ... ... a0a --- ... a0b --- ... f0a --- f0b --- ... ...
        gpu1  | ... ... a1a --- ... a1b --- ... f1a --- f1b --- ... ...
        peer  | ... ... ... ... ... ... ... ... ... ... ... ... x   x

        s     | 14  15  16  17  18  19  20  21  22  23  24  25  26  27
        host0 | P0  --- ... ... ... ... ... p0  ... ... ... ... ... ...
        host1 | P1  --- ... ... ... ... ... p1  ... ... ... ... ... ...
        h2d0  | ... ... W0  --- --- ... ... ... w0  ... ... ... ... ...
        h2d1  | ... ... W1  --- --- ... ... ... w1  ... ... ... ... ...
        gpu0  | ... ... a0a --- ... a0b --- ... f0a --- f0b --- ... ...
        gpu1  | ... ... a1a --- ... a1b --- ... f1a --- f1b --- ... ...
        peer  | ... ... ... ... ... ... ... ... ... ... ... ... x   x
    """
    lab.check(lab.decode(pipeline(lab, pinned=False, **ON_GPU)), OPS, SECONDS, picture)


def test_prefill_fills_and_drains_the_pipeline(lab):
    """Three turns: stage 0 alone, both, stage 1 alone; only the stages that ran send."""
    picture = """
        s     | 0   1   2   3   4   5   6   7   8   9   10
        h2d0  | w0  W0  --- --- ... ... w0  ... ... ... ...
        h2d1  | w1  ... ... ... ... ... ... ... ... ... ...
        gpu0  | ... a0a --- ... a0b --- f0a --- f0b --- ...
        peer  | ... ... ... ... ... ... ... ... ... ... x

        s     | 11  12  13  14  15  16  17  18  19  20  21
        h2d0  | W0  --- --- ... ... w0  ... ... ... ... ...
        h2d1  | W1  --- --- ... ... w1  ... ... ... ... ...
        gpu0  | a0a --- ... a0b --- f0a --- f0b --- ... ...
        gpu1  | a1a --- ... a1b --- f1a --- f1b --- ... ...
        peer  | ... ... ... ... ... ... ... ... ... x   x

        s     | 22  23  24  25  26  27  28  29  30  31
        h2d1  | W1  --- --- ... ... w1  ... ... ... ...
        gpu1  | a1a --- ... a1b --- f1a --- f1b --- ...
        peer  | ... ... ... ... ... ... ... ... ... x
    """
    lab.check(lab.prefill(pipeline(lab, pinned=True, **ON_GPU)), OPS, SECONDS, picture)


def test_each_process_pins_its_first_weights_itself(lab):
    bars, _ = lab.simulate(
        lab.prefill(pipeline(lab, pinned=False, **ON_GPU)), OPS, SECONDS | {"p": 5}
    )
    first = [bar for bar in bars if bar[0].startswith("host")]
    assert ("host0", 0, 5, "p0") in first
    assert ("host1", 0, 5, "p1") in first


def test_hidden_states_are_sent_after_they_have_been_computed(lab):
    """Three layers: stage 0 has one, stage 1 two, so stage 0 waits in every turn.

    Sending and receiving block: stage 0 receives first, so nothing is sent before stage 1 is ready.
    Stage 0 takes 3 + 2 + 2 + 2 = 9 s a turn; stage 1 twice that, 18 s, then two sends.
    """
    graph = lab.decode(pipeline(lab, pinned=True, layers=3, **ON_GPU))
    bars, _ = lab.simulate(graph, OPS, SECONDS)
    assert [bar[1:3] for bar in bars if bar[0] == "peer"] == [
        (18, 19),
        (19, 20),
        (38, 39),
        (39, 40),
    ]
    assert [bar[1] for bar in bars if bar[0] == "gpu0"] == [0, 3, 5, 7, 20, 23, 25, 27]


def test_stages_take_the_parts_in_turn(lab):
    """Prompts of 40, 30, 20 and 10 tokens, dealt to micro-batches (40, 10) and (30, 20).

    Part 0 has the first of each, 40 and 30; part 1 the second, 10 and 20. In step 1 stage 0 runs
    part 0, then 1; stage 1 part 1 (of the step before), then 0. Keys and values: 2 x 2048 B each.
    """
    graph = lab.decode(pipeline(lab, prompts=(40, 30, 20, 10), **(ON_GPU | {"r_c": 0.0})))
    first = [tokens * 2_048 for tokens in (40, 40, 30, 30)]
    second = [tokens * 2_048 for tokens in (10, 10, 20, 20)]
    assert lab.sizes(graph, "load_kv", "h2d0") == first + second
    assert lab.sizes(graph, "load_kv", "h2d1") == second + first


def test_the_parts_know_their_requests(lab):
    """Prompts of 10, 20, 30 and 40 tokens: micro-batches of requests (3, 0) and (2, 1)."""
    stage = pipeline(lab, prompts=(10, 20, 30, 40)).stages[0]
    assert [[batch.requests for batch in part] for part in stage.parts] == [
        [(3,), (2,)],
        [(0,), (1,)],
    ]
    assert [[b.prompt_lengths for b in part] for part in stage.parts] == [
        [(40,), (30,)],
        [(10,), (20,)],
    ]


def test_four_stages_take_the_parts_in_turn(lab):
    """Part i reaches stage r in turn i + r: stage 1 starts with part 3 of the step before."""
    changes = ON_GPU | {"mu": 4, "gpus": 4, "layers": 4, "r_c": 0.0}
    graph = lab.decode(pipeline(lab, prompts=(40, 30, 20, 10), **changes))
    for lane, parts in {
        "h2d0": (40, 30, 20, 10),
        "h2d1": (10, 40, 30, 20),
        "h2d2": (20, 10, 40, 30),
        "h2d3": (30, 20, 10, 40),
    }.items():
        keys_and_values = [tokens * 2_048 for tokens in parts for _ in range(2)]
        assert lab.sizes(graph, "load_kv", lane) == keys_and_values


def test_bytes_of_a_step(lab):
    """Weights stream in anew for each of the two turns; all else as on one GPU.

    Each stage stores 2 x 16 times the hidden states of all sequences, and loads them 31 times.
    """
    s1 = {"layers": 32, "prompts": (418,), "gen_len": 32}
    graph = lab.decode(lab.build(FlexGen, 504, mu=36, gpus=2, pinned=True, **s1))
    layer = 2 * (41_943_040 + 4_096 + 8 * 3 * 4_096 * 14_336 + 8 * 4_096 + 4_096)
    weights = [sum(lab.sizes(graph, "load_weights", lane)) for lane in ("h2d0", "h2d1")]
    assert [round(each) for each in weights] == [2 * 16 * layer] * 2
    assert sum(lab.sizes(graph, "load_kv")) == 504 * 418 * 4_096 * 32
    assert sum(lab.sizes(graph, "store_kv")) == 504 * 4_096 * 32
    assert sum(lab.sizes(graph, "store_hidden")) == 2 * 32 * 504 * 8_192
    assert sum(lab.sizes(graph, "load_hidden")) == 2 * 31 * 504 * 8_192


def test_each_process_has_its_share_of_the_cores(lab):
    graph = lab.decode(pipeline(lab, FlexGenCPU))
    at = [i for i in range(len(graph)) if graph.ops[graph.op[i]] == "cpu_attention"]
    assert {graph.streams[graph.stream[i]] for i in at} == {"cpu0", "cpu1"}
    assert {graph.works[graph.work[i]].share for i in at} == {0.5}
