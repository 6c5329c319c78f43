"""SiDA: the next batch's hash table is built while this one runs; worked out by hand."""

import pytest

from schedules.expert.sida import ACCURACY, SiDA
from tests.schedules.expert.by_micro_batch import Scripted

OPS = {
    "p": "predict",
    "q": "predict_experts",
    "c": "load_choices",
    "x": "load_expert",
    "a": "compute_attention",
    "e": "experts",
    "f": "compute_ffn",  # of a layer without experts
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"p": 2, "q": 1, "c": 1, "x": 2, "a": 2, "e": 1}


def build(lab, n=1, routing=None, **changes):
    return lab.build(SiDA, n, routing=routing, **{"mu": n} | changes)


ONE = Scripted(
    script={
        (0, 0, 0): [[0, 1], [2, 3], [1, 3]],  # three prompt tokens
        (0, 1, 0): [[6, 7], [6, 7], [7, 6]],
        (1, 0, 0): [[5, 2]],  # 2 and 7 are there already
        (1, 1, 0): [[7, 0]],
        (2, 0, 0): [[0, 5]],
        (2, 1, 0): [[1, 6]],
    }
)
TWO = Scripted(  # nothing is there already
    script={
        (0, 0, 0): [[0, 1]],
        (0, 1, 0): [[0, 1]],
        (0, 0, 1): [[2, 3]],
        (0, 1, 1): [[2, 3]],
        (1, 0, 0): [[4, 5]],
        (1, 1, 0): [[4, 5]],
        (1, 0, 1): [[6, 7]],
        (1, 1, 1): [[6, 7]],
    }
)


# -- order and time --------------------------------------------------------------------------------


def test_issue_order_of_one_batch(lab):
    """Predictor, hash table to the GPU, missing experts, layers; routers never run."""
    schedule = build(lab, prompts=(3,), routing=ONE)
    prefill = "pa q0a q1a  ca  x0a x0a x0a x0a x1a x1a  a0a e0a a1a e1a"
    lab.check_order(lab.prefill(schedule), PREFILL, prefill)
    schedule.run_decode_step(1)
    decode = schedule.node.issuer.take()
    lab.check_order(decode, OPS, "pa q0a q1a  ca  x0a x1a  a0a e0a a1a e1a")


def test_decode_step_of_one_batch(lab):
    """Its token is known when the step before has ended: predictor, loads and layers take turns."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14
        h2d | ... ... ... ... ca  x0a --- x1a --- ... ... ... ... ... ...
        gpu | ... ... ... ... ... ... ... ... ... a0a --- e0a a1a --- e1a
        cpu | pa  --- q0a q1a ... ... ... ... ... ... ... ... ... ... ...
    """
    graph = lab.decode(build(lab, prompts=(3,), routing=ONE))
    lab.check(graph, OPS, SECONDS, picture)


def test_decode_step_layer_by_layer(lab):
    """The first layer runs as soon as the hash table and its own expert are there."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10
        h2d | ... ... ... ... ca  x0a --- x1a --- ... ...
        gpu | ... ... ... ... a0a --- ... e0a a1a --- e1a
        cpu | pa  --- q0a q1a ... ... ... ... ... ... ...
    """
    graph = lab.decode(build(lab, prompts=(3,), routing=ONE, per_layer=True))
    lab.check(graph, OPS, SECONDS, picture)


def test_prefill(lab):
    """The prompt takes 0 to 3 in layer 0, and 6 and 7 in layer 1."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16
        h2d | ... ... ... ... ca  x0a x0a x0a x0a x1a x1a ... ... ... ... ... ...
        gpu | ... ... ... ... ... ... ... ... ... ... ... a0a --- e0a a1a --- e1a
        cpu | pa  --- q0a q1a ... ... ... ... ... ... ... ... ... ... ... ... ...
    """
    graph = lab.prefill(build(lab, prompts=(3,), routing=ONE))
    lab.check(graph, PREFILL, SECONDS | {"x": 1}, picture)


def test_the_next_batch_is_predicted_while_this_one_runs(lab):
    """Batch a waits for its hash table; that of b is built meanwhile.

    Loads of b begin when a has ended, as the authors' code waits for the GPU after each batch.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14
        h2d | ... ... ... ... ca  x0a x0a x1a x1a ... ... ... ... ... ...
        gpu | ... ... ... ... ... ... ... ... ... a0a --- e0a a1a --- e1a
        cpu | pa  --- q0a q1a pb  --- q0b q1b ... ... ... ... ... ... ...
        s   | 15  16  17  18  19  20  21  22  23  24  25
        h2d | cb  x0b x0b x1b x1b ... ... ... ... ... ...
        gpu | ... ... ... ... ... a0b --- e0b a1b --- e1b
    """
    graph = lab.decode(build(lab, 2, TWO, mu=1, prompts=(1,)))
    lab.check(graph, OPS, SECONDS | {"x": 1}, picture)


def test_layer_by_layer_a_layer_is_loaded_when_the_batch_before_has_passed_it(lab):
    """Experts of b overwrite those of a: x1b may begin when e1a has ended."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16
        h2d | ... ... ... ... ca  x0a x0a x1a x1a cb  x0b x0b x1b x1b ... ... ...
        gpu | ... ... ... ... a0a --- ... e0a a1a --- e1a a0b --- e0b a1b --- e1b
        cpu | pa  --- q0a q1a pb  --- q0b q1b ... ... ... ... ... ... ... ... ...
    """
    graph = lab.decode(build(lab, 2, TWO, mu=1, prompts=(1,), per_layer=True))
    lab.check(graph, OPS, SECONDS | {"x": 1}, picture)


# -- which experts ---------------------------------------------------------------------------------


def copies(schedule, step):
    """Experts copied in a step, in all layers."""
    schedule.run_decode_step(step)
    graph = schedule.node.issuer.take()
    return int((graph.op == graph.ops.index("load_expert")).sum())


def test_experts_that_a_batch_does_not_need_leave(lab):
    """Step 1 keeps 2 and 7, loads 5 and 0; step 2 keeps 5 alone and loads 0, 1 and 6."""
    schedule = build(lab, prompts=(3,), routing=ONE)
    lab.prefill(schedule)
    assert copies(schedule, 1) == 2
    assert set(schedule.residents.cache.slots) == {(0, 5), (0, 2), (1, 7), (1, 0)}
    assert copies(schedule, 2) == 3
    assert set(schedule.residents.cache.slots) == {(0, 0), (0, 5), (1, 1), (1, 6)}
    counts = schedule.residents.cache.counts
    assert (counts.hits, counts.misses) == (3, 6 + 2 + 3)
    assert schedule.facts() == {"hit_rate": 3 / 14, "wrong_share": pytest.approx(0.04)}


def test_with_a_budget_the_first_in_leave_first(lab):
    """Half of 2 x 8 experts. Prefill brings six, step 1 the expert 5 and 0: all eight are full.

    Step 2 finds 0 of layer 0 and 6 of layer 1 still there; its third, 1, evicts the oldest.
    """
    schedule = build(lab, prompts=(3,), routing=ONE, cache_ratio=0.5)
    lab.prefill(schedule)
    assert copies(schedule, 1) == 2
    assert len(schedule.residents.cache.slots) == 8
    assert copies(schedule, 2) == 1
    assert (0, 1) not in schedule.residents.cache.slots
    assert (0, 0) in schedule.residents.cache.slots  # older, but needed


def test_what_has_no_room_comes_at_its_layer_s_turn(lab):
    """Room for two: layer 1's experts have none, and are copied while layer 0 computes."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12
        h2d | ... ... ... ... ca  x0a x0a x1a x1a ... ... ... ...
        gpu | ... ... ... ... ... ... ... a0a --- e0a a1a --- e1a
        cpu | pa  --- q0a q1a ... ... ... ... ... ... ... ... ...
    """
    script = {(0, i, 0): [[4, 6]] for i in (0, 1)} | {(1, i, 0): [[0, 5]] for i in (0, 1)}
    schedule = build(lab, prompts=(1,), routing=Scripted(script=script), cache_ratio=2 / 16)
    lab.check(lab.decode(schedule), OPS, SECONDS | {"x": 1}, picture)


def test_wrong_predictions_cost_accuracy_and_no_time(lab):
    """The share is what is stated, else the published mean; the timeline stays the same."""
    published = [99.00, 97.41, 91.74, 98.78, 98.65, 90.49]
    assert round(sum(published) / len(published) / 100, 3) == ACCURACY
    runs = [build(lab, prompts=(3,), routing=ONE, accuracy=a) for a in (0.5, 1.0)]
    assert [run.facts()["wrong_share"] for run in runs] == [0.5, 0.0]
    times = [lab.simulate(lab.decode(run), OPS, SECONDS)[1].makespan_s for run in runs]
    assert times == [15.0, 15.0]
